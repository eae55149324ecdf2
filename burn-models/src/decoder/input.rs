//! Token sequences of different lengths as one batch.

use std::sync::Arc;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::{Error, Result};

/// A batch on the host: sequences filled up to one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padded {
    /// Token ids `[B, L]`, row-major.
    pub ids: Vec<u32>,
    /// Which of them are tokens, not padding.
    pub mask: Vec<bool>,
    /// B.
    pub batch: usize,
    /// L.
    pub length: usize,
}

impl Padded {
    /// Padding before each sequence, for generation: every sequence ends in the last column.
    ///
    /// # Errors
    /// When there is no sequence, or an empty one.
    pub fn left(sequences: &[impl AsRef<[u32]>], pad_id: u32) -> Result<Self> {
        Self::new(sequences, pad_id, true)
    }

    /// Padding after each sequence, for training and embedding.
    ///
    /// # Errors
    /// When there is no sequence, or an empty one.
    pub fn right(sequences: &[impl AsRef<[u32]>], pad_id: u32) -> Result<Self> {
        Self::new(sequences, pad_id, false)
    }

    fn new(sequences: &[impl AsRef<[u32]>], pad_id: u32, left: bool) -> Result<Self> {
        let (batch, length) = (sequences.len(), sequences.iter().map(|s| s.as_ref().len()).max().unwrap_or(0));
        if let Some(row) = sequences.iter().position(|s| s.as_ref().is_empty()) {
            return Err(Error::Input(format!("sequence {row} of {batch} is empty")));
        }
        if batch == 0 {
            return Err(Error::Input("a batch of no sequences".into()));
        }
        let (mut ids, mut mask) = (Vec::with_capacity(batch * length), Vec::with_capacity(batch * length));
        for sequence in sequences.iter().map(AsRef::as_ref) {
            let before = if left { length - sequence.len() } else { 0 };
            let after = length - sequence.len() - before;
            for (count, token) in [(before, false), (sequence.len(), true), (after, false)] {
                ids.extend(std::iter::repeat_n(pad_id, if token { 0 } else { count }));
                ids.extend(if token { sequence } else { &[] });
                mask.extend(std::iter::repeat_n(token, count));
            }
        }
        Ok(Self { ids, mask, batch, length })
    }

    /// Positions `[B, L]`: how many tokens of the row come before; 0 for padding.
    pub fn positions(&self) -> Vec<i32> {
        let mut positions = Vec::with_capacity(self.mask.len());
        for row in self.mask.chunks(self.length.max(1)) {
            let mut next = 0;
            for &token in row {
                positions.push(if token { next } else { 0 });
                next += i32::from(token);
            }
        }
        positions
    }

    /// The batch on a device. The mask is left out when there is no padding.
    ///
    /// # Errors
    /// When an id is outside the vocabulary: devices do not check.
    pub fn input(&self, vocab_size: usize, device: &Device) -> Result<DecoderInput> {
        if let Some(at) = self.ids.iter().position(|&id| id as usize >= vocab_size) {
            let (row, id) = (at / self.length.max(1), self.ids[at]);
            return Err(Error::Input(format!("token id {id} in row {row} is outside the vocabulary of {vocab_size}")));
        }
        let shape = [self.batch, self.length];
        let ids: Vec<i32> = self.ids.iter().map(|&id| id as i32).collect();
        let padded = self.mask.contains(&false);
        Ok(DecoderInput {
            ids: Tensor::from_data(TensorData::new(ids, shape), device),
            mask: padded.then(|| Tensor::from_data(TensorData::new(self.mask.clone(), shape), device)),
            positions: Tensor::from_data(TensorData::new(self.positions(), shape), device),
            until: None,
            noise: None,
        })
    }
}

/// Sequences in one row without padding, what they share written once: a forest of tokens, each tree in depth-first order. A token
/// sees itself and its ancestors, and stands as far from the root as in its own sequence, so that nothing a network
/// computes for it depends on what else is in the row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Token ids `[L]`.
    pub ids: Vec<u32>,
    /// The depth of each.
    pub positions: Vec<i32>,
    /// The place behind the last descendant of each: no token from there on sees it.
    pub until: Vec<i32>,
}

impl Packed {
    /// Adds a sequence of which the first `shared` tokens are those at `path[..shared]`; `path` holds the places of the last
    /// added sequence, and then of this one. Nothing is shared with a sequence that begins a tree.
    pub fn push(&mut self, sequence: &[u32], shared: usize, path: &mut Vec<u32>) {
        path.truncate(shared);
        let start = self.ids.len();
        let end = (start + sequence.len() - shared) as i32;
        for (depth, id) in sequence.iter().enumerate().skip(shared) {
            path.push(self.ids.len() as u32);
            self.ids.push(*id);
            self.positions.push(depth as i32);
            self.until.push(end);
        }
        for place in &path[..shared] {
            self.until[*place as usize] = end;
        }
    }

    /// The row on a device.
    ///
    /// # Errors
    /// When it is empty, or an id is outside the vocabulary: devices do not check.
    pub fn input(&self, vocab_size: usize, device: &Device) -> Result<DecoderInput> {
        self.input_from(0, vocab_size, device)
    }

    /// The row from a place on, for a cache that holds what stands before. `until` is that of the whole row.
    pub(super) fn input_from(&self, first: usize, vocab_size: usize, device: &Device) -> Result<DecoderInput> {
        if self.ids.len() <= first {
            return Err(Error::Input("a batch of no tokens".into()));
        }
        if let Some(id) = self.ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(Error::Input(format!("token id {id} is outside the vocabulary of {vocab_size}")));
        }
        let row = |values: Vec<i32>| {
            let shape = [1, values.len()];
            Tensor::<2, Int>::from_data(TensorData::new(values, shape), device)
        };
        Ok(DecoderInput {
            ids: row(self.ids[first..].iter().map(|id| *id as i32).collect()),
            mask: None,
            positions: row(self.positions[first..].to_vec()),
            until: Some(self.until.clone().into()),
            noise: None,
        })
    }
}

/// A batch on a device.
#[derive(Debug, Clone)]
pub struct DecoderInput {
    /// Token ids `[B, L]`, all below V.
    pub ids: Tensor<2, Int>,
    /// Where there are tokens `[B, L]`; `None` for everywhere. Padding is attended to by nothing; what comes out at
    /// padding is finite and without meaning.
    pub mask: Option<Tensor<2, Bool>>,
    /// Rotary positions `[B, L]`.
    pub positions: Tensor<2, Int>,
    /// [`Packed::until`] of a packed row.
    pub until: Option<Arc<[i32]>>,
    /// How far from 0 the uniform noise reaches that is added to each element of a token's embedding `[B, L]`, f32, without autodiff.
    pub noise: Option<Tensor<2>>,
}

impl DecoderInput {
    /// What each place sees, as [`View`](crate::ops::View) explains it. Reads the mask back to the host where there is one.
    pub(super) fn visible(&self) -> Option<(Vec<i32>, usize)> {
        if let Some(until) = &self.until {
            return Some((until.to_vec(), 1));
        }
        let [batch, length] = self.dims();
        let mask = self.host_mask()?;
        let mut until = vec![i32::MAX; batch * length];
        for (tokens, until) in mask.chunks(length.max(1)).zip(until.chunks_mut(length.max(1))) {
            // Padding behind the last token is hidden by order.
            let last = tokens.iter().rposition(|token| *token).unwrap_or(0);
            for (until, token) in until.iter_mut().zip(tokens).take(last) {
                *until = if *token { i32::MAX } else { 0 };
            }
        }
        until.contains(&0).then_some((until, batch))
    }

    /// The same on another device.
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            ids: self.ids.to_device(device),
            mask: self.mask.map(|mask| mask.to_device(device)),
            positions: self.positions.to_device(device),
            until: self.until,
            noise: self.noise.map(|noise| noise.to_device(&device.clone().without_autodiff())),
        }
    }

    /// The mask on the host, row by row.
    pub(super) fn host_mask(&self) -> Option<Vec<bool>> {
        let mask = self.mask.clone()?.without_autodiff();
        Some(mask.into_data().iter::<bool>().collect())
    }

    /// B and L.
    pub fn dims(&self) -> [usize; 2] {
        self.ids.dims()
    }

    /// The column of each row's last token `[B]`.
    pub fn last_columns(&self) -> Tensor<1, Int> {
        let [batch, length] = self.dims();
        let columns = Tensor::<1, Int>::arange(0..length as i64, &self.ids.device()).reshape([1, length]);
        match &self.mask {
            Some(mask) => (mask.clone().int() * columns).max_dim(1).reshape([batch]),
            None => columns.slice_dim(1, length - 1..length).expand([batch, 1]).reshape([batch]),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_written_once() {
        let (mut packed, mut path) = (Packed::default(), Vec::new());
        packed.push(&[7, 8, 1, 2], 0, &mut path);
        packed.push(&[7, 8, 3], 2, &mut path);
        packed.push(&[7, 9], 1, &mut path);
        packed.push(&[5], 0, &mut path);
        assert_eq!(packed.ids, [7, 8, 1, 2, 3, 9, 5]);
        assert_eq!(packed.positions, [0, 1, 2, 3, 2, 1, 0]);
        assert_eq!(packed.until, [6, 5, 4, 4, 5, 6, 7]);
        assert_eq!(path, [6]);
    }

    #[test]
    fn pads_on_either_side() {
        let sequences = [vec![5, 6, 7], vec![8]];
        let left = Padded::left(&sequences, 1).unwrap();
        assert_eq!(left.ids, [5, 6, 7, 1, 1, 8]);
        assert_eq!(left.mask, [true, true, true, false, false, true]);
        assert_eq!(left.positions(), [0, 1, 2, 0, 0, 0]);
        let right = Padded::right(&sequences, 1).unwrap();
        assert_eq!(right.ids, [5, 6, 7, 8, 1, 1]);
        assert_eq!(right.positions(), [0, 1, 2, 0, 0, 0]);
        assert_eq!((right.batch, right.length), (2, 3));
        assert!(Padded::right(&[vec![1], vec![]], 0).unwrap_err().to_string().contains("sequence 1 of 2"));
        assert!(Padded::right(&Vec::<Vec<u32>>::new(), 0).is_err());
    }
}
