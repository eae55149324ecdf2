//! The manifest of a stage: `manifest.json`, written last, so that a stage with a manifest is a finished stage.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use datasets::atomic::write_file;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// File name of the manifest in a stage's folder.
pub const MANIFEST: &str = "manifest.json";

/// Larger files are not read: 16 MiB.
const LIMIT: u64 = 16 << 20;

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All artefacts are complete.
    Done,
}

/// When a stage ran and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Seconds of work, those before an interruption included.
    pub seconds: f64,
    /// Start in seconds since 1970-01-01 UTC.
    pub started: f64,
}

/// What a finished stage was, what it read, and what came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The stage's name, unique in its run.
    pub stage: String,
    /// The kind of stage, such as `glow-eval`.
    pub kind: String,
    /// How it ended.
    pub status: Status,
    /// The version of Hearth that wrote it.
    pub version: String,
    /// The seed of the recipe.
    pub seed: u64,
    /// The stage's fields with every default filled in: an object without the name of the kind around it.
    pub settings: serde_json::Value,
    /// Input name → content hash.
    pub inputs: BTreeMap<String, String>,
    /// Metric → number; `null` for one that is not defined. A NaN or infinity becomes `null` when it is written.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Times.
    pub timings: Timings,
    /// The stage's files, relative to its folder.
    pub artefacts: Vec<String>,
}

impl Manifest {
    /// Reads the manifest of a stage's folder; `None` if there is none (yet). Unknown keys are ignored.
    ///
    /// # Errors
    /// An unreadable file, or one that is not a manifest, at its line and column.
    pub fn read(stage: &Path) -> Result<Option<Self>> {
        let path = stage.join(MANIFEST);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Writes the manifest into a stage's folder at once: it is there as a whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, stage: &Path) -> Result<()> {
        let path = stage.join(MANIFEST);
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| json_error(&path, &error))?;
        text.push(b'\n');
        Ok(write_file(path, &text)?)
    }
}

/// Reads a file of JSON.
///
/// # Errors
/// An unreadable or very large file, or one that is not what it should be, at its line and column.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = match fs::metadata(path) {
        Ok(found) if found.len() > LIMIT => {
            return Err(Error::TooLarge { path: path.into(), bytes: found.len(), limit: LIMIT });
        }
        _ => fs::read(path).map_err(Error::io(path, "read"))?,
    };
    serde_json::from_slice(&bytes).map_err(|error| json_error(path, &error))
}

pub(super) fn json_error(path: &Path, error: &serde_json::Error) -> Error {
    Error::Json { path: path.to_path_buf(), line: error.line(), column: error.column(), message: json_message(error) }
}

/// What is wrong, without the place that the library repeats at the end.
pub(super) fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]).to_owned()
}
