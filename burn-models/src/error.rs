//! The error of this crate.

use std::path::PathBuf;

/// What can go wrong in this crate. Every variant carries the data needed to find the cause.
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
    /// A configuration key is missing, has an impossible value, or asks for something that is not supported.
    #[error("{}: {}{problem}", path.display(), quoted(key))]
    Config {
        /// The file, or a word for the source when the configuration did not come from a file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A safetensors file or its index is malformed.
    #[error("{}: {problem}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// One tensor of a safetensors file cannot be used.
    #[error("{}: tensor `{name}`: {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The weights of a checkpoint and the parameters of a network do not correspond one to one.
    #[error("{}: {}", path.display(), mismatch(missing, unused, shapes))]
    Weights {
        /// The folder or file.
        path: PathBuf,
        /// Names the network needs and the checkpoint lacks.
        missing: Vec<String>,
        /// Names in the checkpoint that nothing in the network uses.
        unused: Vec<String>,
        /// Tensors whose shape differs.
        shapes: Vec<ShapeMismatch>,
    },
    /// The device cannot compute in the number format asked for.
    #[error("device {device} does not support {dtype}")]
    DType {
        /// The device.
        device: String,
        /// The number format.
        dtype: String,
    },
    /// Token ids, lengths or settings that a network cannot take.
    #[error("{0}")]
    Input(String),
    /// A device computation failed or its result could not be read.
    #[error("device: {0}")]
    Device(String),
    /// A tokenizer file cannot be used, or a text cannot be encoded with it.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong, and how to mend it.
        problem: String,
    },
    /// A chat template is malformed or failed.
    #[error("chat template, line {line}: {problem}")]
    Template {
        /// The line, from 1; 0 where it is not known.
        line: usize,
        /// What the template engine says.
        problem: String,
    },
    /// A chat template rejected the conversation (`raise_exception`).
    #[error("the chat template rejects this conversation: {message}")]
    TemplateRaised {
        /// The template's own words.
        message: String,
    },
    /// A chat template does not allow to tell where a reply begins or ends.
    #[error("chat template, message {turn}: {problem}")]
    TemplateShape {
        /// Index of the reply among the messages.
        turn: usize,
        /// What does not fit.
        problem: String,
    },
    /// Tags in a reply that do not pair.
    #[error("message {turn}: {problem}")]
    Tags {
        /// Index of the reply among the messages.
        turn: usize,
        /// What does not pair.
        problem: String,
    },
    /// A conversation that cannot be written as asked.
    #[error("{problem}")]
    Chat {
        /// What is wrong with it.
        problem: String,
    },
    /// A conversation in which there is no reply to learn.
    #[error("{problem}")]
    NothingLearned {
        /// What is missing.
        problem: String,
    },
    /// From the adapters.
    #[error(transparent)]
    Lora(#[from] burn_lora::Error),
    /// From graphs and graph networks.
    #[error(transparent)]
    Graph(#[from] burn_gnn::Error),
}

/// A tensor whose shape in a checkpoint differs from the one the network needs; shapes as they are in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The tensor's name in the file.
    pub name: String,
    /// The shape the network needs.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub found: Vec<usize>,
}

impl Error {
    /// Wraps an I/O error with the path it happened at.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Wraps a JSON error with the file it happened in.
    pub fn json(path: impl Into<PathBuf>) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.into();
        move |source| Self::Json { path, source }
    }

    /// A problem with one key of a configuration.
    pub fn config(path: impl Into<PathBuf>, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { path: path.into(), key: key.into(), problem: problem.into() }
    }
}

/// A key before its problem; nothing where the whole file is meant.
fn quoted(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("`{key}`: ") }
}

/// A message that names every offender, at most eight of each kind.
fn mismatch(missing: &[String], unused: &[String], shapes: &[ShapeMismatch]) -> String {
    fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
        let shown = items.iter().take(8).map(show).collect::<Vec<_>>().join(", ");
        match items.len() {
            0..=8 => shown,
            n => format!("{shown} and {} more", n - 8),
        }
    }
    let quoted = |name: &String| format!("`{name}`");
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("missing {}", list(missing, quoted)));
    }
    if !unused.is_empty() {
        parts.push(format!("not used by this network: {}", list(unused, quoted)));
    }
    if !shapes.is_empty() {
        let shape = |s: &ShapeMismatch| format!("`{}` is {:?}, expected {:?}", s.name, s.found, s.expected);
        parts.push(format!("wrong shape: {}", list(shapes, shape)));
    }
    parts.join("; ") + " (are the configuration and the weights of one model?)"
}

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;
