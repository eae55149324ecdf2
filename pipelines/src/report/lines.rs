//! JSON lines that may have been cut off while they were written.

use std::path::Path;

use datasets::RecordError;
use datasets::lines::FileLines;
use serde::de::DeserializeOwned;

use super::Result;
use super::manifest::json_message;

/// Longer lines are not read: 1 MiB.
const LIMIT: usize = 1 << 20;

/// Gives every record of a file, with its text, to `each`. A last line that is not a record was cut off in writing: it is
/// skipped and its number returned.
///
/// # Errors
/// The file cannot be read, or a line before the last is not a record.
pub(super) fn each_record<T: DeserializeOwned>(
    path: &Path,
    expected: &str,
    mut each: impl FnMut(T, &str) -> Result<()>,
) -> Result<Option<u64>> {
    let mut lines = FileLines::open(path, LIMIT)?;
    loop {
        let problem = match lines.next_line() {
            Ok(None) => return Ok(None),
            Ok(Some((number, line))) => match serde_json::from_str(line) {
                Ok(record) => {
                    each(record, line)?;
                    continue;
                }
                Err(error) => datasets::Error::from(RecordError {
                    path: path.to_path_buf(),
                    line: number,
                    column: Some(error.column()),
                    key: String::new(),
                    expected: expected.to_owned(),
                    found: format!("`{}`: {}", line.chars().take(60).collect::<String>(), json_message(&error)),
                    remedy: String::new(),
                }),
            },
            // A cut inside a character; a failing disk fails again below.
            Err(error) => error,
        };
        let number = lines.number();
        return match lines.next_line() {
            Ok(None) => Ok(Some(number)),
            _ => Err(problem.into()),
        };
    }
}
