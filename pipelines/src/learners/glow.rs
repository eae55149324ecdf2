//! Supervised training of the GLOW predictor.

use super::epochs::Epochs;
use crate::train::{Batches, MetricSpec, Scores, Task};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use burn_models::glow::{Dedup, GlowBatch, GlowLossConfig, GlowPredictor, GlowRecord, GlowTables, GlowWorkflow};
use std::sync::Arc;

/// The predictor with the loss that trains it.
#[derive(Module, Debug)]
pub struct GlowTask {
    /// The network.
    pub predictor: GlowPredictor,
    #[module(skip)]
    loss: GlowLossConfig,
}

impl GlowTask {
    /// A predictor and its loss.
    pub fn new(predictor: GlowPredictor, loss: GlowLossConfig) -> Self {
        Self { predictor, loss }
    }

    /// The loss, and all scores: shape [5], in the order of [`Task::SCORES`].
    fn evaluate(&self, item: &GlowItem) -> (Tensor<1>, Scores) {
        let output = self.predictor.forward(&item.batch, &item.tables);
        let loss = self.predictor.loss(&output, &item.batch, &self.loss);
        let predicted = self.predictor.scores(output.logits).greater_scalar(0.5);
        let truth = item.batch.labels.clone().greater_equal_scalar(0.5);
        let accuracy = predicted.equal(truth).float().mean();
        let values = [loss.total.clone(), loss.prediction, loss.contrast, loss.active_tasks, accuracy];
        let values = Tensor::cat(values.map(Tensor::without_autodiff).to_vec(), 0);
        (loss.total, Scores::on_device(values, item.batch.len() as f64, 0))
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
        let (loss, scores) = self.evaluate(&item);
        TrainOutput::new(self, loss.backward(), scores)
    }
}

impl InferenceStep for GlowTask {
    type Input = GlowItem;
    type Output = Scores;

    fn step(&self, item: GlowItem) -> Scores {
        self.evaluate(&item).1
    }
}

/// A split's records with the workflows and embeddings that they point into.
#[derive(Clone, Debug)]
pub struct GlowData {
    /// The records.
    pub records: Arc<Vec<GlowRecord>>,
    /// The distinct workflows.
    pub workflows: Arc<Vec<GlowWorkflow>>,
    /// The embeddings, on a device without autodiff.
    pub tables: GlowTables,
    /// For every record its line in the split's files, from 1, and its workflow's number there.
    pub places: Arc<Vec<(u32, i64)>>,
}

impl GlowData {
    /// Collates some of the records.
    ///
    /// # Errors
    /// Where a record points nowhere.
    pub fn collate(&self, records: &[u32], dedup: Dedup, device: &Device) -> burn_models::Result<GlowItem> {
        let records: Vec<GlowRecord> = records.iter().map(|r| self.records[*r as usize]).collect();
        let batch = GlowBatch::new(&records, &self.workflows, &self.tables, dedup, device)?;
        Ok(GlowItem { batch, tables: self.tables.clone() })
    }

    fn names(&self, records: &[u32]) -> Vec<String> {
        let name = |record: &u32| {
            let (line, workflow) = self.places[*record as usize];
            format!("line {line}: workflow_id {workflow}, task_id {}", self.records[*record as usize].task_id)
        };
        records.iter().map(name).collect()
    }
}

/// The batches of a training.
pub struct GlowBatches {
    data: GlowData,
    epochs: Epochs,
    len: usize,
}

impl GlowBatches {
    /// `count` passes over the data.
    pub fn new(data: GlowData, epochs: Epochs, count: usize) -> Self {
        let len = epochs.per_epoch() * count;
        Self { data, epochs, len }
    }
}

impl Batches<GlowItem> for GlowBatches {
    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, index: usize, device: &Device) -> Result<GlowItem, String> {
        // Records that shared a workflow's encoding would share its dropout mask.
        self.data.collate(&self.epochs.records(index), Dedup::Repeat, device).map_err(|e| e.to_string())
    }

    fn records(&self, index: usize) -> Vec<String> {
        self.data.names(&self.epochs.records(index))
    }
}

/// The batches of an evaluation: all records in their order.
pub struct GlowRecords {
    data: GlowData,
    batch_size: usize,
}

impl GlowRecords {
    /// Batches of `batch_size` records, the last one smaller.
    pub fn new(data: GlowData, batch_size: usize) -> Self {
        Self { data, batch_size: batch_size.max(1) }
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
        self.data.collate(&self.numbers(index), Dedup::Share, device).map_err(|e| e.to_string())
    }

    fn records(&self, index: usize) -> Vec<String> {
        self.data.names(&self.numbers(index))
    }
}
