//! Texts to vectors.

use super::config::BertConfig;
use super::model::BertEncoder;
use super::modules::Settings;
use super::pooling::{Pooling, normalize};
use crate::ops;
use crate::text::{Specials, Tokenizer};
use crate::{Error, Result};
use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A batch that is worth its while is closed before a text shorter than this share of its longest.
const LEAST_FILLED: f64 = 0.9;
/// A batch is worth its while from a sixteenth of the budget on, at most this many tokens.
const WORTHWHILE: usize = 2048;
/// On a CPU, as many tokens that what a layer computes for them stays in the processor's cache.
const CACHED: usize = 1024;

/// A sentence encoder: tokenizer, BERT, pooling, and scaling to length one where the model asks for it.
#[derive(Debug)]
pub struct SentenceEncoder {
    encoder: BertEncoder,
    tokenizer: Tokenizer,
    pooling: Pooling,
    normalize: bool,
    max_seq_length: usize,
    lowercase: bool,
}

/// Vectors of texts, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Row-major `[texts, dim]`, in the order of the texts.
    pub values: Vec<f32>,
    /// Width of a vector.
    pub dim: usize,
    /// How many of the texts were longer than the encoder takes and lost their end.
    pub truncated: usize,
    /// How much was computed.
    pub work: Work,
}

/// What an embedding run cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Distinct texts.
    pub distinct: usize,
    /// Batches.
    pub batches: usize,
    /// Tokens of the distinct texts.
    pub tokens: usize,
    /// Tokens computed, padding included.
    pub computed: usize,
}

impl Embeddings {
    /// The vector of one text.
    ///
    /// # Panics
    /// When there is no such text.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }
}

/// How a fresh sentence encoder pools.
#[derive(Debug, Clone, PartialEq)]
pub struct SentenceOptions {
    /// From token vectors to one.
    pub pooling: Pooling,
    /// Scale vectors to length one.
    pub normalize: bool,
    /// Longest text in tokens, those added around it included; `None` for as long as the position table is.
    pub max_seq_length: Option<usize>,
}

impl Default for SentenceOptions {
    fn default() -> Self {
        Self { pooling: Pooling::Mean, normalize: true, max_seq_length: None }
    }
}

impl SentenceEncoder {
    /// Reads a folder of the sentence-transformers library: `modules.json`, the pooling module, `sentence_bert_config.json`,
    /// and a BERT folder with its tokenizer. `max_seq_length` takes the place of any truncation and padding stored in
    /// `tokenizer.json`. A plain BERT folder gives mean pooling without normalisation.
    ///
    /// # Errors
    /// Names the file and key that is missing, malformed or not supported.
    pub fn from_folder(dir: impl AsRef<Path>, dtype: FloatDType, device: &Device) -> Result<Self> {
        let settings = Settings::read(dir.as_ref())?;
        let tokenizer = Tokenizer::from_folder(&settings.encoder)?;
        // Nothing here is trained: without autodiff no graph is kept.
        let encoder = BertEncoder::from_folder(&settings.encoder, dtype, &device.clone().without_autodiff())?;
        Self::assemble(encoder, tokenizer, &settings)
    }

    /// A fresh encoder with random weights, for a tokenizer.
    ///
    /// # Errors
    /// When the configuration is not valid or has fewer words than the tokenizer.
    pub fn init(
        config: &BertConfig,
        tokenizer: Tokenizer,
        options: &SentenceOptions,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let encoder = config.init(false, seed, &device.clone().without_autodiff())?;
        let settings = Settings {
            encoder: PathBuf::from("encoder configuration"),
            pooling: options.pooling,
            normalize: options.normalize,
            max_seq_length: options.max_seq_length,
            lowercase: false,
        };
        Self::assemble(encoder, tokenizer, &settings)
    }

    fn assemble(encoder: BertEncoder, tokenizer: Tokenizer, settings: &Settings) -> Result<Self> {
        let config = encoder.config();
        if tokenizer.vocab_size() > config.vocab_size {
            let problem = format!("{}, but the tokenizer has {} ids", config.vocab_size, tokenizer.vocab_size());
            return Err(Error::config(settings.encoder.join("config.json"), "vocab_size", problem));
        }
        let positions = config.max_position_embeddings;
        let max_seq_length =
            settings.max_seq_length.unwrap_or_else(|| tokenizer.model_max_length().unwrap_or(positions).min(positions));
        let least = tokenizer.added_per_sequence().max(1);
        if !(least..=positions).contains(&max_seq_length) {
            let problem =
                format!("{max_seq_length} is not between {least} and the {positions} positions of the encoder");
            return Err(Error::config(settings.encoder.join("sentence_bert_config.json"), "max_seq_length", problem));
        }
        let Settings { pooling, normalize, lowercase, .. } = *settings;
        Ok(Self { encoder, tokenizer, pooling, normalize, max_seq_length, lowercase })
    }

    /// Vectors of texts. `token_budget` bounds the tokens of a batch, padding included; a single text may be longer.
    ///
    /// Equal texts are computed once. Batches are made of texts of similar length, so that little padding is computed;
    /// the result does not depend on them beyond rounding. Special tokens written in a text are recognised, as in the
    /// reference library.
    ///
    /// # Errors
    /// When a text cannot be tokenised or the device fails.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], token_budget: usize) -> Result<Embeddings> {
        let mut index = HashMap::with_capacity(texts.len());
        let mut distinct: Vec<&str> = Vec::new();
        let places: Vec<usize> = texts
            .iter()
            .map(|text| {
                *index.entry(text.as_ref()).or_insert_with(|| {
                    distinct.push(text.as_ref());
                    distinct.len() - 1
                })
            })
            .collect();
        let encoded: Vec<(Vec<u32>, bool)> =
            distinct.par_iter().map(|text| self.tokenize(text)).collect::<Result<_>>()?;
        let lengths: Vec<usize> = encoded.iter().map(|(ids, _)| ids.len()).collect();
        let mut work = Work { distinct: distinct.len(), tokens: lengths.iter().sum(), ..Work::default() };
        let dim = self.dim();
        let cpu = ops::is_cpu(&self.encoder.device());
        let batches = batches(&lengths, if cpu { token_budget.min(CACHED) } else { token_budget });
        let compute = |batch: &Vec<usize>| -> Result<Vec<f32>> {
            let sequences: Vec<&[u32]> = batch.iter().map(|i| encoded[*i].0.as_slice()).collect();
            let data = self.forward(&sequences)?.try_into_data().map_err(|e| Error::Device(e.to_string()))?;
            data.convert::<f32>().try_into_vec().map_err(|e| Error::Device(e.to_string()))
        };
        // On a CPU every thread takes a batch: what stands between the matrix products runs on one thread each.
        let vectors: Vec<Vec<f32>> = match cpu {
            true => batches.par_iter().map(compute).collect::<Result<_>>()?,
            false => batches.iter().map(compute).collect::<Result<_>>()?,
        };
        let mut rows = vec![0f32; distinct.len() * dim];
        for (batch, vectors) in batches.iter().zip(vectors) {
            for (i, row) in batch.iter().zip(vectors.chunks_exact(dim)) {
                rows[i * dim..(i + 1) * dim].copy_from_slice(row);
            }
            work.batches += 1;
            work.computed += batch.len() * batch.iter().map(|i| lengths[*i]).max().unwrap_or(0);
        }
        let truncated = places.iter().filter(|place| encoded[**place].1).count();
        let values = places.iter().flat_map(|place| &rows[place * dim..(place + 1) * dim]).copied().collect();
        Ok(Embeddings { values, dim, truncated, work })
    }

    /// Token ids of a text as the encoder sees it, and whether its end was cut.
    ///
    /// # Errors
    /// When the text cannot be tokenised.
    pub fn tokenize(&self, text: &str) -> Result<(Vec<u32>, bool)> {
        let lowercase;
        let text = if self.lowercase {
            lowercase = text.to_lowercase();
            &lowercase
        } else {
            text
        };
        let (ids, cut) = self.tokenizer.encode_within(text, Specials::Parse, self.max_seq_length)?;
        // A tokenizer that adds nothing gives nothing for an empty text: one padding token stands for it.
        Ok((if ids.is_empty() { vec![self.encoder.config().pad_token_id] } else { ids }, cut))
    }

    /// Vectors `[B, D]` of token sequences, f32, on the device.
    fn forward(&self, sequences: &[&[u32]]) -> Result<Tensor<2>> {
        let pooled = self.encoder.pooled(&self.encoder.batch(sequences)?, self.pooling);
        Ok(if self.normalize { normalize(pooled) } else { pooled })
    }

    /// Writes a folder that [`SentenceEncoder::from_folder`] and the sentence-transformers library read.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        self.encoder.save(dir)?;
        self.tokenizer.save(dir)?;
        let settings = Settings {
            encoder: dir.to_path_buf(),
            pooling: self.pooling,
            normalize: self.normalize,
            max_seq_length: Some(self.max_seq_length),
            lowercase: self.lowercase,
        };
        settings.write(dir, self.dim())
    }

    /// Width of a vector.
    pub fn dim(&self) -> usize {
        self.encoder.config().hidden_size
    }

    /// Longest text in tokens, those added around it included.
    pub fn max_seq_length(&self) -> usize {
        self.max_seq_length
    }

    /// From token vectors to one.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Whether vectors have length one.
    pub fn normalizes(&self) -> bool {
        self.normalize
    }

    /// The same encoder with another limit on the length of texts, in tokens, those added around them included.
    ///
    /// # Errors
    /// When the network has fewer positions, or nothing would be left of a text.
    pub fn with_max_seq_length(mut self, limit: usize) -> Result<Self> {
        let positions = self.encoder.config().max_position_embeddings;
        if limit <= self.tokenizer.added_per_sequence() || limit > positions {
            return Err(Error::Input(format!("a limit of {limit} tokens: the encoder has {positions} positions")));
        }
        self.max_seq_length = limit;
        Ok(self)
    }

    /// The same encoder with another pooling.
    #[must_use]
    pub fn with_pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = pooling;
        self
    }

    /// The same encoder, with vectors scaled to length one or not.
    #[must_use]
    pub fn with_normalize(mut self, normalize: bool) -> Self {
        self.normalize = normalize;
        self
    }

    /// The network.
    pub fn encoder(&self) -> &BertEncoder {
        &self.encoder
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The same encoder on another device.
    #[must_use]
    pub fn to_device(mut self, device: &Device) -> Self {
        self.encoder = self.encoder.to_device(&device.clone().without_autodiff());
        self
    }
}

/// Indices of sequences in batches: longest first, at most `budget` tokens each with padding, little padding.
fn batches(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // Stable, so that the same texts always make the same batches.
    order.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
    let worthwhile = (budget / 16).min(WORTHWHILE);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for i in order {
        let fits = |batch: &Vec<usize>| {
            let longest = batch.first().map_or(0, |first| lengths[*first]);
            let sparse = (lengths[i] as f64) < LEAST_FILLED * longest as f64;
            (batch.len() + 1) * longest <= budget && !(sparse && batch.len() * longest >= worthwhile)
        };
        match batches.last_mut() {
            Some(batch) if fits(batch) => batch.push(i),
            _ => batches.push(vec![i]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_the_budget_and_waste_little() {
        let lengths: Vec<usize> = (0..500).map(|i| 2 + (i * 7919) % 255).collect();
        for budget in [1, 300, 4096, 1 << 20] {
            let batches = batches(&lengths, budget);
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..lengths.len()));
            let mut computed = 0;
            for batch in &batches {
                let longest = batch.iter().map(|i| lengths[*i]).max().unwrap_or(0);
                assert!(batch.len() == 1 || batch.len() * longest <= budget);
                computed += batch.len() * longest;
            }
            let tokens: usize = lengths.iter().sum();
            assert!((computed as f64) < 1.1 * tokens as f64, "{computed} for {tokens} at {budget}");
        }
    }
}
