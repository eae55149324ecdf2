//! Hashes of files and folders, remembered between runs.

use super::error::Error;
use super::folder::write_json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// BLAKE3 hashes by path, size and time of change, so that a large file is read once.
#[derive(Debug)]
pub struct Hashes {
    path: PathBuf,
    known: BTreeMap<String, String>,
    changed: bool,
}

/// Folders deeper than this are not part of a model or a data set.
const MAX_DEPTH: usize = 4;

impl Hashes {
    /// The hashes remembered in this file; a missing or damaged file is an empty memory.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let known = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { path, known, changed: false }
    }

    /// The hash of a file, or of the names and hashes of all files below a folder (hidden ones excluded).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of(&mut self, path: &Path) -> Result<String, Error> {
        if path.is_file() {
            return self.file(path);
        }
        let mut files = Vec::new();
        collect(path, path, 0, &mut files)?;
        files.sort();
        let mut hasher = blake3::Hasher::new();
        for relative in files {
            hasher.update(relative.to_string_lossy().as_bytes());
            hasher.update(&[0]);
            hasher.update(self.file(&path.join(&relative))?.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn file(&mut self, path: &Path) -> Result<String, Error> {
        let meta = std::fs::metadata(path).map_err(Error::io(path))?;
        let changed = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
        let absolute = std::fs::canonicalize(path).map_err(Error::io(path))?;
        let key = format!("{}|{}|{changed}", absolute.display(), meta.len());
        if let Some(hash) = self.known.get(&key) {
            return Ok(hash.clone());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path).map_err(Error::io(path))?;
        let hash = hasher.finalize().to_hex().to_string();
        self.known.insert(key, hash.clone());
        self.changed = true;
        Ok(hash)
    }

    /// Writes the memory down.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.changed) {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
            }
            write_json(&self.path, &self.known)?;
        }
        Ok(())
    }
}

fn collect(root: &Path, folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
            continue;
        }
        if path.is_dir() {
            if depth < MAX_DEPTH {
                collect(root, &path, depth + 1, files)?;
            }
        } else if let Ok(relative) = path.strip_prefix(root) {
            files.push(relative.to_path_buf());
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_hash_follows_names_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::write(data.join("a"), "1").unwrap();
        std::fs::write(data.join("sub/b"), "2").unwrap();
        let memory = dir.path().join("hashes.json");
        let mut hashes = Hashes::open(&memory);
        let first = hashes.of(&data).unwrap();
        hashes.save().unwrap();
        let mut again = Hashes::open(&memory);
        assert_eq!(again.of(&data).unwrap(), first);
        assert!(!again.changed);
        std::fs::write(data.join(".hidden"), "x").unwrap();
        assert_eq!(again.of(&data).unwrap(), first);
        std::fs::write(data.join("a"), "10").unwrap();
        let second = again.of(&data).unwrap();
        assert_ne!(second, first);
        std::fs::rename(data.join("a"), data.join("c")).unwrap();
        assert_ne!(again.of(&data).unwrap(), second);
    }
}
