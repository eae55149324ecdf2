//! Batches by number, built ahead of time.

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// Batches that can be asked for by number, in any order.
///
/// For training, number `i` is optimizer step `i` of the whole stage, so a stage continues at any step without replaying
/// the ones before it.
pub trait Batches<B>: Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Builds batch `index` on a device.
    ///
    /// # Errors
    /// A reason for people, where the data cannot be read.
    fn batch(&self, index: usize, device: &Device) -> Result<B, String>;

    /// The ids of the records in batch `index`, for reports.
    fn records(&self, index: usize) -> Vec<String>;
}

/// Batches as a `burn-train` data loader. A thread builds up to two batches ahead.
pub struct BatchLoader<B> {
    batches: Arc<dyn Batches<B>>,
    range: Range<usize>,
    device: Device,
}

impl<B> BatchLoader<B> {
    /// All batches, in order.
    pub fn new(batches: Arc<dyn Batches<B>>, device: Device) -> Self {
        let range = 0..batches.len();
        Self { batches, range, device }
    }
}

const AHEAD: usize = 2;

impl<B: Send + 'static> DataLoader<B> for BatchLoader<B> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<B> + 'a> {
        let (sender, receiver) = sync_channel(AHEAD);
        let (batches, range, device) = (self.batches.clone(), self.range.clone(), self.device.clone());
        // Ends when the range is done or the receiver is gone.
        std::thread::spawn(move || {
            for index in range {
                let batch = batches.batch(index, &device);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    break;
                }
            }
        });
        Box::new(Ahead { receiver, done: 0, total: self.range.len() })
    }

    fn num_items(&self) -> usize {
        self.range.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<B>> {
        Arc::new(Self { batches: self.batches.clone(), range: self.range.clone(), device: device.clone() })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B>> {
        let start = (self.range.start + start).min(self.range.end);
        let end = (self.range.start + end).clamp(start, self.range.end);
        Arc::new(Self { batches: self.batches.clone(), range: start..end, device: self.device.clone() })
    }
}

struct Ahead<B> {
    receiver: Receiver<Result<B, String>>,
    done: usize,
    total: usize,
}

impl<B> Iterator for Ahead<B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.receiver.recv().ok()?;
        self.done += 1;
        Some(batch.map_err(|reason| DatasetError::new(std::io::Error::other(reason))))
    }
}

impl<B> DataLoaderIterator<B> for Ahead<B> {
    fn progress(&self) -> Progress {
        Progress::new(self.done, self.total, Some("batches".into()))
    }
}
