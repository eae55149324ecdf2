//! Decoders and their adapters from and into folders.

use std::path::Path;

use burn::tensor::{DType, Device, FloatDType};
use burn_lora::{LoraConfig, Projections, Quantization, read_adapter, write_adapter};

use super::config::DecoderConfig;
use super::model::Decoder;
use crate::checkpoint::{self, LoadOptions, SaveOptions, Weights};
use crate::{Error, Result};

/// How a decoder is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveModel {
    /// The type to write; `None` keeps the parameters' own.
    pub dtype: Option<FloatDType>,
    /// Split the weights into several files when they take more bytes than this.
    pub shard_bytes: Option<u64>,
}

/// Everything but adapters belongs to a checkpoint; parameter paths are its names.
fn base_name(path: &str) -> Option<String> {
    (!path.contains(".lora.")).then(|| path.to_string())
}

impl Decoder {
    /// Reads a folder in Hugging Face layout: `config.json` and safetensors weights in f32, f16 or bf16, which become
    /// `dtype` on `device`.
    ///
    /// # Errors
    /// When the configuration is not supported, the weights are malformed or do not fit it, or the device cannot compute in
    /// `dtype`.
    pub fn from_folder(dir: &Path, dtype: FloatDType, device: &Device) -> Result<Self> {
        let config = DecoderConfig::from_folder(dir)?;
        let tied = config.tie_word_embeddings;
        let model = config.init(0, dtype, device)?;
        // Old files hold the rotary frequencies, and some tied ones the head beside the table.
        let unused: &[&str] =
            if tied { &[r"rotary_emb\.inv_freq$", r"^lm_head\.weight$"] } else { &[r"rotary_emb\.inv_freq$"] };
        let options = LoadOptions { names: &base_name, dtype, allow_unused: unused };
        checkpoint::load(model, &Weights::open(dir)?, &options)
    }

    /// Writes `config.json` and the weights into `dir`, for the Python libraries and [`Decoder::from_folder`].
    ///
    /// # Errors
    /// When there are adapters (merge them, or save them by themselves), or when the disk refuses.
    pub fn save(&self, dir: &Path, options: &SaveModel) -> Result<()> {
        if self.lora.is_some() {
            return Err(Error::Input("the decoder has adapters: merge them or save them by themselves".into()));
        }
        let names = SaveOptions { names: &base_name, dtype: options.dtype, shard_bytes: options.shard_bytes };
        checkpoint::save(self, dir, &names)?;
        let dtype = match options.dtype.map_or(self.dtype(), DType::from) {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        };
        self.config().save(dir, dtype)
    }

    /// Freezes the decoder and attaches fresh trainable adapters, which change nothing yet.
    ///
    /// # Errors
    /// When a setting is out of range, a target matches nothing, or there are adapters already.
    pub fn attach_lora(self, config: &LoraConfig, seed: u64) -> Result<Self> {
        let mut model = burn_lora::attach(self, config, seed)?;
        model.lora = Some(config.clone());
        Ok(model)
    }

    /// Stores the weights of all linear layers but the head in fewer bits; adapters stay as they are.
    ///
    /// # Errors
    /// When a layer's rows cannot be cut into blocks.
    pub fn quantize(mut self, quantization: Quantization) -> Result<Self> {
        for (_, linear) in self.projections_mut() {
            linear.quantize(quantization)?;
        }
        Ok(self)
    }

    /// The settings of the attached adapters.
    pub fn adapters(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    /// Freezes the decoder and attaches the adapter in `dir`, in PEFT's files.
    ///
    /// # Errors
    /// When the files are malformed or do not fit this decoder, or there are adapters already.
    pub fn load_adapter(self, dir: &Path) -> Result<Self> {
        let (mut model, config) = read_adapter(self, dir)?;
        model.lora = Some(config);
        Ok(model)
    }

    /// Writes the adapters as PEFT would. `base` is the name or path of the base model to note.
    ///
    /// # Errors
    /// When there are none, or when the disk refuses.
    pub fn save_adapter(&self, dir: &Path, base: Option<&str>) -> Result<()> {
        let config = self.lora.as_ref().ok_or(burn_lora::Error::State("there is no adapter to save"))?;
        Ok(write_adapter(self, config, base, dir)?)
    }

    /// Adds the adapters to the weights, in f32 with one rounding, and removes them. The decoder stays frozen.
    ///
    /// # Errors
    /// When there are none.
    pub fn merge_lora(self) -> Result<Self> {
        let mut model = burn_lora::merge(self)?;
        model.lora = None;
        Ok(model)
    }
}
