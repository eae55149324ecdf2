//! Self-supervised warm-up of GLOW's graph encoder.

use super::epochs::Epochs;
use crate::train::{Batches, MetricSpec, Scores, Task};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use burn_models::glow::{GlowPredictor, GlowTables, GlowWorkflow, WarmupBatch};
use std::sync::Arc;

/// The predictor, of which the warm-up trains the graph encoder and its two decoders: node texts and adjacency have to be
/// read back from the node vectors. All other parameters get no gradient and stay as they are.
#[derive(Module, Debug)]
pub struct WarmupTask {
    /// The network.
    pub predictor: GlowPredictor,
}

impl WarmupTask {
    fn evaluate(&self, item: &WarmupItem) -> (Tensor<1>, Scores) {
        let loss = self.predictor.gnn_encoder.as_ref().map(|gnn| {
            let nodes = item.tables.text.clone().select(0, item.batch.node_text_index.clone());
            gnn.warmup(nodes, &item.batch.graphs, &item.batch.target)
        });
        let zero = || Tensor::zeros([1], &item.tables.text.device());
        let (node, adjacency) = loss.map_or_else(|| (zero(), zero()), |loss| (loss.node, loss.adjacency));
        let total = node.clone() + adjacency.clone();
        let values = Tensor::cat([total.clone(), node, adjacency].map(Tensor::without_autodiff).to_vec(), 0);
        (total, Scores::on_device(values, item.batch.graphs.num_graphs() as f64, 0))
    }
}

impl Task for WarmupTask {
    const SCORES: &'static [MetricSpec] = &[
        MetricSpec::new("loss", "Loss", false),
        MetricSpec::new("node_loss", "Node loss", false),
        MetricSpec::new("adjacency_loss", "Adjacency loss", false),
    ];
}

/// A batch and the table of its node texts.
#[derive(Clone, Debug)]
pub struct WarmupItem {
    /// The graphs.
    pub batch: WarmupBatch,
    /// The embeddings.
    pub tables: GlowTables,
}

impl TrainStep for WarmupTask {
    type Input = WarmupItem;
    type Output = Scores;

    fn step(&self, item: WarmupItem) -> TrainOutput<Scores> {
        let (loss, scores) = self.evaluate(&item);
        TrainOutput::new(self, loss.backward(), scores)
    }
}

impl InferenceStep for WarmupTask {
    type Input = WarmupItem;
    type Output = Scores;

    fn step(&self, item: WarmupItem) -> Scores {
        self.evaluate(&item).1
    }
}

/// The batches of a warm-up.
pub struct WarmupBatches {
    workflows: Arc<Vec<GlowWorkflow>>,
    /// Which workflows are drawn from; one may stand there several times.
    pool: Vec<u32>,
    tables: GlowTables,
    epochs: Epochs,
    steps: usize,
}

impl WarmupBatches {
    /// `steps` batches of members of `pool`; `epochs` draws from as many records as that has.
    pub fn new(
        workflows: Arc<Vec<GlowWorkflow>>,
        pool: Vec<u32>,
        tables: GlowTables,
        epochs: Epochs,
        steps: usize,
    ) -> Self {
        Self { workflows, pool, tables, epochs, steps }
    }
}

impl Batches<WarmupItem> for WarmupBatches {
    fn len(&self) -> usize {
        self.steps
    }

    fn batch(&self, index: usize, device: &Device) -> Result<WarmupItem, String> {
        let chosen: Vec<&GlowWorkflow> =
            self.epochs.records(index).iter().map(|r| &self.workflows[self.pool[*r as usize] as usize]).collect();
        let batch = WarmupBatch::new(&chosen, &self.tables, device).map_err(|e| e.to_string())?;
        Ok(WarmupItem { batch, tables: self.tables.clone() })
    }

    fn records(&self, index: usize) -> Vec<String> {
        self.epochs.records(index).iter().map(|r| format!("workflow {}", self.pool[*r as usize])).collect()
    }
}
