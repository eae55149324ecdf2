//! Where a model is.

use crate::report::MANIFEST;
use crate::run::Error;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The settings of a larger adapter are not read, in bytes.
const LIMIT: u64 = 1 << 20;

/// A model, and an adapter that belongs to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) model: PathBuf,
    pub(super) adapter: Option<PathBuf>,
}

/// The model of a folder: its own; that of a stage (`model`, or the base of `adapter` with it); or that of a run's last finished
/// stage that has one.
pub(super) fn find(folder: &Path) -> Result<Found, Error> {
    if let Some(found) = of_stage(folder)? {
        return Ok(found);
    }
    let mut stages: Vec<PathBuf> = std::fs::read_dir(folder.join("stages"))
        .map(|entries| entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
        .unwrap_or_default();
    stages.retain(|stage| stage.join(MANIFEST).is_file());
    // Numbers of two digits at least come first in the names.
    let number = |stage: &PathBuf| {
        let name = stage.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.split('-').next().and_then(|number| number.parse().ok());
        (number.unwrap_or(0u64), name)
    };
    stages.sort_by_key(|stage| std::cmp::Reverse(number(stage)));
    for stage in stages {
        if let Some(found) = of_stage(&stage)? {
            return Ok(found);
        }
    }
    let reason = "there is no model here: expected a model's folder (config.json), that of a stage (model or adapter), or that of \
                  a run with such a finished stage";
    Err(Error::io(folder)(std::io::Error::new(std::io::ErrorKind::NotFound, reason)))
}

fn of_stage(folder: &Path) -> Result<Option<Found>, Error> {
    for model in [folder.to_path_buf(), folder.join("model")] {
        if model.join("config.json").is_file() {
            return Ok(Some(Found { model, adapter: None }));
        }
    }
    for adapter in [folder.to_path_buf(), folder.join("adapter")] {
        if adapter.join("adapter_config.json").is_file() {
            return Ok(Some(Found { model: base(&adapter)?, adapter: Some(adapter) }));
        }
    }
    Ok(None)
}

/// The model that an adapter names as its base.
fn base(adapter: &Path) -> Result<PathBuf, Error> {
    let path = adapter.join("adapter_config.json");
    let size = std::fs::metadata(&path).map_err(Error::io(&path))?.len();
    let invalid = |reason: String| Error::io(&path)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason));
    if size > LIMIT {
        return Err(invalid(format!("it has {size} bytes, more than the {LIMIT} that are read")));
    }
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let settings: Value = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    let base = settings.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default();
    let folder = PathBuf::from(base);
    if !base.is_empty() && folder.join("config.json").is_file() {
        return Ok(folder);
    }
    let reason = format!("`base_model_name_or_path` is {base:?}, no folder of a model: give the base, and --adapter");
    Err(invalid(reason))
}
