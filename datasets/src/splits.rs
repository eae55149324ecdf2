//! The parts of a data set and the files that hold them.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Split {
    /// For training.
    Train,
    /// For choosing the epoch.
    Val,
    /// For the numbers that are reported.
    Test,
}

impl Split {
    /// All three, in the usual order.
    pub const ALL: [Split; 3] = [Split::Train, Split::Val, Split::Test];

    /// The name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        }
    }

    /// The files of this split in `folder`: `train.jsonl`, else all `train_*.jsonl` and `train-*.jsonl` in natural order
    /// (`train_2` before `train_10`); none where there is neither. Each may be compressed and end in `.jsonl.zst`.
    ///
    /// # Errors
    /// Fails where shards such as `train-00001-of-00003.jsonl` are not all there.
    pub fn files(self, folder: &Path) -> Result<Vec<PathBuf>> {
        files_named(folder, self.name(), &ENDINGS)
    }
}

/// The file `name` with the first of these endings, else its shards, `name_*` and `name-*`.
pub(crate) fn files_named(folder: &Path, name: &str, endings: &[&str]) -> Result<Vec<PathBuf>> {
    for ending in endings {
        let whole = folder.join(format!("{name}{ending}"));
        if whole.is_file() {
            return Ok(vec![whole]);
        }
    }
    let [under, dash] = ["_", "-"].map(|sign| format!("{name}{sign}"));
    let mut names = names(folder, |name| {
        (name.starts_with(&under) || name.starts_with(&dash)) && endings.iter().any(|ending| name.ends_with(ending))
    })?;
    // Beside its plain text a compressed shard is the same one again.
    let all = names.clone();
    names.retain(|name| name.strip_suffix(".zst").is_none_or(|plain| !all.iter().any(|other| other == plain)));
    all_shards(folder, &names)?;
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// How the names of files of records end.
const ENDINGS: [&str; 2] = [".jsonl", ".jsonl.zst"];

/// The files that a path means: itself, or, where its last part has `*` or `?` in it and no file has that name, all files beside
/// each other that fit, in natural order.
///
/// # Errors
/// Fails where the folder cannot be read or nothing fits.
pub fn matching(path: &Path) -> Result<Vec<PathBuf>> {
    let pattern = path.file_name().and_then(|name| name.to_str()).filter(|name| name.contains(['*', '?']));
    let Some(pattern) = pattern.filter(|_| !path.exists()) else { return Ok(vec![path.to_owned()]) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = names(folder, |name| fits(pattern.as_bytes(), name.as_bytes()))?;
    all_shards(folder, &names)?;
    if names.is_empty() {
        return Err(Error::Empty { path: path.to_owned(), detail: "no file of such a name".into() });
    }
    Ok(names.into_iter().map(|name| path.with_file_name(name)).collect())
}

/// The names in a folder that are wanted, in natural order.
pub(crate) fn names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))? {
        let entry = entry.map_err(Error::io(folder, "read the folder"))?;
        if let Some(name) = entry.file_name().to_str().filter(|name| wanted(name)) {
            names.push(name.to_owned());
        }
    }
    names.sort_by(|a, b| natural_order(a, b));
    Ok(names)
}

/// Whether a name fits a pattern: `*` stands for any bytes but a leading dot, `?` for one.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    fn rest(pattern: &[u8], name: &[u8]) -> bool {
        // Where the last star stands, and what it has taken so far: only that one ever has to take more.
        let (mut p, mut n, mut star) = (0, 0, None);
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(sign) if *sign == b'?' || *sign == name[n] => (p, n) = (p + 1, n + 1),
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        (p, n) = (at + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|sign| *sign == b'*')
    }
    (name.first() != Some(&b'.') || pattern.first() == Some(&b'.')) && rest(pattern, name)
}

/// Refuses shards `…-00000-of-00003…` of which some are missing.
fn all_shards(folder: &Path, names: &[String]) -> Result<()> {
    let mut sets: BTreeMap<(&str, &str), (usize, Vec<usize>)> = BTreeMap::new();
    for name in names {
        if let Some((before, number, total, after)) = shard(name) {
            let set = sets.entry((before, after.trim_end_matches(".zst"))).or_insert((total, Vec::new()));
            set.1.push(number);
        }
    }
    for ((before, after), (total, found)) in sets {
        if let Some(missing) = (0..total).find(|number| !found.contains(number)) {
            let detail = format!("{before}{missing:05}-of-{total:05}{after} is missing: all {total} shards are needed");
            return Err(Error::Empty { path: folder.to_owned(), detail });
        }
    }
    Ok(())
}

/// `train-00001-of-00003.jsonl` as what is before the number, number, total and what is after it.
fn shard(name: &str) -> Option<(&str, usize, usize, &str)> {
    let (left, right) = name.split_once("-of-")?;
    let number = left.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    let end = right.find(|c: char| !c.is_ascii_digit()).unwrap_or(right.len());
    let (total, after) = right.split_at(end);
    Some((left.strip_suffix(number)?, number.parse().ok()?, total.parse().ok().filter(|n| *n <= 100_000)?, after))
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Compares names so that runs of digits count as numbers.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let (digits_a, digits_b) = (digit_run(left), digit_run(right));
        if !digits_a.is_empty() && !digits_b.is_empty() {
            let (number_a, number_b) = (without_leading_zeros(digits_a), without_leading_zeros(digits_b));
            let order = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
            if order != Ordering::Equal {
                return order;
            }
            (left, right) = (&left[digits_a.len()..], &right[digits_b.len()..]);
            continue;
        }
        match (left.split_first(), right.split_first()) {
            (Some((x, rest_a)), Some((y, rest_b))) if x == y => (left, right) = (rest_a, rest_b),
            // The whole names decide between 1 and 01.
            (None, None) => return a.cmp(b),
            _ => return left.cmp(right),
        }
    }
}

fn without_leading_zeros(digits: &[u8]) -> &[u8] {
    let start = digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    &digits[start..]
}

fn digit_run(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn finds_whole_files_and_shards() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["train_10.jsonl", "train_2.jsonl", "train_1.jsonl", "train_x.txt", "val.jsonl", "val_1.jsonl"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |split: Split| -> Vec<String> {
            let files = split.files(folder.path()).unwrap();
            files.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(Split::Train), ["train_1.jsonl", "train_2.jsonl", "train_10.jsonl"]);
        assert_eq!(names(Split::Val), ["val.jsonl"]);
        assert!(names(Split::Test).is_empty());
        assert!(Split::Test.files(&folder.path().join("none")).is_err());
    }

    #[test]
    fn shards_are_all_there_and_compressed_ones_count_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        for name in ["train-00002-of-00003.jsonl.zst", "train-00000-of-00003.jsonl", "train-00000-of-00003.jsonl.zst"] {
            write(name);
        }
        let error = Split::Train.files(folder.path()).unwrap_err().to_string();
        assert!(error.contains("train-00001-of-00003.jsonl is missing: all 3 shards are needed"), "{error}");
        write("train-00001-of-00003.jsonl.zst");
        let names = |files: Vec<PathBuf>| -> Vec<String> {
            files.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        let want = ["train-00000-of-00003.jsonl", "train-00001-of-00003.jsonl.zst", "train-00002-of-00003.jsonl.zst"];
        assert_eq!(names(Split::Train.files(folder.path()).unwrap()), want);
        write("val.jsonl.zst");
        assert_eq!(names(Split::Val.files(folder.path()).unwrap()), ["val.jsonl.zst"]);
        assert_eq!(names(matching(&folder.path().join("train-*")).unwrap()).len(), 4);
        assert_eq!(names(matching(&folder.path().join("v?l*")).unwrap()), ["val.jsonl.zst"]);
        assert_eq!(names(matching(&folder.path().join("plain")).unwrap()), ["plain"]);
        assert!(matching(&folder.path().join("none*")).unwrap_err().to_string().contains("no file of such a name"));
    }

    #[test]
    fn patterns() {
        let yes = [("*", "a"), ("a*c", "abbc"), ("a?c", "abc"), ("*b*b*", "xbybz"), ("**", ""), (".*", ".a")];
        assert!(yes.iter().all(|(pattern, name)| fits(pattern.as_bytes(), name.as_bytes())));
        let no = [("a?", "a"), ("a*c", "abcd"), ("*", ".a"), ("", "a"), ("*bb", "bab")];
        assert!(!no.iter().any(|(pattern, name)| fits(pattern.as_bytes(), name.as_bytes())));
    }
}
