//! Precision@K of an evaluation: the curve as CSV and as SVG.

use super::figure::{Axis, BLUE, GREEN, GREY, Panel, Series, Stroke, VERMILION, svg};
use super::{Error, Result};
use crate::eval::UtilityReport;
use crate::eval::utility::Curve;

/// The figure "Precision@K": precision over k for the ranking by truth, for the published ranking of the prediction, and
/// for the rankings that do not look at the truth, each with its utility to two decimals. `None` for fewer than two
/// workflows.
///
/// # Errors
/// The figure cannot be drawn.
pub fn precision_figure(report: &UtilityReport) -> Result<Option<String>> {
    let n = report.ranked.len();
    if n < 2 {
        return Ok(None);
    }
    let line = |name: &str, color, stroke, curve: &Curve| Series {
        label: format!("{name} (utility {:.2})", curve.utility.unwrap_or_default()),
        color,
        stroke,
        points: curve.precision.iter().enumerate().map(|(place, &value)| ((place + 1) as f64, value)).collect(),
    };
    let perfect = Curve { precision: vec![1.0; n], utility: Some(1.0) };
    let panel = Panel {
        title: "Precision@K".to_owned(),
        x: Axis { label: "k".to_owned(), range: (1.0, n as f64), ticks: k_ticks(n) },
        y: Axis {
            label: "precision".to_owned(),
            range: (-0.01, 1.02),
            ticks: (0..=5).map(|tick| f64::from(tick) / 5.0).collect(),
        },
        series: vec![
            line("truth", GREY, Stroke::Dashed, &perfect),
            line("prediction", BLUE, Stroke::Solid, &report.published),
            // Dashed, so that the line below shows where both agree.
            line("ties in file order", VERMILION, Stroke::Dashed, &report.exact),
            line("by mean score", GREEN, Stroke::Solid, &report.score),
        ],
    };
    svg("Precision@K", &[panel]).map(Some)
}

/// The curves as CSV: `k` and the precision of each ranking, in the names of their utilities.
///
/// # Errors
/// The table cannot be written.
pub fn precision_csv(report: &UtilityReport) -> Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let failed = |error: csv::Error| Error::io("precision-at-k.csv", "write")(error.into());
    table.write_record(["k", "utility", "utility_exact", "utility_score"]).map_err(failed)?;
    let curves = report.published.precision.iter().zip(&report.exact.precision).zip(&report.score.precision);
    for (place, ((published, exact), score)) in curves.enumerate() {
        table.serialize((place + 1, published, exact, score)).map_err(failed)?;
    }
    table.into_inner().map_err(|error| Error::io("precision-at-k.csv", "write")(error.into_error()))
}

/// Ticks 1, 11, 21, …; for many workflows every 20th, 50th, 100th, … so that their labels do not meet.
fn k_ticks(n: usize) -> Vec<f64> {
    let mut step = 10;
    let mut factors = [2.0, 2.5, 2.0].into_iter().cycle();
    while n / step > 15 {
        step = (step as f64 * factors.next().unwrap_or(2.0)) as usize;
    }
    (1..=n).step_by(step).map(|k| k as f64).collect()
}
