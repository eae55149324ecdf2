//! What is read: files with their layout, and how much of them.

use super::format::Layout;
use super::{ChatColumns, ChatFormat, ChatReader, ChatTags};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How many of a source's records an epoch draws.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Amount {
    /// So many times their number.
    Weight(f64),
    /// This number.
    Samples(u64),
}

impl Default for Amount {
    fn default() -> Self {
        Self::Weight(1.0)
    }
}

impl Amount {
    /// How many of `count` an epoch draws: all of them so many times, and so many of them once more.
    pub fn of(self, count: usize) -> (usize, usize) {
        match self {
            Self::Weight(weight) => {
                let weight = weight.clamp(0.0, 1e6);
                (weight as usize, (weight.fract() * count as f64).round() as usize)
            }
            Self::Samples(samples) => (samples as usize / count.max(1), samples as usize % count.max(1)),
        }
    }
}

/// Files of one layout that are read together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChatSource {
    /// What it is called in tables.
    pub name: String,
    /// The files, in the order in which they are read.
    pub files: Vec<PathBuf>,
    /// The form of their records.
    pub format: ChatFormat,
    /// The names of their keys.
    pub columns: ChatColumns,
    /// The names of their roles.
    pub tags: ChatTags,
    /// How much of it an epoch takes.
    pub amount: Amount,
}

/// Records that are looked at to know the format of a source before it is read.
const LOOKED_AT: usize = 8;

impl ChatSource {
    /// Files of a format that their first records tell.
    pub fn of<P: AsRef<Path>>(files: &[P]) -> Self {
        let files: Vec<PathBuf> = files.iter().map(|file| file.as_ref().to_owned()).collect();
        let name = files.first().and_then(|file| file.file_name()).map(|name| name.to_string_lossy().into_owned());
        Self { name: name.unwrap_or_default(), files, ..Self::default() }
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout { format: self.format, columns: self.columns.clone(), tags: self.tags.clone() }
    }

    /// The format of the first file, and the columns that every record has to have and its first records have not. Nothing where
    /// the first record cannot be read: reading says why.
    ///
    /// # Errors
    /// A first record of no known format.
    pub fn look(&self) -> Result<Option<(ChatFormat, Vec<String>)>> {
        let Some(file) = self.files.first() else { return Ok(None) };
        let Ok(mut reader) = ChatReader::with(file, self.layout()) else { return Ok(None) };
        let mut missing: Option<Vec<String>> = None;
        for _ in 0..LOOKED_AT {
            let record = match reader.next_record() {
                Ok(Some(record)) => record,
                Err(error) if !reader.is_broken() => return Err(error),
                _ => break,
            };
            if let Ok(map) = record.map(file) {
                let lacks = reader.layout().missing(&map);
                let still = |name: &String| lacks.contains(name);
                missing = Some(match missing {
                    Some(before) => before.into_iter().filter(still).collect(),
                    None => lacks,
                });
            }
        }
        Ok(missing.map(|missing| (reader.layout().format, missing)))
    }
}
