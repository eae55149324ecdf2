//! A folder in the making.

use super::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of a folder, made in a hidden folder inside it and moved up by [`Scratch::publish`] when all of them are right.
/// Dropped without that, nothing is left; what a killed process left is removed by the next one.
#[derive(Debug)]
pub(super) struct Scratch {
    target: PathBuf,
    folder: PathBuf,
    /// Whether the target was not there before.
    made: bool,
}

impl Scratch {
    /// Begins; makes `target` where it is not there.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(super) fn new(target: &Path) -> Result<Self, Error> {
        let made = !target.exists();
        let folder = target.join(".partial");
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
        }
        fs::create_dir_all(&folder).map_err(Error::io(target))?;
        Ok(Self { target: target.to_path_buf(), folder, made })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Moves the files up, `last` after all others. Weights of an earlier model that are not among them are removed.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(super) fn publish(self, last: &str) -> Result<(), Error> {
        let mut names = file_names(&self.folder)?;
        names.sort_by_key(|name| name == last);
        for old in file_names(&self.target)? {
            if old.starts_with("model") && old.contains(".safetensors") && !names.contains(&old) {
                let path = self.target.join(old);
                fs::remove_file(&path).map_err(Error::io(path))?;
            }
        }
        for name in names {
            let path = self.target.join(&name);
            fs::rename(self.folder.join(name), &path).map_err(Error::io(path))?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After an error there is nobody to tell a second one.
        let _ = fs::remove_dir_all(&self.folder);
        if self.made {
            // Stays where it holds something.
            let _ = fs::remove_dir(&self.target);
        }
    }
}

/// The names of the files in a folder, folders left out.
fn file_names(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if let Ok(name) = entry.file_name().into_string()
            && !entry.path().is_dir()
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_files_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("deep/model");
        let scratch = Scratch::new(&target).unwrap();
        fs::write(scratch.path().join("a"), "1").unwrap();
        drop(scratch);
        assert!(!target.exists());

        fs::create_dir_all(&target).unwrap();
        for old in ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "notes.txt"] {
            fs::write(target.join(old), "old").unwrap();
        }
        fs::create_dir(target.join(".partial")).unwrap();
        fs::write(target.join(".partial/left over"), "x").unwrap();
        let scratch = Scratch::new(&target).unwrap();
        for new in ["config.json", "model.safetensors"] {
            fs::write(scratch.path().join(new), "new").unwrap();
        }
        scratch.publish("config.json").unwrap();
        let mut names: Vec<_> = fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["config.json", "model.safetensors", "notes.txt"]);
    }
}
