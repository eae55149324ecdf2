//! The fuzzer's bytes as a file in a folder of their own, for readers that take paths.

use std::path::{Path, PathBuf};

pub struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    pub fn new(name: &str, bytes: &[u8]) -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(Self { folder, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    #[allow(dead_code)]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
