//! Records that are held out.

use super::ChatRecord;
use crate::error::Result;
use crate::json::{kind, wrong};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Records that are held out to evaluate on, in place of files of their own. Which ones follows from what they hold and from
/// the recipe's seed alone, not from their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ChatSplit {
    /// Each record with this probability; equal ones together.
    Fraction(f64),
    /// `Key(name: "id", fraction: 0.05)`: each value under the key `name` with this probability, and all records that have it.
    /// Default fraction 0.05.
    Key {
        /// A key of every record.
        name: String,
        /// The probability.
        #[serde(default = "ChatSplit::default_fraction")]
        fraction: f64,
    },
}

/// The side of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// To train on.
    Train,
    /// To evaluate on.
    HeldOut,
}

impl ChatSplit {
    fn default_fraction() -> f64 {
        0.05
    }

    /// The probability to be held out.
    pub fn fraction(&self) -> f64 {
        match self {
            Self::Fraction(fraction) | Self::Key { fraction, .. } => *fraction,
        }
    }

    /// The side of a record of the file `path`.
    ///
    /// # Errors
    /// Where the record has not the key.
    pub fn side(&self, path: &Path, record: &ChatRecord, seed: u64) -> Result<Side> {
        let mut hasher = blake3::Hasher::new_derive_key("hearth chat split 1");
        hasher.update(&seed.to_le_bytes());
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        match self {
            Self::Fraction(_) => {
                for message in &record.messages {
                    for (key, value) in message.as_map() {
                        add(key);
                        add(&value.to_string());
                    }
                }
                record.tools.iter().flatten().for_each(|tool| add(&tool.to_string()));
                record.plain.iter().for_each(|plain| {
                    add(&plain.prompt);
                    add(&plain.learned);
                });
            }
            Self::Key { name, .. } => match record.extra.get(name) {
                Some(value) if !value.is_null() => add(&value.to_string()),
                other => {
                    let found = other.map_or_else(|| "none".to_owned(), kind);
                    let remedy = "the split is by this key";
                    return Err(wrong(path, record.line, name, "a value in every record", found, remedy));
                }
            },
        }
        let hash = hasher.finalize();
        let number = hash.as_bytes().iter().take(8).fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
        let share = number as f64 / 2f64.powi(64);
        Ok(if share < self.fraction() { Side::HeldOut } else { Side::Train })
    }
}
