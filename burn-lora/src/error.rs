//! The error of this crate.

use std::path::PathBuf;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file that should be JSON is not, or has the wrong form.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why the parser stopped.
        source: serde_json::Error,
    },
    /// A setting of `adapter_config.json` has an impossible value or asks for something that is not supported.
    #[error("{}: {}{problem}", path.display(), quoted(key))]
    AdapterConfig {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// The weights of an adapter are malformed or do not fit the network.
    #[error("{}: {problem}", path.display())]
    AdapterWeights {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the names of the tensors.
        problem: String,
    },
    /// A setting out of its range.
    #[error("lora: {key} {problem}")]
    Config {
        /// The setting.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// A target that no linear layer matches.
    #[error("no linear layer matches {target:?}; there are {}", available.join(", "))]
    NoTarget {
        /// The name or pattern.
        target: String,
        /// The layers' names, without numbers of repeated blocks.
        available: Vec<String>,
    },
    /// An adapter is attached where there is one already, or none where one is needed.
    #[error("{0}")]
    State(&'static str),
    /// The result of a device computation could not be read.
    #[error("device: {0}")]
    Device(String),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn json(path: impl Into<PathBuf>) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.into();
        move |source| Self::Json { path, source }
    }
}

/// A key before its problem; nothing where the whole file is meant.
fn quoted(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("`{key}`: ") }
}

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;
