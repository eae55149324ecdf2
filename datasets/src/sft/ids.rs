//! Token ids of all samples in one row: in memory, or in a file that is mapped into it.

use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::io::Write;
use std::ops::Deref;
use std::path::Path;

/// Four bytes an id, little-endian; in memory only where no file holds them.
pub(super) enum Ids {
    Owned(Vec<u32>),
    /// A file that this program has written and that nothing changes while it is mapped.
    Mapped(Mmap),
}

impl Ids {
    /// The ids of a file that [`IdWriter`] has written; none if it does not hold `count` of them with this hash.
    pub(super) fn open(path: &Path, count: u64, hash: &str) -> Result<Option<Self>> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let bytes = file.metadata().map_err(Error::io(path, "read"))?.len();
        if Some(bytes) != count.checked_mul(4) {
            return Ok(None);
        }
        // SAFETY: undefined only where another program changes or shortens the file meanwhile; it is a stage's own, beside its
        // checkpoints, and replaced as a whole where it is made anew.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
        Ok((digest(&map) == hash).then_some(Self::Mapped(map)))
    }

    /// Adds ids in memory; those of a file stay as they are.
    pub(super) fn extend(&mut self, ids: &[u32]) {
        match self {
            Self::Owned(all) => all.extend_from_slice(ids),
            Self::Mapped(_) => *self = Self::Owned([&**self, ids].concat()),
        }
    }
}

impl Deref for Ids {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Self::Owned(ids) => ids,
            // A map begins at a page, and its length was looked at.
            Self::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if matches!(self, Self::Owned(_)) { "in memory" } else { "in a file" };
        write!(f, "{} ids {place}", self.len())
    }
}

impl PartialEq for Ids {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Clone for Ids {
    fn clone(&self) -> Self {
        Self::Owned(self.to_vec())
    }
}

fn digest(bytes: &[u8]) -> String {
    blake3::Hasher::new().update_rayon(bytes).finalize().to_hex().to_string()
}

/// Ids on their way into a file, which appears when all are there.
pub(super) struct IdWriter {
    file: AtomicFile,
    hasher: blake3::Hasher,
}

impl IdWriter {
    pub(super) fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: AtomicFile::create(path)?, hasher: blake3::Hasher::new() })
    }

    pub(super) fn append(&mut self, ids: &[u32]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(ids);
        self.hasher.update(bytes);
        let written = self.file.write_all(bytes);
        written.map_err(Error::io(self.file.path(), "write"))
    }

    /// The hash of all of them.
    pub(super) fn finish(self) -> Result<String> {
        self.file.commit()?;
        Ok(self.hasher.finalize().to_hex().to_string())
    }
}
