//! Answers that were expensive to come by, kept as they come in.

use super::error::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Values by key, one JSON line `{"key": …, "value": …}` each, only ever appended to. A line that a killed process left
/// unfinished, or that is damaged, is passed over; of several with one key the first counts.
///
/// Several processes may append at one time: a line is written at once.
#[derive(Debug)]
pub(super) struct AnswerLog<V> {
    path: PathBuf,
    file: File,
    known: HashMap<String, V>,
}

#[derive(Deserialize)]
struct Line<V> {
    key: String,
    value: V,
}

impl<V: Serialize + DeserializeOwned> AnswerLog<V> {
    /// Reads the file, or begins it.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let mut file = File::options().create(true).read(true).append(true).open(path).map_err(Error::io(path))?;
        let mut known = HashMap::new();
        let (mut damaged, mut torn) = (0, false);
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(Error::io(path))? == 0 {
                break;
            }
            torn = !line.ends_with(b"\n");
            match serde_json::from_slice::<Line<V>>(&line) {
                Ok(Line { key, value }) => {
                    known.entry(key).or_insert(value);
                }
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(_) => damaged += 1,
            }
        }
        drop(reader);
        if damaged > 0 {
            tracing::warn!(path = %path.display(), damaged, "lines that cannot be read are passed over");
        }
        if torn {
            // What is appended begins on a line of its own.
            file.write_all(b"\n").map_err(Error::io(path))?;
        }
        Ok(Self { path: path.into(), file, known })
    }

    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.known.get(key)
    }

    /// Keeps a value; one with this key stays.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(super) fn keep(&mut self, key: String, value: V) -> Result<(), Error> {
        if self.known.contains_key(&key) {
            return Ok(());
        }
        let failed = |e: serde_json::Error| Error::io(&self.path)(e.into());
        let mut line = serde_json::to_vec(&serde_json::json!({ "key": key, "value": value })).map_err(failed)?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io(&self.path))?;
        self.known.insert(key, value);
        Ok(())
    }

    /// Makes everything that was kept survive a power cut.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_kept_is_found_again_whatever_else_stands_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/answers.jsonl");
        let mut log = AnswerLog::open(&path).unwrap();
        log.keep("a".into(), 0.1).unwrap();
        log.keep("b".into(), 1e-300).unwrap();
        log.keep("a".into(), 7.0).unwrap();
        log.sync().unwrap();
        // A process that was killed while it wrote, and one that writes at the same time.
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"key\": \"c\", \"va").unwrap();
        let mut log = AnswerLog::<f64>::open(&path).unwrap();
        let mut other = AnswerLog::<f64>::open(&path).unwrap();
        log.keep("d".into(), 2.0).unwrap();
        other.keep("e".into(), 3.0).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\xff\n{}\n\n").unwrap();
        let log = AnswerLog::<f64>::open(&path).unwrap();
        let found: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|key| log.get(key).copied()).collect();
        assert_eq!(found, [Some(0.1), Some(1e-300), None, Some(2.0), Some(3.0)]);
    }
}
