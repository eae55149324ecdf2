//! The output head and the cross-entropy behind it.

use burn::backend::DispatchTensor;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};

use super::cpu;
use super::function::{Function, InputGradients, Inputs, call};

/// The output head's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `[V, D]`, a row per word: an embedding table.
    Rows,
    /// `[D, V]`, a column per word: a linear layer.
    Columns,
}

/// What a decoder makes of known next tokens.
#[derive(Debug, Clone)]
pub struct TokenScores {
    /// log p of each, natural logarithm, f32: `[M]`.
    pub logprobs: Tensor<1>,
    /// 1 for each that is a most probable one, else 0; without gradient: `[M]`.
    pub hits: Tensor<1>,
}

/// log p(target) of each row: `hidden` `[M, D]`, `weight` as `table` says, `targets` `[M]`.
///
/// At most `chunk` rows have logits at one time. log p = x_t − log Σ exp x has the gradient w_t − Σ p_v·w_v with respect to
/// the hidden state, which does not depend on what becomes of log p: it is computed while the logits are there, and
/// only those `[M, D]` numbers are kept (Hsu et al. 2024, Liger kernels). A weight that is trained is read again.
pub fn token_scores(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    table: Table,
    targets: Tensor<1, Int>,
    chunk: usize,
) -> TokenScores {
    let [count, _] = hidden.dims();
    let targets = targets.without_autodiff();
    let function = CrossEntropy { table, targets, chunk: chunk.max(1) };
    let scores: Tensor<2> = call(function, hidden, weight.clone(), weight);
    let hits = scores.clone().without_autodiff().slice_dim(1, 1..2).reshape([count]);
    TokenScores { logprobs: scores.slice_dim(1, 0..1).reshape([count]), hits }
}

#[derive(Debug)]
struct CrossEntropy {
    table: Table,
    targets: Tensor<1, Int>,
    chunk: usize,
}

/// exp(x − max x) of some rows of logits `[n, V]`, max x and the sum `[n, 1]`, and the targets' logits `[n, 1]`; f32.
struct Softmax {
    e: Tensor<2>,
    largest: Tensor<2>,
    sums: Tensor<2>,
    picked: Tensor<2>,
}

impl CrossEntropy {
    /// From logits to hidden states and back: `[V, D]`.
    fn rows(&self, weight: Tensor<2>) -> Tensor<2> {
        if self.table == Table::Rows { weight } else { weight.transpose() }
    }

    fn softmax(&self, hidden: Tensor<2>, rows: &Tensor<2>, targets: Tensor<1, Int>) -> Softmax {
        let [n, _] = hidden.dims();
        let logits = hidden.matmul(rows.clone().transpose()).cast(DType::F32);
        let width = logits.dims()[1];
        let device = logits.device();
        let picked = logits.clone().gather(1, targets.reshape([n, 1]));
        if cpu::is_flex(&logits) {
            let none = cpu::Mask { values: &[], width: 0, row: &|_| 0 };
            let (e, (largest, sums)) = cpu::update(logits, |logits| cpu::exponentials(logits, width, &none));
            let column = |values| Tensor::from_data(TensorData::new(values, [n, 1]), &device);
            return Softmax { e, largest: column(largest), sums: column(sums), picked };
        }
        let largest = logits.clone().max_dim(1);
        let e = (logits - largest.clone()).exp();
        Softmax { e: e.clone(), largest, sums: e.sum_dim(1), picked }
    }

    fn chunks(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (count, chunk) = (self.targets.dims()[0], self.chunk);
        (0..count).step_by(chunk).map(move |first| first..count.min(first + chunk))
    }
}

impl Function for CrossEntropy {
    fn forward(&self, [hidden, weight, _]: Inputs, keep: bool) -> (DispatchTensor, Vec<DispatchTensor>) {
        let mut kept = if keep { vec![hidden.clone(), weight.clone()] } else { Vec::new() };
        let (hidden, weight) = (Tensor::<2>::from_dispatch(hidden), Tensor::<2>::from_dispatch(weight));
        let (dtype, device, rows) = (hidden.dtype(), hidden.device(), self.rows(weight));
        let (mut scores, mut gradients) = (Vec::new(), Vec::new());
        for range in self.chunks() {
            let targets = self.targets.clone().slice_dim(0, range.clone());
            let Softmax { e, largest, sums, picked } =
                self.softmax(hidden.clone().slice_dim(0, range), &rows, targets.clone());
            let hits = picked.clone().equal(largest.clone()).float().cast(DType::F32);
            scores.push(Tensor::cat(vec![picked - largest - sums.clone().log(), hits], 1));
            if keep {
                let mean = e.cast(dtype).matmul(rows.clone()).cast(DType::F32) / sums;
                gradients.push((rows.clone().select(0, targets).cast(DType::F32) - mean).cast(dtype));
            }
        }
        let join = |mut parts: Vec<Tensor<2>>, width: usize, dtype: DType| match parts.len() {
            0 => Tensor::zeros([0, width], (&device, dtype)),
            1 => parts.swap_remove(0),
            _ => Tensor::cat(parts, 0),
        };
        if keep {
            let width = hidden.dims()[1];
            kept.push(join(gradients, width, dtype).into_dispatch());
        }
        (join(scores, 2, DType::F32).into_dispatch(), kept)
    }

    fn backward(&self, kept: Vec<DispatchTensor>, gradient: DispatchTensor, needed: [bool; 3]) -> InputGradients {
        let mut kept = kept.into_iter().map(Tensor::<2>::from_dispatch);
        let (Some(hidden), Some(weight), Some(unit)) = (kept.next(), kept.next(), kept.next()) else {
            return [None, None, None];
        };
        let gradient = Tensor::<2>::from_dispatch(gradient).slice_dim(1, 0..1);
        let dtype = hidden.dtype();
        let d_hidden = needed[0].then(|| (unit.cast(DType::F32) * gradient.clone()).cast(dtype));
        let d_weight = needed[1].then(|| {
            let rows = self.rows(weight);
            let mut sum = Tensor::<2>::zeros(rows.dims(), (&rows.device(), DType::F32));
            for range in self.chunks() {
                let targets = self.targets.clone().slice_dim(0, range.clone());
                let gradient = gradient.clone().slice_dim(0, range.clone());
                let hidden = hidden.clone().slice_dim(0, range);
                let Softmax { e, sums, .. } = self.softmax(hidden.clone(), &rows, targets.clone());
                let weighted = (e * (gradient.clone() / sums)).cast(dtype);
                sum = sum - weighted.transpose().matmul(hidden.clone()).cast(DType::F32);
                sum = sum.select_assign(0, targets, hidden.cast(DType::F32) * gradient, IndexingUpdateOp::Add);
            }
            // Back to the weight's own form.
            self.rows(sum.cast(dtype))
        });
        [d_hidden, d_weight, None].map(|gradient| gradient.map(Tensor::into_dispatch))
    }
}
