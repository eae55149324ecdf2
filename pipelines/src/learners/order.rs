//! In which order an epoch sees its records.

use crate::recipe::Sampler;
use crate::train::stream;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// How to draw the order of an epoch.
#[derive(Clone, Debug)]
pub enum Order {
    /// As they stand.
    Fixed,
    /// Shuffled anew for each epoch.
    Shuffle,
    /// Each group's records are shuffled and cut into near-equal chunks of at most `size`; the chunks are shuffled.
    Grouped {
        /// The group of each record.
        groups: Vec<i64>,
        /// The largest chunk.
        size: usize,
    },
}

impl Order {
    /// The order that a recipe's sampler asks for; `groups` are the records' tasks.
    pub fn new(sampler: Sampler, groups: impl FnOnce() -> Vec<i64>) -> Self {
        match sampler {
            Sampler::Shuffle => Self::Shuffle,
            Sampler::TaskGrouped { group_size } => Self::Grouped { groups: groups(), size: group_size.max(1) },
        }
    }

    /// The order of `epoch` (from 0) for `count` records: a function of its arguments alone.
    pub fn draw(&self, count: usize, seed: u64, epoch: usize) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(stream(seed, "order", &[epoch as u64]));
        let mut all: Vec<u32> = (0..count as u32).collect();
        match self {
            Self::Fixed => all,
            Self::Shuffle => {
                all.shuffle(&mut rng);
                all
            }
            Self::Grouped { groups, size } => {
                let mut by_group: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
                for (record, group) in all.iter().zip(groups) {
                    by_group.entry(*group).or_default().push(*record);
                }
                let mut chunks: Vec<Vec<u32>> = Vec::new();
                for mut members in by_group.into_values() {
                    members.shuffle(&mut rng);
                    let pieces = members.len().div_ceil(*size);
                    let mut rest = members.as_slice();
                    for piece in 0..pieces {
                        let (chunk, after) = rest.split_at(rest.len().div_ceil(pieces - piece));
                        chunks.push(chunk.to_vec());
                        rest = after;
                    }
                }
                chunks.shuffle(&mut rng);
                chunks.concat()
            }
        }
    }
}

/// Batches of record numbers over many epochs; remembers the order of the epoch asked for last.
#[derive(Debug)]
pub struct EpochOrder {
    order: Order,
    count: usize,
    batch: usize,
    per_epoch: usize,
    seed: u64,
    current: Mutex<Option<(usize, Arc<Vec<u32>>)>>,
}

impl Clone for EpochOrder {
    fn clone(&self) -> Self {
        Self { order: self.order.clone(), current: Mutex::new(None), ..*self }
    }
}

impl EpochOrder {
    /// Batches of `batch` out of `count` records, fewer where there are fewer; `drop_last` leaves out the rest of an epoch
    /// that fills no batch.
    pub fn new(order: Order, count: usize, batch: usize, drop_last: bool, seed: u64) -> Self {
        let batch = batch.clamp(1, count.max(1));
        let per_epoch = if drop_last { count / batch } else { count.div_ceil(batch) };
        Self { order, count, batch, per_epoch, seed, current: Mutex::new(None) }
    }

    /// Batches in an epoch.
    pub fn per_epoch(&self) -> usize {
        self.per_epoch
    }

    /// The records of batch `index`, counted through all epochs.
    pub fn records(&self, index: usize) -> Vec<u32> {
        if self.per_epoch == 0 {
            return Vec::new();
        }
        let epoch = index / self.per_epoch;
        let order = {
            let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match &*current {
                Some((known, order)) if *known == epoch => order.clone(),
                _ => {
                    let order = Arc::new(self.order.draw(self.count, self.seed, epoch));
                    *current = Some((epoch, order.clone()));
                    order
                }
            }
        };
        let start = (index % self.per_epoch) * self.batch;
        order[start..(start + self.batch).min(order.len())].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_once_per_epoch_and_new_orders() {
        let groups: Vec<i64> = (0..103).map(|i| i % 7).collect();
        for order in [Order::Shuffle, Order::Grouped { groups, size: 4 }] {
            let batches = EpochOrder::new(order, 103, 10, false, 1);
            assert_eq!(batches.per_epoch(), 11);
            let epoch = |n: usize| (0..11).flat_map(|i| batches.records(n * 11 + i)).collect::<Vec<_>>();
            let (first, second) = (epoch(0), epoch(1));
            for seen in [&first, &second] {
                let mut sorted = seen.to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..103).collect::<Vec<u32>>());
            }
            assert_ne!(first, second);
            assert_eq!(first, epoch(0));
        }
    }

    #[test]
    fn chunks_hold_one_group() {
        let groups: Vec<i64> = (0..40).map(|i| i / 10).collect();
        let order = Order::Grouped { groups: groups.clone(), size: 5 }.draw(40, 3, 0);
        for chunk in order.chunks(5) {
            let group = groups[chunk[0] as usize];
            assert!(chunk.iter().all(|r| groups[*r as usize] == group));
        }
    }

    #[test]
    fn small_sets_shrink_the_batch() {
        let batches = EpochOrder::new(Order::Fixed, 3, 512, true, 0);
        assert_eq!(batches.per_epoch(), 1);
        assert_eq!(batches.records(5), vec![0, 1, 2]);
        let dropped = EpochOrder::new(Order::Fixed, 25, 10, true, 0);
        assert_eq!((dropped.per_epoch(), dropped.records(1).len()), (2, 10));
        assert_eq!(EpochOrder::new(Order::Fixed, 0, 10, true, 0).per_epoch(), 0);
    }
}
