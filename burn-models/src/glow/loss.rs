//! What training minimises.

use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, sigmoid};
use serde::{Deserialize, Serialize};

use super::batch::GlowBatch;
use super::config::{Head, RegressionLoss, RegressionOutput};
use super::contrast::{ContrastConfig, ContrastGroups, ContrastToken, contrast};
use super::model::{GlowOutput, GlowPredictor};
use crate::{Error, Result};

/// Settings of the training loss: prediction, plus λ times contrast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GlowLossConfig {
    /// Weight of the prediction loss. 1.
    pub pred_weight: f64,
    /// The contrastive term; `None` for none.
    pub contrast: Option<ContrastConfig>,
}

impl Default for GlowLossConfig {
    fn default() -> Self {
        Self { pred_weight: 1.0, contrast: Some(ContrastConfig::default()) }
    }
}

impl GlowLossConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Config`] with the first key whose value cannot be.
    pub fn validate(&self) -> Result<()> {
        let mut numbers = vec![("pred_weight", self.pred_weight, true)];
        if let Some(contrast) = &self.contrast {
            numbers.push(("contrast.weight", contrast.weight, true));
            numbers.push(("contrast.margin", contrast.margin, false));
            numbers.push(("contrast.positive_at", contrast.positive_at, false));
        }
        for (key, value, is_weight) in numbers {
            if !value.is_finite() || (is_weight && value < 0.0) {
                return Err(Error::config(
                    "glow",
                    key,
                    format!("{value} is not a {}", if is_weight { "weight" } else { "number" }),
                ));
            }
        }
        Ok(())
    }
}

/// The training loss of one batch; every tensor is `[1]`.
#[derive(Debug, Clone)]
pub struct GlowLoss {
    /// `pred_weight · prediction + λ · contrast`.
    pub total: Tensor<1>,
    /// The prediction loss.
    pub prediction: Tensor<1>,
    /// The contrastive loss without its weight; 0 where it is switched off.
    pub contrast: Tensor<1>,
    /// Number of tasks in the batch that can be contrasted (two positive records and a negative one); 0 where contrast
    /// is switched off.
    pub active_tasks: Tensor<1>,
}

/// The prediction loss of logits `[B]` against labels `[B]`: `[1]`, mean over the batch.
///
/// Classification: binary cross-entropy `−y·ln σ(x) − (1 − y)·ln(1 − σ(x))`. Regression: the chosen loss on the error.
pub fn prediction_loss(logits: Tensor<1>, labels: Tensor<1>, head: Head) -> Tensor<1> {
    let losses = match head {
        Head::Classification => (-labels + 1.0) * logits.clone() - log_sigmoid(logits),
        Head::Regression { loss, .. } => {
            let error = rates(logits, head) - labels;
            match loss {
                RegressionLoss::Mse => error.square(),
                RegressionLoss::Huber(delta) => huber(error, delta),
                RegressionLoss::SmoothL1(beta) => huber(error, beta) / beta,
            }
        }
    };
    losses.mean()
}

/// `½e²` up to `|e| = δ`, then `δ(|e| − ½δ)`.
fn huber(error: Tensor<1>, delta: f64) -> Tensor<1> {
    let size = error.clone().abs();
    let large = size.clone().greater_scalar(delta);
    (error.square() * 0.5).mask_where(large, (size - 0.5 * delta) * delta)
}

/// From the head's numbers `[B]` to scores `[B]`: probabilities or rates.
pub fn rates(logits: Tensor<1>, head: Head) -> Tensor<1> {
    match head {
        Head::Regression { output: RegressionOutput::Identity, .. } => logits,
        Head::Classification | Head::Regression { output: RegressionOutput::Sigmoid, .. } => sigmoid(logits),
    }
}

impl GlowPredictor {
    /// The training loss of an output of [`forward`](GlowPredictor::forward). Contrast works on the normalised tokens,
    /// before type vectors are added.
    pub fn loss(&self, output: &GlowOutput, batch: &GlowBatch, config: &GlowLossConfig) -> GlowLoss {
        let prediction = prediction_loss(output.logits.clone(), batch.labels.clone(), self.head());
        let total = prediction.clone() * config.pred_weight;
        let Some(settings) = &config.contrast else {
            let zero = prediction.zeros_like();
            return GlowLoss { total, prediction, contrast: zero.clone(), active_tasks: zero };
        };
        let groups =
            ContrastGroups::new(batch.labels.clone(), batch.task_group.clone(), batch.task_ids.len(), settings);
        let tokens = settings.on.iter().filter_map(|token| match token {
            ContrastToken::Llm => output.tokens.llm.clone(),
            ContrastToken::Graph => output.tokens.graph.clone(),
        });
        let contrast = contrast(tokens.collect(), &groups, settings);
        GlowLoss {
            total: total + contrast.clone() * settings.weight,
            prediction,
            contrast,
            active_tasks: groups.active_tasks,
        }
    }
}
