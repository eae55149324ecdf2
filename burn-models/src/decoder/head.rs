//! The output head, applied to no more tokens than needed.

use burn::tensor::module::linear;
use burn::tensor::{DType, Int, Tensor};

use super::model::Decoder;

/// Most logits that exist at one time, unless one row alone has more.
const LOGITS: usize = 1 << 25;

impl Decoder {
    /// Logits `[.., V]` of final hidden states `[.., D]`, in the model's type.
    pub fn logits<const N: usize>(&self, hidden: Tensor<N>) -> Tensor<N> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => linear(hidden, self.model.embed_tokens.weight.val().transpose(), None),
        }
    }

    /// log p(target) of each row, natural logarithm, f32: `hidden` `[M, D]` after the final norm, `targets` `[M]` → `[M]`.
    ///
    /// The head runs in chunks of rows, and each chunk keeps one `[rows, V]` tensor for the gradient, as
    /// log p = logit − log Σ exp needs the exponentials only.
    pub fn token_logprobs(&self, hidden: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        self.logprobs_by(hidden, targets, (LOGITS / self.config().vocab_size).max(1))
    }

    pub(super) fn logprobs_by(&self, hidden: Tensor<2>, targets: Tensor<1, Int>, rows: usize) -> Tensor<1> {
        let [count, _] = hidden.dims();
        let mut parts = Vec::new();
        for first in (0..count).step_by(rows) {
            let range = first..count.min(first + rows);
            let n = range.len();
            let logits = self.logits(hidden.clone().slice_dim(0, range.clone())).cast(DType::F32);
            let targets = targets.clone().slice_dim(0, range).reshape([n, 1]);
            // The largest logit cancels out of the gradient.
            let top = logits.clone().without_autodiff().max_dim(1);
            let picked = logits.clone().gather(1, targets);
            let total = (logits - top.clone()).exp().sum_dim(1).log() + top;
            parts.push((picked - total).reshape([n]));
        }
        match parts.len() {
            0 => Tensor::zeros([0], (&hidden.device(), DType::F32)),
            1 => parts.swap_remove(0),
            _ => Tensor::cat(parts, 0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Device, FloatDType, Int, Tensor};

    use crate::decoder::DecoderConfig;

    #[test]
    fn chunks_change_nothing() {
        let device = Device::flex().autodiff();
        let config = DecoderConfig { vocab_size: 31, initializer_range: 0.5, ..DecoderConfig::default() };
        let model = config.init(0, FloatDType::F32, &device).unwrap();
        let run = |rows: usize| {
            let hidden = Tensor::<1, Int>::arange(0..7 * 128, &device).float().sin().reshape([7, 128]).require_grad();
            let targets = Tensor::<1, Int>::arange(3..10, &device);
            let logprobs = model.logprobs_by(hidden.clone(), targets, rows);
            let gradients = (logprobs.clone() * Tensor::arange(1..8, &device).float()).sum().backward();
            let read = |t: Tensor<1>| t.try_into_vec_as::<f32>().unwrap();
            let table = model.model.embed_tokens.weight.grad(&gradients).unwrap();
            (read(logprobs.inner()), [read(hidden.grad(&gradients).unwrap().flatten(0, 1)), read(table.flatten(0, 1))])
        };
        let (whole, whole_gradients) = run(7);
        for rows in [1, 3] {
            let (parts, gradients) = run(rows);
            assert!(parts.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-5));
            for (got, want) in gradients.iter().flatten().zip(whole_gradients.iter().flatten()) {
                assert!((got - want).abs() < 1e-4, "{got} {want}");
            }
        }
        let none = model.token_logprobs(Tensor::zeros([0, 128], &device), Tensor::zeros([0], &device));
        assert_eq!(none.dims(), [0]);
    }
}
