//! Experiments beside each other: a bar for each, with its deviation over seeds.

use super::Result;
use super::figure::{Axis, BLUE, Panel, Series, Stroke, VERMILION, svg};
use super::seeds::{Group, Spread, spread};

/// What experiments are compared by.
const METRICS: [&str; 3] = ["accuracy", "utility", "exact_macro"];

/// A panel for each evaluation and metric that more than one of the experiments has; `None` if there is none.
///
/// # Errors
/// The figure cannot be drawn.
pub(super) fn comparison_figure(groups: &[Group], stages: &[String]) -> Result<Option<String>> {
    let mut panels = Vec::new();
    for stage in stages {
        for metric in METRICS {
            let found: Vec<(usize, &str, Spread)> = (groups.iter().enumerate())
                .filter_map(|(nth, group)| Some((nth + 1, group.name.as_str(), spread(group, stage, metric)?)))
                .collect();
            if found.len() > 1 {
                panels.push(panel(&format!("{stage}: {}", metric.replace('_', " ")), metric, groups.len(), &found));
            }
        }
    }
    if panels.is_empty() { Ok(None) } else { svg("comparison", &panels).map(Some) }
}

fn panel(title: &str, metric: &str, groups: usize, found: &[(usize, &str, Spread)]) -> Panel {
    let mut series = Vec::new();
    for (place, name, spread) in found {
        let place = *place as f64;
        series.push(Series {
            label: format!("{place}: {name}, {}", spread.text()),
            color: BLUE,
            stroke: Stroke::Bars,
            points: vec![(place, spread.mean)],
        });
        if spread.deviation > 0.0 {
            let (mean, deviation) = (spread.mean, spread.deviation);
            series.push(Series {
                label: String::new(),
                color: VERMILION,
                stroke: Stroke::Solid,
                points: vec![(place, mean - deviation), (place, mean + deviation)],
            });
        }
    }
    let tops = found.iter().map(|(_, _, spread)| spread.mean + spread.deviation);
    let y = Axis::around(metric, tops.chain([0.0]), 6, false);
    Panel {
        title: title.to_owned(),
        x: Axis {
            label: "experiment".to_owned(),
            range: (0.4, groups as f64 + 0.6),
            ticks: (1..=groups).map(|place| place as f64).collect(),
        },
        y: Axis { range: (0.0, y.range.1), ..y },
        series,
    }
}
