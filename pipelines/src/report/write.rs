//! The files that a report writes into a run's `report/` folder.

use std::fs;
use std::path::{Path, PathBuf};

use datasets::atomic::write_file;
use serde::Deserialize;
use serde_json::Value;

use super::html::{self, Figure};
use super::lines::each_record;
use super::map::{map_figure, read_map};
use super::run::{Log, Run, Stage};
use super::{
    Error, Evaluated, Result, metrics_json, precision_csv, precision_figure, reliability_csv, reliability_figure,
    training_curves,
};
use crate::eval::{ScoredRecord, UtilityOptions, UtilityReport};

/// The settings of an evaluation that its curves depend on.
#[derive(Debug, Deserialize)]
struct EvalSettings {
    threshold: f64,
    utility: UtilityOptions,
    plots: bool,
}

/// What was written into a run's `report/` folder.
#[derive(Debug, Default)]
pub struct Written {
    /// The figures, for the page.
    pub figures: Vec<Figure>,
    /// What could not be written, and why.
    pub notes: Vec<String>,
}

impl Written {
    fn note(&mut self, result: Result<()>) {
        self.notes.extend(result.err().map(|error| error.to_string()));
    }

    /// Writes a figure, and keeps it.
    fn figure(&mut self, path: PathBuf, title: String, svg: Result<Option<String>>) {
        let written = svg.and_then(|svg| {
            if let Some(svg) = svg {
                write_file(path, svg.as_bytes())?;
                self.figures.push(Figure { title, svg });
            }
            Ok(())
        });
        self.note(written);
    }
}

/// Writes the figures and tables of `run` into its `report/` folder, but for the page.
#[must_use]
pub fn write_report(run: &Run) -> Written {
    let folder = run.path.join("report");
    let mut written = Written::default();
    written.note(write_json(run, &folder));
    written.note(write_csv(run, &folder));
    for stage in &run.stages {
        let folder = folder.join(stage.path.file_name().unwrap_or_default());
        for log in &stage.logs {
            write_curves(stage, log, &folder, &mut written);
        }
        match named_files(&stage.path, "scores-", ".jsonl") {
            Ok(files) => {
                for (name, path) in files {
                    let result = write_scores(stage, &name, &path, &folder, &mut written);
                    written.note(result);
                }
            }
            Err(error) => written.note(Err(error)),
        }
        for (name, path) in named_files(&stage.path, "map-", ".csv").unwrap_or_default() {
            let svg = read_map(&path).and_then(|points| map_figure(&points));
            written.figure(folder.join(format!("map-{name}.svg")), format!("{} {name}: map", stage.name), svg);
        }
    }
    written
}

/// Writes the page of a run, which shows everything that its report says.
///
/// # Errors
/// The file cannot be written.
pub fn write_page(run: &Run, figures: &[Figure], beside: &str) -> Result<()> {
    Ok(write_file(run.path.join("report").join("index.html"), html::page(run, figures, beside).as_bytes())?)
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

fn write_curves(stage: &Stage, log: &Log, folder: &Path, written: &mut Written) {
    let (title, file) = match &log.part {
        Some(part) => (format!("{} {part}", stage.name), format!("training-curves-{part}.svg")),
        None => (stage.name.clone(), "training-curves.svg".to_owned()),
    };
    let svg = training_curves(&title, &log.rows);
    written.figure(folder.join(file), format!("{title}: training"), svg);
}

/// What the scores of a stage show.
fn write_scores(stage: &Stage, name: &str, scores: &Path, folder: &Path, written: &mut Written) -> Result<()> {
    let Some(manifest) = &stage.manifest else { return Ok(()) };
    let settings = EvalSettings::deserialize(&manifest.settings)
        .map_err(|error| Error::Settings { path: stage.path.join(super::MANIFEST), reason: error.to_string() })?;
    let records = read_scores(scores)?;
    let file = scores.file_name().and_then(|file| file.to_str()).unwrap_or_default();
    let evaluated = Evaluated::read(&stage.path)?;
    let prefix = evaluated.iter().find(|one| one.scores == file).map_or("", |one| one.prefix.as_str());
    if let Some(&Some(expected)) = manifest.metrics.get(&format!("{prefix}n_records"))
        && expected != records.len() as f64
    {
        return Err(Error::Incomplete { path: scores.to_path_buf(), found: records.len(), expected });
    }
    let report = UtilityReport::compute(&records, settings.threshold, &settings.utility)
        .map_err(|source| Error::Scores { path: scores.to_path_buf(), source })?;
    write_file(folder.join(format!("precision-at-k-{name}.csv")), &precision_csv(&report)?)?;
    write_file(folder.join(format!("reliability-{name}.csv")), reliability_csv(&records).as_bytes())?;
    if settings.plots {
        let title = |what: &str| format!("{} {name}: {what}", stage.name);
        let file = |what: &str| folder.join(format!("{what}-{name}.svg"));
        written.figure(file("precision-at-k"), title("Precision@K"), precision_figure(&report));
        written.figure(file("reliability"), title("reliability"), reliability_figure(&records));
    }
    Ok(())
}

/// The files of a stage whose names begin and end like this, with what stands between.
fn named_files(stage: &Path, begin: &str, end: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(stage).map_err(Error::io(stage, "list"))? {
        let path = entry.map_err(Error::io(stage, "list"))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(middle) = name.and_then(|name| name.strip_prefix(begin)?.strip_suffix(end)) {
            files.push((middle.to_owned(), path.clone()));
        }
    }
    files.sort();
    Ok(files)
}
