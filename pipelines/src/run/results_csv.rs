//! The table of evaluations that several runs add to.

use super::error::Error;
use crate::eval::GlowMetrics;
use datasets::atomic::write_file;
use std::fs::{self, File};
use std::path::Path;

/// The columns: the published ones, then ours.
const COLUMNS: [&str; 20] = [
    "data_path",
    "cross_system",
    "tag",
    "accuracy",
    "utility",
    "precision_1",
    "recall_1",
    "f1_1",
    "precision_0",
    "recall_0",
    "f1_0",
    "avg_f1",
    "seed",
    "recipe_hash",
    "n_records",
    "n_workflows",
    "utility_flora",
    "utility_exact",
    "auroc",
    "timestamp",
];

/// Where a row comes from.
#[derive(Debug, Clone)]
pub(super) struct Origin<'a> {
    /// The data that was evaluated on.
    pub(super) data: &'a str,
    /// The data that the weights were trained on.
    pub(super) trained_on: &'a str,
    /// Which weights.
    pub(super) tag: &'a str,
    pub(super) seed: u64,
    /// [`crate::recipe::Recipe::hash_without_seed`].
    pub(super) recipe_hash: &'a str,
    /// Seconds since 1970.
    pub(super) timestamp: u64,
}

/// The row of an evaluation. Accuracy and the metrics of classes have four decimals, as published; what is not defined is
/// empty, and so is `cross_system` where the weights are from the same data.
pub(super) fn row(origin: &Origin, metrics: &GlowMetrics) -> Vec<String> {
    let classes = metrics.classes.published();
    let number = |value: f64| value.to_string();
    let defined = |value: Option<f64>| value.map(number).unwrap_or_default();
    let cross = if origin.trained_on == origin.data { "" } else { origin.trained_on };
    vec![
        origin.data.into(),
        cross.into(),
        origin.tag.into(),
        number(classes.accuracy),
        defined(metrics.utility),
        number(classes.precision_1),
        number(classes.recall_1),
        number(classes.f1_1),
        number(classes.precision_0),
        number(classes.recall_0),
        number(classes.f1_0),
        number(classes.avg_f1),
        origin.seed.to_string(),
        origin.recipe_hash.into(),
        metrics.n_records.to_string(),
        metrics.n_workflows.to_string(),
        defined(metrics.utility_flora),
        defined(metrics.utility_exact),
        defined(metrics.auroc),
        origin.timestamp.to_string(),
    ]
}

/// Adds rows to the table, and begins it with its header where there is none: all of them or none. Processes wait for each
/// other, by a lock on a hidden file beside the table.
///
/// # Errors
/// A file that is another table; where the disk refuses.
pub(super) fn append(path: &Path, rows: &[Vec<String>]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lock_path = path.with_file_name(format!(".{name}.lock"));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
    lock.lock().map_err(Error::io(&lock_path))?;

    let mut writer = csv::Writer::from_writer(existing(path)?);
    for row in rows {
        writer.write_record(row).map_err(|e| invalid(path, e.to_string()))?;
    }
    let table = writer.into_inner().map_err(|e| invalid(path, e.to_string()))?;
    Ok(write_file(path, &table)?)
}

/// The table as it is, or the header of a new one: what rows can be added to.
///
/// # Errors
/// As [`append`]: who is about to compute rows finds out before.
pub(super) fn existing(path: &Path) -> Result<Vec<u8>, Error> {
    let mut table = match fs::read(path) {
        Ok(table) => table,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io(path)(error)),
    };
    if table.is_empty() {
        table.extend(COLUMNS.join(",").bytes().chain(*b"\n"));
    } else {
        let mut reader = csv::Reader::from_reader(table.as_slice());
        let header = reader.headers().map_err(|e| invalid(path, e.to_string()))?;
        if !header.iter().map(str::trim).eq(COLUMNS) {
            return Err(invalid(
                path,
                format!(
                    "the header of this table is `{}`, but rows of `{}` are to be added: move it away, or give `csv` another name",
                    header.iter().collect::<Vec<_>>().join(","),
                    COLUMNS.join(",")
                ),
            ));
        }
        if !table.ends_with(b"\n") {
            table.push(b'\n');
        }
    }
    Ok(table)
}

fn invalid(path: &Path, reason: String) -> Error {
    Error::io(path)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::eval::{ScoredRecord, UtilityOptions};

    #[test]
    fn rows_are_rounded_as_published_and_added_below_one_header() {
        // Example 24 of the published table: precision 2/3, recall 1/2.
        let labels = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0];
        let scores = [0.9, 0.5, 0.51, 0.7, 0.2, 0.3, 0.5, 0.1];
        let records: Vec<ScoredRecord> = (labels.iter().zip(scores))
            .map(|(label, score)| ScoredRecord { workflow_id: 0, task_id: 0, label: *label, score })
            .collect();
        let metrics = GlowMetrics::compute(&records, 0.5, &UtilityOptions::default()).unwrap();
        let origin = Origin {
            data: "Math-GD",
            trained_on: "Math-GD",
            tag: "Best Val",
            seed: 7,
            recipe_hash: "ab",
            timestamp: 12,
        };
        let own = row(&origin, &metrics);
        let other = row(&Origin { trained_on: "Coding-AF, old", tag: "Final", ..origin }, &metrics);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/results.csv");
        append(&path, std::slice::from_ref(&own)).unwrap();
        append(&path, std::slice::from_ref(&other)).unwrap();
        let lines: Vec<String> = fs::read_to_string(&path).unwrap().lines().map(String::from).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], COLUMNS.join(","));
        assert_eq!(lines[1], "Math-GD,,Best Val,0.625,,0.6667,0.5,0.5714,0.6,0.75,0.6667,0.619,7,ab,8,1,,,0.71875,12");
        assert!(lines[2].starts_with("Math-GD,\"Coding-AF, old\",Final,"));
        // A table whose last line was cut off by an editor.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.trim_end()).unwrap();
        append(&path, &[own]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
        // Several at one time.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5).for_each(|_| append(&path, std::slice::from_ref(&other)).unwrap()));
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.lines().count(), text.matches("data_path").count()), (24, 1));
        // Another table stays as it is.
        let foreign = dir.path().join("foreign.csv");
        fs::write(&foreign, "a,b\n1,2\n").unwrap();
        let refused = append(&foreign, &[other]).unwrap_err().to_string();
        assert!(refused.contains("foreign.csv") && refused.contains("`a,b`"), "{refused}");
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "a,b\n1,2\n");
    }
}
