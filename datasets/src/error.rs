//! What can go wrong with data, as data: the place, what was expected there, what was found, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A record that cannot be used: where it stands and why.
///
/// Shown as `file:line: key: expected …, found … (remedy)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// The file; `-` for a standard stream.
    pub path: PathBuf,
    /// The line in that file, from 1; 0 when the whole file is meant.
    pub line: u64,
    /// The byte in that line, from 1, where it is known.
    pub column: Option<usize>,
    /// The key inside the record, such as `edge_index[3]` or `messages[0].role`; empty when the whole line is meant.
    pub key: String,
    /// What would have been right.
    pub expected: String,
    /// What was there instead.
    pub found: String,
    /// What to change; empty where the rest says it.
    pub remedy: String,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        if !self.key.is_empty() {
            write!(f, ": `{}`", self.key)?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)?;
        if !self.remedy.is_empty() {
            write!(f, " ({})", self.remedy)?;
        }
        Ok(())
    }
}

/// Everything that this crate reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, such as `read` or `create`.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A line of a data file is not what its format asks for.
    #[error("{0}")]
    Record(Box<RecordError>),
    /// A folder has no file for a split that is needed.
    #[error("{}: no records of the split `{split}`: expected `{split}.jsonl`, or shards `{split}_*.jsonl` or `{split}-*.jsonl`, each plain or as `.jsonl.zst`", folder.display())]
    NoSplit {
        /// The folder that was searched.
        folder: PathBuf,
        /// The split's name.
        split: &'static str,
    },
    /// A file holds no usable record.
    #[error("{}: no usable record ({detail})", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
        /// How many records were passed over, and why.
        detail: String,
    },
    /// A setting has a value that cannot work.
    #[error("`{key}`: expected {expected}, found {found}")]
    Setting {
        /// The setting's name.
        key: String,
        /// What would be right.
        expected: String,
        /// The value.
        found: String,
    },
    /// A file that this program wrote earlier is damaged, or is of another kind or version.
    #[error("{}: {detail}; {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A Parquet file could not be read or written.
    #[error("{}: {detail}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reason, in the words of the Parquet library.
        detail: String,
    },
    /// A conversation could not be turned into tokens.
    #[error("{}:{line}: {source}", path.display())]
    Text {
        /// The file of the conversation.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// The reason.
        source: Box<burn_models::Error>,
    },
}

impl Error {
    /// Wraps an error of the operating system: use as `.map_err(Error::io(path, "read"))`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// A setting that cannot work.
    pub(crate) fn setting(key: &str, expected: impl Into<String>, found: impl fmt::Display) -> Self {
        Self::Setting { key: key.to_owned(), expected: expected.into(), found: found.to_string() }
    }
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::Record(Box::new(error))
    }
}
