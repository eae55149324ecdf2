//! The folders of the cache.

use super::error::Error;
use super::names::{Repo, is_commit};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The cache's root.
#[derive(Debug)]
pub(super) struct Cache(PathBuf);

impl Cache {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// `models--org--name`.
    fn name(repo: &Repo) -> String {
        format!("{}--{}", repo.kind.plural(), repo.id.replace('/', "--"))
    }

    /// A repository's folder.
    pub(super) fn folder(&self, repo: &Repo) -> PathBuf {
        self.0.join(Self::name(repo))
    }

    /// The commit that the revision stood for when it was fetched, and the folder of its files.
    pub(super) fn snapshot(&self, repo: &Repo) -> Option<(String, PathBuf)> {
        repo.check().ok()?;
        let folder = self.folder(repo);
        let commit = if is_commit(&repo.revision) {
            repo.revision.clone()
        } else {
            fs::read_to_string(folder.join("refs").join(&repo.revision)).ok()?.trim().to_owned()
        };
        let snapshot = folder.join("snapshots").join(&commit);
        (is_commit(&commit) && snapshot.is_dir()).then_some((commit, snapshot))
    }

    /// Notes which commit the revision stands for.
    pub(super) fn note(&self, repo: &Repo, commit: &str) -> Result<(), Error> {
        if repo.revision == commit {
            return Ok(());
        }
        let path = self.folder(repo).join("refs").join(&repo.revision);
        if fs::read_to_string(&path).is_ok_and(|known| known.trim() == commit) {
            return Ok(());
        }
        datasets::atomic::write_file(&path, commit.as_bytes()).map_err(|e| Error::io(&path)(std::io::Error::other(e)))
    }

    /// The path of a content.
    pub(super) fn blob(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.folder(repo).join("blobs").join(etag)
    }

    /// Waits until no other process fetches this content; the file holds the lock.
    pub(super) fn lock(&self, repo: &Repo, etag: &str) -> Result<File, Error> {
        let folder = self.0.join(".locks").join(Self::name(repo));
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let path = folder.join(format!("{etag}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
        file.lock().map_err(Error::io(&path))?;
        Ok(file)
    }

    /// Puts a content under a file's name: a relative link, so that the cache can be moved.
    pub(super) fn link(&self, repo: &Repo, commit: &str, file: &str, etag: &str) -> Result<(), Error> {
        let path = self.folder(repo).join("snapshots").join(commit).join(file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        // A link that leads nowhere is in the way of a new one.
        if fs::symlink_metadata(&path).is_ok() {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), &path);
        #[cfg(not(unix))]
        let linked = {
            let _ = up;
            fs::copy(self.blob(repo, etag), &path).map(|_| ())
        };
        match linked {
            // Another process was faster.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(Error::io(&path)),
        }
    }
}
