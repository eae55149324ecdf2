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

    /// Keeps only these rows of the batch, in this order.
    pub fn select(&mut self, rows: &[usize], device: &Device) {
        let index: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows.len()]), device);
        for layer in &mut self.layers {
            layer.store = layer.store.take().map(|(k, v)| (k.select(0, index.clone()), v.select(0, index.clone())));
        }
        self.tokens = self.tokens.take().map(|tokens| rows.iter().map(|row| tokens[*row].clone()).collect());
        self.batch = rows.len();
    }
}
