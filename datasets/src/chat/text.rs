//! `{"text": "…"}`: texts without turns.

use super::format::{ChatColumns, named};
use super::{ChatRecord, Place, PlainText};
use crate::error::Result;
use crate::json::kind;
use serde_json::{Map, Value};

pub(super) fn read(at: Place, mut map: Map<String, Value>, columns: &ChatColumns) -> Result<ChatRecord> {
    let name = named(columns.text.as_ref(), "text").unwrap_or("text");
    let learned = required(at, &mut map, name)?;
    let plain = Some(PlainText { prompt: String::new(), learned });
    Ok(ChatRecord { line: at.line, plain, extra: map, ..ChatRecord::default() })
}

/// The text under a key that every record has.
pub(super) fn required(at: Place, map: &mut Map<String, Value>, name: &str) -> Result<String> {
    match map.shift_remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(at.wrong(name, "a string", kind(&other), "")),
        None => Err(at.wrong(name, "this key in every record", "none", "")),
    }
}

/// The text under a key that may be absent, null or empty.
pub(super) fn optional(at: Place, map: &mut Map<String, Value>, name: Option<&str>) -> Result<Option<String>> {
    match name.and_then(|name| Some((name, map.shift_remove(name)?))) {
        None | Some((_, Value::Null)) => Ok(None),
        Some((_, Value::String(text))) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some((name, other)) => Err(at.wrong(name, "a string", kind(&other), "")),
    }
}
