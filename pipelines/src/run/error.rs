//! What can go wrong in a run.

use std::path::{Path, PathBuf};

/// An error of a run, outside what its parts report themselves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another process holds the run folder.
    #[error("{}: another hearth process is running here; wait for it, or give the recipe another `name`", path.display())]
    Locked {
        /// The run folder.
        path: PathBuf,
    },
    /// A stage needs one that is not finished.
    #[error("stage `{stage}` needs stage `{input}`, which is not finished: run without --only and --from first")]
    NotFinished {
        /// The stage to run.
        stage: String,
        /// The stage it reads.
        input: String,
    },
    /// A path given as an input is not what the stage can read.
    #[error("stage `{stage}`: `{field}`: {}: {reason}", path.display())]
    Input {
        /// The stage.
        stage: String,
        /// Its field.
        field: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Anything else a stage finds wrong with its settings and data together.
    #[error("stage `{stage}`: {reason}")]
    Stage {
        /// The stage.
        stage: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A predictor was trained on other vectors than it is given.
    #[error(
        "the predictor was trained on `{name}` vectors of another model or other settings ({wanted}, these are {found}): embed with \
         the same weights, prompts, pooling and number format"
    )]
    Vectors {
        /// `llm` or `text`.
        name: &'static str,
        /// The key of the vectors it was trained on.
        wanted: String,
        /// The key of the vectors it is given.
        found: String,
    },
    /// A file of prompt templates is not usable.
    #[error(transparent)]
    Templates(Box<crate::Error>),
    /// Reading or writing data failed.
    #[error(transparent)]
    Data(#[from] datasets::Error),
    /// A model, tokenizer or checkpoint is not usable.
    #[error(transparent)]
    Model(#[from] burn_models::Error),
    /// An adapter is not usable.
    #[error(transparent)]
    Lora(#[from] burn_lora::Error),
    /// A batch of graphs could not be built.
    #[error(transparent)]
    Graph(#[from] burn_gnn::Error),
    /// Training stopped.
    #[error(transparent)]
    Train(#[from] crate::train::Error),
    /// A server does not answer.
    #[error(transparent)]
    Client(#[from] crate::client::Error),
    /// Something cannot be had from a hub.
    #[error(transparent)]
    Hub(#[from] crate::hub::Error),
    /// A manifest or log cannot be read or written.
    #[error(transparent)]
    Report(#[from] crate::report::Error),
    /// An evaluation is not defined.
    #[error(transparent)]
    Eval(#[from] crate::eval::Error),
}

impl Error {
    /// Refuses what a model computed if a number of it is NaN or infinite; `path` is the model.
    pub(crate) fn unless_finite(path: &Path, values: &[f32]) -> Result<(), Self> {
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(()),
            Some(value) => {
                let reason =
                    format!("it computes {value}: are its weights damaged, or too large for the number format?");
                Err(Self::io(path)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason)))
            }
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
