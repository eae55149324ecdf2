//! The output head, applied to no more tokens than needed.

use burn::tensor::module::linear;
use burn::tensor::{DType, Device, Int, Tensor};

use super::model::Decoder;

/// Most logits that exist at one time, unless one row alone has more.
const LOGITS: usize = 1 << 25;

/// What a decoder makes of known next tokens.
#[derive(Debug, Clone)]
pub struct TokenScores {
    /// log p of each, natural logarithm, f32: `[M]`.
    pub logprobs: Tensor<1>,
    /// 1 for each that is a most probable one, else 0; without gradient: `[M]`.
    pub hits: Tensor<1>,
}

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
        self.token_scores(hidden, targets).logprobs
    }

    /// As [`token_logprobs`](Self::token_logprobs), and which targets are what the decoder itself would say.
    pub fn token_scores(&self, hidden: Tensor<2>, targets: Tensor<1, Int>) -> TokenScores {
        self.scores_by(hidden, targets, (LOGITS / self.config().vocab_size).max(1))
    }

    pub(super) fn scores_by(&self, hidden: Tensor<2>, targets: Tensor<1, Int>, rows: usize) -> TokenScores {
        let [count, _] = hidden.dims();
        let (mut logprobs, mut hits) = (Vec::new(), Vec::new());
        for first in (0..count).step_by(rows) {
            let range = first..count.min(first + rows);
            let n = range.len();
            let logits = self.logits(hidden.clone().slice_dim(0, range.clone())).cast(DType::F32);
            let targets = targets.clone().slice_dim(0, range).reshape([n, 1]);
            // The largest logit cancels out of the gradient.
            let top = logits.clone().without_autodiff().max_dim(1);
            let picked = logits.clone().gather(1, targets);
            hits.push(picked.clone().without_autodiff().equal(top.clone()).float().cast(DType::F32).reshape([n]));
            let total = (logits - top.clone()).exp().sum_dim(1).log() + top;
            logprobs.push((picked - total).reshape([n]));
        }
        let join = |mut parts: Vec<Tensor<1>>, device: &Device| match parts.len() {
            0 => Tensor::zeros([0], (device, DType::F32)),
            1 => parts.swap_remove(0),
            _ => Tensor::cat(parts, 0),
        };
        let device = hidden.device();
        TokenScores { logprobs: join(logprobs, &device), hits: join(hits, &device.clone().without_autodiff()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Device, FloatDType, Int, Tensor};

    use super::TokenScores;
    use crate::decoder::DecoderConfig;

    #[test]
    fn chunks_change_nothing() {
        let device = Device::flex().autodiff();
        let config = DecoderConfig { vocab_size: 31, initializer_range: 0.5, ..DecoderConfig::default() };
        let model = config.init(0, FloatDType::F32, &device).unwrap();
        let run = |rows: usize| {
            let hidden = Tensor::<1, Int>::arange(0..7 * 128, &device).float().sin().reshape([7, 128]).require_grad();
            let targets = Tensor::<1, Int>::arange(3..10, &device);
            let TokenScores { logprobs, hits } = model.scores_by(hidden.clone(), targets, rows);
            let gradients = (logprobs.clone() * Tensor::arange(1..8, &device).float()).sum().backward();
            let read = |t: Tensor<1>| t.try_into_vec_as::<f32>().unwrap();
            let table = model.model.embed_tokens.weight.grad(&gradients).unwrap();
            let expected = model
                .logits(hidden.clone())
                .inner()
                .argmax(1)
                .reshape([7])
                .equal(Tensor::arange(3..10, &device.clone().inner()));
            assert_eq!(read(hits), read(expected.float()));
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
