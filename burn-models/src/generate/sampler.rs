//! From logits to a token.

use std::cmp::Ordering;
use std::collections::HashSet;

use burn_lora::Stream;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How a token is chosen. The steps are those of the reference library, in its order: repetition penalty, temperature,
/// top-k, top-p, min-p. The defaults change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Logits are divided by it; 0 takes the most probable token. Default 1.
    pub temperature: f64,
    /// Keep the k most probable tokens, and any as probable as the last of them; 0 keeps all. Default 0.
    pub top_k: usize,
    /// Keep the smallest set of most probable tokens whose probability reaches p. Default 1.
    pub top_p: f64,
    /// Keep tokens at least p times as probable as the most probable one. Default 0.
    pub min_p: f64,
    /// Logits of tokens already in the text are divided by it if positive, multiplied if negative. Default 1.
    pub repetition_penalty: f64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl SamplingConfig {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether the choice is the largest logit as it comes from the network.
    pub(super) fn is_argmax(&self) -> bool {
        self.temperature == 0.0 && self.repetition_penalty == 1.0
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Input`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let bad =
            |key: &str, value: f64, expected: &str| Err(Error::Input(format!("{key} is {value}, expected {expected}")));
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return bad("temperature", self.temperature, "0 or a positive number");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p, "a number above 0 and up to 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("min_p", self.min_p, "a number from 0 to 1");
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return bad("repetition_penalty", self.repetition_penalty, "a positive number");
        }
        Ok(())
    }

    /// The logits after the repetition penalty for the tokens in `previous`.
    pub fn penalised(&self, logits: &[f32], previous: &[u32]) -> Vec<f64> {
        let mut logits: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
        if self.repetition_penalty != 1.0 {
            for id in previous.iter().collect::<HashSet<_>>() {
                if let Some(logit) = logits.get_mut(*id as usize) {
                    *logit *= if *logit < 0.0 { self.repetition_penalty } else { self.repetition_penalty.recip() };
                }
            }
        }
        logits
    }

    /// The tokens that may be drawn with their probabilities, most probable first; of equally probable tokens, the one with
    /// the larger id. `previous` are the tokens of the text so far.
    ///
    /// # Errors
    /// When a logit is NaN or all are −∞.
    pub fn candidates(&self, logits: &[f32], previous: &[u32]) -> Result<Vec<(u32, f64)>> {
        let mut kept = self.kept(logits, previous)?;
        kept.sort_unstable_by(most_probable_first);
        Ok(kept)
    }

    /// [`candidates`](Self::candidates), in an order that depends on the settings: a whole vocabulary need not be sorted for one
    /// token to be drawn.
    fn kept(&self, logits: &[f32], previous: &[u32]) -> Result<Vec<(u32, f64)>> {
        let mut kept: Vec<(u32, f64)> = (0..).zip(self.penalised(logits, previous)).collect();
        let best = kept.iter().map(|(_, l)| *l).fold(f64::NEG_INFINITY, f64::max);
        if !best.is_finite() || kept.iter().any(|(_, l)| l.is_nan()) {
            return Err(Error::Device("the network's logits are not finite".into()));
        }
        // What is excluded can never be drawn, whatever the filters keep.
        kept.retain(|(_, l)| *l > f64::NEG_INFINITY);
        if self.temperature == 0.0 {
            // The first of equal logits, as an argmax on a device gives.
            kept.retain(|(_, l)| *l == best);
            kept.truncate(1);
            return Ok(vec![(kept[0].0, 1.0)]);
        }
        if self.top_k > 0 && self.top_k < kept.len() {
            let (_, &mut (_, last), _) = kept.select_nth_unstable_by(self.top_k - 1, most_probable_first);
            kept.retain(|(_, l)| *l >= last);
        }
        for (_, l) in &mut kept {
            *l = ((*l - best) / self.temperature).exp();
        }
        if self.min_p > 0.0 {
            // The most probable token has weight 1 here, whatever the steps before have removed.
            kept.retain(|(_, w)| *w >= self.min_p);
        }
        if self.top_p < 1.0 {
            let all = kept.iter().map(|(_, w)| w).sum::<f64>();
            let reach = self.top_p * all;
            // Together, those below the limit do not make up what may be left out: the rest holds the set.
            let limit = 0.5 * (1.0 - self.top_p) * all / kept.len() as f64;
            kept.retain(|(_, w)| *w >= limit);
            kept.sort_unstable_by(most_probable_first);
            let mut before = 0.0;
            let full = kept.iter().position(|(_, w)| {
                before += w;
                before >= reach
            });
            kept.truncate(full.map_or(kept.len(), |last| last + 1));
        }
        let total: f64 = kept.iter().map(|(_, w)| w).sum();
        kept.iter_mut().for_each(|(_, w)| *w /= total);
        Ok(kept)
    }

    /// Draws a token.
    ///
    /// # Errors
    /// As [`SamplingConfig::candidates`].
    pub fn sample(&self, logits: &[f32], previous: &[u32], stream: &mut Stream) -> Result<u32> {
        let candidates = self.kept(logits, previous)?;
        let mut left = stream.unit();
        for &(id, p) in &candidates {
            left -= p;
            if left < 0.0 {
                return Ok(id);
            }
        }
        // Rounding can leave a crumb after the last candidate: give it to the first.
        Ok(candidates[0].0)
    }
}

/// Of equally probable tokens the one with the larger id.
fn most_probable_first(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(b.0.cmp(&a.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities() {
        let config = SamplingConfig { top_k: 3, ..SamplingConfig::default() };
        let logits = [0.0, 2f32.ln(), 4f32.ln(), -9.0];
        let mut stream = Stream::new(1, &["test"]);
        let mut counts = [0; 4];
        for _ in 0..7000 {
            counts[config.sample(&logits, &[], &mut stream).unwrap() as usize] += 1;
        }
        assert_eq!(counts[3], 0);
        for (count, expected) in counts.into_iter().zip([1000i32, 2000, 4000]) {
            assert!((count - expected).abs() < 150, "{counts:?}");
        }
    }

    #[test]
    fn zero_temperature_takes_the_first_of_the_largest() {
        let pick = |logits: &[f32]| SamplingConfig::greedy().candidates(logits, &[]).unwrap();
        assert_eq!(pick(&[1.0, 3.0, 3.0]), [(1, 1.0)]);
        assert!(SamplingConfig::greedy().candidates(&[f32::NAN, 1.0], &[]).is_err());
        assert!(SamplingConfig::default().candidates(&[f32::NEG_INFINITY; 2], &[]).is_err());
    }

    #[test]
    fn ranges() {
        let base = SamplingConfig::default();
        assert!(base.validate().is_ok());
        for bad in [
            SamplingConfig { temperature: -1.0, ..base },
            SamplingConfig { top_p: 0.0, ..base },
            SamplingConfig { min_p: 1.5, ..base },
            SamplingConfig { repetition_penalty: f64::NAN, ..base },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
