//! Fine-tuning of a decoder.

use crate::train::{MetricSpec, Scores, Task};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Device, Int, Tensor};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use burn_models::decoder::{Decoder, DecoderInput};

/// A decoder that learns the supervised tokens of its batches: the loss is the mean of −log p over all supervised tokens of
/// an optimizer step, however the step is cut into micro-batches.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// The network, with or without adapters.
    pub decoder: Decoder,
}

/// Some sequences of an optimizer step.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// The tokens.
    pub input: DecoderInput,
    /// Positions whose next token is learned, as numbers in the flattened batch `[B·L]`; `[M]`.
    pub rows: Tensor<1, Int>,
    /// Those next tokens `[M]`.
    pub targets: Tensor<1, Int>,
}

/// One optimizer step.
#[derive(Clone, Debug)]
pub struct LmStep {
    /// Its sequences, cut so that each part fits into memory.
    pub micro: Vec<MicroBatch>,
    /// Supervised tokens in all parts.
    pub supervised: usize,
    /// Tokens in all parts, without padding.
    pub tokens: usize,
}

impl CausalLm {
    /// This part's share of the step's loss and of its accuracy, `[1]` each. Norm and head run on supervised positions only.
    fn shares(&self, micro: &MicroBatch, supervised: usize) -> (Tensor<1>, Tensor<1>) {
        let raw = self.decoder.forward_raw(&micro.input);
        let [batch, length, width] = raw.dims();
        let rows = raw.reshape([batch * length, width]).select(0, micro.rows.clone());
        let rows = self.decoder.model.norm.forward(rows);
        let scores = self.decoder.token_scores(rows, micro.targets.clone());
        (scores.logprobs.sum().neg() / supervised as f64, scores.hits.sum() / supervised as f64)
    }
}

impl Task for CausalLm {
    const SCORES: &'static [MetricSpec] =
        &[MetricSpec::new("loss", "Loss", false), MetricSpec::new("accuracy", "Token accuracy", true)];
}

impl TrainStep for CausalLm {
    type Input = LmStep;
    type Output = Scores;

    fn step(&self, item: LmStep) -> TrainOutput<Scores> {
        let mut accumulator = GradientsAccumulator::new();
        let mut totals = zeros(&self.decoder.device().inner());
        for micro in &item.micro {
            let (loss, accuracy) = self.shares(micro, item.supervised);
            accumulator.accumulate(self, GradientsParams::from_grads(loss.backward(), self));
            totals = totals + Tensor::cat(vec![loss.without_autodiff(), accuracy], 0);
        }
        let scores = Scores::on_device(totals, item.supervised as f64, item.tokens);
        TrainOutput { grads: accumulator.grads(), item: scores }
    }
}

impl InferenceStep for CausalLm {
    type Input = LmStep;
    type Output = Scores;

    fn step(&self, item: LmStep) -> Scores {
        let totals = item.micro.iter().fold(zeros(&self.decoder.device()), |totals, micro| {
            let (loss, accuracy) = self.shares(micro, item.supervised);
            totals + Tensor::cat(vec![loss, accuracy], 0)
        });
        Scores::on_device(totals, item.supervised as f64, item.tokens)
    }
}

/// One place for each of the scores.
fn zeros(device: &Device) -> Tensor<1> {
    Tensor::zeros([CausalLm::SCORES.len()], (device, DType::F32))
}
