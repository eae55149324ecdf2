//! Samples together, as a model takes them.

use super::SftDataset;
use super::plan::Packing;
use crate::error::{Error, Result};
use burn::tensor::Device;
use burn_models::decoder::{DecoderInput, Packed, Padded};
use std::collections::HashMap;

/// The tokens of some samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Below each other, filled up to one length.
    Padded(Padded),
    /// Behind each other in one row, what they share once.
    Packed(Packed),
}

/// Samples in one forward pass, with the places where the output head is needed. Places are numbers in the flattened batch.
#[derive(Debug, Clone, PartialEq)]
pub struct SftBatch {
    /// The samples, by number.
    pub samples: Vec<u32>,
    /// Their tokens.
    pub layout: Layout,
    /// The places from whose hidden states something is to be said. Ascending.
    pub places: Vec<u32>,
    /// For every learned id which of `places` it is said from: the place of the id before it. Ascending.
    pub rows: Vec<u32>,
    /// The learned ids, in the order of `rows`.
    pub targets: Vec<u32>,
    /// How much each counts: the weights of all samples that learn it there together.
    pub weights: Vec<f32>,
    /// For every place of the flattened batch the number of ids of its sample, of the first one where several share it.
    pub lengths: Vec<u32>,
    /// Tokens of the samples, each counted as often as samples have it.
    pub tokens: usize,
}

impl SftBatch {
    /// Tokens that the model computes, padding included.
    pub fn computed(&self) -> usize {
        match &self.layout {
            Layout::Padded(padded) => padded.ids.len(),
            Layout::Packed(packed) => packed.ids.len(),
        }
    }

    /// What the summed loss is divided by: the weights of the learned ids of all samples.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|weight| f64::from(*weight)).sum()
    }

    /// The tokens on a device.
    ///
    /// # Errors
    /// When an id is outside the vocabulary.
    pub fn input(&self, vocab_size: usize, device: &Device) -> burn_models::Result<DecoderInput> {
        match &self.layout {
            Layout::Padded(padded) => padded.input(vocab_size, device),
            Layout::Packed(packed) => packed.input(vocab_size, device),
        }
    }
}

impl SftDataset {
    /// Puts samples together. With [`Packing::SharedPrefix`] in the order of their ids, so that each shares as much as can be with
    /// the one before it.
    ///
    /// # Errors
    /// Fails on no samples, on a sample that does not exist, and on more than 2³¹ places.
    pub fn batch(&self, samples: &[u32], packing: Packing, pad_id: u32) -> Result<SftBatch> {
        if let Some(sample) = samples.iter().find(|sample| **sample as usize >= self.len()) {
            return Err(Error::setting("samples", format!("numbers below {}", self.len()), sample));
        }
        let mut samples = samples.to_vec();
        if packing == Packing::SharedPrefix {
            samples.sort_by(|a, b| self.ids(*a as usize).cmp(self.ids(*b as usize)).then(a.cmp(b)));
        }
        let sequences: Vec<&[u32]> = samples.iter().map(|sample| self.ids(*sample as usize)).collect();
        let longest = sequences.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let tokens: usize = sequences.iter().map(|ids| ids.len()).sum();
        let places = if packing == Packing::Padded { samples.len().saturating_mul(longest) } else { tokens };
        if samples.is_empty() || i32::try_from(places).is_err() {
            return Err(Error::setting("samples", "a batch of 1 to 2,147,483,647 places", places));
        }
        let mut learned = Learned::default();
        let mut lengths = Vec::with_capacity(places);
        let layout = if packing == Packing::Padded {
            for (row, (sample, ids)) in samples.iter().zip(&sequences).enumerate() {
                learned.add(self, *sample, ids, |at| (row * longest + at) as u32);
                lengths.resize((row + 1) * longest, ids.len() as u32);
            }
            // A sample has at least two ids, so that this cannot fail.
            Layout::Padded(Padded::right(&sequences, pad_id).map_err(|e| Error::setting("samples", "no empty one", e))?)
        } else {
            let (mut packed, mut path) = (Packed::default(), Vec::new());
            let mut before: &[u32] = &[];
            for (sample, ids) in samples.iter().zip(&sequences) {
                let shared = match packing {
                    Packing::SharedPrefix => before.iter().zip(*ids).take_while(|(a, b)| a == b).count(),
                    _ => 0,
                };
                packed.push(ids, shared, &mut path);
                learned.add(self, *sample, ids, |at| path[at]);
                lengths.resize(packed.ids.len(), ids.len() as u32);
                before = ids;
            }
            Layout::Packed(packed)
        };
        let (places, rows, targets, weights) = learned.finish();
        Ok(SftBatch { samples, layout, places, rows, targets, weights, lengths, tokens })
    }
}

/// Learned ids by the place they are said from.
#[derive(Default)]
struct Learned {
    entries: Vec<(u32, u32, f32)>,
    seen: HashMap<(u32, u32), usize>,
}

impl Learned {
    /// Those of one sample, whose id `at` stands at `place(at)`.
    fn add(&mut self, data: &SftDataset, sample: u32, ids: &[u32], place: impl Fn(usize) -> u32) {
        for (at, own) in data.learned(sample as usize).flat_map(|(span, weight)| span.map(move |at| (at, weight))) {
            let key = (place(at - 1), ids[at]);
            let entry = *self.seen.entry(key).or_insert(self.entries.len());
            match self.entries.get_mut(entry) {
                Some((_, _, weight)) => *weight += own,
                None => self.entries.push((key.0, key.1, own)),
            }
        }
    }

    fn finish(mut self) -> (Vec<u32>, Vec<u32>, Vec<u32>, Vec<f32>) {
        self.entries.sort_by_key(|(place, target, _)| (*place, *target));
        let mut places: Vec<u32> = Vec::new();
        let mut rows = Vec::with_capacity(self.entries.len());
        for (place, _, _) in &self.entries {
            if places.last() != Some(place) {
                places.push(*place);
            }
            rows.push(places.len() as u32 - 1);
        }
        let (targets, weights) = self.entries.iter().map(|(_, target, weight)| (*target, *weight)).unzip();
        (places, rows, targets, weights)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Packing, SftDataset, SftOptions};
    use super::Layout;
    use burn_models::text::Supervised;
    use std::path::Path;

    fn dataset(samples: &[(&[u32], &[usize])]) -> SftDataset {
        let mut dataset = SftDataset::default();
        for (ids, learned) in samples {
            let weights = (0..ids.len()).map(|at| f32::from(u8::from(learned.contains(&at)))).collect();
            let sample = Supervised { ids: ids.to_vec(), weights };
            dataset.push(Path::new("c"), 1, &sample, &SftOptions::default()).unwrap();
        }
        dataset
    }

    #[test]
    fn rows_stand_before_their_targets() {
        let dataset = dataset(&[(&[7, 8, 9, 10], &[2, 3]), (&[5, 6], &[1])]);
        let batch = dataset.batch(&[1, 0], Packing::Padded, 99).unwrap();
        let Layout::Padded(padded) = &batch.layout else { unreachable!() };
        assert_eq!(padded.ids, [5, 6, 99, 99, 7, 8, 9, 10]);
        assert_eq!((batch.places.clone(), batch.targets.clone()), (vec![0, 5, 6], vec![6, 9, 10]));
        assert_eq!((batch.tokens, batch.computed(), batch.weight()), (6, 8, 3.0));
        assert_eq!(batch.lengths, [2, 2, 2, 2, 4, 4, 4, 4]);
        let batch = dataset.batch(&[1, 0], Packing::Packed, 99).unwrap();
        let Layout::Packed(packed) = &batch.layout else { unreachable!() };
        assert_eq!((packed.ids.clone(), packed.positions.clone()), (vec![5, 6, 7, 8, 9, 10], vec![0, 1, 0, 1, 2, 3]));
        assert_eq!((batch.places, batch.targets), (vec![0, 3, 4], vec![6, 9, 10]));
        assert!(dataset.batch(&[2], Packing::Packed, 0).is_err() && dataset.batch(&[], Packing::Padded, 0).is_err());
    }

    #[test]
    fn a_shared_prefix_is_computed_once() {
        // The last two are equal: both teach the same.
        let dataset = dataset(&[(&[1, 2, 3, 4], &[3]), (&[1, 2, 5], &[2]), (&[9, 2], &[1]), (&[1, 2, 5], &[2])]);
        let batch = dataset.batch(&[0, 1, 2, 3], Packing::SharedPrefix, 0).unwrap();
        let Layout::Packed(packed) = &batch.layout else { unreachable!() };
        assert_eq!(packed.ids, [1, 2, 3, 4, 5, 9, 2]);
        assert_eq!(packed.until, [5, 5, 4, 4, 5, 7, 7]);
        assert_eq!((batch.places.clone(), batch.rows.clone()), (vec![1, 2, 5], vec![0, 1, 2]));
        assert_eq!((batch.targets.clone(), batch.weights.clone()), (vec![5, 4, 2], vec![2.0, 1.0, 1.0]));
        assert_eq!((batch.tokens, batch.computed(), batch.weight()), (12, 7, 4.0));
        assert_eq!(batch.lengths, [4, 4, 4, 4, 3, 2, 2]);
    }
}
