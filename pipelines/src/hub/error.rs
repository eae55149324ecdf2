//! Why something cannot be had from a hub.

use std::path::PathBuf;

/// Each names the repository, and what would help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable of the environment makes no sense.
    #[error("the environment variable {name} {problem}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Nothing says where the cache is.
    #[error("there is no place for downloads: set HF_HOME")]
    NoHome,
    /// Nobody may be asked, and the cache does not have it.
    #[error(
        "{repo} is not in {}, and HF_HUB_OFFLINE forbids to fetch it: fetch it once without, or copy the cache here",
        cache.display()
    )]
    Offline {
        /// The repository.
        repo: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The server does not answer.
    #[error("{repo}: {url} cannot be reached: {reason}")]
    Unreachable {
        /// The repository.
        repo: String,
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// There is no such repository, or it is not to be seen.
    #[error(
        "{repo}: {endpoint} answers {status}: there is no such repository, or it needs permission{}",
        if *token { " that the token in HF_TOKEN does not have" } else { ": put a token into HF_TOKEN" }
    )]
    NoAccess {
        /// The repository.
        repo: String,
        /// The server.
        endpoint: String,
        /// Its answer.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// The repository is there, the revision is not.
    #[error("{repo}: there is no revision {revision:?}: name a branch, a tag or a commit of 40 digits")]
    NoRevision {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
    },
    /// A name is none.
    #[error("{name:?} {problem}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The server answers what it should not.
    #[error("{repo}: {url}: {reason}")]
    Answer {
        /// The repository.
        repo: String,
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The repository has no file that can be used.
    #[error("{repo}: {reason}")]
    Nothing {
        /// The repository.
        repo: String,
        /// What is missing.
        reason: String,
    },
    /// A content is not the announced one, twice.
    #[error(
        "{repo}: {file}: what arrives is not what was announced ({reason}), twice: it was deleted; try again later"
    )]
    Checksum {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// What does not fit.
        reason: String,
    },
    /// The cache cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
