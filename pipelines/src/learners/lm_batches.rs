//! The optimizer steps of a fine-tuning.

use super::causal_lm::{LmStep, MicroBatch};
use crate::train::{Batches, stream};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use datasets::sft::{SftDataset, StepPlan};
use std::sync::Arc;

/// Chats in steps of so many sequences, each step in micro-batches.
pub struct LmBatches {
    /// The chats.
    pub data: Arc<SftDataset>,
    /// Which of them go into which step.
    pub plan: StepPlan,
    /// Fills short sequences up.
    pub pad_id: u32,
    /// V.
    pub vocab_size: usize,
    /// Names the dropout streams.
    pub seed: u64,
    /// Noise on the embeddings of a sample of L tokens: uniform in ± α / √(L·D).
    pub noise: Option<Neftune>,
    /// Steps, over as many epochs as that takes.
    pub len: usize,
}

/// Noise on embeddings while training (NEFTune, Jain et al. 2023).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neftune {
    /// α.
    pub alpha: f64,
    /// D.
    pub width: usize,
}

impl Batches<LmStep> for LmBatches {
    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, index: usize, device: &Device) -> Result<LmStep, String> {
        let (epoch, step) = self.plan.position(index);
        let seed = stream(self.seed, "layers", &[index as u64]);
        let mut result = LmStep { micro: Vec::new(), weight: 0.0, tokens: 0, seed };
        for samples in self.plan.epoch(epoch).step(step) {
            let batch = self.data.batch(&samples, self.plan.packing(), self.pad_id).map_err(|e| e.to_string())?;
            result.weight += batch.weight();
            result.tokens += batch.tokens;
            let ints = |values: &[u32]| {
                let values: Vec<i32> = values.iter().map(|v| *v as i32).collect();
                let count = values.len();
                Tensor::<1, Int>::from_data(TensorData::new(values, [count]), device)
            };
            let repeated = batch.rows.len() > batch.places.len();
            let weighted = batch.weights.iter().any(|weight| *weight != 1.0);
            let mut input = batch.input(self.vocab_size, device).map_err(|e| e.to_string())?;
            input.noise = self.noise.map(|Neftune { alpha, width }| {
                let reach = |length: &u32| (alpha / (f64::from(*length) * width as f64).sqrt()) as f32;
                let reach: Vec<f32> = batch.lengths.iter().map(reach).collect();
                Tensor::from_data(
                    TensorData::new(reach, input.dims()),
                    (&device.clone().without_autodiff(), DType::F32),
                )
            });
            result.micro.push(MicroBatch {
                input,
                rows: repeated.then(|| ints(&batch.rows)),
                targets: ints(&batch.targets),
                weights: weighted.then(|| {
                    let count = batch.weights.len();
                    Tensor::from_data(TensorData::new(batch.weights, [count]), (device, DType::F32))
                }),
                places: batch.places,
            });
        }
        Ok(result)
    }

    fn records(&self, index: usize) -> Vec<String> {
        let (epoch, step) = self.plan.position(index);
        let samples = self.plan.epoch(epoch).samples(step).to_vec();
        samples.into_iter().map(|sample| format!("line {}", self.data.line(sample as usize))).collect()
    }
}
