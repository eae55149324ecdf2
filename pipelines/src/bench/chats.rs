//! Fine-tuning on chats: mixed lengths, a curve of losses, tokenising.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use burn_models::text::{Builtin, Supervised, Tokenizer};
use datasets::rng::stream;
use datasets::sft::{Packing, PlanConfig, SftDataset, SftOptions, StepPlan};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::data::ids;
use super::{Figures, Size};
use crate::Result;
use crate::cli::args::BenchArgs;
use crate::run::Error;

/// Token samples as chats have them: most are short, few are long, with lengths drawn from 2^x for x uniform in a range; of each the
/// last two fifths are learned.
pub(super) fn samples(vocab: usize, count: usize, range: std::ops::Range<f64>) -> Vec<Supervised> {
    let mut rng = stream(1, "bench chats", &[]);
    let sample = |number: usize| {
        let length = rng.random_range(range.clone()).exp2() as usize;
        let weights = (0..length).map(|at| f32::from(u8::from(at * 5 >= length * 3))).collect();
        Supervised { ids: ids(vocab, number, length), weights }
    };
    (0..count).map(sample).collect()
}

/// Reads, renders, tokenises and packs chats of 20 to 300 words.
pub(super) fn tokenize(args: &BenchArgs, folder: &Path) -> Result<Figures> {
    let count = if args.size == Size::Tiny { 200 } else { 100_000 };
    let file = folder.join("data.jsonl");
    write(&file, count)?;
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).map_err(Error::from)?;
    if args.twin.is_some() {
        std::fs::create_dir_all(folder.join("model"))?;
        tokenizer.save(folder.join("model")).map_err(Error::from)?;
        std::fs::write(folder.join("spec.json"), serde_json::json!({ "records": count }).to_string())?;
    }
    let started = Instant::now();
    let data = SftDataset::from_chat(&file, &tokenizer, &SftOptions::default()).map_err(Error::from)?;
    let config =
        PlanConfig { sequences_per_step: count, micro_tokens: 2048, packing: Packing::Packed, ..PlanConfig::default() };
    let plan = StepPlan::new(&data, config, 1).map_err(Error::from)?;
    let rows = plan.epoch(0).step(0).len();
    let seconds = started.elapsed().as_secs_f64();
    let counts = data.counts();
    tracing::info!(rows, learned = counts.supervised, "packed");
    // Both sides must find the same tokens.
    Ok(Figures {
        tokens: Some(counts.tokens as f64),
        loss: Some(counts.tokens as f64),
        ..Figures::new(count as f64, seconds)
    })
}

/// `{"messages": …}` lines of made-up words.
fn write(path: &Path, count: usize) -> Result<()> {
    const WORDS: [&str; 16] = [
        "workflow",
        "plans",
        "the",
        "search",
        "and",
        "answers",
        "with",
        "a",
        "tool",
        "that",
        "reads",
        "every",
        "page",
        "of",
        "long",
        "documents",
    ];
    let mut rng = stream(1, "bench words", &[]);
    let text = |rng: &mut ChaCha8Rng, words: usize| {
        let words = (0..words).map(|_| WORDS[rng.random_range(0..WORDS.len())]);
        words.collect::<Vec<_>>().join(" ")
    };
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for _ in 0..count {
        let (question, answer) = (rng.random_range(10..150), rng.random_range(10..150));
        let messages = serde_json::json!({"messages": [
            {"role": "user", "content": text(&mut rng, question)},
            {"role": "assistant", "content": text(&mut rng, answer)},
        ]});
        writeln!(file, "{messages}")?;
    }
    Ok(file.flush()?)
}
