//! Which files hold chats.

use crate::error::{Error, Result};
use crate::splits::{files_named, matching, names};
use std::path::{Path, PathBuf};

/// How the names of files of chats end.
pub const ENDINGS: [&str; 5] = [".jsonl", ".jsonl.zst", ".json", ".json.zst", ".parquet"];
/// What the files that are held out are called; those of the first name that has any are taken.
const HELD_OUT: [&str; 5] = ["val", "validation", "valid", "test", "eval"];
/// A registry of data, not data.
const REGISTRY: &str = "dataset_info.json";

/// The files of a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatFiles {
    /// Those to train on, in the order in which they are read.
    pub train: Vec<PathBuf>,
    /// Those to evaluate on; none where the path is not a folder with such.
    pub held_out: Vec<PathBuf>,
}

/// The files that a path means: itself; with `*` or `?` in its last part all that fit; of a folder `train.jsonl` or its shards
/// (`train-00000-of-00003.jsonl`, …; `.jsonl`, `.json`, either with `.zst`, or `.parquet`), with `val`, `validation`, `valid`, `test`
/// or `eval` in place of `train` held out; of a folder without a `train` all files with such endings. Always in natural order,
/// `2` before `10`; empty files count as absent.
///
/// # Errors
/// Fails where nothing fits, and where shards are missing.
pub fn chat_files(path: &Path) -> Result<ChatFiles> {
    if !path.is_dir() {
        return Ok(ChatFiles { train: matching(path)?, held_out: Vec::new() });
    }
    let filled = |files: &mut Vec<PathBuf>| {
        files.retain(|file| std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.len() > 0));
    };
    let mut held_out = Vec::new();
    for name in HELD_OUT {
        held_out = files_named(path, name, &ENDINGS)?;
        filled(&mut held_out);
        if !held_out.is_empty() {
            break;
        }
    }
    let mut train = files_named(path, "train", &ENDINGS)?;
    let named = !train.is_empty();
    filled(&mut train);
    if !named {
        let split = |name: &str| {
            let stem = name.split('.').next().unwrap_or(name);
            let first = stem.split(['-', '_']).next().unwrap_or(stem);
            HELD_OUT.contains(&stem) || HELD_OUT.contains(&first)
        };
        let wanted = |name: &str| {
            !name.starts_with('.') && name != REGISTRY && !split(name) && ENDINGS.iter().any(|end| name.ends_with(end))
        };
        train = names(path, wanted)?.into_iter().map(|name| path.join(name)).collect();
        filled(&mut train);
    }
    if train.is_empty() {
        let detail = "there are no chats to train on: no train.jsonl, and no other file of JSON or Parquet".into();
        return Err(Error::Empty { path: path.to_owned(), detail });
    }
    Ok(ChatFiles { train, held_out })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_in_a_fixed_order() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let found = || {
            let files = chat_files(folder.path())?;
            let names = |files: Vec<PathBuf>| -> Vec<String> {
                files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
            };
            Ok::<_, Error>((names(files.train), names(files.held_out)))
        };
        assert!(found().unwrap_err().to_string().contains("there are no chats to train on"));
        for name in ["part10.json", "part2.jsonl.zst", "b.parquet", REGISTRY, "notes.txt", ".hidden.jsonl"] {
            write(name, "x");
        }
        write("empty.jsonl", "");
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(found().unwrap(), (strings(&["b.parquet", "part2.jsonl.zst", "part10.json"]), vec![]));
        write("test.json", "x");
        write("validation-00000-of-00001.parquet", "x");
        assert_eq!(found().unwrap().1, ["validation-00000-of-00001.parquet"]);
        assert_eq!(found().unwrap().0.len(), 3);
        write("train.json", "x");
        assert_eq!(found().unwrap().0, ["train.json"]);
        write("train.json", "");
        assert!(found().is_err());
    }
}
