//! Graph convolution with symmetric normalisation.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use super::propagate;
use crate::GraphBatch;
use crate::segment::segment_sum;

/// Configuration of a [`GcnConv`].
#[derive(Config, Debug)]
pub struct GcnConvConfig {
    /// Input width.
    pub d_input: usize,
    /// Output width.
    pub d_output: usize,
    /// Whether a bias is added to the output.
    #[config(default = true)]
    pub bias: bool,
}

/// Graph convolution (Kipf and Welling, *Semi-Supervised Classification with Graph Convolutional Networks*, 2017), as
/// `GCNConv` of PyTorch Geometric: `out = D^-½ A D^-½ X Θ + b`, with weights of [`gcn_norm`].
///
/// Build the batch with [`SelfLoops::ReplaceOnce`](crate::SelfLoops::ReplaceOnce); for weighted edges,
/// `graphs.edge_values(weights, 1.0, device)` gives an existing self-loop its weight and an added one 1.
#[derive(Module, Debug)]
pub struct GcnConv {
    /// Θ, without bias.
    pub lin: Linear,
    /// b, `[d_output]`.
    pub bias: Option<Param<Tensor<1>>>,
}

/// The weight of each edge `j → i` after symmetric normalisation, `[E]`: `w_ij / √(d_j d_i)` with `d_i` the sum of the
/// weights of the incoming edges of `i`; 0 where a degree is not above 0. `weights` `[E]` in the order of the batch's
/// edges; `None` for 1 each.
pub fn gcn_norm(graphs: &GraphBatch, weights: Option<Tensor<1>>, device: &Device) -> Tensor<1> {
    let (num_nodes, num_edges) = (graphs.num_nodes(), graphs.num_edges());
    let weights = weights.unwrap_or_else(|| Tensor::ones([num_edges], device));
    let degree = segment_sum(weights.clone().reshape([num_edges, 1]), graphs.target(), num_nodes).reshape([num_nodes]);
    let positive = degree.clone().greater_scalar(0.0);
    // The root is taken of harmless numbers only: its derivative at 0 is infinite.
    let inverse_root = degree.mask_fill(positive.clone().bool_not(), 1.0).sqrt().recip() * positive.float();
    inverse_root.clone().select(0, graphs.source()) * weights * inverse_root.select(0, graphs.target())
}

impl GcnConvConfig {
    /// A convolution with Glorot-uniform Θ and bias 0.
    pub fn init(&self, device: &Device) -> GcnConv {
        GcnConv {
            lin: LinearConfig::new(self.d_input, self.d_output)
                .with_bias(false)
                .with_initializer(Initializer::XavierUniform { gain: 1.0 })
                .init(device),
            bias: self.bias.then(|| Initializer::Zeros.init([self.d_output], device)),
        }
    }
}

impl GcnConv {
    /// Node vectors `[N, d_input]` to node vectors `[N, d_output]`; `weights` `[E]` as in [`gcn_norm`].
    pub fn forward(&self, x: Tensor<2>, graphs: &GraphBatch, weights: Option<Tensor<1>>) -> Tensor<2> {
        let norm = gcn_norm(graphs, weights, &x.device());
        let out = propagate(self.lin.forward(x), Some(norm), graphs);
        match &self.bias {
            Some(bias) => out + bias.val().unsqueeze(),
            None => out,
        }
    }
}
