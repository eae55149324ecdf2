//! A trained predictor on disk: a folder with `model.safetensors`, under the parameter names of the reference implementation, and
//! `predictor.json` with everything needed to build the network again.

use super::embedded::{EmbeddedData, InputScale, Keys, glow_data};
use super::error::Error;
use super::folder::write_json;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use burn_models::Error as ModelError;
use burn_models::checkpoint::{LoadOptions, SaveOptions, Weights, load, save};
use burn_models::glow::{Dedup, GlowBatch, GlowConfig, GlowPredictor, GlowRecord, GlowTokens, original_name};
use datasets::Split;
use datasets::index::Records;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

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
    /// The name of the data that it was trained on: that of the folder.
    #[serde(default)]
    pub data: String,
    /// What the vectors it was trained on were made with.
    pub embeddings: Keys,
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
        Self {
            model,
            llm_dim: data.llm.width,
            text_dim: data.text.width,
            data: data.name(),
            embeddings: data.keys.clone(),
            inputs,
        }
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
    /// The scores of a split's records, in [0, 1] and in their order. Every batch's distinct workflows are encoded once.
    ///
    /// # Errors
    /// Embeddings that do not fit the predictor, or a split that is not there.
    pub fn score(
        &self,
        data: EmbeddedData,
        split: Split,
        batch_size: usize,
        device: &Device,
    ) -> Result<Vec<f32>, Error> {
        Ok(self.evaluate(data, split, batch_size, None, device)?.scores)
    }

    /// The scores, and the fused vectors of at most `vectors` records, evenly spaced.
    ///
    /// # Errors
    /// As [`StoredPredictor::score`].
    pub fn evaluate(
        &self,
        mut data: EmbeddedData,
        split: Split,
        batch_size: usize,
        vectors: Option<usize>,
        device: &Device,
    ) -> Result<Scored, Error> {
        self.scale(&mut data)?;
        let (workflows, prompts) = (data.workflows(&self.file.model.gnn), data.prompt_rows(&self.file.model)?);
        let mut glow = glow_data(data.records(split)?, workflows, data.tables(device), prompts);
        // Records to be scored need no label, and a batch takes none that is not a number.
        Arc::make_mut(&mut glow.records).iter_mut().for_each(|record| record.label = 0.0);
        Arc::make_mut(&mut glow.targets).fill(0.0);
        let all: Vec<u32> = (0..glow.records.len() as u32).collect();
        let every = vectors.map(|most| all.len().div_ceil(most.max(1)).max(1) as u32);
        let mut found = Scored { scores: Vec::with_capacity(all.len()), records: Vec::new(), vectors: Vec::new() };
        for records in all.chunks(batch_size.max(1)) {
            let item = glow.collate(records, Dedup::Share, device)?;
            let output = self.predictor.forward(&item.batch, &item.tables);
            found.scores.extend(self.scores(output.logits));
            let kept =
                records.iter().enumerate().filter(|(_, record)| every.is_some_and(|every| **record % every == 0));
            let (rows, kept): (Vec<i32>, Vec<usize>) = kept.map(|(row, record)| (row as i32, *record as usize)).unzip();
            if !rows.is_empty() {
                let count = rows.len();
                let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), device);
                found.vectors.extend(output.fused.select(0, rows).into_data().iter::<f32>());
                found.records.extend(kept);
            }
        }
        found.check()?;
        Ok(found)
    }

    /// The scores of some workflows on some tasks, row by row: K·M numbers in [0, 1]. Workflows are numbers into the index's
    /// workflows, tasks into its texts. Each workflow and each task is encoded once; only the fusion sees every pair.
    ///
    /// # Errors
    /// Embeddings that do not fit the predictor.
    pub fn matrix(
        &self,
        mut data: EmbeddedData,
        workflows: &[u32],
        tasks: &[u32],
        batch_size: usize,
        device: &Device,
    ) -> Result<Vec<f32>, Error> {
        self.scale(&mut data)?;
        let Some(any) = tasks.first() else { return Ok(Vec::new()) };
        let batch_size = batch_size.max(1);
        let mut found = Scored { scores: Vec::new(), records: Vec::new(), vectors: Vec::new() };
        let (all, tables) = (data.workflows(&self.file.model.gnn), data.tables(device));
        if let Some(prompts) = data.prompt_rows(&self.file.model)? {
            // The task is in the graph: nothing can be shared.
            let glow = glow_data(&Records::default(), all, tables.clone(), Some(prompts));
            let record =
                |w: u32, t: u32| GlowRecord { workflow: w, llm: w, task: t, label: 0.0, task_id: i64::from(t) };
            let pairs: Vec<GlowRecord> =
                workflows.iter().flat_map(|w| tasks.iter().map(move |t| record(*w, *t))).collect();
            for chunk in pairs.chunks(batch_size) {
                let batch = glow.batch(chunk.to_vec(), Dedup::Share, device)?;
                found.scores.extend(self.scores(self.predictor.forward(&batch, &tables).logits));
            }
            found.check()?;
            return Ok(found.scores);
        }
        let (mut llm, mut graph) = (Vec::new(), Vec::new());
        for chunk in workflows.chunks(batch_size) {
            let record = |w: &u32| GlowRecord { workflow: *w, llm: *w, task: *any, label: 0.0, task_id: 0 };
            let records: Vec<GlowRecord> = chunk.iter().map(record).collect();
            let batch = GlowBatch::new(&records, &all, &tables, Dedup::Share, device)?;
            let tokens = self.predictor.workflow_tokens(&batch, &tables);
            llm.extend(tokens.llm);
            graph.extend(tokens.graph);
        }
        let whole = |parts: Vec<Tensor<2>>| (!parts.is_empty()).then(|| Tensor::cat(parts, 0));
        let (llm, graph) = (whole(llm), whole(graph));
        let rows = |numbers: Vec<i32>| {
            let count = numbers.len();
            Tensor::<1, Int>::from_data(TensorData::new(numbers, [count]), device)
        };
        let texts = tables.text.clone().select(0, rows(tasks.iter().map(|t| *t as i32).collect()));
        let task = self.predictor.task_tokens(texts);

        let pairs: Vec<(i32, i32)> =
            (0..workflows.len() as i32).flat_map(|w| (0..tasks.len() as i32).map(move |t| (w, t))).collect();
        for chunk in pairs.chunks(batch_size) {
            let (of_workflow, of_task): (Vec<i32>, Vec<i32>) = chunk.iter().copied().unzip();
            let (of_workflow, of_task) = (rows(of_workflow), rows(of_task));
            let pick = |tokens: &Option<Tensor<2>>, rows: &Tensor<1, Int>| {
                tokens.as_ref().map(|tokens| tokens.clone().select(0, rows.clone()))
            };
            let tokens = GlowTokens {
                llm: pick(&llm, &of_workflow),
                graph: pick(&graph, &of_workflow),
                task: pick(&task, &of_task),
            };
            found.scores.extend(self.scores(self.predictor.forward_tokens(tokens, chunk.len()).logits));
        }
        found.check()?;
        Ok(found.scores)
    }

    /// Standardises vectors as the predictor wants them.
    fn scale(&self, data: &mut EmbeddedData) -> Result<(), Error> {
        let mine = &self.file.embeddings;
        for (name, wanted, found) in [("llm", &mine.llm, &data.keys.llm), ("text", &mine.text, &data.keys.text)] {
            if wanted != found {
                return Err(Error::Vectors { name, wanted: wanted.clone(), found: found.clone() });
            }
        }
        if let Some(scale) = &self.file.inputs {
            data.standardize(scale);
        }
        Ok(())
    }

    /// Scores in [0, 1]: a regression without a logistic function may leave the range of rates. A NaN stays one.
    fn scores(&self, logits: Tensor<1>) -> Vec<f32> {
        self.predictor.scores(logits).into_data().iter::<f32>().map(|s| s.clamp(0.0, 1.0)).collect()
    }
}

/// What a predictor makes of records.
#[derive(Debug, Clone)]
pub struct Scored {
    /// A score per record.
    pub scores: Vec<f32>,
    /// The records whose fused vectors were kept.
    pub records: Vec<usize>,
    /// These vectors in a row.
    pub vectors: Vec<f32>,
}

impl Scored {
    fn check(&self) -> Result<(), Error> {
        match self.scores.iter().position(|score| score.is_nan()) {
            None => Ok(()),
            Some(at) => {
                let reason = format!("its score of record {at} is not a number: are its weights damaged?");
                Err(Error::Stage { stage: "predictor".into(), reason })
            }
        }
    }
}
