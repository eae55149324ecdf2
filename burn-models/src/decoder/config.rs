//! What a decoder looks like.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A family of decoders. They differ in the biases and norms of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Architecture {
    /// RMSNorm on each head's queries and keys; no biases.
    #[serde(alias = "qwen3")]
    Qwen3,
    /// Biases on queries, keys and values.
    #[serde(alias = "qwen2")]
    Qwen2,
    /// Neither; Llama 2 and 3.
    #[serde(alias = "llama")]
    Llama,
}

/// How rotary frequencies are changed for contexts longer than those of pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum RopeScaling {
    /// Llama 3: wavelengths above `original_max_position_embeddings / low_freq_factor` are stretched by `factor`, those
    /// below `… / high_freq_factor` stay, those between are interpolated.
    Llama3 {
        /// By how much long wavelengths are stretched.
        factor: f64,
        /// Bound of the long wavelengths.
        low_freq_factor: f64,
        /// Bound of the short wavelengths.
        high_freq_factor: f64,
        /// Context length of pre-training.
        original_max_position_embeddings: f64,
    },
}

/// Sizes and constants of a decoder. Field names are those of Hugging Face's config.json, which [`DecoderConfig::from_folder`]
/// reads; in a recipe it describes a fresh network, by default a small one for tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecoderConfig {
    /// Family. Default Qwen3.
    pub model_type: Architecture,
    /// V. Default 4096.
    pub vocab_size: usize,
    /// D. Default 128.
    pub hidden_size: usize,
    /// F. Default 384.
    pub intermediate_size: usize,
    /// Number of blocks. Default 4.
    pub num_hidden_layers: usize,
    /// H. Default 8.
    pub num_attention_heads: usize,
    /// K, a divisor of H. Default 4.
    pub num_key_value_heads: usize,
    /// C, even. Default 16.
    pub head_dim: usize,
    /// Longest sequence. Default 8192.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm. Default 1e-6.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies. Default 1e6.
    pub rope_theta: f64,
    /// Change of the rotary frequencies. Default none.
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the output head is the embedding table. Default true.
    pub tie_word_embeddings: bool,
    /// Standard deviation of a fresh network's weights. Default 0.02.
    pub initializer_range: f64,
    /// First token of a sequence, if the family has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generated text.
    pub eos_token_id: Vec<u32>,
    /// Token that fills short sequences up.
    pub pad_token_id: Option<u32>,
}

impl Default for DecoderConfig {
    fn default() -> Self {
        Self {
            model_type: Architecture::Qwen3,
            vocab_size: 4096,
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 4,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            head_dim: 16,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            rope_scaling: None,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            bos_token_id: None,
            eos_token_id: Vec::new(),
            pad_token_id: None,
        }
    }
}

impl DecoderConfig {
    /// Whether queries, keys and values have biases.
    pub fn qkv_bias(&self) -> bool {
        self.model_type == Architecture::Qwen2
    }

    /// Whether queries and keys are normalised per head.
    pub fn qk_norm(&self) -> bool {
        self.model_type == Architecture::Qwen3
    }

    /// Checks sizes and constants.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        self.validate_as(Path::new("decoder configuration"))
    }

    pub(super) fn validate_as(&self, path: &Path) -> Result<()> {
        let bad = |key: &str, problem: String| Err(Error::config(path, key, problem));
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, 1024),
            ("num_attention_heads", self.num_attention_heads, 1024),
            ("num_key_value_heads", self.num_key_value_heads, 1024),
            ("head_dim", self.head_dim, 1024),
            // Positions are exact in f32 up to here.
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
        ];
        for (key, size, limit) in sizes {
            if !(1..=limit).contains(&size) {
                return bad(key, format!("{size} is not between 1 and {limit}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let problem = format!("{} does not divide {} heads", self.num_key_value_heads, self.num_attention_heads);
            return bad("num_key_value_heads", problem);
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", format!("{} is odd; rotary positions turn pairs", self.head_dim));
        }
        let positive = [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)];
        for (key, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return bad(key, format!("{value} is not a positive number"));
            }
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            return bad("initializer_range", format!("{} is not a deviation", self.initializer_range));
        }
        if let Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) = self.rope_scaling
        {
            let all = [factor, low_freq_factor, high_freq_factor, original_max_position_embeddings];
            if !all.iter().all(|v| v.is_finite() && *v > 0.0) || high_freq_factor <= low_freq_factor {
                return bad(
                    "rope_scaling",
                    "expected positive numbers and high_freq_factor above low_freq_factor".into(),
                );
            }
        }
        let ids = [("bos_token_id", self.bos_token_id.as_slice()), ("eos_token_id", &self.eos_token_id)];
        for (key, ids) in ids.into_iter().chain([("pad_token_id", self.pad_token_id.as_slice())]) {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
                return bad(key, format!("{id} is outside the vocabulary of {}", self.vocab_size));
            }
        }
        Ok(())
    }
}
