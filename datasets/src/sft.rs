//! Samples for supervised training of a causal language model: token ids, and which of them are learned.

mod batch;
mod counts;
mod disk;
mod ids;
mod options;
mod overlong;
mod plan;
mod read;
mod sharing;

pub use batch::{Layout, SftBatch};
pub use counts::{SftCounts, SourceReport, counts_table};
pub use options::{OnError, Overlong, SftOptions};
pub use plan::{EpochPlan, Packing, PlanConfig, StepPlan};
pub use read::{Part, SftSelection};
pub use sharing::Sharing;

use crate::chat::Amount;
use crate::error::Result;
use crate::json::wrong;
use burn_models::text::Supervised;
use ids::Ids;
use overlong::{Fitted, fit};
use std::ops::Range;
use std::path::Path;

/// Samples in one row of ids. A token costs 4 bytes, in memory or in a file ([`SftDataset::read_into`]), a sample about 40 more in
/// memory.
#[derive(Debug, Clone, PartialEq)]
pub struct SftDataset {
    ids: Ids,
    offsets: Vec<u64>,
    /// `[first, end)` of learned ids of one weight, counted from the sample's first.
    spans: Vec<[u32; 2]>,
    /// How much each of them counts.
    span_weights: Vec<f32>,
    span_offsets: Vec<u64>,
    lines: Vec<u32>,
    /// The samples before the end of each source, and how much of the source an epoch takes.
    parts: Vec<(u64, Amount)>,
    counts: SftCounts,
    sources: Vec<SourceReport>,
}

impl Default for SftDataset {
    fn default() -> Self {
        let counts = SftCounts::default();
        Self {
            ids: Ids::Owned(Vec::new()),
            offsets: vec![0],
            spans: Vec::new(),
            span_weights: Vec::new(),
            span_offsets: vec![0],
            lines: Vec::new(),
            parts: Vec::new(),
            counts,
            sources: Vec::new(),
        }
    }
}

impl SftDataset {
    /// Adds one sample, or counts it as too long; `path` and `line` are its place in messages.
    ///
    /// The first id is learned by nothing: there is nothing before it to say it from.
    ///
    /// # Errors
    /// A sample in which nothing is learned, and one that is too long where that is an error.
    pub fn push(&mut self, path: &Path, line: u64, sample: &Supervised, options: &SftOptions) -> Result<()> {
        let mut counts = self.counts;
        counts.read += 1;
        self.take(path, line, fit(sample.clone(), options), options, &mut counts)?;
        self.counts = counts;
        Ok(())
    }

    /// Adds a sample that is within the limit, and counts it.
    fn take(
        &mut self,
        path: &Path,
        line: u64,
        fitted: Fitted,
        options: &SftOptions,
        counts: &mut SftCounts,
    ) -> Result<()> {
        let (Supervised { ids, weights }, cut) = match fitted {
            Fitted::Whole(sample) => (sample, false),
            Fitted::Cut(sample) => (sample, true),
            Fitted::TooLong(length) if options.overlong == Overlong::Error => {
                let expected = format!("at most {} tokens", options.max_length.unwrap_or_default());
                let remedy = "shorten it, raise max_length, or set overlong: Delete";
                return Err(wrong(path, line, "", expected, length.to_string(), remedy));
            }
            Fitted::TooLong(_) => {
                counts.overlong += 1;
                return Ok(());
            }
        };
        let mut spans: Vec<[u32; 2]> = Vec::new();
        let mut span_weights: Vec<f32> = Vec::new();
        for (at, &weight) in (0..ids.len() as u32).zip(&weights).skip(1).filter(|(_, weight)| **weight > 0.0) {
            match (spans.last_mut(), span_weights.last()) {
                (Some([_, end]), Some(before)) if *end == at && *before == weight => *end = at + 1,
                _ => {
                    spans.push([at, at + 1]);
                    span_weights.push(weight);
                }
            }
        }
        if spans.is_empty() {
            let found = format!("none among {}", ids.len());
            return Err(wrong(path, line, "", "at least one token to learn", found, "an assistant's reply is missing"));
        }
        counts.truncated += u64::from(cut);
        counts.tokens += ids.len() as u64;
        counts.supervised += spans.iter().map(|[first, end]| u64::from(end - first)).sum::<u64>();
        counts.longest = counts.longest.max(ids.len() as u64);
        self.ids.extend(&ids);
        // Some ids may be on their way into a file.
        let before = self.offsets.last().copied().unwrap_or(0);
        self.offsets.push(before + ids.len() as u64);
        self.spans.extend(spans);
        self.span_weights.extend(span_weights);
        self.span_offsets.push(self.spans.len() as u64);
        self.lines.push(u32::try_from(line).unwrap_or(u32::MAX));
        Ok(())
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What became of the conversations.
    pub fn counts(&self) -> SftCounts {
        self.counts
    }

    /// What became of the records of each source; nothing where samples were pushed one by one.
    pub fn sources(&self) -> &[SourceReport] {
        &self.sources
    }

    /// The samples of each source, and how much of them an epoch takes: first and end, and copies and further ones.
    fn parts(&self) -> Vec<(Range<usize>, (usize, usize))> {
        let mut first = 0;
        let part = |(end, amount): &(u64, Amount)| {
            let range = first..*end as usize;
            first = range.end;
            (range.clone(), amount.of(range.len()))
        };
        let mut parts: Vec<_> = self.parts.iter().map(part).collect();
        if first < self.len() {
            parts.push((first..self.len(), (1, 0)));
        }
        parts
    }

    /// The ids of a sample.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn ids(&self, sample: usize) -> &[u32] {
        &self.ids[self.offsets[sample] as usize..self.offsets[sample + 1] as usize]
    }

    /// The ranges of a sample's ids that are learned, each with the weight of its tokens in the loss: ascending, apart or of
    /// different weights, not empty, the first id in none.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn learned(&self, sample: usize) -> impl Iterator<Item = (Range<usize>, f32)> {
        let own = self.span_offsets[sample] as usize..self.span_offsets[sample + 1] as usize;
        let weights = self.span_weights[own.clone()].iter().copied();
        self.spans[own].iter().map(|[first, end]| *first as usize..*end as usize).zip(weights)
    }

    /// The line of the file that a sample comes from, from 1.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn line(&self, sample: usize) -> u32 {
        self.lines[sample]
    }

    /// The number of ids of every sample.
    pub fn lengths(&self) -> Vec<u32> {
        self.offsets.windows(2).map(|bounds| (bounds[1] - bounds[0]) as u32).collect()
    }

    /// The ids of some samples together, and those of them that are learned.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn tokens(&self, samples: &[u32]) -> (u64, u64) {
        samples.iter().fold((0, 0), |(tokens, learned), sample| {
            let spans = self.learned(*sample as usize).map(|(span, _)| span.len() as u64).sum::<u64>();
            (tokens + self.ids(*sample as usize).len() as u64, learned + spans)
        })
    }

    /// The weights of all learned ids of some samples together: what their summed loss is divided by. Where every token counts
    /// once, their number.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn weight(&self, samples: &[u32]) -> f64 {
        let spans = samples.iter().flat_map(|sample| self.learned(*sample as usize));
        spans.map(|(span, weight)| span.len() as f64 * f64::from(weight)).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(mask: &[u8]) -> Supervised {
        let ids = (100..100 + mask.len() as u32).collect();
        Supervised { ids, weights: mask.iter().map(|bit| f32::from(*bit)).collect() }
    }

    fn dataset() -> SftDataset {
        let mut dataset = SftDataset::default();
        let options = SftOptions { max_length: Some(6), ..SftOptions::default() };
        let path = Path::new("c.jsonl");
        dataset.push(path, 1, &sample(&[0, 0, 1, 1, 0, 1]), &options).unwrap();
        dataset.push(path, 3, &sample(&[0, 0, 0, 0, 0, 0, 1]), &options).unwrap();
        dataset.push(path, 4, &sample(&[1, 1]), &options).unwrap();
        dataset
    }

    #[test]
    fn samples_are_kept_compactly() {
        let dataset = dataset();
        assert_eq!((dataset.len(), dataset.ids(0).len(), dataset.ids(1)), (2, 6, &[100, 101][..]));
        assert_eq!(dataset.learned(0).collect::<Vec<_>>(), [(2..4, 1.0), (5..6, 1.0)]);
        assert_eq!(dataset.learned(1).next(), Some((1..2, 1.0)));
        assert_eq!((dataset.line(1), dataset.lengths()), (4, vec![6, 2]));
        assert_eq!(dataset.weight(&[0, 1]), 4.0);
        let counts = SftCounts { read: 3, overlong: 1, tokens: 8, supervised: 4, longest: 6, ..SftCounts::default() };
        assert_eq!(dataset.counts(), counts);
    }

    #[test]
    fn a_sample_must_teach_something() {
        let mut dataset = SftDataset::default();
        let options = SftOptions { max_length: Some(2), overlong: Overlong::Error, ..SftOptions::default() };
        let mut push = |mask: &[u8]| dataset.push(Path::new("c.jsonl"), 9, &sample(mask), &options).unwrap_err();
        let error = push(&[1, 0]).to_string();
        assert!(error.starts_with("c.jsonl:9: expected at least one token to learn, found none among 2"), "{error}");
        assert!(push(&[]).to_string().contains("none among 0"));
        assert!(push(&[0, 1, 1]).to_string().contains("c.jsonl:9: expected at most 2 tokens, found 3"));
    }

    #[test]
    fn comes_back_from_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let load = || SftDataset::load(folder.path());
        assert!(!SftDataset::is_in(folder.path()) && load().is_err());
        for dataset in [SftDataset::default(), dataset()] {
            dataset.save(folder.path()).unwrap();
            assert!(SftDataset::is_in(folder.path()));
            assert_eq!(load().unwrap(), dataset);
        }
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let whole = std::fs::read(&path).unwrap();
            let mut bytes = whole.clone();
            bytes[whole.len() - 1] ^= 4;
            std::fs::write(&path, bytes).unwrap();
            let error = load().unwrap_err().to_string();
            assert!(error.contains("checksum") && error.contains("delete its folder"), "{error}");
            std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
            assert!(load().is_err());
            std::fs::write(&path, &whole).unwrap();
        }
        assert_eq!(load().unwrap(), dataset());
    }

    #[test]
    fn samples_are_added_to_those_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        dataset().save(folder.path()).unwrap();
        let (mut more, mut all) = (SftDataset::load(folder.path()).unwrap(), dataset());
        for data in [&mut more, &mut all] {
            data.push(Path::new("c"), 7, &sample(&[0, 1]), &SftOptions::default()).unwrap();
        }
        assert_eq!(more, all);
    }
}
