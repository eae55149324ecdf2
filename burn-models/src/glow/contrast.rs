//! The contrastive term: workflows that solve a task should be closer to each other than to those that do not.

mod groups;

pub use groups::ContrastGroups;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Settings of the contrastive term.
///
/// Within a group (the records of one task of the batch) an anchor `a` is compared with *positives* `p`, other records of
/// its label, and *negatives* `n`, records of the other label. With a distance `d` and a margin `m`:
///
/// | [`ContrastForm`] | terms of a group | gap of a term |
/// | --- | --- | --- |
/// | `BatchMean` (published) | anchors | mean_p d(a, p) − mean_n d(a, n) |
/// | `BatchHard` | anchors | max_p d(a, p) − min_n d(a, n) |
/// | `BatchAll` | triplets (a, p, n) | d(a, p) − d(a, n) |
/// | `SemiHard` | pairs (a, p) | d(a, p) − d(a, n) of the nearest n beyond p, else of the farthest n |
/// | `Random(k)` | k drawn triplets per anchor | d(a, p) − d(a, n) |
///
/// A term costs `max(0, gap + m)`, or `ln(1 + e^gap)` with a soft margin; a group costs the mean of its terms, and the loss
/// is the mean over groups and contrasted tokens. `BatchHard` and the soft margin are those of Hermans et al., *In Defense
/// of the Triplet Loss*, arXiv 1703.07737; `SemiHard` is that of Schroff et al., *FaceNet*, arXiv 1503.03832.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContrastConfig {
    /// Which records of a group are compared. [`ContrastForm::BatchMean`].
    pub form: ContrastForm,
    /// Its weight λ beside the prediction loss. 1.
    pub weight: f64,
    /// The margin m. 0.2.
    pub margin: f64,
    /// `ln(1 + e^gap)` in place of `max(0, gap + m)`: there is no margin then. `false`.
    pub soft_margin: bool,
    /// How far apart two vectors are. [`Distance::Cosine`].
    pub distance: Distance,
    /// Which records are anchors. [`Anchors::PositivesOnly`].
    pub anchors: Anchors,
    /// Which records are compared with each other. [`Grouping::Task`].
    pub group: Grouping,
    /// Groups with fewer records in the batch are left out. 3.
    pub min_group: usize,
    /// Which tokens are contrasted; those the model lacks are ignored. Language and graph.
    pub on: Vec<ContrastToken>,
    /// Which groups the sum is divided by. [`TaskNorm::CountAll`].
    pub task_norm: TaskNorm,
    /// Records with at least this label are positive. 0.5.
    pub positive_at: f64,
}

/// Which records of a group are compared. [`ContrastConfig`] has the terms of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ContrastForm {
    /// The mean positive against the mean negative, as published.
    #[default]
    BatchMean,
    /// The farthest positive against the nearest negative.
    BatchHard,
    /// Every triplet.
    BatchAll {
        /// Which triplets the mean is over. [`Reduce::Valid`].
        #[serde(default)]
        reduce: Reduce,
    },
    /// Every positive against the nearest negative that is farther than it; against the farthest one where none is.
    SemiHard,
    /// So many triplets per anchor, drawn with replacement from a stream of their own.
    Random(usize),
}

/// The divisor of [`ContrastForm::BatchAll`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Reduce {
    /// All triplets of the group.
    #[default]
    Valid,
    /// Those with a loss above 0 (above 1e-6, so that rounding does not decide).
    Active,
}

/// How far apart two vectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Distance {
    /// `1 − u·v` of the vectors at length 1, in `[0, 2]`; a vector of zeros has distance 1 from all.
    #[default]
    Cosine,
    /// `‖x − y‖²`.
    SquaredEuclidean,
    /// `‖x − y‖`.
    Euclidean,
}

/// Which records are anchors: those with another record of their label and one of the other label in their group, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Anchors {
    /// … if they are positive, as published.
    #[default]
    PositivesOnly,
    /// … of either label. The positives of a record with label 0 are those with label 0.
    All,
}

/// Which records are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Grouping {
    /// Those of the same task, as published.
    #[default]
    Task,
    /// All of the batch.
    Global,
}

/// A token that can be contrasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContrastToken {
    /// The language token.
    Llm,
    /// The graph token.
    Graph,
}

/// Which groups count in the mean over groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TaskNorm {
    /// Every group with at least `min_group` records, as published; those without an anchor dilute the mean.
    #[default]
    CountAll,
    /// Only those that also have an anchor.
    CountActive,
}

impl Default for ContrastConfig {
    fn default() -> Self {
        Self {
            form: ContrastForm::BatchMean,
            weight: 1.0,
            margin: 0.2,
            soft_margin: false,
            distance: Distance::Cosine,
            anchors: Anchors::PositivesOnly,
            group: Grouping::Task,
            min_group: 3,
            on: vec![ContrastToken::Llm, ContrastToken::Graph],
            task_norm: TaskNorm::CountAll,
            positive_at: 0.5,
        }
    }
}

impl ContrastConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Config`] with the first key whose value cannot be.
    pub fn validate(&self) -> Result<()> {
        let fail = |key: &str, problem: String| Err(Error::config("contrast", key, problem));
        for (key, value) in [("weight", self.weight), ("margin", self.margin)] {
            if !(value.is_finite() && value >= 0.0) {
                return fail(key, format!("{value} is not 0 or above"));
            }
        }
        if !(0.0..=1.0).contains(&self.positive_at) {
            return fail("positive_at", format!("{} is not in [0, 1]", self.positive_at));
        }
        if self.min_group == 0 {
            return fail("min_group", "0 is not at least 1".into());
        }
        if self.form == ContrastForm::Random(0) {
            return fail("form", "Random(0) draws no triplet".into());
        }
        Ok(())
    }
}

impl ContrastConfig {
    /// Whether a group of so many records of either label has an anchor.
    pub fn has_anchor(&self, negatives: usize, positives: usize) -> bool {
        let valid = |own: usize, other: usize| own >= 2 && other >= 1;
        let all = self.anchors == Anchors::All;
        negatives + positives >= self.min_group && (valid(positives, negatives) || all && valid(negatives, positives))
    }
}

/// The contrastive loss of several tokens `[B, H]`, `[1]`: the sum of their [task losses](ContrastGroups::task_losses),
/// divided by the number of tokens times the number of groups that count; 0 where none does. `None` for no token.
pub fn contrast(tokens: Vec<Tensor<2>>, groups: &ContrastGroups) -> Option<Tensor<1>> {
    let divisor = (groups.divisor() * tokens.len()) as f64;
    let losses = tokens.into_iter().map(|x| groups.task_losses(x).sum());
    losses.reduce(|a, b| a + b).map(|sum| sum / divisor)
}
