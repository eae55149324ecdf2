//! The output head, applied to no more tokens than needed.

use burn::tensor::module::linear;
use burn::tensor::{DType, Int, Tensor};

use super::model::Decoder;
use crate::ops::{Table, TokenScores, few_rows, few_rows_of_table, token_scores};

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

    /// Logits `[M, V]` of final hidden states `[M, D]` in f32, to choose tokens by.
    pub fn choices(&self, hidden: Tensor<2>) -> Tensor<2> {
        let fast = match &self.lm_head {
            Some(head) if head.lora.is_none() && head.bias.is_none() => few_rows(&hidden, &head.weight.val()),
            Some(_) => None,
            None => few_rows_of_table(&hidden, &self.model.embed_tokens.weight.val()),
        };
        fast.unwrap_or_else(|| self.logits(hidden).cast(DType::F32))
    }

    /// log p(target) of each row, natural logarithm, f32: `hidden` `[M, D]` after the final norm, `targets` `[M]` → `[M]`.
    pub fn token_logprobs(&self, hidden: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        self.token_scores(hidden, targets).logprobs
    }

    /// As [`token_logprobs`](Self::token_logprobs), and which targets are what the decoder itself would say. The head runs in chunks
    /// of rows.
    pub fn token_scores(&self, hidden: Tensor<2>, targets: Tensor<1, Int>) -> TokenScores {
        self.scores_by(hidden, targets, (LOGITS / self.config().vocab_size).max(1))
    }

    pub(super) fn scores_by(&self, hidden: Tensor<2>, targets: Tensor<1, Int>, rows: usize) -> TokenScores {
        let (weight, table) = match &self.lm_head {
            Some(head) => (head.weight.val(), Table::Columns),
            None => (self.model.embed_tokens.weight.val(), Table::Rows),
        };
        token_scores(hidden, weight, table, targets, rows)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Device, FloatDType, Int, Tensor};

    use crate::decoder::DecoderConfig;
    use crate::ops::TokenScores;

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
