//! The settings files of a sentence-transformers folder.

use super::pooling::Pooling;
use crate::checkpoint::write_atomic;
use crate::{Error, Result};
use serde_json::{Map, Value as Json, json};
use std::path::{Component, Path, PathBuf};

/// The largest settings file accepted, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a sentence-transformers folder says beside the encoder itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The folder with the encoder and the tokenizer.
    pub(super) encoder: PathBuf,
    pub(super) pooling: Pooling,
    pub(super) normalize: bool,
    /// Longest text in tokens, if the folder says so.
    pub(super) max_seq_length: Option<usize>,
    /// Texts are lowercased before the tokenizer sees them.
    pub(super) lowercase: bool,
}

impl Settings {
    /// Reads `modules.json`, the pooling module's `config.json` and `sentence_bert_config.json`. A folder without
    /// `modules.json` is a plain encoder: mean pooling without normalisation, as the reference library takes it.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("modules.json");
        let mut settings = Self {
            encoder: dir.to_path_buf(),
            pooling: Pooling::Mean,
            normalize: false,
            max_seq_length: None,
            lowercase: false,
        };
        if let Some(modules) = read_json(&path)? {
            let modules = modules.as_array().ok_or_else(|| Error::config(&path, "", "it is not a list"))?;
            for (i, module) in modules.iter().enumerate() {
                let key = |name: &str| format!("{i}.{name}");
                let text = |name: &str| {
                    module
                        .get(name)
                        .and_then(Json::as_str)
                        .ok_or_else(|| Error::config(&path, key(name), "this key is missing"))
                };
                let kind = text("type")?;
                let folder = subfolder(dir, text("path")?)
                    .ok_or_else(|| Error::config(&path, key("path"), "it is not a folder inside this folder"))?;
                match kind.rsplit('.').next() {
                    Some("Transformer") if i == 0 => settings.encoder = folder,
                    Some("Pooling") if i > 0 => settings.pooling = pooling(&folder.join("config.json"))?,
                    Some("Normalize") if i > 0 => settings.normalize = true,
                    _ => {
                        let problem =
                            format!("{kind:?} in place {i} is not supported: only Transformer, Pooling, Normalize");
                        return Err(Error::config(&path, key("type"), problem));
                    }
                }
            }
        }
        let path = settings.encoder.join("sentence_bert_config.json");
        if let Some(config) = read_json(&path)? {
            settings.lowercase = config.get("do_lower_case") == Some(&Json::Bool(true));
            settings.max_seq_length = match config.get("max_seq_length") {
                None | Some(Json::Null) => None,
                Some(value) => {
                    let length = value.as_u64().and_then(|v| usize::try_from(v).ok()).filter(|v| *v > 0);
                    let problem = || Error::config(&path, "max_seq_length", format!("{value} is not a length"));
                    Some(length.ok_or_else(problem)?)
                }
            };
        }
        Ok(settings)
    }

    /// Writes the files that [`Settings::read`] reads, with the encoder in `dir` itself.
    pub(super) fn write(&self, dir: &Path, width: usize) -> Result<()> {
        let module = |i: usize, path: &str, kind: &str| json!({ "idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
        let mut modules = vec![module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling")];
        if self.normalize {
            modules.push(module(2, "2_Normalize", "Normalize"));
        }
        let is = |pooling: Pooling| self.pooling == pooling;
        let pooling = json!({
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": is(Pooling::Cls),
            "pooling_mode_mean_tokens": is(Pooling::Mean),
            "pooling_mode_max_tokens": false,
            "pooling_mode_mean_sqrt_len_tokens": false,
            "pooling_mode_weightedmean_tokens": false,
            "pooling_mode_lasttoken": is(Pooling::Last),
            "include_prompt": true,
        });
        let folder = dir.join("1_Pooling");
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        write_json(&folder.join("config.json"), &pooling)?;
        let sentence = json!({ "max_seq_length": self.max_seq_length, "do_lower_case": self.lowercase });
        write_json(&dir.join("sentence_bert_config.json"), &sentence)?;
        write_json(&dir.join("modules.json"), &Json::Array(modules))
    }
}

/// A relative path below `dir`; `None` where it leads elsewhere.
fn subfolder(dir: &Path, path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)).then(|| dir.join(path))
}

/// The one mode that a pooling module's configuration turns on.
fn pooling(path: &Path) -> Result<Pooling> {
    const MODES: [(&str, &str, Pooling); 3] = [
        ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
        ("pooling_mode_cls_token", "cls", Pooling::Cls),
        ("pooling_mode_lasttoken", "lasttoken", Pooling::Last),
    ];
    let config = read_json(path)?
        .ok_or_else(|| Error::io(path)(std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such file")))?;
    let empty = Map::new();
    let config = config.as_object().unwrap_or(&empty);
    // Newer files name the mode, older ones have a switch for each.
    if let Some(mode) = config.get("pooling_mode").and_then(Json::as_str) {
        return MODES.iter().find(|(_, name, _)| *name == mode).map(|(_, _, pooling)| *pooling).ok_or_else(|| {
            Error::config(path, "pooling_mode", format!("{mode:?} is not supported: only mean, cls, lasttoken"))
        });
    }
    let on: Vec<&str> = config
        .iter()
        .filter(|(key, value)| key.starts_with("pooling_mode_") && **value == Json::Bool(true))
        .map(|(key, _)| key.as_str())
        .collect();
    let known = |key: &str| MODES.iter().find(|(name, _, _)| *name == key).map(|(_, _, pooling)| *pooling);
    match on.as_slice() {
        [key] => known(key).ok_or_else(|| Error::config(path, *key, "this way of pooling is not supported")),
        _ => Err(Error::config(path, "pooling_mode_*", format!("exactly one must be true, found {on:?}"))),
    }
}

/// The JSON of a small file, `None` where there is no such file.
fn read_json(path: &Path) -> Result<Option<Json>> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path)(error)),
    };
    if size > MAX_FILE {
        return Err(Error::config(path, "", format!("{size} bytes are too many")));
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map(Some).map_err(Error::json(path))
}

fn write_json(path: &Path, value: &Json) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::json(path))?;
    write_atomic(path, (text + "\n").as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn settings(dir: &Path) -> Settings {
        Settings {
            encoder: dir.join(""),
            pooling: Pooling::Last,
            normalize: true,
            max_seq_length: Some(48),
            lowercase: false,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
            for normalize in [true, false] {
                let settings = Settings { pooling, normalize, ..settings(dir.path()) };
                settings.write(dir.path(), 32).unwrap();
                assert_eq!(Settings::read(dir.path()).unwrap(), settings);
            }
        }
    }

    #[test]
    fn other_modules_and_modes_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let spoil = |file: &str, from: &str, to: &str| {
            settings(dir.path()).write(dir.path(), 32).unwrap();
            let path = dir.path().join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from));
            std::fs::write(&path, text.replace(from, to)).unwrap();
            Settings::read(dir.path()).unwrap_err().to_string()
        };
        assert!(spoil("modules.json", "models.Normalize", "models.Dense").contains("Dense"));
        assert!(spoil("modules.json", "1_Pooling", "../1_Pooling").contains("inside this folder"));
        assert!(
            spoil("1_Pooling/config.json", "\"pooling_mode_max_tokens\": false", "\"pooling_mode_max_tokens\": true")
                .contains("exactly one")
        );
        assert!(spoil("sentence_bert_config.json", "48", "-1").contains("max_seq_length"));
    }
}
