//! The files that a report writes into a run's `report/` folder.

use std::fs;
use std::path::{Path, PathBuf};

use datasets::atomic::write_file;
use serde::Deserialize;
use serde_json::Value;

use super::lines::each_record;
use super::run::{Log, Run, Stage};
use super::{Error, Result, metrics_json, precision_csv, precision_figure, training_curves};
use crate::eval::{ScoredRecord, UtilityOptions, UtilityReport};

/// The settings of an evaluation that its curves depend on.
#[derive(Debug, Deserialize)]
struct EvalSettings {
    threshold: f64,
    utility: UtilityOptions,
    plots: bool,
}

/// Writes the figures and tables of `run` into its `report/` folder; the result notes what could not be written and why.
#[must_use]
pub fn write_report(run: &Run) -> Vec<String> {
    let folder = run.path.join("report");
    let mut results = vec![write_json(run, &folder), write_csv(run, &folder)];
    for stage in &run.stages {
        let folder = folder.join(stage.path.file_name().unwrap_or_default());
        results.extend(stage.logs.iter().map(|log| write_curves(stage, log, &folder)));
        match score_files(&stage.path) {
            Ok(files) => results.extend(files.iter().map(|(name, path)| write_precision(stage, name, path, &folder))),
            Err(error) => results.push(Err(error)),
        }
    }
    results.into_iter().filter_map(|result| result.err().map(|error| error.to_string())).collect()
}

/// Reads the scored records of a file of JSON lines `{"workflow_id", "task_id", "label", "score"}`.
///
/// # Errors
/// The file cannot be read; a line is not such a record, or the last one is cut off.
pub fn read_scores(path: &Path) -> Result<Vec<ScoredRecord>> {
    let mut records = Vec::new();
    let cut = each_record(path, "a scored record", |record, _| {
        records.push(record);
        Ok(())
    })?;
    match cut {
        // Metrics of a part of the records would pass for those of all.
        Some(line) => Err(Error::Json {
            path: path.to_path_buf(),
            line: line as usize,
            column: 1,
            message: "the last record is cut off: run the evaluation again".to_owned(),
        }),
        None => Ok(records),
    }
}

fn write_json(run: &Run, folder: &Path) -> Result<()> {
    let text = format!("{:#}\n", Value::Object(metrics_json(run)));
    Ok(write_file(folder.join("report.json"), text.as_bytes())?)
}

fn write_csv(run: &Run, folder: &Path) -> Result<()> {
    let path = folder.join("metrics.csv");
    let failed = |error: csv::Error| Error::io(&path, "write")(error.into());
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(["stage", "kind", "metric", "value"]).map_err(failed)?;
    for stage in &run.stages {
        let Some(manifest) = &stage.manifest else { continue };
        let seconds = ("seconds", Some(manifest.timings.seconds));
        let metrics = manifest.metrics.iter().map(|(name, &value)| (name.as_str(), value));
        for (name, value) in metrics.chain([seconds]) {
            table.serialize((&stage.name, &manifest.kind, name, value)).map_err(failed)?;
        }
    }
    let bytes = table.into_inner().map_err(|error| Error::io(&path, "write")(error.into_error()))?;
    Ok(write_file(path, &bytes)?)
}

fn write_curves(stage: &Stage, log: &Log, folder: &Path) -> Result<()> {
    let (title, file) = match &log.part {
        Some(part) => (format!("{} {part}", stage.name), format!("training-curves-{part}.svg")),
        None => (stage.name.clone(), "training-curves.svg".to_owned()),
    };
    match training_curves(&title, &log.rows)? {
        Some(svg) => Ok(write_file(folder.join(file), svg.as_bytes())?),
        None => Ok(()),
    }
}

fn write_precision(stage: &Stage, checkpoint: &str, scores: &Path, folder: &Path) -> Result<()> {
    let Some(manifest) = &stage.manifest else { return Ok(()) };
    let settings = EvalSettings::deserialize(&manifest.settings)
        .map_err(|error| Error::Settings { path: stage.path.join(super::MANIFEST), reason: error.to_string() })?;
    let records = read_scores(scores)?;
    if let Some(&Some(expected)) = manifest.metrics.get("n_records")
        && expected != records.len() as f64
    {
        return Err(Error::Incomplete { path: scores.to_path_buf(), found: records.len(), expected });
    }
    let report = UtilityReport::compute(&records, settings.threshold, &settings.utility)
        .map_err(|source| Error::Scores { path: scores.to_path_buf(), source })?;
    write_file(folder.join(format!("precision-at-k-{checkpoint}.csv")), &precision_csv(&report)?)?;
    if settings.plots
        && let Some(svg) = precision_figure(&report)?
    {
        write_file(folder.join(format!("precision-at-k-{checkpoint}.svg")), svg.as_bytes())?;
    }
    Ok(())
}

/// The files `scores-<checkpoint>.jsonl` of a stage with their checkpoints' names.
fn score_files(stage: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(stage).map_err(Error::io(stage, "list"))? {
        let path = entry.map_err(Error::io(stage, "list"))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let checkpoint = name.and_then(|name| name.strip_prefix("scores-")?.strip_suffix(".jsonl"));
        if let Some(checkpoint) = checkpoint {
            files.push((checkpoint.to_owned(), path.clone()));
        }
    }
    files.sort();
    Ok(files)
}
