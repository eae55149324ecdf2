//! The transformer encoder over the tokens of one record.

use burn::config::Config;
use burn::module::{Flag, Initializer, Module, ModuleMapper, Param, ParamId};
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};

use crate::ops::{dropout, leaky_relu_dropout};

/// Configuration of a [`FusionEncoder`].
#[derive(Config, Debug)]
pub struct FusionEncoderConfig {
    /// Width of a token, H; a multiple of `heads`.
    pub d_model: usize,
    /// Number of layers.
    #[config(default = 2)]
    pub layers: usize,
    /// Attention heads.
    #[config(default = 4)]
    pub heads: usize,
    /// Width of the feed-forward part, F.
    #[config(default = 2048)]
    pub ff_width: usize,
    /// Dropout on attention weights, inside and after the feed-forward part, and after attention, in `[0, 1)`.
    #[config(default = 0.2)]
    pub dropout: f64,
    /// Start all layers from the same numbers.
    #[config(default = false)]
    pub identical_layer_init: bool,
}

/// A stack of post-norm transformer encoder layers without positions and without a mask, after `TransformerEncoder` of
/// PyTorch with its defaults (ReLU, ε 1e-5, no norm after the stack); parameter names are the same.
#[derive(Module, Debug)]
pub struct FusionEncoder {
    /// The layers.
    pub layers: Vec<FusionLayer>,
}

/// One layer: `x = LN₁(x + Drop(MHA(x)))`, then `x = LN₂(x + Drop(W₂·Drop(ReLU(W₁ x))))`.
#[derive(Module, Debug)]
pub struct FusionLayer {
    /// Attention.
    pub self_attn: SelfAttention,
    /// W₁: H → F.
    pub linear1: Linear,
    /// W₂: F → H.
    pub linear2: Linear,
    /// LN₁.
    pub norm1: LayerNorm,
    /// LN₂.
    pub norm2: LayerNorm,
    dropout: Dropout,
}

/// Multi-head scaled dot-product attention of tokens among themselves (Vaswani et al., *Attention Is All You Need*).
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Projections to queries, keys and values, one below the other as PyTorch stores them: `[3H, H]`.
    pub in_proj_weight: Param<Tensor<2>>,
    /// Their biases, `[3H]`.
    pub in_proj_bias: Param<Tensor<1>>,
    /// Output projection: H → H.
    pub out_proj: Linear,
    dropout: Dropout,
    heads: usize,
}

impl FusionEncoderConfig {
    /// An encoder with PyTorch's initial distributions: linear layers uniform in `±1/√fan_in`; the joined input
    /// projection Glorot-uniform as one matrix, `±√(6/(4H))`; biases of attention 0.
    pub fn init(&self, device: &Device) -> FusionEncoder {
        let mut layers: Vec<_> = (0..self.layers).map(|_| self.layer(device)).collect();
        if self.identical_layer_init
            && let Some((first, others)) = layers.split_first_mut()
        {
            others.fill_with(|| first.clone().map(&mut Renew));
        }
        FusionEncoder { layers }
    }

    fn layer(&self, device: &Device) -> FusionLayer {
        let h = self.d_model;
        let dropout = || DropoutConfig::new(self.dropout).init();
        let mut out_proj = LinearConfig::new(h, h).init(device);
        out_proj.bias = Some(Initializer::Zeros.init([h], device));
        FusionLayer {
            self_attn: SelfAttention {
                in_proj_weight: Initializer::XavierUniform { gain: 1.0 }.init_with(
                    [3 * h, h],
                    Some(h),
                    Some(3 * h),
                    device,
                ),
                in_proj_bias: Initializer::Zeros.init([3 * h], device),
                out_proj,
                dropout: dropout(),
                heads: self.heads,
            },
            linear1: LinearConfig::new(h, self.ff_width).init(device),
            linear2: LinearConfig::new(self.ff_width, h).init(device),
            norm1: LayerNormConfig::new(h).init(device),
            norm2: LayerNormConfig::new(h).init(device),
            dropout: dropout(),
        }
    }
}

/// Copies a module's values into parameters of their own. A plain clone would share identity, and with it gradients
/// and optimizer state.
struct Renew;

impl ModuleMapper for Renew {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::from_tensor(param.val().detach())
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        Param::initialized(ParamId::new(), flag.val())
    }
}

impl FusionEncoder {
    /// Tokens `[B, L, H]` to tokens `[B, L, H]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let length = x.dims()[1];
        self.layers.iter().fold(x, |x, layer| layer.forward(x, length))
    }

    /// The first token of [`forward`](Self::forward), `[B, H]`: the last layer computes nothing for the others.
    pub fn forward_first(&self, x: Tensor<3>) -> Tensor<2> {
        let [batch, length, width] = x.dims();
        let last = self.layers.len().saturating_sub(1);
        let layers = self.layers.iter().enumerate();
        let x = layers.fold(x, |x, (i, layer)| layer.forward(x, if i == last { 1 } else { length }));
        x.narrow(1, 0, 1).reshape([batch, width])
    }
}

impl FusionLayer {
    /// The first `queries` output tokens for input tokens `[B, L, H]`: `[B, queries, H]`.
    pub fn forward(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        let attended = self.self_attn.forward(x.clone(), queries);
        let x = self.norm1.forward(x.narrow(1, 0, queries) + dropout(&self.dropout, attended));
        let inner = leaky_relu_dropout(&self.dropout, self.linear1.forward(x.clone()), 0.0);
        let outer = dropout(&self.dropout, self.linear2.forward(inner));
        self.norm2.forward(x + outer)
    }
}

impl SelfAttention {
    /// The first `queries` output tokens for input tokens `[B, L, H]`: `[B, queries, H]`.
    pub fn forward(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        let [batch, _, width] = x.dims();
        let head = width / self.heads;
        let (weight, bias) = (self.in_proj_weight.val(), self.in_proj_bias.val());
        // Part 0 of the joined projection makes queries, part 1 keys, part 2 values.
        let project = |x: Tensor<3>, part: usize| {
            let tokens = x.dims()[1];
            let weight = weight.clone().narrow(0, part * width, width).transpose();
            let bias = bias.clone().narrow(0, part * width, width);
            let x = x.reshape([batch * tokens, width]).matmul(weight) + bias.unsqueeze();
            x.reshape([batch, tokens, self.heads, head]).swap_dims(1, 2)
        };
        let query = project(x.clone().narrow(1, 0, queries), 0) / (head as f64).sqrt();
        let weights = softmax(query.matmul(project(x.clone(), 1).swap_dims(2, 3)), 3);
        let out = dropout(&self.dropout, weights).matmul(project(x, 2));
        self.out_proj.forward(out.swap_dims(1, 2).reshape([batch, queries, width]))
    }
}
