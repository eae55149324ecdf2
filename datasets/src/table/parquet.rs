//! Rows of a Parquet table.

use super::MAX_LINE_BYTES;
use crate::error::{Error, Result};
use crate::lines::Lines;
use polars::prelude::{
    DataFrame, JsonFormat, JsonReader, JsonWriter, ParquetReader, ParquetWriter, PolarsResult, SerReader, SerWriter,
};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many rows are decoded at a time.
pub(super) const CHUNK: usize = 8192;

/// Reads a table part by part.
pub(super) struct ParquetRows {
    path: PathBuf,
    /// The content, where it did not come from a file.
    bytes: Option<Arc<[u8]>>,
    total: usize,
    next: usize,
    /// Numbers of rows, from 1, and the rows as JSON.
    rows: VecDeque<(u64, String)>,
}

impl ParquetRows {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::new(path, None)
    }

    pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::new(path, Some(bytes.into()))
    }

    fn new(path: &Path, bytes: Option<Arc<[u8]>>) -> Result<Self> {
        let mut table = Self { path: path.to_path_buf(), bytes, total: 0, next: 0, rows: VecDeque::new() };
        table.total = match &table.bytes {
            Some(bytes) => guard(path, || ParquetReader::new(Cursor::new(bytes.clone())).num_rows())?,
            None => {
                let file = File::open(path).map_err(Error::io(path, "open"))?;
                guard(path, || ParquetReader::new(file).num_rows())?
            }
        };
        Ok(table)
    }

    /// Rows taken so far.
    pub(super) fn taken(&self) -> u64 {
        (self.next.min(self.total) - self.rows.len()) as u64
    }

    pub(super) fn next_text(&mut self) -> Result<Option<(u64, String)>> {
        if self.rows.is_empty() && self.next < self.total {
            self.decode()?;
        }
        Ok(self.rows.pop_front())
    }

    fn decode(&mut self) -> Result<()> {
        let slice = Some((self.next, CHUNK.min(self.total - self.next)));
        let frame = match &self.bytes {
            Some(bytes) => {
                guard(&self.path, || ParquetReader::new(Cursor::new(bytes.clone())).with_slice(slice).finish())
            }
            None => {
                let file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
                guard(&self.path, || ParquetReader::new(file).with_slice(slice).finish())
            }
        };
        // After an error there is nothing to go on with.
        let first = std::mem::replace(&mut self.next, self.total);
        let mut frame = frame?;
        let mut json = Vec::new();
        guard(&self.path, || JsonWriter::new(&mut json).with_json_format(JsonFormat::JsonLines).finish(&mut frame))?;
        let mut lines = Lines::new(json.as_slice(), &self.path, MAX_LINE_BYTES);
        while let Some((line, text)) = lines.next_line()? {
            self.rows.push_back((first as u64 + line, text.to_owned()));
        }
        self.next = first + CHUNK;
        Ok(())
    }
}

/// Writes rows, given as JSON lines, as one table; the types of the columns are found from all rows.
pub(super) fn write_json_lines(path: &Path, json: &[u8], output: impl Write) -> Result<()> {
    let mut frame: DataFrame = if json.is_empty() {
        DataFrame::empty()
    } else {
        guard(path, || {
            JsonReader::new(Cursor::new(json)).with_json_format(JsonFormat::JsonLines).infer_schema_len(None).finish()
        })?
    };
    guard(path, || ParquetWriter::new(output).finish(&mut frame)).map(|_| ())
}

/// Runs code of the Parquet library: it may panic on damaged files.
pub(super) fn guard<T>(path: &Path, work: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    let detail = match burn_models::shield(work) {
        Some(Ok(value)) => return Ok(value),
        Some(Err(error)) => error.to_string(),
        None => "the table is damaged, or has a form that cannot be read".to_owned(),
    };
    Err(Error::Parquet { path: path.to_path_buf(), detail })
}
