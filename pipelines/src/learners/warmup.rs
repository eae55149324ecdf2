//! Self-supervised warm-up of GLOW's graph encoder.

use super::epochs::Epochs;
use crate::eval::classification::auroc;
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
    /// Weights of the node and of the adjacency term.
    #[module(skip)]
    weights: [f64; 2],
}

impl WarmupTask {
    /// A predictor, and the weights of the node and of the adjacency term.
    pub fn new(predictor: GlowPredictor, node_weight: f64, adj_weight: f64) -> Self {
        Self { predictor, weights: [node_weight, adj_weight] }
    }

    /// The loss; all scores, shape [3]; and for every ordered pair of nodes its logit and its truth (1 an edge, 0 none, −1
    /// padding), one after the other.
    fn evaluate(&self, item: &WarmupItem) -> (Tensor<1>, Scores, Option<Tensor<1>>) {
        let loss = self.predictor.gnn_encoder.as_ref().map(|gnn| {
            let nodes = item.tables.text.clone().select(0, item.batch.node_text_index.clone());
            gnn.warmup(nodes, &item.batch.graphs, &item.batch.target)
        });
        let zero = || Tensor::zeros([1], &item.tables.text.device());
        let (node, adjacency, logits) =
            loss.map_or_else(|| (zero(), zero(), None), |loss| (loss.node, loss.adjacency, loss.logits));
        let total = node.clone() * self.weights[0] + adjacency.clone() * self.weights[1];
        let values = Tensor::cat([total.clone(), node, adjacency].map(Tensor::without_autodiff).to_vec(), 0);
        let pairs = logits.map(|logits| {
            let logits = logits.without_autodiff();
            let codes = item.batch.target.codes().float().cast(logits.dtype());
            let count = logits.shape().num_elements();
            Tensor::cat(vec![logits.reshape([count, 1]), codes.reshape([count, 1])], 1).reshape([2 * count])
        });
        (total, Scores::on_device(values, item.batch.graphs.num_graphs() as f64, 0), pairs)
    }
}

impl Task for WarmupTask {
    const SCORES: &'static [MetricSpec] = &[
        MetricSpec::new("loss", "Loss", false),
        MetricSpec::new("node_loss", "Node loss", false),
        MetricSpec::new("adjacency_loss", "Adjacency loss", false),
    ];

    const SUMMARY: &'static [MetricSpec] = &[MetricSpec::new("adjacency_auc", "Adjacency AUC", true)];

    /// The area under the ROC curve of edges against pairs without one, all pairs of nodes together.
    fn summarize(&self, outputs: &[f64]) -> Vec<f64> {
        let pairs = outputs.chunks_exact(2).filter(|pair| pair[1] >= 0.0);
        let (logits, edges): (Vec<f64>, Vec<bool>) = pairs.map(|pair| (pair[0], pair[1] > 0.0)).unzip();
        let auc = if logits.iter().any(|logit| logit.is_nan()) { None } else { auroc(&logits, &edges) };
        vec![auc.unwrap_or(f64::NAN)]
    }
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
        let (loss, scores, _) = self.evaluate(&item);
        TrainOutput::new(self, loss.backward(), scores)
    }
}

impl InferenceStep for WarmupTask {
    type Input = WarmupItem;
    type Output = Scores;

    fn step(&self, item: WarmupItem) -> Scores {
        let (_, scores, pairs) = self.evaluate(&item);
        match pairs {
            Some(pairs) => scores.with_outputs(pairs),
            None => scores,
        }
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
    replay: bool,
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
        Self { workflows, pool, tables, epochs, steps, replay: false }
    }

    /// Whether every pass repeats the batches of the first one, in the same order.
    pub fn replay(mut self, replay: bool) -> Self {
        self.replay = replay;
        self
    }

    /// The members of `pool` in batch `index`.
    fn drawn(&self, index: usize) -> Vec<u32> {
        self.epochs.records(if self.replay { index % self.epochs.per_epoch() } else { index })
    }
}

impl Batches<WarmupItem> for WarmupBatches {
    fn len(&self) -> usize {
        self.steps
    }

    fn batch(&self, index: usize, device: &Device) -> Result<WarmupItem, String> {
        let chosen: Vec<&GlowWorkflow> =
            self.drawn(index).iter().map(|r| &self.workflows[self.pool[*r as usize] as usize]).collect();
        let batch = WarmupBatch::new(&chosen, &self.tables, device).map_err(|e| e.to_string())?;
        Ok(WarmupItem { batch, tables: self.tables.clone() })
    }

    fn records(&self, index: usize) -> Vec<String> {
        self.drawn(index).iter().map(|r| format!("workflow {}", self.pool[*r as usize])).collect()
    }
}
