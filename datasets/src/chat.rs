//! Conversations as JSON lines: `{"messages": [{"role": "user", "content": "…"}, …], "tools": […]}`.
//!
//! Further keys of a line are kept. Checked are the roles, the kinds of content and where tool calls may stand; what a
//! chat template makes of a conversation is its own business.

use crate::error::Result;
use crate::json::{kind, parse_object, wrong};
use crate::lines::{FileLines, Lines};
use burn_models::text::Message;
use serde_json::{Map, Value};
use std::io::BufRead;
use std::path::Path;

/// The longest line of a file of conversations, in bytes.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// The most messages in one conversation.
pub const MAX_MESSAGES: usize = 10_000;

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// One conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRecord {
    /// The line of the file, from 1.
    pub line: u64,
    /// The turns; at least one.
    pub messages: Vec<Message>,
    /// The descriptions of tools, where there are any.
    pub tools: Option<Vec<Value>>,
    /// The other keys of the line.
    pub extra: Map<String, Value>,
}

impl ChatRecord {
    /// Takes `messages` and `tools` out of a JSON object; `path` and `line` are its place in messages.
    pub fn from_map(path: &Path, line: u64, mut map: Map<String, Value>) -> Result<Self> {
        let messages = match map.shift_remove("messages") {
            Some(Value::Array(messages)) if messages.len() <= MAX_MESSAGES => messages,
            Some(Value::Array(messages)) => {
                let expected = format!("at most {MAX_MESSAGES} messages");
                return Err(wrong(path, line, "messages", expected, messages.len().to_string(), ""));
            }
            Some(other) => return Err(wrong(path, line, "messages", "a list of messages", kind(&other), "")),
            None => {
                let remedy = "a line looks like {\"messages\": [{\"role\": \"user\", \"content\": \"…\"}]}";
                return Err(wrong(path, line, "messages", "this key in every record", "none", remedy));
            }
        };
        if messages.is_empty() {
            return Err(wrong(path, line, "messages", "at least one message", "an empty list", ""));
        }
        let messages = messages
            .into_iter()
            .enumerate()
            .map(|(index, message)| check_message(path, line, index, message))
            .collect::<Result<_>>()?;
        let tools = match map.shift_remove("tools") {
            None | Some(Value::Null) => None,
            Some(Value::Array(tools)) => {
                if let Some(index) = tools.iter().position(|tool| !tool.is_object()) {
                    let key = format!("tools[{index}]");
                    return Err(wrong(path, line, key, "an object that describes a tool", kind(&tools[index]), ""));
                }
                Some(tools)
            }
            Some(other) => return Err(wrong(path, line, "tools", "a list of objects", kind(&other), "")),
        };
        Ok(Self { line, messages, tools, extra: map })
    }
}

fn check_message(path: &Path, line: u64, index: usize, message: Value) -> Result<Message> {
    let at = |key: &str| format!("messages[{index}]{}{key}", if key.is_empty() { "" } else { "." });
    let Value::Object(message) = message else {
        return Err(wrong(path, line, at(""), "an object with role and content", kind(&message), ""));
    };
    let role = match message.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        Some(other) => {
            return Err(wrong(path, line, at("role"), format!("one of {}", ROLES.join(", ")), kind(other), ""));
        }
        None => return Err(wrong(path, line, at("role"), format!("one of {}", ROLES.join(", ")), "none", "")),
    };
    let calls = match message.get("tool_calls") {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => {
            if let Some(call) = calls.iter().position(|call| !call.is_object()) {
                let key = at(&format!("tool_calls[{call}]"));
                return Err(wrong(path, line, key, "an object that describes a call", kind(&calls[call]), ""));
            }
            if role != "assistant" && !calls.is_empty() {
                let remedy = "only the assistant calls tools";
                return Err(wrong(path, line, at("tool_calls"), "none here", kind(&message["tool_calls"]), remedy));
            }
            !calls.is_empty()
        }
        Some(other) => return Err(wrong(path, line, at("tool_calls"), "a list of objects", kind(other), "")),
    };
    match message.get("content") {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => {
            for (number, part) in parts.iter().enumerate() {
                if part.get("type").and_then(Value::as_str).is_none() {
                    let key = at(&format!("content[{number}]"));
                    return Err(wrong(path, line, key, "an object with a `type`, such as text", kind(part), ""));
                }
            }
        }
        None | Some(Value::Null) if calls => {}
        None => return Err(wrong(path, line, at("content"), "a string", "none", "")),
        Some(other) => return Err(wrong(path, line, at("content"), "a string", kind(other), "")),
    }
    Message::try_from(message).map_err(|e| wrong(path, line, at("role"), "a role", e.to_string(), ""))
}

/// Reads conversations one by one.
#[derive(Debug)]
pub struct ChatReader<R> {
    lines: Lines<R>,
}

impl<R: BufRead> ChatReader<R> {
    /// The number of lines taken so far, blank ones included.
    pub fn lines(&self) -> u64 {
        self.lines.number()
    }
}

impl ChatReader<Box<dyn BufRead + Send>> {
    /// Opens a file, plain or compressed.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { lines: FileLines::open(path, MAX_LINE_BYTES)? })
    }
}

impl<R: BufRead> Iterator for ChatReader<R> {
    type Item = Result<ChatRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let path = self.lines.path().to_path_buf();
        match self.lines.next_line() {
            Ok(Some((line, text))) => {
                Some(parse_object(&path, line, text).and_then(|map| ChatRecord::from_map(&path, line, map)))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Vec<ChatRecord>> {
        ChatReader { lines: Lines::new(text.as_bytes(), Path::new("c.jsonl"), MAX_LINE_BYTES) }.collect()
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
