//! `hearth embed`: vectors of texts.

use super::rows::{check_length, check_model, kind, wrong};
use crate::cli::args::{EmbedArgs, Pooling};
use crate::embedding::{LlmPooling, embed_tokens};
use crate::run::Error;
use burn::tensor::Device;
use burn_models::decoder::Decoder;
use burn_models::encoder::{Pooling as EncoderPooling, SentenceEncoder};
use burn_models::text::{Specials, Tokenizer};
use datasets::table::{EmbeddingWriter, Row, read_rows};
use serde_json::Value;
use std::path::Path;

/// Rows that are read before any of them is computed: enough to sort by length, few enough for the memory.
const CHUNK: usize = 4096;
/// Token places of one forward pass, padding included.
const BATCH_TOKENS: usize = 16_384;

/// Reads rows with `text`, writes `text` and `embedding`. The model is a sentence encoder's folder, or a decoder's.
///
/// # Errors
/// Rows that cannot be used, by line and key; files that cannot be read or written. Nothing is left under the output's
/// name then.
pub fn embed(args: &EmbedArgs) -> crate::Result<()> {
    Ok(run(args, &args.compute.init()?)?)
}

enum Model {
    Sentence(Box<SentenceEncoder>),
    Decoder(Box<Decoder>, Box<Tokenizer>, LlmPooling),
}

fn run(args: &EmbedArgs, device: &Device) -> Result<(), Error> {
    let model = open(args, device)?;
    let dim = match &model {
        Model::Sentence(encoder) => encoder.dim(),
        Model::Decoder(decoder, ..) => decoder.config().hidden_size,
    };
    let mut reader = read_rows(&args.files.input)?;
    let mut writer = EmbeddingWriter::create(&args.files.output, dim)?;
    let mut truncated = 0;
    loop {
        let rows: Vec<Row> = reader.by_ref().take(CHUNK).collect::<Result<_, _>>()?;
        if rows.is_empty() {
            break;
        }
        let texts: Vec<&str> = rows.iter().map(|row| text(&args.files.input, row)).collect::<Result<_, _>>()?;
        let mut values = match &model {
            Model::Sentence(encoder) => {
                let found = encoder.embed(&texts, BATCH_TOKENS)?;
                truncated += found.truncated;
                found.values
            }
            Model::Decoder(decoder, tokenizer, pooling) => {
                let limit = decoder.config().max_position_embeddings;
                let mut sequences = Vec::with_capacity(texts.len());
                for (row, text) in rows.iter().zip(&texts) {
                    let ids = tokenizer.encode_added(text, Specials::Plain)?;
                    check_length(&args.files.input, row, "text", ids.len(), limit)?;
                    sequences.push(ids);
                }
                embed_tokens(decoder, &sequences, *pooling, BATCH_TOKENS, |_| ())?
            }
        };
        Error::unless_finite(&args.model, &values)?;
        // A sentence encoder that normalises has done so.
        if args.normalize && matches!(model, Model::Decoder(..)) {
            for row in values.chunks_exact_mut(dim) {
                let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
                row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
            }
        }
        writer.write(&texts, &values)?;
    }
    writer.finish()?;
    if truncated > 0 {
        tracing::warn!("{truncated} texts were longer than the encoder reads; their ends were left out");
    }
    Ok(())
}

fn open(args: &EmbedArgs, device: &Device) -> Result<Model, Error> {
    let dir = args.model.as_path();
    if dir.join("modules.json").exists() || is_bert(dir)? {
        let encoder = SentenceEncoder::from_folder(dir, args.compute.dtype.into(), device)?;
        let encoder = match args.pooling {
            Some(Pooling::Mean) => encoder.with_pooling(EncoderPooling::Mean),
            Some(Pooling::Last) => encoder.with_pooling(EncoderPooling::Last),
            None => encoder,
        };
        let normalize = encoder.normalizes() || args.normalize;
        return Ok(Model::Sentence(Box::new(encoder.with_normalize(normalize))));
    }
    let pooling = match args.pooling {
        Some(Pooling::Mean) => LlmPooling::MeanTokens,
        Some(Pooling::Last) | None => LlmPooling::LastToken,
    };
    let decoder = super::rows::decoder(dir, None, args.compute.dtype, device)?;
    let tokenizer = Tokenizer::from_folder(dir)?;
    tokenizer.fits(decoder.config().vocab_size)?;
    Ok(Model::Decoder(Box::new(decoder), Box::new(tokenizer), pooling))
}

fn is_bert(dir: &Path) -> Result<bool, Error> {
    check_model(dir)?;
    let path = dir.join("config.json");
    let config = std::fs::read(&path).map_err(Error::io(&path))?;
    let config: Value = serde_json::from_slice(&config).map_err(|e| Error::io(&path)(e.into()))?;
    Ok(config["model_type"] == "bert")
}

fn text<'a>(path: &Path, row: &'a Row) -> Result<&'a str, Error> {
    let found = row.map.get("text");
    found.and_then(Value::as_str).ok_or_else(|| wrong(path, row, "text", "a text", kind(found), ""))
}
