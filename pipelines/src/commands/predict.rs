//! `hearth glow predict`: scores of workflows by a trained predictor.

use super::rows::wrong;
use crate::cli::args::PredictArgs;
use crate::report::Manifest;
use crate::run::{EmbeddedData, Embedder, Error, PredictorFile, predictor_folder};
use datasets::Split;
use datasets::flora::{Labels, ReadOptions};
use datasets::index::FloraIndex;
use datasets::table::{RowWriter, is_standard_stream, read_rows};
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

fn run(args: &PredictArgs, device: &burn::tensor::Device) -> Result<(), Error> {
    let train = stage(&args.run, "glow-train")?;
    let stored = PredictorFile::load(&predictor_folder(&train), device)?;
    let info = EmbeddedData::info(&stage(&args.run, "embed")?)?;

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
    let options = ReadOptions {
        labels: Labels::Optional,
        on_bad_edge: info.settings.on_bad_edge,
        ..ReadOptions::default()
    };
    let index = FloraIndex::read_file(input, Split::Test, &options)?;
    let cache = args.run.parent().unwrap_or(Path::new(".")).join("cache");
    let embedder = Embedder { info: &info, cache, device: device.clone(), label: "predict".into() };
    let (Some(llm), Some(text)) = (embedder.workflows(&index)?, embedder.texts(&index)?) else {
        return Err(Error::Stage { stage: "predict".into(), reason: "stopped; what is embedded is kept".into() });
    };
    let data = EmbeddedData { index, llm: llm.table, text: text.table };
    let lines = data.records(Split::Test)?.line.clone();
    let scores = stored.score(data, Split::Test, BATCH, device)?;
    let by_line: HashMap<u64, f32> = lines.into_iter().map(u64::from).zip(scores).collect();

    let mut writer = RowWriter::create(&args.files.output)?;
    for row in read_rows(input)? {
        let mut row = row?;
        if row.map.contains_key("score") {
            return Err(wrong(&args.files.input, &row, "score", "no such key yet", "one", "rename it"));
        }
        let score = by_line.get(&row.line).map_or(Value::Null, |score| json!(score));
        row.map.insert("score".into(), score);
        writer.write(&row.map)?;
    }
    Ok(writer.finish()?)
}

/// The folder of the run's last finished stage of a kind.
fn stage(run: &Path, kind: &str) -> Result<PathBuf, Error> {
    let stages = run.join("stages");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&stages)
        .map_err(Error::io(&stages))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    folders.sort();
    let found = folders.into_iter().rev().find(|f| Manifest::read(f).ok().flatten().is_some_and(|m| m.kind == kind));
    found.ok_or_else(|| Error::Stage {
        stage: kind.into(),
        reason: format!("{} has no finished stage of this kind; run its recipe first", run.display()),
    })
}
