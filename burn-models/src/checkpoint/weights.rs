//! A checkpoint's tensors, memory-mapped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, TensorData, bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use serde::Deserialize;

use super::header::{self, Dtype, TensorInfo};
use crate::{Error, Result};

/// The index file of a sharded checkpoint.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// The file of a checkpoint that is not sharded.
pub(super) const SINGLE: &str = "model.safetensors";
/// The largest index file accepted, in bytes.
const MAX_INDEX: u64 = 64 << 20;

/// The tensors of a checkpoint: one safetensors file, or the shards that an index names. Files are mapped, not read;
/// headers are checked when it is opened, values when they are asked for.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, TensorInfo>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens a folder (`model.safetensors`, else `model.safetensors.index.json` with its shards) or one file.
    ///
    /// # Errors
    /// When a file is absent, truncated or malformed, when a shard lacks a tensor the index promises or holds
    /// one it does not name, and when two shards hold the same name.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let files = if path.is_dir() { Self::files_of(path)? } else { vec![(path.to_path_buf(), None)] };
        let mut weights = Self { path: path.to_path_buf(), files: Vec::new(), tensors: BTreeMap::new() };
        for (file, expected) in files {
            weights.add(file, expected.as_deref())?;
        }
        Ok(weights)
    }

    /// The files of a folder, each with the names an index expects in it.
    fn files_of(dir: &Path) -> Result<Vec<(PathBuf, Option<Vec<String>>)>> {
        let single = dir.join(SINGLE);
        if single.exists() {
            return Ok(vec![(single, None)]);
        }
        let index = dir.join(INDEX);
        let bad = |path: &Path, problem: String| Error::Safetensors { path: path.to_path_buf(), problem };
        if !index.exists() {
            return Err(bad(dir, format!("no {SINGLE} and no {INDEX} in this folder")));
        }
        let size = index.metadata().map_err(Error::io(&index))?.len();
        if size > MAX_INDEX {
            return Err(bad(&index, format!("{size} bytes are too many for an index")));
        }
        let text = std::fs::read_to_string(&index).map_err(Error::io(&index))?;
        let map = serde_json::from_str::<Index>(&text).map_err(Error::json(&index))?.weight_map;
        let mut shards = BTreeMap::<String, Vec<String>>::new();
        for (tensor, shard) in map {
            if Path::new(&shard).file_name().is_none_or(|name| name != shard.as_str()) {
                return Err(bad(&index, format!("`{tensor}`: {shard:?} is not the name of a file in this folder")));
            }
            shards.entry(shard).or_default().push(tensor);
        }
        for shard in shards.keys() {
            if !dir.join(shard).exists() {
                return Err(bad(&index, format!("the shard {shard} is not there")));
            }
        }
        Ok(shards.into_iter().map(|(shard, names)| (dir.join(shard), Some(names))).collect())
    }

    fn add(&mut self, path: PathBuf, expected: Option<&[String]>) -> Result<()> {
        let file = File::open(&path).map_err(Error::io(&path))?;
        // SAFETY: the map is read-only. As for every mapped file, another process that truncates the file while it is
        // in use can raise a bus error; checkpoints are written under another name and renamed, so ours never are.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
        let tensors = header::read(&path, &map, self.files.len())?;
        if let Some(expected) = expected {
            let lacking = |names: &mut dyn Iterator<Item = &String>, problem: &str| match names.next() {
                Some(name) => Err(Error::Tensor { path: path.clone(), name: name.clone(), problem: problem.into() }),
                None => Ok(()),
            };
            let here: std::collections::HashSet<_> = tensors.iter().map(|(name, _)| name).collect();
            let wanted: std::collections::HashSet<_> = expected.iter().collect();
            lacking(&mut expected.iter().filter(|n| !here.contains(n)), "the index says it is here, but it is not")?;
            let mut extra = tensors.iter().map(|(name, _)| name).filter(|n| !wanted.contains(n));
            lacking(&mut extra, "it is here, but the index does not say so")?;
        }
        for (name, info) in tensors {
            if self.tensors.contains_key(&name) {
                return Err(Error::Tensor { path, name, problem: "it is in two files".into() });
            }
            self.tensors.insert(name, info);
        }
        self.files.push((path, map));
        Ok(())
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mapped files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Type and shape of a tensor.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor, little-endian, row-major.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let info = self.tensors.get(name)?;
        self.files.get(info.file)?.1.get(info.range.clone())
    }

    /// A tensor's values as `dtype`, a matrix transposed if asked; the only place where values are read.
    ///
    /// # Errors
    /// When there is no such tensor, when it is not of a float type, or when a value is NaN or infinite, in the file or
    /// after conversion to a narrower type.
    pub(super) fn data(&self, name: &str, dtype: FloatDType, transpose: bool) -> Result<TensorData> {
        let bad = |file: Option<usize>, problem: String| {
            let path = file.and_then(|f| self.files.get(f)).map_or(&self.path, |(path, _)| path);
            Error::Tensor { path: path.clone(), name: name.to_string(), problem }
        };
        let (Some(info), Some(bytes)) = (self.get(name), self.bytes(name)) else {
            return Err(bad(None, "not in this checkpoint".into()));
        };
        let swap = match (&info.shape[..], transpose) {
            (&[rows, columns], true) => Some((rows, columns)),
            _ => None,
        };
        let shape: Vec<usize> =
            if swap.is_some() { info.shape.iter().rev().copied().collect() } else { info.shape.clone() };
        let data = match (info.dtype, dtype) {
            (Dtype::F32, FloatDType::F32) => read(bytes, swap, f32::from_le_bytes).map(|v| TensorData::new(v, shape)),
            (Dtype::F16, FloatDType::F16) => read(bytes, swap, f16::from_le_bytes).map(|v| TensorData::new(v, shape)),
            (Dtype::BF16, FloatDType::BF16) => {
                read(bytes, swap, bf16::from_le_bytes).map(|v| TensorData::new(v, shape))
            }
            (Dtype::F64, FloatDType::F32) => {
                read(bytes, swap, |b| f64::from_le_bytes(b) as f32).map(|v| TensorData::new(v, shape))
            }
            (Dtype::F16, FloatDType::F32) => {
                read(bytes, swap, |b| f16::from_le_bytes(b).to_f32()).map(|v| TensorData::new(v, shape))
            }
            (Dtype::BF16, FloatDType::F32) => {
                read(bytes, swap, |b| bf16::from_le_bytes(b).to_f32()).map(|v| TensorData::new(v, shape))
            }
            (Dtype::F32, FloatDType::F16) => {
                read(bytes, swap, |b| f16::from_f32(f32::from_le_bytes(b))).map(|v| TensorData::new(v, shape))
            }
            (Dtype::BF16, FloatDType::F16) => {
                read(bytes, swap, |b| f16::from_f32(bf16::from_le_bytes(b).to_f32())).map(|v| TensorData::new(v, shape))
            }
            (Dtype::F32, FloatDType::BF16) => {
                read(bytes, swap, |b| bf16::from_f32(f32::from_le_bytes(b))).map(|v| TensorData::new(v, shape))
            }
            (Dtype::F16, FloatDType::BF16) => {
                read(bytes, swap, |b| bf16::from_f32(f16::from_le_bytes(b).to_f32())).map(|v| TensorData::new(v, shape))
            }
            (from, to) => return Err(bad(Some(info.file), format!("cannot be read as {to:?}: it is {}", from.name()))),
        };
        data.map_err(|at| bad(Some(info.file), format!("a NaN or infinite value at element {at}")))
    }
}

/// A float type whose finiteness can be asked for.
trait Finite: Copy + Send + Sync + Default {
    fn finite(self) -> bool;
}
impl Finite for f32 {
    fn finite(self) -> bool {
        self.is_finite()
    }
}
impl Finite for f16 {
    fn finite(self) -> bool {
        self.is_finite()
    }
}
impl Finite for bf16 {
    fn finite(self) -> bool {
        self.is_finite()
    }
}

/// Elements (or matrix rows) per parallel task.
const BLOCK: usize = 1 << 16;
const ROWS: usize = 32;

/// Converts bytes to values in parallel, writing a `[rows, columns]` matrix as `[columns, rows]` if `swap` is given.
/// Fails with the position, in the file's order, of the first value found that is not finite.
fn read<const N: usize, T: Finite>(
    bytes: &[u8],
    swap: Option<(usize, usize)>,
    value: impl Fn([u8; N]) -> T + Sync,
) -> std::result::Result<Vec<T>, usize> {
    let (source, _) = bytes.as_chunks::<N>();
    let mut out = vec![T::default(); source.len()];
    let check = |v: T, at: usize| if v.finite() { Ok(v) } else { Err(at) };
    match swap {
        None => out.par_chunks_mut(BLOCK).enumerate().try_for_each(|(block, out)| {
            let first = block * BLOCK;
            for (i, (slot, &raw)) in out.iter_mut().zip(&source[first..]).enumerate() {
                *slot = check(value(raw), first + i)?;
            }
            Ok::<(), usize>(())
        })?,
        // Each task writes a band of output rows and reads short runs of every input row, so that both stay in cache.
        Some((rows, columns)) if rows > 0 && columns > 0 => {
            out.par_chunks_mut(ROWS * rows).enumerate().try_for_each(|(band, out)| {
                let first = band * ROWS;
                let width = out.len() / rows;
                for (row, line) in source.chunks_exact(columns).enumerate() {
                    for (i, &raw) in line[first..first + width].iter().enumerate() {
                        out[i * rows + row] = check(value(raw), row * columns + first + i)?;
                    }
                }
                Ok::<(), usize>(())
            })?;
        }
        Some(_) => {}
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn transposes_and_finds_the_bad_value() {
        let (rows, columns) = (5, 67);
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let mut bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let swapped = read(&bytes, Some((rows, columns)), f32::from_le_bytes);
        let expected: Vec<f32> = (0..columns).flat_map(|c| (0..rows).map(move |r| (r * columns + c) as f32)).collect();
        assert_eq!(swapped, Ok(expected));
        assert_eq!(read(&bytes, None, f32::from_le_bytes), Ok(values));

        bytes[4 * 70..4 * 71].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(read(&bytes, None, f32::from_le_bytes), Err(70));
        assert_eq!(read(&bytes, Some((rows, columns)), f32::from_le_bytes), Err(70));
    }
}
