//! Which samples go into which step.

use super::{SftDataset, Sharing};
use crate::error::{Error, Result};
use crate::rng::stream;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How samples share a forward pass. All give the same loss and gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Packing {
    /// Behind each other in one row without padding; what some of them begin with, such as the description that all questions
    /// about one workflow share, is computed once. Samples that share at least half of their prompts are drawn into the same
    /// step, up to 32 at a time.
    #[default]
    SharedPrefix,
    /// Behind each other in one row without padding, each in the fullest row that still has room for it (best fit, longest first).
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
    /// Instead, about so many tokens in one optimizer step, a sample counting whole. The steps of an epoch are as even as whole samples
    /// allow. Default: none.
    pub tokens_per_step: Option<usize>,
    /// The most token places of one forward pass, padding included; a longer sample goes alone. Default: 8,192.
    pub micro_tokens: usize,
    /// How samples share a forward pass.
    pub packing: Packing,
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self { sequences_per_step: 64, tokens_per_step: None, micro_tokens: 8192, packing: Packing::default() }
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
    steps: usize,
    seed: u64,
    /// Samples of one source, and how often an epoch takes all of them and how many once more. Together they are all samples.
    parts: Vec<(Range<usize>, (usize, usize))>,
}

impl StepPlan {
    /// A plan for the samples of a dataset. Of a source with a weight w every epoch takes all samples floor(w) times, and once more
    /// as many of them, drawn anew, as the rest of the weight says.
    pub fn new(data: &SftDataset, config: PlanConfig, seed: u64) -> Result<Self> {
        let sharing = (config.packing == Packing::SharedPrefix).then(|| Sharing::of(data));
        Self::with(data.lengths(), data.parts(), sharing, config, seed)
    }

    fn with(
        lengths: Vec<u32>,
        parts: Vec<(Range<usize>, (usize, usize))>,
        sharing: Option<Sharing>,
        config: PlanConfig,
        seed: u64,
    ) -> Result<Self> {
        if lengths.is_empty() || parts.iter().all(|(range, (copies, more))| copies * range.len() + more == 0) {
            return Err(Error::setting("data", "at least one sample", 0));
        }
        if config.sequences_per_step == 0 {
            return Err(Error::setting("sequences_per_step", "at least 1", 0));
        }
        if config.micro_tokens == 0 {
            return Err(Error::setting("micro_tokens", "at least 1", 0));
        }
        if config.tokens_per_step == Some(0) {
            return Err(Error::setting("tokens_per_step", "at least 1", 0));
        }
        let taken: usize = parts.iter().map(|(range, (copies, more))| copies * range.len() + more).sum();
        let steps = match config.tokens_per_step {
            None => taken.div_ceil(config.sequences_per_step),
            Some(tokens) => {
                // Of what an epoch draws by chance, its share.
                let all = parts.iter().map(|(range, (copies, more))| {
                    let sum: u64 = lengths[range.clone()].iter().map(|length| u64::from(*length)).sum();
                    sum * *copies as u64 + sum * *more as u64 / range.len().max(1) as u64
                });
                // No step is empty.
                let steps = usize::try_from(all.sum::<u64>().div_ceil(tokens as u64)).unwrap_or(usize::MAX);
                steps.clamp(1, taken.max(1))
            }
        };
        Ok(Self { lengths, sharing, config, steps, seed, parts })
    }

    /// How samples share a forward pass.
    pub fn packing(&self) -> Packing {
        self.config.packing
    }

    /// How many samples an epoch takes.
    pub fn samples_per_epoch(&self) -> usize {
        self.parts.iter().map(|(range, (copies, more))| copies * range.len() + more).sum()
    }

    /// `ceil(samples / sequences_per_step)`, or `ceil(tokens / tokens_per_step)`.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps
    }

    /// How many steps hold about so many samples; at least 1.
    pub fn steps_for(&self, samples: usize) -> usize {
        let steps = match self.config.tokens_per_step {
            None => samples.div_ceil(self.config.sequences_per_step),
            Some(_) => samples.saturating_mul(self.steps).div_ceil(self.samples_per_epoch().max(1)),
        };
        steps.max(1)
    }

    /// How often an epoch takes each sample.
    fn times(&self, epoch: usize) -> Vec<u32> {
        let mut times = vec![0; self.lengths.len()];
        for (part, (range, (copies, more))) in self.parts.iter().enumerate() {
            times[range.clone()].fill(*copies as u32);
            if *more > 0 {
                let numbers = [(epoch as u64).to_le_bytes(), (part as u64).to_le_bytes()];
                let mut rng = stream(self.seed, "sft: mixture", &[&numbers[0], &numbers[1]]);
                let mut drawn: Vec<usize> = range.clone().collect();
                drawn.shuffle(&mut rng);
                drawn.iter().take(*more).for_each(|sample| times[*sample] += 1);
            }
        }
        times
    }

    /// The epoch of a step of the whole run, and the step inside it; all from 0.
    pub fn position(&self, step: usize) -> (usize, usize) {
        (step / self.steps_per_epoch(), step % self.steps_per_epoch())
    }

    /// The order of an epoch: another one for every epoch.
    pub fn epoch(&self, epoch: usize) -> EpochPlan<'_> {
        let mut rng = stream(self.seed, "sft: order", &[&(epoch as u64).to_le_bytes()]);
        let times = self.times(epoch);
        let rounds = times.iter().copied().max().unwrap_or(0);
        // Each sample stands in as many rounds as it is taken.
        let taken = |round: u32, samples: &mut dyn Iterator<Item = u32>| -> Vec<u32> {
            samples.filter(|sample| times[*sample as usize] > round).collect()
        };
        let order = match &self.sharing {
            Some(sharing) => {
                let groups = (0..rounds).flat_map(|round| sharing.groups().map(move |group| (round, group)));
                let groups = groups.map(|(round, group)| taken(round, &mut group.iter().copied()));
                let mut groups: Vec<Vec<u32>> = groups.filter(|group| !group.is_empty()).collect();
                groups.shuffle(&mut rng);
                groups.concat()
            }
            None => {
                let all = 0..self.lengths.len() as u32;
                let mut order: Vec<u32> = (0..rounds).flat_map(|round| taken(round, &mut all.clone())).collect();
                order.shuffle(&mut rng);
                order
            }
        };
        EpochPlan { bounds: self.bounds(&order), plan: self, order }
    }

    /// Where the steps of an order begin, and its end.
    fn bounds(&self, order: &[u32]) -> Vec<usize> {
        if self.config.tokens_per_step.is_none() {
            return (0..=self.steps).map(|step| (step * self.config.sequences_per_step).min(order.len())).collect();
        }
        let length = |sample: &u32| u64::from(self.lengths[*sample as usize]);
        let all: u64 = order.iter().map(length).sum();
        let (mut bounds, mut end, mut tokens) = (vec![0], 0, 0);
        for step in 1..=self.steps {
            // In 128 bits: the product of two counts.
            let want = (u128::from(all) * step as u128 / self.steps as u128) as u64;
            let most = order.len() - (self.steps - step);
            // A sample is in the step that its middle falls into.
            while end < most && (bounds.last() == Some(&end) || tokens + length(&order[end]) / 2 <= want) {
                tokens += length(&order[end]);
                end += 1;
            }
            bounds.push(end);
        }
        if let Some(last) = bounds.last_mut() {
            *last = order.len();
        }
        bounds
    }
}

/// The steps of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochPlan<'a> {
    plan: &'a StepPlan,
    order: Vec<u32>,
    bounds: Vec<usize>,
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

    /// All samples, in their order; with weights some of them several times, or not at all.
    pub fn all(&self) -> &[u32] {
        &self.order
    }

    /// The samples of a step; none after the last.
    pub fn samples(&self, step: usize) -> &[u32] {
        match self.bounds.get(step..).and_then(|rest| rest.get(..2)) {
            Some(&[start, end]) => &self.order[start..end],
            _ => &[],
        }
    }

    /// The samples of a step in the groups that go through the model together, each within the limit on places unless it is one
    /// sample: with padding of similar length, longest first; packed by best fit; sharing prefixes in the order of their ids.
    pub fn step(&self, step: usize) -> Vec<Vec<u32>> {
        let StepPlan { lengths, sharing, config, .. } = self.plan;
        let length = |sample: u32| lengths[sample as usize] as usize;
        let mut samples = self.samples(step).to_vec();
        match sharing {
            Some(sharing) => sharing.sort(&mut samples),
            None => samples.sort_unstable_by_key(|sample| (std::cmp::Reverse(length(*sample)), *sample)),
        }
        if config.packing == Packing::Packed {
            return best_fit(&samples, length, config.micro_tokens);
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

/// Samples, longest first, in groups of at most `most` places: each in the fullest group with room for it, else in a new one.
fn best_fit(samples: &[u32], length: impl Fn(u32) -> usize, most: usize) -> Vec<Vec<u32>> {
    let mut groups: Vec<(usize, Vec<u32>)> = Vec::new();
    for sample in samples {
        let own = length(*sample);
        let fitting = groups.iter_mut().filter(|(places, _)| places.saturating_add(own) <= most);
        match fitting.max_by_key(|(places, _)| *places) {
            Some((places, group)) => {
                *places += own;
                group.push(*sample);
            }
            None => groups.push((own, vec![*sample])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan(samples: usize, sequences_per_step: usize, micro_tokens: usize) -> StepPlan {
        mixture(samples, vec![(0..samples, (1, 0))], sequences_per_step, micro_tokens)
    }

    fn mixture(
        samples: usize,
        parts: Vec<(Range<usize>, (usize, usize))>,
        sequences_per_step: usize,
        micro_tokens: usize,
    ) -> StepPlan {
        let lengths = (0..samples).map(|sample| 5 + (sample * 37 % 60) as u32).collect();
        let config = PlanConfig { sequences_per_step, micro_tokens, packing: Packing::Padded, ..PlanConfig::default() };
        StepPlan::with(lengths, parts, None, config, 42).unwrap()
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
    fn weights_are_times() {
        // 40 samples 2.25 times, 30 half of the time, 10 never.
        let plan = mixture(80, vec![(0..40, (2, 10)), (40..70, (0, 15)), (70..80, (0, 0))], 7, 256);
        assert_eq!((plan.samples_per_epoch(), plan.steps_per_epoch()), (105, 15));
        let counted = |epoch: usize| {
            let mut counts = vec![0; 80];
            plan.epoch(epoch).order.iter().for_each(|sample| counts[*sample as usize] += 1);
            counts
        };
        let (first, second) = (counted(0), counted(1));
        assert_ne!(first, second);
        assert_eq!(first, counted(0));
        for counts in [first, second] {
            assert!(counts[..40].iter().all(|count| [2, 3].contains(count)));
            assert_eq!(counts[..40].iter().sum::<usize>(), 90);
            assert_eq!((counts[40..70].iter().sum::<usize>(), counts[40..70].iter().max()), (15, Some(&1)));
            assert_eq!(counts[70..], [0; 10]);
        }
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
    fn tokens_per_step_give_even_steps_of_whole_samples() {
        let lengths: Vec<u32> = (0..400).map(|sample| 5 + (sample * 37 % 60)).chain([900]).collect();
        let all: u32 = lengths.iter().sum();
        let config =
            |tokens| PlanConfig { tokens_per_step: Some(tokens), packing: Packing::Packed, ..PlanConfig::default() };
        let plan = StepPlan::with(lengths.clone(), vec![(0..401, (1, 0))], None, config(500), 42).unwrap();
        assert_eq!(plan.steps_per_epoch(), all.div_ceil(500) as usize);
        for epoch in 0..3 {
            let steps = plan.epoch(epoch);
            let sums: Vec<u32> =
                (0..steps.len()).map(|step| steps.samples(step).iter().map(|s| lengths[*s as usize]).sum()).collect();
            assert_eq!(sums.iter().sum::<u32>(), all);
            // Half a sample at each border; the long one is alone, with the ends of its neighbours.
            let odd = sums.iter().filter(|sum| !(436..=564).contains(*sum)).count();
            assert!(odd <= 4 && sums.iter().all(|sum| *sum > 0 && *sum <= 964), "{sums:?}");
            assert!(steps.samples(steps.len()).is_empty() && steps.samples(usize::MAX).is_empty());
        }
        // Never an empty step.
        let few = StepPlan::with(vec![900, 1, 1], vec![(0..3, (1, 0))], None, config(10), 1).unwrap();
        assert_eq!((few.steps_per_epoch(), few.epoch(0).samples(1).len()), (3, 1));
        assert!(StepPlan::with(vec![1], vec![(0..1, (1, 0))], None, config(0), 1).is_err());
    }

    #[test]
    fn packed_groups_are_full() {
        let lengths: [usize; 6] = [60, 50, 40, 30, 20, 10];
        let groups = best_fit(&[0, 1, 2, 3, 4, 5], |sample| lengths[sample as usize], 100);
        assert_eq!(groups, [vec![0, 2], vec![1, 3, 4], vec![5]]);
        assert_eq!(best_fit(&[0, 1], |_| 200, 100), [vec![0], vec![1]], "a longer one goes alone");
    }

    #[test]
    fn impossible_settings_are_refused() {
        let new = |lengths, sequences_per_step, micro_tokens| {
            let config = PlanConfig { sequences_per_step, micro_tokens, ..PlanConfig::default() };
            let parts = vec![(0..Vec::len(&lengths), (1, 0))];
            StepPlan::with(lengths, parts, None, config, 1).is_err()
        };
        assert!(new(vec![], 1, 1) && new(vec![1], 0, 1) && new(vec![1], 1, 0));
    }
}
