//! Errors of reports.

use std::path::PathBuf;

/// Why something about a run could not be read, written or drawn.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written, or a line of it is not what its format asks for.
    #[error(transparent)]
    Data(Box<datasets::Error>),

    /// A file of the run is not what its format asks for.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What was expected and found.
        message: String,
    },

    /// A file is larger than any file of its kind.
    #[error("{}: {bytes} bytes, expected at most {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },

    /// The folder holds no stages.
    #[error("{}: not a run: expected a folder with `stages/<n>-<stage>/` in it, as `hearth run` writes it", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },

    /// The settings in the manifest of an evaluation are not those of one.
    #[error("{}: `settings`: {reason}", path.display())]
    Settings {
        /// The manifest.
        path: PathBuf,
        /// What is missing or mistyped.
        reason: String,
    },

    /// The scores of an evaluation cannot be evaluated.
    #[error("{}: {source}", path.display())]
    Scores {
        /// The file with the scores.
        path: PathBuf,
        /// What is wrong with them.
        source: crate::eval::Error,
    },

    /// An evaluation has another number of scores than it evaluated.
    #[error("{}: {found} records, but {expected} were evaluated: run the evaluation again", path.display())]
    Incomplete {
        /// The file with the scores.
        path: PathBuf,
        /// Its number of records.
        found: usize,
        /// The number in the manifest.
        expected: f64,
    },

    /// A figure could not be drawn.
    #[error("cannot draw `{figure}`: {reason}")]
    Figure {
        /// The figure's name.
        figure: String,
        /// The plot library's reason.
        reason: String,
    },

    /// None of the runs has anything to show.
    #[error("nothing to show\n  {}", notes.join("\n  "))]
    NothingToShow {
        /// What is wrong with each.
        notes: Vec<String>,
    },
}

impl Error {
    /// Wraps an error of the operating system: use as `.map_err(Error::io(path, "read"))`.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| datasets::Error::Io { path, action, source }.into()
    }
}

impl From<datasets::Error> for Error {
    fn from(error: datasets::Error) -> Self {
        Self::Data(Box::new(error))
    }
}

/// Result of reports.
pub type Result<T> = std::result::Result<T, Error>;
