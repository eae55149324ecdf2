//! Fine-tuning of a decoder.

use crate::train::{MetricSpec, Scores, Task};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Device, Int, Tensor};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use burn_models::decoder::{Decoder, DecoderInput};
use serde::{Deserialize, Serialize};

/// A decoder that learns the supervised tokens of its batches: the loss is the mean of −log p over all supervised tokens of
/// an optimizer step, by their weights, however the step is cut into micro-batches.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// The network, with or without adapters.
    pub decoder: Decoder,
    /// What is computed twice to save memory.
    #[module(skip)]
    pub recompute: Recompute,
}

/// What is computed twice to save memory while training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Recompute {
    /// Nothing: the fastest.
    #[default]
    None,
    /// Every layer, in the backward pass: the intermediate results of one layer are kept instead of those of all.
    Layers,
}

/// Some sequences of an optimizer step.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// The tokens.
    pub input: DecoderInput,
    /// Places whose hidden states are needed, as numbers in the flattened batch; `P` of them, ascending.
    pub places: Vec<u32>,
    /// Which of the places each target is said from `[M]`; `None` if M = P and each from its own.
    pub rows: Option<Tensor<1, Int>>,
    /// The tokens that are learned `[M]`.
    pub targets: Tensor<1, Int>,
    /// How much each counts `[M]`; `None` for once.
    pub weights: Option<Tensor<1>>,
}

impl MicroBatch {
    fn onto(self, device: &Device) -> Self {
        let plain = device.clone().without_autodiff();
        Self {
            input: self.input.to_device(device),
            places: self.places,
            rows: self.rows.map(|rows| rows.to_device(device)),
            targets: self.targets.to_device(device),
            weights: self.weights.map(|weights| weights.to_device(&plain)),
        }
    }
}

/// One optimizer step.
#[derive(Clone, Debug)]
pub struct LmStep {
    /// Its sequences, cut so that each part fits into memory.
    pub micro: Vec<MicroBatch>,
    /// The weights of the supervised tokens in all parts together: their number, where each counts once.
    pub weight: f64,
    /// Tokens in all parts, without padding; what sequences share is counted for each.
    pub tokens: usize,
    /// Names the dropout streams of recomputed layers.
    pub seed: u64,
}

impl CausalLm {
    /// This part's share of the step's loss and of its accuracy, `[1]` each, from the residual stream `[P, D]` at its places. Norm
    /// and head run on these only.
    fn shares(&self, raw: Tensor<2>, micro: &MicroBatch, weight: f64) -> (Tensor<1>, Tensor<1>) {
        let hidden = self.decoder.model.norm.forward(raw);
        let hidden = match &micro.rows {
            Some(rows) => hidden.select(0, rows.clone()),
            None => hidden,
        };
        let scores = self.decoder.token_scores(hidden, micro.targets.clone());
        let mean = |values: Tensor<1>| {
            let values = match &micro.weights {
                Some(weights) => values * weights.clone(),
                None => values,
            };
            values.sum() / weight
        };
        (mean(scores.logprobs).neg(), mean(scores.hits))
    }

    /// Gradients and both shares of one part.
    fn gradients(&self, micro: &MicroBatch, weight: f64, seed: u64) -> (GradientsParams, Tensor<1>) {
        let mut shares = None;
        let mut loss = |raw: Tensor<2>| {
            let (loss, accuracy) = self.shares(raw, micro, weight);
            shares = Some(Tensor::cat(vec![loss.clone().without_autodiff(), accuracy.without_autodiff()], 0));
            loss
        };
        let gradients = match self.recompute {
            Recompute::None => {
                let loss = loss(self.decoder.forward_places(&micro.input, &micro.places));
                GradientsParams::from_grads(loss.backward(), self)
            }
            Recompute::Layers => self.decoder.gradients_by_layer(&micro.input, &micro.places, seed, loss),
        };
        (gradients, shares.unwrap_or_else(|| zeros(&self.decoder.device().inner())))
    }
}

impl Task for CausalLm {
    const SCORES: &'static [MetricSpec] =
        &[MetricSpec::new("loss", "Loss", false), MetricSpec::new("accuracy", "Token accuracy", true)];

    /// Its micro-batches, the largest first, each to the device that has least to do.
    fn split(step: LmStep, devices: &[Device]) -> Vec<LmStep> {
        let mut micro: Vec<(usize, MicroBatch)> =
            step.micro.into_iter().map(|m| (m.input.ids.dims().iter().product(), m)).collect();
        micro.sort_by_key(|(places, _)| std::cmp::Reverse(*places));
        let mut parts = vec![(0, Vec::new()); devices.len().clamp(1, micro.len().max(1))];
        for (places, batch) in micro {
            let least = (0..parts.len()).min_by_key(|part| parts[*part].0).unwrap_or_default();
            parts[least].0 += places;
            parts[least].1.push(if least == 0 { batch } else { batch.onto(&devices[least]) });
        }
        let parts = parts.into_iter().enumerate().map(|(part, (_, micro))| {
            // Tokens are counted for the whole step: all of them with the first part.
            let tokens = if part == 0 { step.tokens } else { 0 };
            LmStep { micro, weight: step.weight, tokens, seed: step.seed.wrapping_add((part as u64) << 48) }
        });
        parts.collect()
    }
}

impl TrainStep for CausalLm {
    type Input = LmStep;
    type Output = Scores;

    fn step(&self, item: LmStep) -> TrainOutput<Scores> {
        let mut accumulator = GradientsAccumulator::new();
        let mut totals = zeros(&self.decoder.device().inner());
        for (part, micro) in item.micro.iter().enumerate() {
            let seed = item.seed.wrapping_add((part as u64) << 32);
            let (gradients, shares) = self.gradients(micro, item.weight, seed);
            accumulator.accumulate(self, in_f32(self, gradients));
            totals = totals + shares;
        }
        let computed = item.micro.iter().map(|micro| micro.input.dims().iter().product::<usize>()).sum();
        let scores = Scores::on_device(totals, item.weight, item.tokens).with_computed(computed);
        TrainOutput { grads: accumulator.grads(), item: scores }
    }
}

impl InferenceStep for CausalLm {
    type Input = LmStep;
    type Output = Scores;

    fn step(&self, item: LmStep) -> Scores {
        let totals = item.micro.iter().fold(zeros(&self.decoder.device()), |totals, micro| {
            let raw = self.decoder.forward_places(&micro.input, &micro.places);
            let (loss, accuracy) = self.shares(raw, micro, item.weight);
            totals + Tensor::cat(vec![loss, accuracy], 0)
        });
        Scores::on_device(totals, item.weight, item.tokens)
    }
}

/// Gradients in f32: sums of many in bf16 lose what is small.
fn in_f32<M: Module>(module: &M, mut gradients: GradientsParams) -> GradientsParams {
    struct InF32<'a>(&'a mut GradientsParams);
    impl ModuleVisitor for InF32<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                self.0.register::<D>(param.id, gradient.cast(DType::F32));
            }
        }
    }
    module.visit(&mut InF32(&mut gradients));
    gradients
}

/// One place for each of the scores.
fn zeros(device: &Device) -> Tensor<1> {
    Tensor::zeros([CausalLm::SCORES.len()], (device, DType::F32))
}
