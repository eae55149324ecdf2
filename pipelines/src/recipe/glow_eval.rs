//! The stage that evaluates a GLOW predictor, on its own data or on others.

use std::path::{Path, PathBuf};

use datasets::Split;
use serde::{Deserialize, Serialize};

use super::Recipe;
use super::source::{DataSource, Source};
use super::stage::Stage;
use crate::eval::{Bootstrap, UtilityOptions};

/// Evaluates a trained predictor: accuracy, precision, recall, F1, utility, Precision@K.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlowEval {
    /// Name of the stage. Default "glow-eval".
    #[serde(default)]
    pub name: Option<String>,
    /// A `GlowTrain` stage, or the folder of one.
    pub weights: Source,
    /// An `Embed` stage, or the folder of one; for a transfer experiment another than the one that was trained on.
    pub embeddings: Source,
    /// Default `Test`.
    #[serde(default = "GlowEval::default_split")]
    pub split: Split,
    /// Which weights are evaluated. Default `[Best]`.
    #[serde(default = "GlowEval::default_checkpoints")]
    pub checkpoints: Vec<Weights>,
    /// Records per forward pass; has no influence on the results. Default 512.
    #[serde(default = "GlowEval::default_batch_size")]
    pub batch_size: usize,
    /// A score above it predicts 1. Default 0.5.
    #[serde(default = "GlowEval::default_threshold")]
    pub threshold: f64,
    /// Settings of the ranking metric.
    #[serde(default)]
    pub utility: UtilityOptions,
    /// Confidence intervals of accuracy and utility.
    #[serde(default)]
    pub bootstrap: Bootstrap,
    /// Other FLORA data to evaluate on, in place of that of `embeddings`; they are embedded with the same models and settings.
    /// Their metrics carry the names of their folders. Default none; with a `suite`: the entries of the recipe's `data` that
    /// are one of FLORA-Bench's six sub-data sets, known by the names of their folders.
    #[serde(default)]
    pub targets: Vec<Source>,
    /// Which of the targets, by what the weights were trained on. Default none: all of them.
    #[serde(default)]
    pub suite: Option<Suite>,
    /// A table that gets a row for each data set and checkpoint; relative paths count from the working directory. Default
    /// none.
    #[serde(default)]
    pub csv: Option<PathBuf>,
    /// Draws the Precision@K curves and the reliability diagrams. Default true.
    #[serde(default = "GlowEval::default_plots")]
    pub plots: bool,
}

impl GlowEval {
    fn default_split() -> Split {
        Split::Test
    }

    fn default_checkpoints() -> Vec<Weights> {
        vec![Weights::Best]
    }

    fn default_batch_size() -> usize {
        512
    }

    fn default_threshold() -> f64 {
        0.5
    }

    fn default_plots() -> bool {
        true
    }
}

/// Weights that training leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Weights {
    /// Those of the best epoch.
    Best,
    /// Those of the last epoch.
    Final,
}

/// Experiments of transfer between the sub-data sets of FLORA-Bench. A sub-data set is a domain with a system that made its
/// workflows, such as `Coding-AF`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Suite {
    /// What the weights were trained on.
    InDomain,
    /// The same domain, workflows by the other system.
    CrossSystem,
    /// The other domains, workflows by the same system.
    CrossDomain,
    /// All sub-data sets.
    All,
}

impl Suite {
    /// Whether it evaluates on `target` what was trained on `trained`; names as in [`SUB_DATASETS`], in any case.
    #[must_use]
    pub fn takes(self, trained: &str, target: &str) -> bool {
        let (Some((domain, system)), Some((target_domain, target_system))) = (parts(trained), parts(target)) else {
            return self == Self::All;
        };
        match self {
            Self::InDomain => domain == target_domain && system == target_system,
            Self::CrossSystem => domain == target_domain && system != target_system,
            Self::CrossDomain => domain != target_domain && system == target_system,
            Self::All => true,
        }
    }
}

/// The sub-data sets of FLORA-Bench, in their usual order.
pub const SUB_DATASETS: [&str; 6] = ["Coding-AF", "Coding-GD", "Math-AF", "Math-GD", "Reason-AF", "Reason-GD"];

/// Domain and system of a sub-data set.
fn parts(name: &str) -> Option<(&'static str, &'static str)> {
    SUB_DATASETS.iter().find(|known| known.eq_ignore_ascii_case(name))?.split_once('-')
}

/// Gives every `GlowEval` with a suite and without targets the sub-data sets that the recipe declares.
pub(super) fn expand(recipe: &mut Recipe) {
    let declared = |wanted: &&str| {
        let named = |(key, source): &(&String, &DataSource)| match source {
            DataSource::Flora(path) => folder_name(path).is_some_and(|name| name.eq_ignore_ascii_case(wanted)),
            DataSource::Synthetic(_) => key.eq_ignore_ascii_case(wanted),
            DataSource::Hub(data) => {
                folder_name(Path::new(&data.folder)).is_some_and(|name| name.eq_ignore_ascii_case(wanted))
                    || key.eq_ignore_ascii_case(wanted)
            }
            DataSource::Chat(_) | DataSource::SyntheticChats(_) => false,
        };
        recipe.data.iter().find(named).map(|(key, _)| Source::Data(key.clone()))
    };
    let found: Vec<Source> = SUB_DATASETS.iter().filter_map(declared).collect();
    for stage in &mut recipe.stages {
        if let Stage::GlowEval(stage) = stage
            && stage.suite.is_some()
            && stage.targets.is_empty()
        {
            stage.targets.clone_from(&found);
        }
    }
}

fn folder_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_those_of_the_benchmark() {
        let of = |suite: Suite, trained: &str| -> Vec<&str> {
            SUB_DATASETS.into_iter().filter(|target| suite.takes(trained, target)).collect()
        };
        assert_eq!(of(Suite::InDomain, "Math-GD"), ["Math-GD"]);
        assert_eq!(of(Suite::CrossSystem, "math-gd"), ["Math-AF"]);
        assert_eq!(of(Suite::CrossDomain, "Coding-AF"), ["Math-AF", "Reason-AF"]);
        assert_eq!(of(Suite::All, "Coding-AF"), SUB_DATASETS);
        // The benchmark's twelve pairs, and the six between domains that it leaves out: those of the other system.
        let count = |suite| SUB_DATASETS.iter().map(|trained| of(suite, trained).len()).sum::<usize>();
        assert_eq!((count(Suite::CrossSystem), count(Suite::CrossDomain)), (6, 12));
        assert_eq!(of(Suite::CrossSystem, "elsewhere"), Vec::<&str>::new());
        assert_eq!(of(Suite::All, "elsewhere"), SUB_DATASETS);
    }
}
