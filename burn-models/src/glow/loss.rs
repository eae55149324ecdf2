//! What training minimises.

use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, sigmoid};

use super::batch::GlowBatch;
use super::config::{Head, Regression, RegressionLoss, RegressionOutput};
use super::contrast::{ContrastToken, contrast};
use super::model::{GlowOutput, GlowPredictor};

/// The training loss of one batch; every tensor is `[1]`.
#[derive(Debug, Clone)]
pub struct GlowLoss {
    /// `pred_weight · prediction + λ · contrast`.
    pub total: Tensor<1>,
    /// The prediction loss.
    pub prediction: Tensor<1>,
    /// The contrastive loss without its weight; 0 where it is switched off.
    pub contrast: Tensor<1>,
    /// Number of groups in the batch that can be contrasted (they have an anchor); 0 where contrast is switched off.
    pub active_tasks: usize,
}

/// Binary cross-entropy of logits `[B]` against labels `[B]`: `−y·ln σ(x) − (1 − y)·ln(1 − σ(x))`, mean over the batch,
/// `[1]`.
pub fn classification_loss(logits: Tensor<1>, labels: Tensor<1>) -> Tensor<1> {
    ((-labels + 1.0) * logits.clone() - log_sigmoid(logits)).mean()
}

/// The chosen loss on the error of predicted rates, mean over the batch, `[1]`. `numbers` `[B]` are the head's, `targets`
/// `[B]` rates.
pub fn regression_loss(numbers: Tensor<1>, targets: Tensor<1>, rate: &Regression) -> Tensor<1> {
    let error = rates(numbers, rate) - targets;
    let losses = match rate.loss {
        RegressionLoss::Mse => error.square(),
        RegressionLoss::Huber(delta) => huber(error, delta),
        RegressionLoss::SmoothL1(beta) => huber(error, beta) / beta,
    };
    losses.mean()
}

/// `½e²` up to `|e| = δ`, then `δ(|e| − ½δ)`.
fn huber(error: Tensor<1>, delta: f64) -> Tensor<1> {
    let size = error.clone().abs();
    let large = size.clone().greater_scalar(delta);
    (error.square() * 0.5).mask_where(large, (size - 0.5 * delta) * delta)
}

/// From the head's numbers to rates.
fn rates(numbers: Tensor<1>, rate: &Regression) -> Tensor<1> {
    match rate.output {
        RegressionOutput::Identity => numbers,
        RegressionOutput::Sigmoid => sigmoid(numbers),
    }
}

impl GlowPredictor {
    /// Scores `[B]` of logits `[B]`: the logistic function, unless the head is a regression with identity output.
    pub fn scores(&self, logits: Tensor<1>) -> Tensor<1> {
        match self.head() {
            Head::Classification | Head::Both { .. } => sigmoid(logits),
            Head::Regression(rate) => rates(logits, &rate),
        }
    }

    /// The loss of an output against the labels and targets of its batch, `[1]`, mean over the batch.
    pub fn prediction_loss(&self, output: &GlowOutput, batch: &GlowBatch) -> Tensor<1> {
        let (logits, labels, targets) = (output.logits.clone(), batch.labels.clone(), batch.targets.clone());
        match (self.head(), &output.rate) {
            (Head::Regression(rate), _) => regression_loss(logits, targets, &rate),
            (Head::Both { reg_weight, rate }, Some(number)) => {
                classification_loss(logits, labels) + regression_loss(number.clone(), targets, &rate) * reg_weight
            }
            (Head::Classification | Head::Both { .. }, _) => classification_loss(logits, labels),
        }
    }

    /// The training loss of an output of [`forward`](GlowPredictor::forward), with the contrastive term if the batch was
    /// grouped for it ([`GlowBatch::with_contrast`]). Contrast works on the normalised tokens, before type vectors are
    /// added.
    pub fn loss(&self, output: &GlowOutput, batch: &GlowBatch, pred_weight: f64) -> GlowLoss {
        let prediction = self.prediction_loss(output, batch);
        let total = prediction.clone() * pred_weight;
        let tokens = |token: &ContrastToken| match token {
            ContrastToken::Llm => output.tokens.llm.clone(),
            ContrastToken::Graph => output.tokens.graph.clone(),
        };
        let term = batch.contrast.as_ref().and_then(|groups| {
            let tokens = groups.config.on.iter().filter_map(tokens).collect();
            Some((contrast(tokens, groups)?, groups.config.weight))
        });
        let active_tasks = batch.contrast.as_ref().map_or(0, |groups| groups.active_tasks);
        match term {
            Some((contrast, weight)) => {
                GlowLoss { total: total + contrast.clone() * weight, prediction, contrast, active_tasks }
            }
            None => GlowLoss { total, contrast: prediction.zeros_like(), prediction, active_tasks },
        }
    }
}
