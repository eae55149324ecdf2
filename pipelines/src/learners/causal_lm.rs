//! Fine-tuning of a decoder.

use crate::train::{MetricSpec, Scores, Task};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Int, Tensor};
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
    /// This part's share of the step's loss, `[1]`. Norm and head run on supervised positions only.
    fn loss(&self, micro: &MicroBatch, supervised: usize) -> Tensor<1> {
        let raw = self.decoder.forward_raw(&micro.input);
        let [batch, length, width] = raw.dims();
        let rows = raw.reshape([batch * length, width]).select(0, micro.rows.clone());
        let rows = self.decoder.model.norm.forward(rows);
        self.decoder.token_logprobs(rows, micro.targets.clone()).sum().neg() / supervised as f64
    }
}

impl Task for CausalLm {
    const SCORES: &'static [MetricSpec] = &[MetricSpec::new("loss", "Loss", false)];
}

impl TrainStep for CausalLm {
    type Input = LmStep;
    type Output = Scores;

    fn step(&self, item: LmStep) -> TrainOutput<Scores> {
        let mut accumulator = GradientsAccumulator::new();
        let mut total = Tensor::<1>::zeros([1], (&self.decoder.device().inner(), DType::F32));
        for micro in &item.micro {
            let loss = self.loss(micro, item.supervised);
            accumulator.accumulate(self, GradientsParams::from_grads(loss.backward(), self));
            total = total + loss.without_autodiff();
        }
        let scores = Scores::on_device(total, item.supervised as f64, item.tokens);
        TrainOutput { grads: accumulator.grads(), item: scores }
    }
}

impl InferenceStep for CausalLm {
    type Input = LmStep;
    type Output = Scores;

    fn step(&self, item: LmStep) -> Scores {
        let zero = Tensor::<1>::zeros([1], (&self.decoder.device(), DType::F32));
        let total = item.micro.iter().fold(zero, |total, micro| total + self.loss(micro, item.supervised));
        Scores::on_device(total, item.supervised as f64, item.tokens)
    }
}
