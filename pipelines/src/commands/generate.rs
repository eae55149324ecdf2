//! `hearth generate`: answers to prompts.

use super::rows::{chat, check_length, decoder, ids, kind, wrong};
use crate::cli::args::GenerateArgs;
use crate::run::Error;
use burn_models::decoder::Decoder;
use burn_models::generate::{GenerateConfig, SamplingConfig, generate as answer};
use burn_models::text::{ChatOptions, Specials, Tokenizer};
use datasets::table::{Row, RowWriter, read_rows};
use serde_json::{Value, json};

/// Reads rows with `prompt`, `messages` or `input_ids`; writes them with `output_ids` (new tokens only), `text`, `logprobs` and
/// `finish_reason` added. `prompt` is plain text: special tokens written in it are characters. A chat is written by the
/// model's own template and ends with the words that begin an answer.
///
/// `logprobs` are natural logarithms under the network's own distribution, before temperature and filters. `text` is null
/// where the model's folder has no tokenizer.
///
/// # Errors
/// Rows that cannot be used, by line and key; files that cannot be read or written. Nothing is left under the output's
/// name then.
pub fn generate(args: &GenerateArgs) -> crate::Result<()> {
    let device = args.compute.init()?;
    let model = decoder(&args.model, args.adapter.as_deref(), args.compute.dtype, &device)?;
    let tokenizer = match args.model.join("tokenizer.json").exists() {
        true => Some(Tokenizer::from_folder(&args.model).map_err(Error::from)?),
        false => None,
    };
    if let Some(tokenizer) = &tokenizer {
        tokenizer.fits(model.config().vocab_size).map_err(Error::from)?;
    }
    let rows: Vec<Row> =
        read_rows(&args.files.input).map_err(Error::from)?.collect::<Result<_, _>>().map_err(Error::from)?;
    let prompts: Vec<Vec<u32>> =
        rows.iter().map(|row| prompt(args, row, &model, tokenizer.as_ref())).collect::<Result<_, _>>()?;
    let config = GenerateConfig {
        sampling: SamplingConfig {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: args.top_k,
            ..SamplingConfig::default()
        },
        max_new_tokens: args.max_new_tokens,
        ignore_eos: args.ignore_eos,
        seed: args.seed,
        ..GenerateConfig::default()
    };
    let mut writer = RowWriter::create(&args.files.output).map_err(Error::from)?;
    let answers = answer(&model, &prompts, &config).map_err(Error::from)?;
    for (row, answer) in rows.into_iter().zip(answers) {
        let text = match &tokenizer {
            Some(tokenizer) => json!(tokenizer.decode(&answer.ids, true).map_err(Error::from)?),
            None => Value::Null,
        };
        let mut map = row.map;
        map.insert("output_ids".into(), json!(answer.ids));
        map.insert("text".into(), text);
        map.insert("logprobs".into(), json!(answer.logprobs));
        map.insert("finish_reason".into(), json!(answer.finish_reason));
        writer.write(&map).map_err(Error::from)?;
    }
    Ok(writer.finish().map_err(Error::from)?)
}

fn prompt(args: &GenerateArgs, row: &Row, model: &Decoder, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>, Error> {
    let path = args.files.input.as_path();
    let needed = || {
        let remedy = "give `input_ids`, or put the model's tokenizer.json into its folder";
        tokenizer.ok_or_else(|| wrong(path, row, "", "a tokenizer in the model's folder", "none", remedy))
    };
    let ids = match (chat(path, row)?, row.map.get("prompt")) {
        (Some(chat), _) => needed()?
            .encode_chat(&chat.messages, chat.tools.as_deref(), &ChatOptions::prompt())
            .map_err(|e| wrong(path, row, "messages", "a chat the template can write", e, ""))?,
        (None, Some(Value::String(text))) => needed()?.encode_added(text, Specials::Plain)?,
        (None, Some(other)) => return Err(wrong(path, row, "prompt", "a text", kind(Some(other)), "")),
        (None, None) if row.map.contains_key("input_ids") => ids(path, row, "input_ids", model.config().vocab_size)?,
        (None, None) => {
            return Err(wrong(path, row, "", "`prompt`, `messages` or `input_ids`", "none of them", ""));
        }
    };
    // One position is for the first new token.
    check_length(path, row, "", ids.len(), model.config().max_position_embeddings - 1)?;
    Ok(ids)
}
