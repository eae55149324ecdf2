//! From a row to a request.

use crate::cli::args::{GenerateArgs, MOST_ANSWERS};
use crate::commands::rows::{chat, check_length, ids, kind, wrong};
use crate::run::Error;
use burn_models::decoder::DecoderConfig;
use burn_models::generate::{Request, SamplingConfig};
use burn_models::text::{ChatOptions, Specials, Tokenizer};
use datasets::table::Row;
use serde_json::Value;

/// What rows are answered with.
pub(super) struct Asked<'a> {
    pub(super) args: &'a GenerateArgs,
    pub(super) config: &'a DecoderConfig,
    pub(super) tokenizer: Option<&'a Tokenizer>,
}

impl Asked<'_> {
    /// The request of a row, of which `number` rows come before, and the texts of its choices. What the row says goes before the
    /// arguments.
    pub(super) fn request(&self, number: u64, row: &Row) -> Result<(Request, Vec<String>), Error> {
        let args = self.args;
        let prompt = self.prompt(row)?;
        let base = args.filters.sampling(args.temperature);
        let real = |key, expected, fits: fn(f64) -> bool, other: f64| -> Result<f64, Error> {
            let value = self.own(row, key, expected, |value| value.as_f64().filter(|value| fits(*value)))?;
            Ok(value.unwrap_or(other))
        };
        let whole = |key, expected: &str, fits: fn(usize) -> bool, other: usize| -> Result<usize, Error> {
            let parse = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| fits(*n));
            Ok(self.own(row, key, expected, parse)?.unwrap_or(other))
        };
        let number_or_0 = "0 or a positive number";
        let sampling = SamplingConfig {
            temperature: real("temperature", number_or_0, |t| t >= 0.0, base.temperature)?,
            top_k: whole("top_k", "0 or a whole number", |_| true, base.top_k)?,
            top_p: real("top_p", "a number above 0 and up to 1", |p| p > 0.0 && p <= 1.0, base.top_p)?,
            min_p: real("min_p", "a number from 0 to 1", |p| (0.0..=1.0).contains(&p), base.min_p)?,
            repetition_penalty: real("repetition_penalty", "a positive number", |r| r > 0.0, base.repetition_penalty)?,
        };
        let most = format!("a whole number from 1 to {MOST_ANSWERS}");
        let max_new_tokens = whole("max_new_tokens", "0 or a whole number", |_| true, args.max_new_tokens)?;
        let n = whole("n", &most, |n| (1..=MOST_ANSWERS).contains(&n), args.n)?;
        let seed = self.own(row, "seed", "0 or a whole number", Value::as_u64)?;
        let stop = self.own(row, "stop", "a text, or a list of texts, none of them empty", texts)?;
        let choices = self.own(row, "choices", "a list of texts, none of them empty", texts)?;
        let texts = choices.unwrap_or_else(|| args.choices.clone());
        let stop = stop.unwrap_or_else(|| args.stop.clone());
        if self.tokenizer.is_none() && !(stop.is_empty() && texts.is_empty()) {
            self.tokenizer(row)?;
        }
        let encode = |text: &String| self.tokenizer(row)?.encode(text, Specials::Plain).map_err(Error::from);
        let request = Request {
            prompt,
            n,
            sampling,
            max_new_tokens,
            stop_ids: None,
            ignore_eos: args.ignore_eos,
            stop,
            choices: texts.iter().map(encode).collect::<Result<_, _>>()?,
            seed: seed.unwrap_or(args.seed),
            stream: if seed.is_some() { 0 } else { number },
            streamed: args.stream && self.tokenizer.is_some(),
        };
        Ok((request, texts))
    }

    /// A setting of a row's own.
    fn own<T>(
        &self,
        row: &Row,
        key: &str,
        expected: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = row.map.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let found = || match value {
            Value::Number(number) => number.to_string(),
            other => kind(Some(other)).to_owned(),
        };
        let remedy = "a row's own setting; give the key another name if it is none";
        parse(value).map(Some).ok_or_else(|| wrong(&self.args.files.input, row, key, expected, found(), remedy))
    }

    fn tokenizer(&self, row: &Row) -> Result<&Tokenizer, Error> {
        let remedy = "give `input_ids`, or put the model's tokenizer.json into its folder";
        let path = &self.args.files.input;
        self.tokenizer.ok_or_else(|| wrong(path, row, "", "a tokenizer in the model's folder", "none", remedy))
    }

    fn prompt(&self, row: &Row) -> Result<Vec<u32>, Error> {
        let path = self.args.files.input.as_path();
        let ids = match (chat(path, row)?, row.map.get("prompt")) {
            (Some(chat), _) => self
                .tokenizer(row)?
                .encode_chat(&chat.messages, chat.tools.as_deref(), &ChatOptions::prompt())
                .map_err(|e| wrong(path, row, "messages", "a chat the template can write", e, ""))?,
            (None, Some(Value::String(text))) => self.tokenizer(row)?.encode_added(text, Specials::Plain)?,
            (None, Some(other)) => return Err(wrong(path, row, "prompt", "a text", kind(Some(other)), "")),
            (None, None) if row.map.contains_key("input_ids") => ids(path, row, "input_ids", self.config.vocab_size)?,
            (None, None) => {
                return Err(wrong(path, row, "", "`prompt`, `messages` or `input_ids`", "none of them", ""));
            }
        };
        // One position is for the first new token.
        check_length(path, row, "", ids.len(), self.config.max_position_embeddings - 1)?;
        Ok(ids)
    }
}

/// One text or several.
fn texts(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        other => text(other).map(|text| vec![text]),
    }
}
