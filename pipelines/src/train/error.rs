//! What can go wrong in training.

use std::path::PathBuf;

/// An error of a training stage.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A loss or gradient is NaN or infinite.
    #[error(
        "step {step}: the {what} is {value}; the step was not applied. Its records are listed in {}: look at them, lower the \
         learning rate, or set `clip`",
        records.display()
    )]
    NotFinite {
        /// The optimizer step, from 1.
        step: usize,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// The file with the ids of the records of the step.
        records: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A checkpoint does not fit the stage.
    #[error("{}: {reason}; run with --fresh to start the stage again", path.display())]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nothing to train on.
    #[error("no training batches: {0}")]
    Empty(String),
    /// One of several devices failed, as one does that nobody lends any more.
    #[error(
        "step {step}: one of the devices failed: {reason}; the same command goes on from the last checkpoint, with the same `further_devices` or others"
    )]
    Copies {
        /// The optimizer step, from 1.
        step: usize,
        /// What the device's runtime said.
        reason: String,
    },
    /// A batch could not be built.
    #[error("step {step}: {reason}")]
    Batch {
        /// The step or the number of the validation batch.
        step: usize,
        /// The cause.
        reason: String,
    },
    /// The log of the stage cannot be read or written.
    #[error(transparent)]
    Log(#[from] crate::report::Error),
    /// The best model could not be written.
    #[error("the best model could not be kept: {0}")]
    Keep(Box<dyn std::error::Error + Send + Sync>),
    /// burn-train stopped by itself.
    #[error("training stopped: {0}")]
    Burn(String),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
