//! The elements of a JSON array, one by one: a file of any size needs the memory of its longest element.

use super::RowText;
use crate::error::{Error, RecordError, Result};
use std::io::{BufRead, ErrorKind};
use std::path::{Path, PathBuf};

/// Cuts a text `[…, …]` at the commas of the outermost list.
pub(super) struct ArrayRows {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    limit: usize,
    /// The line of the next byte, from 1, and the bytes before it in that line.
    line: u64,
    column: usize,
    /// The number of the next element, from 0.
    element: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Start,
    Inside,
    End,
}

/// Whether a text begins with `[`, as its first bytes show.
pub(super) fn is_array(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    head.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

impl ArrayRows {
    /// `limit` is the largest number of bytes of an element.
    pub(super) fn new(reader: Box<dyn BufRead + Send>, path: &Path, limit: usize) -> Self {
        Self { reader, path: path.to_path_buf(), limit, line: 1, column: 0, element: 0, state: State::Start }
    }

    /// Lines taken so far.
    pub(super) fn lines(&self) -> u64 {
        self.line
    }

    /// The next element with its place; none after the last.
    pub(super) fn next_text(&mut self) -> Result<Option<RowText>> {
        match self.state {
            State::End => return Ok(None),
            State::Start => {
                self.skip(|byte| byte.is_ascii_whitespace() || b"\xEF\xBB\xBF".contains(&byte))?;
                self.take()?;
                self.state = State::Inside;
            }
            State::Inside => {}
        }
        self.skip(|byte| byte.is_ascii_whitespace())?;
        let (line, column, element) = (self.line, self.column, self.element);
        let bytes = self.element()?;
        let last = match self.take()? {
            Some(b',') => false,
            Some(_) => true,
            None => {
                let expected = "`]` at the end of the list";
                return Err(self.problem(expected, "the end of the file", "the file is cut off: copy it again"));
            }
        };
        if last {
            self.state = State::End;
            self.skip(|byte| byte.is_ascii_whitespace())?;
            if self.peek()?.is_some() {
                return Err(self.problem("the end of the file after the list", "more text", "one list a file"));
            }
            if bytes.is_empty() && element == 0 {
                return Ok(None);
            }
        }
        self.element += 1;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let found = format!("the byte 0x{:02X}", error.as_bytes().get(at).unwrap_or(&0));
            self.problem("text in UTF-8", &found, "save the file as UTF-8")
        })?;
        if text.is_empty() {
            let expected = format!("element {element} of the list");
            return Err(self.problem(&expected, "nothing between two commas", "remove a comma"));
        }
        Ok(Some(RowText { line, column, element: Some(element), text }))
    }

    /// The bytes up to the comma or bracket that ends an element.
    fn element(&mut self) -> Result<Vec<u8>> {
        let (mut found, mut depth, mut quoted, mut escaped) = (Vec::new(), 0usize, false, false);
        loop {
            let buffer = fill(&mut self.reader, &self.path, self.line)?;
            let mut used = 0;
            let mut ended = buffer.is_empty();
            for &byte in buffer {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    _ if quoted => {}
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth > 0 => depth -= 1,
                    b',' | b']' if depth == 0 => {
                        ended = true;
                        break;
                    }
                    _ => {}
                }
                used += 1;
            }
            let part = &buffer[..used];
            if found.len() + used > self.limit {
                let expected = format!("an element of at most {} bytes", self.limit);
                return Err(self.problem(&expected, "a longer one", "is a quotation mark missing?"));
            }
            found.extend_from_slice(part);
            self.line += part.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.column = match part.iter().rposition(|byte| *byte == b'\n') {
                Some(at) => used - at - 1,
                None => self.column + used,
            };
            self.reader.consume(used);
            if ended {
                break;
            }
        }
        found.truncate(found.trim_ascii_end().len());
        Ok(found)
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        Ok(fill(&mut self.reader, &self.path, self.line)?.first().copied())
    }

    /// The next byte.
    fn take(&mut self) -> Result<Option<u8>> {
        let next = self.peek()?;
        if let Some(byte) = next {
            self.reader.consume(1);
            (self.line, self.column) = if byte == b'\n' { (self.line + 1, 0) } else { (self.line, self.column + 1) };
        }
        Ok(next)
    }

    fn skip(&mut self, passed_over: impl Fn(u8) -> bool) -> Result<()> {
        while self.peek()?.is_some_and(&passed_over) {
            self.take()?;
        }
        Ok(())
    }

    fn problem(&self, expected: &str, found: &str, remedy: &str) -> Error {
        problem(&self.path, self.line, expected, found, remedy)
    }
}

fn problem(path: &Path, line: u64, expected: &str, found: &str, remedy: &str) -> Error {
    let (path, key) = (path.to_path_buf(), String::new());
    let (expected, found, remedy) = (expected.to_owned(), found.to_owned(), remedy.to_owned());
    RecordError { path, line, column: None, key, expected, found, remedy }.into()
}

fn fill<'a>(reader: &'a mut Box<dyn BufRead + Send>, path: &Path, line: u64) -> Result<&'a [u8]> {
    reader.fill_buf().map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::Other => {
            problem(path, line, "text that can be read", &error.to_string(), "copy the file again")
        }
        _ => Error::io(path, "read")(error),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::BufReader;

    fn read(text: &'static [u8], limit: usize) -> Result<Vec<(u64, usize, String)>> {
        // A tiny buffer makes elements cross its borders.
        let reader = Box::new(BufReader::with_capacity(3, text));
        let mut rows = ArrayRows::new(reader, Path::new("f.json"), limit);
        let mut found = Vec::new();
        while let Some(row) = rows.next_text()? {
            assert_eq!(row.element, Some(found.len() as u64));
            found.push((row.line, row.column, row.text));
        }
        assert!(rows.next_text()?.is_none());
        Ok(found)
    }

    #[test]
    fn elements_and_their_places() {
        let found = read(b"\xEF\xBB\xBF [ {\"a\": \"],\\\"{\"},\n\n  {\"b\": [1,\n 2]} , 3 ]\n", 100).unwrap();
        let want = [(1, 6, "{\"a\": \"],\\\"{\"}"), (3, 2, "{\"b\": [1,\n 2]}"), (4, 7, "3")];
        assert_eq!(found, want.map(|(line, column, text)| (line, column, text.to_owned())));
        assert!(read(b"[]", 9).unwrap().is_empty() && read(b" [\n ] ", 9).unwrap().is_empty());
        assert!(is_array(b" \n[1") && is_array(b"\xEF\xBB\xBF[") && !is_array(b"{\"a\": []}") && !is_array(b" "));
    }

    #[test]
    fn broken_lists() {
        let error = |text: &'static [u8]| read(text, 8).unwrap_err().to_string();
        assert!(error(b"[1,\n2").contains("f.json:2: expected `]` at the end of the list, found the end of the file"));
        assert!(error(b"[1,\n\n,2]").contains("f.json:3: expected element 1 of the list, found nothing between"));
        assert!(error(b"[1] 2").contains("f.json:1: expected the end of the file after the list"));
        assert!(error(b"[1, 123456789]").contains("an element of at most 8 bytes"));
        assert!(error(b"[1,\n\"\xFF\"]").contains("f.json:2: expected text in UTF-8, found the byte 0xFF"));
        assert!(error(b"[\"abc").contains("cut off"));
    }
}
