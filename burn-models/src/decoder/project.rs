//! The linear layers of a decoder.

use burn::tensor::Tensor;
use burn_lora::LoraLinear;

use crate::ops::{FEW_ROWS, dropout, few_rows};

/// `layer.forward(x)`, `[.., in]` → `[.., out]`, for a few rows as fast as the weights can be read.
pub(super) fn project<const N: usize>(layer: &LoraLinear, x: Tensor<N>) -> Tensor<N> {
    if layer.lora.is_none() {
        let mut shape = x.dims();
        let width = shape[N - 1];
        let rows: usize = shape[..N - 1].iter().product();
        // Cheaply, before anything is reshaped: long inputs are the rule in training.
        if rows <= FEW_ROWS
            && !matches!(layer.weight.val().dtype(), burn::tensor::DType::QFloat(_))
            && let Some(y) = few_rows(&x.clone().reshape([rows, width]), &layer.weight.val())
        {
            let y = match &layer.bias {
                Some(bias) => y + bias.val().cast(burn::tensor::DType::F32).unsqueeze(),
                None => y,
            };
            shape[N - 1] = y.dims()[1];
            return y.reshape(shape).cast(x.dtype());
        }
    }
    layer.forward_with(x, dropout)
}
