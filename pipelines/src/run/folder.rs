//! The run folder: one folder per stage, a manifest as the last file written.
//!
//! ```text
//! runs/<name>/recipe.ron            the recipe as it was given
//!             plan.json             the resolved recipe
//!             run.lock              held by the process that writes here
//!             sources/<key>/        what `models` and `data` entries were made into, where they had to be made
//!             stages/<n>-<name>/    started.json, …, manifest.json
//!             replaced/…            finished stages whose settings changed since
//!             report/
//! ```
//!
//! A stage's *fingerprint* is a hash of its kind, its resolved settings (but for those without effect on
//! the result, such as when to save), the recipe's seed, the version of Hearth and the fingerprints of
//! its inputs. A stage whose manifest carries the fingerprint it would have now is finished; a folder that was only started with
//! that fingerprint is continued; anything else is started again.

use super::error::Error;
use crate::report::{MANIFEST, Manifest};
use datasets::atomic::write_file;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A run's folder, locked by this process.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

/// The state of one stage on disk.
#[derive(Clone, Debug)]
pub enum StageState {
    /// Finished with this fingerprint.
    Finished(Box<Manifest>),
    /// Started with this fingerprint, not finished.
    Started,
    /// Nothing usable is there.
    Absent,
}

#[derive(Serialize, Deserialize)]
struct Started {
    fingerprint: String,
}

const STARTED: &str = "started.json";

impl RunFolder {
    /// Opens or creates the folder and locks it.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process runs there; [`Error::Io`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        fs::create_dir_all(path.join("stages")).map_err(Error::io(&path))?;
        let lock_path = path.join("run.lock");
        let lock =
            File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(Error::io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { path }),
            Err(fs::TryLockError::Error(source)) => Err(Error::Io { path: lock_path, source }),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where stage `number` (from 1) of this name keeps its files. A folder of the same name but another number is moved there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stage(&self, number: usize, name: &str) -> Result<PathBuf, Error> {
        let stages = self.path.join("stages");
        let wanted = stages.join(format!("{number:02}-{name}"));
        if !wanted.exists()
            && let Some(found) = find_stage(&self.path, name)
        {
            fs::rename(&found, &wanted).map_err(Error::io(&found))?;
        }
        Ok(wanted)
    }

    /// Moves a stage's folder to `replaced/`, in place of the one there. An unfinished one has a place of its own, so that it never
    /// takes that of a finished result.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn replace(&self, stage: &Path) -> Result<PathBuf, Error> {
        let replaced = self.path.join("replaced");
        fs::create_dir_all(&replaced).map_err(Error::io(&replaced))?;
        let mut name = stage.file_name().unwrap_or_default().to_os_string();
        if !stage.join(MANIFEST).exists() {
            name.push(".unfinished");
        }
        let target = replaced.join(name);
        if target.exists() {
            fs::remove_dir_all(&target).map_err(Error::io(&target))?;
        }
        fs::rename(stage, &target).map_err(Error::io(stage))?;
        Ok(target)
    }
}

/// The folder of the stage of this name in a run, whatever its number.
pub fn find_stage(run: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(run.join("stages")).ok()?.filter_map(|e| e.ok().map(|e| e.path())).find(|path| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.split_once('-').is_some_and(|(number, rest)| rest == name && number.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// What is known of the stage in `folder` under `fingerprint`. A manifest that cannot be read is as good as none: the stage goes
/// on from what it has saved, and writes another.
pub fn stage_state(folder: &Path, fingerprint: &str) -> StageState {
    let started: Option<Started> =
        fs::read(folder.join(STARTED)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if started.is_none_or(|started| started.fingerprint != fingerprint) {
        return StageState::Absent;
    }
    match Manifest::read(folder) {
        Ok(Some(manifest)) => StageState::Finished(Box::new(manifest)),
        Ok(None) => StageState::Started,
        Err(error) => {
            tracing::warn!("{error}: the stage counts as not finished");
            StageState::Started
        }
    }
}

/// Whether a stage was ever started in `folder`. A process that is killed early may leave a folder without a stage in it.
pub fn was_started(folder: &Path) -> bool {
    folder.join(STARTED).exists()
}

/// Notes that a stage was started.
///
/// # Errors
/// [`Error::Data`] where the disk refuses.
pub fn start_stage(folder: &Path, fingerprint: &str) -> Result<(), Error> {
    write_json(&folder.join(STARTED), &Started { fingerprint: fingerprint.into() })
}

/// Writes JSON at once: the file is there as a whole or not at all.
///
/// # Errors
/// [`Error::Data`] where the disk refuses.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::io(path)(e.into()))?;
    text.push(b'\n');
    Ok(write_file(path, &text)?)
}
