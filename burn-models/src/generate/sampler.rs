//! From logits to a token.

use std::cmp::Ordering;
use std::collections::HashSet;

use burn_lora::Stream;
use serde::{Deserialize, Serialize};

use crate::ops::{WordWeights, largest, reached_by};
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
        self.temperature == 0.0 && !self.is_penalised()
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
    pub fn penalised(&self, logits: &[f32], previous: &[u32]) -> Vec<f32> {
        let mut logits = logits.to_vec();
        let penalty = self.repetition_penalty as f32;
        for id in previous.iter().collect::<HashSet<_>>() {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
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
        let penalised = self.is_penalised().then(|| self.penalised(logits, previous));
        let logits = penalised.as_deref().unwrap_or(logits);
        let top = finite(largest(logits))?;
        if self.temperature == 0.0 {
            // The first of equal logits, as an argmax on a device gives.
            let first = logits.iter().position(|l| *l == top);
            return Ok(vec![(first.unwrap_or(0) as u32, 1.0)]);
        }
        let best = f64::from(top);
        // Cheaply, a bound below everything that the filters will keep; what is excluded can never be drawn, whatever they keep.
        let mut least = f32::MIN;
        let mut raise = |bound: f64| least = least.max((bound as f32).next_down());
        if self.top_k > 0 {
            raise(f64::from(reached_by(logits, self.top_k)));
        }
        if self.min_p > 0.0 {
            raise(best + self.temperature * (self.min_p.ln() - 1e-6));
        }
        let mut all = None;
        if self.top_p < 1.0 && self.top_k == 0 && self.min_p == 0.0 {
            let sum = WordWeights::new(logits, top, self.temperature).sum();
            // Together, those below the limit do not make up what may be left out: the rest holds the set.
            let limit = 0.5 * (1.0 - self.top_p) * sum / logits.len() as f64;
            raise(best + self.temperature * limit.ln());
            all = Some(sum);
        }
        let mut kept: Vec<(u32, f64)> =
            (0..).zip(logits).filter(|(_, l)| **l >= least).map(|(id, l)| (id, f64::from(*l))).collect();
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
            let reach = self.top_p * all.unwrap_or_else(|| kept.iter().map(|(_, w)| w).sum::<f64>());
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

    fn is_penalised(&self) -> bool {
        self.repetition_penalty != 1.0
    }

    /// Whether every token may be drawn, by its probability.
    fn is_plain(&self) -> bool {
        let Self { temperature, top_k, top_p, min_p, .. } = *self;
        temperature > 0.0 && top_k == 0 && top_p == 1.0 && min_p == 0.0 && !self.is_penalised()
    }

    /// Draws a token.
    ///
    /// # Errors
    /// As [`SamplingConfig::candidates`].
    pub fn sample(&self, logits: &[f32], previous: &[u32], stream: &mut Stream) -> Result<u32> {
        if self.is_plain() {
            let top = finite(largest(logits))?;
            return Ok(WordWeights::new(logits, top, self.temperature).word_at(stream.unit()));
        }
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

/// The largest logit, if all are numbers.
fn finite(top: f32) -> Result<f32> {
    if top.is_finite() { Ok(top) } else { Err(Error::Device("the network's logits are not finite".into())) }
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

    /// The filters as they are defined, over the whole vocabulary.
    fn by_definition(config: &SamplingConfig, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut kept: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|l| f64::from(*l))).collect();
        kept.retain(|(_, l)| l.is_finite());
        kept.sort_by(most_probable_first);
        let best = kept[0].1;
        if config.top_k > 0 && config.top_k < kept.len() {
            let last = kept[config.top_k - 1].1;
            kept.retain(|(_, l)| *l >= last);
        }
        kept.iter_mut().for_each(|(_, l)| *l = ((*l - best) / config.temperature).exp());
        kept.retain(|(_, w)| *w >= config.min_p);
        let all: f64 = kept.iter().map(|(_, w)| w).sum();
        let mut before = 0.0;
        kept.retain(|(_, w)| {
            let needed = before < config.top_p * all;
            before += w;
            needed
        });
        let all: f64 = kept.iter().map(|(_, w)| w).sum();
        kept.into_iter().map(|(id, w)| (id, w / all)).collect()
    }

    #[test]
    fn filters_keep_what_they_are_defined_to_keep() {
        let mut stream = Stream::new(5, &["filters"]);
        for round in 0..300 {
            let size = 1 + (stream.unit() * 3000.0) as usize;
            // Steps of an eighth, so that many are equal; some are excluded.
            let width = [1.0, 6.0, 40.0][round % 3];
            let mut logits: Vec<f32> = stream.uniform(size, width).iter().map(|l| (l * 8.0).round() / 8.0).collect();
            for at in 0..logits.len().saturating_sub(1) {
                if stream.unit() < 0.1 {
                    logits[at] = f32::NEG_INFINITY;
                }
            }
            let config = SamplingConfig {
                temperature: [0.5, 1.0, 1.7][round / 3 % 3],
                top_k: [0, 1, 7, 50, 5000][round % 5],
                // Of no equal weights does a sum come this close to it.
                top_p: [1.0, 0.900_000_1, 0.300_000_3][round / 5 % 3],
                min_p: [0.0, 0.011, 0.4][round / 7 % 3],
                ..SamplingConfig::default()
            };
            let (got, want) = (config.candidates(&logits, &[]).unwrap(), by_definition(&config, &logits));
            assert_eq!(
                got.iter().map(|(id, _)| id).collect::<Vec<_>>(),
                want.iter().map(|(id, _)| id).collect::<Vec<_>>(),
                "{config:?}"
            );
            for ((_, got), (_, want)) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-9, "{config:?}: {got} {want}");
            }
            let drawn = config.sample(&logits, &[], &mut stream).unwrap();
            assert!(want.iter().any(|(id, _)| *id == drawn), "{config:?}");
        }
    }

    #[test]
    fn hardly_and_very_even_draws() {
        let mut stream = Stream::new(6, &["edges"]);
        let logits = [f32::NEG_INFINITY, 1.0, 0.5, f32::NEG_INFINITY];
        for temperature in [1e-300, 1e-30, 1e30, 1e300] {
            let config = SamplingConfig { temperature, ..SamplingConfig::default() };
            let drawn: HashSet<u32> = (0..200).map(|_| config.sample(&logits, &[], &mut stream).unwrap()).collect();
            let want = if temperature < 1.0 { HashSet::from([1]) } else { HashSet::from([1, 2]) };
            assert_eq!(drawn, want, "{temperature}");
        }
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
