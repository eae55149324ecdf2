//! The contrastive term: workflows that solve a task should be closer to each other than to those that do not.

use burn::tensor::activation::relu;
use burn::tensor::{Int, Tensor};
use burn_gnn::segment::segment_sum;
use serde::{Deserialize, Serialize};

/// Settings of the contrastive term.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContrastConfig {
    /// Its weight λ beside the prediction loss. 1.
    pub weight: f64,
    /// The margin m. 0.2.
    pub margin: f64,
    /// Tasks with fewer records in the batch are left out. 3.
    pub min_group: usize,
    /// Which tokens are contrasted; those the model lacks are ignored. Language and graph.
    pub on: Vec<ContrastToken>,
    /// Which tasks the sum is divided by. [`TaskNorm::CountAll`].
    pub task_norm: TaskNorm,
    /// Records with at least this label are positive. 0.5.
    pub positive_at: f64,
}

/// A token that can be contrasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContrastToken {
    /// The language token.
    Llm,
    /// The graph token.
    Graph,
}

/// Which tasks count in the mean over tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TaskNorm {
    /// Every task with at least `min_group` records, as published; those without an anchor dilute the mean.
    #[default]
    CountAll,
    /// Only those that also have two positive records and a negative one.
    CountActive,
}

impl Default for ContrastConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            margin: 0.2,
            min_group: 3,
            on: vec![ContrastToken::Llm, ContrastToken::Graph],
            task_norm: TaskNorm::CountAll,
            positive_at: 0.5,
        }
    }
}

/// Who is compared with whom in one batch: what all contrasted tokens share. No gradient flows here.
#[derive(Debug, Clone)]
pub struct ContrastGroups {
    /// Segment of each record: twice its task, plus one for a positive record. `[B]`
    segments: Tensor<1, Int>,
    /// The same for the positive and the negative records of its task. `[B]`
    positives: Tensor<1, Int>,
    negatives: Tensor<1, Int>,
    /// Positive records in each record's task less itself, and negative ones, each at least 1 so that they can divide.
    /// `[B]`
    other_positives: Tensor<1>,
    num_negatives: Tensor<1>,
    /// 1 / (positive records of the task) for anchors, 0 for other records. `[B]`
    anchor_weight: Tensor<1>,
    num_tasks: usize,
    /// Number of tasks with enough records. `[1]`
    pub counted_tasks: Tensor<1>,
    /// Number of those that have an anchor: two positive records and a negative one. `[1]`
    pub active_tasks: Tensor<1>,
}

impl ContrastGroups {
    /// Groups records by task. `labels` `[B]`, `tasks` `[B]` with numbers in `0..num_tasks`.
    pub fn new(labels: Tensor<1>, tasks: Tensor<1, Int>, num_tasks: usize, config: &ContrastConfig) -> Self {
        let labels = labels.detach();
        let [batch] = labels.dims();
        let positive = labels.clone().greater_equal_scalar(config.positive_at);
        let is_positive = positive.clone().float();
        let per_task =
            |rows: Tensor<1>| segment_sum(rows.reshape([batch, 1]), tasks.clone(), num_tasks).reshape([num_tasks]);
        let records = per_task(labels.ones_like());
        let num_positives = per_task(is_positive.clone());
        let num_negatives = records.clone() - num_positives.clone();

        let counted = records.greater_equal_scalar(config.min_group as f64).float();
        let two_positives = num_positives.clone().greater_equal_scalar(2.0).float();
        let a_negative = num_negatives.clone().greater_equal_scalar(1.0).float();
        let active = counted.clone() * two_positives * a_negative;

        let weight = active.clone() / num_positives.clone().clamp_min(1.0);
        let negatives = tasks.clone() * 2;
        Self {
            segments: negatives.clone() + positive.int(),
            positives: negatives.clone() + 1,
            negatives,
            other_positives: (num_positives - 1.0).clamp_min(1.0).select(0, tasks.clone()),
            num_negatives: num_negatives.clamp_min(1.0).select(0, tasks.clone()),
            anchor_weight: weight.select(0, tasks) * is_positive,
            num_tasks,
            counted_tasks: counted.sum(),
            active_tasks: active.sum(),
        }
    }

    /// What the sum over tasks is divided by, at least 1: `[1]`.
    fn divisor(&self, norm: TaskNorm) -> Tensor<1> {
        let tasks = match norm {
            TaskNorm::CountAll => &self.counted_tasks,
            TaskNorm::CountActive => &self.active_tasks,
        };
        tasks.clone().clamp_min(1.0)
    }

    /// The loss of every record as an anchor, divided by the number of anchors of its task, `[B]`; 0 for records that
    /// are no anchors. Summed over a task this is the task's loss.
    ///
    /// With `u = x / max(‖x‖, 1e-12)` and `d(i, j) = 1 − u_i·u_j`, an anchor `a` (positive, in a task of enough records
    /// with another positive and a negative one) costs `max(0, mean_p d(a, p) − mean_n d(a, n) + m)`, the means over
    /// the other positive and over the negative records of its task. Both come from the sums S⁺ and S⁻ of `u` over
    /// those records: `mean_p d = 1 − (u_a·S⁺ − u_a·u_a)/(P − 1)` and `mean_n d = 1 − u_a·S⁻/Q`, so no pair is ever
    /// formed.
    pub fn anchor_losses(&self, x: Tensor<2>, margin: f64) -> Tensor<1> {
        let [batch, _] = x.dims();
        let dot = |a: Tensor<2>, b: Tensor<2>| (a * b).sum_dim(1).reshape([batch]);
        // The bound stands under the root: the root's derivative at 0 is infinite.
        let norm = x.clone().square().sum_dim(1).clamp_min(1e-24).sqrt();
        let unit = x / norm;
        let sums = segment_sum(unit.clone(), self.segments.clone(), 2 * self.num_tasks);
        let to_positives =
            dot(unit.clone(), sums.clone().select(0, self.positives.clone())) - dot(unit.clone(), unit.clone());
        let to_negatives = dot(unit, sums.select(0, self.negatives.clone()));
        // The two ones of the distances cancel.
        let gap = to_negatives / self.num_negatives.clone() - to_positives / self.other_positives.clone();
        relu(gap + margin) * self.anchor_weight.clone()
    }

    /// The loss of every task for one token, `[T]`.
    pub fn task_losses(&self, x: Tensor<2>, margin: f64) -> Tensor<1> {
        let losses = self.anchor_losses(x, margin);
        let [batch] = losses.dims();
        // Twice the task, or one more, as segments are numbered: halves of one task are added up.
        let halves = segment_sum(losses.reshape([batch, 1]), self.segments.clone(), 2 * self.num_tasks);
        halves.reshape([self.num_tasks, 2]).sum_dim(1).reshape([self.num_tasks])
    }
}

/// The contrastive loss of several tokens `[B, H]`, `[1]`: the sum of their task losses, divided by the number of
/// tokens times the number of counted tasks; 0 where no task counts, or no token is given.
pub fn contrast(tokens: Vec<Tensor<2>>, groups: &ContrastGroups, config: &ContrastConfig) -> Tensor<1> {
    let count = tokens.len();
    let losses = tokens.into_iter().map(|x| groups.anchor_losses(x, config.margin).sum());
    match losses.reduce(|a, b| a + b) {
        Some(sum) => sum / (groups.divisor(config.task_norm) * count as f64),
        None => groups.counted_tasks.zeros_like(),
    }
}
