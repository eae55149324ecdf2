//! Which records go into which batch.

use crate::error::{Error, Result};
use crate::rng::stream;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How the records of an epoch are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Sampler {
    /// By chance.
    #[default]
    Shuffle,
    /// In groups of the same task, so that a batch holds something to contrast: the shuffled records of each task in
    /// parts of nearly equal size, at most `group_size`, and the parts by chance.
    TaskGrouped {
        /// The most records of a part. Default 8.
        #[serde(default = "Sampler::default_group_size")]
        group_size: usize,
        /// Gives every part of a task nearly the same share of positive records, where labels are known. Default false.
        #[serde(default)]
        balanced: bool,
    },
}

impl Sampler {
    fn default_group_size() -> usize {
        8
    }
}

/// Which records go into which batch: a pure function of the settings, the seed and the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPlan {
    tasks: Vec<i64>,
    batch_size: usize,
    drop_last: bool,
    sampler: Sampler,
    seed: u64,
    /// Which records are positive; empty where that is not known.
    positive: Vec<bool>,
}

impl BatchPlan {
    /// A plan for records of these tasks. With `drop_last` an incomplete last batch is left out, unless it is the only
    /// one.
    pub fn new(tasks: Vec<i64>, batch_size: usize, drop_last: bool, sampler: Sampler, seed: u64) -> Result<Self> {
        if tasks.is_empty() {
            return Err(Error::setting("data", "at least one record", 0));
        }
        if batch_size == 0 {
            return Err(Error::setting("batch_size", "at least 1", 0));
        }
        if matches!(sampler, Sampler::TaskGrouped { group_size: 0, .. }) {
            return Err(Error::setting("group_size", "at least 1", 0));
        }
        Ok(Self { tasks, batch_size, drop_last, sampler, seed, positive: Vec::new() })
    }

    /// The plan with knowledge of which records are positive, for [`Sampler::TaskGrouped`] with `balanced`.
    pub fn with_labels(mut self, positive: Vec<bool>) -> Result<Self> {
        if positive.len() != self.tasks.len() {
            return Err(Error::setting("labels", format!("one per record, {}", self.tasks.len()), positive.len()));
        }
        self.positive = positive;
        Ok(self)
    }

    /// A task's records with positive and negative ones spread evenly; among themselves both keep their order.
    fn spread(&self, records: &[u32]) -> Vec<u32> {
        let (positive, negative): (Vec<u32>, Vec<u32>) = records.iter().partition(|r| self.positive[**r as usize]);
        let mut placed: Vec<(f64, u32)> = Vec::new();
        for side in [positive, negative] {
            let count = side.len() as f64;
            placed.extend(side.into_iter().enumerate().map(|(i, record)| ((i as f64 + 0.5) / count, record)));
        }
        placed.sort_by(|a, b| a.0.total_cmp(&b.0));
        placed.into_iter().map(|(_, record)| record).collect()
    }

    /// The number of batches in every epoch; at least one.
    pub fn batches_per_epoch(&self) -> usize {
        let records = self.tasks.len();
        if self.drop_last { (records / self.batch_size).max(1) } else { records.div_ceil(self.batch_size) }
    }

    /// The batches of an epoch, as numbers of records.
    pub fn epoch(&self, epoch: usize) -> Vec<Vec<u32>> {
        let mut rng = stream(self.seed, "batches", &[&(epoch as u64).to_le_bytes()]);
        let mut order: Vec<u32> = (0..self.tasks.len() as u32).collect();
        order.shuffle(&mut rng);
        if let Sampler::TaskGrouped { group_size, balanced } = self.sampler {
            // Tasks in the order in which they appear: a map's own order would differ from run to run.
            let mut place_of_task = HashMap::new();
            let mut by_task: Vec<Vec<u32>> = Vec::new();
            for record in order {
                let place = *place_of_task.entry(self.tasks[record as usize]).or_insert(by_task.len());
                if place == by_task.len() {
                    by_task.push(Vec::new());
                }
                by_task[place].push(record);
            }
            if balanced && !self.positive.is_empty() {
                by_task.iter_mut().for_each(|records| *records = self.spread(records));
            }
            let mut parts: Vec<&[u32]> = Vec::new();
            for records in &by_task {
                let count = records.len().div_ceil(group_size);
                let border = |part: usize| part * records.len() / count;
                parts.extend((0..count).map(|part| &records[border(part)..border(part + 1)]));
            }
            parts.shuffle(&mut rng);
            order = parts.concat();
        }
        order.chunks(self.batch_size).take(self.batches_per_epoch()).map(<[u32]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan(records: usize, tasks: usize, batch_size: usize, drop_last: bool, sampler: Sampler) -> BatchPlan {
        let tasks = (0..records).map(|record| (record * 7 % tasks) as i64).collect();
        BatchPlan::new(tasks, batch_size, drop_last, sampler, 42).unwrap()
    }

    const GROUPED: Sampler = Sampler::TaskGrouped { group_size: 8, balanced: false };

    #[test]
    fn every_record_once_in_an_order_of_its_own() {
        for sampler in [Sampler::Shuffle, GROUPED] {
            let plan = plan(100, 9, 32, false, sampler);
            assert_eq!(plan.epoch(3), plan.epoch(3));
            assert_ne!(plan.epoch(3), plan.epoch(4));
            let mut all = plan.epoch(0).concat();
            assert_eq!(plan.epoch(0).iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 32, 4]);
            all.sort_unstable();
            assert_eq!(all, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn incomplete_batches_are_dropped_unless_alone() {
        assert_eq!(plan(100, 9, 32, true, Sampler::Shuffle).epoch(0).len(), 3);
        let small = plan(5, 2, 512, true, Sampler::Shuffle);
        assert_eq!((small.epoch(0).len(), small.epoch(0)[0].len()), (1, 5));
    }

    #[test]
    fn groups_raise_the_number_of_contrasts() {
        // Tasks of which a batch holds two positive records and a negative one.
        let active = |sampler| {
            let plan = plan(2400, 800, 64, true, sampler);
            let contrasted = |batch: &Vec<u32>| {
                let mut counts: HashMap<i64, [usize; 2]> = HashMap::new();
                for record in batch {
                    let positive = usize::from(record % 3 != 0);
                    counts.entry(plan.tasks[*record as usize]).or_default()[positive] += 1;
                }
                counts.values().filter(|[negative, positive]| *positive >= 2 && *negative >= 1).count()
            };
            plan.epoch(0).iter().map(contrasted).sum::<usize>()
        };
        assert!(active(GROUPED) > 10 * active(Sampler::Shuffle).max(1));
    }

    #[test]
    fn parts_have_their_share_of_positives() {
        // 64 records of one task, every fourth positive, in batches of one part.
        let positive: Vec<bool> = (0..64).map(|record| record % 4 == 0).collect();
        let shares = |balanced| {
            let sampler = Sampler::TaskGrouped { group_size: 8, balanced };
            let plan = BatchPlan::new(vec![1; 64], 8, true, sampler, 7).unwrap().with_labels(positive.clone()).unwrap();
            let mut all = plan.epoch(0).concat();
            let count = |batch: &Vec<u32>| batch.iter().filter(|r| positive[**r as usize]).count();
            let shares: Vec<usize> = plan.epoch(0).iter().map(count).collect();
            assert_ne!(plan.epoch(0), plan.epoch(1));
            all.sort_unstable();
            assert_eq!(all, (0..64).collect::<Vec<_>>());
            shares
        };
        assert_eq!(shares(true), [2; 8]);
        assert_ne!(shares(false), [2; 8]);
        assert!(plan(5, 2, 4, true, GROUPED).with_labels(vec![true]).is_err());
    }

    #[test]
    fn parts_are_nearly_equal() {
        let plan = plan(21, 1, 7, false, GROUPED);
        assert_eq!(plan.epoch(0).iter().map(Vec::len).collect::<Vec<_>>(), [7, 7, 7]);
        assert!(BatchPlan::new(vec![1], 1, true, Sampler::TaskGrouped { group_size: 0, balanced: false }, 0).is_err());
        assert!(BatchPlan::new(vec![], 1, true, Sampler::Shuffle, 0).is_err());
        assert!(BatchPlan::new(vec![1], 0, true, Sampler::Shuffle, 0).is_err());
    }
}
