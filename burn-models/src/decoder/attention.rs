//! Causal grouped-query attention.

use burn::module::Module;
use burn::tensor::{Tensor, activation::softmax};
use burn_lora::LoraLinear;

use super::cache::LayerCache;
use super::context::{Context, Queries};
use super::norm::RmsNorm;
use super::project::project;
use crate::ops::{Angles, attention, rotate};

/// softmax(q·kᵀ/√C + mask)·v per head, H query heads on K key/value heads (Ainslie et al. 2023).
#[derive(Module, Debug)]
pub struct Attention {
    /// D → H·C.
    pub q_proj: LoraLinear,
    /// D → K·C.
    pub k_proj: LoraLinear,
    /// D → K·C.
    pub v_proj: LoraLinear,
    /// H·C → D.
    pub o_proj: LoraLinear,
    /// On each head's query (Qwen3).
    pub q_norm: Option<RmsNorm>,
    /// On each head's key (Qwen3).
    pub k_norm: Option<RmsNorm>,
    /// H.
    pub heads: usize,
    /// K.
    pub key_value_heads: usize,
    /// C.
    pub head_dim: usize,
}

impl Attention {
    /// `x` `[B, L, D]` → `[B, Q, D]` for those Q of its L places that `queries` names. New keys and values are appended to
    /// `cache`, if there is one.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        context: &Context,
        queries: &Queries,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let (k, v) = self.keys_and_values(x.clone(), context);
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        let q = self.queries(queries.of(x), &queries.angles);
        let [batch, heads, places, width] = q.dims();
        let out = attention(q, k, v, &queries.view);
        project(&self.o_proj, out.swap_dims(1, 2).reshape([batch, places, heads * width]))
    }

    /// The attention weights `[B, H, L, L]`, f32, computed by their definition. Quadratic in L: for inspection.
    pub fn probabilities(&self, x: Tensor<3>, context: &Context) -> Tensor<4> {
        let (k, _) = self.keys_and_values(x.clone(), context);
        let q = self.queries(x, &context.all.angles);
        let [batch, groups, keys, width] = k.dims();
        let [_, heads, places, _] = q.dims();
        let k = k.reshape([batch, groups, 1, keys, width]).expand([batch, groups, heads / groups, keys, width]);
        let scores = q.matmul(k.reshape([batch, heads, keys, width]).swap_dims(2, 3));
        let mask = context.all.view.visible(places, keys, &scores.device()).without_autodiff();
        let hidden = mask.bool_not().float().cast(burn::tensor::DType::F32).mul_scalar(-1e30);
        let rows = hidden.dims()[0];
        softmax(scores.cast(burn::tensor::DType::F32) + hidden.reshape([rows, 1, places, keys]), 3)
    }

    /// `[B, L, D]` → `[B, H, L, C]`, divided by √C, normalised and turned.
    fn queries(&self, x: Tensor<3>, angles: &Angles) -> Tensor<4> {
        let q = normed(split(project(&self.q_proj, x), self.heads), &self.q_norm).swap_dims(1, 2);
        rotate(q, angles).mul_scalar((self.head_dim as f64).powf(-0.5))
    }

    /// `[B, L, D]` → keys, normalised and turned, and values, `[B, K, L, C]` each.
    fn keys_and_values(&self, x: Tensor<3>, context: &Context) -> (Tensor<4>, Tensor<4>) {
        let k = normed(split(project(&self.k_proj, x.clone()), self.key_value_heads), &self.k_norm).swap_dims(1, 2);
        let v = split(project(&self.v_proj, x), self.key_value_heads).swap_dims(1, 2);
        (rotate(k, &context.all.angles), v)
    }
}

/// `[B, L, H·C]` → `[B, L, H, C]`.
fn split(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, width] = x.dims();
    x.reshape([batch, length, heads, width / heads])
}

fn normed(x: Tensor<4>, norm: &Option<RmsNorm>) -> Tensor<4> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
