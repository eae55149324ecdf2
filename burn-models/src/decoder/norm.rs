//! Root-mean-square normalisation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::ops::rms_norm;

/// x / √(mean(x²) + ε) · w over the last axis: [`rms_norm`].
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// w, as wide as the last axis.
    pub weight: Param<Tensor<1>>,
    /// ε.
    pub epsilon: f64,
}

impl RmsNorm {
    /// `x` `[.., width]` → the same shape.
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        rms_norm(x, self.weight.val(), self.epsilon)
    }
}
