//! What is exported, and where it comes from.

use std::path::{Path, PathBuf};

use burn_lora::ADAPTER_CONFIG;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::args::ExportKind;
use crate::recipe::{HubModel, ModelSource, Source, StageKind};
use crate::report::{Manifest, Run, read_json};
use crate::run::folder::{find_stage, was_started};
use crate::run::{Error, adapter_folder};

/// Stages that read each other are followed this far.
const MAX_CHAIN: usize = 16;

/// A decoder, perhaps with an adapter to be added to it, and the stages that made it.
#[derive(Debug)]
pub(super) struct Origin {
    /// The decoder's folder.
    pub(super) base: PathBuf,
    /// The adapter's folder.
    pub(super) adapter: Option<PathBuf>,
    /// The resolved recipe of the run that it comes from.
    pub(super) plan: Option<Value>,
    /// The finished stage that made it, and those before it whose weights went into it.
    pub(super) stages: Vec<Manifest>,
}

/// An error about a path of the command line.
pub(super) fn refused(path: &Path, reason: impl Into<String>) -> crate::Error {
    crate::Error::File { path: path.into(), reason: reason.into() }
}

fn is_model(folder: &Path) -> bool {
    folder.join("config.json").is_file()
}

fn is_adapter(folder: &Path) -> bool {
    folder.join(ADAPTER_CONFIG).is_file()
}

impl Origin {
    /// What `source` (a run, or its name in `runs`, a stage's folder, an adapter's or a decoder's) holds. Of a run, it is the last
    /// finished stage that has what is wanted.
    ///
    /// # Errors
    /// A source that is none of these, is not finished, or has no decoder.
    pub(super) fn find(source: &Path, adapter: Option<&Path>, kind: ExportKind) -> crate::Result<Self> {
        let by_name = Path::new("runs").join(source);
        let source = if !source.exists() && by_name.is_dir() { by_name } else { source.to_path_buf() };
        let found = if is_model(&source) || is_adapter(&source) {
            source.clone()
        } else if source.join("stages").is_dir() {
            of_run(&source, kind)?
        } else if Manifest::read(&source).map_err(Error::from)?.is_some() || was_started(&source) {
            of_stage(&source)?
        } else {
            let reason =
                "expected the folder of a run, of a finished stage, of an adapter or of a model in Hugging Face layout";
            return Err(refused(&source, reason));
        };
        let (base, adapter) = match (is_model(&found), adapter) {
            (true, None) => (found, None),
            (true, Some(adapter)) => (found, Some(given_adapter(adapter)?)),
            (false, None) => (base_of(&found)?, Some(found)),
            (false, Some(_)) => {
                return Err(refused(
                    &source,
                    "it has an adapter of its own: --adapter goes with the folder of a model",
                ));
            }
        };
        let made = adapter.as_deref().unwrap_or(&base);
        let stage = made.canonicalize().ok().and_then(|made| made.parent().map(Path::to_path_buf));
        let run = stage.as_deref().and_then(|stage| stage.ancestors().nth(2)).map(Path::to_path_buf);
        let stages = chain(stage.as_deref(), run.as_deref());
        let plan = run.filter(|_| !stages.is_empty()).and_then(|run| read_json(&run.join("plan.json")).ok());
        Ok(Self { base, adapter, plan, stages })
    }

    /// The model on a hub that the decoder or the adapter was made from, where it is known: by the recipe, or by the place of its
    /// files in the cache.
    pub(super) fn base_name(&self) -> Option<HubModel> {
        match self.first_base() {
            Some(Source::Hub(hub)) => Some(hub),
            Some(Source::Model(key)) => match model(self.plan.as_ref()?, &key)? {
                ModelSource::Hub(hub) => Some(hub),
                ModelSource::Path(path) => cached(&path),
                ModelSource::Init(_) => None,
            },
            Some(Source::Path(path)) => cached(&path),
            _ => cached(&self.base),
        }
    }

    /// The decoder that the first of the stages began with.
    fn first_base(&self) -> Option<Source> {
        let settings = &self.stages.last()?.settings;
        ["base", "model"].into_iter().find_map(|field| Source::deserialize(settings.get(field)?).ok())
    }

    /// What the first of its weights were, in words, where they have no name.
    pub(super) fn base_kind(&self) -> &'static str {
        match (self.first_base(), &self.plan) {
            (Some(Source::Model(key)), Some(plan)) if matches!(model(plan, &key), Some(ModelSource::Init(_))) => {
                "a fresh model with random weights"
            }
            _ => "a model in a local folder",
        }
    }
}

/// An entry of the recipe's `models`.
fn model(plan: &Value, key: &str) -> Option<ModelSource> {
    ModelSource::deserialize(plan.get("models")?.get(key)?).ok()
}

/// The folder of what a run's last suitable stage made.
fn of_run(run: &Path, kind: ExportKind) -> crate::Result<PathBuf> {
    let read = Run::read(run)?;
    let suitable = |stage: &crate::report::Stage| {
        stage.manifest.as_ref()?;
        let made = of_stage(&stage.path).ok()?;
        (kind == ExportKind::Merged || is_adapter(&made)).then_some(made)
    };
    read.stages.iter().rev().find_map(suitable).ok_or_else(|| {
        let stages: Vec<String> =
            read.stages.iter().map(|stage| format!("`{}` ({})", stage.name, stage.state())).collect();
        let wanted = match kind {
            ExportKind::Merged => "an Sft or MergeLora stage",
            ExportKind::Adapter => "an Sft stage with `lora`",
        };
        refused(run, format!("{wanted} has to be finished first; its stages: {}", stages.join(", ")))
    })
}

/// The folder of what a finished stage made.
fn of_stage(stage: &Path) -> crate::Result<PathBuf> {
    let Some(manifest) = Manifest::read(stage).map_err(Error::from)? else {
        return Err(refused(stage, "the stage is not finished: `hearth run` with its recipe goes on with it"));
    };
    let kinds = [StageKind::Sft, StageKind::MergeLora].map(StageKind::as_str);
    if !kinds.contains(&manifest.kind.as_str()) {
        let reason = format!("a stage of kind {} makes no decoder: only {} do", manifest.kind, kinds.join(" and "));
        return Err(refused(stage, reason));
    }
    let made = ["adapter", "model"].map(|inner| stage.join(inner));
    let made = made.into_iter().find(|folder| is_adapter(folder) || is_model(folder));
    made.ok_or_else(|| refused(stage, "the stage is finished, but what it made is gone: run it again with --fresh"))
}

/// The adapter in a folder, or in the stage's folder that it is.
fn given_adapter(folder: &Path) -> crate::Result<PathBuf> {
    let adapter = adapter_folder(folder);
    match is_adapter(&adapter) {
        true => Ok(adapter),
        false => Err(refused(folder, format!("no {ADAPTER_CONFIG} in it: it is no adapter's folder"))),
    }
}

/// The decoder that an adapter says it was trained on.
fn base_of(adapter: &Path) -> crate::Result<PathBuf> {
    let path = adapter.join(ADAPTER_CONFIG);
    let config: Value = read_json(&path).map_err(Error::from)?;
    let key = "base_model_name_or_path";
    let named = config.get(key).and_then(Value::as_str);
    match named.map(PathBuf::from) {
        Some(base) if is_model(&base) => Ok(base),
        _ => {
            let found = named.map_or("nothing".to_string(), |base| format!("{base:?}"));
            let reason = format!(
                "`{key}`: expected the folder of the model it was trained on, found {found}, which is not here: name the model's \
                 folder, and this one by --adapter"
            );
            Err(refused(&path, reason))
        }
    }
}

/// The inputs of a stage that are weights: what it trains, or adds to each other.
fn weights_of(manifest: &Manifest) -> impl Iterator<Item = Source> {
    let settings = &manifest.settings;
    ["adapter", "base", "model"].into_iter().filter_map(|field| Source::deserialize(settings.get(field)?).ok())
}

/// The manifests of a stage and, of the same run, of those whose weights went into it.
fn chain(stage: Option<&Path>, run: Option<&Path>) -> Vec<Manifest> {
    let mut found = Vec::new();
    let mut next = stage.map(Path::to_path_buf);
    while let Some(folder) = next.take()
        && let Ok(Some(manifest)) = Manifest::read(&folder)
        && found.len() < MAX_CHAIN
    {
        next = weights_of(&manifest).find_map(|source| match source {
            Source::Stage(name) => find_stage(run?, &name),
            _ => None,
        });
        found.push(manifest);
    }
    found
}

/// The name of what lies in a hub's cache: `…/models--org--name/snapshots/<commit>`.
fn cached(folder: &Path) -> Option<HubModel> {
    let folder = folder.canonicalize().ok()?;
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (snapshots, repo) = (folder.parent()?, folder.ancestors().nth(2)?);
    let repo = name(repo)?.strip_prefix("models--")?.replacen("--", "/", 1);
    (name(snapshots)? == "snapshots").then_some(HubModel { repo, revision: name(&folder)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_what_a_hub_keeps() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let hub = cached(&make("models--org--a--b/snapshots/0123")).unwrap();
        assert_eq!((hub.repo.as_str(), hub.revision.as_str()), ("org/a--b", "0123"));
        assert_eq!(cached(&make("models--org--a/blobs/0123")), None);
        assert_eq!(cached(&make("org/snapshots/0123")), None);
    }
}
