//! Samples for supervised training of a causal language model: token ids, and which of them are learned.

mod batch;
mod disk;
mod plan;
mod sharing;

pub use batch::{Layout, SftBatch};
pub use plan::{EpochPlan, Packing, PlanConfig, StepPlan};
pub use sharing::Sharing;

use crate::chat::{ChatReader, ChatRecord};
use crate::error::{Error, Result};
use crate::json::wrong;
use burn_models::text::{SuperviseOptions, Supervised, Tokenizer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;

/// How many conversations are tokenised at a time.
const CHUNK: usize = 512;

/// What to do with a sample that is longer than the limit. It is never cut: a cut sample would teach to stop early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Overlong {
    /// Leave it out and count it.
    #[default]
    Delete,
    /// Stop, naming its place.
    Error,
}

/// How conversations become samples.
#[derive(Debug, Clone, Default)]
pub struct SftOptions {
    /// How a conversation is written, and which replies are learned.
    pub supervise: SuperviseOptions,
    /// The most tokens of a sample; none for no limit.
    pub max_length: Option<usize>,
    /// What to do with longer ones.
    pub overlong: Overlong,
}

/// What became of the conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SftCounts {
    /// Conversations read.
    pub read: u64,
    /// Conversations left out because they are longer than the limit.
    pub overlong: u64,
    /// Tokens of the samples.
    pub tokens: u64,
    /// Tokens that are learned.
    pub supervised: u64,
    /// The length of the longest sample.
    pub longest: u64,
}

/// Samples in one row of ids. A sample costs 4 bytes a token and about 30 more.
#[derive(Debug, Clone, PartialEq)]
pub struct SftDataset {
    ids: Vec<u32>,
    offsets: Vec<u64>,
    /// `[first, end)` of learned ids of one weight, counted from the sample's first.
    spans: Vec<[u32; 2]>,
    /// How much each of them counts.
    span_weights: Vec<f32>,
    span_offsets: Vec<u64>,
    lines: Vec<u32>,
    counts: SftCounts,
}

impl Default for SftDataset {
    fn default() -> Self {
        let counts = SftCounts::default();
        Self {
            ids: Vec::new(),
            offsets: vec![0],
            spans: Vec::new(),
            span_weights: Vec::new(),
            span_offsets: vec![0],
            lines: Vec::new(),
            counts,
        }
    }
}

impl SftDataset {
    /// Reads and tokenises one file of conversations: see [`SftDataset::from_chats`].
    ///
    /// # Errors
    /// The same.
    pub fn from_chat(path: &Path, tokenizer: &Tokenizer, options: &SftOptions) -> Result<Self> {
        Self::from_chats(&[path], tokenizer, options)
    }

    /// Reads and tokenises files of conversations, one after the other as if they were one; lines count on from file to file,
    /// but not in messages.
    ///
    /// # Errors
    /// Fails on a malformed line, on a conversation that the chat template refuses or in which nothing is learned, and
    /// when no sample is left; each names its place.
    pub fn from_chats<P: AsRef<Path>>(paths: &[P], tokenizer: &Tokenizer, options: &SftOptions) -> Result<Self> {
        let mut dataset = Self::default();
        let mut before = 0;
        for path in paths {
            before += dataset.read(path.as_ref(), before, tokenizer, options)?;
        }
        if dataset.is_empty() {
            let SftCounts { read, overlong, .. } = dataset.counts;
            let limit = options.max_length.unwrap_or_default();
            let detail = format!("{read} conversations, {overlong} of them longer than {limit} tokens");
            let path = paths.first().map(|path| path.as_ref().to_path_buf()).unwrap_or_default();
            return Err(Error::Empty { path, detail });
        }
        Ok(dataset)
    }

    /// Adds the conversations of one file, after `before` lines of others; gives the number of its lines.
    fn read(&mut self, path: &Path, before: u64, tokenizer: &Tokenizer, options: &SftOptions) -> Result<u64> {
        let mut reader = ChatReader::open(path)?;
        loop {
            let chunk = reader.by_ref().take(CHUNK).collect::<Result<Vec<ChatRecord>>>()?;
            if chunk.is_empty() {
                break;
            }
            let samples: Vec<Result<Vec<Supervised>>> = chunk
                .par_iter()
                .map(|record| {
                    let tools = record.tools.as_deref();
                    tokenizer.supervised_chats(&record.messages, tools, &options.supervise).map_err(|source| {
                        Error::Text { path: path.to_path_buf(), line: record.line, source: Box::new(source) }
                    })
                })
                .collect();
            for (record, sample) in chunk.iter().zip(samples) {
                for sample in sample? {
                    let kept = self.len();
                    self.push(path, record.line, &sample, options)?;
                    if let Some(line) = self.lines.get_mut(kept) {
                        *line = u32::try_from(before + record.line).unwrap_or(u32::MAX);
                    }
                }
            }
        }
        Ok(reader.lines())
    }

    /// Adds one sample, or counts it as too long; `path` and `line` are its place in messages.
    ///
    /// The first id is learned by nothing: there is nothing before it to say it from.
    pub fn push(&mut self, path: &Path, line: u64, sample: &Supervised, options: &SftOptions) -> Result<()> {
        let Supervised { ids, weights } = sample;
        self.counts.read += 1;
        if let Some(limit) = options.max_length
            && ids.len() > limit
        {
            if options.overlong == Overlong::Error {
                let expected = format!("at most {limit} tokens");
                let remedy = "shorten it, raise max_length, or set overlong: Delete";
                return Err(wrong(path, line, "", expected, ids.len().to_string(), remedy));
            }
            self.counts.overlong += 1;
            return Ok(());
        }
        let mut spans: Vec<[u32; 2]> = Vec::new();
        let mut span_weights: Vec<f32> = Vec::new();
        for (at, &weight) in (0..ids.len() as u32).zip(weights).skip(1).filter(|(_, weight)| **weight > 0.0) {
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
        self.counts.tokens += ids.len() as u64;
        self.counts.supervised += spans.iter().map(|[first, end]| u64::from(end - first)).sum::<u64>();
        self.counts.longest = self.counts.longest.max(ids.len() as u64);
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len() as u64);
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
        let counts = SftCounts { read: 3, overlong: 1, tokens: 8, supervised: 4, longest: 6 };
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
        let path = folder.path().join("samples.safetensors");
        dataset().save(&path).unwrap();
        assert_eq!(SftDataset::load(&path).unwrap(), dataset());
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert!(SftDataset::load(&path).unwrap_err().to_string().contains("checksum"));
    }
}
