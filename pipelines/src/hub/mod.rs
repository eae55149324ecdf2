//! Models and data from a hub, through the cache that other tools share.
//!
//! ```text
//! $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub
//!   models--org--name/refs/main               the commit that a branch or tag stood for
//!                     blobs/<etag>            contents, each once; <etag>.incomplete while it is fetched
//!                     snapshots/<commit>/…    the files by name: relative links to their contents
//!   .locks/models--org--name/<etag>.lock      held while a content is fetched
//! ```
//! That is the layout of `huggingface_hub`: what one program has fetched, the others find. Everything is fetched before a run
//! starts, and a run sees one commit from its beginning to its end.
//!
//! The environment decides: `HF_ENDPOINT` (default `https://huggingface.co`), `HF_HUB_CACHE`, `HF_HOME`, `HF_HUB_OFFLINE`
//! (1 asks nobody), `HF_TOKEN`. The token goes to the endpoint alone, never to where the endpoint redirects, and into no
//! message.
//!
//! | module | |
//! | --- | --- |
//! | `names` | which names of repositories, revisions and files are taken, and which files are wanted |
//! | `cache` | the folders |
//! | `api` | what is asked of the server |
//! | `fetch` | contents: resumed, checked, moved into place |

mod api;
mod cache;
mod error;
mod fetch;
mod names;

pub use error::Error;
pub use names::{Kind, Repo, Wanted, repo_problem, revision_problem};

use crate::recipe::{DataSource, ModelSource, PlaceKind, Recipe, Source};
use api::Api;
use cache::Cache;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where the files of fetched repositories are.
pub type Folders = BTreeMap<Repo, PathBuf>;

/// A hub with its cache.
#[derive(Debug)]
pub struct Hub {
    cache: Cache,
    api: Api,
    offline: bool,
}

/// A variable of the environment that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

impl Hub {
    /// As the environment says.
    ///
    /// # Errors
    /// [`Error::Setting`] where a variable makes no sense, [`Error::NoHome`] where none says where the cache is.
    pub fn from_env() -> Result<Self, Error> {
        let yes = |value: String| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str());
        let offline = variable("HF_HUB_OFFLINE").is_some_and(yes);
        let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            cache
                .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))
                .map(|cache| cache.join("huggingface"))
        });
        let folder = variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home?.join("hub")));
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let api = Api::new(&endpoint, variable("HF_TOKEN"))?;
        Ok(Self { cache: Cache::new(folder.ok_or(Error::NoHome)?), api, offline })
    }

    /// Whether nobody is to be asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The same, asking nobody: what was fetched is all there is.
    #[must_use]
    pub fn offline(self) -> Self {
        Self { offline: true, ..self }
    }

    /// The address of the server.
    pub fn endpoint(&self) -> &str {
        self.api.endpoint()
    }

    /// The cache's folder.
    pub fn cache(&self) -> &Path {
        self.cache.path()
    }

    /// What the cache has of a repository: the folder with its files, and whether nothing that is wanted is known to be missing.
    pub fn cached(&self, repo: &Repo) -> Option<(PathBuf, bool)> {
        let (_, folder) = self.cache.snapshot(repo)?;
        let complete = repo.wanted.complete(&folder);
        Some((repo.wanted.inside(&folder), complete))
    }

    /// The folder with the wanted files of a repository; those that the cache lacks are fetched.
    ///
    /// A commit of which nothing is missing is taken as it is, without a question; for anything else the server is asked which
    /// commit it stands for now. A server that cannot be reached is no reason to stop where the cache has what is needed.
    ///
    /// # Errors
    /// See [`Error`]. What was fetched so far is kept, and another try goes on there.
    pub fn fetch(&self, repo: &Repo) -> Result<PathBuf, Error> {
        repo.check()?;
        let cached = self.cached(repo);
        let settled = names::is_commit(&repo.revision) && matches!(repo.wanted, Wanted::Model | Wanted::Tokenizer);
        match cached {
            Some((folder, complete)) if self.offline || (settled && complete) => return Ok(folder),
            None if self.offline => {
                return Err(Error::Offline { repo: repo.to_string(), cache: self.cache().to_owned() });
            }
            _ => {}
        }
        let info = match fetch::again(|| self.api.info(repo)) {
            Err(Error::Unreachable { reason, .. }) if cached.as_ref().is_some_and(|(_, complete)| *complete) => {
                tracing::warn!("{repo}: {} cannot be reached ({reason}): the cached files are used", self.endpoint());
                return Ok(cached.map(|(folder, _)| folder).unwrap_or_default());
            }
            other => other?,
        };
        let files = names::choose(repo, &info)?;
        let snapshot = self.cache.folder(repo).join("snapshots").join(&info.sha);
        let missing: Vec<&str> = files.iter().copied().filter(|file| !snapshot.join(file).exists()).collect();
        fetch::files(&self.api, &self.cache, repo, &info.sha, &missing)?;
        self.cache.note(repo, &info.sha)?;
        Ok(repo.wanted.inside(&snapshot))
    }

    /// Everything that the stages of a recipe read from a hub, by repository.
    ///
    /// # Errors
    /// As [`Hub::fetch`].
    pub fn fetch_all(&self, recipe: &Recipe) -> Result<Folders, Error> {
        needed(recipe).into_iter().map(|repo| self.fetch(&repo).map(|folder| (repo, folder))).collect()
    }
}

/// What the stages of a recipe read from a hub.
pub fn needed(recipe: &Recipe) -> BTreeSet<Repo> {
    let mut repos = BTreeSet::new();
    for (_, source) in recipe.stages.iter().flat_map(crate::recipe::Stage::inputs) {
        match source {
            Source::Hub(hub) => repos.extend([Repo::model(hub)]),
            Source::Model(key) => repos.extend(recipe.models.get(key).and_then(of_model)),
            Source::Data(key) => match recipe.data.get(key) {
                Some(DataSource::Hub(hub)) => repos.extend([Repo::data(hub)]),
                Some(DataSource::Chat(data)) => {
                    repos.extend(data.places(recipe).iter().filter_map(|place| match place.kind {
                        PlaceKind::Hub(hub) => Some(Repo::data(hub)),
                        PlaceKind::Path(_) | PlaceKind::Registry(..) => None,
                    }));
                }
                _ => {}
            },
            Source::Stage(_) | Source::Path(_) => {}
        }
    }
    repos
}

/// What a model is made of that comes from a hub.
fn of_model(model: &ModelSource) -> Option<Repo> {
    match model {
        ModelSource::Hub(hub) => Some(Repo::model(hub)),
        ModelSource::Path(_) => None,
        ModelSource::Init(init) => init.hub_tokenizer().map(Repo::tokenizer),
    }
}
