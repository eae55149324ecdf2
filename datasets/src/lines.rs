//! Lines of a text file, with their numbers, a limit on their length and checks that they are UTF-8.

use crate::error::{Error, RecordError, Result};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Stdin};
use std::path::{Path, PathBuf};

/// Reads lines one by one into one buffer.
///
/// A line ends at `\n` alone: other Unicode line separators belong to the text. A `\r` before it and a byte order mark
/// at the head of the file are dropped. Lines that hold nothing but white space are skipped (and counted in the
/// numbers of the lines after them).
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    path: PathBuf,
    limit: usize,
    number: u64,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

/// Lines of a file, plain or compressed.
pub type FileLines = Lines<Box<dyn BufRead + Send>>;

/// How a file begins that zstd has compressed.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// Lines of the standard input.
pub type StdinLines = Lines<BufReader<Stdin>>;

impl FileLines {
    /// Opens a file; one that zstd has compressed, as its first bytes say, is read as its text. `limit` is the largest number of
    /// bytes in a line of the text, so that a small file cannot fill the memory.
    pub fn open(path: &Path, limit: usize) -> Result<Self> {
        Ok(Self::new(reader(path)?, path, limit))
    }
}

/// The text of a file, whether zstd has compressed it or not.
pub(crate) fn reader(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    unpacked(BufReader::with_capacity(1 << 18, file)).map_err(Error::io(path, "read"))
}

/// The text behind bytes that zstd may have compressed.
pub(crate) fn unpacked(mut reader: impl BufRead + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    if !reader.fill_buf()?.starts_with(&ZSTD_MAGIC) {
        return Ok(Box::new(reader));
    }
    let decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
    Ok(Box::new(BufReader::with_capacity(1 << 18, Unpacking(decoder))))
}

/// Says of a fault in compressed bytes what it is.
struct Unpacking<R>(R);

impl<R: Read> Read for Unpacking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, format!("its compressed text is damaged or cut off ({error})")),
        })
    }
}

impl StdinLines {
    /// Reads the standard input, called `-` in messages.
    pub fn stdin(limit: usize) -> Self {
        Self::new(BufReader::new(std::io::stdin()), Path::new("-"), limit)
    }
}

impl<R: BufRead> Lines<R> {
    /// Reads from `reader`; `path` is its name in messages.
    pub fn new(reader: R, path: &Path, limit: usize) -> Self {
        let hasher = blake3::Hasher::new();
        Self { reader, path: path.to_path_buf(), limit, number: 0, buffer: Vec::new(), hasher }
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of lines taken so far, blank ones included.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The BLAKE3 hash of all bytes of text taken so far: after the last line, that of the file before it was compressed.
    pub fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// The next line that is not blank, with its number from 1; none at the end of the file.
    pub fn next_line(&mut self) -> Result<Option<(u64, &str)>> {
        loop {
            if !self.fill()? {
                return Ok(None);
            }
            if !self.buffer.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        match std::str::from_utf8(&self.buffer) {
            Ok(line) => Ok(Some((self.number, line))),
            Err(error) => {
                let at = error.valid_up_to();
                Err(self.problem(
                    "text in UTF-8",
                    format!("the byte 0x{:02X} at byte {} of the line", self.buffer.get(at).unwrap_or(&0), at + 1),
                    "save the file as UTF-8",
                ))
            }
        }
    }

    /// Takes one line, blank or not; false at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        self.buffer.clear();
        // One byte more than allowed: for the newline, or to see that the line is too long.
        let mut limited = self.reader.by_ref().take(self.limit as u64 + 1);
        match limited.read_until(b'\n', &mut self.buffer) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::Other) => {
                self.number += 1;
                return Err(self.problem("a line that can be read", error.to_string(), "copy the file again"));
            }
            Err(error) => return Err(Error::io(&self.path, "read")(error)),
        }
        self.hasher.update(&self.buffer);
        self.number += 1;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        } else if self.buffer.len() > self.limit {
            return Err(self.problem(
                format!("a line of at most {} bytes", self.limit),
                "a longer one".to_owned(),
                "one record a line; raise the limit if the record is meant to be so long",
            ));
        }
        if self.number == 1 && self.buffer.starts_with(b"\xEF\xBB\xBF") {
            self.buffer.drain(..3);
        }
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        Ok(true)
    }

    fn problem(&self, expected: impl Into<String>, found: String, remedy: &str) -> Error {
        let (path, line) = (self.path.clone(), self.number);
        let key = String::new();
        RecordError { path, line, column: None, key, expected: expected.into(), found, remedy: remedy.to_owned() }
            .into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(bytes: &[u8], limit: usize) -> Result<Vec<(u64, String)>> {
        // A tiny buffer makes lines cross its borders.
        let mut lines = Lines::new(BufReader::with_capacity(3, bytes), Path::new("f.jsonl"), limit);
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next_line()? {
            found.push((number, line.to_owned()));
        }
        assert_eq!(lines.hash(), blake3::hash(bytes));
        Ok(found)
    }

    #[test]
    fn splits_at_newlines_only() {
        let text = "\u{FEFF}a\u{2028}b\r\n\n  \nc\u{85}d\x0Be\nlast";
        let want = vec![(1, "a\u{2028}b".to_owned()), (4, "c\u{85}d\x0Be".to_owned()), (5, "last".to_owned())];
        assert_eq!(read(text.as_bytes(), 100).unwrap(), want);
        assert_eq!(read(b"", 10).unwrap(), vec![]);
        assert_eq!(read(b"x\n", 1).unwrap(), vec![(1, "x".to_owned())]);
    }

    #[test]
    fn compressed_files_are_read_as_their_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.jsonl.zst");
        let read = |limit| {
            let mut lines = FileLines::open(&path, limit).unwrap();
            let mut found = Vec::new();
            while let Some((number, line)) = lines.next_line()? {
                found.push((number, line.to_owned()));
            }
            Ok::<_, Error>(found)
        };
        // Two frames behind each other, as parallel compressors write them.
        let mut packed = zstd::encode_all(&b"a\n\nb"[..], 3).unwrap();
        packed.extend(zstd::encode_all(&b"c\nd\n"[..], 3).unwrap());
        std::fs::write(&path, &packed).unwrap();
        assert_eq!(read(100).unwrap(), [(1, "a".to_owned()), (3, "bc".to_owned()), (4, "d".to_owned())]);
        // A small file of one long line.
        std::fs::write(&path, zstd::encode_all(&vec![b'x'; 1 << 24][..], 3).unwrap()).unwrap();
        let error = read(1000).unwrap_err().to_string();
        assert!(error.contains("f.jsonl.zst:1: expected a line of at most 1000 bytes"), "{error}");
        let text: Vec<u8> =
            (0..9999).flat_map(|n: u32| format!("{}\n", blake3::hash(&n.to_le_bytes())).into_bytes()).collect();
        let whole = zstd::encode_all(&text[..], 1).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = read(1000).unwrap_err().to_string();
        assert!(error.contains("f.jsonl.zst:") && error.contains("damaged or cut off"), "{error}");
        let mut wrong = whole.clone();
        wrong[6..40].fill(0xFF);
        std::fs::write(&path, &wrong).unwrap();
        let error = read(1000).unwrap_err().to_string();
        assert!(error.contains("f.jsonl.zst") && error.contains("damaged"), "{error}");
    }

    #[test]
    fn limits_and_encoding_name_the_line() {
        let error = read(b"ok\n12345\n", 4).unwrap_err().to_string();
        assert!(error.starts_with("f.jsonl:2: expected a line of at most 4 bytes"), "{error}");
        let error = read(b"ok\nab\xFFc\n", 10).unwrap_err().to_string();
        assert!(error.contains("f.jsonl:2: expected text in UTF-8, found the byte 0xFF at byte 3"), "{error}");
    }
}
