//! Records one by one from any container.

use super::format::Layout;
use super::{ChatRecord, MAX_LINE_BYTES, Place};
use crate::error::Result;
use crate::table::{RowReader, RowText};
use serde_json::Value;
use std::path::Path;

/// Reads the conversations of a file.
#[derive(Debug)]
pub struct ChatReader {
    rows: RowReader,
    layout: Layout,
    detected: bool,
}

/// A record that has been read and not yet understood: that can be done elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    row: RowText,
    is_table: bool,
}

impl ChatReader {
    /// Opens a file of any format.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::with(path, Layout::default())
    }

    /// Opens a file whose layout is known, or of which it is known which keys it has.
    pub(crate) fn with(path: &Path, layout: Layout) -> Result<Self> {
        Ok(Self { rows: RowReader::open(path, MAX_LINE_BYTES)?, layout, detected: false })
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        self.rows.path()
    }

    /// The number of lines, or rows of a table, taken so far; blank lines included.
    pub fn lines(&self) -> u64 {
        self.rows.lines()
    }

    /// The form of the records: once one was read, as it is found.
    pub fn format(&self) -> super::ChatFormat {
        self.layout.format
    }

    /// The layout: once a record was read, with its format.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the file, not a record, is at fault.
    pub(crate) fn is_broken(&self) -> bool {
        self.rows.is_broken()
    }

    /// The next record; none after the last one, and none after a fault of the file.
    ///
    /// # Errors
    /// A file that cannot be read on, and a first record of no known format. What else is wrong with a record is found when it is
    /// understood.
    pub(crate) fn next_record(&mut self) -> Result<Option<Record>> {
        let Some(row) = self.rows.next_text()? else { return Ok(None) };
        let record = Record { row, is_table: self.rows.is_table() };
        // What cannot be parsed does not tell its format: a later one does.
        if !self.detected
            && let Ok(map) = record.map(self.rows.path())
        {
            let at = Place { path: self.rows.path(), line: record.row.line };
            self.layout = self.layout.detect(at, &map).map_err(|error| record.row.within(error))?;
            self.detected = true;
        }
        Ok(Some(record))
    }
}

impl Iterator for ChatReader {
    type Item = Result<ChatRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose().map(|record| record?.chat(self.rows.path(), &self.layout))
    }
}

impl Record {
    /// The conversation; `path` is its file's name in messages.
    ///
    /// # Errors
    /// What is wrong with it: file, line, key.
    pub(crate) fn chat(&self, path: &Path, layout: &Layout) -> Result<ChatRecord> {
        let map = self.map(path)?;
        ChatRecord::of(path, self.row.line, map, layout).map_err(|error| self.row.within(error))
    }

    /// The line, or the row of a table, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.row.line
    }

    /// Its size as JSON.
    pub(crate) fn bytes(&self) -> usize {
        self.row.text.len()
    }

    /// Its keys and values; an empty cell of a table is an absent key.
    pub(super) fn map(&self, path: &Path) -> Result<serde_json::Map<String, Value>> {
        let mut map = self.row.parse(path)?;
        if self.is_table {
            map.retain(|_, value| filled(value));
        }
        Ok(map)
    }
}

/// Takes nulls out of objects, and tells whether the value is one itself.
fn filled(value: &mut Value) -> bool {
    match value {
        Value::Null => return false,
        Value::Object(map) => map.retain(|_, value| filled(value)),
        Value::Array(items) => items.iter_mut().for_each(|item| {
            filled(item);
        }),
        _ => {}
    }
    true
}
