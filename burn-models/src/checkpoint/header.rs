//! The header of a safetensors file.
//!
//! Layout (format documentation of the safetensors project): a little-endian u64 with the header's length, the header
//! as JSON (`name → {dtype, shape, data_offsets}` and an optional `__metadata__`), then the tensors' bytes without gaps.
//! This reader trusts nothing: every length is checked against the file before it is used.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::{Error, Result};

/// The longest header accepted, in bytes; the same limit as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// The highest rank accepted.
const MAX_RANK: usize = 16;

/// The element types a safetensors file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// An integer or boolean type, by its name in the file and its size in bytes. Never a network's weight.
    Other(&'static str, usize),
}

impl Dtype {
    /// Every name of the format whose elements fill whole bytes.
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "F64" => Self::F64,
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::BF16,
            "I64" => Self::Other("I64", 8),
            "U64" => Self::Other("U64", 8),
            "I32" => Self::Other("I32", 4),
            "U32" => Self::Other("U32", 4),
            "I16" => Self::Other("I16", 2),
            "U16" => Self::Other("U16", 2),
            "I8" => Self::Other("I8", 1),
            "U8" => Self::Other("U8", 1),
            "BOOL" => Self::Other("BOOL", 1),
            "F8_E4M3" => Self::Other("F8_E4M3", 1),
            "F8_E5M2" => Self::Other("F8_E5M2", 1),
            _ => return None,
        })
    }

    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Other(name, _) => name,
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Other(_, size) => size,
        }
    }
}

/// Where one tensor lies in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, as in the file.
    pub shape: Vec<usize>,
    /// Index of the file in the checkpoint.
    pub(super) file: usize,
    /// The bytes, counted from the beginning of the file.
    pub(super) range: Range<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header as it stands, duplicates kept so that they can be refused.
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map from tensor names to their description")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
                let mut tensors = Vec::new();
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("`{name}` appears twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(RawHeader { tensors })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Reads and checks the header of a mapped file.
///
/// # Errors
/// [`Error::Safetensors`] when the file is not a complete, well-formed safetensors file, [`Error::Tensor`] when one
/// entry is impossible.
pub(super) fn read(path: &Path, bytes: &[u8], file: usize) -> Result<Vec<(String, TensorInfo)>> {
    let bad = |problem: String| Error::Safetensors { path: path.to_path_buf(), problem };
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(bad("a Git LFS pointer instead of the file: run `git lfs pull` in its folder".into()));
    }
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(format!("{} bytes are too few for a safetensors file: copy it again", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(bad(format!("a header of {length} bytes; is this a safetensors file?")));
    }
    let header = usize::try_from(length).ok().and_then(|n| rest.get(..n)).ok_or_else(|| {
        let after = rest.len();
        bad(format!("truncated: the header should have {length} bytes, the file ends after {after}: copy it again"))
    })?;
    let raw: RawHeader = serde_json::from_slice(header).map_err(|e| bad(format!("header: {e}")))?;

    let start = 8 + header.len();
    let available = bytes.len() - start;
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, raw) in raw.tensors {
        let bad = |problem: String| Error::Tensor { path: path.to_path_buf(), name: name.clone(), problem };
        let dtype = Dtype::parse(&raw.dtype).ok_or_else(|| bad(format!("unknown dtype {:?}", raw.dtype)))?;
        if raw.shape.len() > MAX_RANK {
            return Err(bad(format!("rank {} is above {MAX_RANK}", raw.shape.len())));
        }
        let size = raw.shape.iter().try_fold(dtype.size() as u64, |n, &d| n.checked_mul(d));
        let [begin, end] = raw.data_offsets;
        if size.is_none() || end.checked_sub(begin) != size {
            return Err(bad(format!("shape {:?} of {} does not fit offsets {begin}..{end}", raw.shape, raw.dtype)));
        }
        if end > available as u64 {
            return Err(bad(format!("truncated: its bytes end at {end}, the file holds {available}: copy it again")));
        }
        let shape = raw.shape.iter().map(|&d| d as usize).collect();
        let range = start + begin as usize..start + end as usize;
        tensors.push((name, TensorInfo { dtype, shape, file, range }));
    }

    tensors.sort_by_key(|(_, info)| (info.range.start, info.range.end));
    let mut expected = start;
    for (name, info) in &tensors {
        if info.range.start != expected {
            let problem = format!("its bytes begin at {}, expected {}", info.range.start - start, expected - start);
            return Err(Error::Tensor { path: path.to_path_buf(), name: name.clone(), problem });
        }
        expected = info.range.end;
    }
    if expected != bytes.len() {
        return Err(bad(format!("{} bytes after the last tensor", bytes.len() - expected)));
    }
    Ok(tensors)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    }

    fn problem(header: &str, data: usize) -> String {
        read(Path::new("x"), &file(header, data), 0).unwrap_err().to_string()
    }

    #[test]
    fn well_formed() {
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let tensors = read(Path::new("x"), &file(header, 12), 3).unwrap();
        assert_eq!(tensors[0].0, "a");
        assert_eq!(tensors[1].1.shape, [2, 1]);
        assert_eq!((tensors[1].1.dtype, tensors[1].1.file), (Dtype::BF16, 3));
        assert_eq!(tensors[1].1.range.len(), 4);
    }

    #[test]
    fn malformed() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        assert!(problem(&one("F32", "[2]", "[0,8]"), 4).contains("truncated"));
        assert!(problem(&one("F32", "[2]", "[0,8]"), 9).contains("1 bytes after"));
        assert!(problem(&one("F32", "[2]", "[4,12]"), 12).contains("expected 0"));
        assert!(problem(&one("F32", "[3]", "[0,8]"), 8).contains("does not fit"));
        assert!(problem(&one("F32", "[2]", "[8,0]"), 8).contains("does not fit"));
        assert!(problem(&one("F7", "[2]", "[0,8]"), 8).contains("unknown dtype \"F7\""));
        assert!(problem(&one("F32", "[4294967296,4294967296]", "[0,0]"), 0).contains("does not fit"));
        assert!(problem("{", 0).contains("header"));
        let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        assert!(problem(&format!(r#"{{"a":{tensor},"a":{tensor}}}"#), 4).contains("appears twice"));
        assert!(problem(&format!(r#"{{"a":{tensor},"b":{tensor}}}"#), 4).contains("expected 4"));
        assert!(read(Path::new("x"), b"abc", 0).is_err());
        assert!(read(Path::new("x"), &u64::MAX.to_le_bytes(), 0).unwrap_err().to_string().contains("header of"));
        assert!(read(Path::new("x"), &9u64.to_le_bytes(), 0).unwrap_err().to_string().contains("truncated"));
    }
}
