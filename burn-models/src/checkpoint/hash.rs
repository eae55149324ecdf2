//! The identity of a checkpoint's weights.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use super::weights::Weights;
use crate::{Error, Result};

/// What must be unchanged for a hash to be valid still: each file's path, length and time of modification.
type Stamp = Vec<(PathBuf, u64, SystemTime)>;
static KNOWN: LazyLock<Mutex<HashMap<PathBuf, (Stamp, String)>>> = LazyLock::new(Mutex::default);

/// The BLAKE3 hash, in hex, of a checkpoint's weights: for every tensor, sorted by name, its name, type, shape and
/// bytes. Sharding, header order and metadata do not change it; configuration and tokenizer are not part of it.
///
/// The result is remembered in this process as long as the files keep their length and time of modification.
///
/// # Errors
/// As [`Weights::open`].
pub fn weights_hash(path: impl AsRef<Path>) -> Result<String> {
    let weights = Weights::open(path.as_ref())?;
    let mut stamp = Stamp::new();
    for file in weights.files() {
        let meta = file.metadata().map_err(Error::io(file))?;
        stamp.push((file.to_path_buf(), meta.len(), meta.modified().map_err(Error::io(file))?));
    }
    let key = weights.path().to_path_buf();
    if let Some((known, hash)) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
        && *known == stamp
    {
        return Ok(hash.clone());
    }
    let mut hasher = blake3::Hasher::new();
    let names: Vec<&str> = weights.names().collect();
    for name in names {
        if let (Some(info), Some(bytes)) = (weights.get(name), weights.bytes(name)) {
            // Lengths first, so that no two different checkpoints feed the hash the same bytes.
            for part in [name.as_bytes(), info.dtype.name().as_bytes(), format!("{:?}", info.shape).as_bytes()] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
    }
    let hash = hasher.finalize().to_hex().to_string();
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (stamp, hash.clone()));
    Ok(hash)
}
