//! The parts of a data set and the files that hold them.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
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

    /// The files of this split in `folder`: `train.jsonl`, else all `train_*.jsonl` in natural order (`train_2` before
    /// `train_10`); none where there is neither.
    pub fn files(self, folder: &Path) -> Result<Vec<PathBuf>> {
        let whole = folder.join(format!("{}.jsonl", self.name()));
        if whole.is_file() {
            return Ok(vec![whole]);
        }
        let prefix = format!("{}_", self.name());
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))? {
            let entry = entry.map_err(Error::io(folder, "read the folder"))?;
            if let Some(name) = entry.file_name().to_str()
                && name.starts_with(&prefix)
                && name.ends_with(".jsonl")
            {
                names.push(name.to_owned());
            }
        }
        names.sort_by(|a, b| natural_order(a, b));
        Ok(names.into_iter().map(|name| folder.join(name)).collect())
    }
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
}
