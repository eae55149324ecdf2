//! Binary classification: thresholded reports, ranking quality, and calibration.

use serde::{Deserialize, Serialize};

use super::rank::average_ranks;

/// Number of bins of [`calibration_error`] in reports.
pub const CALIBRATION_BINS: usize = 15;

/// Counts of truth against prediction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confusion {
    /// Class 1 predicted as class 1.
    pub true_positive: u64,
    /// Class 0 predicted as class 1.
    pub false_positive: u64,
    /// Class 0 predicted as class 0.
    pub true_negative: u64,
    /// Class 1 predicted as class 0.
    pub false_negative: u64,
}

impl Confusion {
    /// Counts pairs of (truth, prediction).
    pub fn count(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counts = Self::default();
        for pair in pairs {
            match pair {
                (true, true) => counts.true_positive += 1,
                (false, true) => counts.false_positive += 1,
                (false, false) => counts.true_negative += 1,
                (true, false) => counts.false_negative += 1,
            }
        }
        counts
    }
}

/// Accuracy, and precision, recall and F1 of both classes. A ratio whose denominator is 0 is 0. Values are exact;
/// [`ClassReport::published`] gives the four-decimal form of published tables.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    /// Share of right predictions.
    pub accuracy: f64,
    /// Share of the larger class: the accuracy of always predicting it.
    pub majority: f64,
    /// Of the records predicted as class 1, the share that is.
    pub precision_1: f64,
    /// Of the records of class 1, the share that was found.
    pub recall_1: f64,
    /// Harmonic mean of `precision_1` and `recall_1`.
    pub f1_1: f64,
    /// Of the records predicted as class 0, the share that is.
    pub precision_0: f64,
    /// Of the records of class 0, the share that was found.
    pub recall_0: f64,
    /// Harmonic mean of `precision_0` and `recall_0`.
    pub f1_0: f64,
    /// Mean of `f1_1` and `f1_0` (macro F1).
    pub avg_f1: f64,
}

impl ClassReport {
    /// The report of a confusion table.
    #[must_use]
    pub fn new(counts: &Confusion) -> Self {
        let Confusion { true_positive: tp, false_positive: fp, true_negative: tn, false_negative: fn_ } = *counts;
        let total = tp + fp + tn + fn_;
        let (f1_1, f1_0) = (ratio(2 * tp, 2 * tp + fp + fn_), ratio(2 * tn, 2 * tn + fp + fn_));
        Self {
            accuracy: ratio(tp + tn, total),
            majority: ratio((tp + fn_).max(tn + fp), total),
            precision_1: ratio(tp, tp + fp),
            recall_1: ratio(tp, tp + fn_),
            f1_1,
            precision_0: ratio(tn, tn + fn_),
            recall_0: ratio(tn, tn + fp),
            f1_0,
            avg_f1: (f1_1 + f1_0) / 2.0,
        }
    }

    /// Rounded to four decimals as published tables are; `avg_f1` is then the rounded mean of the rounded F1 values.
    #[must_use]
    pub fn published(&self) -> Self {
        let (f1_1, f1_0) = (round4(self.f1_1), round4(self.f1_0));
        Self {
            accuracy: round4(self.accuracy),
            majority: round4(self.majority),
            precision_1: round4(self.precision_1),
            recall_1: round4(self.recall_1),
            f1_1,
            precision_0: round4(self.precision_0),
            recall_0: round4(self.recall_0),
            f1_0,
            avg_f1: round4((f1_1 + f1_0) / 2.0),
        }
    }
}

/// Rounds the exact binary value to four decimals, as Python's `round(x, 4)` does.
#[must_use]
pub fn round4(value: f64) -> f64 {
    format!("{value:.4}").parse().unwrap_or(value)
}

/// Area under the ROC curve = P(score of a positive > score of a negative) + ½ P(equal), by the rank-sum formula with
/// averaged ties. `None` when one class is empty.
#[must_use]
pub fn auroc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let ranks = average_ranks(scores);
    let (mut rank_sum, mut positives) = (0.0, 0.0);
    for (&rank, _) in ranks.iter().zip(positive).filter(|(_, is)| **is) {
        rank_sum += rank;
        positives += 1.0;
    }
    let negatives = ranks.len().min(positive.len()) as f64 - positives;
    (positives > 0.0 && negatives > 0.0)
        .then(|| (rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives))
}

/// Brier score: mean of (score − class)². `None` without records.
#[must_use]
pub fn brier(scores: &[f64], positive: &[bool]) -> Option<f64> {
    mean(scores.iter().zip(positive).map(|(score, &is)| (score - f64::from(u8::from(is))).powi(2)))
}

/// Mean of (score − target)², for targets in [0, 1]. `None` without records.
#[must_use]
pub fn mean_squared_error(scores: &[f64], targets: &[f64]) -> Option<f64> {
    mean(scores.iter().zip(targets).map(|(score, target)| (score - target).powi(2)))
}

/// The records whose scores fall into one bin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CalibrationBin {
    /// How many.
    pub records: usize,
    /// Sum of their scores.
    pub scores: f64,
    /// How many are of class 1.
    pub positives: usize,
}

impl CalibrationBin {
    /// Mean score and share of class 1; `None` of an empty bin.
    #[must_use]
    pub fn means(&self) -> Option<(f64, f64)> {
        let count = self.records as f64;
        (self.records > 0).then(|| (self.scores / count, self.positives as f64 / count))
    }
}

/// Records by score, in equal-width bins (i/bins, (i+1)/bins]; 0 belongs to the first.
#[must_use]
pub fn calibration_bins(scores: &[f64], positive: &[bool], bins: usize) -> Vec<CalibrationBin> {
    let mut found = vec![CalibrationBin::default(); bins];
    for (&score, &is) in scores.iter().zip(positive) {
        let bin = ((score * bins as f64).ceil() as usize).saturating_sub(1).min(bins.saturating_sub(1));
        if let Some(bin) = found.get_mut(bin) {
            bin.records += 1;
            bin.scores += score;
            bin.positives += usize::from(is);
        }
    }
    found
}

/// Expected calibration error of the probability of class 1: Σ over [`calibration_bins`] of (share of records in the bin) ·
/// |mean score − share of class 1|. `None` without records or bins.
#[must_use]
pub fn calibration_error(scores: &[f64], positive: &[bool], bins: usize) -> Option<f64> {
    let bins = calibration_bins(scores, positive, bins);
    let total: usize = bins.iter().map(|bin| bin.records).sum();
    // The share of a bin and the means inside it divide by the same count, so only the sums matter.
    let gaps = bins.iter().map(|bin| (bin.scores - bin.positives as f64).abs());
    (total > 0).then(|| gaps.sum::<f64>() / total as f64)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
