//! `hearth score`: log-probabilities of given tokens.

use super::rows::{chat, check_length, decoder, ids, kind, wrong};
use crate::cli::args::ScoreArgs;
use crate::run::Error;
use burn::tensor::{Int, Tensor, TensorData};
use burn_models::decoder::{Decoder, Padded};
use burn_models::text::{SuperviseOptions, Tokenizer};
use datasets::table::{Row, RowWriter, read_rows};
use serde_json::{Value, json};
use std::path::Path;

/// Rows that are read before any of them is computed: enough to sort by length, few enough for the memory.
const CHUNK: usize = 256;
/// Token places of one forward pass, padding included.
const BATCH_TOKENS: usize = 8192;

struct Sample {
    ids: Vec<u32>,
    mask: Vec<bool>,
}

/// Reads rows with `messages` or `input_ids` (and `mask`), writes rows with `input_ids`, `mask`, `logprobs` and `loss`.
///
/// `logprobs[i]` is `ln p(input_ids[i] | what stands before)`, null at 0; `loss` is the mean of −logprobs over the positions
/// whose mask is on, null where there is none. A chat is written by the model's own template; its mask is on for the
/// assistant's words and their end-of-turn tokens. Without `mask`, all positions count.
///
/// # Errors
/// Rows that cannot be used, by line and key; files that cannot be read or written. Nothing is left under the output's
/// name then.
pub fn score(args: &ScoreArgs) -> crate::Result<()> {
    let device = args.compute.init()?;
    let model = decoder(&args.model, args.adapter.as_deref(), args.compute.dtype, &device)?;
    let mut tokenizer = None;
    let mut reader = read_rows(&args.files.input).map_err(Error::from)?;
    let mut writer = RowWriter::create(&args.files.output).map_err(Error::from)?;
    loop {
        let rows: Vec<Row> = reader.by_ref().take(CHUNK).collect::<Result<_, _>>().map_err(Error::from)?;
        if rows.is_empty() {
            break;
        }
        let mut samples = Vec::with_capacity(rows.len());
        for row in &rows {
            samples.push(sample(args, row, &model, &mut tokenizer)?);
        }
        let sequences: Vec<&[u32]> = samples.iter().map(|s| s.ids.as_slice()).collect();
        for (sample, logprobs) in samples.iter().zip(logprobs(&model, &sequences)?) {
            Error::unless_finite(&args.model, &logprobs)?;
            writer.write(&output(sample, &logprobs)).map_err(Error::from)?;
        }
    }
    Ok(writer.finish().map_err(Error::from)?)
}

fn sample(args: &ScoreArgs, row: &Row, model: &Decoder, tokenizer: &mut Option<Tokenizer>) -> Result<Sample, Error> {
    let path = args.files.input.as_path();
    let vocab = model.config().vocab_size;
    let sample = match chat(path, row)? {
        Some(chat) => {
            let tokenizer = match tokenizer {
                Some(tokenizer) => tokenizer,
                None => tokenizer.insert(Tokenizer::from_folder(&args.model)?),
            };
            tokenizer.fits(vocab)?;
            let options = SuperviseOptions::default();
            let found = tokenizer.supervised_chat(&chat.messages, chat.tools.as_deref(), &options);
            let found = found.map_err(|e| wrong(path, row, "messages", "a chat the template can write", e, ""))?;
            Sample { mask: found.mask(), ids: found.ids }
        }
        None if row.map.contains_key("input_ids") => {
            let ids = ids(path, row, "input_ids", vocab)?;
            let mask = mask(path, row, ids.len())?;
            Sample { ids, mask }
        }
        None => {
            return Err(wrong(path, row, "", "`messages` or `input_ids`", "neither", ""));
        }
    };
    check_length(path, row, "", sample.ids.len(), model.config().max_position_embeddings)?;
    Ok(sample)
}

fn mask(path: &Path, row: &Row, length: usize) -> Result<Vec<bool>, Error> {
    let expected = format!("a list of {length} zeros and ones, as long as `input_ids`");
    let bad = |found: &str| wrong(path, row, "mask", &expected, found, "");
    match row.map.get("mask") {
        None | Some(Value::Null) => Ok(vec![true; length]),
        Some(Value::Array(values)) if values.len() == length => values
            .iter()
            .map(|value| match value {
                Value::Bool(on) => Ok(*on),
                _ => match value.as_u64() {
                    Some(on @ 0..=1) => Ok(on == 1),
                    _ => Err(bad(&value.to_string())),
                },
            })
            .collect(),
        Some(Value::Array(values)) => Err(bad(&format!("{} values", values.len()))),
        other => Err(bad(kind(other))),
    }
}

fn output(sample: &Sample, logprobs: &[f32]) -> Value {
    let learned: Vec<f64> =
        logprobs.iter().zip(&sample.mask[1..]).filter(|(_, on)| **on).map(|(p, _)| f64::from(*p)).collect();
    let loss = (!learned.is_empty()).then(|| -learned.iter().sum::<f64>() / learned.len() as f64);
    let mut all = vec![Value::Null];
    all.extend(logprobs.iter().map(|p| json!(p)));
    let mask: Vec<u8> = sample.mask.iter().map(|on| u8::from(*on)).collect();
    json!({ "input_ids": sample.ids, "mask": mask, "logprobs": all, "loss": loss })
}

/// ln p of every token but the first of each sequence. Sequences of similar length go through the model together.
pub(super) fn logprobs(model: &Decoder, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, Error> {
    let device = model.device();
    let mut order: Vec<usize> = (0..sequences.len()).filter(|i| sequences[*i].len() > 1).collect();
    order.sort_by_key(|i| std::cmp::Reverse(sequences[*i].len()));
    let mut found = vec![Vec::new(); sequences.len()];
    let mut rest = order.as_slice();
    while let Some(first) = rest.first() {
        let longest = sequences[*first].len();
        let count = (BATCH_TOKENS / longest).clamp(1, rest.len());
        let (batch, after) = rest.split_at(count);
        rest = after;
        let chosen: Vec<&[u32]> = batch.iter().map(|i| sequences[*i]).collect();
        let input = Padded::right(&chosen, 0)?.input(model.config().vocab_size, &device)?;
        let [b, l] = input.dims();
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (row, ids) in chosen.iter().enumerate() {
            rows.extend((0..ids.len() - 1).map(|column| (row * l + column) as i32));
            targets.extend(ids[1..].iter().map(|id| *id as i32));
        }
        let ints = |values: Vec<i32>| {
            let count = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [count]), &device)
        };
        let raw = model.forward_raw(&input);
        let width = raw.dims()[2];
        let hidden = model.model.norm.forward(raw.reshape([b * l, width]).select(0, ints(rows)));
        let values: Vec<f32> = model.token_logprobs(hidden, ints(targets)).into_data().iter::<f32>().collect();
        let mut values = values.as_slice();
        for (i, ids) in batch.iter().zip(&chosen) {
            let (own, others) = values.split_at(ids.len() - 1);
            found[*i] = own.to_vec();
            values = others;
        }
    }
    Ok(found)
}
