//! `{"messages": [{"role": "user", "content": "…"}, …], "tools": […]}`, as OpenAI has it.

use super::format::{ChatColumns, named};
use super::text::optional;
use super::{ChatRecord, MAX_MESSAGES, Place};
use crate::error::Result;
use crate::json::{kind, parse_value};
use burn_models::text::Message;
use serde_json::{Map, Value};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

pub(super) fn read(at: Place, mut map: Map<String, Value>, columns: &ChatColumns) -> Result<ChatRecord> {
    let name = named(columns.messages.as_ref(), "messages").unwrap_or("messages");
    let turns = list(at, name, map.shift_remove(name))?;
    let mut messages = Vec::with_capacity(turns.len() + 1);
    if let Some(system) = optional(at, &mut map, columns.system.as_deref())? {
        messages.push(Message::system(system));
    }
    messages.extend(checked(at, name, turns)?);
    let tools = tools(at, &mut map, columns)?;
    Ok(ChatRecord { line: at.line, messages, tools, extra: map, ..ChatRecord::default() })
}

/// The turns of a record.
pub(super) fn list(at: Place, name: &str, turns: Option<Value>) -> Result<Vec<Value>> {
    let turns = match turns {
        Some(Value::Array(turns)) if turns.len() <= MAX_MESSAGES => turns,
        Some(Value::Array(turns)) => {
            let expected = format!("at most {MAX_MESSAGES} messages");
            return Err(at.wrong(name, expected, turns.len().to_string(), ""));
        }
        Some(other) => return Err(at.wrong(name, "a list of messages", kind(&other), "")),
        None => {
            let remedy = match name {
                "messages" => "a line looks like {\"messages\": [{\"role\": \"user\", \"content\": \"…\"}]}",
                _ => "",
            };
            return Err(at.wrong(name, "this key in every record", "none", remedy));
        }
    };
    if turns.is_empty() {
        return Err(at.wrong(name, "at least one message", "an empty list", ""));
    }
    Ok(turns)
}

/// Descriptions of tools: a list, or its JSON as a text.
pub(super) fn tools(at: Place, map: &mut Map<String, Value>, columns: &ChatColumns) -> Result<Option<Vec<Value>>> {
    let Some(name) = named(columns.tools.as_ref(), "tools") else { return Ok(None) };
    let tools = match map.shift_remove(name) {
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => Some(parse_value(at.path, at.line, name, &text, "a list of objects")?),
        other => other,
    };
    match tools {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(tools)) => {
            if let Some(index) = tools.iter().position(|tool| !tool.is_object()) {
                let key = format!("{name}[{index}]");
                return Err(at.wrong(key, "an object that describes a tool", kind(&tools[index]), ""));
            }
            Ok(Some(tools))
        }
        Some(other) => Err(at.wrong(name, "a list of objects", kind(&other), "")),
    }
}

/// Turns with the roles and contents that OpenAI's have; `name` is the key of their list.
pub(super) fn checked(at: Place, name: &str, turns: Vec<Value>) -> Result<Vec<Message>> {
    turns.into_iter().enumerate().map(|(index, turn)| message(at, &format!("{name}[{index}]"), turn)).collect()
}

fn message(at: Place, place: &str, message: Value) -> Result<Message> {
    let inside = |key: &str| format!("{place}.{key}");
    let Value::Object(message) = message else {
        return Err(at.wrong(place, "an object with role and content", kind(&message), ""));
    };
    let role = match message.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        Some(other) => {
            return Err(at.wrong(inside("role"), format!("one of {}", ROLES.join(", ")), kind(other), ""));
        }
        None => return Err(at.wrong(inside("role"), format!("one of {}", ROLES.join(", ")), "none", "")),
    };
    let calls = match message.get("tool_calls") {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => {
            if let Some(call) = calls.iter().position(|call| !call.is_object()) {
                let key = inside(&format!("tool_calls[{call}]"));
                return Err(at.wrong(key, "an object that describes a call", kind(&calls[call]), ""));
            }
            if role != "assistant" && !calls.is_empty() {
                let remedy = "only the assistant calls tools";
                return Err(at.wrong(inside("tool_calls"), "none here", kind(&message["tool_calls"]), remedy));
            }
            !calls.is_empty()
        }
        Some(other) => return Err(at.wrong(inside("tool_calls"), "a list of objects", kind(other), "")),
    };
    match message.get("content") {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => {
            for (number, part) in parts.iter().enumerate() {
                if part.get("type").and_then(Value::as_str).is_none() {
                    let key = inside(&format!("content[{number}]"));
                    return Err(at.wrong(key, "an object with a `type`, such as text", kind(part), ""));
                }
            }
        }
        None | Some(Value::Null) if calls => {}
        None => return Err(at.wrong(inside("content"), "a string", "none", "")),
        Some(other) => return Err(at.wrong(inside("content"), "a string", kind(other), "")),
    }
    Message::try_from(message).map_err(|e| at.wrong(inside("role"), "a role", e.to_string(), ""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::json::parse_object;
    use std::path::Path;

    fn read(text: &str) -> Result<Vec<ChatRecord>> {
        let rows = text.lines().zip(1..).filter(|(line, _)| !line.is_empty());
        rows.map(|(line, number)| {
            let path = Path::new("c.jsonl");
            ChatRecord::from_map(path, number, parse_object(path, number, line)?)
        })
        .collect()
    }

    #[test]
    fn keeps_everything() {
        let text = r#"{"id": 7, "messages": [{"role": "user", "content": "a\u2028b", "name": "x"},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            {"role": "tool", "content": [{"type": "text", "text": "t"}]}, {"role": "assistant", "content": "d"}],
            "tools": [{"type": "function"}], "tag": null}"#
            .replace('\n', " ");
        let records = read(&format!("\n{text}\n")).unwrap();
        assert_eq!(records.len(), 1);
        let record = &records[0];
        assert_eq!((record.line, record.messages.len(), record.tools.as_ref().unwrap().len()), (2, 4, 1));
        assert_eq!(record.messages[0].get("name").unwrap(), "x");
        assert_eq!(record.messages[0].text(), Some("a\u{2028}b"));
        assert_eq!(record.extra.keys().collect::<Vec<_>>(), ["id", "tag"]);
    }

    #[test]
    fn errors_name_the_place() {
        let user = r#"{"role": "user", "content": "q"}"#;
        let cases = [
            ("{}".into(), "`messages`: expected this key in every record, found none"),
            (r#"{"messages": "q"}"#.into(), "`messages`: expected a list of messages, found the string \"q\""),
            (r#"{"messages": []}"#.into(), "`messages`: expected at least one message"),
            (format!(r#"{{"messages": [{user}, 3]}}"#), "`messages[1]`: expected an object with role and content"),
            (r#"{"messages": [{"content": "q"}]}"#.into(), "`messages[0].role`: expected one of system,"),
            (r#"{"messages": [{"role": "bot", "content": "q"}]}"#.into(), "found the string \"bot\""),
            (r#"{"messages": [{"role": "user"}]}"#.into(), "`messages[0].content`: expected a string, found none"),
            (r#"{"messages": [{"role": "user", "content": 5}]}"#.into(), "expected a string, found the number 5"),
            (r#"{"messages": [{"role": "assistant", "content": null}]}"#.into(), "found null"),
            (r#"{"messages": [{"role": "user", "content": ["a"]}]}"#.into(), "`messages[0].content[0]`: expected an"),
            (
                r#"{"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}"#.into(),
                "`messages[0].tool_calls`: expected none here",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "a", "content": "b"}]}"#.into(),
                "`messages[0].content`: expected each key once",
            ),
            (format!(r#"{{"messages": [{user}], "tools": {{}}}}"#), "`tools`: expected a list of objects"),
            (format!(r#"{{"messages": [{user}], "tools": ["f"]}}"#), "`tools[0]`: expected an object that describes"),
        ];
        for (line, want) in cases {
            let error = read(&format!("{{\"messages\": [{user}]}}\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with("c.jsonl:2:") && error.contains(want), "{want}\n{error}");
        }
    }
}
