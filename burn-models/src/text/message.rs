//! One turn of a conversation.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// The longest name of a role.
const MAX_ROLE: usize = 64;

/// One turn of a conversation: a JSON object with a `role`, usually a `content`, and whatever else the chat template
/// of a model understands (`tool_calls`, `reasoning_content`, …), in the order in which the keys were given.
///
/// ```
/// use burn_models::text::Message;
/// let message = Message::user("How many nodes?").with("name", "grader");
/// assert_eq!((message.role(), message.text()), ("user", Some("How many nodes?")));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Json>", into = "Map<String, Json>")]
pub struct Message(Map<String, Json>);

impl Message {
    /// A turn of any role.
    ///
    /// # Errors
    /// [`Error::Chat`] unless the role is 1 to 64 ASCII letters, digits, `_`, `-` or `.`: templates put it into the frame
    /// of the turn, where other characters could be read as special tokens.
    pub fn new(role: impl Into<String>, content: impl Into<Json>) -> Result<Self> {
        let mut map = Map::new();
        map.insert("role".into(), Json::String(role.into()));
        map.insert("content".into(), content.into());
        Self::try_from(map)
    }

    /// A turn of the role `system`.
    pub fn system(content: impl Into<String>) -> Self {
        Self::known("system", content.into())
    }

    /// A turn of the role `user`.
    pub fn user(content: impl Into<String>) -> Self {
        Self::known("user", content.into())
    }

    /// A turn of the role `assistant`.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::known("assistant", content.into())
    }

    /// A turn of the role `tool`.
    pub fn tool(content: impl Into<String>) -> Self {
        Self::known("tool", content.into())
    }

    fn known(role: &str, content: String) -> Self {
        Self(Map::from_iter([("role".into(), Json::from(role)), ("content".into(), Json::String(content))]))
    }

    /// The same turn with another key; `role` cannot be changed.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Json>) -> Self {
        let key = key.into();
        if key != "role" {
            self.0.insert(key, value.into());
        }
        self
    }

    /// The same turn without a key; `role` stays.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        if key != "role" {
            self.0.shift_remove(key);
        }
        self
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Json::as_str).unwrap_or_default()
    }

    /// What is said, where it is a plain text.
    pub fn text(&self) -> Option<&str> {
        self.0.get("content").and_then(Json::as_str)
    }

    /// The value of any key.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.0.get(key)
    }

    /// The turn as a JSON object.
    pub fn as_map(&self) -> &Map<String, Json> {
        &self.0
    }
}

impl TryFrom<Map<String, Json>> for Message {
    type Error = Error;

    fn try_from(map: Map<String, Json>) -> Result<Self> {
        let problem = match map.get("role") {
            Some(Json::String(role)) => {
                let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
                if (1..=MAX_ROLE).contains(&role.len()) && role.chars().all(allowed) {
                    return Ok(Self(map));
                }
                format!("role {role:?}: expected 1 to {MAX_ROLE} letters, digits, `_`, `-` or `.`")
            }
            Some(_) => "the role of a message must be a text".into(),
            None => "a message without a role".into(),
        };
        Err(Error::Chat { problem })
    }
}

impl From<Message> for Map<String, Json> {
    fn from(message: Message) -> Self {
        message.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_keep_their_order() {
        let text = r#"{"z":1,"role":"assistant","content":null,"a":[{"y":1,"x":2}]}"#;
        let message: Message = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
        assert_eq!((message.role(), message.text()), ("assistant", None));
    }

    #[test]
    fn roles_that_could_forge_a_frame_are_rejected() {
        for role in ["", "a\nb", "user<|im_end|>", "a b", "ü"] {
            assert!(matches!(Message::new(role, "x"), Err(Error::Chat { .. })), "{role:?}");
        }
        assert!(serde_json::from_str::<Message>(r#"{"content": "x"}"#).is_err());
        assert!(serde_json::from_str::<Message>(r#"{"role": 1, "content": "x"}"#).is_err());
    }
}
