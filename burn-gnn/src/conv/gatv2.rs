//! Graph attention whose ranking of neighbours depends on the node.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::leaky_relu;
use burn::tensor::{Device, Tensor};

use super::gat::output_bias;
use super::{attend, dot_heads, join_heads};
use crate::GraphBatch;

/// Configuration of a [`GatV2Conv`].
#[derive(Config, Debug)]
pub struct GatV2ConvConfig {
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
    /// Slope of the LeakyReLU inside the score.
    #[config(default = 0.2)]
    pub negative_slope: f64,
    /// Whether the linear maps and the output have a bias.
    #[config(default = true)]
    pub bias: bool,
}

/// Graph attention (Brody et al., *How Attentive are Graph Attention Networks?*, 2022), as `GATv2Conv` of PyTorch
/// Geometric.
///
/// Per head, with `l = Θ_l x` and `r = Θ_r x`: `e_ij = ⟨a, LeakyReLU(l_j + r_i)⟩` for every edge `j → i`, `α = softmax`
/// of `e` over the incoming edges of `i`, `out_i = Σ_j α_ij l_j`. Build the batch with
/// [`SelfLoops::ReplaceOnce`](crate::SelfLoops::ReplaceOnce).
#[derive(Module, Debug)]
pub struct GatV2Conv {
    /// Θ_l, on sources: D → H·C.
    pub lin_l: Linear,
    /// Θ_r, on targets: D → H·C.
    pub lin_r: Linear,
    /// Attention vectors a, `[1, H, C]`.
    pub att: Param<Tensor<3>>,
    /// Bias, `[H·C]`, or `[C]` for averaged heads.
    pub bias: Option<Param<Tensor<1>>>,
    concat: bool,
    negative_slope: f64,
}

impl GatV2ConvConfig {
    /// A convolution with Glorot-uniform matrices and attention vectors, biases of the linear maps uniform in `±1/√D`,
    /// and output bias 0.
    pub fn init(&self, device: &Device) -> GatV2Conv {
        let (heads, width) = (self.heads, self.d_output);
        let glorot = Initializer::XavierUniform { gain: 1.0 };
        let linear = || {
            let mut linear = LinearConfig::new(self.d_input, heads * width).with_bias(self.bias).init(device);
            linear.weight =
                glorot.init_with([self.d_input, heads * width], Some(self.d_input), Some(heads * width), device);
            linear
        };
        GatV2Conv {
            lin_l: linear(),
            lin_r: linear(),
            att: glorot.init_with([1, heads, width], Some(heads), Some(width), device),
            bias: output_bias(self.bias, heads, width, self.concat, device),
            concat: self.concat,
            negative_slope: self.negative_slope,
        }
    }
}

impl GatV2Conv {
    /// Node vectors `[N, D]` to node vectors `[N, H·C]`, or `[N, C]` for averaged heads.
    pub fn forward(&self, x: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        self.forward_with_attention(x, graphs).0
    }

    /// As [`forward`](Self::forward), with the attention weights `[E, H]` in the order of the batch's edges.
    pub fn forward_with_attention(&self, x: Tensor<2>, graphs: &GraphBatch) -> (Tensor<2>, Tensor<2>) {
        let [_, heads, width] = self.att.dims();
        let left = self.lin_l.forward(x.clone());
        let right = self.lin_r.forward(x);
        let pairs = left.clone().select(0, graphs.source()) + right.select(0, graphs.target());
        let att = self.att.val().reshape([1, heads * width]);
        let scores = dot_heads(leaky_relu(pairs, self.negative_slope), att, heads);
        let (out, attention) = attend(scores, left, graphs);
        let out = join_heads(out, heads, self.concat);
        match &self.bias {
            Some(bias) => (out + bias.val().unsqueeze(), attention),
            None => (out, attention),
        }
    }
}
