//! All metrics of a GLOW evaluation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::classification::{
    CALIBRATION_BINS, ClassReport, Confusion, auroc, brier, calibration_error, mean_squared_error,
};
use super::{Error, Result, UtilityOptions, UtilityReport};

/// One (workflow, task) pair with its truth and its prediction: a line of `scores-<checkpoint>.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoredRecord {
    /// Id of the workflow within its data set.
    pub workflow_id: i64,
    /// Id of the task within its data set.
    pub task_id: i64,
    /// The truth: 1 solved, 0 not; in between for graded labels, which count as class 1 from 0.5 on.
    pub label: f64,
    /// The predicted probability of class 1.
    pub score: f64,
}

/// The flat table of a GLOW evaluation. `null` is a metric that is not defined for these records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlowMetrics {
    /// Number of records.
    pub n_records: usize,
    /// Number of distinct workflows.
    pub n_workflows: usize,
    /// Number of workflows with enough records to be ranked.
    pub n_ranked_workflows: usize,
    /// Accuracy, majority share, and precision, recall and F1 of both classes.
    #[serde(flatten)]
    pub classes: ClassReport,
    /// Area under the ROC curve; null if one class is absent.
    pub auroc: Option<f64>,
    /// Mean of (score − class)².
    pub brier: Option<f64>,
    /// Expected calibration error over 15 equal bins.
    pub ece: Option<f64>,
    /// Mean of (score − label)²; differs from `brier` only for graded labels.
    pub mse: Option<f64>,
    /// The published utility, whose ties are broken by the truth.
    pub utility: Option<f64>,
    /// The utility of FLORA-Bench, over all workflows and without a look at the truth.
    pub utility_flora: Option<f64>,
    /// `utility` without a look at the truth, exact area.
    pub utility_exact: Option<f64>,
    /// `utility_exact` of the ranking by mean score.
    pub utility_score: Option<f64>,
    /// Mean of `utility_exact` over random orders of ties.
    pub utility_tie_mean: Option<f64>,
    /// Kendall's τ-b of the workflows' vote shares and truths.
    pub kendall_tau: Option<f64>,
    /// Spearman's ρ of the workflows' vote shares and truths.
    pub spearman: Option<f64>,
    /// Mean squared difference of the workflows' vote shares and truths.
    pub workflow_mse: Option<f64>,
    /// Why the utility is null, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utility_reason: Option<String>,
}

impl GlowMetrics {
    /// Computes all metrics in one pass over `records`, which stand in the order of their file. A record is predicted as
    /// class 1 if its score is strictly above `threshold`.
    ///
    /// # Errors
    /// No records; a score or label that is not in [0, 1]; a setting out of range.
    pub fn compute(records: &[ScoredRecord], threshold: f64, options: &UtilityOptions) -> Result<Self> {
        check(records, threshold)?;
        let scores: Vec<f64> = records.iter().map(|record| record.score).collect();
        let labels: Vec<f64> = records.iter().map(|record| record.label).collect();
        let positive: Vec<bool> = labels.iter().map(|&label| label >= 0.5).collect();
        let counts = Confusion::count(positive.iter().copied().zip(scores.iter().map(|&score| score > threshold)));
        let utility = UtilityReport::compute(records, threshold, options)?;
        Ok(Self {
            n_records: records.len(),
            n_workflows: utility.n_workflows,
            n_ranked_workflows: utility.ranked.len(),
            classes: ClassReport::new(&counts),
            auroc: auroc(&scores, &positive),
            brier: brier(&scores, &positive),
            ece: calibration_error(&scores, &positive, CALIBRATION_BINS),
            mse: mean_squared_error(&scores, &labels),
            utility: utility.published.utility,
            utility_flora: utility.flora.utility,
            utility_exact: utility.exact.utility,
            utility_score: utility.score.utility,
            utility_tie_mean: utility.tie_mean,
            kendall_tau: utility.kendall_tau,
            spearman: utility.spearman,
            workflow_mse: utility.workflow_mse,
            utility_reason: utility.reason,
        })
    }

    /// The numbers by name, as a stage's manifest holds them.
    #[must_use]
    pub fn flat(&self) -> BTreeMap<String, Option<f64>> {
        let classes = &self.classes;
        [
            ("n_records", Some(self.n_records as f64)),
            ("n_workflows", Some(self.n_workflows as f64)),
            ("n_ranked_workflows", Some(self.n_ranked_workflows as f64)),
            ("accuracy", Some(classes.accuracy)),
            ("majority", Some(classes.majority)),
            ("precision_1", Some(classes.precision_1)),
            ("recall_1", Some(classes.recall_1)),
            ("f1_1", Some(classes.f1_1)),
            ("precision_0", Some(classes.precision_0)),
            ("recall_0", Some(classes.recall_0)),
            ("f1_0", Some(classes.f1_0)),
            ("avg_f1", Some(classes.avg_f1)),
            ("auroc", self.auroc),
            ("brier", self.brier),
            ("ece", self.ece),
            ("mse", self.mse),
            ("utility", self.utility),
            ("utility_flora", self.utility_flora),
            ("utility_exact", self.utility_exact),
            ("utility_score", self.utility_score),
            ("utility_tie_mean", self.utility_tie_mean),
            ("kendall_tau", self.kendall_tau),
            ("spearman", self.spearman),
            ("workflow_mse", self.workflow_mse),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

fn check(records: &[ScoredRecord], threshold: f64) -> Result<()> {
    if records.is_empty() {
        return Err(Error::NoRecords);
    }
    if !threshold.is_finite() {
        return Err(Error::Setting { setting: "threshold", value: threshold, expected: "a finite number" });
    }
    for (index, record) in records.iter().enumerate() {
        for (field, value) in [("label", record.label), ("score", record.score)] {
            if !(0.0..=1.0).contains(&value) {
                let (record, workflow_id, task_id) = (index + 1, record.workflow_id, record.task_id);
                return Err(Error::OutOfRange { record, workflow_id, task_id, field, value });
            }
        }
    }
    Ok(())
}
