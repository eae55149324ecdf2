//! Confidence intervals by the bootstrap (Efron, 1979): the metric is computed again on data sets of the same size that are drawn
//! from the records with replacement, and the interval holds the middle of what comes out (percentile method).
//!
//! Records of one workflow are not independent of each other: whole workflows are drawn, unless single records are asked for.
//! A workflow that is drawn twice is ranked twice.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::rank::descending;
use super::utility::{Curve, UtilityOptions, oracle_order};
use super::{Error, Result, ScoredRecord};

/// More draws say nothing more.
const MAX_DRAWS: usize = 100_000;

/// How intervals are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// Data sets that are drawn; 0 for no intervals. Default 1000.
    pub draws: usize,
    /// What is drawn. Default `Workflows`.
    pub unit: Unit,
    /// The share of draws that lie in the interval. Default 0.95.
    pub level: f64,
    /// The seed of the draws. Default 42.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { draws: 1000, unit: Unit::Workflows, level: 0.95, seed: 42 }
    }
}

/// What is drawn with replacement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Workflows with all their records.
    #[default]
    Workflows,
    /// Single records.
    Records,
}

/// An interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The intervals of an evaluation; `None` for a metric that is not defined in any draw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Intervals {
    /// Of the accuracy.
    pub accuracy: Option<Interval>,
    /// Of the published utility, over the draws in which it is defined.
    pub utility: Option<Interval>,
}

impl Intervals {
    /// Their ends by name: `accuracy_low`, `accuracy_high`, `utility_low`, `utility_high`.
    #[must_use]
    pub fn flat(&self) -> [(String, Option<f64>); 4] {
        let end = |name: &str, value: Option<f64>| (name.to_owned(), value);
        [
            end("accuracy_low", self.accuracy.map(|i| i.low)),
            end("accuracy_high", self.accuracy.map(|i| i.high)),
            end("utility_low", self.utility.map(|i| i.low)),
            end("utility_high", self.utility.map(|i| i.high)),
        ]
    }
}

/// What the records of one workflow add up to.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    records: usize,
    right: usize,
    labels: f64,
    votes: f64,
}

impl Sums {
    fn add(&mut self, record: &ScoredRecord, threshold: f64) {
        let vote = record.score > threshold;
        self.records += 1;
        self.right += usize::from(vote == (record.label >= 0.5));
        self.labels += record.label;
        self.votes += f64::from(u8::from(vote));
    }
}

impl Bootstrap {
    /// Checks the ranges of the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] names the setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        if self.draws > MAX_DRAWS {
            let expected = "at most 100000";
            return Err(Error::Setting { setting: "bootstrap.draws", value: self.draws as f64, expected });
        }
        if !(self.level > 0.0 && self.level < 1.0) {
            let expected = "above 0 and below 1";
            return Err(Error::Setting { setting: "bootstrap.level", value: self.level, expected });
        }
        Ok(())
    }

    /// The intervals of the accuracy and of the published utility; `None` for 0 draws.
    ///
    /// # Errors
    /// No records; settings out of their ranges.
    pub fn intervals(
        &self,
        records: &[ScoredRecord],
        threshold: f64,
        options: &UtilityOptions,
    ) -> Result<Option<Intervals>> {
        self.validate()?;
        options.validate()?;
        if records.is_empty() {
            return Err(Error::NoRecords);
        }
        if self.draws == 0 {
            return Ok(None);
        }
        // Workflows in the order of their first records, which breaks ties.
        let mut places = std::collections::HashMap::new();
        let of: Vec<usize> = records
            .iter()
            .map(|record| {
                let next = places.len();
                *places.entry(record.workflow_id).or_insert(next)
            })
            .collect();
        let mut all = vec![Sums::default(); places.len()];
        for (record, place) in records.iter().zip(&of) {
            all[*place].add(record, threshold);
        }
        let mut random = datasets::rng::stream(self.seed, "bootstrap", &[]);
        let (mut accuracies, mut utilities) = (Vec::with_capacity(self.draws), Vec::with_capacity(self.draws));
        for _ in 0..self.draws {
            let drawn: Vec<Sums> = match self.unit {
                Unit::Workflows => (0..all.len()).map(|_| all[random.random_range(0..all.len())]).collect(),
                Unit::Records => {
                    let mut drawn = vec![Sums::default(); all.len()];
                    for _ in 0..records.len() {
                        let record = random.random_range(0..records.len());
                        drawn[of[record]].add(&records[record], threshold);
                    }
                    drawn
                }
            };
            let sum = |of: fn(&Sums) -> usize| drawn.iter().map(of).sum::<usize>() as f64;
            accuracies.push(sum(|w| w.right) / sum(|w| w.records));
            utilities.extend(utility(&drawn, options));
        }
        Ok(Some(Intervals {
            accuracy: percentiles(accuracies, self.level),
            utility: percentiles(utilities, self.level),
        }))
    }
}

/// The published utility ([`super::utility`]).
fn utility(workflows: &[Sums], options: &UtilityOptions) -> Option<f64> {
    // Who was not drawn at all is not ranked, whatever the settings.
    let ranked = workflows.iter().filter(|w| w.records >= options.min_records.max(1));
    let (truth, votes): (Vec<f64>, Vec<f64>) =
        ranked.map(|w| (w.labels / w.records as f64, w.votes / w.records as f64)).unzip();
    Curve::new(&descending(&truth), &oracle_order(&votes, &truth), Some(options.points)).utility
}

/// The middle `level` of some values, between which quantiles are linear.
fn percentiles(mut values: Vec<f64>, level: f64) -> Option<Interval> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let quantile = |share: f64| {
        let place = share * last as f64;
        let left = (place as usize).min(last);
        let right = (left + 1).min(last);
        values[left] + (place - left as f64) * (values[right] - values[left])
    };
    let tail = (1.0 - level) / 2.0;
    Some(Interval { low: quantile(tail), high: quantile(1.0 - tail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_linear() {
        let found = percentiles(vec![4.0, 1.0, 2.0, 3.0, 5.0], 0.5);
        assert_eq!(found, Some(Interval { low: 2.0, high: 4.0 }));
        let found = percentiles(vec![1.0, 2.0], 0.5);
        assert_eq!(found, Some(Interval { low: 1.25, high: 1.75 }));
        assert_eq!(percentiles(vec![7.0], 0.9), Some(Interval { low: 7.0, high: 7.0 }));
        assert_eq!(percentiles(Vec::new(), 0.9), None);
    }
}
