//! Formats, and the names of their keys.

use super::Place;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// The form of the records of chats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ChatFormat {
    /// Seen from the keys of the first record, and said.
    #[default]
    Auto,
    /// `{"messages": [{"role": "user", "content": "…"}, …], "tools": […]}`.
    Messages,
    /// `{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}], "system": "…", "tools": "…"}`. Roles
    /// are `human` or `user`, `gpt` or `assistant`, `observation` or `tool`, `function_call` (its value is the JSON of one call
    /// or of several) and `system`.
    ShareGpt,
    /// `{"instruction": "…", "input": "…", "output": "…", "history": [["…", "…"]], "system": "…"}`. The question is the instruction
    /// and, where it is not empty, the input in a new line.
    Alpaca,
    /// `{"prompt": …, "completion": …}`; the prompt is only read. Two texts stand behind each other without a chat template;
    /// of two lists of messages the second goes on with the first. For texts that are to become turns, take `Alpaca` with
    /// `columns: (instruction: "prompt", output: "completion")`.
    PromptCompletion,
    /// `{"text": "…"}`: all of it is learned, and that it ends there; no chat template is used.
    Text,
}

impl fmt::Display for ChatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the keys of a record are called, where the names differ from the usual ones of the format. "" says that there is no such
/// key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatColumns {
    /// The turns. Default "messages", for `ShareGpt` "conversations".
    pub messages: Option<String>,
    /// A system turn to put first. Default "system", for `Messages` none.
    pub system: Option<String>,
    /// Descriptions of tools: a list, or its JSON as a text. Default "tools".
    pub tools: Option<String>,
    /// Of `Alpaca`. Default "instruction".
    pub instruction: Option<String>,
    /// Of `Alpaca`. Default "input".
    pub input: Option<String>,
    /// Of `Alpaca`. Default "output".
    pub output: Option<String>,
    /// Of `Alpaca`: pairs of questions and answers before. Default "history".
    pub history: Option<String>,
    /// Of `PromptCompletion`. Default "prompt".
    pub prompt: Option<String>,
    /// Of `PromptCompletion`. Default "completion".
    pub completion: Option<String>,
    /// Of `Text`. Default "text".
    pub text: Option<String>,
}

/// What the turns of `ShareGpt` call their keys and roles, where the names differ from the usual ones. A role that is named here is
/// called by that name only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatTags {
    /// The key of the role. Default "from".
    pub role: Option<String>,
    /// The key of the text. Default "value".
    pub content: Option<String>,
    /// Default "human", and "user".
    pub user: Option<String>,
    /// Default "gpt", and "assistant".
    pub assistant: Option<String>,
    /// What a tool answered. Default "observation", and "tool".
    pub observation: Option<String>,
    /// The assistant's call of tools. Default "function_call".
    pub function: Option<String>,
    /// Default "system".
    pub system: Option<String>,
}

/// The name of a column: as given, else the usual one; none for "".
pub(super) fn named<'a>(given: Option<&'a String>, usual: &'a str) -> Option<&'a str> {
    Some(given.map_or(usual, String::as_str)).filter(|name| !name.is_empty())
}

impl ChatColumns {
    /// The columns with names of their own, by the names of their fields.
    pub fn given(&self) -> Vec<(&'static str, &str)> {
        let Self { messages, system, tools, instruction, input, output, history, prompt, completion, text } = self;
        let all = [
            ("messages", messages),
            ("system", system),
            ("tools", tools),
            ("instruction", instruction),
            ("input", input),
            ("output", output),
            ("history", history),
            ("prompt", prompt),
            ("completion", completion),
            ("text", text),
        ];
        all.into_iter().filter_map(|(field, name)| Some((field, name.as_deref()?))).collect()
    }
}

impl ChatFormat {
    /// The columns that a format knows; the first of them have to be in every record.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Auto => &[
                "messages",
                "system",
                "tools",
                "instruction",
                "input",
                "output",
                "history",
                "prompt",
                "completion",
                "text",
            ],
            Self::Messages | Self::ShareGpt => &["messages", "system", "tools"],
            Self::Alpaca => &["instruction", "output", "input", "history", "system", "tools"],
            Self::PromptCompletion => &["prompt", "completion", "tools"],
            Self::Text => &["text"],
        }
    }
}

/// A format with its names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    pub(crate) format: ChatFormat,
    pub(crate) columns: ChatColumns,
    pub(crate) tags: ChatTags,
}

impl Layout {
    /// OpenAI's.
    pub(super) fn messages() -> Self {
        Self { format: ChatFormat::Messages, ..Self::default() }
    }

    /// The same with a format, where it is left open: that of a record.
    pub(super) fn detect(&self, at: Place, map: &Map<String, Value>) -> Result<Self> {
        if self.format != ChatFormat::Auto {
            return Ok(self.clone());
        }
        let columns = &self.columns;
        let has = |given: Option<&String>, usual: &str| named(given, usual).is_some_and(|name| map.contains_key(name));
        let turns = match &columns.messages {
            Some(name) => vec![name.as_str()],
            None => vec!["messages", "conversations", "conversation"],
        };
        let list = |name: &&str| map.get(*name).is_some_and(|value| !value.is_null());
        if let Some(name) = turns.into_iter().find(list) {
            let role = self.tags.role.as_deref().unwrap_or("from");
            let first = map.get(name).and_then(|turns| turns.get(0));
            let sharegpt = match first {
                Some(first) => first.get(role).is_some(),
                None => name != "messages",
            };
            let format = if sharegpt { ChatFormat::ShareGpt } else { ChatFormat::Messages };
            let columns = ChatColumns { messages: Some(name.to_owned()), ..columns.clone() };
            return Ok(Self { format, columns, ..self.clone() });
        }
        let format = if has(columns.instruction.as_ref(), "instruction") && has(columns.output.as_ref(), "output") {
            ChatFormat::Alpaca
        } else if has(columns.prompt.as_ref(), "prompt") && has(columns.completion.as_ref(), "completion") {
            ChatFormat::PromptCompletion
        } else if has(columns.text.as_ref(), "text") {
            ChatFormat::Text
        } else {
            let keys: Vec<String> = map.keys().take(12).map(|key| format!("`{key}`")).collect();
            let found = if keys.is_empty() { "no key".to_owned() } else { keys.join(", ") };
            let expected =
                "`messages`, `conversations`, `instruction` and `output`, `prompt` and `completion`, or `text`";
            let remedy = "a line looks like {\"messages\": [{\"role\": \"user\", \"content\": \"…\"}]}; for keys of other names give \
                          `columns`";
            return Err(at.wrong("", format!("a chat: {expected}"), found, remedy));
        };
        Ok(Self { format, ..self.clone() })
    }

    /// The columns that every record has to have and these have not.
    pub(crate) fn missing(&self, map: &Map<String, Value>) -> Vec<String> {
        let ChatColumns { messages, instruction, output, prompt, completion, text, .. } = &self.columns;
        let needed = match self.format {
            ChatFormat::Auto => vec![],
            ChatFormat::Messages => vec![named(messages.as_ref(), "messages")],
            ChatFormat::ShareGpt => vec![named(messages.as_ref(), "conversations")],
            ChatFormat::Alpaca => {
                vec![named(instruction.as_ref(), "instruction"), named(output.as_ref(), "output")]
            }
            ChatFormat::PromptCompletion => {
                vec![named(prompt.as_ref(), "prompt"), named(completion.as_ref(), "completion")]
            }
            ChatFormat::Text => vec![named(text.as_ref(), "text")],
        };
        needed.into_iter().flatten().filter(|name| !map.contains_key(*name)).map(str::to_owned).collect()
    }
}
