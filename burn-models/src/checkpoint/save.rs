//! From a module into files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, FloatDType, TensorData};
use serde_json::json;

use super::slots::{Slot, Source, sources};
use super::weights::{INDEX, SINGLE};
use crate::{Error, Result};

/// How a module is written.
pub struct SaveOptions<'a> {
    /// A parameter's dotted path → its name in the file; `None` to leave it out.
    pub names: &'a dyn Fn(&str) -> Option<String>,
    /// The type to write; `None` keeps each parameter's own.
    pub dtype: Option<FloatDType>,
    /// Split into several files with an index when the tensors take more bytes than this; `None` for one file.
    pub shard_bytes: Option<u64>,
}

/// One tensor about to be written.
struct Item {
    slot: Slot,
    source: Source,
    /// The type in the file, and its name there.
    dtype: DType,
    data: &'static str,
    bytes: u64,
}

/// Writes `model.safetensors`, or shards and `model.safetensors.index.json`, into `dir`, which is created if need be.
///
/// Names as `names` says, `format=pt` in the metadata, linear matrices as `[out, in]`: what the Python libraries expect.
/// Every file is written under a temporary name, flushed to disk and renamed. The index is written last, and an earlier
/// one is removed first, so that an interrupted save cannot leave an index over old and new shards; files of an
/// earlier checkpoint of another layout go once the new one is complete.
///
/// # Errors
/// When two parameters get one name, when a tensor cannot be read from the device, or when the disk refuses.
pub fn save<M: Module>(module: &M, dir: &Path, options: &SaveOptions) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let items = items(module, dir, options)?;
    let total: u64 = items.iter().map(|item| item.bytes).sum();
    let parameters: u64 = items.iter().map(|item| item.slot.shape.iter().product::<usize>() as u64).sum();
    match options.shard_bytes {
        Some(limit) if total > limit => {
            let shards = split(items, limit);
            let count = shards.len();
            let mut map = serde_json::Map::new();
            let mut kept = vec![INDEX.to_string()];
            let path = dir.join(INDEX);
            if path.exists() {
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
            for (i, shard) in shards.into_iter().enumerate() {
                let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
                for item in &shard {
                    map.insert(item.slot.name.clone(), json!(file));
                }
                write(&dir.join(&file), &shard)?;
                kept.push(file);
            }
            map.sort_keys();
            let index =
                json!({ "metadata": { "total_parameters": parameters, "total_size": total }, "weight_map": map });
            let text = serde_json::to_string_pretty(&index).map_err(Error::json(&path))?;
            write_atomic(&path, (text + "\n").as_bytes())?;
            remove_stale(dir, &kept)
        }
        _ => {
            write(&dir.join(SINGLE), &items)?;
            remove_stale(dir, &[SINGLE.to_string()])
        }
    }
}

/// The tensors, sorted as the reference implementation does: widest type first, then by name.
fn items<M: Module>(module: &M, dir: &Path, options: &SaveOptions) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for (slot, source) in sources(module, options.names) {
        let dtype = options.dtype.map_or(source.dtype, DType::from);
        let data = match dtype {
            DType::F32 | DType::Flex32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            other => {
                let problem = format!("{other:?} cannot be written");
                return Err(Error::Tensor { path: dir.to_path_buf(), name: slot.name, problem });
            }
        };
        let bytes = slot.shape.iter().product::<usize>() as u64 * if data == "F32" { 4 } else { 2 };
        items.push(Item { slot, source, dtype, data, bytes });
    }
    items.sort_by(|a, b| (b.data == "F32").cmp(&(a.data == "F32")).then_with(|| a.slot.name.cmp(&b.slot.name)));
    if let Some(pair) = items.windows(2).find(|pair| pair[0].slot.name == pair[1].slot.name) {
        let problem = "two parameters have this name".to_string();
        return Err(Error::Tensor { path: dir.to_path_buf(), name: pair[0].slot.name.clone(), problem });
    }
    Ok(items)
}

/// Fills shards in order; a tensor larger than the limit gets a shard of its own.
fn split(items: Vec<Item>, limit: u64) -> Vec<Vec<Item>> {
    let mut shards: Vec<Vec<Item>> = Vec::new();
    let mut filled = 0;
    for item in items {
        match shards.last_mut() {
            Some(shard) if filled + item.bytes <= limit => {
                filled += item.bytes;
                shard.push(item);
            }
            _ => {
                filled = item.bytes;
                shards.push(vec![item]);
            }
        }
    }
    shards
}

/// Writes one file, reading one tensor at a time.
fn write(path: &Path, items: &[Item]) -> Result<()> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for item in items {
        let offsets = [offset, offset + item.bytes];
        header.insert(
            item.slot.name.clone(),
            json!({ "dtype": item.data, "shape": item.slot.shape, "data_offsets": offsets }),
        );
        offset += item.bytes;
    }
    let mut header = serde_json::to_vec(&header).map_err(Error::json(path))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    atomically(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::io(path))?;
        out.write_all(&header).map_err(Error::io(path))?;
        for item in items {
            let data = (item.source.read)().map_err(|e| Error::Device(format!("`{}`: {e}", item.slot.name)))?;
            let data: TensorData = if data.dtype() == item.dtype { data } else { data.convert_dtype(item.dtype) };
            out.write_all(data.as_bytes()).map_err(Error::io(path))?;
        }
        Ok(())
    })
}

/// Writes a file so that a reader, or a machine that loses power, sees the old content or the new one, never a part:
/// a temporary file in the same folder is written, flushed to disk and renamed.
///
/// # Errors
/// When the disk refuses.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    atomically(path, |out| out.write_all(content).map_err(Error::io(path)))
}

fn atomically(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let scratch = tempfile::Builder::new().prefix(".writing-").tempfile_in(&dir).map_err(Error::io(&dir))?;
    let (file, scratch) = scratch.into_parts();
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| Error::io(path)(e.into_error()))?;
    file.sync_all().map_err(Error::io(path))?;
    readable(&file).map_err(Error::io(path))?;
    scratch.persist(path).map_err(|e| Error::io(path)(e.error))?;
    // The rename itself must reach the disk too. Not every file system can flush a folder, and none needs it to be right.
    let _ = File::open(&dir).and_then(|dir| dir.sync_all());
    Ok(())
}

/// Temporary files are private to their owner; a checkpoint is an ordinary file.
#[cfg(unix)]
fn readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}
#[cfg(not(unix))]
fn readable(_: &File) -> std::io::Result<()> {
    Ok(())
}

/// Removes the weight files of an earlier checkpoint that the new one does not name, so that a folder never holds two.
fn remove_stale(dir: &Path, kept: &[String]) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
        if (shard || name == SINGLE || name == INDEX) && !kept.iter().any(|kept| kept == name) {
            fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}
