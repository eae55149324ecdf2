//! Run folders as a report sees them: whatever is readable, and a note for whatever is not.

use std::fs;
use std::path::{Path, PathBuf};

use super::log::{METRICS_JSONL, Row, read_rows};
use super::manifest::read_json;
use super::{Error, Manifest, Result};
use crate::recipe::Recipe;
use serde_json::Value;

/// A run folder.
#[derive(Debug)]
pub struct Run {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// The recipe apart from its seed ([`Recipe::hash_without_seed`]), where the run has kept it.
    pub experiment: Option<String>,
    /// Its seed.
    pub seed: Option<u64>,
    /// The stages that left something, in their order.
    pub stages: Vec<Stage>,
    /// What could not be read, each with its file.
    pub notes: Vec<String>,
}

/// A stage's folder.
#[derive(Debug)]
pub struct Stage {
    /// The stage's name.
    pub name: String,
    /// The folder, called `<n>-<stage>`.
    pub path: PathBuf,
    /// The manifest of a finished stage.
    pub manifest: Option<Manifest>,
    /// What its learners logged: the stage's own log first, then those of the folders in it.
    pub logs: Vec<Log>,
    /// Whether the manifest is there but unreadable.
    pub damaged: bool,
}

/// What a learner logged.
#[derive(Debug)]
pub struct Log {
    /// The folder inside the stage's that holds the log, such as `warmup`; none for the stage's own.
    pub part: Option<String>,
    /// The rows, at least one.
    pub rows: Vec<Row>,
}

impl Run {
    /// Reads the run folder `path`, or `runs/<path>` where `path` itself does not exist.
    ///
    /// # Errors
    /// The folder is not a run or cannot be listed. What is wrong inside becomes a note.
    pub fn read(path: &Path) -> Result<Self> {
        let by_name = Path::new("runs").join(path);
        let path = if !path.exists() && by_name.is_dir() { by_name } else { path.to_path_buf() };
        let folder = path.join("stages");
        if !folder.is_dir() {
            return Err(Error::NotARun { path });
        }
        let mut stages = Vec::new();
        let mut notes = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder, "list"))? {
            let entry = entry.map_err(Error::io(&folder, "list"))?;
            let file_name = entry.file_name().to_string_lossy().into_owned();
            if let Some((number, name)) = stage_folder(&file_name).filter(|_| entry.path().is_dir()) {
                stages.push((number, Stage::read(name, entry.path(), &mut notes)));
            }
        }
        stages.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.path.cmp(&y.path)));
        let mut stages: Vec<Stage> = stages.into_iter().map(|(_, stage)| stage).collect();
        keep_latest(&mut stages, &mut notes);
        let plan: Option<Value> = read_json(&path.join("plan.json")).ok();
        let experiment = plan.as_ref().map(Recipe::hash_without_seed);
        let seed = plan.as_ref().and_then(|plan| plan["seed"].as_u64());
        Ok(Self { name: run_name(&path), path, experiment, seed, stages, notes })
    }

    /// The stage of this name.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Whether any stage has a manifest or measurements.
    #[must_use]
    pub fn has_content(&self) -> bool {
        self.stages.iter().any(|stage| stage.manifest.is_some() || !stage.logs.is_empty())
    }
}

impl Stage {
    fn read(name: &str, path: PathBuf, notes: &mut Vec<String>) -> Self {
        let read = Manifest::read(&path);
        let damaged = read.is_err();
        let manifest = read.unwrap_or_else(|error| {
            notes.push(error.to_string());
            None
        });
        let mut logs = Vec::new();
        logs.extend(Log::read(None, &path, notes));
        for folder in folders(&path) {
            let part = folder.file_name().map(|name| name.to_string_lossy().into_owned());
            logs.extend(Log::read(part, &folder, notes));
        }
        let name = manifest.as_ref().map_or(name, |manifest| &manifest.stage).to_owned();
        Self { name, path, manifest, logs, damaged }
    }

    /// `done`, `damaged` (its manifest cannot be read) or `unfinished`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match &self.manifest {
            Some(_) => "done",
            None if self.damaged => "damaged",
            None => "unfinished",
        }
    }

    /// The last step in the stage's own log, or else in the last of its parts.
    #[must_use]
    pub fn last_step(&self) -> Option<u64> {
        let log = self.logs.iter().find(|log| log.part.is_none()).or(self.logs.last())?;
        log.rows.iter().map(|row| row.step).max()
    }
}

impl Log {
    fn read(part: Option<String>, folder: &Path, notes: &mut Vec<String>) -> Option<Self> {
        let path = folder.join(METRICS_JSONL);
        if !path.exists() {
            return None;
        }
        let mut rows = Vec::new();
        match read_rows(&path, &mut rows) {
            Ok(None) => {}
            Ok(Some(line)) => notes.push(format!(
                "{}:{line}: the last line is cut off (the stage is writing it, or was killed): not shown",
                path.display()
            )),
            Err(error) => notes.push(format!("{error}: the rows from there on are not shown")),
        }
        (!rows.is_empty()).then_some(Self { part, rows })
    }
}

/// The folders in a folder, by name.
fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// A recipe whose stages moved leaves folders of the same stage under other numbers: the one that started last counts.
fn keep_latest(stages: &mut Vec<Stage>, notes: &mut Vec<String>) {
    let started =
        |stage: &Stage| stage.manifest.as_ref().map_or(f64::NEG_INFINITY, |manifest| manifest.timings.started);
    let mut index = 0;
    while index < stages.len() {
        let stage = &stages[index];
        let newer = stages.iter().enumerate().any(|(other, candidate)| {
            candidate.name == stage.name
                && (started(candidate), other) > (started(stage), index)
                && candidate.path != stage.path
        });
        if newer {
            notes.push(format!("{}: an older folder of the stage `{}`: not shown", stage.path.display(), stage.name));
            stages.remove(index);
        } else {
            index += 1;
        }
    }
}

/// The parts of `<n>-<stage>`.
fn stage_folder(name: &str) -> Option<(u32, &str)> {
    let (number, name) = name.split_once('-')?;
    Some((number.parse().ok()?, name)).filter(|(_, name)| !name.is_empty())
}

/// The folder's own name, also for `.` or a path that ends in `..`.
fn run_name(path: &Path) -> String {
    let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    whole.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
