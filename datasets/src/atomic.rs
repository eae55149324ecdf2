//! Files that appear under their name only when they are complete.

use crate::{Error, Result};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file in the making: written beside its final place under a temporary name, flushed to the disk and renamed by
/// [`AtomicFile::commit`]. Dropped without that, it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    writer: BufWriter<NamedTempFile>,
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
        if path.is_dir() {
            let is_folder = io::Error::new(io::ErrorKind::IsADirectory, "a folder has this name");
            return Err(Error::Io { path, action: "write", source: is_folder });
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tmp-").suffix(".partial");
        // A temporary file is private by default; what is kept should have the mode of any other new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(Error::io(&path, "create"))?;
        Ok(Self { path, writer: BufWriter::with_capacity(1 << 16, file) })
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle to the same file, for a writer that must own one. Use one of the two only.
    pub(crate) fn handle(&self) -> Result<fs::File> {
        self.writer.get_ref().as_file().try_clone().map_err(Error::io(&self.path, "write"))
    }

    /// Puts the finished file in its place, replacing an older one.
    pub fn commit(self) -> Result<()> {
        let file = self.writer.into_inner().map_err(|e| Error::io(&self.path, "write")(e.into_error()))?;
        file.as_file().sync_all().map_err(Error::io(&self.path, "flush"))?;
        file.persist(&self.path).map_err(|e| Error::io(&self.path, "rename")(e.error))?;
        Ok(())
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
    fn a_folder_of_that_name_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_file(folder.path(), b"x").unwrap_err().to_string();
        assert!(error.contains("a folder has this name"), "{error}");
    }
}
