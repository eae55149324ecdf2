//! The optimizer steps of a fine-tuning.

use super::causal_lm::{LmStep, MicroBatch};
use crate::train::Batches;
use burn::tensor::{Device, Int, Tensor, TensorData};
use datasets::sft::{SftDataset, StepPlan};
use std::sync::Arc;

/// Chats in steps of so many sequences, each step in micro-batches of similar length.
pub struct LmBatches {
    data: Arc<SftDataset>,
    plan: StepPlan,
    pad_id: u32,
    vocab_size: usize,
    len: usize,
}

impl LmBatches {
    /// `len` steps of the plan, over as many epochs as that takes.
    pub fn new(data: Arc<SftDataset>, plan: StepPlan, pad_id: u32, vocab_size: usize, len: usize) -> Self {
        Self { data, plan, pad_id, vocab_size, len }
    }
}

impl Batches<LmStep> for LmBatches {
    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, index: usize, device: &Device) -> Result<LmStep, String> {
        let (epoch, step) = self.plan.position(index);
        let mut result = LmStep { micro: Vec::new(), supervised: 0, tokens: 0 };
        for samples in self.plan.epoch(epoch).step(step) {
            let batch = self.data.batch(&samples, self.pad_id).map_err(|e| e.to_string())?;
            result.supervised += batch.targets.len();
            result.tokens += batch.tokens();
            let ints = |values: &[u32]| {
                let values: Vec<i32> = values.iter().map(|v| *v as i32).collect();
                let count = values.len();
                Tensor::<1, Int>::from_data(TensorData::new(values, [count]), device)
            };
            result.micro.push(MicroBatch {
                input: batch.padded.input(self.vocab_size, device).map_err(|e| e.to_string())?,
                rows: ints(&batch.rows),
                targets: ints(&batch.targets),
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
