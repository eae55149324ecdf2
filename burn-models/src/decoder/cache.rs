//! Keys and values of tokens already processed.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::config::DecoderConfig;

/// Columns by which a full cache grows at least.
const GROWTH: usize = 256;

/// Keys and values of one layer: `[B, K, capacity, C]`, of which the first `len` columns are filled.
#[derive(Debug)]
pub struct LayerCache {
    /// `None` only while an update is under way: the tensors are moved through it, so that devices can write in place.
    store: Option<(Tensor<4>, Tensor<4>)>,
    len: usize,
}

impl LayerCache {
    /// Appends `[B, K, L, C]` each and returns all filled columns.
    pub(super) fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, length, width] = k.dims();
        let end = self.len + length;
        let (keys, values) = match self.store.take() {
            Some((keys, values)) if keys.dims()[2] >= end => (keys, values),
            full => {
                let capacity = end.max(2 * self.len).max(self.len + GROWTH);
                let grow = |old: Option<Tensor<4>>, like: &Tensor<4>| {
                    let fresh = Tensor::zeros([batch, heads, capacity, width], (&like.device(), like.dtype()));
                    match old {
                        Some(old) => fresh
                            .slice_assign([0..batch, 0..heads, 0..self.len, 0..width], old.slice_dim(2, 0..self.len)),
                        None => fresh,
                    }
                };
                let (keys, values) = full.unzip();
                (grow(keys, &k), grow(values, &v))
            }
        };
        let place = [0..batch, 0..heads, self.len..end, 0..width];
        let keys = keys.slice_assign(place.clone(), k);
        let values = values.slice_assign(place, v);
        self.len = end;
        let filled = (keys.clone().slice_dim(2, 0..end), values.clone().slice_dim(2, 0..end));
        self.store = Some((keys, values));
        filled
    }
}

/// The cache of a whole decoder for one batch. Only for models without gradients.
#[derive(Debug)]
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    /// For every row which columns hold tokens; `None` while there is no padding.
    tokens: Option<Vec<Vec<bool>>>,
    batch: usize,
    pub(super) len: usize,
}

impl KvCache {
    /// An empty cache with room for `capacity` columns; it grows when they are used up.
    pub fn new(config: &DecoderConfig, batch: usize, capacity: usize, dtype: DType, device: &Device) -> Self {
        let shape = [batch, config.num_key_value_heads, capacity, config.head_dim];
        let layer = || {
            let empty = || Tensor::zeros(shape, (device, dtype));
            LayerCache { store: (capacity > 0).then(|| (empty(), empty())), len: 0 }
        };
        Self { layers: (0..config.num_hidden_layers).map(|_| layer()).collect(), tokens: None, batch, len: 0 }
    }

    /// Filled columns.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been processed yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds columns: `mask` says row by row which of them are tokens.
    pub(super) fn extend(&mut self, mask: Option<Vec<bool>>, length: usize) {
        if self.tokens.is_none() && mask.is_some() {
            self.tokens = Some(vec![vec![true; self.len]; self.batch]);
        }
        if let Some(tokens) = &mut self.tokens {
            for (row, tokens) in tokens.iter_mut().enumerate() {
                match &mask {
                    Some(mask) => tokens.extend_from_slice(&mask[row * length..(row + 1) * length]),
                    None => tokens.resize(self.len + length, true),
                }
            }
        }
        self.len += length;
    }

    /// What is seen of the columns, row by row: nothing of padding.
    pub(super) fn until(&self) -> Option<(Vec<i32>, usize)> {
        let tokens = self.tokens.as_ref()?;
        let until = tokens.iter().flatten().map(|token| if *token { i32::MAX } else { 0 });
        Some((until.collect(), self.batch))
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.batch
    }

    /// Some of its rows, then all of another cache's, with room for `room` more columns. Rows end in the last column, as they do
    /// in both; columns at the beginning in which none of them has a token are left out.
    pub fn joined(&self, rows: &[usize], other: Option<&Self>, room: usize) -> Self {
        let all: Vec<usize> = (0..other.map_or(0, Self::rows)).collect();
        let parts: Vec<Part> =
            std::iter::once(Part::new(self, rows)).chain(other.map(|other| Part::new(other, &all))).collect();
        let length = parts.iter().map(Part::len).max().unwrap_or(0);
        let batch = parts.iter().map(|part| part.rows.len()).sum();
        let pick = |layer: usize, values: bool| {
            let mut first = 0;
            parts.iter().fold(None, |sum: Option<Tensor<4>>, part| {
                let x = part.tensor(layer, values)?;
                let [count, heads, columns, width] = x.dims();
                let sum = sum
                    .unwrap_or_else(|| Tensor::zeros([batch, heads, length + room, width], (&x.device(), x.dtype())));
                let place = [first..first + count, 0..heads, length - columns..length, 0..width];
                first += count;
                Some(sum.slice_assign(place, x))
            })
        };
        let layer = |layer| LayerCache { store: pick(layer, false).zip(pick(layer, true)), len: length };
        let layers = (0..self.layers.len()).map(layer).collect();
        let tokens = parts.iter().flat_map(|part| part.tokens(length)).collect();
        Self { layers, tokens: padded(tokens), batch, len: length }
    }

    /// The sequences that stand at these columns of its only row, as rows that end in the last column, with room for `room` more.
    pub fn branches(&self, paths: &[&[u32]], room: usize) -> Self {
        let (batch, length) = (paths.len(), paths.iter().map(|path| path.len()).max().unwrap_or(0));
        let mut places = Vec::with_capacity(batch * length);
        for path in paths {
            // What stands in padding is not seen.
            places.extend(std::iter::repeat_n(0, length - path.len()));
            places.extend(path.iter().map(|place| *place as i32));
        }
        let places = TensorData::new(places, [batch * length]);
        let pick = |x: &Tensor<4>| {
            let [_, heads, _, width] = x.dims();
            let at = Tensor::<1, Int>::from_data(places.clone(), &x.device());
            let rows = x.clone().select(2, at).reshape([heads, batch, length, width]).swap_dims(0, 1);
            let whole = Tensor::zeros([batch, heads, length + room, width], (&x.device(), x.dtype()));
            whole.slice_assign([0..batch, 0..heads, 0..length, 0..width], rows)
        };
        let layer = |layer: &LayerCache| {
            let store = layer.store.as_ref().map(|(keys, values)| (pick(keys), pick(values)));
            LayerCache { store, len: length }
        };
        let tokens = paths.iter().map(|path| (0..length).map(|column| column + path.len() >= length).collect());
        let tokens = padded(tokens.collect());
        Self { layers: self.layers.iter().map(layer).collect(), tokens, batch, len: length }
    }
}

/// Which columns hold tokens, where some do not.
fn padded(tokens: Vec<Vec<bool>>) -> Option<Vec<Vec<bool>>> {
    tokens.iter().flatten().any(|token| !token).then_some(tokens)
}

/// Some rows of a cache, from the first column with a token of theirs.
struct Part<'a> {
    cache: &'a KvCache,
    rows: Vec<usize>,
    first: usize,
}

impl<'a> Part<'a> {
    fn new(cache: &'a KvCache, rows: &[usize]) -> Self {
        let first = match &cache.tokens {
            Some(tokens) => {
                let first = |row: &usize| tokens[*row].iter().position(|token| *token).unwrap_or(cache.len);
                rows.iter().map(first).min().unwrap_or(cache.len)
            }
            None if rows.is_empty() => cache.len,
            None => 0,
        };
        Self { cache, rows: rows.to_vec(), first }
    }

    fn len(&self) -> usize {
        self.cache.len - self.first
    }

    /// Keys or values `[rows, K, len, C]` of a layer.
    fn tensor(&self, layer: usize, values: bool) -> Option<Tensor<4>> {
        let (keys, all) = self.cache.layers.get(layer)?.store.as_ref()?;
        let x = if values { all } else { keys }.clone().slice_dim(2, self.first..self.cache.len);
        if self.rows.iter().copied().eq(0..self.cache.batch) {
            return Some(x);
        }
        let rows: Vec<i32> = self.rows.iter().map(|row| *row as i32).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [self.rows.len()]), &x.device());
        Some(x.select(0, rows))
    }

    /// Which of `length` columns hold tokens, row by row.
    fn tokens(&self, length: usize) -> impl Iterator<Item = Vec<bool>> {
        self.rows.iter().map(move |row| {
            let mut tokens = vec![false; length - self.len()];
            match &self.cache.tokens {
                Some(all) => tokens.extend_from_slice(&all[*row][self.first..]),
                None => tokens.resize(length, true),
            }
            tokens
        })
    }
}
