//! Names: those of repositories and revisions become folders, those of files come from a server; none may lead elsewhere.

use super::api::Info;
use super::error::Error;
use crate::recipe::{DataFormat, HubData, HubModel};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// What sort of repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl Kind {
    /// `models` or `datasets`: in folders and addresses.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// Which of a repository's files are wanted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Configuration, tokenizer and safetensors.
    Model,
    /// The tokenizer.
    Tokenizer,
    /// The JSON lines in this folder, compressed or not.
    Data(String),
    /// The JSON, JSON lines and Parquet tables in this folder.
    Chats(String),
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repo {
    /// Its sort.
    pub kind: Kind,
    /// `org/name`.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// What is wanted of it.
    pub wanted: Wanted,
}

/// `org/name@revision`.
impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == Kind::Dataset { "datasets/" } else { "" };
        write!(f, "{kind}{}@{}", self.id, self.revision)
    }
}

impl Repo {
    /// A model.
    pub fn model(HubModel { repo, revision }: &HubModel) -> Self {
        Self { kind: Kind::Model, id: repo.clone(), revision: revision.clone(), wanted: Wanted::Model }
    }

    /// The tokenizer of a model.
    pub fn tokenizer(hub: &HubModel) -> Self {
        Self { wanted: Wanted::Tokenizer, ..Self::model(hub) }
    }

    /// Data.
    pub fn data(HubData { repo, revision, folder, format }: &HubData) -> Self {
        let folder = folder.trim_matches('/').to_owned();
        let wanted = match format {
            DataFormat::Flora => Wanted::Data(folder),
            DataFormat::Chat => Wanted::Chats(folder),
        };
        Self { kind: Kind::Dataset, id: repo.clone(), revision: revision.clone(), wanted }
    }

    /// Refuses names that cannot be.
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |name: &str, problem: String| Err(Error::Name { name: name.into(), problem });
        match (repo_problem(&self.id), revision_problem(&self.revision), &self.wanted) {
            (Some(problem), _, _) => wrong(&self.id, problem),
            (_, Some(problem), _) => wrong(&self.revision, problem),
            (_, _, Wanted::Data(folder) | Wanted::Chats(folder)) if !folder.is_empty() && !is_safe_path(folder) => {
                wrong(folder, "is no folder of a repository".into())
            }
            _ => Ok(()),
        }
    }
}

/// What is wrong with the name of a repository, in words that follow it.
pub fn repo_problem(id: &str) -> Option<String> {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("--")
            && !part.contains("..")
    };
    let mut parts = id.split('/');
    let sound = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => part(name),
        (Some(org), Some(name), None) => part(org) && part(name),
        _ => false,
    };
    (!sound).then(|| "is no name of a repository, which looks like \"org/name\"".into())
}

/// What is wrong with a revision, in words that follow it.
pub fn revision_problem(revision: &str) -> Option<String> {
    let plain = revision.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./+".contains(&b));
    let sound = plain && is_safe_path(revision) && revision.len() <= 200;
    (!sound).then(|| "is no branch, tag or commit".into())
}

/// Whether a revision is a commit and so can never stand for anything else.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a name stays below the folder that it is put into.
pub(super) fn is_safe_path(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 1000
        && !name.contains(['\\', '\0', ':'])
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Index of sharded weights.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Weights in one file.
const WEIGHTS: &str = "model.safetensors";

impl Wanted {
    /// Whether a file of this name is wanted.
    fn takes(&self, file: &str) -> bool {
        match self {
            Self::Data(folder) | Self::Chats(folder) => {
                let rest = match folder.as_str() {
                    "" => Some(file),
                    folder => file.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')),
                };
                let endings: &[&str] = match self {
                    Self::Chats(_) => &datasets::chat::ENDINGS,
                    _ => &[".jsonl", ".jsonl.zst"],
                };
                rest.is_some_and(|name| !name.contains('/') && endings.iter().any(|ending| name.ends_with(ending)))
            }
            Self::Tokenizer => is_tokenizer(file),
            Self::Model => {
                // Sentence encoders keep their parts in folders such as 0_Transformer and 1_Pooling.
                let name = match file.split_once('/') {
                    Some((part, name)) if part.starts_with(|c: char| c.is_ascii_digit()) && part.contains('_') => name,
                    _ => file,
                };
                let listed = [
                    "config.json",
                    "generation_config.json",
                    "modules.json",
                    "sentence_bert_config.json",
                    "config_sentence_transformers.json",
                    INDEX,
                ];
                let weights = !name.contains('/') && name.starts_with("model") && name.ends_with(".safetensors");
                listed.contains(&name) || weights || is_tokenizer(name)
            }
        }
    }

    /// The folder of a snapshot that holds what is wanted.
    pub(super) fn inside(&self, snapshot: &Path) -> PathBuf {
        match self {
            Self::Data(folder) | Self::Chats(folder) if !folder.is_empty() => snapshot.join(folder),
            _ => snapshot.to_owned(),
        }
    }

    /// Whether a snapshot can be used without asking: for a model, configuration, tokenizer and all weights.
    pub(super) fn complete(&self, snapshot: &Path) -> bool {
        let has = |name: &str| snapshot.join(name).is_file();
        match self {
            Self::Tokenizer => has("tokenizer.json"),
            Self::Model if has("modules.json") && !has("config.json") => std::fs::read_dir(snapshot)
                .is_ok_and(|entries| entries.flatten().any(|entry| Self::Model.complete(&entry.path()))),
            Self::Model => has("config.json") && has("tokenizer.json") && (has(WEIGHTS) || shards_are_there(snapshot)),
            Self::Data(_) | Self::Chats(_) => std::fs::read_dir(self.inside(snapshot)).is_ok_and(|entries| {
                let root = match self {
                    Self::Chats(_) => Self::Chats(String::new()),
                    _ => Self::Data(String::new()),
                };
                entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(|name| root.takes(name)))
            }),
        }
    }
}

fn is_tokenizer(name: &str) -> bool {
    let listed = ["vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json"];
    let named = name.starts_with("tokenizer") && name.ends_with(".json");
    let template = name.starts_with("chat_template") && (name.ends_with(".jinja") || name.ends_with(".json"));
    !name.contains('/') && (listed.contains(&name) || named || template)
}

/// Whether every shard that the index of a folder names is there.
fn shards_are_there(snapshot: &Path) -> bool {
    let index = std::fs::read(snapshot.join(INDEX)).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    index.as_ref().and_then(|index| index["weight_map"].as_object()).is_some_and(|map| {
        let mut shards = map.values();
        !map.is_empty()
            && shards.all(|shard| shard.as_str().is_some_and(|s| is_safe_path(s) && snapshot.join(s).is_file()))
    })
}

/// The files of a repository that are wanted.
pub(super) fn choose<'a>(repo: &Repo, info: &'a Info) -> Result<Vec<&'a str>, Error> {
    if let Some(bad) = info.files.iter().find(|file| !is_safe_path(file)) {
        let problem = format!("is a name that leads out of its folder: {repo} is not to be trusted");
        return Err(Error::Name { name: bad.clone(), problem });
    }
    let wanted: Vec<&str> = info.files.iter().map(String::as_str).filter(|file| repo.wanted.takes(file)).collect();
    let has = |name: &str| wanted.iter().any(|file| *file == name || file.ends_with(&format!("/{name}")));
    let reason = match &repo.wanted {
        Wanted::Tokenizer if !has("tokenizer.json") => "it has no tokenizer.json".to_owned(),
        Wanted::Model if !has("config.json") => "it has no config.json".to_owned(),
        Wanted::Model if !has(WEIGHTS) && !has(INDEX) => {
            format!("it has neither {WEIGHTS} nor {INDEX}; weights in other formats are not read")
        }
        Wanted::Data(folder) if wanted.is_empty() => match folder.as_str() {
            "" => "it has no .jsonl or .jsonl.zst at its root; name a `folder`".to_owned(),
            folder => format!("it has no .jsonl or .jsonl.zst in the folder {folder:?}"),
        },
        Wanted::Chats(folder) if wanted.is_empty() => match folder.as_str() {
            "" => "it has no .jsonl, .json or .parquet at its root; name a `folder`".to_owned(),
            folder => format!("it has no .jsonl, .json or .parquet in the folder {folder:?}"),
        },
        // Shards beside a whole file are the same weights again.
        Wanted::Model if has(WEIGHTS) => {
            let shard = |file: &str| file.ends_with(".safetensors") && !file.ends_with(WEIGHTS);
            return Ok(wanted.into_iter().filter(|file| !shard(file) && !file.ends_with(INDEX)).collect());
        }
        _ => return Ok(wanted),
    };
    Err(Error::Nothing { repo: repo.to_string(), reason })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_elsewhere() {
        for good in ["gpt2", "Qwen/Qwen3-1.7B", "a/b_c.d"] {
            assert_eq!(repo_problem(good), None, "{good}");
        }
        for bad in ["", "/", "a/", "/b", "a/b/c", "../b", "a/..", "a--b/c", "a b", "a/b?x", "-a/b", "a/b."] {
            assert!(repo_problem(bad).is_some(), "{bad}");
        }
        for good in ["main", "v1.0", "refs/pr/3", &"0a".repeat(20)] {
            assert_eq!(revision_problem(good), None, "{good}");
        }
        for bad in ["", "a//b", "../x", "a/../b", "a b", "a?b", "a#", "/a"] {
            assert!(revision_problem(bad).is_some(), "{bad}");
        }
        for bad in ["", "/etc/passwd", "a/../b", "a\\b", "a//b", ".", "c:x", "a\0"] {
            assert!(!is_safe_path(bad), "{bad}");
        }
        assert!(is_commit(&"0a".repeat(20)) && !is_commit("main") && !is_commit(&"0A".repeat(20)));
    }

    fn chosen(wanted: Wanted, files: &[&str]) -> Result<Vec<String>, String> {
        let repo = Repo { kind: Kind::Model, id: "a/b".into(), revision: "main".into(), wanted };
        let info = Info { sha: "0a".repeat(20), files: files.iter().map(|f| (*f).to_owned()).collect() };
        choose(&repo, &info).map(|files| files.into_iter().map(str::to_owned).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn only_what_is_needed_is_fetched() {
        let all = [
            "README.md",
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            INDEX,
            "model-00002-of-00002.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer_config.json",
            "onnx/model.onnx",
            "consolidated.safetensors",
            "chat_template.jinja",
            "1_Pooling/config.json",
        ];
        let sharded = chosen(Wanted::Model, &all).unwrap();
        assert_eq!(sharded.len(), 9, "{sharded:?}");
        let whole: Vec<&str> = all.iter().copied().chain([WEIGHTS]).collect();
        let whole = chosen(Wanted::Model, &whole).unwrap();
        assert!(whole.iter().any(|f| f == WEIGHTS) && !whole.iter().any(|f| f.contains("of-00002") || f == INDEX));
        assert!(chosen(Wanted::Model, &["config.json", "pytorch_model.bin"]).unwrap_err().contains("neither"));
        assert!(chosen(Wanted::Model, &[WEIGHTS]).unwrap_err().contains("no config.json"));
        assert_eq!(chosen(Wanted::Tokenizer, &all).unwrap().len(), 3);
        let data = ["train.jsonl", "x/train-00000-of-00001.jsonl.zst", "x/y/val.jsonl", "x/a.parquet"];
        assert_eq!(chosen(Wanted::Data("x".into()), &data).unwrap(), ["x/train-00000-of-00001.jsonl.zst"]);
        assert_eq!(chosen(Wanted::Data(String::new()), &data).unwrap(), ["train.jsonl"]);
        assert!(chosen(Wanted::Data("y".into()), &data).unwrap_err().contains("\"y\""));
        assert!(chosen(Wanted::Model, &["../config.json"]).unwrap_err().contains("not to be trusted"));
    }
}
