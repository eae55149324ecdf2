//! What a BERT encoder looks like.

use crate::checkpoint::write_atomic;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use std::path::Path;

/// The largest config.json accepted, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// Sizes and constants of a BERT encoder. Field names are those of Hugging Face's config.json, which
/// [`BertConfig::from_folder`] reads; in a recipe it describes a fresh network, by default a small one for tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BertConfig {
    /// V. Default 2000, as the builtin encoder tokenizer has.
    pub vocab_size: usize,
    /// D. Default 64.
    pub hidden_size: usize,
    /// Number of layers. Default 2.
    pub num_hidden_layers: usize,
    /// H, a divisor of D. Default 4.
    pub num_attention_heads: usize,
    /// F. Default 256.
    pub intermediate_size: usize,
    /// Longest sequence: rows of the position table. Default 256.
    pub max_position_embeddings: usize,
    /// Rows of the segment table, of which only the first is used. Default 2.
    pub type_vocab_size: usize,
    /// Added to the variance in layer normalisation. Default 1e-12.
    pub layer_norm_eps: f64,
    /// Standard deviation of a fresh network's weights. Default 0.02.
    pub initializer_range: f64,
    /// Token that fills short sequences up; its embedding begins at zero. Default 0.
    pub pad_token_id: u32,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 2000,
            hidden_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            intermediate_size: 256,
            max_position_embeddings: 256,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            initializer_range: 0.02,
            pad_token_id: 0,
        }
    }
}

impl BertConfig {
    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    /// Names the file and the key: a `model_type` other than `bert`, an activation other than the exact GELU, relative
    /// positions, a decoder, missing or impossible sizes.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let size = std::fs::metadata(&path).map_err(Error::io(&path))?.len();
        if size > MAX_CONFIG {
            return Err(Error::config(path, "", format!("{size} bytes are too many")));
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let map: Map<String, Json> = serde_json::from_str(&text).map_err(Error::json(&path))?;
        let config = Reader { path: &path, map: &map }.config()?;
        config.validate_as(&path)?;
        Ok(config)
    }

    /// Checks sizes and constants.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        self.validate_as(Path::new("encoder configuration"))
    }

    fn validate_as(&self, path: &Path) -> Result<()> {
        let bad = |key: &str, problem: String| Err(Error::config(path, key, problem));
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1024),
            ("num_attention_heads", self.num_attention_heads, 1024),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 20),
            ("type_vocab_size", self.type_vocab_size, 1 << 16),
        ];
        for (key, size, limit) in sizes {
            if !(1..=limit).contains(&size) {
                return bad(key, format!("{size} is not between 1 and {limit}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return bad(
                "num_attention_heads",
                format!("{} does not divide {}", self.num_attention_heads, self.hidden_size),
            );
        }
        if self.pad_token_id as usize >= self.vocab_size {
            return bad("pad_token_id", format!("{} is not below {}", self.pad_token_id, self.vocab_size));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return bad("layer_norm_eps", format!("{} is not a positive number", self.layer_norm_eps));
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            return bad("initializer_range", format!("{} is not a deviation", self.initializer_range));
        }
        Ok(())
    }

    /// Writes `config.json` for the Python libraries; `dtype` is PyTorch's name for the weights' type.
    pub(super) fn save(&self, dir: &Path, dtype: &str) -> Result<()> {
        let path = dir.join("config.json");
        let config = json!({
            "architectures": ["BertModel"],
            "attention_probs_dropout_prob": 0.1,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "layer_norm_eps": self.layer_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": "bert",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "pad_token_id": self.pad_token_id,
            "position_embedding_type": "absolute",
            "torch_dtype": dtype,
            "type_vocab_size": self.type_vocab_size,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        let text = serde_json::to_string_pretty(&config).map_err(Error::json(&path))?;
        write_atomic(&path, (text + "\n").as_bytes())
    }
}

/// Typed access to a config.json.
struct Reader<'a> {
    path: &'a Path,
    map: &'a Map<String, Json>,
}

impl Reader<'_> {
    fn bad(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::config(self.path, key, problem)
    }

    /// Refuses a key whose value is not the only one that is computed here; absent and null are that value.
    fn only(&self, key: &str, supported: &Json) -> Result<()> {
        match self.map.get(key) {
            None | Some(Json::Null) => Ok(()),
            Some(value) if value == supported => Ok(()),
            Some(value) => Err(self.bad(key, format!("{value} is not supported, only {supported}"))),
        }
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match self.map.get(key) {
            None | Some(Json::Null) => default.ok_or_else(|| self.bad(key, "this key is missing")),
            Some(value) => value
                .as_u64()
                .and_then(|v| usize::try_from(v).ok())
                .ok_or_else(|| self.bad(key, format!("{value} is not a size"))),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.map.get(key) {
            None | Some(Json::Null) => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.bad(key, format!("{value} is not a number"))),
        }
    }

    /// Absent keys get the defaults of the reference library, except for the sizes that every file states.
    fn config(&self) -> Result<BertConfig> {
        if !self.map.contains_key("model_type") {
            return Err(self.bad("model_type", "this key is missing; only \"bert\" is supported"));
        }
        self.only("model_type", &json!("bert"))?;
        self.only("hidden_act", &json!("gelu"))?;
        self.only("position_embedding_type", &json!("absolute"))?;
        self.only("is_decoder", &json!(false))?;
        self.only("add_cross_attention", &json!(false))?;
        let pad = self.size("pad_token_id", Some(0))?;
        Ok(BertConfig {
            vocab_size: self.size("vocab_size", None)?,
            hidden_size: self.size("hidden_size", None)?,
            num_hidden_layers: self.size("num_hidden_layers", None)?,
            num_attention_heads: self.size("num_attention_heads", None)?,
            intermediate_size: self.size("intermediate_size", None)?,
            max_position_embeddings: self.size("max_position_embeddings", Some(512))?,
            type_vocab_size: self.size("type_vocab_size", Some(2))?,
            layer_norm_eps: self.number("layer_norm_eps", 1e-12)?,
            initializer_range: self.number("initializer_range", 0.02)?,
            pad_token_id: u32::try_from(pad)
                .map_err(|_| self.bad("pad_token_id", format!("{pad} is not a token id")))?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(change: impl FnOnce(&mut Map<String, Json>)) -> Result<BertConfig> {
        let dir = tempfile::tempdir().unwrap();
        BertConfig::default().save(dir.path(), "float32").unwrap();
        let path = dir.path().join("config.json");
        let mut map: Map<String, Json> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut map);
        std::fs::write(&path, serde_json::to_vec(&map).unwrap()).unwrap();
        BertConfig::from_folder(dir.path())
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(|_| ()).unwrap(), BertConfig::default());
    }

    #[test]
    fn what_cannot_be_computed_is_named() {
        let cases: [(&str, Json); 8] = [
            ("model_type", json!("roberta")),
            ("hidden_act", json!("gelu_new")),
            ("position_embedding_type", json!("relative_key")),
            ("is_decoder", json!(true)),
            ("num_attention_heads", json!(5)),
            ("hidden_size", json!("64")),
            ("num_hidden_layers", json!(0)),
            ("layer_norm_eps", json!(-1.0)),
        ];
        for (key, value) in cases {
            let error = read(|map| _ = map.insert(key.into(), value)).unwrap_err();
            assert!(matches!(&error, Error::Config { key: found, .. } if found == key), "{error}");
        }
        assert!(matches!(read(|map| _ = map.shift_remove("vocab_size")), Err(Error::Config { .. })));
    }
}
