//! The map of an evaluation: what the predictor makes of its records, in a plane, by their labels.

use std::path::Path;

use super::figure::{Axis, BLUE, Panel, Series, Stroke, VERMILION, svg};
use super::{Error, Result};

/// Reads the points of a map, a CSV with `x`, `y` and `label`.
pub(super) fn read_map(path: &Path) -> Result<Vec<(f64, f64, f64)>> {
    let failed = |error: csv::Error| Error::io(path, "read")(error.into());
    let mut reader = csv::Reader::from_path(path).map_err(failed)?;
    reader.deserialize().collect::<std::result::Result<_, _>>().map_err(failed)
}

/// The fused vectors of records along their first two principal components: a cloud per label. `None` without points.
///
/// # Errors
/// The figure cannot be drawn.
pub fn map_figure(points: &[(f64, f64, f64)]) -> Result<Option<String>> {
    if points.is_empty() {
        return Ok(None);
    }
    let cloud = |label: &str, color, solved: bool| Series {
        label: label.to_owned(),
        color,
        stroke: Stroke::Cloud,
        points: points.iter().filter(|point| (point.2 >= 0.5) == solved).map(|(x, y, _)| (*x, *y)).collect(),
    };
    let panel = Panel {
        title: "Records by their fused vectors".to_owned(),
        x: Axis::around("first principal component", points.iter().map(|point| point.0), 8, false),
        y: Axis::around("second principal component", points.iter().map(|point| point.1), 6, false),
        series: vec![cloud("label 0", VERMILION, false), cloud("label 1", BLUE, true)],
    };
    svg("map", &[panel]).map(Some)
}
