//! What a predictor is evaluated on: the data it was embedded with, or others.

use super::context::StageContext;
use super::embed::Embedder;
use super::embedded::{EmbedInfo, EmbeddedData, Keys};
use super::error::Error;
use crate::recipe::GlowEval;
use datasets::Split;
use datasets::flora::ReadOptions;
use datasets::index::{FloraIndex, SplitBy};
use std::path::{Path, PathBuf};

/// A data set to evaluate on.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// That of the embeddings.
    Own,
    /// Another one, by the name of its folder.
    Other { name: String, folder: PathBuf },
}

/// The targets of a stage whose weights were trained on `trained_on`.
///
/// # Errors
/// Two of one name; a suite that has none for these weights.
pub(super) fn targets(context: &StageContext, stage: &GlowEval, trained_on: &str) -> Result<Vec<Target>, Error> {
    if stage.targets.is_empty() {
        return Ok(vec![Target::Own]);
    }
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for source in &stage.targets {
        let folder = context.path("targets", source)?;
        let name = folder.file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned());
        if stage.suite.is_some_and(|suite| !suite.takes(trained_on, &name)) {
            continue;
        }
        if found.iter().any(|(other, _)| *other == name) {
            return Err(context.input_error("targets", &folder, format!("two targets are called {name}")));
        }
        found.push((name, folder));
    }
    if found.is_empty() {
        return Err(context.error(format!(
            "`suite` finds no target for weights that were trained on {trained_on:?}: it goes by the names of folders, such as \
             Coding-AF"
        )));
    }
    Ok(found.into_iter().map(|(name, folder)| Target::Other { name, folder }).collect())
}

/// Embeds a data set as `info` says, through the cache; `None` where it was asked to stop. Of the splits only `split` is read,
/// unless all records are split anew.
pub(super) fn embed(
    context: &StageContext,
    info: &EmbedInfo,
    folder: &Path,
    split: Split,
) -> Result<Option<EmbeddedData>, Error> {
    let settings = &info.settings;
    let splits = if settings.split == SplitBy::Files { vec![split] } else { Split::ALL.to_vec() };
    let options = ReadOptions {
        splits,
        labels: settings.labels.into(),
        on_bad_edge: settings.on_bad_edge,
        ..ReadOptions::default()
    };
    let mut index = FloraIndex::read(folder, &options)?;
    index.resplit(settings.split)?;
    let embedder =
        Embedder { info, cache: context.recipe.cache_dir(), device: context.device.clone(), label: context.label() };
    let (Some(llm), Some(text)) = (embedder.workflows(&index)?, embedder.texts(&index)?) else { return Ok(None) };
    let keys = Keys { llm: llm.key, text: text.key };
    Ok(Some(EmbeddedData { index, keys, llm: llm.table, text: text.table }))
}
