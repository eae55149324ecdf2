//! `dataset_info.json`: named data sets in LLaMA-Factory's form.
//!
//! ```json
//! {"mhqa": {"file_name": "mhqa.json"},
//!  "chats": {"file_name": "chats", "formatting": "sharegpt", "columns": {"messages": "turns"}, "tags": {"role_tag": "role"}}}
//! ```
//! `file_name` counts from the registry's folder. With `columns` every column that they do not name is absent; tags that are not
//! named have their usual names. `num_samples` is how many records an epoch draws.

use super::{Amount, ChatColumns, ChatFormat, ChatSource, ChatTags, chat_files};
use crate::error::{Error, Result};
use crate::json::{kind, parse_object, wrong};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// No registry is larger.
const MAX_BYTES: u64 = 16 << 20;

/// A registry of data sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    path: PathBuf,
    entries: Map<String, Value>,
}

impl Registry {
    /// Reads a registry.
    ///
    /// # Errors
    /// A file that is not one JSON object.
    pub fn open(path: &Path) -> Result<Self> {
        let mut text = String::new();
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(Error::io(path, "read"))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(wrong(path, 0, "", format!("at most {MAX_BYTES} bytes"), "more", "is this a file of records?"));
        }
        let entries = parse_object(path, 1, &text)?;
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The names of the data sets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A data set by name.
    ///
    /// # Errors
    /// An unknown name, and an entry that asks for what there is not here.
    pub fn source(&self, name: &str) -> Result<ChatSource> {
        let entry = match self.entries.get(name) {
            Some(Value::Object(entry)) => entry,
            Some(other) => return Err(self.wrong(name, "an object", &kind(other), "")),
            None => {
                let known: Vec<&str> = self.names().take(20).collect();
                return Err(self.wrong(
                    name,
                    "a data set of this name",
                    "none",
                    &format!("there are {}", known.join(", ")),
                ));
            }
        };
        let text = |key: &str| self.text(name, entry, key);
        let map = |key: &str| match entry.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.wrong(&format!("{name}.{key}"), "an object", &kind(other), "")),
        };
        if entry.get("ranking") == Some(&Value::Bool(true)) {
            return Err(self.wrong(&format!("{name}.ranking"), "false", "true", "preferences are no chats to imitate"));
        }
        let Some(file_name) = text("file_name")? else {
            let hub = ["hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"];
            let found = hub.into_iter().find(|key| entry.contains_key(*key)).unwrap_or("none");
            let remedy = "data on a hub is an entry of its own in the recipe: Hub(repo: \"org/name\", format: Chat)";
            return Err(self.wrong(&format!("{name}.file_name"), "a file", found, remedy));
        };
        let data = self.path.parent().unwrap_or(Path::new("")).join(file_name);
        if !data.exists() {
            let found = format!("none at {}", data.display());
            let remedy = "the name counts from the registry's folder";
            return Err(self.wrong(&format!("{name}.file_name"), "a file or folder", &found, remedy));
        }
        let mut source = ChatSource {
            name: name.to_owned(),
            files: chat_files(&data)?.train,
            amount: match entry.get("num_samples") {
                None | Some(Value::Null) => Amount::default(),
                Some(value) => match value.as_u64().filter(|count| (1..=u64::from(u32::MAX)).contains(count)) {
                    Some(count) => Amount::Samples(count),
                    None => {
                        return Err(self.wrong(&format!("{name}.num_samples"), "a number above 0", &kind(value), ""));
                    }
                },
            },
            ..ChatSource::default()
        };
        let (columns, tags) = (map("columns")?, map("tags")?);
        for key in ["images", "videos", "audios", "chosen", "rejected", "kto_tag", "ranking"] {
            if columns.is_some_and(|columns| columns.get(key).is_some_and(|value| !value.is_null())) {
                return Err(self.wrong(&format!("{name}.columns.{key}"), "texts only", "this column", ""));
            }
        }
        let place = format!("{name}.columns");
        let column = |key: &str| -> Result<Option<String>> {
            let Some(columns) = columns else { return Ok(None) };
            Ok(Some(self.text(&place, columns, key)?.unwrap_or_default()))
        };
        source.columns = ChatColumns { system: column("system")?, tools: column("tools")?, ..ChatColumns::default() };
        let formatting = text("formatting")?;
        match formatting.as_deref().unwrap_or("alpaca") {
            "alpaca" if columns.is_some_and(|columns| !columns.contains_key("response")) => {
                // What LLaMA-Factory takes for texts to go on training with.
                source.format = ChatFormat::Text;
                source.columns = ChatColumns { text: column("prompt")?, ..ChatColumns::default() };
            }
            "alpaca" => {
                source.format = ChatFormat::Alpaca;
                source.columns = ChatColumns {
                    instruction: column("prompt")?,
                    input: column("query")?,
                    output: column("response")?,
                    history: column("history")?,
                    ..source.columns
                };
            }
            "sharegpt" | "openai" => {
                let openai = formatting.as_deref() == Some("openai");
                source.format = if openai { ChatFormat::Messages } else { ChatFormat::ShareGpt };
                source.columns.messages = column("messages")?.filter(|name| !name.is_empty());
                if let Some(tags) = tags {
                    let place = format!("{name}.tags");
                    let tag = |key: &str| self.text(&place, tags, key);
                    source.tags = ChatTags {
                        role: tag("role_tag")?,
                        content: tag("content_tag")?,
                        user: tag("user_tag")?,
                        assistant: tag("assistant_tag")?,
                        observation: tag("observation_tag")?,
                        function: tag("function_tag")?,
                        system: tag("system_tag")?,
                    };
                }
            }
            other => {
                return Err(self.wrong(
                    &format!("{name}.formatting"),
                    "alpaca, sharegpt or openai",
                    &format!("{other:?}"),
                    "",
                ));
            }
        }
        Ok(source)
    }

    /// The text under a key of `map`, which is at `place`.
    fn text(&self, place: &str, map: &Map<String, Value>, key: &str) -> Result<Option<String>> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(&format!("{place}.{key}"), "a string", &kind(other), "")),
        }
    }

    fn wrong(&self, key: &str, expected: &str, found: &str, remedy: &str) -> Error {
        wrong(&self.path, 0, key, expected, found, remedy)
    }
}
