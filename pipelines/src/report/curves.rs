//! Training curves: one panel for each metric that a learner logged.

use std::collections::BTreeMap;

use super::Result;
use super::figure::{Axis, BLUE, Panel, Series, Stroke, VERMILION, svg};
use super::log::{Row, Split};

/// More points than this in a line are averaged in groups of neighbours.
const POINTS: usize = 400;
/// Up to this many points of the validation set are marked.
const MARKED: usize = 80;

/// The values of a metric by step, for each set.
type Measured = BTreeMap<Split, BTreeMap<u64, f64>>;

/// Training curves as SVG, each panel headed by `title` and its metric; `None` if nothing finite was logged.
///
/// Each panel shows one metric over the steps, losses first, then accuracies, then the others by name; the training set's
/// line is solid, that of the validation set has dots.
///
/// # Errors
/// The figure cannot be drawn.
pub fn training_curves(title: &str, rows: &[Row]) -> Result<Option<String>> {
    // Rows written twice, before and after an interruption, count once.
    let mut metrics: BTreeMap<(u8, &str), Measured> = BTreeMap::new();
    for row in rows {
        if let Some(value) = row.value {
            let metric = metrics.entry((rank(&row.name), &row.name)).or_default();
            metric.entry(row.split).or_default().insert(row.step, value);
        }
    }
    if metrics.is_empty() {
        return Ok(None);
    }
    // One axis for all panels, so that they can be compared.
    let steps = rows.iter().filter(|row| row.value.is_some()).map(|row| row.step as f64);
    let x = Axis::around("optimizer step", steps, 8, true);
    let panels: Vec<Panel> = metrics.iter().map(|((_, name), splits)| panel(title, name, splits, &x)).collect();
    svg("training curves", &panels).map(Some)
}

fn panel(title: &str, name: &str, splits: &Measured, x: &Axis) -> Panel {
    let mut series = Vec::new();
    for (split, values) in splits {
        let group = values.len().div_ceil(POINTS);
        let (color, stroke) = match split {
            Split::Train => (BLUE, Stroke::Solid),
            Split::Valid if values.len() <= MARKED => (VERMILION, Stroke::Dots),
            Split::Valid => (VERMILION, Stroke::Dashed),
        };
        let set = if *split == Split::Train { "training" } else { "validation" };
        let label = if group > 1 { format!("{set} (means of {group} steps)") } else { set.to_owned() };
        series.push(Series { label, color, stroke, points: averaged(values, group) });
    }
    let values = || series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
    let (words, unit) = in_words(name);
    let label = unit.map_or_else(|| words.clone(), |unit| format!("{words} ({unit})"));
    let y = Axis::around(&label, values(), 6, false);
    let share = name.contains("accuracy") && values().all(|value| (0.0..=1.0).contains(&value));
    Panel { title: format!("{title}: {words}"), x: x.clone(), y: if share { y.within((0.0, 1.0)) } else { y }, series }
}

/// Means of groups of `group` neighbouring points.
fn averaged(values: &BTreeMap<u64, f64>, group: usize) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = values.iter().map(|(&step, &value)| (step as f64, value)).collect();
    let mean = |chunk: &[(f64, f64)]| {
        let (x, y) = chunk.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / chunk.len() as f64, y / chunk.len() as f64)
    };
    points.chunks(group.max(1)).map(mean).collect()
}

/// What is looked at first comes first.
fn rank(name: &str) -> u8 {
    if name == "loss" {
        0
    } else if name.contains("loss") {
        1
    } else if name.contains("accuracy") {
        2
    } else {
        3
    }
}

/// The metric's name in words, and its unit. Units follow the name's ending; losses and norms have none.
fn in_words(name: &str) -> (String, Option<&'static str>) {
    const UNITS: [(&str, &str); 5] =
        [("_seconds", "s"), ("_mib", "MiB"), ("_gib", "GiB"), ("_bytes", "bytes"), ("_percent", "%")];
    let (stem, unit) = match name {
        "lr" => ("learning rate", None),
        "grad_norm" => ("gradient norm", None),
        _ if name.ends_with("_per_second") => (name, Some("1/s")),
        _ if name.contains("accuracy") => (name, Some("share")),
        _ => UNITS
            .into_iter()
            .find_map(|(ending, unit)| Some((name.strip_suffix(ending)?, Some(unit))))
            .unwrap_or((name, None)),
    };
    (stem.replace('_', " "), unit)
}
