//! Models and token ids from seeds.

use std::io::Write;
use std::path::Path;

use burn_lora::LoraConfig;
use burn_models::decoder::DecoderConfig;
use burn_models::text::Supervised;
use datasets::rng::stream;
use rand::RngExt;
use serde::Serialize;

use super::{Case, Size, chats};
use crate::Result;

/// Answers of a workflow's fifteen questions in tokens: three of each of degree, neighbours, node text and reachability,
/// two of key nodes, one order.
const ANSWERS: [usize; 15] = [2, 2, 3, 4, 2, 6, 90, 60, 120, 2, 2, 3, 4, 4, 12];
/// A question with its frame.
const QUESTION: usize = 45;
/// Questions about a workflow.
pub(super) const QUESTIONS: usize = ANSWERS.len();

/// What the twin needs to know beside model and data.
#[derive(Debug, Serialize)]
pub(super) struct Spec {
    /// Rank, scale and targets of the adapter; no dropout, so that losses can be compared.
    pub(super) rank: usize,
    pub(super) alpha: f64,
    /// Texts at a time where the case leaves a choice.
    pub(super) batch: usize,
    /// Tokens to generate.
    pub(super) new_tokens: usize,
    /// The learning rate of trainings.
    pub(super) lr: f64,
    /// How many of the records the twin takes; its time per record does not depend on it.
    pub(super) records: usize,
}

/// The sizes of a case.
pub(super) struct Shape {
    pub(super) decoder: DecoderConfig,
    /// Workflows to ask about, texts to embed or prompts to answer.
    pub(super) groups: usize,
    /// Tokens that the questions about a workflow share; of a long sequence; of the longest text.
    pub(super) length: usize,
}

impl Shape {
    pub(super) fn of(case: Case, size: Size) -> Self {
        let base = DecoderConfig { max_position_embeddings: 16384, ..DecoderConfig::default() };
        let tiny = DecoderConfig { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, ..base.clone() };
        let full = DecoderConfig {
            vocab_size: 151_936,
            hidden_size: 512,
            intermediate_size: 1536,
            num_hidden_layers: 8,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            head_dim: 64,
            ..base.clone()
        };
        let large = DecoderConfig {
            vocab_size: 151_936,
            hidden_size: 2048,
            intermediate_size: 6144,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 128,
            ..base
        };
        let mut decoder = match size {
            Size::Tiny => DecoderConfig { vocab_size: 512, ..tiny },
            Size::Full => full,
            Size::Large => large,
        };
        if matches!(case, Case::Chats | Case::ChatsPacked | Case::Curve) && size == Size::Full {
            // 42 million parameters together.
            decoder.vocab_size = 32_768;
        }
        if case == Case::PrefinetuneVocab {
            decoder.vocab_size = decoder.vocab_size.min(4096);
        }
        let (groups, length) = match (case, size) {
            (Case::Prefinetune | Case::PrefinetuneVocab, Size::Tiny) => (2, 60),
            (Case::Prefinetune | Case::PrefinetuneVocab, _) => (8, 900),
            (Case::PrefinetuneShort, Size::Tiny) => (2, 20),
            (Case::PrefinetuneShort, _) => (16, 185),
            (Case::Long, Size::Tiny) => (1, 300),
            (Case::Long, _) => (1, 4096),
            (Case::Chats | Case::ChatsPacked, Size::Tiny) => (8, 60),
            (Case::Chats | Case::ChatsPacked, _) => (64, 1448),
            (Case::Curve, Size::Tiny) => (12, 60),
            (Case::Curve, _) => (400, 64),
            (Case::Embed, Size::Tiny) => (6, 80),
            (Case::Embed, Size::Full) => (60, 900),
            (Case::Embed, Size::Large) => (500, 900),
            // The cases without a decoder have sizes of their own.
            (Case::Decode | Case::Glow | Case::Questions | Case::Minilm | Case::Tokenize, _) => (1, 32),
            (Case::DecodeBatch | Case::SampleBatch, _) => (64, 32),
        };
        Self { decoder, groups, length }
    }
}

/// The adapter of all cases.
pub(super) fn adapter() -> LoraConfig {
    LoraConfig { dropout: 0.0, ..LoraConfig::default() }
}

/// `count` token ids from the stream of (case, number).
pub(super) fn ids(vocab: usize, number: usize, count: usize) -> Vec<u32> {
    let mut rng = stream(1, "bench", &[&number.to_le_bytes()]);
    (0..count).map(|_| rng.random_range(0..vocab as u32)).collect()
}

/// Training samples: questions about workflows, or one long sequence of which the last quarter is learned.
pub(super) fn samples(case: Case, shape: &Shape) -> Vec<Supervised> {
    let vocab = shape.decoder.vocab_size;
    let weight = |learned: bool| f32::from(u8::from(learned));
    if matches!(case, Case::Chats | Case::ChatsPacked | Case::Curve) {
        let longest = (shape.length as f64).log2();
        let span: f64 = if case == Case::Curve { 2.0 } else { 4.5 };
        return chats::samples(vocab, shape.groups, longest - span.min(longest - 3.0)..longest);
    }
    if case == Case::Long {
        let ids = ids(vocab, 0, shape.length);
        let weights = (0..ids.len()).map(|at| weight(at >= shape.length - shape.length / 4)).collect();
        return vec![Supervised { ids, weights }];
    }
    let question = |group: usize, number: usize, answer: usize| {
        let mut all = ids(vocab, group, shape.length);
        let own = ids(vocab, 1000 + group * QUESTIONS + number, QUESTION + answer);
        all.extend(own);
        let weights = (0..all.len()).map(|at| weight(at >= shape.length + QUESTION)).collect();
        Supervised { ids: all, weights }
    };
    let groups =
        (0..shape.groups).flat_map(|group| ANSWERS.iter().enumerate().map(move |(n, answer)| (group, n, *answer)));
    groups.map(|(group, n, answer)| question(group, n, answer)).collect()
}

/// Texts of different lengths.
pub(super) fn texts(shape: &Shape) -> Vec<Vec<u32>> {
    let length = |i: usize| shape.length / 5 + (i * 37) % (shape.length - shape.length / 5);
    (0..shape.groups).map(|i| ids(shape.decoder.vocab_size, i, length(i))).collect()
}

/// One JSON line for each sample: `input_ids` and `mask`.
pub(super) fn save(path: &Path, samples: &[Supervised]) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for sample in samples {
        let line = serde_json::json!({ "input_ids": sample.ids, "mask": sample.mask() });
        writeln!(file, "{line}")?;
    }
    Ok(file.flush()?)
}

/// The operations that LoRA training cannot do without: a forward pass and the gradients of all activations, two each for
/// every weight and computed token; head and attention likewise, attention's gradient being twice its forward pass. Adapters,
/// norms and what is computed a second time to save memory are not counted.
pub(super) fn flops(config: &DecoderConfig, computed: usize, learned: usize, scores: usize) -> f64 {
    let weights: usize = config.projections().iter().map(|(_, [i, o])| i * o).sum();
    let head = config.vocab_size * config.hidden_size;
    let attention = 4 * config.num_attention_heads * config.head_dim * config.num_hidden_layers;
    4.0 * weights as f64 * computed as f64 + 4.0 * head as f64 * learned as f64 + 3.0 * attention as f64 * scores as f64
}
