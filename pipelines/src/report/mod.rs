//! Reports of runs: `hearth report RUN… [--json]`.
//!
//! A report reads run folders as `hearth run` leaves them, whether the run is finished, running, or broken off:
//!
//! ```text
//! runs/<name>/stages/<n>-<stage>/manifest.json         what a finished stage was and gave (Manifest)
//!                                metrics.{jsonl,csv}   what its learner logged (MetricsLog)
//!                                <part>/metrics.jsonl  the same for a part of the stage, such as `warmup`
//!                                scores-<checkpoint>.jsonl   scored records of an evaluation (ScoredRecord)
//!            report/                                   what a report writes:
//!              report.json                             stage → metric → number, as `--json` prints it
//!              metrics.csv                             the same as rows stage,kind,metric,value
//!              <n>-<stage>/training-curves.svg         of each log; `training-curves-<part>.svg` of a part's
//!              <n>-<stage>/precision-at-k-<scores>.{svg,csv}, reliability-<scores>.{svg,csv}   of each stage with scores
//!              <n>-<stage>/map-<scores>.svg            the fused vectors of an evaluation's records
//!              comparison.svg                          of the first of several runs: all of them, by bars
//!              index.html                              all tables and figures on one page that needs no other file
//! ```
//!
//! What cannot be read or written becomes a note under the tables; only a report without anything to show is an error.

mod bars;
mod calibration;
mod curves;
mod error;
mod figure;
mod html;
mod lines;
mod log;
mod manifest;
mod map;
mod precision;
mod run;
mod seeds;
mod table;
mod tables;
mod transfer;
mod write;

use std::io::Write;
use std::path::PathBuf;

use datasets::atomic::write_file;
use serde_json::{Map, Value};

pub use calibration::{reliability_csv, reliability_figure};
pub use curves::training_curves;
pub use error::{Error, Result};
pub use html::Figure;
pub use log::{METRICS_CSV, METRICS_JSONL, MetricsLog, Row, Split};
pub(crate) use manifest::read_json;
pub use manifest::{MANIFEST, Manifest, Status, Timings};
pub use map::map_figure;
pub use precision::{precision_csv, precision_figure};
pub use run::{Log, Run, Stage};
pub use seeds::Spread;
pub(crate) use table::{Align, Table};
pub use transfer::{EVALUATED, Evaluated};
pub use write::{Written, read_scores, write_page, write_report};

/// How a report is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// One JSON object instead of tables.
    pub json: bool,
    /// Tables with box lines, for terminals.
    pub boxed: bool,
}

/// Reports on `runs` (folders, or names below `runs/`): writes files into each run's `report/` and prints to `out`. One run
/// prints its stages and metrics; several print one table with a column for each experiment, where runs that differ in nothing
/// but their seeds are one: mean ± standard deviation. With [`Options::json`], `out` gets
/// exactly one JSON object, stage → metric → number (for several runs, run → stage → metric → number), and the notes go to
/// `notes` instead of standing under the tables.
///
/// # Errors
/// [`Error::NothingToShow`] if no run has a finished stage or a log; `out` cannot be written.
pub fn report(runs: &[PathBuf], options: Options, out: &mut dyn Write, notes: &mut dyn Write) -> Result<()> {
    let mut remarks = Vec::new();
    let mut found: Vec<Run> = Vec::new();
    for path in runs {
        match Run::read(path) {
            Ok(mut run) => {
                remarks.append(&mut run.notes);
                if run.has_content() {
                    found.push(run);
                } else {
                    remarks.push(format!("{}: no finished stage and no log", run.path.display()));
                }
            }
            Err(error) => remarks.push(error.to_string()),
        }
    }
    if found.is_empty() {
        return Err(Error::NothingToShow { notes: remarks });
    }
    name_apart(&mut found);
    let groups = seeds::groups(&found);
    for (nth, run) in found.iter().enumerate() {
        let Written { figures, notes } = write_report(run);
        remarks.extend(notes);
        let beside = if nth == 0 && found.len() > 1 { compare(&found, &groups, &mut remarks) } else { String::new() };
        remarks.extend(write_page(run, &figures, &beside).err().map(|error| error.to_string()));
    }
    let text = if options.json {
        let object = if runs.len() == 1 {
            found.first().map(metrics_json).unwrap_or_default()
        } else {
            found.iter().map(|run| (run.name.clone(), Value::Object(metrics_json(run)))).collect()
        };
        format!("{:#}\n", Value::Object(object))
    } else if let ([run], 1) = (found.as_slice(), runs.len()) {
        tables::one(run, options.boxed)
    } else {
        tables::several(&found, &groups, options.boxed)
    };
    out.write_all(text.as_bytes()).map_err(Error::io("standard output", "write"))?;
    let remarks: String = remarks.iter().map(|remark| format!("note: {}\n", table::clean(remark))).collect();
    let written = if options.json { notes.write_all(remarks.as_bytes()) } else { out.write_all(remarks.as_bytes()) };
    written.map_err(Error::io("standard output", "write"))
}

/// Several runs as a part of the first one's page; their bars are also a file in its `report/`.
fn compare(runs: &[Run], groups: &[seeds::Group], remarks: &mut Vec<String>) -> String {
    let mut text = format!("<h2>Comparison</h2>\n{}", tables::comparison(runs, groups).html());
    let drawn = bars::comparison_figure(groups, &tables::stage_names(runs)).and_then(|svg| {
        if let (Some(svg), Some(run)) = (svg, runs.first()) {
            write_file(run.path.join("report").join("comparison.svg"), svg.as_bytes())?;
            text += &html::figure("comparison", &svg);
        }
        Ok(())
    });
    remarks.extend(drawn.err().map(|error| error.to_string()));
    text
}

/// Stage → metric → number of the finished stages, with the stage's `seconds` among the metrics. A metric that is not
/// defined is null.
#[must_use]
pub fn metrics_json(run: &Run) -> Map<String, Value> {
    let number = |value: Option<f64>| value.map_or(Value::Null, Value::from);
    let stage = |manifest: &Manifest| {
        let mut metrics: Map<String, Value> =
            manifest.metrics.iter().map(|(name, &value)| (name.clone(), number(value))).collect();
        metrics.entry("seconds").or_insert_with(|| number(Some(manifest.timings.seconds)));
        Value::Object(metrics)
    };
    let finished = run.stages.iter().filter_map(|entry| entry.manifest.as_ref().map(|manifest| (entry, manifest)));
    finished.map(|(entry, manifest)| (entry.name.clone(), stage(manifest))).collect()
}

/// Runs of one name go by their paths.
fn name_apart(runs: &mut [Run]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in runs {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = run.path.display().to_string();
        }
    }
}
