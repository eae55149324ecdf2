//! Named random streams.

use rand::RngExt;

/// A 64-bit seed for the stream `name`, drawn from the recipe's seed and any number of counters (epoch, step, index): the
/// first draw of [`datasets::rng::stream`]. For what takes a seed rather than a generator, such as a device.
pub fn stream(seed: u64, name: &str, counters: &[u64]) -> u64 {
    let counters: Vec<[u8; 8]> = counters.iter().map(|c| c.to_le_bytes()).collect();
    let parts: Vec<&[u8]> = counters.iter().map(|c| c.as_slice()).collect();
    datasets::rng::stream(seed, name, &parts).random()
}
