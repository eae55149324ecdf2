//! Random streams by name.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The random stream that belongs to a seed, a name and further parts: the same on every machine and thread, and
/// unrelated to the streams of other names or parts.
///
/// ChaCha8 seeded with `BLAKE3(seed, name, parts)`, each part with its length.
pub fn stream(seed: u64, name: &str, parts: &[&[u8]]) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key("hearth random stream 1");
    hasher.update(&seed.to_le_bytes());
    for part in std::iter::once(&name.as_bytes()).chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn every_part_counts() {
        let mut draws: Vec<u64> = vec![
            stream(1, "a", &[]).random(),
            stream(2, "a", &[]).random(),
            stream(1, "b", &[]).random(),
            stream(1, "a", &[b""]).random(),
            stream(1, "a", &[b"xy"]).random(),
            stream(1, "a", &[b"x", b"y"]).random(),
        ];
        assert_eq!(draws[0], stream(1, "a", &[]).random::<u64>());
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), 6);
    }
}
