//! Utility: how far the ranking of workflows by prediction agrees with the ranking by truth (FLORA-Bench, arXiv
//! 2503.11301; GLOW, arXiv 2512.15751).
//!
//! For each workflow w: truth g(w) = mean label, vote share p(w) = share of its records with score > threshold, mean
//! score s(w). Workflows stand in the order of their first record. With both rankings from best to worst,
//!
//! precision@k = |top k by truth ∩ top k by prediction| / k,  k = 1 … n,
//!
//! and the utility is the area under precision@k over [1, n], divided by that of the perfect ranking, n − 1. It is not
//! defined for n < 2. The variants differ in what is ranked and how ties are broken:
//!
//! | name | workflows | ranked by | ties in prediction | area |
//! |---|---|---|---|---|
//! | `utility` (published) | ≥ `min_records` records | p | p = 1 and p = 0 by the **truth**, others in file order | sampled |
//! | `utility_flora` (FLORA-Bench) | all | p | file order | sampled |
//! | `utility_exact` | ≥ `min_records` records | p | file order | exact |
//! | `utility_score` | ≥ `min_records` records | s | file order | exact |
//! | `utility_tie_mean` | ≥ `min_records` records | p | mean over seeded random orders | exact |
//!
//! The published form looks at the truth where all votes of a workflow agree and is therefore optimistic; the last three
//! do not. *Sampled* interpolates the curve linearly at `points` equally spaced places and integrates by trapezoids, which
//! misses knots or skips them; *exact* integrates by trapezoids over all k.

use std::collections::HashMap;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::classification::mean_squared_error;
use super::rank::{descending, kendall_tau_b, spearman};
use super::{Error, Result, ScoredRecord};

/// Settings of the utility.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UtilityOptions {
    /// Workflows with fewer records are not ranked (but by `utility_flora`). Default 3.
    pub min_records: usize,
    /// Places at which the sampled area reads the curve, at least 2. Default 100.
    pub points: usize,
    /// Random tie orders behind `utility_tie_mean`, at least 1. Default 200.
    pub tie_draws: usize,
    /// Seed of the random tie orders. Default 42.
    pub seed: u64,
}

impl Default for UtilityOptions {
    fn default() -> Self {
        Self { min_records: 3, points: 100, tie_draws: 200, seed: 42 }
    }
}

impl UtilityOptions {
    /// Checks the ranges of the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] names the setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        let too_small = |setting, value: usize, expected| Error::Setting { setting, value: value as f64, expected };
        if self.points < 2 {
            return Err(too_small("utility.points", self.points, "at least 2"));
        }
        if self.tie_draws == 0 {
            return Err(too_small("utility.tie_draws", 0, "at least 1"));
        }
        Ok(())
    }
}

/// What the records of one workflow add up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Workflow {
    /// The workflow's id.
    pub id: i64,
    /// Number of its records.
    pub records: usize,
    /// g: mean label.
    pub truth: f64,
    /// p: share of records with score > threshold.
    pub votes: f64,
    /// s: mean score.
    pub score: f64,
}

/// Adds up records by workflow, in the order of the workflows' first records.
#[must_use]
pub fn workflows(records: &[ScoredRecord], threshold: f64) -> Vec<Workflow> {
    let mut places: HashMap<i64, usize> = HashMap::new();
    let mut sums: Vec<Workflow> = Vec::new();
    for record in records {
        let place = *places.entry(record.workflow_id).or_insert_with(|| {
            sums.push(Workflow { id: record.workflow_id, records: 0, truth: 0.0, votes: 0.0, score: 0.0 });
            sums.len() - 1
        });
        let sum = &mut sums[place];
        sum.records += 1;
        sum.truth += record.label;
        sum.votes += f64::from(u8::from(record.score > threshold));
        sum.score += record.score;
    }
    for sum in &mut sums {
        // A quotient of small integers is correctly rounded, so equal shares are equal numbers.
        let count = sum.records as f64;
        sum.truth /= count;
        sum.votes /= count;
        sum.score /= count;
    }
    sums
}

/// The published predicted ranking: by `votes` from high to low, then those of exactly 1 and those of exactly 0 re-ordered
/// by `truth` from high to low. Both sorts are stable.
#[must_use]
pub fn oracle_order(votes: &[f64], truth: &[f64]) -> Vec<usize> {
    let mut order = descending(votes);
    for group in order.chunk_by_mut(|&a, &b| votes[a] == votes[b]) {
        if votes[group[0]] == 1.0 || votes[group[0]] == 0.0 {
            group.sort_by(|&a, &b| truth[b].total_cmp(&truth[a]));
        }
    }
    order
}

/// Precision@k for k = 1 … n of two orders of the same n items: |first k of one ∩ first k of the other| / k.
#[must_use]
pub fn precision_at_k(truth_order: &[usize], predicted_order: &[usize]) -> Vec<f64> {
    let n = truth_order.len().min(predicted_order.len());
    let mut truth_place = vec![0; n];
    for (place, &item) in truth_order.iter().take(n).enumerate() {
        truth_place[item] = place;
    }
    // An item is in both tops from the larger of its two places on.
    let mut entering = vec![0_u32; n];
    for (place, &item) in predicted_order.iter().take(n).enumerate() {
        entering[place.max(truth_place[item])] += 1;
    }
    let mut shared = 0;
    entering
        .iter()
        .enumerate()
        .map(|(place, &count)| {
            shared += count;
            f64::from(shared) / (place + 1) as f64
        })
        .collect()
}

/// Area under `precision` over [1, n] divided by n − 1: trapezoids over `points` (at least 2) equally spaced places,
/// between which the curve is linear. `None` for n < 2. With `points` = n it is exact.
#[must_use]
pub fn area(precision: &[f64], points: usize) -> Option<f64> {
    let last = precision.len().checked_sub(1).filter(|&last| last > 0)?;
    let steps = points.checked_sub(1).filter(|&steps| steps > 0)?;
    let value = |i: usize| {
        let place = (i * last) as f64 / steps as f64;
        let left = (place as usize).min(last - 1);
        precision[left] + (place - left as f64) * (precision[left + 1] - precision[left])
    };
    let inner: f64 = (1..steps).map(value).sum();
    Some(((value(0) + value(steps)) / 2.0 + inner) / steps as f64)
}

/// Exact area under `precision` over [1, n] divided by n − 1; `None` for n < 2.
#[must_use]
pub fn exact_area(precision: &[f64]) -> Option<f64> {
    area(precision, precision.len())
}

/// One ranking against the truth.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve {
    /// Precision@k for k = 1 … n.
    pub precision: Vec<f64>,
    /// The utility; `None` for n < 2.
    pub utility: Option<f64>,
}

impl Curve {
    /// The curve of `predicted_order` against `truth_order`, its area sampled at `points` places or exact.
    #[must_use]
    pub fn new(truth_order: &[usize], predicted_order: &[usize], points: Option<usize>) -> Self {
        let precision = precision_at_k(truth_order, predicted_order);
        let utility = points.map_or_else(|| exact_area(&precision), |points| area(&precision, points));
        Self { precision, utility }
    }
}

/// The published `utility` alone, with its curve.
#[must_use]
pub fn published(records: &[ScoredRecord], threshold: f64, options: &UtilityOptions) -> Curve {
    let mut ranked = workflows(records, threshold);
    ranked.retain(|workflow| workflow.records >= options.min_records);
    let (truth, votes) = columns(&ranked);
    Curve::new(&descending(&truth), &oracle_order(&votes, &truth), Some(options.points))
}

/// All variants of the utility, and how the shares of votes follow the truth. See the [module](self) for the variants.
#[derive(Debug, Clone, PartialEq)]
pub struct UtilityReport {
    /// The workflows with at least `min_records` records, in the order of their first records.
    pub ranked: Vec<Workflow>,
    /// Number of all workflows.
    pub n_workflows: usize,
    /// `utility`, with its curve.
    pub published: Curve,
    /// `utility_flora`, with its curve over all workflows.
    pub flora: Curve,
    /// `utility_exact`, with its curve.
    pub exact: Curve,
    /// `utility_score`, with its curve.
    pub score: Curve,
    /// `utility_tie_mean`.
    pub tie_mean: Option<f64>,
    /// Kendall's τ-b of p and g over the ranked workflows.
    pub kendall_tau: Option<f64>,
    /// Spearman's ρ of p and g over the ranked workflows.
    pub spearman: Option<f64>,
    /// Mean of (p − g)² over the ranked workflows.
    pub workflow_mse: Option<f64>,
    /// Why the utility is not defined, if it is not.
    pub reason: Option<String>,
}

impl UtilityReport {
    /// Ranks the workflows of `records`.
    ///
    /// # Errors
    /// Settings outside their ranges ([`UtilityOptions::validate`]).
    pub fn compute(records: &[ScoredRecord], threshold: f64, options: &UtilityOptions) -> Result<Self> {
        options.validate()?;
        let all = workflows(records, threshold);
        let flora = {
            let (truth, votes) = columns(&all);
            Curve::new(&descending(&truth), &descending(&votes), Some(options.points))
        };
        let n_workflows = all.len();
        let ranked: Vec<Workflow> =
            all.into_iter().filter(|workflow| workflow.records >= options.min_records).collect();
        let (truth, votes) = columns(&ranked);
        let scores: Vec<f64> = ranked.iter().map(|workflow| workflow.score).collect();
        let truth_order = descending(&truth);
        let reason = (ranked.len() < 2).then(|| {
            format!(
                "a ranking needs two workflows with at least {} record(s) each: there are {} among {n_workflows}",
                options.min_records,
                ranked.len(),
            )
        });
        Ok(Self {
            n_workflows,
            published: Curve::new(&truth_order, &oracle_order(&votes, &truth), Some(options.points)),
            flora,
            exact: Curve::new(&truth_order, &descending(&votes), None),
            score: Curve::new(&truth_order, &descending(&scores), None),
            tie_mean: tie_mean(&truth_order, &votes, options),
            kendall_tau: kendall_tau_b(&votes, &truth),
            spearman: spearman(&votes, &truth),
            workflow_mse: mean_squared_error(&votes, &truth),
            ranked,
            reason,
        })
    }
}

/// Mean exact utility over random orders of equal votes; the truth's order stays, so that only the prediction's ties vary.
fn tie_mean(truth_order: &[usize], votes: &[f64], options: &UtilityOptions) -> Option<f64> {
    let mut random = datasets::rng::stream(options.seed, "utility ties", &[]);
    let mut order = descending(votes);
    let mut sum = 0.0;
    for _ in 0..options.tie_draws {
        for group in order.chunk_by_mut(|&a, &b| votes[a] == votes[b]) {
            group.shuffle(&mut random);
        }
        sum += exact_area(&precision_at_k(truth_order, &order))?;
    }
    Some(sum / options.tie_draws as f64)
}

/// The columns g and p.
fn columns(workflows: &[Workflow]) -> (Vec<f64>, Vec<f64>) {
    workflows.iter().map(|workflow| (workflow.truth, workflow.votes)).unzip()
}
