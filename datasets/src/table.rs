//! Rows in and out of commands: JSON lines or Parquet, files or the standard streams.
//!
//! The name `-` means the standard input or output. What a file holds is seen from its first bytes, not from its name;
//! what is written follows the name: `.parquet` and `.pq` give Parquet, everything else JSON lines, `.zst` compressed ones. Output files appear
//! under their name only when they are complete.

mod parquet;
mod write;

pub use write::{EmbeddingWriter, RowWriter};

use crate::error::{Error, Result};
use crate::json::parse_object;
use crate::lines::Lines;
use parquet::ParquetRows;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The longest line of a file of rows, in bytes.
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

/// Reads rows one by one.
pub struct RowReader {
    path: PathBuf,
    source: Source,
}

enum Source {
    Lines(Box<Lines<Box<dyn BufRead + Send>>>),
    Parquet(Box<ParquetRows>),
}

impl std::fmt::Debug for RowReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Opens a file of rows, or the standard input for `-`.
pub fn read_rows(path: &Path) -> Result<RowReader> {
    let mut reader: Box<dyn BufRead + Send> = if is_standard_stream(path) {
        crate::lines::unpacked(BufReader::new(std::io::stdin())).map_err(Error::io(path, "read"))?
    } else {
        crate::lines::reader(path)?
    };
    let is_parquet = reader.fill_buf().map_err(Error::io(path, "read"))?.starts_with(PARQUET_MAGIC);
    let source = if !is_parquet {
        Source::Lines(Box::new(Lines::new(reader, path, MAX_LINE_BYTES)))
    } else if is_standard_stream(path) {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
        Source::Parquet(Box::new(ParquetRows::from_bytes(path, bytes)?))
    } else {
        Source::Parquet(Box::new(ParquetRows::open(path)?))
    };
    Ok(RowReader { path: path.to_path_buf(), source })
}

impl RowReader {
    /// The file's name; `-` for the standard input.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Iterator for RowReader {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Parquet(rows) => rows.next_row().transpose(),
            Source::Lines(lines) => match lines.next_line() {
                Ok(Some((line, text))) => Some(parse_object(&self.path, line, text).map(|map| Row { line, map })),
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            },
        }
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
