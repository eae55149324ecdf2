//! What the commands read from a row.

use crate::recipe::Dtype;
use crate::run::Error;
use burn::module::Module;
use burn::tensor::Device;
use burn_models::decoder::Decoder;
use datasets::chat::ChatRecord;
use datasets::table::Row;
use datasets::{Error as DataError, RecordError};
use serde_json::Value;
use std::path::Path;

/// An error about a key of a row.
pub(super) fn wrong(path: &Path, row: &Row, key: &str, expected: &str, found: impl ToString, remedy: &str) -> Error {
    Error::Data(DataError::Record(Box::new(RecordError {
        path: path.to_path_buf(),
        line: row.line,
        column: None,
        key: key.into(),
        expected: expected.into(),
        found: found.to_string(),
        remedy: remedy.into(),
    })))
}

/// The numbers under `key`, each below `limit`.
pub(super) fn ids(path: &Path, row: &Row, key: &str, limit: usize) -> Result<Vec<u32>, Error> {
    let expected = format!("a list of token ids below {limit}");
    let Some(Value::Array(values)) = row.map.get(key) else {
        return Err(wrong(path, row, key, &expected, kind(row.map.get(key)), ""));
    };
    let id = |value: &Value| {
        let id = value.as_u64().filter(|id| *id < limit as u64);
        id.map(|id| id as u32).ok_or_else(|| wrong(path, row, key, &expected, value, "is this the tokenizer's model?"))
    };
    values.iter().map(id).collect()
}

/// What a value is, in words.
pub(super) fn kind(value: Option<&Value>) -> &'static str {
    match value {
        None => "nothing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "true or false",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a text",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    }
}

/// The chat of a row that has `messages`.
pub(super) fn chat(path: &Path, row: &Row) -> Result<Option<ChatRecord>, Error> {
    if !row.map.contains_key("messages") {
        return Ok(None);
    }
    Ok(Some(ChatRecord::from_map(path, row.line, row.map.clone())?))
}

/// A sequence has to be neither empty nor longer than `limit`.
pub(super) fn check_length(path: &Path, row: &Row, key: &str, length: usize, limit: usize) -> Result<(), Error> {
    let remedy = match length {
        0 => "there is nothing to begin with",
        _ if length > limit => "shorten it: the model has no more positions",
        _ => return Ok(()),
    };
    Err(wrong(path, row, key, &format!("1 to {limit} tokens"), length, remedy))
}

/// Whether this can be the folder of a model.
pub(super) fn check_model(folder: &Path) -> Result<(), Error> {
    let path = folder.join("config.json");
    if path.is_file() {
        return Ok(());
    }
    let reason = "there is no such file; a model's folder holds config.json, model.safetensors and tokenizer.json";
    Err(Error::io(path)(std::io::Error::new(std::io::ErrorKind::NotFound, reason)))
}

/// A decoder with its adapter, if it has one, ready to compute without gradients.
pub(super) fn decoder(model: &Path, adapter: Option<&Path>, dtype: Dtype, device: &Device) -> Result<Decoder, Error> {
    check_model(model)?;
    let decoder = Decoder::from_folder(model, dtype.into(), device)?;
    let decoder = match adapter {
        Some(adapter) => decoder.load_adapter(adapter)?,
        None => decoder,
    };
    Ok(decoder.valid())
}
