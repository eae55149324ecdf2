//! BERT checkpoints in Hugging Face layout.

use super::config::BertConfig;
use super::model::BertEncoder;
use crate::Result;
use crate::checkpoint::{self, LoadOptions, SaveOptions, Weights};
use burn::tensor::{DType, Device, FloatDType};
use std::path::Path;

/// Names in a checkpoint that the encoder does not use: a table 0, 1, 2, … and the heads of pre-training.
const UNUSED: [&str; 3] = [r"(^|\.)embeddings\.position_ids$", r"^cls\.", r"(^|\.)pooler\."];

/// The name in a checkpoint, without prefix, of a parameter of [`BertEncoder`] by its field path: `layers.0.query.weight`
/// is `encoder.layer.0.attention.self.query.weight`.
pub fn checkpoint_name(path: &str) -> Option<String> {
    let (module, tensor) = path.rsplit_once('.')?;
    let name = match module {
        "word_embeddings" | "position_embeddings" | "token_type_embeddings" => format!("embeddings.{module}"),
        "embedding_norm" => "embeddings.LayerNorm".into(),
        "pooler" => "pooler.dense".into(),
        layer => {
            let (index, part) = layer.strip_prefix("layers.")?.split_once('.')?;
            let part = match part {
                "query" | "key" | "value" => format!("attention.self.{part}"),
                "attention_output" => "attention.output.dense".into(),
                "attention_norm" => "attention.output.LayerNorm".into(),
                "intermediate" => "intermediate.dense".into(),
                "output" => "output.dense".into(),
                "output_norm" => "output.LayerNorm".into(),
                _ => return None,
            };
            format!("encoder.layer.{index}.{part}")
        }
    };
    Some(format!("{name}.{tensor}"))
}

impl BertEncoder {
    /// Reads `config.json` and the safetensors weights (f32, f16 or bf16, with or without the prefix `bert.`), which
    /// become `dtype` on `device`. The pooler is there if the checkpoint has one.
    ///
    /// # Errors
    /// When the configuration is not supported, the weights are malformed or do not fit it, or the device cannot compute in
    /// `dtype`.
    pub fn from_folder(dir: &Path, dtype: FloatDType, device: &Device) -> Result<Self> {
        let config = BertConfig::from_folder(dir)?;
        let weights = Weights::open(dir)?;
        let prefix = if weights.names().any(|name| name.starts_with("bert.")) { "bert." } else { "" };
        let pooler = weights.get(&format!("{prefix}pooler.dense.weight")).is_some();
        let names = |path: &str| checkpoint_name(path).map(|name| format!("{prefix}{name}"));
        let options = LoadOptions { names: &names, dtype, allow_unused: &UNUSED };
        checkpoint::load(config.init(pooler, 0, device)?, &weights, &options)
    }

    /// Writes `config.json` and the weights, for the Python libraries and [`BertEncoder::from_folder`].
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        checkpoint::save(self, dir, &SaveOptions { names: &checkpoint_name, dtype: None, shard_bytes: None })?;
        let dtype = match self.word_embeddings.weight.val().dtype() {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        };
        self.config().save(dir, dtype)
    }
}
