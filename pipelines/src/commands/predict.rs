//! `hearth glow predict`: scores of workflows by a trained predictor.

use super::rank::{Standing, rank};
use super::rows::{kind, wrong};
use crate::cli::args::PredictArgs;
use crate::recipe::Source;
use crate::report::{Error as ReportError, Manifest};
use crate::run::folder::find_stage;
use crate::run::{EmbedInfo, EmbeddedData, Embedder, Error, Keys, PredictorFile, StoredPredictor, predictor_folder};
use burn::tensor::Device;
use datasets::flora::{Labels, ReadOptions};
use datasets::index::FloraIndex;
use datasets::table::{Row, RowWriter, is_standard_stream, read_rows};
use datasets::{Error as DataError, Split};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Records of one forward pass.
const BATCH: usize = 512;

/// Reads FLORA records (labels and ids not needed) and writes them with `score` added: the predicted probability that the
/// workflow solves the task; null for a workflow without nodes. Every distinct workflow and text is embedded once, with
/// the models and settings of the run, through its cache.
///
/// With `--rank` a line per workflow comes out instead, best first; with `--tasks` every workflow is scored on every
/// task of a file. Records are of one workflow if `nodes`, `edge_index` and `workflow_id` are the same.
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
    let input = Input { path: input, name: &args.files.input };
    let predictor = Predictor { args, stored, info, device };
    match (&args.tasks, args.rank) {
        (Some(tasks), _) => predictor.matrix(&input, tasks),
        (None, true) => predictor.ranking(&input),
        (None, false) => predictor.records(&input),
    }
}

/// The records: where they are, and what they are called in messages.
struct Input<'a> {
    path: &'a Path,
    name: &'a Path,
}

impl Input<'_> {
    /// The error with the input's own name in place of that of its copy.
    fn named(&self, error: DataError, copy: &Path) -> DataError {
        match error {
            DataError::Record(mut record) if record.path == copy => {
                record.path = self.name.to_path_buf();
                DataError::Record(record)
            }
            DataError::Empty { path, detail } if path == copy => {
                DataError::Empty { path: self.name.to_path_buf(), detail }
            }
            other => other,
        }
    }

    fn rows(&self) -> Result<impl Iterator<Item = Result<Row, DataError>>, DataError> {
        Ok(read_rows(self.path)?.map(|row| row.map_err(|error| self.named(error, self.path))))
    }
}

/// A run's predictor with what it takes to make its inputs.
struct Predictor<'a> {
    args: &'a PredictArgs,
    stored: StoredPredictor,
    info: EmbedInfo,
    device: &'a Device,
}

/// Score and workflow (its number in the index) of every record that has nodes, by line.
type ByLine = HashMap<u64, (f32, u32)>;

impl Predictor<'_> {
    /// A line per record.
    fn records(&self, input: &Input) -> Result<(), Error> {
        let (by_line, nothing) = self.by_line(input)?;
        let mut writer = RowWriter::create(&self.args.files.output)?;
        let mut rows = 0;
        for row in input.rows()? {
            let mut row = row?;
            if row.map.contains_key("score") {
                return Err(wrong(input.name, &row, "score", "no such key yet", "one", "rename it"));
            }
            let score = by_line.get(&row.line).map_or(Value::Null, |(score, _)| json!(score));
            row.map.insert("score".into(), score);
            writer.write(&row.map)?;
            rows += 1;
        }
        if let (Some(error), 0) = (nothing, rows) {
            return Err(error.into());
        }
        Ok(writer.finish()?)
    }

    /// A line per workflow, from the scores of its records.
    fn ranking(&self, input: &Input) -> Result<(), Error> {
        let (by_line, nothing) = self.by_line(input)?;
        let mut standings = Standings::default();
        for row in input.rows()? {
            let row = row?;
            let scored = by_line.get(&row.line);
            let standing = standings.of(&row, scored.map(|(_, workflow)| *workflow));
            standing.scores.extend(scored.map(|(score, _)| *score));
        }
        if let (Some(error), true) = (nothing, standings.all.is_empty()) {
            return Err(error.into());
        }
        self.write(standings.all, None)
    }

    /// A line per workflow, from its scores on all tasks of a file.
    fn matrix(&self, input: &Input, tasks: &Path) -> Result<(), Error> {
        let mut texts: Vec<Value> = Vec::new();
        for row in read_rows(tasks)? {
            let row = row?;
            match row.map.get("task") {
                Some(task @ Value::String(_)) => texts.push(task.clone()),
                other => return Err(wrong(tasks, &row, "task", "a text", kind(other), "")),
            }
        }
        let Some(first) = texts.first() else {
            return Err(DataError::Empty { path: tasks.to_path_buf(), detail: "no task".into() }.into());
        };

        // The workflows, on the lines where they stand, with the first task; then one of them with each of the others. So every
        // workflow and every task is in the index, and problems have their places.
        let copy = tempfile::NamedTempFile::new().map_err(Error::io("-"))?;
        let failed = || Error::io(copy.path());
        let mut file = std::io::BufWriter::new(copy.as_file());
        let (mut line, mut rows, mut last) = (0, Vec::new(), None);
        for row in input.rows()? {
            let mut row = row?;
            while line + 1 < row.line {
                writeln!(file).map_err(failed())?;
                line += 1;
            }
            row.map.insert("task".into(), first.clone());
            writeln!(file, "{}", Value::Object(row.map.clone())).map_err(failed())?;
            line = row.line;
            if row.map.get("nodes").and_then(Value::as_object).is_some_and(|nodes| !nodes.is_empty()) {
                last = Some(row.map.clone());
            }
            rows.push(Row { line: row.line, map: Map::from_iter(row.map.remove_entry("workflow_id")) });
        }
        let records = line;
        if let Some(mut record) = last {
            for text in &texts {
                record.insert("task".into(), text.clone());
                writeln!(file, "{}", Value::Object(record.clone())).map_err(failed())?;
            }
        }
        file.flush().map_err(failed())?;
        drop(file);

        let mut standings = Standings::default();
        let index = match FloraIndex::read_file(copy.path(), Split::Test, &self.options()) {
            Ok(index) => index,
            Err(DataError::Empty { .. }) if !rows.is_empty() => {
                for row in &rows {
                    standings.of(row, None);
                }
                return self.write(standings.all, Some(texts.len()));
            }
            Err(error) => return Err(input.named(error, copy.path()).into()),
        };
        let data = self.embed(index)?;
        let all = data.records(Split::Test)?;
        let mut place: HashMap<u64, usize> = HashMap::new();
        let mut columns: Vec<u32> = Vec::new();
        for (i, line) in all.line.iter().enumerate() {
            if u64::from(*line) <= records {
                place.insert(u64::from(*line), i);
            } else {
                columns.push(all.task[i]);
            }
        }
        let mut numbers: Vec<Option<u32>> = Vec::new();
        for row in &rows {
            let workflow = place.get(&row.line).map(|i| all.workflow[*i]);
            let known = standings.all.len();
            standings.of(row, workflow);
            if standings.all.len() > known {
                numbers.push(workflow);
            }
        }
        let scored: Vec<u32> = numbers.iter().copied().flatten().collect();
        let scores = self.stored.matrix(data, &scored, &columns, BATCH, self.device)?;
        let mut scores = scores.chunks_exact(columns.len());
        for (standing, number) in standings.all.iter_mut().zip(numbers) {
            if number.is_some() {
                standing.scores = scores.next().unwrap_or_default().to_vec();
            }
        }
        self.write(standings.all, Some(texts.len()))
    }

    fn write(&self, mut standings: Vec<Standing>, tasks: Option<usize>) -> Result<(), Error> {
        if self.args.rank {
            rank(&mut standings);
        }
        let mut writer = RowWriter::create(&self.args.files.output)?;
        for (place, standing) in standings.iter().enumerate() {
            writer.write(&standing.row(self.args.rank.then_some(place + 1), tasks))?;
        }
        Ok(writer.finish()?)
    }

    fn options(&self) -> ReadOptions {
        let on_bad_edge = self.info.settings.on_bad_edge;
        ReadOptions { labels: Labels::Optional, on_bad_edge, ..ReadOptions::default() }
    }

    /// The scores of all workflows that have nodes; and if none has, what is wrong with that, should there be no rows at all.
    fn by_line(&self, input: &Input) -> Result<(ByLine, Option<DataError>), Error> {
        let index = match FloraIndex::read_file(input.path, Split::Test, &self.options()) {
            Ok(index) => index,
            Err(error @ DataError::Empty { .. }) => return Ok((HashMap::new(), Some(input.named(error, input.path)))),
            Err(error) => return Err(input.named(error, input.path).into()),
        };
        let data = self.embed(index)?;
        let records = data.records(Split::Test)?;
        let lines: Vec<(u64, u32)> =
            records.line.iter().map(|line| u64::from(*line)).zip(records.workflow.iter().copied()).collect();
        let scores = self.stored.score(data, Split::Test, BATCH, self.device)?;
        let entry = |((line, workflow), score): ((u64, u32), f32)| (line, (score, workflow));
        Ok((lines.into_iter().zip(scores).map(entry).collect(), None))
    }

    /// The vectors of an index, through the run's cache.
    fn embed(&self, index: FloraIndex) -> Result<EmbeddedData, Error> {
        let (cache, device) = (cache(&self.args.run)?, self.device.clone());
        let embedder = Embedder { info: &self.info, cache, device, label: "predict".into() };
        let (Some(llm), Some(text)) = (embedder.workflows(&index)?, embedder.texts(&index)?) else {
            return Err(Error::Stage { stage: "predict".into(), reason: "stopped; what is embedded is kept".into() });
        };
        let keys = Keys { llm: llm.key, text: text.key };
        Ok(EmbeddedData { index, keys, llm: llm.table, text: text.table })
    }
}

/// The workflows of a file, in the order of their first records.
#[derive(Default)]
struct Standings {
    all: Vec<Standing>,
    places: HashMap<(Option<i64>, Option<u32>), usize>,
}

impl Standings {
    /// The workflow of a record, by its number and its content (its number in the index; none without nodes).
    fn of(&mut self, row: &Row, content: Option<u32>) -> &mut Standing {
        let workflow_id = row.map.get("workflow_id").and_then(Value::as_i64);
        let next = self.all.len();
        let place = match (workflow_id, content) {
            // Nothing says that two of them are one.
            (None, None) => next,
            key => *self.places.entry(key).or_insert(next),
        };
        if place == next {
            self.all.push(Standing { workflow_id, line: row.line, scores: Vec::new() });
        }
        &mut self.all[place]
    }
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
