//! `{"conversations": [{"from": "human", "value": "…"}, …]}`.

use super::format::{ChatColumns, ChatTags, named};
use super::messages::{list, tools};
use super::text::optional;
use super::{ChatRecord, Place};
use crate::error::Result;
use crate::json::{kind, parse_value};
use burn_models::text::Message;
use serde_json::{Map, Value, json};

/// The usual names of roles, and what they are called here.
const ROLES: [(&str, &str); 8] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("observation", "tool"),
    ("tool", "tool"),
    (CALL, CALL),
    ("system", "system"),
];

/// A turn in which the assistant calls tools.
const CALL: &str = "function_call";

pub(super) fn read(
    at: Place,
    mut map: Map<String, Value>,
    columns: &ChatColumns,
    tags: &ChatTags,
) -> Result<ChatRecord> {
    let name = named(columns.messages.as_ref(), "conversations").unwrap_or("conversations");
    let turns = list(at, name, map.shift_remove(name))?;
    let mut messages = Vec::with_capacity(turns.len() + 1);
    if let Some(system) = optional(at, &mut map, named(columns.system.as_ref(), "system"))? {
        messages.push(Message::system(system));
    }
    let (role_key, text_key) = (tags.role.as_deref().unwrap_or("from"), tags.content.as_deref().unwrap_or("value"));
    for (number, turn) in turns.into_iter().enumerate() {
        let key = |key: &str| format!("{name}[{number}].{key}");
        let Value::Object(turn) = turn else {
            let expected = format!("an object with {role_key} and {text_key}");
            return Err(at.wrong(format!("{name}[{number}]"), expected, kind(&turn), ""));
        };
        let role = turn.get(role_key).and_then(Value::as_str).and_then(|role| tags.role_of(role)).ok_or_else(|| {
            let found = turn.get(role_key).map_or_else(|| "none".into(), kind);
            at.wrong(key(role_key), format!("one of {}", tags.names().join(", ")), found, "name roles by tags: (…)")
        })?;
        let text = match turn.get(text_key) {
            Some(Value::String(text)) => text.as_str(),
            other => {
                let found = other.map_or_else(|| "none".into(), kind);
                return Err(at.wrong(key(text_key), "a string", found, ""));
            }
        };
        messages.push(match role {
            CALL => call(at, &key(text_key), text)?,
            "user" => Message::user(text),
            "assistant" => Message::assistant(text),
            "tool" => Message::tool(text),
            _ => Message::system(text),
        });
    }
    let tools = tools(at, &mut map, columns)?;
    Ok(ChatRecord { line: at.line, messages, tools, extra: map, ..ChatRecord::default() })
}

impl ChatTags {
    /// The name that was given to a role.
    fn given(&self, role: &str) -> Option<&str> {
        let given = match role {
            "user" => &self.user,
            "assistant" => &self.assistant,
            "tool" => &self.observation,
            CALL => &self.function,
            _ => &self.system,
        };
        given.as_deref()
    }

    fn role_of(&self, name: &str) -> Option<&'static str> {
        let named = ROLES.iter().find(|(_, role)| self.given(role) == Some(name));
        let usual = || ROLES.iter().find(|(usual, role)| *usual == name && self.given(role).is_none());
        named.or_else(usual).map(|(_, role)| *role)
    }

    /// The names that roles may have.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = ROLES.iter().map(|(usual, role)| self.given(role).unwrap_or(usual)).collect();
        names.dedup();
        names
    }
}

/// The calls in a text: `{"name": "…", "arguments": {…}}`, or a list of such.
fn call(at: Place, key: &str, text: &str) -> Result<Message> {
    let expected = "the JSON of a call, {\"name\": \"…\", \"arguments\": {…}}, or of a list of calls";
    let value = parse_value(at.path, at.line, key, text, expected)?;
    let calls = match value {
        Value::Array(calls) => calls,
        other => vec![other],
    };
    let mut found = Vec::with_capacity(calls.len());
    for call in calls {
        let Some(name) = call.get("name").and_then(Value::as_str) else {
            return Err(at.wrong(key, expected, kind(&call), ""));
        };
        let arguments = call.get("arguments").cloned().unwrap_or_else(|| json!({}));
        found.push(json!({"type": "function", "function": {"name": name, "arguments": arguments}}));
    }
    if found.is_empty() {
        return Err(at.wrong(key, expected, "an empty list", ""));
    }
    Ok(Message::assistant("").with("tool_calls", found))
}
