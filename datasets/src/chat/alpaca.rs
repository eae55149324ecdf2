//! `{"instruction": "…", "input": "…", "output": "…"}`: one question and its answer.

use super::format::{ChatColumns, named};
use super::messages::tools;
use super::text::{optional, required};
use super::{ChatRecord, MAX_MESSAGES, Place};
use crate::error::Result;
use crate::json::kind;
use burn_models::text::Message;
use serde_json::{Map, Value};

pub(super) fn read(at: Place, mut map: Map<String, Value>, columns: &ChatColumns) -> Result<ChatRecord> {
    let mut messages = Vec::new();
    if let Some(system) = optional(at, &mut map, named(columns.system.as_ref(), "system"))? {
        messages.push(Message::system(system));
    }
    if let Some(name) = named(columns.history.as_ref(), "history")
        && let Some(history) = map.shift_remove(name)
    {
        pairs(at, name, history, &mut messages)?;
    }
    let instruction = match named(columns.instruction.as_ref(), "instruction") {
        Some(name) => required(at, &mut map, name)?,
        None => String::new(),
    };
    let input = optional(at, &mut map, named(columns.input.as_ref(), "input"))?.unwrap_or_default();
    let gap = if instruction.is_empty() || input.is_empty() { "" } else { "\n" };
    messages.push(Message::user([&instruction, gap, &input].concat()));
    let output = named(columns.output.as_ref(), "output").unwrap_or("output");
    messages.push(Message::assistant(required(at, &mut map, output)?));
    let tools = tools(at, &mut map, columns)?;
    Ok(ChatRecord { line: at.line, messages, tools, extra: map, ..ChatRecord::default() })
}

/// `[["question", "answer"], …]`.
fn pairs(at: Place, name: &str, history: Value, messages: &mut Vec<Message>) -> Result<()> {
    let history = match history {
        Value::Null => return Ok(()),
        Value::Array(history) if history.len() <= MAX_MESSAGES / 2 => history,
        other => {
            let expected = format!("a list of at most {} pairs", MAX_MESSAGES / 2);
            return Err(at.wrong(name, expected, kind(&other), ""));
        }
    };
    for (number, pair) in history.into_iter().enumerate() {
        match pair.as_array().map(Vec::as_slice) {
            Some([Value::String(question), Value::String(answer)]) => {
                messages.extend([Message::user(question.as_str()), Message::assistant(answer.as_str())]);
            }
            _ => {
                let expected = "a pair of strings, question and answer";
                return Err(at.wrong(format!("{name}[{number}]"), expected, kind(&pair), ""));
            }
        }
    }
    Ok(())
}
