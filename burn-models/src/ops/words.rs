//! From the logits of a vocabulary to its words.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use super::Table;
use super::cpu::{self, dot, exp, fold, larger, versions};

/// Words whose logits exist at one time where only the most probable one is asked for: 64 rows of them are a MiB, which the
/// processor's caches hold.
const WORDS: usize = 4096;
/// Words whose weights are added up in f32; sums of such blocks are f64.
const BLOCK: usize = 1024;
/// Words of which only the largest logit is looked at to find a bound.
const GROUP: usize = 64;

/// The most probable word of every row and its log p, natural logarithm: `hidden` `[M, D]`, `weight` as `table` says. Of equally
/// probable ones the first. log p is not finite where the logits are not.
///
/// `None` on other devices than the CPU device `Flex`, and where a gradient may be asked for.
pub fn likeliest(hidden: &Tensor<2>, weight: &Tensor<2>, table: Table) -> Option<Vec<(u32, f32)>> {
    let wide = hidden.clone().cast(DType::F32);
    if !cpu::is_flex(&wide) || wide.device().is_autodiff() || weight.device().is_autodiff() {
        return None;
    }
    let axis = if table == Table::Rows { 0 } else { 1 };
    let words = weight.dims()[axis];
    let mut found = vec![Largest::NONE; wide.dims()[0]];
    for first in (0..words).step_by(WORDS) {
        // Widened before it is turned: Burn would move single numbers of 16 bits.
        let part = weight.clone().slice_dim(axis, first..words.min(first + WORDS)).cast(DType::F32);
        let part = if table == Table::Rows { part.transpose() } else { part };
        look(&wide.clone().matmul(part), first, &mut found);
    }
    Some(found.into_iter().map(Largest::word).collect())
}

/// The same from logits `[M, V]`.
pub fn likeliest_of(logits: &Tensor<2>) -> Option<Vec<(u32, f32)>> {
    let logits = logits.clone().cast(DType::F32);
    if !cpu::is_flex(&logits) || logits.device().is_autodiff() {
        return None;
    }
    let mut found = vec![Largest::NONE; logits.dims()[0]];
    look(&logits, 0, &mut found);
    Some(found.into_iter().map(Largest::word).collect())
}

/// Goes on with the logits of words from `first` on.
fn look(logits: &Tensor<2>, first: usize, found: &mut [Largest]) {
    let width = logits.dims()[1].max(1);
    cpu::read(logits, |logits| {
        found.par_iter_mut().zip(logits.par_chunks_exact(width)).for_each(|(found, row)| found.look(row, first as u32));
    });
}

/// The largest of some logits, its word, and Σ exp(x − largest).
#[derive(Debug, Clone, Copy)]
pub struct Largest {
    value: f32,
    word: u32,
    sum: f32,
}

impl Largest {
    /// Of no logits.
    pub const NONE: Self = Self { value: f32::NEG_INFINITY, word: 0, sum: 0.0 };

    /// Goes on with the logits of the words from `first` on.
    pub fn look(&mut self, row: &[f32], first: u32) {
        let value = largest(row);
        let place = row.iter().position(|x| *x == value).unwrap_or(0);
        self.join(Self { value, word: first + place as u32, sum: weights_of(row, value, 1.0) });
    }

    /// Goes on with later words.
    fn join(&mut self, next: Self) {
        let [first, last] = if next.value > self.value || next.value.is_nan() { [next, *self] } else { [*self, next] };
        self.value = first.value;
        self.word = first.word;
        // Nothing is left of words that are all excluded.
        self.sum = first.sum + if last.sum > 0.0 { last.sum * (last.value - first.value).exp() } else { 0.0 };
    }

    /// The first word with the largest logit, and its log p.
    pub fn word(self) -> (u32, f32) {
        (self.word, -self.sum.ln())
    }
}

/// ln Σ eˣ over a row.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let top = largest(row);
    top + weights_of(row, top, 1.0).ln()
}

versions! {
    fn largest_of(row: &[f32]) -> f32 {
        fold(row, f32::NEG_INFINITY, larger)
    }
}

versions! {
    fn weights_of(row: &[f32], top: f32, scale: f32) -> f32 {
        dot(row, row, |x, _| exp((x - top) * scale))
    }
}

/// The largest logit; NaN where one is.
pub fn largest(row: &[f32]) -> f32 {
    largest_of(row)
}

/// A bound that at least `count` logits reach, most often not many more; −∞ where it is not worth looking for one.
pub fn reached_by(row: &[f32], count: usize) -> f32 {
    let mut tops: Vec<f32> = row.chunks(GROUP).map(largest_of).collect();
    match count.checked_sub(1) {
        Some(last) if last < tops.len() => *tops.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1,
        _ => f32::NEG_INFINITY,
    }
}

/// exp((x − largest)/temperature) of a row of logits, by blocks.
pub struct WordWeights<'a> {
    row: &'a [f32],
    top: f32,
    scale: f32,
    blocks: Vec<f32>,
}

impl<'a> WordWeights<'a> {
    /// `top` is the row's largest logit.
    pub fn new(row: &'a [f32], top: f32, temperature: f64) -> Self {
        let scale = temperature.recip().clamp(f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)) as f32;
        let blocks = row.chunks(BLOCK).map(|block| weights_of(block, top, scale)).collect();
        Self { row, top, scale, blocks }
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.blocks.iter().map(|sum| f64::from(*sum)).sum()
    }

    /// The word at which the sum of weights passes this share of the whole, 0 ≤ `share` < 1.
    pub fn word_at(&self, share: f64) -> u32 {
        let mut left = share * self.sum();
        let mut last = 0;
        for (number, sum) in self.blocks.iter().enumerate() {
            if left >= f64::from(*sum) {
                left -= f64::from(*sum);
                continue;
            }
            let first = number * BLOCK;
            for (at, x) in self.row[first..].iter().enumerate().take(BLOCK) {
                let weight = f64::from(exp((x - self.top) * self.scale));
                if weight > 0.0 {
                    last = (first + at) as u32;
                }
                left -= weight;
                if left < 0.0 {
                    return last;
                }
            }
            // Sums of other orders differ by a crumb: it belongs to the last word of the block.
            return last;
        }
        // The same behind the last block.
        let positive = |x: &f32| exp((x - self.top) * self.scale) > 0.0;
        self.row.iter().rposition(positive).unwrap_or(0) as u32
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor, TensorData};
    use burn_lora::Stream;

    fn logits(count: usize, seed: u64) -> Vec<f32> {
        Stream::new(seed, &["logits"]).uniform(count, 9.0)
    }

    #[test]
    fn the_likeliest_word_is_found_in_parts() {
        let device = Device::flex();
        // Two parts, the second one not full.
        let (rows, depth, words) = (6, 16, WORDS + 500);
        let tensor = |values, dims: [usize; 2]| Tensor::<2>::from_data(TensorData::new(values, dims), &device);
        let hidden = tensor(logits(rows * depth, 1), [rows, depth]);
        let table = tensor(logits(words * depth, 2), [words, depth]);
        // Exact in 16 bits, so that these give the same.
        let table = table.cast(DType::BF16).cast(DType::F32);
        let whole = hidden.clone().matmul(table.clone().transpose());
        let values: Vec<f32> = whole.clone().try_into_vec_as().unwrap();
        let columns = tensor(table.clone().transpose().try_into_vec_as().unwrap(), [depth, words]);
        let by_rows = likeliest(&hidden, &table, Table::Rows).unwrap();
        let narrow = likeliest(&hidden, &table.clone().cast(DType::BF16), Table::Rows).unwrap();
        assert_eq!(narrow, by_rows);
        let by_columns = likeliest(&hidden, &columns, Table::Columns).unwrap();
        let whole = likeliest_of(&whole).unwrap();
        for (row, values) in values.chunks(words).enumerate() {
            let best = (0..words).max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap();
            let total: f64 = values.iter().map(|x| f64::from(*x - values[best]).exp()).sum();
            for found in [by_rows[row], by_columns[row], whole[row]] {
                assert_eq!(found.0 as usize, best);
                assert!((f64::from(found.1) + total.ln()).abs() < 1e-5, "{found:?} {total}");
            }
        }
        assert!(likeliest(&hidden.autodiff(), &table, Table::Rows).is_none());
    }

    #[test]
    fn of_equal_words_the_first() {
        let word = |parts: &[&[f32]]| {
            let mut found = Largest::NONE;
            let mut first = 0;
            for part in parts {
                found.look(part, first);
                first += part.len() as u32;
            }
            found.word()
        };
        assert_eq!(word(&[&[1.0, 3.0, 3.0], &[3.0]]).0, 1);
        let (id, logprob) = word(&[&[0.0], &[1.0, 2.0]]);
        assert!(id == 2 && (logprob + (1.0 + (-1f32).exp() + (-2f32).exp()).ln()).abs() < 1e-6);
        for bad in [&[f32::NAN, 1.0][..], &[1.0, f32::NAN], &[f32::INFINITY], &[f32::NEG_INFINITY]] {
            assert!(!word(&[bad]).1.is_finite(), "{bad:?}");
            assert!(!word(&[&[0.0], bad]).1.is_finite() || bad == [f32::NEG_INFINITY], "{bad:?}");
        }
    }

    #[test]
    fn weights_are_drawn_by_their_share() {
        let row = logits(3000, 3);
        let top = largest(&row);
        for temperature in [0.3, 1.0, 2.0] {
            let weights = WordWeights::new(&row, top, temperature);
            let exact: Vec<f64> = row.iter().map(|x| (f64::from(*x - top) / temperature).exp()).collect();
            let sum: f64 = exact.iter().sum();
            assert!((weights.sum() / sum - 1.0).abs() < 1e-6);
            for share in (0..1000).map(|n| f64::from(n) / 1000.0) {
                let word = weights.word_at(share) as usize;
                let before: f64 = exact[..word].iter().sum::<f64>() / sum;
                assert!(before <= share + 1e-6 && share < before + exact[word] / sum + 1e-6, "{share}: {word}");
            }
        }
        let one = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        for share in [0.0, 0.5, 1.0 - f64::EPSILON] {
            assert_eq!(WordWeights::new(&one, 0.0, 1.0).word_at(share), 1);
        }
    }

    #[test]
    fn a_bound_is_reached_by_enough() {
        let row = logits(1000, 4);
        for count in [0, 1, 3, 10, 16] {
            let bound = reached_by(&row, count);
            assert!(row.iter().filter(|x| **x >= bound).count() >= count);
        }
        assert!(reached_by(&row, 1) == largest(&row) && reached_by(&row, 17) == f32::NEG_INFINITY);
    }
}
