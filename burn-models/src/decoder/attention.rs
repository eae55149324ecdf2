//! Causal grouped-query attention.

use burn::module::Module;
use burn::tensor::{Bool, DType, Device, Int, Tensor, activation::softmax};
use burn_lora::LoraLinear;

use super::cache::LayerCache;
use super::config::DecoderConfig;
use super::norm::RmsNorm;
use super::rope::Rotary;

/// Queries per step over a long sequence: scores of more queries never exist at one time where no gradient is kept.
const QUERIES: usize = 1024;
/// Added to the score of a key that must not be seen. Finite, so that a query that sees no key at all (padding) gives the
/// mean of the values, not NaN; far below every score, so that f32 absorbs the score.
const HIDDEN: f64 = -1e30;

/// What all layers share in one pass: rotary angles and what may be seen.
#[derive(Debug, Clone)]
pub struct Context {
    rotary: Rotary,
    /// For keys that are padding [`HIDDEN`], else 0: `[B, 1, 1, 1, S]`, f32.
    padding: Option<Tensor<5>>,
    /// Keys in the cache before this pass: query i stands at column `past + i`.
    past: usize,
}

impl Context {
    /// For tokens at `positions` `[B, L]` after `past` cached columns; `tokens` `[B, past + L]` tells tokens from padding.
    pub(super) fn new(
        config: &DecoderConfig,
        positions: Tensor<2, Int>,
        tokens: Option<Tensor<2, Bool>>,
        past: usize,
        dtype: DType,
    ) -> Self {
        // Constants: beside a network with gradients as well as one without, they stay outside automatic differentiation.
        let rotary = Rotary::new(config, positions.without_autodiff(), dtype);
        let padding = tokens.map(|tokens| {
            let tokens = tokens.without_autodiff();
            let [batch, keys] = tokens.dims();
            let hidden = tokens.bool_not().float().cast(DType::F32).mul_scalar(HIDDEN);
            hidden.reshape([batch, 1, 1, 1, keys])
        });
        Self { rotary, padding, past }
    }

    /// The columns that queries `first..first + queries` may see at most.
    fn keys(&self, first: usize, queries: usize) -> usize {
        self.past + first + queries
    }

    /// What to add to the scores of queries `first..first + queries`: `[B or 1, 1, 1, queries, keys]`.
    fn bias(&self, first: usize, queries: usize, device: &Device) -> Option<Tensor<5>> {
        let keys = self.keys(first, queries);
        let padding = self.padding.clone().map(|p| p.slice_dim(4, 0..keys));
        // The last query sees every key.
        if queries == 1 {
            return padding;
        }
        let device = device.clone().without_autodiff();
        let start = (self.past + first) as i64;
        let columns = Tensor::<1, Int>::arange(start..start + queries as i64, &device).reshape([1, 1, 1, queries, 1]);
        let key = Tensor::<1, Int>::arange(0..keys as i64, &device).reshape([1, 1, 1, 1, keys]);
        let later = (key - columns).greater_scalar(0);
        let causal = later.float().cast(DType::F32).mul_scalar(HIDDEN);
        Some(match padding {
            Some(padding) => causal + padding,
            None => causal,
        })
    }
}

/// softmax(q·kᵀ/√C + mask)·v per head, H query heads on K key/value heads (Ainslie et al. 2023).
///
/// Keys and values are not repeated for the H/K query heads that share them: those become rows of one product.
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
    /// `x` `[B, L, D]` → `[B, L, D]`. New keys and values are appended to `cache`, if there is one.
    pub fn forward(&self, x: Tensor<3>, context: &Context, cache: Option<&mut LayerCache>) -> Tensor<3> {
        let [batch, length, _] = x.dims();
        let (q, k, v) = self.project(x, context);
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        let mut parts = Vec::new();
        for first in (0..length).step_by(QUERIES) {
            let queries = QUERIES.min(length - first);
            let keys = context.keys(first, queries);
            let (q, k, v) = (
                q.clone().slice_dim(2, first..first + queries),
                k.clone().slice_dim(2, 0..keys),
                v.clone().slice_dim(2, 0..keys),
            );
            let bias = context.bias(first, queries, &q.device());
            let probabilities = self.weights(q, k, bias).cast(v.dtype());
            let rows = self.heads / self.key_value_heads * queries;
            let out = probabilities.reshape([batch, self.key_value_heads, rows, keys]).matmul(v);
            parts.push(out.reshape([batch, self.heads, queries, self.head_dim]));
        }
        let out = if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(parts, 2) };
        self.o_proj.forward(out.swap_dims(1, 2).reshape([batch, length, self.heads * self.head_dim]))
    }

    /// The attention weights `[B, H, L, L]` that [`Attention::forward`] uses, f32. Quadratic in L: for inspection.
    pub fn probabilities(&self, x: Tensor<3>, context: &Context) -> Tensor<4> {
        let [batch, length, _] = x.dims();
        let (q, k, _) = self.project(x, context);
        let bias = context.bias(0, length, &q.device());
        self.weights(q, k, bias).reshape([batch, self.heads, length, length])
    }

    /// Queries `[B, H, L, C]`, divided by √C, keys and values `[B, K, L, C]`; normalised and turned.
    fn project(&self, x: Tensor<3>, context: &Context) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let [batch, length, _] = x.dims();
        let split = |y: Tensor<3>, heads: usize| y.reshape([batch, length, heads, self.head_dim]);
        let normed = |y: Tensor<4>, norm: &Option<RmsNorm>| match norm {
            Some(norm) => norm.forward(y),
            None => y,
        };
        let q = normed(split(self.q_proj.forward(x.clone()), self.heads), &self.q_norm).swap_dims(1, 2);
        let k = normed(split(self.k_proj.forward(x.clone()), self.key_value_heads), &self.k_norm).swap_dims(1, 2);
        let v = split(self.v_proj.forward(x), self.key_value_heads).swap_dims(1, 2);
        let q = context.rotary.apply(q).mul_scalar((self.head_dim as f64).powf(-0.5));
        (q, context.rotary.apply(k), v)
    }

    /// Softmax of the masked scores: `q` `[B, H, L, C]`, `k` `[B, K, S, C]` → `[B, K, H/K, L, S]`, f32.
    fn weights(&self, q: Tensor<4>, k: Tensor<4>, bias: Option<Tensor<5>>) -> Tensor<5> {
        let [batch, heads, queries, width] = q.dims();
        let [_, groups, keys, _] = k.dims();
        let shared = heads / groups;
        let q = q.reshape([batch, groups, shared * queries, width]);
        let scores = q.matmul(k.swap_dims(2, 3)).cast(DType::F32).reshape([batch, groups, shared, queries, keys]);
        let scores = match bias {
            Some(bias) => scores + bias,
            None => scores,
        };
        softmax(scores, 4)
    }
}
