//! Samples side by side, as a model takes them.

use super::SftDataset;
use crate::error::{Error, Result};
use burn_models::decoder::Padded;

/// Samples padded to one length, with the places where the output head is needed. B samples, L places each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftBatch {
    /// The samples, by number.
    pub samples: Vec<u32>,
    /// Their ids `[B, L]`, padded at the end.
    pub padded: Padded,
    /// For every learned id the place of the one before it: `row · L + column`, from whose hidden state it is to be said.
    /// Ascending.
    pub rows: Vec<u32>,
    /// The learned ids, in the order of `rows`.
    pub targets: Vec<u32>,
}

impl SftBatch {
    /// The number of ids that are not padding.
    pub fn tokens(&self) -> usize {
        self.padded.mask.iter().filter(|token| **token).count()
    }
}

impl SftDataset {
    /// Puts samples side by side.
    ///
    /// # Errors
    /// Fails on no samples, on a sample that does not exist, and on more than 2³² places.
    pub fn batch(&self, samples: &[u32], pad_id: u32) -> Result<SftBatch> {
        if let Some(sample) = samples.iter().find(|sample| **sample as usize >= self.len()) {
            return Err(Error::setting("samples", format!("numbers below {}", self.len()), sample));
        }
        let sequences: Vec<&[u32]> = samples.iter().map(|sample| self.ids(*sample as usize)).collect();
        let longest = sequences.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let places = samples.len().saturating_mul(longest);
        if samples.is_empty() || u32::try_from(places).is_err() {
            return Err(Error::setting("samples", "a batch of 1 to 4,294,967,295 places", places));
        }
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (row, (sample, ids)) in samples.iter().zip(&sequences).enumerate() {
            for span in self.learned(*sample as usize) {
                targets.extend_from_slice(&ids[span.clone()]);
                rows.extend(span.map(|at| (row * longest + at - 1) as u32));
            }
        }
        // A sample has at least two ids, so that this cannot fail.
        let padded = Padded::right(&sequences, pad_id).map_err(|e| Error::setting("samples", "no empty one", e))?;
        Ok(SftBatch { samples: samples.to_vec(), padded, rows, targets })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{SftDataset, SftOptions};
    use burn_models::text::Supervised;
    use std::path::Path;

    #[test]
    fn rows_stand_before_their_targets() {
        let mut dataset = SftDataset::default();
        for (ids, mask) in [(vec![7, 8, 9, 10], [false, false, true, true]), (vec![5, 6], [false, true, true, true])] {
            let mask = mask[..ids.len()].to_vec();
            dataset.push(Path::new("c"), 1, &Supervised { ids, mask }, &SftOptions::default()).unwrap();
        }
        let batch = dataset.batch(&[1, 0], 99).unwrap();
        assert_eq!(batch.padded.ids, [5, 6, 99, 99, 7, 8, 9, 10]);
        assert_eq!((batch.rows.clone(), batch.targets.clone()), (vec![0, 5, 6], vec![6, 9, 10]));
        assert_eq!(batch.tokens(), 6);
        for (row, target) in batch.rows.iter().zip(&batch.targets) {
            assert_eq!(batch.padded.ids[*row as usize + 1], *target);
        }
        assert!(dataset.batch(&[2], 0).is_err() && dataset.batch(&[], 0).is_err());
    }
}
