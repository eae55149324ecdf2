//! Batches of record numbers, counted through all epochs.

use datasets::sampler::{BatchPlan, Sampler};
use std::sync::{Arc, Mutex};

/// The batches of a stage by number. An epoch's batches are drawn when one of them is asked for, and remembered until another
/// epoch is.
#[derive(Debug)]
pub struct Epochs {
    plan: BatchPlan,
    current: Mutex<Option<Epoch>>,
}

/// An epoch's number and its batches.
type Epoch = (usize, Arc<Vec<Vec<u32>>>);

impl Epochs {
    /// Batches of `batch_size` records, drawn anew for every epoch. `tasks` are the records' tasks; `drop_last` leaves out an
    /// incomplete last batch, unless it is the only one.
    ///
    /// # Errors
    /// No records, or a size of 0.
    pub fn new(
        tasks: Vec<i64>,
        batch_size: usize,
        drop_last: bool,
        sampler: Sampler,
        seed: u64,
    ) -> datasets::Result<Self> {
        Ok(Self { plan: BatchPlan::new(tasks, batch_size, drop_last, sampler, seed)?, current: Mutex::new(None) })
    }

    /// The same with knowledge of which records are positive, for [`Sampler::TaskGrouped`] with `balanced`.
    ///
    /// # Errors
    /// Another number of labels than of records.
    pub fn with_labels(mut self, positive: Vec<bool>) -> datasets::Result<Self> {
        self.plan = self.plan.with_labels(positive)?;
        Ok(self)
    }

    /// Batches in an epoch; at least one.
    pub fn per_epoch(&self) -> usize {
        self.plan.batches_per_epoch()
    }

    /// The records of batch `index`, counted through all epochs.
    pub fn records(&self, index: usize) -> Vec<u32> {
        let (epoch, inside) = (index / self.per_epoch(), index % self.per_epoch());
        let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let batches = match &*current {
            Some((known, batches)) if *known == epoch => batches.clone(),
            _ => {
                let batches = Arc::new(self.plan.epoch(epoch));
                *current = Some((epoch, batches.clone()));
                batches
            }
        };
        batches[inside].clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_on_through_epochs_and_can_be_asked_for_in_any_order() {
        let epochs = Epochs::new(vec![0; 103], 10, false, Sampler::Shuffle, 1).unwrap();
        let epoch = |n: usize| (0..11).flat_map(|i| epochs.records(n * 11 + i)).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        assert_eq!(first, epoch(0));
        let mut sorted = second;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..103).collect::<Vec<u32>>());
    }
}
