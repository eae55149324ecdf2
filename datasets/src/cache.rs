//! Embeddings on disk, found again by what they were made from.
//!
//! A cache is a folder `<root>/<space>/<model key>/` of numbered shards. A shard is a safetensors file with `keys`
//! `[n, 32]` and `rows` `[n, dim]` in f32, and a checksum over all of it. Shards are added, or replaced by longer ones,
//! by renaming a finished file, so that a reader sees whole shards only, whenever a writer dies. What is in which shard
//! is read from the shards themselves: there is no index that could disagree with them.
//!
//! A damaged shard is passed over with a warning; its rows count as missing and are computed and written again.

mod shards;
mod space;

pub use space::{CacheKey, EmbeddingSpace};

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use shards::Damaged;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A shard grows until its rows take this many bytes.
const SHARD_BYTES: usize = 16 << 20;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Lookup {
    /// A row for each key `[n, dim]`, row-major; zeros where there is none.
    pub rows: Vec<f32>,
    /// The keys without a row, by place, ascending.
    pub misses: Vec<usize>,
}

/// Where rows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    shard: u32,
    row: u32,
}

/// A shard that was found whole. The open file stays readable when another process replaces the shard.
#[derive(Debug)]
struct Shard {
    file: File,
    rows_at: u64,
    rows: usize,
    length: u64,
}

/// What every shard says about itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ShardInfo {
    space: String,
    model: String,
    dim: usize,
}

/// A cache of embeddings of one model and one way of using it.
#[derive(Debug)]
pub struct EmbeddingCache {
    folder: PathBuf,
    info: ShardInfo,
    shards: HashMap<u32, Shard>,
    places: HashMap<CacheKey, Place>,
    hits: u64,
    misses: u64,
}

impl EmbeddingCache {
    /// Opens the cache of a space and a model, an empty one where there is none; vectors have `dim` numbers.
    ///
    /// # Errors
    /// Fails when the folder cannot be made or read, on names that are no folder names, and for `dim` 0.
    pub fn open(root: &Path, space: &str, model_key: &str, dim: usize) -> Result<Self> {
        for (key, name) in [("space", space), ("model_key", model_key)] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if name.is_empty() || name.len() > 100 || !name.bytes().all(plain) {
                return Err(Error::setting(key, "1 to 100 letters, digits, `-` and `_`", format!("{name:?}")));
            }
        }
        if dim == 0 {
            return Err(Error::setting("dim", "at least 1", 0));
        }
        let folder = root.join(space).join(model_key);
        fs::create_dir_all(&folder).map_err(Error::io(&folder, "create the folder"))?;
        let info = ShardInfo { space: space.into(), model: model_key.into(), dim };
        let mut cache = Self { folder, info, shards: HashMap::new(), places: HashMap::new(), hits: 0, misses: 0 };
        cache.refresh(Damaged::PassOver)?;
        Ok(cache)
    }

    /// The folder of the shards.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The numbers of a vector.
    pub fn dim(&self) -> usize {
        self.info.dim
    }

    /// The number of embeddings.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The keys that were found so far.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// The keys that were not found so far.
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// Looks keys up.
    pub fn get_many(&mut self, keys: &[CacheKey]) -> Result<Lookup> {
        let dim = self.info.dim;
        let mut lookup = Lookup { rows: vec![0.0; keys.len() * dim], misses: Vec::new() };
        for (at, (key, row)) in keys.iter().zip(lookup.rows.chunks_exact_mut(dim)).enumerate() {
            match self.places.get(key) {
                Some(place) => self.read_row(*place, row)?,
                None => lookup.misses.push(at),
            }
        }
        self.misses += lookup.misses.len() as u64;
        self.hits += (keys.len() - lookup.misses.len()) as u64;
        Ok(lookup)
    }

    /// Adds embeddings: `rows` is `[n, dim]`, row-major. Keys that are there already are passed over.
    ///
    /// Other processes may add at the same time; they take turns.
    ///
    /// # Errors
    /// Fails on a wrong number of values and on values that are not finite, before anything is written.
    pub fn append(&mut self, keys: &[CacheKey], rows: &[f32]) -> Result<()> {
        let dim = self.info.dim;
        if rows.len() != keys.len() * dim {
            let expected = format!("{} × {dim} values", keys.len());
            return Err(Error::setting("embeddings", expected, rows.len()));
        }
        if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
            let found = format!("{} in row {}", rows[at], at / dim);
            return Err(Error::setting("embeddings", "finite values", found));
        }
        let lock_path = self.folder.join("lock");
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path, "create"))?;
        // Held until the file is closed at the end of this function, and released by the system if the process dies.
        lock.lock().map_err(Error::io(&lock_path, "lock"))?;
        self.refresh(Damaged::Remove)?;

        let mut new = Vec::new();
        let mut seen = HashSet::new();
        for (at, key) in keys.iter().enumerate() {
            if !self.places.contains_key(key) && seen.insert(*key) {
                new.push(at);
            }
        }
        let room = (SHARD_BYTES / (4 * dim)).max(1);
        let mut rest = new.as_slice();
        while !rest.is_empty() {
            let last = self.shards.iter().max_by_key(|(number, _)| **number);
            let (number, old) = match last {
                Some((number, shard)) if shard.rows < room => (*number, shard.rows),
                Some((number, _)) => (number + 1, 0),
                None => (0, 0),
            };
            let (now, later) = rest.split_at(rest.len().min(room - old));
            self.write_shard(number, old, now, keys, rows)?;
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIM: usize = 3;

    fn key(number: u64) -> CacheKey {
        CacheKey(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn row(number: u64) -> [f32; DIM] {
        [number as f32, -1.0, 0.5 * number as f32]
    }

    fn open(root: &Path) -> EmbeddingCache {
        EmbeddingCache::open(root, "graph", "0123456789abcdef", DIM).unwrap()
    }

    fn append(cache: &mut EmbeddingCache, numbers: std::ops::Range<u64>) {
        let keys: Vec<CacheKey> = numbers.clone().map(key).collect();
        let rows: Vec<f32> = numbers.flat_map(row).collect();
        cache.append(&keys, &rows).unwrap();
    }

    fn check(cache: &mut EmbeddingCache, numbers: std::ops::Range<u64>) {
        let keys: Vec<CacheKey> = numbers.clone().map(key).collect();
        let lookup = cache.get_many(&keys).unwrap();
        assert!(lookup.misses.is_empty());
        assert_eq!(lookup.rows, numbers.flat_map(row).collect::<Vec<_>>());
    }

    #[test]
    fn finds_what_was_added() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = open(folder.path());
        let lookup = cache.get_many(&[key(1), key(2)]).unwrap();
        assert_eq!((lookup.misses, cache.hits(), cache.misses()), (vec![0, 1], 0, 2));
        append(&mut cache, 0..10);
        append(&mut cache, 5..20);
        assert_eq!(cache.len(), 20);
        check(&mut cache, 0..20);
        assert_eq!((cache.hits(), cache.misses()), (20, 2));

        let mut again = open(folder.path());
        check(&mut again, 0..20);
        let lookup = again.get_many(&[key(3), key(77), key(3)]).unwrap();
        assert_eq!((lookup.misses, &lookup.rows[6..]), (vec![1], &row(3)[..]));
        assert_eq!(lookup.rows[3..6], [0.0; 3]);
        // Small additions grow one shard.
        assert_eq!(fs::read_dir(again.folder()).unwrap().count(), 2);
    }

    #[test]
    fn the_same_key_twice_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = open(folder.path());
        let rows: Vec<f32> = [row(1), row(2), row(1)].concat();
        cache.append(&[key(1), key(2), key(1)], &rows).unwrap();
        assert_eq!(cache.len(), 2);
        check(&mut open(folder.path()), 1..3);
    }

    #[test]
    fn rows_spread_over_shards() {
        let folder = tempfile::tempdir().unwrap();
        let dim = SHARD_BYTES / 4 / 2;
        let mut cache = EmbeddingCache::open(folder.path(), "wide", "m", dim).unwrap();
        let rows: Vec<f32> = (0..5).flat_map(|row| std::iter::repeat_n(row as f32, dim)).collect();
        cache.append(&[0, 1, 2].map(key), &rows[..3 * dim]).unwrap();
        cache.append(&[3, 4].map(key), &rows[3 * dim..]).unwrap();
        assert_eq!(cache.shards.values().map(|shard| shard.rows).sum::<usize>(), 5);
        assert_eq!(cache.shards.len(), 3);
        let mut again = EmbeddingCache::open(folder.path(), "wide", "m", dim).unwrap();
        assert_eq!(again.get_many(&[0, 1, 2, 3, 4].map(key)).unwrap().rows, rows);
    }

    #[test]
    fn two_handles_see_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let (mut one, mut two) = (open(folder.path()), open(folder.path()));
        append(&mut one, 0..4);
        append(&mut two, 4..6);
        check(&mut two, 0..6);
        check(&mut one, 0..4);
        append(&mut one, 6..8);
        check(&mut one, 0..8);
        check(&mut open(folder.path()), 0..8);
    }

    #[test]
    fn threads_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let root = folder.path();
                scope.spawn(move || {
                    let mut cache = open(root);
                    (0..5).for_each(|turn| append(&mut cache, thread * 5 + turn..thread * 5 + turn + 2));
                });
            }
        });
        check(&mut open(folder.path()), 0..21);
    }

    #[test]
    fn a_damaged_shard_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        append(&mut open(folder.path()), 0..4);
        let path = open(folder.path()).shard_path(0);
        let good = fs::read(&path).unwrap();
        for at in [0, 9, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 2;
            fs::write(&path, &bad).unwrap();
            let mut cache = open(folder.path());
            assert!(cache.is_empty(), "byte {at}");
            assert_eq!(cache.get_many(&[key(0)]).unwrap().misses, [0]);
            append(&mut cache, 0..4);
            check(&mut open(folder.path()), 0..4);
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(open(folder.path()).is_empty());
        fs::remove_file(&path).unwrap();
        assert!(open(folder.path()).is_empty());
    }

    #[test]
    fn wrong_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = open(folder.path());
        assert!(cache.append(&[key(1)], &[1.0, 2.0]).is_err());
        let error = cache.append(&[key(1), key(2)], &[1.0, 2.0, 3.0, 4.0, f32::NAN, 6.0]).unwrap_err().to_string();
        assert_eq!(error, "`embeddings`: expected finite values, found NaN in row 1");
        assert!(cache.is_empty() && open(folder.path()).is_empty());
        append(&mut cache, 0..1);
        assert!(EmbeddingCache::open(folder.path(), "graph", "0123456789abcdef", DIM + 1).is_err());
        for name in ["", "..", "a/b", "a b"] {
            assert!(EmbeddingCache::open(folder.path(), name, "m", DIM).is_err());
            assert!(EmbeddingCache::open(folder.path(), "s", name, DIM).is_err());
        }
        assert!(EmbeddingCache::open(folder.path(), "s", "m", 0).is_err());
    }
}
