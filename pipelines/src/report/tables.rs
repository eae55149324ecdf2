//! The tables that a report prints.

use std::collections::{BTreeMap, BTreeSet};

use super::log::Row;
use super::run::{Run, Stage};
use super::seeds::{Group, Spread, groups};
use super::table::{Align, NOTHING, Table, clean, duration, number};
use super::transfer::matrices;

/// One run: its stages, their metrics, and how its weights transfer.
pub(super) fn one(run: &Run, boxed: bool) -> String {
    let path = run.path.display().to_string();
    let files = run.path.join("report").display().to_string();
    let (stages, metrics) = (stages(run).render(boxed), metrics(run).render(boxed));
    let transfer = transfer(&groups(std::slice::from_ref(run)), boxed);
    format!(
        "{} ({})\n\n{stages}\n{metrics}\n{transfer}plots and tables: {}\n",
        clean(&run.name),
        clean(&path),
        clean(&files)
    )
}

/// Several experiments side by side ([`comparison`]), and how their weights transfer.
pub(super) fn several(runs: &[Run], groups: &[Group], boxed: bool) -> String {
    let text = comparison(runs, groups).render(boxed);
    match transfer(groups, boxed) {
        matrices if matrices.is_empty() => text,
        matrices => format!("{text}\n{matrices}"),
    }
}

fn transfer(groups: &[Group], boxed: bool) -> String {
    let matrices = matrices(groups).unwrap_or_default();
    matrices.iter().map(|matrix| matrix.render(boxed) + "\n").collect()
}

/// The stages of a run.
pub(super) fn stages(run: &Run) -> Table {
    let mut stages = table(["stage", "status", "time", "last step"], [Align::Left; 4]);
    let line = |stage: &Stage| {
        let time = stage.manifest.as_ref().map(|manifest| duration(manifest.timings.seconds));
        let step = stage.last_step().map(|step| step.to_string());
        vec![stage.name.clone(), stage.state().to_owned(), time.unwrap_or_default(), step.unwrap_or_default()]
    };
    stages.group(run.stages.iter().map(line).collect());
    stages
}

/// The metrics of a run.
pub(super) fn metrics(run: &Run) -> Table {
    let mut metrics = table(["stage", "metric", "value"], [Align::Left, Align::Left, Align::Decimal]);
    for stage in &run.stages {
        let named = |(index, (name, value)): (usize, (String, Option<f64>))| {
            vec![if index == 0 { stage.name.clone() } else { String::new() }, name, number(value)]
        };
        let rows: Vec<_> = values(stage).into_iter().enumerate().map(named).collect();
        if !rows.is_empty() {
            metrics.group(rows);
        }
    }
    metrics
}

/// A row for each stage and metric that any of the runs has, a column for each experiment: of a single run its numbers, of
/// several seeds mean ± standard deviation.
pub(super) fn comparison(runs: &[Run], groups: &[Group]) -> Table {
    let fixed = [("stage".to_owned(), Align::Left), ("metric".to_owned(), Align::Left)];
    let columns = groups.iter().map(|group| (group.name.clone(), Align::Decimal));
    let mut table = Table::new(fixed.into_iter().chain(columns));
    for name in stage_names(runs) {
        let found: Vec<Vec<&Stage>> =
            groups.iter().map(|group| group.runs.iter().filter_map(|run| run.stage(&name)).collect()).collect();
        let mut rows = Vec::new();
        if found.iter().flatten().any(|stage| stage.manifest.is_none()) {
            // Of several seeds, what is not done.
            let state = |stages: &Vec<&Stage>| {
                let open = stages.iter().find(|stage| stage.manifest.is_none());
                open.or(stages.first()).map_or(NOTHING, |stage| stage.state()).to_owned()
            };
            rows.push([String::new(), "status".to_owned()].into_iter().chain(found.iter().map(state)).collect());
        }
        let column = |stages: &Vec<&Stage>| {
            let mut column: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
            for stage in stages {
                let mut all: BTreeMap<_, _> = values(stage).into_iter().collect();
                if let Some(manifest) = &stage.manifest {
                    all.entry("seconds".to_owned()).or_insert(Some(manifest.timings.seconds));
                }
                all.into_iter().for_each(|(metric, value)| column.entry(metric).or_default().push(value));
            }
            column
        };
        let columns: Vec<_> = found.iter().map(column).collect();
        let metrics: BTreeSet<&String> = columns.iter().flat_map(BTreeMap::keys).collect();
        for metric in metrics {
            let cell = |column: &BTreeMap<String, Vec<Option<f64>>>| {
                let known: Vec<f64> = column.get(metric).into_iter().flatten().copied().flatten().collect();
                Spread::of(&known).map_or_else(|| NOTHING.to_owned(), |spread| spread.text())
            };
            rows.push([String::new(), metric.clone()].into_iter().chain(columns.iter().map(cell)).collect::<Vec<_>>());
        }
        if let Some(first) = rows.first_mut() {
            first[0].clone_from(&name);
        }
        table.group(rows);
    }
    table
}

/// The metrics of a finished stage; of another, what was logged last under each name.
fn values(stage: &Stage) -> Vec<(String, Option<f64>)> {
    match &stage.manifest {
        Some(manifest) => manifest.metrics.iter().map(|(name, &value)| (name.clone(), value)).collect(),
        None => {
            let mut last = BTreeMap::new();
            for log in &stage.logs {
                let part = log.part.as_ref().map(|part| format!("{part} ")).unwrap_or_default();
                let name = |row: &Row| format!("{part}{} ({}, so far)", row.name, row.split.name());
                last.extend(log.rows.iter().map(|row| (name(row), row.value)));
            }
            last.into_iter().collect()
        }
    }
}

/// The stages of all runs: those of the first run in its order, then what the others add.
pub(super) fn stage_names(runs: &[Run]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for stage in runs.iter().flat_map(|run| &run.stages) {
        if !names.contains(&stage.name) {
            names.push(stage.name.clone());
        }
    }
    names
}

fn table<const N: usize>(names: [&str; N], align: [Align; N]) -> Table {
    Table::new(names.into_iter().map(str::to_owned).zip(align))
}
