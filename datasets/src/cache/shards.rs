//! Reading and writing shards.

use super::{CacheKey, EmbeddingCache, Place, Shard, ShardInfo};
use crate::error::{Error, Result};
use crate::store::{Columns, Table};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const KIND: &str = "embeddings";
const VERSION: u32 = 1;
const REMEDY: &str = "it is passed over, and its embeddings are computed again";

/// What to do with damaged shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damaged {
    /// Leave them to the next writer.
    PassOver,
    /// Remove them: only while the lock is held.
    Remove,
}

impl EmbeddingCache {
    /// Writes a shard of its first `old` rows and of the rows `new` of the arguments.
    pub(super) fn write_shard(
        &mut self,
        number: u32,
        old: usize,
        new: &[usize],
        keys: &[CacheKey],
        rows: &[f32],
    ) -> Result<()> {
        let dim = self.info.dim;
        let mut all_keys = vec![[0u8; 32]; old];
        for (key, place) in &self.places {
            if place.shard == number {
                all_keys[place.row as usize] = key.0;
            }
        }
        let mut all_rows = vec![0.0; old * dim];
        for (row, values) in all_rows.chunks_exact_mut(dim).enumerate() {
            self.read_row(Place { shard: number, row: row as u32 }, values)?;
        }
        for at in new {
            all_keys.push(keys[*at].0);
            all_rows.extend_from_slice(&rows[at * dim..(at + 1) * dim]);
        }
        let count = all_keys.len();
        let mut columns = Columns::default();
        columns.add_shaped("keys", vec![count, 32], all_keys.as_flattened());
        columns.add_shaped("rows", vec![count, dim], &all_rows);
        let path = self.shard_path(number);
        columns.save(&path, KIND, VERSION, &self.info)?;
        self.load_shard(number, &path)
    }

    pub(super) fn shard_path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("shard-{number:05}.safetensors"))
    }

    /// Takes notice of the shards that are there now.
    pub(super) fn refresh(&mut self, damaged: Damaged) -> Result<()> {
        let mut present = HashSet::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io(&self.folder, "read the folder"))? {
            let entry = entry.map_err(Error::io(&self.folder, "read the folder"))?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("shard-")?.strip_suffix(".safetensors"));
            let Some(number) = number.and_then(|digits| digits.parse::<u32>().ok()) else { continue };
            let path = entry.path();
            let length = entry.metadata().map_err(Error::io(&path, "read"))?.len();
            // Shards only grow: one of the same length is the one that is known.
            if self.shards.get(&number).is_some_and(|shard| shard.length == length) {
                present.insert(number);
                continue;
            }
            match self.load_shard(number, &path) {
                Ok(()) => {
                    present.insert(number);
                }
                Err(error @ Error::Damaged { .. }) => {
                    tracing::warn!("{error}");
                    if damaged == Damaged::Remove {
                        fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.shards.retain(|number, _| present.contains(number));
        self.places.retain(|_, place| present.contains(&place.shard));
        Ok(())
    }

    fn load_shard(&mut self, number: u32, path: &Path) -> Result<()> {
        // Opened before it is checked, so that the rows are read from the very file that was checked: a shard that
        // replaces it in between begins with the same rows, at another place.
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let length = file.metadata().map_err(Error::io(path, "read"))?.len();
        let table: Table<ShardInfo> = Table::read(&file, path, KIND, VERSION, REMEDY)?;
        if table.info != self.info {
            let ShardInfo { space, model, dim } = &table.info;
            let found = format!("{dim} numbers a vector, for {space}/{model}");
            return Err(Error::setting("dim", format!("{} as in {}", self.info.dim, path.display()), found));
        }
        let keys: Vec<u8> = table.values("keys")?;
        let (keys, rest) = keys.as_chunks::<32>();
        let (shape, range) = table.place("rows")?;
        if !rest.is_empty() || shape != [keys.len(), self.info.dim] || range.len() != 4 * keys.len() * self.info.dim {
            return Err(table.damaged("keys and rows differ in number".into()));
        }
        // Another process may have begun this shard anew, with other rows.
        self.places.retain(|_, place| place.shard != number);
        self.shards.insert(number, Shard { file, rows_at: range.start as u64, rows: keys.len(), length });
        for (row, key) in keys.iter().enumerate() {
            self.places.insert(CacheKey(*key), Place { shard: number, row: row as u32 });
        }
        Ok(())
    }

    pub(super) fn read_row(&self, place: Place, row: &mut [f32]) -> Result<()> {
        let path = self.shard_path(place.shard);
        let Some(shard) = self.shards.get(&place.shard) else {
            let detail = "the shard is gone".to_owned();
            return Err(Error::Damaged { path, detail, remedy: "open the cache again" });
        };
        let at = shard.rows_at + u64::from(place.row) * 4 * self.info.dim as u64;
        let mut file = &shard.file;
        file.seek(SeekFrom::Start(at)).map_err(Error::io(&path, "read"))?;
        file.read_exact(bytemuck::cast_slice_mut(row)).map_err(Error::io(&path, "read"))
    }
}
