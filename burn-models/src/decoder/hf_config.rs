//! A decoder's configuration as Hugging Face's config.json.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{Architecture, DecoderConfig, RopeScaling};
use crate::{Error, Result, checkpoint::write_atomic};

/// The largest config.json accepted, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

impl Architecture {
    /// `model_type` and the class name in a config.json.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
            Self::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
            Self::Llama => ("llama", "LlamaForCausalLM"),
        }
    }

    /// The architecture of a config.json's `model_type`.
    fn parse(model_type: &str) -> Option<Self> {
        [Self::Qwen3, Self::Qwen2, Self::Llama].into_iter().find(|a| a.names().0 == model_type)
    }
}

impl DecoderConfig {
    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    /// When it is absent or malformed, when a key is missing or out of range, or when it asks for something that would
    /// change the result and is not supported; file and key are named.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let size = fs::metadata(&path).map_err(Error::io(&path))?.len();
        if size > MAX_CONFIG {
            return Err(Error::config(path, "", format!("{size} bytes are too many")));
        }
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let map: Map<String, Value> = serde_json::from_str(&text).map_err(Error::json(&path))?;
        let config = Reader { path: &path, map: &map }.config()?;
        config.validate_as(&path)?;
        Ok(config)
    }

    /// Writes `config.json` into `dir`, for the Python libraries and [`DecoderConfig::from_folder`]. `dtype` is the
    /// type of the weights beside it: `float32`, `float16` or `bfloat16`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, dir: &Path, dtype: &str) -> Result<()> {
        let (model_type, class) = self.model_type.names();
        let scaling = self.rope_scaling.as_ref().map(
            |RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }| {
                json!({
                    "factor": factor,
                    "high_freq_factor": high_freq_factor,
                    "low_freq_factor": low_freq_factor,
                    "original_max_position_embeddings": *original_max_position_embeddings as u64,
                    "rope_type": "llama3",
                })
            },
        );
        let eos = match self.eos_token_id[..] {
            [] => Value::Null,
            [one] => json!(one),
            ref many => json!(many),
        };
        let mut value = json!({
            "architectures": [class],
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": model_type,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": scaling,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        match self.model_type {
            Architecture::Llama => {
                value["attention_bias"] = json!(false);
                value["mlp_bias"] = json!(false);
            }
            Architecture::Qwen3 => {
                value["attention_bias"] = json!(false);
                value["use_sliding_window"] = json!(false);
            }
            // Its biases are not an option.
            Architecture::Qwen2 => value["use_sliding_window"] = json!(false),
        }
        let path = dir.join("config.json");
        let text = serde_json::to_string_pretty(&value).map_err(Error::json(&path))? + "\n";
        write_atomic(&path, text.as_bytes())
    }
}

/// A config.json about to be understood.
struct Reader<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn bad(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::config(self.path, key, problem)
    }

    /// The value of a key; `null` counts as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (Some(value), _) => (value.as_u64().and_then(|n| usize::try_from(n).ok()))
                .ok_or_else(|| self.bad(key, format!("{value} is not a size"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.bad(key, "missing")),
        }
    }

    fn number(&self, map: &Map<String, Value>, key: &str, default: Option<f64>) -> Result<f64> {
        match (map.get(key).filter(|v| !v.is_null()), default) {
            (Some(value), _) => value.as_f64().ok_or_else(|| self.bad(key, format!("{value} is not a number"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.bad(key, "missing")),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => Err(self.bad(key, format!("{value} is not true or false"))),
        }
    }

    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| {
            let id = v.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| self.bad(key, format!("{v} is not a token id")))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }

    /// Refuses what would change the result.
    fn refuse_unsupported(&self) -> Result<()> {
        for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
            if self.flag(key)? {
                return Err(self.bad(key, "true is not supported"));
            }
        }
        for (key, only) in [("attention_dropout", 0.0), ("partial_rotary_factor", 1.0)] {
            if self.number(self.map, key, Some(only))? != only {
                return Err(self.bad(key, format!("only {only} is supported")));
            }
        }
        if let Some(value) = self.get("quantization_config") {
            return Err(self.bad("quantization_config", format!("quantised weights are not supported: {value}")));
        }
        if let Some(act) = self.get("hidden_act")
            && act != "silu"
        {
            return Err(self.bad("hidden_act", format!("{act} is not supported, only \"silu\"")));
        }
        if let Some(types) = self.get("layer_types")
            && !types.as_array().is_some_and(|types| types.iter().all(|t| t == "full_attention"))
        {
            return Err(self.bad("layer_types", format!("only \"full_attention\" is supported, found {types}")));
        }
        Ok(())
    }

    /// Base and scaling of the rotary frequencies: `rope_theta` and `rope_scaling`, or both in `rope_parameters`.
    fn rope(&self) -> Result<(f64, Option<RopeScaling>)> {
        let key = if self.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
        let theta = self.number(self.map, "rope_theta", Some(10_000.0))?;
        let Some(value) = self.get(key) else { return Ok((theta, None)) };
        let rope = value.as_object().ok_or_else(|| self.bad(key, format!("{value} is not an object")))?;
        let theta = self.number(rope, "rope_theta", Some(theta))?;
        let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str);
        let scaling = match kind {
            Some("default") => None,
            Some("llama3") => Some(RopeScaling::Llama3 {
                factor: self.number(rope, "factor", None)?,
                low_freq_factor: self.number(rope, "low_freq_factor", None)?,
                high_freq_factor: self.number(rope, "high_freq_factor", None)?,
                original_max_position_embeddings: self.number(rope, "original_max_position_embeddings", None)?,
            }),
            other => {
                let found = other.unwrap_or("no rope_type");
                return Err(self.bad(key, format!("{found:?} is not supported, only \"default\" and \"llama3\"")));
            }
        };
        Ok((theta, scaling))
    }

    /// Absent keys get the defaults of the reference library for each family.
    fn config(&self) -> Result<DecoderConfig> {
        let model_type = self.map.get("model_type").and_then(Value::as_str).unwrap_or("");
        let family = Architecture::parse(model_type).ok_or_else(|| {
            self.bad("model_type", format!("{model_type:?} is not supported, only \"qwen3\", \"qwen2\" and \"llama\""))
        })?;
        self.refuse_unsupported()?;
        let hidden_size = self.size("hidden_size", None)?;
        let heads = self.size("num_attention_heads", None)?;
        let absent = |key: &str| !self.map.contains_key(key);
        let head_dim = match family {
            Architecture::Qwen3 if absent("head_dim") => 128,
            _ => self.size("head_dim", hidden_size.checked_div(heads))?,
        };
        let key_value_heads = match family {
            Architecture::Qwen3 | Architecture::Qwen2 if absent("num_key_value_heads") => 32,
            _ => heads,
        };
        let (rope_theta, rope_scaling) = self.rope()?;
        Ok(DecoderConfig {
            model_type: family,
            vocab_size: self.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: self.size("intermediate_size", None)?,
            num_hidden_layers: self.size("num_hidden_layers", None)?,
            num_attention_heads: heads,
            num_key_value_heads: self.size("num_key_value_heads", Some(key_value_heads))?,
            head_dim,
            max_position_embeddings: self
                .size("max_position_embeddings", Some(if family == Architecture::Llama { 2048 } else { 32768 }))?,
            rms_norm_eps: self.number(self.map, "rms_norm_eps", Some(1e-6))?,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: self.flag("tie_word_embeddings")?,
            initializer_range: self.number(self.map, "initializer_range", Some(0.02))?,
            bos_token_id: self.ids("bos_token_id")?.first().copied(),
            eos_token_id: self.ids("eos_token_id")?,
            pad_token_id: self.ids("pad_token_id")?.first().copied(),
        })
    }
}
