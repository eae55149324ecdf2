//! Named random streams.

/// A 64-bit seed for the stream `name`, drawn from the recipe's seed and any number of counters (epoch, step, index).
///
/// The first eight bytes of `blake3(seed ‖ name ‖ counters)`, so streams of different names or counters are independent and
/// the same on every machine.
pub fn stream(seed: u64, name: &str, counters: &[u64]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    for counter in counters {
        hasher.update(&counter.to_le_bytes());
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
