//! The output head, applied to no more tokens than needed.

use burn::tensor::module::linear;
use burn::tensor::{DType, FloatDType, Int, Tensor};

use super::model::Decoder;
use crate::ops::{
    FEW_ROWS, Table, TokenScores, few_rows, few_rows_of_table, is_cpu, likeliest, likeliest_of, token_scores,
};
use crate::{Error, Result};

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
        let Some((weight, table)) = self.plain_head() else { return self.logits(hidden).cast(DType::F32) };
        let few = match table {
            Table::Rows => few_rows_of_table(&hidden, &weight),
            Table::Columns => few_rows(&hidden, &weight),
        };
        few.unwrap_or_else(|| {
            // Widened before it is turned: Burn would move single numbers of 16 bits.
            let weight = if is_cpu(&weight.device()) { weight.cast(DType::F32) } else { weight };
            let hidden = hidden.cast(weight.dtype());
            let weight = if table == Table::Rows { weight.transpose() } else { weight };
            hidden.matmul(weight).cast(DType::F32)
        })
    }

    /// The matrix of a head that is nothing more.
    fn plain_head(&self) -> Option<(Tensor<2>, Table)> {
        match &self.lm_head {
            Some(head) if head.lora.is_some() || head.bias.is_some() => None,
            Some(head) => Some((head.weight.val(), Table::Columns)),
            None => Some((self.model.embed_tokens.weight.val(), Table::Rows)),
        }
    }

    /// The most probable token of each row of final hidden states `[M, D]` and its log p, natural logarithm. Of equally probable
    /// ones the first; log p is not finite where the logits are not.
    ///
    /// # Errors
    /// When the device fails.
    pub fn likeliest(&self, hidden: Tensor<2>) -> Result<Vec<(u32, f32)>> {
        let rows = hidden.dims()[0];
        let in_parts = |(weight, table)| likeliest(&hidden, &weight, table);
        if let Some(found) = self.plain_head().filter(|_| rows > FEW_ROWS).and_then(in_parts) {
            return Ok(found);
        }
        let logits = self.choices(hidden);
        if let Some(found) = likeliest_of(&logits) {
            return Ok(found);
        }
        let top = logits.clone().max_dim(1);
        let ids = logits.clone().argmax(1).cast(FloatDType::F32);
        // log p of the largest: its logit cancels out of logit − log Σ exp. Ids are small enough for f32, so that one read is enough.
        let logprobs = (logits - top).exp().sum_dim(1).log().neg();
        let read = Tensor::cat(vec![ids, logprobs], 1).try_into_vec_as::<f32>();
        let values = read.map_err(|e| Error::Device(e.to_string()))?;
        Ok(values.chunks_exact(2).map(|pair| (pair[0] as u32, pair[1])).collect())
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
