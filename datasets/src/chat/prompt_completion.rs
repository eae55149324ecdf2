//! `{"prompt": …, "completion": …}`: what is read, and what is learned.

use super::format::{ChatColumns, named};
use super::messages::{checked, tools};
use super::{ChatRecord, MAX_MESSAGES, Place, PlainText};
use crate::error::Result;
use crate::json::kind;
use serde_json::{Map, Value};

pub(super) fn read(at: Place, mut map: Map<String, Value>, columns: &ChatColumns) -> Result<ChatRecord> {
    let first = named(columns.prompt.as_ref(), "prompt").unwrap_or("prompt");
    let second = named(columns.completion.as_ref(), "completion").unwrap_or("completion");
    let mut take =
        |name: &str| map.shift_remove(name).ok_or_else(|| at.wrong(name, "this key in every record", "none", ""));
    let (prompt, completion) = (take(first)?, take(second)?);
    let line = at.line;
    match (prompt, completion) {
        (Value::String(prompt), Value::String(learned)) => {
            let plain = Some(PlainText { prompt, learned });
            Ok(ChatRecord { line, plain, extra: map, ..ChatRecord::default() })
        }
        (Value::Array(prompt), Value::Array(completion)) => {
            let tools = tools(at, &mut map, columns)?;
            if completion.is_empty() {
                return Err(at.wrong(second, "at least one message", "an empty list", ""));
            }
            if prompt.len() + completion.len() > MAX_MESSAGES {
                let found = (prompt.len() + completion.len()).to_string();
                return Err(at.wrong(second, format!("at most {MAX_MESSAGES} messages"), found, ""));
            }
            let only_read = prompt.len();
            let mut messages = checked(at, first, prompt)?;
            messages.extend(checked(at, second, completion)?);
            Ok(ChatRecord { line, messages, only_read, tools, extra: map, ..ChatRecord::default() })
        }
        (prompt @ (Value::String(_) | Value::Array(_)), completion) => {
            let expected = if prompt.is_string() { "a string, as the prompt is" } else { "a list, as the prompt is" };
            Err(at.wrong(second, expected, kind(&completion), ""))
        }
        (prompt, _) => Err(at.wrong(first, "a string or a list of messages", kind(&prompt), "")),
    }
}
