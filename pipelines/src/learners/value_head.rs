//! Training of a value head, and of the adapters below it.

use super::causal_lm::Recompute;
use super::epochs::Epochs;
use crate::judge::PromptRow;
use crate::train::{Batches, MetricSpec, Scores, Task, stream};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use burn_models::decoder::{Decoder, DecoderInput};
use burn_models::glow::{Head, prediction_loss, rates};
use burn_models::value_head::ValueHead;
use std::sync::Arc;

/// A decoder with a value head: the loss is the mean over all records of an optimizer step, however the step is cut into
/// micro-batches.
#[derive(Module, Debug)]
pub struct ValueTask {
    /// The network that reads, frozen but for its adapters.
    pub decoder: Decoder,
    /// The head on its last state.
    pub head: ValueHead,
    #[module(skip)]
    loss: Head,
    #[module(skip)]
    recompute: Recompute,
}

/// Some records of an optimizer step, B of them.
#[derive(Clone, Debug)]
pub struct ValueMicro {
    /// The prompts, packed into one row.
    pub input: DecoderInput,
    /// The places of last tokens, ascending: P ≤ B of them, as equal prompts have one.
    pub places: Vec<u32>,
    /// For every record the number of its place `[B]`.
    pub numbers: Tensor<1, Int>,
    /// The labels `[B]`, f32.
    pub labels: Tensor<1>,
    /// Where dropout is drawn from if layers are computed twice.
    pub seed: u64,
}

/// One optimizer step.
#[derive(Clone, Debug)]
pub struct ValueStep {
    /// Its records, cut so that each part fits into memory.
    pub micro: Vec<ValueMicro>,
    /// Records in all parts.
    pub records: usize,
    /// Tokens in all parts, without padding.
    pub tokens: usize,
}

impl ValueTask {
    /// A decoder, a head and what the head's numbers mean. Without adapters there is nothing to recompute.
    pub fn new(decoder: Decoder, head: ValueHead, loss: Head, recompute: Recompute) -> Self {
        Self { decoder, head, loss, recompute }
    }

    /// The logits `[B]` of records.
    pub fn logits(&self, micro: &ValueMicro) -> Tensor<1> {
        self.logits_of(self.decoder.forward_places(&micro.input, &micro.places), micro)
    }

    /// The logits `[B]` from the residual stream `[P, D]` at the places. The decoder's last norm runs on last tokens only, its
    /// output head not at all.
    fn logits_of(&self, raw: Tensor<2>, micro: &ValueMicro) -> Tensor<1> {
        self.head.forward(self.decoder.model.norm.forward(raw)).select(0, micro.numbers.clone())
    }

    /// This part's share of the step's loss and of its accuracy, `[1]` each.
    fn shares(&self, logits: Tensor<1>, micro: &ValueMicro, records: usize) -> (Tensor<1>, Tensor<1>) {
        let [count] = logits.dims();
        let predicted = rates(logits.clone().without_autodiff(), self.loss).greater_scalar(0.5);
        let truth = micro.labels.clone().without_autodiff().greater_equal_scalar(0.5);
        let hits = predicted.equal(truth).float().cast(DType::F32).sum() / records as f64;
        (prediction_loss(logits, micro.labels.clone(), self.loss) * (count as f64 / records as f64), hits)
    }

    /// The gradient of a part, and its shares of loss and accuracy.
    fn differentiate(&self, micro: &ValueMicro, records: usize) -> (Vec<GradientsParams>, Tensor<1>, Tensor<1>) {
        if self.recompute == Recompute::None || self.decoder.adapters().is_none() {
            let (loss, hits) = self.shares(self.logits(micro), micro, records);
            return (vec![GradientsParams::from_grads(loss.backward(), self)], loss, hits);
        }
        // Layer by layer only the decoder's gradients come back; those of the head, which is small, are taken once more.
        let mut top = None;
        let below = self.decoder.gradients_by_layer(&micro.input, &micro.places, micro.seed, |raw| {
            top = Some(raw.clone().detach());
            self.shares(self.logits_of(raw, micro), micro, records).0
        });
        let top = top.unwrap_or_else(|| self.decoder.forward_places(&micro.input, &micro.places).detach());
        let (loss, hits) = self.shares(self.logits_of(top, micro), micro, records);
        (vec![below, GradientsParams::from_grads(loss.backward(), &self.head)], loss, hits)
    }
}

impl Task for ValueTask {
    const SCORES: &'static [MetricSpec] =
        &[MetricSpec::new("loss", "Loss", false), MetricSpec::new("accuracy", "Accuracy", true)];
}

impl TrainStep for ValueTask {
    type Input = ValueStep;
    type Output = Scores;

    fn step(&self, item: ValueStep) -> TrainOutput<Scores> {
        let mut accumulator = GradientsAccumulator::new();
        let mut totals = zeros(&self.decoder.device().inner());
        for micro in &item.micro {
            let (gradients, loss, accuracy) = self.differentiate(micro, item.records);
            gradients.into_iter().for_each(|part| accumulator.accumulate(self, part));
            totals = totals + Tensor::cat(vec![loss.without_autodiff(), accuracy], 0);
        }
        TrainOutput { grads: accumulator.grads(), item: Scores::on_device(totals, item.records as f64, item.tokens) }
    }
}

impl InferenceStep for ValueTask {
    type Input = ValueStep;
    type Output = Scores;

    fn step(&self, item: ValueStep) -> Scores {
        let totals = item.micro.iter().fold(zeros(&self.decoder.device()), |totals, micro| {
            let (loss, accuracy) = self.shares(self.logits(micro), micro, item.records);
            totals + Tensor::cat(vec![loss, accuracy], 0)
        });
        Scores::on_device(totals, item.records as f64, item.tokens)
    }
}

/// One place for each of the scores.
fn zeros(device: &Device) -> Tensor<1> {
    Tensor::zeros([ValueTask::SCORES.len()], (device, DType::F32))
}

/// Prompts with their labels, in one row of ids.
#[derive(Debug, Clone, Default)]
pub struct JudgedPrompts {
    ids: Vec<u32>,
    ends: Vec<usize>,
    labels: Vec<f32>,
    /// For every prompt its line in the split's files and its workflow's and its task's number there.
    places: Vec<(u32, i64, i64)>,
}

impl JudgedPrompts {
    /// Adds a prompt.
    pub fn push(&mut self, ids: &[u32], label: f32, place: (u32, i64, i64)) {
        self.ids.extend_from_slice(ids);
        self.ends.push(self.ids.len());
        self.labels.push(label);
        self.places.push(place);
    }

    /// The number of prompts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The number of ids of all prompts together.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn prompt(&self, prompt: usize) -> &[u32] {
        let start = if prompt == 0 { 0 } else { self.ends[prompt - 1] };
        &self.ids[start..self.ends[prompt]]
    }
}

/// Prompts in steps of so many, each step in rows of so many tokens.
pub struct ValueBatches {
    /// The prompts.
    pub data: Arc<JudgedPrompts>,
    /// Which of them go into which step.
    pub epochs: Epochs,
    /// The most tokens of a row.
    pub micro_tokens: usize,
    /// V.
    pub vocab_size: usize,
    /// Names the dropout of layers that are computed twice.
    pub seed: u64,
    /// Steps, over as many epochs as that takes.
    pub len: usize,
}

impl Batches<ValueStep> for ValueBatches {
    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, index: usize, device: &Device) -> Result<ValueStep, String> {
        let records = self.epochs.records(index);
        let prompts: Vec<&[u32]> = records.iter().map(|record| self.data.prompt(*record as usize)).collect();
        let tokens = prompts.iter().map(|ids| ids.len()).sum();
        let mut result = ValueStep { micro: Vec::new(), records: records.len(), tokens };
        for (part, (row, inside)) in PromptRow::rows(&prompts, self.micro_tokens).into_iter().enumerate() {
            let count = inside.len();
            let numbers: Vec<i32> = inside.iter().map(|(_, number)| *number as i32).collect();
            let label = |(prompt, _): &(usize, usize)| self.data.labels[records[*prompt] as usize];
            let labels: Vec<f32> = inside.iter().map(label).collect();
            result.micro.push(ValueMicro {
                input: row.packed.input(self.vocab_size, device).map_err(|e| e.to_string())?,
                places: row.places,
                numbers: Tensor::from_data(TensorData::new(numbers, [count]), device),
                labels: Tensor::from_data(TensorData::new(labels, [count]), (device, DType::F32)),
                seed: stream(self.seed, "layers", &[index as u64, part as u64]),
            });
        }
        Ok(result)
    }

    fn records(&self, index: usize) -> Vec<String> {
        let name = |record: &u32| {
            let (line, workflow, task) = self.data.places[*record as usize];
            format!("line {line}: workflow_id {workflow}, task_id {task}")
        };
        self.epochs.records(index).iter().map(name).collect()
    }
}
