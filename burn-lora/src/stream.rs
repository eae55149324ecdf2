//! Named streams of random numbers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers that depends on a seed and on names, and on nothing else: not on the device, the order
/// of use, or other streams. Every weight, adapter and generated sequence has its own.
#[derive(Debug, Clone)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of `seed` with these names, such as `["init", "model.embed_tokens.weight"]`.
    pub fn new(seed: u64, names: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        for name in names {
            // The length first, so that ["a", "bc"] and ["ab", "c"] differ.
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` values uniform in [-bound, bound).
    pub fn uniform(&mut self, count: usize, bound: f64) -> Vec<f32> {
        (0..count).map(|_| ((2.0 * self.unit() - 1.0) * bound) as f32).collect()
    }

    /// `count` values of a normal distribution with mean 0, by the method of Box and Muller.
    pub fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            // 1 - u lies in (0, 1], so that the logarithm is finite.
            let radius = deviation * (-2.0 * (1.0 - self.unit()).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * self.unit()).sin_cos();
            values.extend([(radius * cos) as f32, (radius * sin) as f32]);
        }
        values.truncate(count);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::Stream;

    #[test]
    fn streams_are_reproducible_and_distinct() {
        let draw = |seed, names: &[&str]| Stream::new(seed, names).uniform(4, 1.0);
        assert_eq!(draw(1, &["a", "bc"]), draw(1, &["a", "bc"]));
        assert_ne!(draw(1, &["a", "bc"]), draw(1, &["ab", "c"]));
        assert_ne!(draw(1, &["a"]), draw(2, &["a"]));
    }

    #[test]
    fn moments() {
        let count = 20_000;
        let mean = |v: &[f32]| v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
        let square = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / v.len() as f64;
        let normal = Stream::new(3, &["n"]).normal(count, 0.5);
        assert!(mean(&normal).abs() < 0.02, "{}", mean(&normal));
        assert!((square(&normal) - 0.25).abs() < 0.01, "{}", square(&normal));
        let uniform = Stream::new(3, &["u"]).uniform(count, 0.5);
        assert!(uniform.iter().all(|v| v.abs() <= 0.5));
        assert!((square(&uniform) - 0.25 / 3.0).abs() < 0.003, "{}", square(&uniform));
    }
}
