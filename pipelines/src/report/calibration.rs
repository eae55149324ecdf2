//! The reliability diagram of an evaluation: how often class 1 is right where it is predicted with some probability.

use super::Result;
use super::figure::{Axis, BLUE, GREY, Panel, Series, Stroke, svg};
use crate::eval::ScoredRecord;
use crate::eval::classification::{CALIBRATION_BINS, calibration_bins, calibration_error};

/// Share of class 1 over mean score, a point for each of 15 equal bins of scores that holds records, beside the diagonal on
/// which calibrated scores lie. `None` without records.
///
/// # Errors
/// The figure cannot be drawn.
pub fn reliability_figure(records: &[ScoredRecord]) -> Result<Option<String>> {
    let (scores, positive) = columns(records);
    let Some(error) = calibration_error(&scores, &positive, CALIBRATION_BINS) else { return Ok(None) };
    let bins = calibration_bins(&scores, &positive, CALIBRATION_BINS);
    let axis = |label: &str| Axis {
        label: label.to_owned(),
        range: (-0.02, 1.02),
        ticks: (0..=5).map(|tick| f64::from(tick) / 5.0).collect(),
    };
    let panel = Panel {
        title: "Reliability".to_owned(),
        x: axis("mean score"),
        y: axis("share of class 1"),
        series: vec![
            Series {
                label: "calibrated".to_owned(),
                color: GREY,
                stroke: Stroke::Dashed,
                points: vec![(0.0, 0.0), (1.0, 1.0)],
            },
            Series {
                label: format!("prediction (calibration error {error:.3})"),
                color: BLUE,
                stroke: Stroke::Dots,
                points: bins.iter().filter_map(|bin| bin.means()).collect(),
            },
        ],
    };
    svg("reliability", &[panel]).map(Some)
}

/// The diagram's numbers as CSV: `from`, `to`, `records`, `mean_score`, `positive_share` of every bin.
#[must_use]
pub fn reliability_csv(records: &[ScoredRecord]) -> String {
    let (scores, positive) = columns(records);
    let mut table = String::from("from,to,records,mean_score,positive_share\n");
    for (bin, found) in calibration_bins(&scores, &positive, CALIBRATION_BINS).iter().enumerate() {
        let edge = |bin: usize| bin as f64 / CALIBRATION_BINS as f64;
        let means = found.means().map_or_else(|| ",".to_owned(), |(score, share)| format!("{score},{share}"));
        table += &format!("{},{},{},{means}\n", edge(bin), edge(bin + 1), found.records);
    }
    table
}

fn columns(records: &[ScoredRecord]) -> (Vec<f64>, Vec<bool>) {
    records.iter().map(|record| (record.score, record.label >= 0.5)).unzip()
}
