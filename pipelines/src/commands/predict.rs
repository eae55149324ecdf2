//! `hearth glow predict`: scores of workflows by a trained predictor.

use super::rows::wrong;
use crate::cli::args::PredictArgs;
use crate::recipe::Source;
use crate::report::{Error as ReportError, Manifest};
use crate::run::folder::find_stage;
use crate::run::{EmbedInfo, EmbeddedData, Embedder, Error, Keys, PredictorFile, StoredPredictor, predictor_folder};
use burn::tensor::Device;
use datasets::flora::{Labels, ReadOptions};
use datasets::index::FloraIndex;
use datasets::table::{RowWriter, is_standard_stream, read_rows};
use datasets::{Error as DataError, Split};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Records of one forward pass.
const BATCH: usize = 512;

/// Reads FLORA records (labels and ids not needed) and writes them with `score` added: the predicted probability that the
/// workflow solves the task; null for a workflow without nodes. Every distinct workflow and text is embedded once, with
/// the models and settings of the run, through its cache.
///
/// # Errors
/// A run without a finished GlowTrain stage, models that are no longer where the run found them, records that cannot be used.
pub fn predict(args: &PredictArgs) -> crate::Result<()> {
    Ok(run(args, &args.device.init()?)?)
}

fn run(args: &PredictArgs, device: &Device) -> Result<(), Error> {
    let train = stage(&args.run, "glow-train")?;
    let stored = PredictorFile::load(&predictor_folder(&train), device)?;
    let info = EmbeddedData::info(&embedded(&args.run, &train)?)?;
    models_are_there(&info)?;

    // The records are read twice, as rows to give back and as workflows: a stream has to be kept.
    let scratch;
    let input: &Path = match is_standard_stream(&args.files.input) {
        false => &args.files.input,
        true => {
            scratch = tempfile::NamedTempFile::new().map_err(Error::io("-"))?;
            let mut file = scratch.as_file();
            std::io::copy(&mut std::io::stdin().lock(), &mut file).map_err(Error::io("-"))?;
            scratch.path()
        }
    };
    let options =
        ReadOptions { labels: Labels::Optional, on_bad_edge: info.settings.on_bad_edge, ..ReadOptions::default() };
    let named = |error| renamed(error, input, &args.files.input);
    let (by_line, nothing) = match FloraIndex::read_file(input, Split::Test, &options) {
        Ok(index) => (scores(args, &stored, &info, index, device)?, None),
        // Workflows without nodes have no score, and it may be that there are no others.
        Err(error @ DataError::Empty { .. }) => (HashMap::new(), Some(error)),
        Err(error) => return Err(named(error).into()),
    };

    let mut writer = RowWriter::create(&args.files.output)?;
    let mut rows = 0;
    for row in read_rows(input)? {
        let mut row = row.map_err(named)?;
        if row.map.contains_key("score") {
            return Err(wrong(&args.files.input, &row, "score", "no such key yet", "one", "rename it"));
        }
        let score = by_line.get(&row.line).map_or(Value::Null, |score| json!(score));
        row.map.insert("score".into(), score);
        writer.write(&row.map)?;
        rows += 1;
    }
    if let (Some(error), 0) = (nothing, rows) {
        return Err(named(error).into());
    }
    Ok(writer.finish()?)
}

/// The scores of all workflows that have nodes, by their records' lines.
fn scores(
    args: &PredictArgs,
    stored: &StoredPredictor,
    info: &EmbedInfo,
    index: FloraIndex,
    device: &Device,
) -> Result<HashMap<u64, f32>, Error> {
    let embedder = Embedder { info, cache: cache(&args.run)?, device: device.clone(), label: "predict".into() };
    let (Some(llm), Some(text)) = (embedder.workflows(&index)?, embedder.texts(&index)?) else {
        return Err(Error::Stage { stage: "predict".into(), reason: "stopped; what is embedded is kept".into() });
    };
    let keys = Keys { llm: llm.key, text: text.key };
    let data = EmbeddedData { index, keys, llm: llm.table, text: text.table };
    let lines = data.records(Split::Test)?.line.clone();
    let scores = stored.score(data, Split::Test, BATCH, device)?;
    Ok(lines.into_iter().map(u64::from).zip(scores).collect())
}

/// The folder of the run's last finished stage of a kind.
fn stage(run: &Path, kind: &str) -> Result<PathBuf, Error> {
    let stages = run.join("stages");
    if !stages.is_dir() {
        return Err(ReportError::NotARun { path: run.to_path_buf() }.into());
    }
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&stages)
        .map_err(Error::io(&stages))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    folders.sort();
    let mut damaged = None;
    for folder in folders.into_iter().rev() {
        match Manifest::read(&folder) {
            Ok(Some(manifest)) if manifest.kind == kind => return Ok(folder),
            Ok(_) => {}
            Err(error) => damaged = Some(error),
        }
    }
    Err(match damaged {
        Some(error) => error.into(),
        None => Error::Stage {
            stage: kind.into(),
            reason: format!("{} has no finished stage of this kind; run its recipe first", run.display()),
        },
    })
}

/// The folder of the embeddings that a finished training read: a run may have others, for transfer.
fn embedded(run: &Path, train: &Path) -> Result<PathBuf, Error> {
    let settings = Manifest::read(train)?.map(|manifest| manifest.settings).unwrap_or_default();
    let folder = match serde_json::from_value(settings["embeddings"].clone()) {
        Ok(Source::Stage(name)) => find_stage(run, &name),
        Ok(Source::Path(path)) => Some(path),
        _ => None,
    };
    folder.ok_or_else(|| Error::Input {
        stage: "glow-train".into(),
        field: "embeddings",
        path: run.to_path_buf(),
        reason: "the embeddings that the predictor was trained on are gone: run the recipe again".into(),
    })
}

/// The cache of a run's recipe: one that it names, or the one beside the run.
fn cache(run: &Path) -> Result<PathBuf, Error> {
    let path = run.join("plan.json");
    let plan = std::fs::read(&path).map_err(Error::io(&path))?;
    let plan: Value = serde_json::from_slice(&plan).map_err(|e| Error::io(&path)(e.into()))?;
    let beside = || run.parent().unwrap_or(Path::new(".")).join("cache");
    Ok(plan["cache"].as_str().map_or_else(beside, PathBuf::from))
}

/// Whether the models that a run embedded with are still where it found them.
fn models_are_there(info: &EmbedInfo) -> Result<(), Error> {
    for (field, path) in [("llm", &info.llm), ("text", &info.text)] {
        if !path.is_dir() {
            let reason = "the run embedded with this model, and it is gone: put it back, or run the stage again";
            return Err(Error::Input { stage: "embed".into(), field, path: path.clone(), reason: reason.into() });
        }
    }
    Ok(())
}

/// The error with the input's own name in place of that of its copy.
fn renamed(error: DataError, copy: &Path, name: &Path) -> DataError {
    match error {
        DataError::Record(mut record) if record.path == copy => {
            record.path = name.to_path_buf();
            DataError::Record(record)
        }
        DataError::Empty { path, detail } if path == copy => DataError::Empty { path: name.to_path_buf(), detail },
        other => other,
    }
}
