//! Which weights were evaluated on what, and how well they did there.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Result;
use super::manifest::read_json;
use super::run::Stage;
use super::seeds::{Group, Spread};
use super::table::{Align, NOTHING, Table};

/// File in the folder of a `GlowEval` stage: a list of [`Evaluated`].
pub const EVALUATED: &str = "evaluated.json";

/// One evaluation of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The data that the weights were trained on.
    pub trained_on: String,
    /// The data that they were evaluated on.
    pub target: String,
    /// Which weights: `best` or `final`.
    pub checkpoint: String,
    /// What the names of its metrics begin with.
    pub prefix: String,
    /// The file of its scores, in the stage's folder.
    pub scores: String,
}

impl Evaluated {
    /// The evaluations of a stage; none where it is not of this kind.
    ///
    /// # Errors
    /// A file that is not one.
    pub fn read(stage: &Path) -> Result<Vec<Self>> {
        let path = stage.join(EVALUATED);
        if path.exists() { read_json(&path) } else { Ok(Vec::new()) }
    }
}

/// The metrics that a matrix is made of.
const METRICS: [&str; 3] = ["accuracy", "utility", "utility_flora"];

/// The weights that a row is about: experiment, data trained on, checkpoint.
type RowKey<'a> = (usize, &'a str, &'a str);

/// A matrix per metric: a row for each data set (and checkpoint) that was trained on, a column for each that was evaluated on;
/// over the seeds of an experiment mean ± standard deviation. `None` where everything was evaluated on one data set.
pub(super) fn matrices(groups: &[Group]) -> Option<Vec<Table>> {
    let mut found: Vec<(usize, Vec<(Evaluated, &Stage)>)> = Vec::new();
    for (nth, group) in groups.iter().enumerate() {
        for run in &group.runs {
            let read = |stage: &Stage| Evaluated::read(&stage.path).unwrap_or_default();
            let all = run.stages.iter().flat_map(|stage| read(stage).into_iter().map(move |one| (one, stage)));
            found.push((nth, all.collect()));
        }
    }
    let (mut rows, mut columns): (Vec<RowKey>, Vec<&str>) = (Vec::new(), Vec::new());
    for (nth, all) in &found {
        for (one, _) in all {
            let row = (*nth, one.trained_on.as_str(), one.checkpoint.as_str());
            if !rows.contains(&row) {
                rows.push(row);
            }
            if !columns.contains(&one.target.as_str()) {
                columns.push(&one.target);
            }
        }
    }
    columns.sort_unstable();
    if columns.len() < 2 {
        return None;
    }
    let several = rows.iter().any(|row| row.2 != rows[0].2);
    let label = |row: &RowKey| {
        let checkpoint = if several { format!(" ({})", row.2) } else { String::new() };
        let twice = rows.iter().filter(|other| (other.1, other.2) == (row.1, row.2)).count() > 1;
        let group = if twice { format!(", {}", groups[row.0].name) } else { String::new() };
        format!("{}{checkpoint}{group}", row.1)
    };
    let matrix = |metric: &'static str| {
        let mut cells: BTreeMap<(RowKey, &str), Vec<f64>> = BTreeMap::new();
        for (nth, all) in &found {
            // Of two evaluations of a run on the same data the later one counts.
            let mut own: BTreeMap<(RowKey, &str), Option<f64>> = BTreeMap::new();
            for (one, stage) in all {
                let value = stage.manifest.as_ref().and_then(|m| *m.metrics.get(&format!("{}{metric}", one.prefix))?);
                own.insert(((*nth, &one.trained_on, &one.checkpoint), &one.target), value);
            }
            own.into_iter().for_each(|(cell, value)| cells.entry(cell).or_default().extend(value));
        }
        let first = (format!("{metric}: trained on"), Align::Left);
        let header = columns.iter().map(|name| ((*name).to_owned(), Align::Decimal));
        let mut table = Table::new(std::iter::once(first).chain(header));
        let line = |row: &RowKey| {
            let cell = |column: &&str| match cells.get(&(*row, *column)) {
                Some(values) => Spread::of(values).map_or_else(|| NOTHING.to_owned(), |spread| spread.text()),
                None => String::new(),
            };
            std::iter::once(label(row)).chain(columns.iter().map(cell)).collect()
        };
        table.group(rows.iter().map(line).collect());
        table
    };
    Some(METRICS.into_iter().map(matrix).collect())
}
