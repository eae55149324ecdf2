//! The tables that a report prints.

use std::collections::{BTreeMap, BTreeSet};

use super::log::Row;
use super::run::{Run, Stage};
use super::table::{Align, NOTHING, Table, clean, duration, number};

/// One run: its stages, then their metrics.
pub(super) fn one(run: &Run, boxed: bool) -> String {
    let mut stages = table(["stage", "status", "time", "last step"], [Align::Left; 4]);
    let line = |stage: &Stage| {
        let time = stage.manifest.as_ref().map(|manifest| duration(manifest.timings.seconds));
        let step = stage.last_step().map(|step| step.to_string());
        vec![stage.name.clone(), stage.state().to_owned(), time.unwrap_or_default(), step.unwrap_or_default()]
    };
    stages.group(run.stages.iter().map(line).collect());

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
    let path = run.path.display().to_string();
    let files = run.path.join("report").display().to_string();
    let (stages, metrics) = (stages.render(boxed), metrics.render(boxed));
    format!("{} ({})\n\n{stages}\n{metrics}\nplots and tables: {}\n", clean(&run.name), clean(&path), clean(&files))
}

/// Several runs side by side: a row for each stage and metric that any of them has, a column for each run.
pub(super) fn several(runs: &[Run], boxed: bool) -> String {
    let fixed = [("stage".to_owned(), Align::Left), ("metric".to_owned(), Align::Left)];
    let mut table = Table::new(fixed.into_iter().chain(runs.iter().map(|run| (run.name.clone(), Align::Decimal))));
    for name in stage_names(runs) {
        let stages: Vec<Option<&Stage>> =
            runs.iter().map(|run| run.stages.iter().find(|stage| stage.name == name)).collect();
        let cell = |text: String, stage: &Option<&Stage>| if stage.is_some() { text } else { NOTHING.to_owned() };
        let mut rows = Vec::new();
        if stages.iter().flatten().any(|stage| stage.manifest.is_none()) {
            let states = stages.iter().map(|stage| cell(stage.map_or("", Stage::state).to_owned(), stage));
            rows.push([String::new(), "status".to_owned()].into_iter().chain(states).collect::<Vec<_>>());
        }
        let columns: Vec<BTreeMap<String, Option<f64>>> = stages
            .iter()
            .map(|stage| {
                let seconds = stage.and_then(|stage| stage.manifest.as_ref()).map(|manifest| manifest.timings.seconds);
                let mut column: BTreeMap<_, _> = stage.map(values).unwrap_or_default().into_iter().collect();
                if let Some(seconds) = seconds {
                    column.entry("seconds".to_owned()).or_insert(Some(seconds));
                }
                column
            })
            .collect();
        let metrics: BTreeSet<&String> = columns.iter().flat_map(BTreeMap::keys).collect();
        for metric in metrics {
            let cells = columns.iter().map(|column| number(column.get(metric).copied().flatten()));
            rows.push([String::new(), metric.clone()].into_iter().chain(cells).collect());
        }
        if let Some(first) = rows.first_mut() {
            first[0].clone_from(&name);
        }
        table.group(rows);
    }
    table.render(boxed)
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
fn stage_names(runs: &[Run]) -> Vec<String> {
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
