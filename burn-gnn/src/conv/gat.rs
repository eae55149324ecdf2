//! Graph attention.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::leaky_relu;
use burn::tensor::{Device, Tensor};

use super::{attend, dot_heads, join_heads};
use crate::GraphBatch;

/// Configuration of a [`GatConv`].
#[derive(Config, Debug)]
pub struct GatConvConfig {
    /// Input width, D.
    pub d_input: usize,
    /// Width of one head, C.
    pub d_output: usize,
    /// Number of attention heads, H; at least 1.
    #[config(default = 1)]
    pub heads: usize,
    /// Whether heads stand side by side (output width H·C) or are averaged (output width C).
    #[config(default = true)]
    pub concat: bool,
    /// Slope of the LeakyReLU on attention scores.
    #[config(default = 0.2)]
    pub negative_slope: f64,
    /// Whether a bias is added to the output.
    #[config(default = true)]
    pub bias: bool,
}

/// Graph attention (Veličković et al., *Graph Attention Networks*, 2018), as `GATConv` of PyTorch Geometric.
///
/// Per head, with `h = Θ x`: `e_ij = LeakyReLU(⟨a_src, h_j⟩ + ⟨a_dst, h_i⟩)` for every edge `j → i`, `α = softmax` of
/// `e` over the incoming edges of `i`, `out_i = Σ_j α_ij h_j`; parallel edges count separately. Build the batch with
/// [`SelfLoops::ReplaceOnce`](crate::SelfLoops::ReplaceOnce).
#[derive(Module, Debug)]
pub struct GatConv {
    /// Θ, without bias: D → H·C.
    pub lin: Linear,
    /// Attention vectors of sources, `[1, H, C]`.
    pub att_src: Param<Tensor<3>>,
    /// Attention vectors of targets, `[1, H, C]`.
    pub att_dst: Param<Tensor<3>>,
    /// Bias, `[H·C]`, or `[C]` for averaged heads.
    pub bias: Option<Param<Tensor<1>>>,
    concat: bool,
    negative_slope: f64,
}

impl GatConvConfig {
    /// A convolution with Glorot-uniform weights (`±√(6/(D + H·C))` for Θ, `±√(6/(H + C))` for the attention vectors)
    /// and bias 0.
    pub fn init(&self, device: &Device) -> GatConv {
        let (heads, width) = (self.heads, self.d_output);
        let glorot = Initializer::XavierUniform { gain: 1.0 };
        let attention = || glorot.init_with([1, heads, width], Some(heads), Some(width), device);
        let lin = LinearConfig::new(self.d_input, heads * width).with_bias(false).with_initializer(glorot.clone());
        GatConv {
            lin: lin.init(device),
            att_src: attention(),
            att_dst: attention(),
            bias: output_bias(self.bias, heads, width, self.concat, device),
            concat: self.concat,
            negative_slope: self.negative_slope,
        }
    }
}

/// The bias after heads were joined, 0 at first.
pub(super) fn output_bias(
    bias: bool,
    heads: usize,
    width: usize,
    concat: bool,
    device: &Device,
) -> Option<Param<Tensor<1>>> {
    bias.then(|| Initializer::Zeros.init([if concat { heads * width } else { width }], device))
}

impl GatConv {
    /// Node vectors `[N, D]` to node vectors `[N, H·C]`, or `[N, C]` for averaged heads.
    pub fn forward(&self, x: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        self.forward_with_attention(x, graphs).0
    }

    /// As [`forward`](Self::forward), with the attention weights `[E, H]` in the order of the batch's edges.
    pub fn forward_with_attention(&self, x: Tensor<2>, graphs: &GraphBatch) -> (Tensor<2>, Tensor<2>) {
        let [_, heads, width] = self.att_src.dims();
        let h = self.lin.forward(x);
        let score = |vectors: &Param<Tensor<3>>| dot_heads(h.clone(), vectors.val().reshape([1, heads * width]), heads);
        let scores = score(&self.att_src).select(0, graphs.source()) + score(&self.att_dst).select(0, graphs.target());
        let (out, attention) = attend(leaky_relu(scores, self.negative_slope), h, graphs);
        let out = join_heads(out, heads, self.concat);
        match &self.bias {
            Some(bias) => (out + bias.val().unsqueeze(), attention),
            None => (out, attention),
        }
    }
}
