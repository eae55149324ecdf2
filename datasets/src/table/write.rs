//! Writing rows and embeddings.

use super::parquet::{guard, write_json_lines};
use super::{is_parquet_name, is_standard_stream};
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use polars::io::parquet::write::BatchedWriter;
use polars::prelude::{
    Column, DataFrame, DataType, Field, Float32Type, IntoSeries, ListBuilderTrait, ListPrimitiveChunkedBuilder,
    NamedFrom, ParquetWriter, Schema, Series,
};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Stdout, Write};
use std::path::{Path, PathBuf};

/// Where lines go.
enum LineOutput {
    File(AtomicFile),
    Compressed(Box<zstd::stream::write::Encoder<'static, AtomicFile>>),
    Stdout(BufWriter<Stdout>),
}

/// As the `zstd` program compresses where nothing is said.
const LEVEL: i32 = 3;

impl LineOutput {
    fn create(path: &Path) -> Result<Self> {
        if is_standard_stream(path) {
            return Ok(Self::Stdout(BufWriter::new(std::io::stdout())));
        }
        let file = AtomicFile::create(path)?;
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst")) {
            let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL).map_err(Error::io(path, "write"))?;
            encoder.include_checksum(true).map_err(Error::io(path, "write"))?;
            return Ok(Self::Compressed(Box::new(encoder)));
        }
        Ok(Self::File(file))
    }

    fn write(&mut self, path: &Path, row: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(row).map_err(|e| Error::io(path, "write")(e.into()))?;
        line.push(b'\n');
        match self {
            Self::File(file) => file.write_all(&line),
            Self::Compressed(encoder) => encoder.write_all(&line),
            Self::Stdout(stdout) => stdout.write_all(&line),
        }
        .map_err(Error::io(path, "write"))
    }

    fn finish(self, path: &Path) -> Result<()> {
        match self {
            Self::File(file) => file.commit(),
            Self::Compressed(encoder) => encoder.finish().map_err(Error::io(path, "write"))?.commit(),
            Self::Stdout(mut stdout) => stdout.flush().map_err(Error::io(path, "write")),
        }
    }
}

/// Writes rows as JSON lines or, to a name that ends in `.parquet`, as a table.
///
/// A table needs columns of one type each, and is held in memory until the end.
pub struct RowWriter {
    path: PathBuf,
    output: RowOutput,
}

impl std::fmt::Debug for RowWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

enum RowOutput {
    Lines(LineOutput),
    Table { file: AtomicFile, json: Vec<u8> },
}

impl RowWriter {
    /// Begins a file, or the standard output for `-`.
    pub fn create(path: &Path) -> Result<Self> {
        let output = if is_parquet_name(path) {
            RowOutput::Table { file: AtomicFile::create(path)?, json: Vec::new() }
        } else {
            RowOutput::Lines(LineOutput::create(path)?)
        };
        Ok(Self { path: path.to_path_buf(), output })
    }

    /// Adds a row: anything that serialises to a JSON object.
    pub fn write(&mut self, row: &impl Serialize) -> Result<()> {
        match &mut self.output {
            RowOutput::Lines(lines) => lines.write(&self.path, row),
            RowOutput::Table { json, .. } => {
                serde_json::to_writer(&mut *json, row).map_err(|e| Error::io(&self.path, "write")(e.into()))?;
                json.push(b'\n');
                Ok(())
            }
        }
    }

    /// Puts the finished file in its place. Dropped without this, nothing is left of a file.
    pub fn finish(self) -> Result<()> {
        match self.output {
            RowOutput::Lines(lines) => lines.finish(&self.path),
            RowOutput::Table { mut file, json } => {
                write_json_lines(&self.path, &json, &mut file)?;
                file.commit()
            }
        }
    }
}

/// Writes texts with their embeddings: rows of `text` (string) and `embedding` (list of f32).
pub struct EmbeddingWriter {
    path: PathBuf,
    dim: usize,
    output: EmbeddingOutput,
}

enum EmbeddingOutput {
    Lines(LineOutput),
    // The writer goes first: it must be gone before the file that it writes to is removed.
    Table { writer: Box<BatchedWriter<BufWriter<File>>>, file: AtomicFile },
}

impl std::fmt::Debug for EmbeddingWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddingWriter").field("path", &self.path).field("dim", &self.dim).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct EmbeddingRow<'a> {
    text: &'a str,
    embedding: &'a [f32],
}

impl EmbeddingWriter {
    /// Begins a file, or the standard output for `-`; vectors have `dim` numbers.
    pub fn create(path: &Path, dim: usize) -> Result<Self> {
        if dim == 0 {
            return Err(Error::setting("dim", "at least 1", 0));
        }
        let output = if is_parquet_name(path) {
            let file = AtomicFile::create(path)?;
            let handle = BufWriter::new(file.handle()?);
            let list = DataType::List(Box::new(DataType::Float32));
            let schema =
                Schema::from_iter([Field::new("text".into(), DataType::String), Field::new("embedding".into(), list)]);
            let writer = Box::new(guard(path, || ParquetWriter::new(handle).batched(&schema))?);
            EmbeddingOutput::Table { writer, file }
        } else {
            EmbeddingOutput::Lines(LineOutput::create(path)?)
        };
        Ok(Self { path: path.to_path_buf(), dim, output })
    }

    /// Adds texts and their vectors `[n, dim]`, row-major. Many at a time make a compact table.
    ///
    /// # Errors
    /// Fails on a wrong number of values.
    pub fn write<S: AsRef<str>>(&mut self, texts: &[S], rows: &[f32]) -> Result<()> {
        if rows.len() != texts.len() * self.dim {
            let expected = format!("{} × {} values", texts.len(), self.dim);
            return Err(Error::setting("embeddings", expected, rows.len()));
        }
        let rows = rows.chunks_exact(self.dim);
        match &mut self.output {
            EmbeddingOutput::Lines(lines) => {
                for (text, embedding) in texts.iter().zip(rows) {
                    lines.write(&self.path, &EmbeddingRow { text: text.as_ref(), embedding })?;
                }
                Ok(())
            }
            EmbeddingOutput::Table { writer, .. } if !texts.is_empty() => {
                let mut lists = ListPrimitiveChunkedBuilder::<Float32Type>::new(
                    "embedding".into(),
                    texts.len(),
                    texts.len() * self.dim,
                    DataType::Float32,
                );
                rows.for_each(|row| lists.append_slice(row));
                let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
                let columns: Vec<Column> =
                    vec![Series::new("text".into(), texts).into(), lists.finish().into_series().into()];
                guard(&self.path, || {
                    let frame = DataFrame::new_infer_height(columns)?;
                    writer.write_batch(&frame)
                })
            }
            EmbeddingOutput::Table { .. } => Ok(()),
        }
    }

    /// Puts the finished file in its place. Dropped without this, nothing is left of a file.
    pub fn finish(self) -> Result<()> {
        match self.output {
            EmbeddingOutput::Lines(lines) => lines.finish(&self.path),
            EmbeddingOutput::Table { writer, file } => {
                // Writes the footer and flushes.
                guard(&self.path, || writer.finish())?;
                file.commit()
            }
        }
    }
}
