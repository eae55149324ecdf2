//! A trained predictor on disk: a folder with `model.safetensors`, under the parameter names of the reference implementation, and
//! `predictor.json` with everything needed to build the network again.

use super::error::Error;
use super::folder::write_json;
use crate::learners::GlowData;
use burn::tensor::{Device, FloatDType};
use burn_models::checkpoint::{LoadOptions, SaveOptions, Weights, load, save};
use burn_models::glow::{Dedup, GlowConfig, GlowPredictor, GlowTables, original_name};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The shape of a predictor (`predictor.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictorFile {
    /// The network's settings.
    pub model: GlowConfig,
    /// Width of the language model's vectors.
    pub llm_dim: usize,
    /// Width of the sentence vectors.
    pub text_dim: usize,
}

/// A predictor read from disk.
pub struct StoredPredictor {
    /// The network, without autodiff.
    pub predictor: GlowPredictor,
    /// Its shape.
    pub file: PredictorFile,
}

const FILE: &str = "predictor.json";

impl PredictorFile {
    /// The shape for these settings and tables.
    pub fn new(model: GlowConfig, tables: &GlowTables) -> Self {
        Self { model, llm_dim: tables.llm.dims()[1], text_dim: tables.text.dims()[1] }
    }

    /// A fresh predictor; all its numbers are drawn from `seed`.
    ///
    /// # Errors
    /// Settings that do not fit together.
    pub fn init(&self, seed: u64, device: &Device) -> Result<GlowPredictor, Error> {
        device.seed(seed);
        Ok(self.model.init(self.llm_dim, self.text_dim, device)?)
    }

    /// Writes a predictor of this shape into `folder`, which counts as written once `predictor.json` is there.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn save(&self, predictor: &GlowPredictor, folder: &Path) -> Result<(), Error> {
        save(predictor, folder, &SaveOptions { names: &original_name, dtype: None, shard_bytes: None })?;
        write_json(&folder.join(FILE), self)
    }

    /// Reads a predictor from its folder.
    ///
    /// # Errors
    /// Missing or damaged files, by name.
    pub fn load(folder: &Path, device: &Device) -> Result<StoredPredictor, Error> {
        let path = folder.join(FILE);
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        let file: Self = serde_json::from_slice(&text).map_err(|e| Error::io(&path)(e.into()))?;
        let predictor = file.init(0, device)?;
        let options = LoadOptions { names: &original_name, dtype: FloatDType::F32, allow_unused: &[] };
        Ok(StoredPredictor { predictor: load(predictor, &Weights::open(folder)?, &options)?, file })
    }
}

/// The scores of all records, in their order. Every batch's distinct workflows are encoded once.
///
/// # Errors
/// Embeddings that do not fit the predictor.
pub fn score(
    predictor: &GlowPredictor,
    data: &GlowData,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<f32>, Error> {
    predictor.check_tables(&data.tables)?;
    let mut scores = Vec::with_capacity(data.records.len());
    let all: Vec<u32> = (0..data.records.len() as u32).collect();
    for records in all.chunks(batch_size.max(1)) {
        let item = data.collate(records, Dedup::Share, device)?;
        let output = predictor.forward(&item.batch, &item.tables);
        scores.extend(predictor.scores(output.logits).into_data().iter::<f32>());
    }
    Ok(scores)
}
