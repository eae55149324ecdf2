//! From one vector per token to one vector per text.

use burn::tensor::{Bool, DType, Int, Tensor};
use serde::{Deserialize, Serialize};

/// How the states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Pooling {
    /// The mean over all tokens, those added around the text included.
    #[default]
    Mean,
    /// The first token.
    Cls,
    /// The last token that is not padding.
    Last,
}

impl Pooling {
    /// `hidden` `[B, L, D]`, `mask` `[B, L]` true at tokens (`None` for everywhere; padding stands at the end) → `[B, D]`,
    /// f32. A row without any token gives zeros with [`Pooling::Mean`].
    pub fn apply(self, hidden: Tensor<3>, mask: Option<Tensor<2, Bool>>) -> Tensor<2> {
        let [batch, length, width] = hidden.dims();
        let hidden = if hidden.dtype() == DType::F32 { hidden } else { hidden.cast(DType::F32) };
        let first = |hidden: Tensor<3>| hidden.slice_dim(1, 0..1).reshape([batch, width]);
        match (self, mask) {
            (Self::Cls, _) => first(hidden),
            (Self::Mean, None) => hidden.mean_dim(1).reshape([batch, width]),
            (Self::Mean, Some(mask)) => {
                let weights = mask.float().cast(DType::F32);
                let counts = weights.clone().sum_dim(1).clamp_min(1.0);
                weights.reshape([batch, 1, length]).matmul(hidden).reshape([batch, width]) / counts
            }
            (Self::Last, None) => hidden.slice_dim(1, length - 1..length).reshape([batch, width]),
            (Self::Last, Some(mask)) => {
                let columns = Tensor::<1, Int>::arange(0..length as i64, &hidden.device()).reshape([1, length]);
                let last = (mask.int() * columns).max_dim(1);
                hidden.gather(1, last.reshape([batch, 1, 1]).expand([batch, 1, width])).reshape([batch, width])
            }
        }
    }
}

/// x / max(‖x‖₂, 1e-12) per row of `[B, D]`.
pub fn normalize(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    x / norm
}
