//! The log of a learner: `metrics.jsonl` and `metrics.csv` in its stage's folder.
//!
//! A line of `metrics.jsonl` is one measurement:
//! `{"step": 12, "epoch": 0.5, "split": "train", "name": "loss", "value": 0.693, "time": 1763715600.123}`; a value that is not
//! finite is `null`. `metrics.csv` holds the columns `step,split,name,value` of the same rows, an undefined value empty.
//!
//! Steps must not decrease over the life of a stage: they decide what a continued stage keeps. Both files only ever grow
//! by whole lines, so a reader at any moment, or after a crash, finds at most one cut line at the end.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use datasets::atomic::{AtomicFile, write_file};
use serde::{Deserialize, Serialize};

use super::lines::each_record;
use super::manifest::json_error;
use super::{Error, Result};

/// File name of the log as JSON lines.
pub const METRICS_JSONL: &str = "metrics.jsonl";
/// File name of the log as a table.
pub const METRICS_CSV: &str = "metrics.csv";

const HEADER: &[u8] = b"step,split,name,value\n";
/// Rows held back at most before they are written.
const PENDING: usize = 1024;

/// Which data a measurement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The training set.
    Train,
    /// The validation set.
    Valid,
}

impl Split {
    /// `train` or `valid`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The optimizer step after which it was taken.
    pub step: u64,
    /// Epochs seen by then, if the learner counts them.
    #[serde(default)]
    pub epoch: Option<f64>,
    /// The data it is about.
    pub split: Split,
    /// What was measured, such as `loss`.
    pub name: String,
    /// The value; `None` if it was not finite.
    pub value: Option<f64>,
    /// When, in seconds since 1970-01-01 UTC.
    pub time: f64,
}

/// Appends measurements to the two files of a log. Rows are held back until [`MetricsLog::flush`], at most some thousand
/// of them; dropping the log writes them too.
///
/// Flush before a checkpoint is put in its place: then the log has every row up to any step that training can continue
/// from.
#[derive(Debug)]
pub struct MetricsLog {
    jsonl: (PathBuf, File),
    csv: (PathBuf, File),
    pending: Vec<Row>,
}

impl MetricsLog {
    /// Opens the log in `dir`, which is made if need be, to continue after step `resume_from_step`: rows of later steps and a
    /// cut last line are dropped, each file being replaced at once. 0 means that nothing was saved: the log begins empty.
    ///
    /// # Errors
    /// A file that cannot be read or written; a line before the last that is not a row, at its file and line.
    pub fn open(dir: &Path, resume_from_step: u64) -> Result<Self> {
        let (jsonl, csv) = (dir.join(METRICS_JSONL), dir.join(METRICS_CSV));
        if resume_from_step > 0 && jsonl.exists() {
            let mut kept = AtomicFile::create(&jsonl)?;
            let mut table = AtomicFile::create(&csv)?;
            table.write_all(HEADER).map_err(Error::io(&csv, "write"))?;
            let mut table = Table::new(table, &csv);
            each_record(&jsonl, "a row of metrics", |row: Row, line| {
                if row.step > resume_from_step {
                    return Ok(());
                }
                writeln!(kept, "{line}").map_err(Error::io(&jsonl, "write"))?;
                table.push(&row)
            })?;
            kept.commit()?;
            table.finish()?.commit()?;
        } else {
            write_file(&jsonl, b"")?;
            write_file(&csv, HEADER)?;
        }
        let append = |path: PathBuf| -> Result<(PathBuf, File)> {
            let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path, "open"))?;
            Ok((path, file))
        };
        Ok(Self { jsonl: append(jsonl)?, csv: append(csv)?, pending: Vec::new() })
    }

    /// Adds a measurement taken now.
    ///
    /// # Errors
    /// Held-back rows had to be written and could not be.
    pub fn push(&mut self, step: u64, epoch: Option<f64>, split: Split, name: &str, value: f64) -> Result<()> {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
        self.pending.push(Row {
            step,
            epoch: epoch.filter(|epoch| epoch.is_finite()),
            split,
            name: name.to_owned(),
            value: value.is_finite().then_some(value),
            time: millis as f64 / 1e3,
        });
        if self.pending.len() >= PENDING { self.flush() } else { Ok(()) }
    }

    /// Hands all rows to the operating system: a killed process loses none of them.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        for row in &self.pending {
            serde_json::to_writer(&mut text, row).map_err(|error| json_error(&self.jsonl.0, &error))?;
            text.push(b'\n');
        }
        let mut table = Table::new(Vec::new(), &self.csv.0);
        self.pending.iter().try_for_each(|row| table.push(row))?;
        let table = table.finish()?;
        self.pending.clear();
        self.jsonl.1.write_all(&text).map_err(Error::io(&self.jsonl.0, "write"))?;
        self.csv.1.write_all(&table).map_err(Error::io(&self.csv.0, "write"))
    }

    /// All rows of the log in `dir`, in the order they were written; none if there is no log. A cut last line is left out.
    ///
    /// # Errors
    /// The file cannot be read, or a line before the last is not a row.
    pub fn read(dir: &Path) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let path = dir.join(METRICS_JSONL);
        if fs::exists(&path).map_err(Error::io(&path, "read"))? {
            read_rows(&path, &mut rows)?;
        }
        Ok(rows)
    }
}

impl Drop for MetricsLog {
    fn drop(&mut self) {
        // Whoever needs to know that the last rows arrived calls `flush`.
        drop(self.flush());
    }
}

/// Adds the rows of `path` to `rows`, also those before an error. The result is the number of a cut last line.
pub(super) fn read_rows(path: &Path, rows: &mut Vec<Row>) -> Result<Option<u64>> {
    each_record(path, "a row of metrics", |row, _| {
        rows.push(row);
        Ok(())
    })
}

/// Rows of `metrics.csv` on their way into `W`.
struct Table<'a, W: Write> {
    writer: csv::Writer<W>,
    path: &'a Path,
}

impl<'a, W: Write> Table<'a, W> {
    fn new(to: W, path: &'a Path) -> Self {
        Self { writer: csv::WriterBuilder::new().has_headers(false).from_writer(to), path }
    }

    fn push(&mut self, row: &Row) -> Result<()> {
        let cells = (row.step, row.split.name(), &row.name, row.value);
        self.writer.serialize(cells).map_err(|error| Error::io(self.path, "write")(error.into()))
    }

    fn finish(self) -> Result<W> {
        self.writer.into_inner().map_err(|error| Error::io(self.path, "write")(error.into_error()))
    }
}
