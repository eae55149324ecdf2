//! Which samples go into which step.

use super::{SftDataset, Sharing};
use crate::error::{Error, Result};
use crate::rng::stream;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

/// How samples share a forward pass. All give the same loss and gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Packing {
    /// Behind each other in one row without padding; what some of them begin with, such as the description that all questions
    /// about one workflow share, is computed once. Samples that share at least half of their prompts are drawn into the same
    /// step, up to 32 at a time.
    #[default]
    SharedPrefix,
    /// Behind each other in one row without padding.
    Packed,
    /// Below each other, filled up to the longest.
    Padded,
}

/// How samples are put into steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanConfig {
    /// Samples in one optimizer step; the last step of an epoch takes what is left. Default: 64.
    pub sequences_per_step: usize,
    /// The most token places of one forward pass, padding included; a longer sample goes alone. Default: 8,192.
    pub micro_tokens: usize,
    /// How samples share a forward pass.
    pub packing: Packing,
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self { sequences_per_step: 64, micro_tokens: 8192, packing: Packing::default() }
    }
}

/// Which samples go into which step: a pure function of the samples, the settings, the seed, the epoch and the step. To
/// continue a run, the number of the step is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlan {
    lengths: Vec<u32>,
    /// Only for [`Packing::SharedPrefix`].
    sharing: Option<Sharing>,
    config: PlanConfig,
    seed: u64,
}

impl StepPlan {
    /// A plan for the samples of a dataset.
    pub fn new(data: &SftDataset, config: PlanConfig, seed: u64) -> Result<Self> {
        let sharing = (config.packing == Packing::SharedPrefix).then(|| Sharing::of(data));
        Self::with(data.lengths(), sharing, config, seed)
    }

    fn with(lengths: Vec<u32>, sharing: Option<Sharing>, config: PlanConfig, seed: u64) -> Result<Self> {
        if lengths.is_empty() {
            return Err(Error::setting("data", "at least one sample", 0));
        }
        if config.sequences_per_step == 0 {
            return Err(Error::setting("sequences_per_step", "at least 1", 0));
        }
        if config.micro_tokens == 0 {
            return Err(Error::setting("micro_tokens", "at least 1", 0));
        }
        Ok(Self { lengths, sharing, config, seed })
    }

    /// How samples share a forward pass.
    pub fn packing(&self) -> Packing {
        self.config.packing
    }

    /// `ceil(samples / sequences_per_step)`.
    pub fn steps_per_epoch(&self) -> usize {
        self.lengths.len().div_ceil(self.config.sequences_per_step)
    }

    /// The epoch of a step of the whole run, and the step inside it; all from 0.
    pub fn position(&self, step: usize) -> (usize, usize) {
        (step / self.steps_per_epoch(), step % self.steps_per_epoch())
    }

    /// The order of an epoch: another one for every epoch.
    pub fn epoch(&self, epoch: usize) -> EpochPlan<'_> {
        let mut rng = stream(self.seed, "sft: order", &[&(epoch as u64).to_le_bytes()]);
        let order = match &self.sharing {
            Some(sharing) => {
                let mut groups: Vec<Vec<u32>> = sharing.groups().map(<[u32]>::to_vec).collect();
                groups.shuffle(&mut rng);
                groups.concat()
            }
            None => {
                let mut order: Vec<u32> = (0..self.lengths.len() as u32).collect();
                order.shuffle(&mut rng);
                order
            }
        };
        EpochPlan { plan: self, order }
    }
}

/// The steps of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochPlan<'a> {
    plan: &'a StepPlan,
    order: Vec<u32>,
}

impl EpochPlan<'_> {
    /// The number of steps.
    pub fn len(&self) -> usize {
        self.plan.steps_per_epoch()
    }

    /// Whether there is none; never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The samples of a step; none after the last.
    pub fn samples(&self, step: usize) -> &[u32] {
        let size = self.plan.config.sequences_per_step;
        let start = step.saturating_mul(size).min(self.order.len());
        &self.order[start..self.order.len().min(start + size)]
    }

    /// The samples of a step in the groups that go through the model together, each within the limit on places unless it is one
    /// sample: with padding of similar length, longest first; packed in the order of the step; sharing prefixes in the order of
    /// their ids.
    pub fn step(&self, step: usize) -> Vec<Vec<u32>> {
        let StepPlan { lengths, sharing, config, .. } = self.plan;
        let length = |sample: u32| lengths[sample as usize] as usize;
        let mut samples = self.samples(step).to_vec();
        match (sharing, config.packing) {
            (Some(sharing), _) => sharing.sort(&mut samples),
            (None, Packing::Padded) => {
                samples.sort_unstable_by_key(|sample| (std::cmp::Reverse(length(*sample)), *sample));
            }
            (None, _) => {}
        }
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut places = 0usize;
        for sample in samples {
            let added = match groups.last() {
                // The first of a padded group is its longest.
                Some(group) if config.packing == Packing::Padded => length(group[0]),
                Some(group) => {
                    let shared = |sharing: &Sharing| sharing.shared(group[group.len() - 1], sample);
                    length(sample) - sharing.as_ref().map_or(0, shared)
                }
                None => usize::MAX,
            };
            match groups.last_mut() {
                Some(group) if places.saturating_add(added) <= config.micro_tokens => {
                    group.push(sample);
                    places += added;
                }
                _ => {
                    groups.push(vec![sample]);
                    places = length(sample);
                }
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan(samples: usize, sequences_per_step: usize, micro_tokens: usize) -> StepPlan {
        let lengths = (0..samples).map(|sample| 5 + (sample * 37 % 60) as u32).collect();
        let config = PlanConfig { sequences_per_step, micro_tokens, packing: Packing::Padded };
        StepPlan::with(lengths, None, config, 42).unwrap()
    }

    #[test]
    fn the_worked_step_counts() {
        assert_eq!(plan(17_070, 64, 8192).steps_per_epoch(), 267);
        assert_eq!(plan(23_346, 64, 8192).steps_per_epoch() * 20, 7300);
        assert_eq!(plan(3, 64, 8192).steps_per_epoch(), 1);
        assert_eq!(plan(130, 64, 8192).position(7), (2, 1));
    }

    #[test]
    fn every_epoch_has_every_sample_once_in_its_own_order() {
        let plan = plan(130, 32, 256);
        let mut orders = Vec::new();
        for epoch in 0..3 {
            let steps = plan.epoch(epoch);
            let mut seen = Vec::new();
            for step in 0..steps.len() {
                let groups = steps.step(step);
                let mut together: Vec<u32> = groups.iter().flatten().copied().collect();
                let mut samples = steps.samples(step).to_vec();
                together.sort_unstable();
                samples.sort_unstable();
                assert_eq!(together, samples);
                for group in &groups {
                    let longest = group.iter().map(|sample| plan.lengths[*sample as usize]).max().unwrap();
                    assert!(group.len() == 1 || group.len() * longest as usize <= 256);
                }
                seen.extend(together);
            }
            assert_eq!(steps.samples(4).len(), 2);
            assert!(steps.samples(5).is_empty() && steps.step(usize::MAX).is_empty());
            orders.push(steps.order.clone());
            seen.sort_unstable();
            assert_eq!(seen, (0..130).collect::<Vec<_>>());
        }
        assert_ne!(orders[0], orders[1]);
        assert_ne!(orders[1], orders[2]);
        assert_eq!(orders[2], plan.epoch(2).order);
    }

    #[test]
    fn groups_hold_little_padding() {
        let plan = plan(512, 64, 1024);
        let steps = plan.epoch(0);
        let (mut tokens, mut places) = (0, 0);
        for group in (0..steps.len()).flat_map(|step| steps.step(step)) {
            let lengths = group.iter().map(|sample| plan.lengths[*sample as usize] as usize);
            tokens += lengths.clone().sum::<usize>();
            places += group.len() * lengths.max().unwrap();
        }
        assert!(places as f64 <= 1.3 * tokens as f64, "{places} places for {tokens} tokens");
    }

    #[test]
    fn impossible_settings_are_refused() {
        let new = |lengths, sequences_per_step, micro_tokens| {
            let config = PlanConfig { sequences_per_step, micro_tokens, packing: Packing::Packed };
            StepPlan::with(lengths, None, config, 1).is_err()
        };
        assert!(new(vec![], 1, 1) && new(vec![1], 0, 1) && new(vec![1], 1, 0));
    }
}
