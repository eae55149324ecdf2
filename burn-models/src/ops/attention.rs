//! Exact attention in tiles: memory grows with the length, not with its square.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use burn::backend::DispatchTensor;
use burn::tensor::{Bool, DType, Device, Tensor, TensorData};

use super::cpu;
use super::function::{Function, InputGradients, Inputs, call};

/// Added to the score of a key that must not be seen. Finite, so that a query that sees no key at all (padding) gives a finite
/// number; far below every score, so that f32 absorbs the score.
const HIDDEN: f32 = -1e30;

/// Some queries and the keys that at least one of them sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// The queries, by number.
    pub queries: Range<usize>,
    /// Columns of keys that all of them see, in all rows of the batch.
    pub full: Vec<Range<usize>>,
    /// Columns of keys that are looked at one by one.
    pub partial: Vec<Range<usize>>,
}

/// What each query sees of S keys: query i, which stands at column `at[i]`, sees the keys j ≤ `at[i]` with
/// `until[j]` > `at[i]`.
///
/// One number per key says all that decoders need: causal attention (`until` = S), padding (0), packed documents (the
/// document's end), and branches that share a prefix (the prefix ends with its last branch, a branch with itself).
#[derive(Debug, Clone)]
pub struct View(Arc<Plan>);

#[derive(Debug)]
struct Plan {
    at: Vec<i32>,
    until: Option<Until>,
    tiles: Vec<Tile>,
    /// The masks of the tiles, once they have been asked for: all layers of a pass use the same ones.
    masks: Vec<OnceLock<Mask>>,
    /// What is added to a tile's scores on devices without loops of our own: `[B or 1, 1, 1, n, m]`.
    biases: Vec<OnceLock<Option<Tensor<5>>>>,
}

/// 0 where a partial key is seen, else [`HIDDEN`]: numbers, rows of the batch, partial keys.
type Mask = (Vec<f32>, usize, usize);

/// `until` of every key, row by row: `[B or 1, S]`.
#[derive(Debug)]
struct Until {
    values: Vec<i32>,
    rows: usize,
}

impl View {
    /// Queries at ascending columns `at`; `until` row by row for `rows` rows, or none where only order counts. The tiles must
    /// hold every query once, in order, and every key that it sees.
    ///
    /// The work is done where the tiles are made; this takes them as they are.
    pub fn new(at: Vec<i32>, until: Option<(Vec<i32>, usize)>, tiles: Vec<Tile>) -> Self {
        let masks = tiles.iter().map(|_| OnceLock::new()).collect();
        let biases = tiles.iter().map(|_| OnceLock::new()).collect();
        let until = until.map(|(values, rows)| Until { values, rows: rows.max(1) });
        Self(Arc::new(Plan { at, until, tiles, masks, biases }))
    }

    /// The tiles.
    pub fn tiles(&self) -> &[Tile] {
        &self.0.tiles
    }

    /// The number of scores that are computed for one head and one row of the batch.
    pub fn scores(&self) -> usize {
        let keys = |ranges: &[Range<usize>]| ranges.iter().map(Range::len).sum::<usize>();
        self.0.tiles.iter().map(|t| t.queries.len() * (keys(&t.full) + keys(&t.partial))).sum()
    }

    /// Whether query i of `queries` sees key j of `keys`: `[B or 1, queries, keys]`. Quadratic: for inspection.
    pub fn visible(&self, queries: usize, keys: usize, device: &Device) -> Tensor<3, Bool> {
        let partial = std::iter::once(0..keys).collect();
        let tile = Tile { queries: 0..queries, full: Vec::new(), partial };
        let (mask, rows, _) = self.mask(&tile);
        let seen: Vec<bool> = mask.into_iter().map(|m| m == 0.0).collect();
        Tensor::from_data(TensorData::new(seen, [rows, queries, keys]), device)
    }

    /// 0 where a partial key is seen, else [`HIDDEN`]: `rows`·n·p numbers.
    fn mask(&self, tile: &Tile) -> Mask {
        let Plan { at, until, .. } = &*self.0;
        let rows = until.as_ref().map_or(1, |until| until.rows);
        let width: usize = tile.partial.iter().map(Range::len).sum();
        let mut mask = Vec::with_capacity(rows * tile.queries.len() * width);
        for row in 0..rows {
            let until = until.as_ref().map(|until| {
                let keys = until.values.len() / until.rows;
                &until.values[row * keys..(row + 1) * keys]
            });
            for at in &at[tile.queries.clone()] {
                for key in tile.partial.iter().cloned().flatten() {
                    let seen = key as i32 <= *at && until.is_none_or(|until| until[key] > *at);
                    mask.push(if seen { 0.0 } else { HIDDEN });
                }
            }
        }
        (mask, rows, width)
    }

    /// The mask of a tile, with zeros for the full keys before it: `[B or 1, 1, 1, n, m]`.
    fn bias(&self, index: usize, device: &Device) -> Option<Tensor<5>> {
        let tile = &self.0.tiles[index];
        let bias = self.0.biases[index].get_or_init(|| {
            let (mask, rows, width) = self.mask(tile);
            let full: usize = tile.full.iter().map(Range::len).sum();
            let n = tile.queries.len();
            mask.iter().any(|m| *m != 0.0).then(|| {
                let partial = Tensor::from_data(TensorData::new(mask, [rows, 1, 1, n, width]), (device, DType::F32));
                let zeros = Tensor::zeros([rows, 1, 1, n, full], (device, DType::F32));
                if full == 0 { partial } else { Tensor::cat(vec![zeros, partial], 4) }
            })
        });
        bias.clone()
    }
}

/// softmax(q·kᵀ + mask)·v per head, H query heads on K key/value heads (Ainslie et al. 2023), exact, tile by tile, as
/// FlashAttention does (Dao et al. 2022): the backward pass computes the scores again.
///
/// `q` `[B, H, L, C]`, already divided by √C, `k` and `v` `[B, K, S, C]` → `[B, H, L, C]`. Scores and softmax are f32. Keys and
/// values are not repeated for the H/K query heads that share them: those become rows of one product.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, view: &View) -> Tensor<4> {
    call(Attention(view.clone()), q, k, v)
}

#[derive(Debug)]
struct Attention(View);

/// The keys or values of a tile `[B, K, m, C]`.
fn gather(x: &Tensor<4>, tile: &Tile) -> Tensor<4> {
    let ranges = tile.full.iter().chain(&tile.partial).cloned();
    let mut parts: Vec<_> = ranges.map(|range| x.clone().slice_dim(2, range)).collect();
    if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(parts, 2) }
}

/// Queries of a tile, those of the heads that share keys below each other: `[B, H, L, C]` → `[B, K, H/K·n, C]`.
fn stack(x: &Tensor<4>, tile: &Tile, groups: usize) -> Tensor<4> {
    let [batch, heads, _, width] = x.dims();
    let n = tile.queries.len();
    x.clone().slice_dim(2, tile.queries.clone()).reshape([batch, groups, heads / groups * n, width])
}

impl Attention {
    /// q·kᵀ in f32 `[B, K, H/K·n, m]`.
    fn scores(q: &Tensor<4>, k: &Tensor<4>) -> Tensor<4> {
        q.clone().matmul(k.clone().swap_dims(2, 3)).cast(DType::F32)
    }

    /// exp(scores + mask − their largest), what is subtracted, and the sums: `[B, K, H/K·n, m]` and `[B, K, H/K·n, 1]` twice.
    fn exponentials(&self, scores: Tensor<4>, index: usize) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let [batch, groups, rows, m] = scores.dims();
        let device = scores.device();
        if cpu::is_flex(&scores) {
            let exponentials = |scores: &mut [f32], mask: &cpu::Mask| cpu::exponentials(scores, m, mask);
            let (e, (largest, sums)) = self.on_cpu(scores, index, exponentials);
            let column = |values| Tensor::from_data(TensorData::new(values, [batch, groups, rows, 1]), &device);
            return (e, column(largest), column(sums));
        }
        let scores = self.masked(scores, index);
        let largest = scores.clone().max_dim(3);
        let e = (scores - largest.clone()).exp();
        (e.clone(), largest, e.sum_dim(3))
    }

    /// p = exp(scores + mask − normaliser) and p·(gradient − delta).
    fn gradients(
        &self,
        scores: Tensor<4>,
        gradient: Tensor<4>,
        normaliser: Tensor<4>,
        delta: Tensor<4>,
        index: usize,
    ) -> (Tensor<4>, Tensor<4>) {
        let m = scores.dims()[3];
        if !cpu::is_flex(&scores) {
            let p = (self.masked(scores, index) - normaliser).exp();
            return (p.clone(), p * (gradient - delta));
        }
        let (p, (ds, ())) = self.on_cpu(scores, index, |scores, mask| {
            cpu::update(gradient, |gradient| {
                cpu::read(&normaliser, |normaliser| {
                    cpu::read(&delta, |delta| cpu::softmax_gradients(scores, gradient, m, mask, normaliser, delta));
                });
            })
        });
        (p, ds)
    }

    fn masked(&self, scores: Tensor<4>, index: usize) -> Tensor<4> {
        let [batch, groups, rows, m] = scores.dims();
        match self.0.bias(index, &scores.device()) {
            Some(bias) => {
                let n = bias.dims()[3];
                (scores.reshape([batch, groups, rows / n, n, m]) + bias).reshape([batch, groups, rows, m])
            }
            None => scores,
        }
    }

    fn on_cpu<R>(
        &self,
        scores: Tensor<4>,
        index: usize,
        f: impl FnOnce(&mut [f32], &cpu::Mask) -> R,
    ) -> (Tensor<4>, R) {
        let [_, groups, rows, _] = scores.dims();
        let tile = &self.0.tiles()[index];
        let n = tile.queries.len();
        let (values, masks, width) = self.0.0.masks[index].get_or_init(|| self.0.mask(tile));
        let (masks, width) = (*masks, *width);
        let row = |row: usize| row / (groups * rows) % masks * n + row % n;
        cpu::update(scores, |scores| f(scores, &cpu::Mask { values, width, row: &row }))
    }
}

impl Function for Attention {
    fn forward(&self, [q, k, v]: Inputs, keep: bool) -> (DispatchTensor, Vec<DispatchTensor>) {
        let mut kept = if keep { vec![q.clone(), k.clone(), v.clone()] } else { Vec::new() };
        let [q, k, v] = [q, k, v].map(Tensor::<4>::from_dispatch);
        let ([batch, heads, _, width], groups, dtype) = (q.dims(), k.dims()[1], q.dtype());
        let (mut parts, mut normalisers) = (Vec::new(), Vec::new());
        for (index, tile) in self.0.tiles().iter().enumerate() {
            let scores = Self::scores(&stack(&q, tile, groups), &gather(&k, tile));
            let (e, largest, sums) = self.exponentials(scores, index);
            let out = e.cast(dtype).matmul(gather(&v, tile)).cast(DType::F32) / sums.clone();
            parts.push(out.cast(dtype).reshape([batch, heads, tile.queries.len(), width]));
            if keep {
                normalisers.push((largest + sums.log()).into_dispatch());
            }
        }
        let out = if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(parts, 2) };
        if keep {
            kept.push(out.clone().into_dispatch());
            kept.extend(normalisers);
        }
        (out.into_dispatch(), kept)
    }

    fn backward(&self, kept: Vec<DispatchTensor>, gradient: DispatchTensor, needed: [bool; 3]) -> InputGradients {
        let mut kept = kept.into_iter().map(Tensor::<4>::from_dispatch);
        let (Some(q), Some(k), Some(v), Some(out)) = (kept.next(), kept.next(), kept.next(), kept.next()) else {
            return [None, None, None];
        };
        let gradient = Tensor::<4>::from_dispatch(gradient);
        let ([batch, heads, _, width], groups, dtype) = (q.dims(), k.dims()[1], q.dtype());
        let zeros = |like: &Tensor<4>| Tensor::<4>::zeros(like.dims(), (&like.device(), DType::F32));
        let (mut d_k, mut d_v) = (zeros(&k), zeros(&v));
        let mut d_q = Vec::new();
        // Σ over a row of p·dp, of which it is enough to know output and gradient.
        let deltas = (out.cast(DType::F32) * gradient.clone().cast(DType::F32)).sum_dim(3);
        for (index, (tile, normaliser)) in self.0.tiles().iter().zip(kept).enumerate() {
            let (q, k, v) = (stack(&q, tile, groups), gather(&k, tile), gather(&v, tile));
            let (gradient, delta) = (stack(&gradient, tile, groups), stack(&deltas, tile, groups));
            let dp = gradient.clone().matmul(v.swap_dims(2, 3)).cast(DType::F32);
            let (p, ds) = self.gradients(Self::scores(&q, &k), dp, normaliser, delta, index);
            let ds = ds.cast(dtype);
            if needed[0] {
                let part = ds.clone().matmul(k);
                d_q.push(part.reshape([batch, heads, tile.queries.len(), width]));
            }
            if needed[1] {
                d_k = scatter(d_k, ds.swap_dims(2, 3).matmul(q), tile);
            }
            if needed[2] {
                d_v = scatter(d_v, p.cast(dtype).swap_dims(2, 3).matmul(gradient), tile);
            }
        }
        let d_q = needed[0].then(|| if d_q.len() == 1 { d_q.swap_remove(0) } else { Tensor::cat(d_q, 2) });
        let d_k = needed[1].then(|| d_k.cast(dtype));
        let d_v = needed[2].then(|| d_v.cast(dtype));
        [d_q, d_k, d_v].map(|gradient| gradient.map(Tensor::into_dispatch))
    }
}

/// Adds the part of a tile `[B, K, m, C]` to the columns of its keys.
fn scatter(mut sum: Tensor<4>, part: Tensor<4>, tile: &Tile) -> Tensor<4> {
    let [batch, groups, _, width] = sum.dims();
    let part = part.cast(DType::F32);
    let mut first = 0;
    for range in tile.full.iter().chain(&tile.partial) {
        let place = [0..batch, 0..groups, range.clone(), 0..width];
        let part = part.clone().slice_dim(2, first..first + range.len());
        // Evaluated before the sum is moved, so that devices can write in place.
        let added = sum.clone().slice(place.clone()) + part;
        sum = sum.slice_assign(place, added);
        first += range.len();
    }
    sum
}
