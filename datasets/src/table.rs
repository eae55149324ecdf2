//! Rows in and out of commands: JSON lines, a JSON array or Parquet, files or the standard streams.
//!
//! The name `-` means the standard input or output. What a file holds is seen from its first bytes, not from its name, and
//! either sort of JSON may be compressed;
//! what is written follows the name: `.parquet` and `.pq` give Parquet, everything else JSON lines, `.zst` compressed ones. Output files appear
//! under their name only when they are complete.

mod array;
mod parquet;
mod write;

pub use write::{EmbeddingWriter, RowWriter};

use crate::error::{Error, Result};
use crate::json::parse_object;
use crate::lines::Lines;
use array::ArrayRows;
use parquet::ParquetRows;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The longest line or element of a file of rows, in bytes.
pub const MAX_LINE_BYTES: usize = 256 << 20;

/// How a Parquet file begins.
const PARQUET_MAGIC: &[u8] = b"PAR1";

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The line of the file, or the row of the table, from 1.
    pub line: u64,
    /// Its keys and values. An empty cell of a Parquet table is an absent key.
    pub map: Map<String, Value>,
}

/// A row as text, with its place.
#[derive(Debug, Clone)]
pub(crate) struct RowText {
    /// The line, or the row of a table, from 1.
    pub(crate) line: u64,
    /// The bytes before it in its line.
    column: usize,
    /// Its number in a JSON array, from 0.
    element: Option<u64>,
    pub(crate) text: String,
}

/// What is asked of every line.
const OBJECT: &str = "one JSON object a line";

impl RowText {
    /// The keys and values of the row.
    pub(crate) fn parse(&self, path: &Path) -> Result<Map<String, Value>> {
        parse_object(path, self.line, &self.text).map_err(|error| match error {
            Error::Record(mut record) => {
                if record.line == self.line {
                    record.column = record.column.map(|column| column + self.column);
                }
                if self.element.is_some() && record.expected == OBJECT {
                    record.expected = "a JSON object".to_owned();
                }
                self.within(Error::Record(record))
            }
            other => other,
        })
    }

    /// The same error with the number of the element before its key, as in `[17].messages`.
    pub(crate) fn within(&self, error: Error) -> Error {
        match (error, self.element) {
            (Error::Record(mut record), Some(element)) => {
                let dot = if record.key.is_empty() || record.key.starts_with('[') { "" } else { "." };
                record.key = format!("[{element}]{dot}{}", record.key);
                Error::Record(record)
            }
            (error, _) => error,
        }
    }
}

/// Reads rows one by one.
pub struct RowReader {
    path: PathBuf,
    source: Source,
    /// After a fault of the file there is nothing to go on with.
    failed: bool,
}

enum Source {
    Lines(Box<Lines<Box<dyn BufRead + Send>>>),
    Array(Box<ArrayRows>),
    Parquet(Box<ParquetRows>),
}

impl std::fmt::Debug for RowReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Opens a file of rows, or the standard input for `-`.
pub fn read_rows(path: &Path) -> Result<RowReader> {
    RowReader::open(path, MAX_LINE_BYTES)
}

impl RowReader {
    /// Opens a file, or the standard input for `-`; a line or element of JSON may have so many bytes.
    pub(crate) fn open(path: &Path, limit: usize) -> Result<Self> {
        let mut reader: Box<dyn BufRead + Send> = if is_standard_stream(path) {
            crate::lines::unpacked(BufReader::new(std::io::stdin())).map_err(Error::io(path, "read"))?
        } else {
            crate::lines::reader(path)?
        };
        let head = match reader.fill_buf() {
            Ok(head) => head,
            // Text that cannot be unpacked: the line says so.
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::Other) => &[],
            Err(error) => return Err(Error::io(path, "read")(error)),
        };
        let source = if head.starts_with(PARQUET_MAGIC) {
            Source::Parquet(Box::new(if is_standard_stream(path) {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
                ParquetRows::from_bytes(path, bytes)?
            } else {
                ParquetRows::open(path)?
            }))
        } else if array::is_array(head) {
            Source::Array(Box::new(ArrayRows::new(reader, path, limit)))
        } else {
            Source::Lines(Box::new(Lines::new(reader, path, limit)))
        };
        Ok(Self { path: path.to_path_buf(), source, failed: false })
    }

    /// The file's name; `-` for the standard input.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether empty cells are nulls.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self.source, Source::Parquet(_))
    }

    /// Whether it ended with a fault of the file.
    pub(crate) fn is_broken(&self) -> bool {
        self.failed
    }

    /// The number of lines, or rows of a table, taken so far.
    pub(crate) fn lines(&self) -> u64 {
        match &self.source {
            Source::Lines(lines) => lines.number(),
            Source::Array(array) => array.lines(),
            Source::Parquet(rows) => rows.taken(),
        }
    }

    /// The next row as text; none after the last one, and none after a fault of the file.
    pub(crate) fn next_text(&mut self) -> Result<Option<RowText>> {
        if self.failed {
            return Ok(None);
        }
        let plain = |line, text: String| RowText { line, column: 0, element: None, text };
        let next = match &mut self.source {
            Source::Parquet(rows) => rows.next_text().map(|row| row.map(|(line, text)| plain(line, text))),
            Source::Array(array) => array.next_text(),
            Source::Lines(lines) => lines.next_line().map(|row| row.map(|(line, text)| plain(line, text.to_owned()))),
        };
        self.failed = next.is_err();
        next
    }
}

impl Iterator for RowReader {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match self.next_text() {
            Ok(row) => row?,
            Err(error) => return Some(Err(error)),
        };
        Some(row.parse(&self.path).map(|mut map| {
            if self.is_table() {
                map.retain(|_, value| !value.is_null());
            }
            Row { line: row.line, map }
        }))
    }
}

/// Whether a name means the standard input or output.
pub fn is_standard_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether a file of this name is to be written as Parquet.
pub fn is_parquet_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| ["parquet", "pq"].iter().any(|name| extension.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use std::fs;

    fn rows(path: &Path) -> Vec<Row> {
        read_rows(path).unwrap().collect::<Result<_>>().unwrap()
    }

    fn sample() -> Vec<Value> {
        vec![
            json!({"text": "a\u{2028}\n中", "n": 1, "x": 0.5, "ok": true, "ids": [1, 2], "messages": [{"role": "user", "content": "q"}]}),
            json!({"text": "", "n": -2, "x": 1e-3, "ok": false, "ids": [], "messages": [{"role": "user", "content": "\"'\\"}]}),
        ]
    }

    #[test]
    fn rows_go_out_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["rows.jsonl", "rows.jsonl.zst", "rows.parquet"] {
            let path = folder.path().join(name);
            let mut writer = RowWriter::create(&path).unwrap();
            for row in sample() {
                writer.write(&row).unwrap();
            }
            assert!(!path.exists());
            writer.finish().unwrap();
            let found = rows(&path);
            assert_eq!(found.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2]);
            assert_eq!(found.into_iter().map(|row| Value::Object(row.map)).collect::<Vec<_>>(), sample(), "{name}");
        }
        assert!(fs::read(folder.path().join("rows.parquet")).unwrap().starts_with(PARQUET_MAGIC));
    }

    #[test]
    fn embeddings_go_out_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["e.jsonl", "e.parquet"] {
            let path = folder.path().join(name);
            let mut writer = EmbeddingWriter::create(&path, 2).unwrap();
            writer.write(&["a", "b"], &[0.1, -2.0, 3.5, f32::MIN_POSITIVE]).unwrap();
            writer.write(&["中\n"], &[1e30, 0.0]).unwrap();
            assert!(writer.write(&["c"], &[1.0]).is_err());
            writer.finish().unwrap();
            let found = rows(&path);
            assert_eq!(found.len(), 3);
            assert_eq!(found[0].map.keys().collect::<Vec<_>>(), ["text", "embedding"]);
            assert_eq!(found[2].map["text"], "中\n");
            let values: Vec<f32> = found
                .iter()
                .flat_map(|row| row.map["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32))
                .collect();
            assert_eq!(values, [0.1, -2.0, 3.5, f32::MIN_POSITIVE, 1e30, 0.0], "{name}");
        }
    }

    #[test]
    fn many_rows_are_read_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("many.parquet");
        let mut writer = RowWriter::create(&path).unwrap();
        let count = parquet::CHUNK + 10;
        (0..count).for_each(|n| writer.write(&json!({"n": n, "text": n.to_string()})).unwrap());
        writer.finish().unwrap();
        let found = rows(&path);
        assert_eq!(found.len(), count);
        for (n, row) in found.iter().enumerate() {
            assert_eq!((row.line, &row.map["text"]), (n as u64 + 1, &Value::from(n.to_string())));
        }
    }

    #[test]
    fn empty_cells_are_absent_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let mut writer = RowWriter::create(&path).unwrap();
        writer.write(&json!({"prompt": "a"})).unwrap();
        writer.write(&json!({"input_ids": [3]})).unwrap();
        writer.finish().unwrap();
        let found: Vec<Value> = rows(&path).into_iter().map(|row| Value::Object(row.map)).collect();
        assert_eq!(found, [json!({"prompt": "a"}), json!({"input_ids": [3]})]);
    }

    #[test]
    fn nothing_is_left_of_an_abandoned_file() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "a.parquet"] {
            let mut writer = RowWriter::create(&folder.path().join(name)).unwrap();
            writer.write(&json!({"a": 1})).unwrap();
            drop(writer);
            let mut writer = EmbeddingWriter::create(&folder.path().join(name), 1).unwrap();
            writer.write(&["a"], &[1.0]).unwrap();
            drop(writer);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn damaged_tables_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let mut writer = RowWriter::create(&path).unwrap();
        sample().iter().for_each(|row| writer.write(row).unwrap());
        writer.finish().unwrap();
        let good = fs::read(&path).unwrap();
        let read = || read_rows(&path).and_then(|rows| rows.collect::<Result<Vec<_>>>());
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        fs::write(&path, b"PAR1").unwrap();
        assert!(read().is_err());
        for length in (4..good.len()).step_by(7) {
            fs::write(&path, &good[..length]).unwrap();
            assert!(read().is_err(), "{length} of {} bytes", good.len());
        }
    }

    #[test]
    fn lines_are_strict() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "{\"a\": 1}\n{\"a\": 1, \"a\": 2}\n").unwrap();
        let found: Vec<Result<Row>> = read_rows(&path).unwrap().collect();
        assert!(found[0].is_ok());
        assert!(found[1].as_ref().unwrap_err().to_string().contains("rows.jsonl:2"), "{found:?}");
        assert!(read_rows(&folder.path().join("none")).unwrap_err().to_string().contains("cannot open"));
    }
}
