//! Supervised training of the GLOW predictor.

use super::epochs::Epochs;
use crate::eval::classification::{ClassReport, Confusion};
use crate::eval::{ScoredRecord, UtilityOptions, utility};
use crate::train::{Batches, MetricSpec, Scores, Task, stream};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use burn_models::glow::{
    ContrastConfig, Dedup, GlowBatch, GlowPredictor, GlowRecord, GlowTables, GlowWorkflow, PromptRows, RegressionTarget,
};
use std::collections::HashMap;
use std::sync::Arc;

/// The predictor with what its loss and its scores need.
#[derive(Module, Debug)]
pub struct GlowTask {
    /// The network.
    pub predictor: GlowPredictor,
    #[module(skip)]
    settings: GlowTaskSettings,
}

/// What [`GlowTask`] knows beside its network.
#[derive(Clone, Debug)]
pub struct GlowTaskSettings {
    /// Weight of the prediction loss beside the contrastive one.
    pub pred_weight: f64,
    /// A score above it predicts 1.
    pub threshold: f64,
    /// The records of the validation split in their order, without scores.
    pub valid: Arc<Vec<ScoredRecord>>,
}

impl GlowTask {
    /// A predictor and what its training needs beside it.
    pub fn new(predictor: GlowPredictor, settings: GlowTaskSettings) -> Self {
        Self { predictor, settings }
    }

    /// The loss; all scores, shape [5], in the order of [`Task::SCORES`]; and the predictions [B].
    fn evaluate(&self, item: &GlowItem) -> (Tensor<1>, Scores, Tensor<1>) {
        let output = self.predictor.forward(&item.batch, &item.tables);
        let loss = self.predictor.loss(&output, &item.batch, self.settings.pred_weight);
        let predicted = self.predictor.scores(output.logits).without_autodiff();
        let truth = item.batch.labels.clone().without_autodiff().greater_equal_scalar(0.5);
        let right = predicted.clone().greater_scalar(self.settings.threshold).equal(truth);
        let active = Tensor::from_floats([loss.active_tasks as f32], &predicted.device());
        let [total, prediction, contrast] =
            [loss.total.clone(), loss.prediction, loss.contrast].map(Tensor::without_autodiff);
        let values = Tensor::cat(vec![total, prediction, contrast, active, right.float().mean()], 0);
        (loss.total, Scores::on_device(values, item.batch.len() as f64, 0), predicted)
    }
}

impl Task for GlowTask {
    const SCORES: &'static [MetricSpec] = &[
        MetricSpec::new("loss", "Loss", false),
        MetricSpec::new("prediction_loss", "Prediction loss", false),
        MetricSpec::new("contrast_loss", "Contrast loss", false),
        MetricSpec::new("active_tasks", "Contrasted tasks", true),
        MetricSpec::new("accuracy", "Accuracy", true),
    ];

    const SUMMARY: &'static [MetricSpec] =
        &[MetricSpec::new("macro_f1", "Macro F1", true), MetricSpec::new("utility", "Utility", true)];

    /// Macro F1, and the published utility (which breaks ties by the truth), over the validation split.
    fn summarize(&self, outputs: &[f64]) -> Vec<f64> {
        if outputs.len() != self.settings.valid.len() || outputs.iter().any(|score| score.is_nan()) {
            return vec![f64::NAN; Self::SUMMARY.len()];
        }
        let threshold = self.settings.threshold;
        let scored = |(record, score): (&ScoredRecord, &f64)| ScoredRecord { score: *score, ..*record };
        let records: Vec<ScoredRecord> = self.settings.valid.iter().zip(outputs).map(scored).collect();
        let classes = Confusion::count(records.iter().map(|r| (r.label >= 0.5, r.score > threshold)));
        let utility = utility::published(&records, threshold, &UtilityOptions::default());
        vec![ClassReport::new(&classes).avg_f1, utility.utility.unwrap_or(f64::NAN)]
    }
}

/// A batch and the tables its row numbers point into.
#[derive(Clone, Debug)]
pub struct GlowItem {
    /// The records.
    pub batch: GlowBatch,
    /// The embeddings.
    pub tables: GlowTables,
}

impl TrainStep for GlowTask {
    type Input = GlowItem;
    type Output = Scores;

    fn step(&self, item: GlowItem) -> TrainOutput<Scores> {
        let (loss, scores, _) = self.evaluate(&item);
        TrainOutput::new(self, loss.backward(), scores)
    }
}

impl InferenceStep for GlowTask {
    type Input = GlowItem;
    type Output = Scores;

    fn step(&self, item: GlowItem) -> Scores {
        let (_, scores, predicted) = self.evaluate(&item);
        scores.with_outputs(predicted)
    }
}

/// A split's records with the workflows and embeddings that they point into.
#[derive(Clone, Debug)]
pub struct GlowData {
    /// The records.
    pub records: Arc<Vec<GlowRecord>>,
    /// What a rate is fitted to, for every record.
    pub targets: Arc<Vec<f32>>,
    /// The distinct workflows.
    pub workflows: Arc<Vec<GlowWorkflow>>,
    /// The embeddings, on a device without autodiff.
    pub tables: GlowTables,
    /// Where the vectors of prompt nodes are in them, if each record's graph gets some.
    pub prompts: Option<PromptRows>,
    /// For every record its line in the split's files, from 1, and its workflow's number there.
    pub places: Arc<Vec<(u32, i64)>>,
}

impl GlowData {
    /// Collates some of the records.
    ///
    /// # Errors
    /// Where a record points nowhere.
    pub fn collate(&self, records: &[u32], dedup: Dedup, device: &Device) -> burn_models::Result<GlowItem> {
        let targets: Vec<f32> = records.iter().map(|r| self.targets[*r as usize]).collect();
        let records: Vec<GlowRecord> = records.iter().map(|r| self.records[*r as usize]).collect();
        let batch = self.batch(records, dedup, device)?.with_targets(&targets)?;
        Ok(GlowItem { batch, tables: self.tables.clone() })
    }

    /// Collates records of these workflows and tables.
    ///
    /// # Errors
    /// Where one points nowhere.
    pub fn batch(&self, mut records: Vec<GlowRecord>, dedup: Dedup, device: &Device) -> burn_models::Result<GlowBatch> {
        let Some(rows) = &self.prompts else {
            return GlowBatch::new(&records, &self.workflows, &self.tables, dedup, device);
        };
        // A graph for each pair of a workflow and a task.
        let (mut pairs, mut graphs) = (HashMap::new(), Vec::new());
        for record in &mut records {
            let workflow = record.workflow as usize;
            record.workflow = *pairs.entry((workflow, record.task)).or_insert_with(|| {
                graphs.push(self.workflows[workflow].with_prompt_nodes(record.task, rows));
                graphs.len() as u32 - 1
            });
        }
        GlowBatch::new(&records, &graphs, &self.tables, dedup, device)
    }

    /// The split with the targets of its rates; `train` is the training split.
    pub fn with_targets(mut self, target: RegressionTarget, train: &Self) -> Self {
        if target == RegressionTarget::WorkflowRate {
            let (known, own) = (train.workflow_rates(), self.workflow_rates());
            let rate = |record: &GlowRecord| {
                let workflow = &record.workflow;
                known.get(workflow).or_else(|| own.get(workflow)).map_or(record.label, |rate| *rate)
            };
            self.targets = Arc::new(self.records.iter().map(rate).collect());
        }
        self
    }

    /// The mean label of every workflow that has records here.
    fn workflow_rates(&self) -> HashMap<u32, f32> {
        let mut sums: HashMap<u32, (f64, f64)> = HashMap::new();
        for record in self.records.iter() {
            let (sum, count) = sums.entry(record.workflow).or_default();
            *sum += f64::from(record.label);
            *count += 1.0;
        }
        sums.into_iter().map(|(workflow, (sum, count))| (workflow, (sum / count) as f32)).collect()
    }

    /// The records with their truth, to be scored.
    pub fn unscored(&self) -> Vec<ScoredRecord> {
        let record = |(record, (_, workflow_id)): (&GlowRecord, &(u32, i64))| ScoredRecord {
            workflow_id: *workflow_id,
            task_id: record.task_id,
            label: f64::from(record.label),
            score: 0.0,
        };
        self.records.iter().zip(self.places.iter()).map(record).collect()
    }

    fn names(&self, records: &[u32]) -> Vec<String> {
        let name = |record: &u32| {
            let (line, workflow) = self.places[*record as usize];
            format!("line {line}: workflow_id {workflow}, task_id {}", self.records[*record as usize].task_id)
        };
        records.iter().map(name).collect()
    }
}

/// Who is contrasted in the batches of a split.
#[derive(Clone, Debug)]
pub struct Contrast {
    /// The settings.
    pub config: ContrastConfig,
    /// Names the triplets that are drawn, together with the number of the batch.
    pub seed: u64,
}

impl Contrast {
    fn group(contrast: Option<&Self>, item: GlowItem, index: usize) -> burn_models::Result<GlowItem> {
        let Some(Self { config, seed }) = contrast else { return Ok(item) };
        let batch = item.batch.with_contrast(config, stream(*seed, "contrast", &[index as u64]))?;
        Ok(GlowItem { batch, ..item })
    }
}

/// The batches of a training.
pub struct GlowBatches {
    data: GlowData,
    contrast: Option<Contrast>,
    epochs: Epochs,
    len: usize,
}

impl GlowBatches {
    /// `count` passes over the data.
    pub fn new(data: GlowData, contrast: Option<Contrast>, epochs: Epochs, count: usize) -> Self {
        let len = epochs.per_epoch() * count;
        Self { data, contrast, epochs, len }
    }
}

impl Batches<GlowItem> for GlowBatches {
    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, index: usize, device: &Device) -> Result<GlowItem, String> {
        // Records that shared a workflow's encoding would share its dropout mask.
        let item = self.data.collate(&self.epochs.records(index), Dedup::Repeat, device);
        item.and_then(|item| Contrast::group(self.contrast.as_ref(), item, index)).map_err(|e| e.to_string())
    }

    fn records(&self, index: usize) -> Vec<String> {
        self.data.names(&self.epochs.records(index))
    }
}

/// The batches of an evaluation: all records in their order.
pub struct GlowRecords {
    data: GlowData,
    contrast: Option<Contrast>,
    batch_size: usize,
}

impl GlowRecords {
    /// Batches of `batch_size` records, the last one smaller.
    pub fn new(data: GlowData, contrast: Option<Contrast>, batch_size: usize) -> Self {
        Self { data, contrast, batch_size: batch_size.max(1) }
    }

    fn numbers(&self, index: usize) -> Vec<u32> {
        let start = index * self.batch_size;
        (start as u32..(start + self.batch_size).min(self.data.records.len()) as u32).collect()
    }
}

impl Batches<GlowItem> for GlowRecords {
    fn len(&self) -> usize {
        self.data.records.len().div_ceil(self.batch_size)
    }

    fn batch(&self, index: usize, device: &Device) -> Result<GlowItem, String> {
        let item = self.data.collate(&self.numbers(index), Dedup::Share, device);
        item.and_then(|item| Contrast::group(self.contrast.as_ref(), item, index)).map_err(|e| e.to_string())
    }

    fn records(&self, index: usize) -> Vec<String> {
        self.data.names(&self.numbers(index))
    }
}
