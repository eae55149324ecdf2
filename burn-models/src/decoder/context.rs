//! What all layers of a pass share: where tokens stand and what they see.

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::config::DecoderConfig;
use super::input::DecoderInput;
use super::rope::angles;
use crate::ops::{Angles, Tile, View};

/// Most scores of a tile, over all heads and rows of the batch: on the CPU they should stay in its caches, on other devices
/// tiles should be few.
const SCORES: [usize; 2] = [1 << 20, 1 << 26];
/// Most queries of a tile.
const QUERIES: [usize; 2] = [256, 1024];

/// What all layers share in one pass.
#[derive(Debug, Clone)]
pub struct Context {
    /// All places as queries.
    pub(super) all: Queries,
    /// The places whose states are wanted: the last layer computes no others. `None` for all.
    pub(super) wanted: Option<Queries>,
}

/// Places that look at others.
#[derive(Debug, Clone)]
pub(super) struct Queries {
    /// Their columns `[Q]`; `None` for all.
    columns: Option<Tensor<1, Int>>,
    pub(super) angles: Angles,
    pub(super) view: View,
}

impl Queries {
    /// `[B, L, D]` → `[B, Q, D]`.
    pub(super) fn of(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.columns {
            Some(columns) => x.select(1, columns.clone()),
            None => x,
        }
    }
}

/// Sizes that decide how attention is cut into tiles.
pub(super) struct Sizes<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) dtype: DType,
    /// Keys in the cache before this pass: place i of the input stands at column `past + i`.
    pub(super) past: usize,
}

impl Context {
    /// For `input` `[B, L]`. `until` row by row over all `past + L` columns, of one row or of B, as [`View`] explains it. With
    /// `wanted` (ascending places of the input, B = 1) the last layer computes those only.
    pub(super) fn new(
        sizes: &Sizes,
        input: &DecoderInput,
        until: Option<(Vec<i32>, usize)>,
        wanted: Option<&[u32]>,
    ) -> Self {
        let [batch, length] = input.dims();
        let device = input.ids.device().without_autodiff();
        // Constants: beside a network with gradients as well as one without, they stay outside automatic differentiation.
        let turned = angles(sizes.config, input.positions.clone().without_autodiff(), sizes.dtype);
        let limits = Limits::new(sizes, batch, length, &device);
        let view = |at: Vec<i32>| {
            let tiles = tiles(&at, until.as_ref().map(|(until, rows)| (until.as_slice(), *rows)), &limits);
            View::new(at, until.clone(), tiles)
        };
        let first = sizes.past as i32;
        let all =
            Queries { columns: None, angles: turned.clone(), view: view((first..first + length as i32).collect()) };
        let wanted = wanted.map(|columns| {
            let at: Vec<i32> = columns.iter().map(|c| *c as i32).collect();
            let count = at.len();
            let columns = Tensor::<1, Int>::from_data(TensorData::new(at.clone(), [count]), &device);
            let pick = |x: Tensor<4>| x.select(2, columns.clone());
            let angles = Angles { cos: pick(turned.cos.clone()), sin: pick(turned.sin.clone()) };
            Queries { columns: Some(columns), angles, view: view(at.into_iter().map(|at| at + first).collect()) }
        });
        Self { all, wanted }
    }

    /// The queries of a layer.
    pub(super) fn queries(&self, last: bool) -> &Queries {
        match &self.wanted {
            Some(wanted) if last => wanted,
            _ => &self.all,
        }
    }
}

/// How large a tile may be.
struct Limits {
    /// Scores of a tile for one head and row of the batch.
    scores: usize,
    queries: usize,
}

impl Limits {
    fn new(sizes: &Sizes, batch: usize, length: usize, device: &Device) -> Self {
        let kind = usize::from(!is_cpu(device));
        let lines = batch * sizes.config.num_attention_heads;
        Self { scores: SCORES[kind] / lines.max(1), queries: QUERIES[kind].min(length.max(1)) }
    }
}

fn is_cpu(device: &Device) -> bool {
    // The device's own name is the only thing that every build has.
    let name = format!("{device:?}");
    name.contains("Flex") || name.contains("NdArray")
}

/// Cuts queries at ascending columns `at` into tiles. Keys that a query of a tile sees are in the tile, but not always
/// the other way round; masks decide.
fn tiles(at: &[i32], until: Option<(&[i32], usize)>, limits: &Limits) -> Vec<Tile> {
    let runs = until.map(|(until, rows)| runs(until, rows));
    let mut tiles = Vec::new();
    let mut first = 0;
    while first < at.len() {
        // As many keys as the last query of the tile can see at most, so that tiles grow shorter as keys grow more.
        let mut end = (first + limits.queries).min(at.len());
        while end - first > 16 && (end - first) * (at[end - 1] as usize + 1) > limits.scores {
            end = first + (end - first).div_ceil(2);
        }
        let (low, high) = (at[first], at[end - 1]);
        let mut tile = Tile { queries: first..end, full: Vec::new(), partial: Vec::new() };
        match &runs {
            None => {
                push(&mut tile.full, 0..low as usize + 1);
                push(&mut tile.partial, low as usize + 1..high as usize + 1);
            }
            Some(runs) => {
                for run in runs.iter().take_while(|run| run.columns.start <= high as usize) {
                    // Up to the first query's own column order hides nothing.
                    let columns = run.columns.start..run.columns.end.min(high as usize + 1);
                    let middle = columns.end.min(low as usize + 1).max(columns.start);
                    let before = columns.start..middle;
                    if run.least > high {
                        push(&mut tile.full, before);
                    } else if run.most > low {
                        push(&mut tile.partial, before);
                    }
                    let after = middle..columns.end;
                    let next = at[first..end].partition_point(|at| *at < after.start as i32);
                    if at[first..end].get(next).is_some_and(|at| *at < run.most) {
                        push(&mut tile.partial, after);
                    }
                }
                // A query whose row is all padding still needs something to look at.
                if tile.full.is_empty() && tile.partial.is_empty() {
                    push(&mut tile.partial, 0..1);
                }
                if tile.queries.len() == 1 {
                    unite(&mut tile);
                }
            }
        }
        tiles.push(tile);
        first = end;
    }
    tiles
}

/// For one query a mask over all columns costs less than a copy of the keys and values it may see: one range, if there is no gap.
fn unite(tile: &mut Tile) {
    let mut ranges: Vec<Range<usize>> = tile.full.iter().chain(&tile.partial).cloned().collect();
    ranges.sort_by_key(|range| range.start);
    if ranges.len() > 1 && ranges.windows(2).all(|pair| pair[0].end == pair[1].start) {
        tile.full.clear();
        tile.partial = std::iter::once(ranges[0].start..ranges[ranges.len() - 1].end).collect();
    }
}

/// Columns with the same `until` in every row of the batch.
struct Run {
    columns: Range<usize>,
    least: i32,
    most: i32,
}

fn runs(until: &[i32], rows: usize) -> Vec<Run> {
    let keys = until.len() / rows;
    let mut runs: Vec<Run> = Vec::new();
    for column in 0..keys {
        let values = || (0..rows).map(|row| until[row * keys + column]);
        let (least, most) = (values().min().unwrap_or(0), values().max().unwrap_or(0));
        match runs.last_mut() {
            Some(run) if (run.least, run.most) == (least, most) => run.columns.end += 1,
            _ => runs.push(Run { columns: column..column + 1, least, most }),
        }
    }
    runs
}

/// Appends a range, joined to the last one where they touch.
fn push(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}
