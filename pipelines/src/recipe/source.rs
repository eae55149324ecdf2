//! What a stage reads: models, data, the output of an earlier stage, or a path.

use std::fmt;
use std::path::PathBuf;

use burn_models::decoder::{Architecture, DecoderConfig};
use burn_models::encoder::BertConfig;
use datasets::synthetic::SyntheticConfig;
use datasets::synthetic_chats::SyntheticChatsConfig;
use serde::{Deserialize, Serialize};

use super::chat::ChatData;
use super::hub::{HubData, HubModel};

/// A reference to something that a stage reads. Always written with its tag, so that a typing mistake in a name is never
/// taken for a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// An entry of the recipe's `models`.
    Model(String),
    /// An entry of the recipe's `data`.
    Data(String),
    /// The output of an earlier stage of the recipe, by the stage's name.
    Stage(String),
    /// A file or folder; relative paths count from the working directory.
    Path(PathBuf),
    /// A model on a hub, as in `Hub("Qwen/Qwen3-1.7B")`.
    Hub(HubModel),
}

/// As it is written in a recipe: `Stage("sft")`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(key) => write!(f, "Model({key:?})"),
            Self::Data(key) => write!(f, "Data({key:?})"),
            Self::Stage(name) => write!(f, "Stage({name:?})"),
            Self::Path(path) => write!(f, "Path({path:?})"),
            Self::Hub(hub) => hub.fmt(f),
        }
    }
}

/// Where the weights of an entry of `models` come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ModelSource {
    /// A folder in Hugging Face layout: `config.json`, `tokenizer.json`, `model.safetensors` or its shards.
    Path(PathBuf),
    /// A model on a hub, as in `Hub("Qwen/Qwen3-1.7B")`.
    Hub(HubModel),
    /// A fresh model with random weights, drawn from the recipe's seed and the entry's key.
    Init(InitModel),
}

/// The architecture of a fresh model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum InitModel {
    /// A causal language model.
    Decoder(DecoderInit),
    /// A sentence encoder of the BERT family with mean pooling.
    Encoder(EncoderInit),
}

impl InitModel {
    /// The model on a hub whose tokenizer it takes.
    pub fn hub_tokenizer(&self) -> Option<&HubModel> {
        let tokenizer = match self {
            Self::Decoder(init) => &init.tokenizer,
            Self::Encoder(init) => &init.tokenizer,
        };
        match tokenizer {
            TokenizerSource::Hub(hub) => Some(hub),
            _ => None,
        }
    }
}

/// Size of a fresh decoder. Fields are named as in Hugging Face's `config.json`; the vocabulary is the tokenizer's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderInit {
    /// Family: `Qwen3`, `Qwen2` or `Llama`. Default `Qwen3`.
    pub model_type: Architecture,
    /// Width of the residual stream. Default 64.
    pub hidden_size: usize,
    /// Width of the gated feed-forward block. Default 192.
    pub intermediate_size: usize,
    /// Number of layers. Default 2.
    pub num_hidden_layers: usize,
    /// Query heads. Default 4.
    pub num_attention_heads: usize,
    /// Key/value heads; divides `num_attention_heads`. Default 2.
    pub num_key_value_heads: usize,
    /// Width of one head. Default `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Longest sequence in tokens. Default 32768.
    pub max_position_embeddings: usize,
    /// Base of the rotary embedding. Default 1e6.
    pub rope_theta: f64,
    /// Whether the output head is the transposed token embedding. Default true.
    pub tie_word_embeddings: bool,
    /// Default `Builtin`.
    pub tokenizer: TokenizerSource,
}

impl Default for DecoderInit {
    fn default() -> Self {
        Self {
            model_type: Architecture::Qwen3,
            hidden_size: 64,
            intermediate_size: 192,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: None,
            max_position_embeddings: 32_768,
            rope_theta: 1e6,
            tie_word_embeddings: true,
            tokenizer: TokenizerSource::Builtin,
        }
    }
}

impl DecoderInit {
    /// The architecture with a vocabulary. The ids of special tokens are left to whoever has the tokenizer.
    pub fn config(&self, vocab_size: usize) -> DecoderConfig {
        DecoderConfig {
            model_type: self.model_type,
            vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1)),
            max_position_embeddings: self.max_position_embeddings,
            rope_theta: self.rope_theta,
            tie_word_embeddings: self.tie_word_embeddings,
            ..DecoderConfig::default()
        }
    }
}

/// Size of a fresh sentence encoder. Fields are named as in Hugging Face's `config.json`; the vocabulary is the
/// tokenizer's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderInit {
    /// Width of the residual stream, and of the embedding. Default 64.
    pub hidden_size: usize,
    /// Width of the feed-forward block. Default 256.
    pub intermediate_size: usize,
    /// Number of layers. Default 2.
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`. Default 4.
    pub num_attention_heads: usize,
    /// Longest sequence in tokens. Default 512.
    pub max_position_embeddings: usize,
    /// Default `Builtin`.
    pub tokenizer: TokenizerSource,
}

impl Default for EncoderInit {
    fn default() -> Self {
        Self {
            hidden_size: 64,
            intermediate_size: 256,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            max_position_embeddings: 512,
            tokenizer: TokenizerSource::Builtin,
        }
    }
}

impl EncoderInit {
    /// The architecture with a vocabulary. The id of the padding token is left to whoever has the tokenizer.
    pub fn config(&self, vocab_size: usize) -> BertConfig {
        BertConfig {
            vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            max_position_embeddings: self.max_position_embeddings,
            ..BertConfig::default()
        }
    }
}

/// The tokenizer of a fresh model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenizerSource {
    /// The small one that ships with Hearth: byte-level BPE for a decoder, WordPiece for an encoder.
    #[default]
    Builtin,
    /// A folder with a `tokenizer.json`.
    Path(PathBuf),
    /// That of a model on a hub.
    Hub(HubModel),
}

/// Where the records of an entry of `data` come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DataSource {
    /// A folder with `train.jsonl`, `val.jsonl` and `test.jsonl` in the record format of FLORA-Bench. Instead of each there may be
    /// shards, `train_*.jsonl` or `train-00000-of-00003.jsonl`, read as one; each may be compressed: `.jsonl.zst`.
    Flora(PathBuf),
    /// Generated FLORA records with planted rules.
    Synthetic(SyntheticConfig),
    /// Generated chats that answer questions by searching, as GAP's do: replies with plans, searches and observations.
    SyntheticChats(SyntheticChatsConfig),
    /// Chats: `Chat("chats.jsonl")`, several files by a pattern, `Chat("chats/*.jsonl")`, or a folder with `train.jsonl` and, to
    /// evaluate on, `val.jsonl` or `test.jsonl`; with more fields of any usual format, as a mixture, or from a registry.
    #[serde(deserialize_with = "super::chat::short")]
    Chat(Box<ChatData>),
    /// Data on a hub, as in `Hub(repo: "org/name", folder: "Coding-AF")`.
    Hub(HubData),
}
