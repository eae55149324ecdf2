//! Root-mean-square normalisation.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};

/// y = x / √(mean(x²) + ε) · w over the last axis (Zhang & Sennrich 2019). Computes in f32 and rounds before the product with
/// w, as the reference library does.
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
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let scale = (x.clone().square().mean_dim(N - 1) + self.epsilon).sqrt().recip();
        (x * scale).cast(dtype) * self.weight.val().unsqueeze()
    }
}
