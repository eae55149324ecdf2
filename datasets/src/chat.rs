//! Conversations of any usual form as one record.
//!
//! | format | keys of a record |
//! | --- | --- |
//! | [`ChatFormat::Messages`] | `messages`: role and content, as OpenAI has it; `tools` |
//! | [`ChatFormat::ShareGpt`] | `conversations`: from and value; `system`, `tools` |
//! | [`ChatFormat::Alpaca`] | `instruction`, `input`, `output`; `history`, `system` |
//! | [`ChatFormat::PromptCompletion`] | `prompt` and `completion`: texts or messages |
//! | [`ChatFormat::Text`] | `text`: all of it is learned |
//!
//! A file holds JSON lines, a JSON array or a Parquet table; the JSON may be compressed by zstd. The format is seen from the
//! keys of the first record where it is not said. Checked are the roles, the kinds of content and where tool calls may stand;
//! what a chat template makes of a conversation is its own business.

mod alpaca;
mod files;
mod format;
mod messages;
mod prompt_completion;
mod reader;
mod registry;
mod sharegpt;
mod source;
mod split;
mod text;

pub use files::{ChatFiles, ENDINGS, chat_files};
pub use format::{ChatColumns, ChatFormat, ChatTags};
pub use reader::ChatReader;
pub(crate) use reader::Record;
pub use registry::Registry;
pub use source::{Amount, ChatSource};
pub use split::{ChatSplit, Side};

use crate::error::{Error, Result};
use crate::json::wrong;
use burn_models::text::Message;
use format::Layout;
use serde_json::{Map, Value};
use std::path::Path;

/// The longest record of a file of conversations, in bytes.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// The most messages in one conversation.
pub const MAX_MESSAGES: usize = 10_000;

/// One conversation, or a text without turns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChatRecord {
    /// The line of the file, or the row of a table, from 1.
    pub line: u64,
    /// The turns; none only where there is a plain text.
    pub messages: Vec<Message>,
    /// So many of the first turns are only read, whatever else is learned.
    pub only_read: usize,
    /// The descriptions of tools, where there are any.
    pub tools: Option<Vec<Value>>,
    /// A text that no chat template frames.
    pub plain: Option<PlainText>,
    /// The other keys of the record.
    pub extra: Map<String, Value>,
}

/// A text without turns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlainText {
    /// What it begins with; only read.
    pub prompt: String,
    /// What follows; learned, with the end of the text.
    pub learned: String,
}

impl ChatRecord {
    /// Takes `messages` and `tools` out of a JSON object; `path` and `line` are its place in messages.
    ///
    /// # Errors
    /// What is wrong with which key.
    pub fn from_map(path: &Path, line: u64, map: Map<String, Value>) -> Result<Self> {
        Self::of(path, line, map, &Layout::messages())
    }

    /// The conversation of a JSON object in a known layout.
    fn of(path: &Path, line: u64, map: Map<String, Value>, layout: &Layout) -> Result<Self> {
        let at = Place { path, line };
        match layout.format {
            ChatFormat::Auto | ChatFormat::Messages => messages::read(at, map, &layout.columns),
            ChatFormat::ShareGpt => sharegpt::read(at, map, &layout.columns, &layout.tags),
            ChatFormat::Alpaca => alpaca::read(at, map, &layout.columns),
            ChatFormat::PromptCompletion => prompt_completion::read(at, map, &layout.columns),
            ChatFormat::Text => text::read(at, map, &layout.columns),
        }
    }
}

/// A record's place in messages.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a Path,
    line: u64,
}

impl Place<'_> {
    fn wrong(
        self,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        remedy: &str,
    ) -> Error {
        wrong(self.path, self.line, key, expected, found, remedy)
    }
}
