//! One block of a decoder.

use burn::module::Module;
use burn::tensor::Tensor;
use burn_lora::LoraLinear;

use super::attention::Attention;
use super::cache::LayerCache;
use super::context::{Context, Queries};
use super::norm::RmsNorm;
use super::project::project;
use crate::ops::swiglu;

/// SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer 2020).
#[derive(Module, Debug)]
pub struct Mlp {
    /// D → F.
    pub gate_proj: LoraLinear,
    /// D → F.
    pub up_proj: LoraLinear,
    /// F → D.
    pub down_proj: LoraLinear,
}

impl Mlp {
    /// `x` `[.., D]` → `[.., D]`.
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        let (gate, up) = (project(&self.gate_proj, x.clone()), project(&self.up_proj, x));
        project(&self.down_proj, swiglu(gate, up))
    }
}

/// Attention and MLP, each on a normalised copy of the stream and added to it.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Attention.
    pub self_attn: Attention,
    /// Feed-forward part.
    pub mlp: Mlp,
    /// Before attention.
    pub input_layernorm: RmsNorm,
    /// Before the feed-forward part.
    pub post_attention_layernorm: RmsNorm,
}

impl DecoderLayer {
    /// `x` `[B, L, D]` → `[B, L, D]`.
    pub fn forward(&self, x: Tensor<3>, context: &Context, cache: Option<&mut LayerCache>) -> Tensor<3> {
        self.forward_at(x, context, &context.all, cache)
    }

    /// `x` `[B, L, D]` → `[B, Q, D]` for the places of `queries`.
    pub(super) fn forward_at(
        &self,
        x: Tensor<3>,
        context: &Context,
        queries: &Queries,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let attended = self.self_attn.forward(self.input_layernorm.forward(x.clone()), context, queries, cache);
        let x = queries.of(x) + attended;
        let fed = self.mlp.forward(self.post_attention_layernorm.forward(x.clone()));
        x + fed
    }
}
