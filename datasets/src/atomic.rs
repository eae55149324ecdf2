//! Files and folders that appear under their name only when they are complete.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// A file in the making: written beside its final place under a temporary name, flushed to the disk and renamed by
/// [`AtomicFile::commit`]. Dropped without that, it leaves nothing behind.
///
/// A name that belongs to a device, a pipe or a socket, such as `/dev/null`, is written to as it is: there is nothing to
/// replace.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    writer: BufWriter<File>,
    /// The temporary name; none where there is nothing to replace.
    scratch: Option<TempPath>,
}

impl AtomicFile {
    /// Begins a file that will be called `path`; makes the folders above it.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
        let (file, scratch) = match fs::metadata(&path) {
            Ok(there) if there.is_dir() => {
                let is_folder = io::Error::new(io::ErrorKind::IsADirectory, "a folder has this name");
                return Err(Error::Io { path, action: "write", source: is_folder });
            }
            Ok(there) if !there.is_file() => {
                (File::options().write(true).open(&path).map_err(Error::io(&path, "open"))?, None)
            }
            _ => {
                let mut builder = tempfile::Builder::new();
                builder.prefix(".tmp-").suffix(".partial");
                // A temporary file is private by default; what is kept should have the mode of any other new file.
                #[cfg(unix)]
                builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
                // Only the system's reason: the temporary name says nothing to anybody.
                let plain = |e: io::Error| e.raw_os_error().map_or(e, io::Error::from_raw_os_error);
                let file = builder.tempfile_in(folder).map_err(|e| Error::io(&path, "create")(plain(e)))?;
                let (file, scratch) = file.into_parts();
                (file, Some(scratch))
            }
        };
        Ok(Self { path, writer: BufWriter::with_capacity(1 << 16, file), scratch })
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle to the same file, for a writer that must own one. Use one of the two only.
    pub(crate) fn handle(&self) -> Result<File> {
        self.writer.get_ref().try_clone().map_err(Error::io(&self.path, "write"))
    }

    /// Puts the finished file in its place, replacing an older one.
    pub fn commit(self) -> Result<()> {
        let file = self.writer.into_inner().map_err(|e| Error::io(&self.path, "write")(e.into_error()))?;
        let Some(scratch) = self.scratch else { return Ok(()) };
        file.sync_all().map_err(Error::io(&self.path, "flush"))?;
        scratch.persist(&self.path).map_err(|e| Error::io(&self.path, "rename")(e.error))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A folder in the making: filled beside its final place under a hidden name, and renamed by [`AtomicFolder::commit`]. Dropped
/// without that, it leaves nothing behind; what a killed process left is removed by the next one.
#[derive(Debug)]
pub struct AtomicFolder {
    /// Its final place.
    target: PathBuf,
    /// Where it is filled.
    path: PathBuf,
    /// Where an older folder of that name waits until the new one is in its place.
    old: PathBuf,
}

impl AtomicFolder {
    /// Begins a folder that will be called `path`; makes the folders above it.
    ///
    /// # Errors
    /// A path without a name, a file of that name, or a disk that refuses.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            let reason = io::Error::new(io::ErrorKind::InvalidInput, "this is no name for a new folder");
            return Err(Error::Io { path, action: "create", source: reason });
        };
        if path.is_file() {
            return Err(Error::Io { path, action: "replace", source: io::ErrorKind::NotADirectory.into() });
        }
        let hidden = |suffix: &str| path.with_file_name(format!(".{name}.{suffix}"));
        let (scratch, old) = (hidden("partial"), hidden("old"));
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(Error::io(&scratch, "remove"))?;
        }
        match (old.exists(), path.exists()) {
            (true, true) => fs::remove_dir_all(&old).map_err(Error::io(&old, "remove"))?,
            (true, false) => fs::rename(&old, &path).map_err(Error::io(&path, "restore"))?,
            (false, _) => {}
        }
        fs::create_dir_all(&scratch).map_err(Error::io(&path, "create the folder"))?;
        Ok(Self { target: path, path: scratch, old })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the folder in its place; one that is there goes with all that is in it.
    ///
    /// # Errors
    /// A disk that refuses. The older folder is then where it was.
    pub fn commit(self) -> Result<()> {
        let replaces = self.target.exists();
        if replaces {
            fs::rename(&self.target, &self.old).map_err(Error::io(&self.target, "replace"))?;
        }
        if let Err(error) = fs::rename(&self.path, &self.target) {
            if replaces {
                // The first error is the one to tell.
                let _ = fs::rename(&self.old, &self.target);
            }
            return Err(Error::io(&self.target, "rename")(error));
        }
        if replaces {
            fs::remove_dir_all(&self.old).map_err(Error::io(&self.old, "remove"))?;
        }
        Ok(())
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        // After an error there is nobody to tell a second one.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Writes `bytes` to `path` at once.
pub fn write_file(path: impl Into<PathBuf>, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    let written = file.write_all(bytes);
    written.map_err(Error::io(file.path(), "write"))?;
    file.commit()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_appears_before_the_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/out.txt");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);

        write_file(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/model");
        let names = |folder: &Path| {
            let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let folder = AtomicFolder::create(&path).unwrap();
        fs::write(folder.path().join("half"), "x").unwrap();
        drop(folder);
        assert!(names(path.parent().unwrap()).is_empty());

        // What a killed process left: something half-made, and the old folder out of its place.
        for (hidden, file) in [(".model.partial", "half"), (".model.old", "old")] {
            fs::create_dir(path.with_file_name(hidden)).unwrap();
            fs::write(path.with_file_name(hidden).join(file), "x").unwrap();
        }
        let folder = AtomicFolder::create(&path).unwrap();
        assert_eq!(names(&path), ["old"]);
        fs::write(folder.path().join("new"), "x").unwrap();
        folder.commit().unwrap();
        assert_eq!(names(&path), ["new"]);
        assert_eq!(names(path.parent().unwrap()), ["model"]);
    }

    #[test]
    fn a_folder_of_that_name_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_file(folder.path(), b"x").unwrap_err().to_string();
        assert!(error.contains("a folder has this name"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        // By a link, so that a mistake replaces the link and not the device.
        let path = folder.path().join("sink");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        write_file(&path, b"x").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert!(!fs::metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
