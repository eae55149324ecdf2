//! The stages that train and evaluate the GLOW predictor.

use burn_models::glow::{ContrastConfig, GlowConfig};
use datasets::sampler::Sampler;
use serde::{Deserialize, Serialize};

use super::optim::{AdamW, Checkpoint, Optim};
use super::source::Source;
use crate::train::{Direction, Schedule};

/// Trains the GLOW predictor on embedded FLORA data: self-supervised warm-up of the graph encoder, then all of it on the
/// labels. Evaluates on the validation split and keeps the best epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlowTrain {
    /// Name of the stage. Default "glow-train".
    #[serde(default)]
    pub name: Option<String>,
    /// An `Embed` stage, or the folder of one.
    pub embeddings: Source,
    /// The network; the sizes of the embeddings are read from the data.
    #[serde(default)]
    pub model: GlowConfig,
    /// What is done to the embeddings before the network sees them. Default `AsIs`, as published.
    #[serde(default)]
    pub inputs: Inputs,
    /// Self-supervised warm-up of the graph encoder. Default on; `None` turns it off, and so does a model without graph.
    #[serde(default = "GlowTrain::default_warmup")]
    pub warmup: Option<Warmup>,
    /// Passes over the training split, at most. Default 200.
    #[serde(default = "GlowTrain::default_epochs")]
    pub epochs: usize,
    /// Records per optimizer step. Default 512.
    #[serde(default = "GlowTrain::default_batch_size")]
    pub batch_size: usize,
    /// Leaves out the last, smaller batch of an epoch. Default true.
    #[serde(default = "GlowTrain::default_drop_last")]
    pub drop_last: bool,
    /// Where the training split (or, in the warm-up, what is drawn from) is smaller than a batch, makes it one smaller
    /// batch; false makes that an error, as it is for generated data, whose size is known before. Default true.
    #[serde(default = "GlowTrain::default_shrink_batch")]
    pub shrink_batch: bool,
    /// How records are put into batches. Default `Shuffle`.
    #[serde(default)]
    pub sampler: Sampler,
    /// Weight of the prediction loss beside that of the contrastive term. Default 1.
    #[serde(default = "GlowTrain::default_pred_weight")]
    pub pred_weight: f64,
    /// The contrastive term of the loss. Default on with the published settings; `None` turns it off.
    #[serde(default = "GlowTrain::default_contrast")]
    pub contrast: Option<ContrastConfig>,
    /// Default `AdamW(lr: 1e-4, weight_decay: 1e-4, betas: (0.9, 0.999), eps: 1e-8)`.
    #[serde(default = "default_optim")]
    pub optim: Optim,
    /// Largest global norm of the gradient. Default none.
    #[serde(default)]
    pub clip: Option<f64>,
    /// Decay of the exponential moving average of the weights; with it the average is what is evaluated and kept. Default none.
    #[serde(default)]
    pub ema: Option<f64>,
    /// `StepLr` counts epochs. Default `StepLr(every: 10, gamma: 0.9)`.
    #[serde(default = "GlowTrain::default_lr_schedule")]
    pub schedule: Schedule,
    /// Epochs between two evaluations on the validation split. Default 1.
    #[serde(default = "GlowTrain::default_eval_every_epochs")]
    pub eval_every_epochs: usize,
    /// Evaluations in a row without improvement after which training ends. Default 30.
    #[serde(default = "GlowTrain::default_patience")]
    pub patience: usize,
    /// When the patience is used up. Default `AtPatience`.
    #[serde(default)]
    pub patience_rule: PatienceRule,
    /// What makes an epoch the best. Default `ValAccuracy`.
    #[serde(default)]
    pub select_by: SelectBy,
    /// It has to be better than the best so far by more than this. Default 0: strictly better.
    #[serde(default)]
    pub min_delta: f64,
    /// In validation a score above it predicts 1; `GlowEval` has one of its own. Default 0.5.
    #[serde(default = "GlowTrain::default_threshold")]
    pub threshold: f64,
    /// What decides between epochs that are equally good. Default `None`: the earlier one stays.
    #[serde(default)]
    pub tie_break: TieBreak,
    /// When to save.
    #[serde(default)]
    pub checkpoint: Checkpoint,
}

fn default_optim() -> Optim {
    Optim::AdamW(AdamW::new(1e-4))
}

impl GlowTrain {
    // The signature is serde's.
    #[allow(clippy::unnecessary_wraps)]
    fn default_warmup() -> Option<Warmup> {
        Some(Warmup::default())
    }

    fn default_epochs() -> usize {
        200
    }

    fn default_batch_size() -> usize {
        512
    }

    fn default_drop_last() -> bool {
        true
    }

    fn default_shrink_batch() -> bool {
        true
    }

    fn default_pred_weight() -> f64 {
        1.0
    }

    fn default_threshold() -> f64 {
        0.5
    }

    // The signature is serde's.
    #[allow(clippy::unnecessary_wraps)]
    fn default_contrast() -> Option<ContrastConfig> {
        Some(ContrastConfig::default())
    }

    fn default_lr_schedule() -> Schedule {
        Schedule::StepLr { every: 10, gamma: 0.9 }
    }

    fn default_eval_every_epochs() -> usize {
        1
    }

    fn default_patience() -> usize {
        30
    }
}

/// What is done to embeddings before the predictor sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Inputs {
    /// Nothing, as the published implementation.
    #[default]
    AsIs,
    /// Every dimension is shifted and scaled to mean 0 and deviation 1 over what the training split uses; the shift and scale
    /// are kept with the predictor. The states of a language model at one place of one template, and sentence vectors of
    /// small encoders, all point almost the same way: this takes away what they share.
    Standardize,
}

/// Self-supervised warm-up: the graph encoder learns to reproduce node features and adjacency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Warmup {
    /// Optimizer steps. Default 1000.
    pub steps: usize,
    /// Graphs per step. Default 64.
    pub batch_size: usize,
    /// What is drawn into a batch. Default `UniqueWorkflows`.
    pub sampling: WarmupSampling,
    /// Every pass over the data repeats the batches of the first one, as the published iterator does by accident. Default
    /// false: each is shuffled anew.
    pub replay: bool,
    /// Weight of the loss of node features. Default 1.
    pub node_weight: f64,
    /// Weight of the loss of adjacency. Default 1.
    pub adj_weight: f64,
    /// Default `AdamW(lr: 1e-4, weight_decay: 1e-4, betas: (0.9, 0.999), eps: 1e-8)`.
    pub optim: Optim,
    /// `StepLr` counts optimizer steps. Default `StepLr(every: 100, gamma: 0.95)`.
    pub schedule: Schedule,
}

impl Default for Warmup {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: 64,
            sampling: WarmupSampling::default(),
            replay: false,
            node_weight: 1.0,
            adj_weight: 1.0,
            optim: default_optim(),
            schedule: Schedule::StepLr { every: 100, gamma: 0.95 },
        }
    }
}

/// What a warm-up batch is drawn from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WarmupSampling {
    /// The distinct workflows of the training split.
    #[default]
    UniqueWorkflows,
    /// Its records, as the published implementation does: a workflow counts once per task.
    Records,
}

/// The validation metric that chooses the best epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SelectBy {
    /// Highest accuracy.
    #[default]
    ValAccuracy,
    /// Highest published utility: how well the votes rank the workflows. It breaks some ties by the truth, and needs two
    /// workflows with at least three validation records each.
    ValUtility,
    /// Lowest loss.
    ValLoss,
    /// Highest mean of the F1 of both classes.
    ValMacroF1,
}

impl SelectBy {
    /// The score's name in logs, and which way it improves.
    pub fn score(self) -> (&'static str, Direction) {
        match self {
            Self::ValAccuracy => ("accuracy", Direction::Highest),
            Self::ValUtility => ("utility", Direction::Highest),
            Self::ValLoss => ("loss", Direction::Lowest),
            Self::ValMacroF1 => ("macro_f1", Direction::Highest),
        }
    }
}

/// After how many evaluations without improvement training ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PatienceRule {
    /// After `patience` of them.
    #[default]
    AtPatience,
    /// After one more, and counting epochs without an evaluation too, as the published implementation does.
    PastPatience,
}

/// The choice between epochs with the same metric.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TieBreak {
    /// The earlier one, as published.
    #[default]
    None,
    /// The one with the lower validation loss.
    LowerLoss,
}
