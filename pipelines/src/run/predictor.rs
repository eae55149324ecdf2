//! A trained predictor on disk: a folder with `model.safetensors`, under the parameter names of the reference implementation, and
//! `predictor.json` with everything needed to build the network again.

use super::embedded::{EmbeddedData, InputScale, glow_data};
use super::error::Error;
use super::folder::write_json;
use burn::tensor::{Device, FloatDType};
use burn_models::Error as ModelError;
use burn_models::checkpoint::{LoadOptions, SaveOptions, Weights, load, save};
use burn_models::glow::{Dedup, GlowConfig, GlowPredictor, original_name};
use datasets::Split;
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
    /// How the vectors are standardised before the network sees them, if they are.
    pub inputs: Option<InputScale>,
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
    /// The shape for these settings and data.
    pub fn new(model: GlowConfig, data: &EmbeddedData, inputs: Option<InputScale>) -> Self {
        Self { model, llm_dim: data.llm.width, text_dim: data.text.width, inputs }
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
        let weights = Weights::open(folder)?;
        file.check(&path, &weights)?;
        let predictor = file.init(0, device)?;
        let options = LoadOptions { names: &original_name, dtype: FloatDType::F32, allow_unused: &[] };
        Ok(StoredPredictor { predictor: load(predictor, &weights, &options)?, file })
    }

    /// Whether `predictor.json` speaks of the weights beside it: a network is only made when it does, because one of any size
    /// could be asked for.
    fn check(&self, path: &Path, weights: &Weights) -> Result<(), Error> {
        let wrong = |key: &str, problem: String| Err(Error::Model(ModelError::config(path, key, problem)));
        if let Err(ModelError::Config { key, problem, .. }) = self.model.validate() {
            return wrong(&format!("model.{key}"), problem);
        }
        let widths = [
            ("model.hidden_dim", self.model.hidden_dim, "pred_token"),
            ("llm_dim", self.llm_dim, "llm_projector.0.weight"),
            ("text_dim", self.text_dim, "task_projector.0.weight"),
        ];
        for (key, value, name) in widths {
            let found = weights.get(name).and_then(|info| info.shape.last());
            if let Some(found) = found.filter(|found| **found != value) {
                return wrong(key, format!("{value}, but `{name}` in the weights has {found}"));
            }
        }
        let scales = self.inputs.iter().flat_map(|inputs| {
            [("inputs.llm", &inputs.llm, self.llm_dim), ("inputs.text", &inputs.text, self.text_dim)]
        });
        for (key, scale, width) in scales {
            let usable = scale.mean.len() == width
                && scale.deviation.len() == width
                && scale.mean.iter().all(|mean| mean.is_finite())
                && scale.deviation.iter().all(|deviation| deviation.is_finite() && *deviation > 0.0);
            if !usable {
                return wrong(key, format!("expected {width} means and as many deviations above 0"));
            }
        }
        Ok(())
    }
}

impl StoredPredictor {
    /// The scores of a split's records, in their order. Every batch's distinct workflows are encoded once.
    ///
    /// # Errors
    /// Embeddings that do not fit the predictor, or a split that is not there.
    pub fn score(
        &self,
        mut data: EmbeddedData,
        split: Split,
        batch_size: usize,
        device: &Device,
    ) -> Result<Vec<f32>, Error> {
        let found = (data.llm.width, data.text.width);
        let wanted = (self.file.llm_dim, self.file.text_dim);
        if found != wanted {
            let reason = format!(
                "it was trained on vectors of widths {} and {}, these have {} and {}: embed with the same models",
                wanted.0, wanted.1, found.0, found.1
            );
            return Err(Error::Stage { stage: "predictor".into(), reason });
        }
        if let Some(scale) = &self.file.inputs {
            data.standardize(scale);
        }
        let glow = glow_data(data.records(split)?, data.workflows(), data.tables(device));
        let mut scores = Vec::with_capacity(glow.records.len());
        let all: Vec<u32> = (0..glow.records.len() as u32).collect();
        for records in all.chunks(batch_size.max(1)) {
            let item = glow.collate(records, Dedup::Share, device)?;
            let output = self.predictor.forward(&item.batch, &item.tables);
            scores.extend(self.predictor.scores(output.logits).into_data().iter::<f32>());
        }
        Ok(scores)
    }
}
