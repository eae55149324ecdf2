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
    let error = output(numbers, rate) - targets;
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

/// The loss of a head's one number per record `[B]` against labels `[B]`, or against the targets of a regression: mean over
/// the batch, `[1]`. Of [`Head::Both`] this is the first number, the logit.
pub fn prediction_loss(numbers: Tensor<1>, labels: Tensor<1>, head: Head) -> Tensor<1> {
    match head {
        Head::Classification | Head::Both { .. } => classification_loss(numbers, labels),
        Head::Regression(rate) => regression_loss(numbers, labels, &rate),
    }
}

/// From a head's (first) number per record `[B]` to scores `[B]`: probabilities or rates.
pub fn rates(numbers: Tensor<1>, head: Head) -> Tensor<1> {
    match head {
        Head::Classification | Head::Both { .. } => sigmoid(numbers),
        Head::Regression(rate) => output(numbers, &rate),
    }
}

/// From the head's number to the rate.
fn output(numbers: Tensor<1>, rate: &Regression) -> Tensor<1> {
    match rate.output {
        RegressionOutput::Identity => numbers,
        RegressionOutput::Sigmoid => sigmoid(numbers),
    }
}

impl GlowPredictor {
    /// Scores `[B]` of logits `[B]`: the logistic function, unless the head is a regression with identity output.
    pub fn scores(&self, logits: Tensor<1>) -> Tensor<1> {
        rates(logits, self.head())
    }

    /// The loss of all numbers of the head.
    fn prediction(&self, output: &GlowOutput, batch: &GlowBatch) -> Tensor<1> {
        let truth = if let Head::Regression(_) = self.head() { &batch.targets } else { &batch.labels };
        let first = prediction_loss(output.logits.clone(), truth.clone(), self.head());
        match (self.head(), &output.rate) {
            (Head::Both { reg_weight, rate }, Some(second)) => {
                first + regression_loss(second.clone(), batch.targets.clone(), &rate) * reg_weight
            }
            _ => first,
        }
    }

    /// The training loss of an output of [`forward`](GlowPredictor::forward), with the contrastive term if the batch was
    /// grouped for it ([`GlowBatch::with_contrast`]). Contrast works on the normalised tokens, before type vectors are
    /// added.
    pub fn loss(&self, output: &GlowOutput, batch: &GlowBatch, pred_weight: f64) -> GlowLoss {
        let prediction = self.prediction(output, batch);
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
