//! Vectors of sentences.

use std::path::Path;
use std::time::Instant;

use burn_models::encoder::{BertConfig, SentenceEncoder, SentenceOptions};
use burn_models::text::{Builtin, Tokenizer};
use datasets::rng::stream;
use rand::RngExt;

use super::predictor::lines;
use super::{Figures, Size};
use crate::Result;
use crate::cli::args::BenchArgs;
use crate::run::Error;

/// Texts of 3 to 200 words by an encoder of the shape of all-MiniLM-L6-v2, tokenising included.
pub(super) fn embed(args: &BenchArgs, folder: &Path) -> Result<Figures> {
    let device = args.compute.init()?;
    let tokenizer = Tokenizer::builtin(Builtin::Encoder).map_err(Error::from)?;
    let (count, longest) = if args.size == Size::Tiny { (20, 20) } else { (2000, 200) };
    let config = BertConfig { pad_token_id: tokenizer.fill_id(), ..BertConfig::default() };
    let config = match args.size {
        Size::Tiny => config,
        _ => BertConfig {
            vocab_size: 30_522,
            hidden_size: 384,
            num_hidden_layers: 6,
            num_attention_heads: 12,
            intermediate_size: 1536,
            max_position_embeddings: 512,
            ..config
        },
    };
    let options = SentenceOptions { max_seq_length: Some(256), ..SentenceOptions::default() };
    let encoder = SentenceEncoder::init(&config, tokenizer, &options, 7, &device).map_err(Error::from)?;
    let vocabulary =
        ["plan", "workflow", "the", "node", "of", "graph", "answer", "number", "list", "text", "that", "is"];
    let mut rng = stream(3, "bench sentences", &[]);
    let texts: Vec<String> = (0..count)
        .map(|number| {
            let words = 3 + (number * 7919) % longest;
            let words: Vec<&str> = (0..words).map(|_| vocabulary[rng.random_range(0..vocabulary.len())]).collect();
            words.join(" ")
        })
        .collect();
    if args.twin.is_some() {
        encoder.save(folder.join("model")).map_err(Error::from)?;
        lines(&folder.join("data.jsonl"), &texts, |text| serde_json::json!({ "text": text }))?;
        std::fs::write(folder.join("spec.json"), serde_json::json!({ "records": count }).to_string())?;
    }
    if args.compute.device.is_compiled() {
        encoder.embed(&texts, 16_384).map_err(Error::from)?;
    }
    let started = Instant::now();
    let made = encoder.embed(&texts, 16_384).map_err(Error::from)?;
    let seconds = started.elapsed().as_secs_f64();
    // An element on which both sides must agree.
    let loss = made.row(0).first().map(|value| f64::from(*value));
    let (tokens, computed) = (Some(made.work.tokens as f64), Some(made.work.computed as f64));
    Ok(Figures { loss, tokens, computed, ..Figures::new(count as f64, seconds) })
}
