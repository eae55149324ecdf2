//! Errors of the `hearth` library, and what the process makes of them.

use std::path::PathBuf;

use crate::device::DeviceSpec;
use crate::diagnostics::Problem;

/// Result of the `hearth` library.
pub type Result<T> = std::result::Result<T, Error>;

/// Whatever can end a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something is wrong with a recipe or an argument: everything that was found, with its places.
    #[error("{}", list(.0))]
    Recipe(Vec<Problem>),
    /// A file that the command line names cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not, and what would help.
        reason: String,
    },
    /// A device cannot be used.
    #[error("device {device}: {reason}")]
    Device {
        /// The device.
        device: DeviceSpec,
        /// Why not, and what would help.
        reason: String,
    },
    /// A recipe cannot be written as RON.
    #[error("cannot write the recipe: {0}")]
    Ron(#[from] ron::Error),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
    /// A stage or a command failed.
    #[error(transparent)]
    Run(#[from] crate::run::Error),
    /// A report has nothing to show.
    #[error(transparent)]
    Report(#[from] crate::report::Error),
    /// Stopped by the user; what was done is saved.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The exit code of a process that ends with this error: 1 for a run that failed, 2 for a recipe, an argument or a
    /// device that cannot be used, 130 for an interruption. A reader that went away is no failure: 0.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Recipe(_) | Self::File { .. } | Self::Device { .. } => 2,
            Self::Output(source) | Self::Run(crate::run::Error::Data(datasets::Error::Io { source, .. }))
                if source.kind() == std::io::ErrorKind::BrokenPipe =>
            {
                0
            }
            Self::Output(_) | Self::Ron(_) | Self::Run(_) | Self::Report(_) => 1,
            Self::Interrupted => 130,
        }
    }
}

/// Rendered as its message, which names the causes.
impl miette::Diagnostic for Error {}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Recipe(vec![problem])
    }
}

fn list(problems: &[Problem]) -> String {
    let line = |problem: &Problem| format!("{}: {}", problem.place(), problem.message());
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}
