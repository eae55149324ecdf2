//! The tokenizer files of a Hugging Face model folder.

use crate::{Error, Result};
use serde_json::{Map, Value as Json};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Limits on the files' sizes, in bytes.
const MAX_TOKENIZER: u64 = 64 << 20;
const MAX_CONFIG: u64 = 8 << 20;
const MAX_TEMPLATE: u64 = 1 << 20;

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const CONFIG: &str = "tokenizer_config.json";
pub(super) const SPECIAL_MAP: &str = "special_tokens_map.json";
pub(super) const GENERATION: &str = "generation_config.json";
pub(super) const TEMPLATE: &str = "chat_template.jinja";

/// The tokenizer files of one folder, as they are.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    /// Where they come from, for messages.
    pub(super) path: PathBuf,
    /// `tokenizer.json`.
    pub(super) tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub(super) config: Option<Map<String, Json>>,
    /// `special_tokens_map.json`.
    pub(super) special_map: Option<Map<String, Json>>,
    /// `generation_config.json`.
    pub(super) generation: Option<Map<String, Json>>,
    /// `chat_template.jinja`, which wins over the template inside `tokenizer_config.json`.
    pub(super) template: Option<String>,
}

impl Folder {
    /// Reads the files that are there; only `tokenizer.json` must be.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file = path.join(TOKENIZER);
        let tokenizer = read_limited(&file, MAX_TOKENIZER)?.ok_or_else(|| Error::Tokenizer {
            path: file,
            problem:
                "there is no such file; a folder that has only vocab.txt, vocab.json or a sentencepiece model gets \
                      one from AutoTokenizer.from_pretrained(folder).save_pretrained(folder) in Python"
                    .into(),
        })?;
        let object = |name: &str| -> Result<Option<Map<String, Json>>> {
            let file = path.join(name);
            let Some(bytes) = read_limited(&file, MAX_CONFIG)? else { return Ok(None) };
            serde_json::from_slice(&bytes).map(Some).map_err(Error::json(file))
        };
        let template_file = path.join(TEMPLATE);
        let template = match read_limited(&template_file, MAX_TEMPLATE)? {
            Some(bytes) => Some(
                String::from_utf8(bytes)
                    .map_err(|_| Error::Tokenizer { path: template_file, problem: "it is not UTF-8 text".into() })?,
            ),
            None => None,
        };
        Ok(Self {
            path: path.to_path_buf(),
            tokenizer,
            config: object(CONFIG)?,
            special_map: object(SPECIAL_MAP)?,
            generation: object(GENERATION)?,
            template,
        })
    }

    /// The text of a special token by its Hugging Face name, such as `eos_token`.
    pub(super) fn special(&self, name: &str) -> Option<&str> {
        [&self.config, &self.special_map].into_iter().flatten().filter_map(|map| map.get(name)).find_map(token_text)
    }

    /// The texts under `additional_special_tokens` (or its newer name `extra_special_tokens`, where that is a list).
    pub(super) fn additional_special(&self) -> Vec<&str> {
        [&self.config, &self.special_map]
            .into_iter()
            .flatten()
            .flat_map(|map| ["additional_special_tokens", "extra_special_tokens"].map(|key| map.get(key)))
            .flatten()
            .find_map(|value| value.as_array())
            .map(|list| list.iter().filter_map(token_text).collect())
            .unwrap_or_default()
    }

    /// Ids under a key of `generation_config.json`, which holds one or a list.
    pub(super) fn generation_ids(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.generation.as_ref().and_then(|map| map.get(key)) else { return Ok(Vec::new()) };
        let items = match value {
            Json::Null => &[][..],
            Json::Array(items) => items,
            one => std::slice::from_ref(one),
        };
        items
            .iter()
            .map(|item| {
                item.as_u64()
                    .and_then(|id| u32::try_from(id).ok())
                    .ok_or_else(|| Error::config(self.path.join(GENERATION), key, format!("{item} is not a token id")))
            })
            .collect()
    }

    /// The chat template and the file it is from: `chat_template.jinja`, else `chat_template` of the configuration,
    /// which may be a list of named templates, of which `default` is taken.
    pub(super) fn chat_template(&self) -> Result<Option<String>> {
        if let Some(template) = &self.template {
            return Ok(Some(template.clone()));
        }
        let Some(value) = self.config.as_ref().and_then(|map| map.get("chat_template")) else { return Ok(None) };
        let problem = match value {
            Json::Null => return Ok(None),
            Json::String(template) => return Ok(Some(template.clone())),
            Json::Array(list) => {
                let text = |entry: &Json, key: &str| entry.get(key).and_then(Json::as_str).map(str::to_string);
                let default = list.iter().find(|entry| text(entry, "name").as_deref() == Some("default"));
                match default.and_then(|entry| text(entry, "template")) {
                    Some(template) => return Ok(Some(template)),
                    None => {
                        let names: Vec<_> = list.iter().filter_map(|entry| text(entry, "name")).collect();
                        format!("none of the templates is called `default`; found {names:?}")
                    }
                }
            }
            _ => "neither a text nor a list of named templates".into(),
        };
        Err(Error::config(self.path.join(CONFIG), "chat_template", problem))
    }
}

/// A token's text: a string, or an object with a `content`.
fn token_text(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The bytes of a file, `None` where there is no such file.
fn read_limited(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > limit {
        let problem = format!("larger than {limit} bytes");
        return Err(Error::Tokenizer { path: path.to_path_buf(), problem });
    }
    Ok(Some(bytes))
}
