//! Our own tables on disk: safetensors files that are complete or absent, and that know whether they are damaged.

use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

#[cfg(target_endian = "big")]
compile_error!("the files are little-endian and are copied as they are");

/// The metadata key under which a file says what it is.
const KEY: &str = "hearth";

/// A number that tables hold.
pub(crate) trait Element: bytemuck::Pod {
    const DTYPE: Dtype;
}
impl Element for u8 {
    const DTYPE: Dtype = Dtype::U8;
}
impl Element for u32 {
    const DTYPE: Dtype = Dtype::U32;
}
impl Element for u64 {
    const DTYPE: Dtype = Dtype::U64;
}
impl Element for i64 {
    const DTYPE: Dtype = Dtype::I64;
}
impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    kind: String,
    version: u32,
    blake3: String,
    info: Value,
}

/// Columns to be written to one file.
#[derive(Debug, Default)]
pub(crate) struct Columns<'a> {
    columns: BTreeMap<String, (Dtype, Vec<usize>, &'a [u8])>,
}

impl<'a> Columns<'a> {
    pub(crate) fn add<T: Element>(&mut self, name: impl Into<String>, values: &'a [T]) {
        self.add_shaped(name, vec![values.len()], values);
    }

    /// Adds values in a shape whose product is their number.
    pub(crate) fn add_shaped<T: Element>(&mut self, name: impl Into<String>, shape: Vec<usize>, values: &'a [T]) {
        self.columns.insert(name.into(), (T::DTYPE, shape, bytemuck::cast_slice(values)));
    }

    /// Writes the file; `kind`, `version` and `info` go into its header.
    pub(crate) fn save(&self, path: &Path, kind: &str, version: u32, info: &impl Serialize) -> Result<()> {
        let broken = |detail: String| Error::Damaged { path: path.to_path_buf(), detail, remedy: "this is a bug" };
        let info = serde_json::to_value(info).map_err(|e| broken(e.to_string()))?;
        let columns = self.columns.iter();
        let columns = columns.map(|(name, (dtype, shape, bytes))| (name.as_str(), *dtype, shape.as_slice(), *bytes));
        let header = Header { kind: kind.to_owned(), version, blake3: digest(&info, columns), info };
        let header = serde_json::to_string(&header).map_err(|e| broken(e.to_string()))?;
        let mut views = Vec::new();
        for (name, (dtype, shape, bytes)) in &self.columns {
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| broken(e.to_string()))?;
            views.push((name.as_str(), view));
        }
        let metadata = HashMap::from([(KEY.to_owned(), header)]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| broken(e.to_string()))?;
        let mut file = AtomicFile::create(path)?;
        let written = file.write_all(&bytes);
        written.map_err(Error::io(path, "write"))?;
        file.commit()
    }
}

/// A file of columns, read whole and found undamaged.
#[derive(Debug)]
pub(crate) struct Table<I> {
    path: PathBuf,
    bytes: Vec<u8>,
    columns: BTreeMap<String, (Dtype, Vec<usize>, Range<usize>)>,
    remedy: &'static str,
    pub(crate) info: I,
}

impl<I: DeserializeOwned> Table<I> {
    /// Reads and verifies a file of this kind and version; `remedy` ends the messages of errors.
    pub(crate) fn open(path: &Path, kind: &str, version: u32, remedy: &'static str) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        Self::read(&file, path, kind, version, remedy)
    }

    /// [`Table::open`] for an open file; `path` is its name in messages.
    pub(crate) fn read(mut file: &File, path: &Path, kind: &str, version: u32, remedy: &'static str) -> Result<Self> {
        let damaged = |detail: String| Error::Damaged { path: path.to_path_buf(), detail, remedy };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
        let (header_length, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
        let header = metadata.metadata().as_ref().and_then(|map| map.get(KEY));
        let header = header.ok_or_else(|| damaged("the file was not written by this program".into()))?;
        let plain: Header = serde_json::from_str(header).map_err(|e| damaged(e.to_string()))?;
        if plain.kind != kind || plain.version != version {
            let detail = format!("expected {kind} {version}, found {} {}", plain.kind, plain.version);
            return Err(damaged(detail));
        }
        let data = 8 + header_length;
        let columns: BTreeMap<_, _> = metadata
            .tensors()
            .into_iter()
            .map(|(name, tensor)| {
                let (start, end) = tensor.data_offsets;
                (name, (tensor.dtype, tensor.shape.clone(), data + start..data + end))
            })
            .collect();
        let found = digest(
            &plain.info,
            columns.iter().map(|(name, (dtype, shape, range))| {
                (name.as_str(), *dtype, shape.as_slice(), bytes.get(range.clone()).unwrap_or_default())
            }),
        );
        if found != plain.blake3 {
            return Err(damaged("its checksum does not fit its content".into()));
        }
        let info = serde_json::from_value(plain.info).map_err(|e| damaged(e.to_string()))?;
        Ok(Self { path: path.to_path_buf(), bytes, columns, remedy, info })
    }

    /// The values of a column, in row-major order.
    pub(crate) fn values<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        match self.columns.get(name) {
            Some((dtype, _, range)) if *dtype == T::DTYPE => {
                Ok(bytemuck::pod_collect_to_vec(self.bytes.get(range.clone()).unwrap_or_default()))
            }
            _ => Err(self.damaged(format!("there is no column `{name}` of {:?}", T::DTYPE))),
        }
    }

    /// The shape of a column and the place of its bytes in the file.
    pub(crate) fn place(&self, name: &str) -> Result<(&[usize], Range<usize>)> {
        match self.columns.get(name) {
            Some((_, shape, range)) => Ok((shape, range.clone())),
            None => Err(self.damaged(format!("there is no column `{name}`"))),
        }
    }

    /// Ascending offsets that begin with 0 and end with `total`: the borders of `total` values.
    pub(crate) fn offsets(&self, name: &str, total: usize) -> Result<Vec<u64>> {
        let offsets: Vec<u64> = self.values(name)?;
        let ends = offsets.first() == Some(&0) && offsets.last() == Some(&(total as u64));
        if !ends || !offsets.is_sorted() {
            return Err(self.damaged(format!("the column `{name}` does not hold the borders of {total} values")));
        }
        Ok(offsets)
    }

    /// Checks that all values are below `limit`.
    pub(crate) fn check_below(&self, name: &str, values: &[u32], limit: usize) -> Result<()> {
        match values.iter().find(|value| **value as usize >= limit) {
            None => Ok(()),
            Some(value) => Err(self.damaged(format!("the column `{name}` points to {value} of {limit}"))),
        }
    }

    pub(crate) fn damaged(&self, detail: String) -> Error {
        Error::Damaged { path: self.path.clone(), detail, remedy: self.remedy }
    }
}

fn digest<'a>(info: &Value, columns: impl Iterator<Item = (&'a str, Dtype, &'a [usize], &'a [u8])>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(info.to_string().as_bytes());
    for (name, dtype, shape, bytes) in columns {
        hasher.update(format!("{name:?} {dtype:?} {shape:?}\n").as_bytes());
        hasher.update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let mut columns = Columns::default();
        columns.add("a", &[1u32, 2, 3]);
        columns.add_shaped("b", vec![2, 1], &[0.5f32, -1.0]);
        columns.save(&path, "test table", 1, &7u32).unwrap();
        let open = || Table::<u32>::open(&path, "test table", 1, "delete it");
        let table = open().unwrap();
        assert_eq!((table.info, table.values::<u32>("a").unwrap()), (7, vec![1, 2, 3]));
        assert_eq!(table.place("b").unwrap().0, [2, 1]);
        assert!(table.values::<f32>("a").is_err());

        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            fs::write(&path, &flipped).unwrap();
            assert!(open().is_err(), "byte {at}");
        }
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(open().is_err());
        let error = Table::<u32>::open(&path, "other", 1, "delete it").unwrap_err().to_string();
        assert!(error.ends_with("; delete it"), "{error}");
    }
}
