//! Recipes: one RON file per experiment, typed and strict.
//!
//! [`Recipe`] and the types below it are the language; their field documentation is its reference. A recipe goes through
//! three steps, each of which names the place of whatever is wrong (see [`Problem`](crate::diagnostics::Problem)):
//!
//! 1. [`Document::open`] reads and parses a file, [`Document::set`] applies `--set` arguments;
//! 2. [`Document::check`] applies the rules across fields and reports everything at once, before anything starts;
//! 3. [`Recipe::to_ron`] writes the resolved recipe, every default in its place; it parses back to an equal one.
//!
//! [`Document::load`] does the first two.

mod chat;
mod document;
mod embed;
mod glow;
mod glow_eval;
mod graph_questions;
mod hub;
mod judge;
mod optim;
mod overrides;
mod parity;
mod rules;
mod sft;
mod source;
mod spans;
mod stage;
mod syntax;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ron::ser::PrettyConfig;
use serde::{Deserialize, Serialize};

pub use self::chat::{ChatData, ChatPart};
pub(crate) use self::chat::{ChatPlace, PlaceKind};
pub use self::document::{Document, load_templates};
pub use self::embed::{Embed, Labels, Sentences, Truncation};
pub use self::glow::{GlowTrain, Inputs, PatienceRule, SelectBy, TieBreak, Warmup, WarmupSampling};
pub use self::glow_eval::{GlowEval, SUB_DATASETS, Suite, Weights};
pub use self::graph_questions::{GraphQuestionEval, GraphQuestions};
pub use self::hub::{DataFormat, HubData, HubModel};
pub use self::judge::{Client, JudgeChats, JudgeEval, JudgePrompt, JudgePrompted, ValueHeadTrain};
pub use self::optim::{AdamW, Checkpoint, Decay, Dtype, Optim};
pub use self::sft::{BestBy, EarlyStopping, Evaluation, Framing, MergeDtype, MergeLora, Recompute, Samples, Sft};
pub use self::source::{DataSource, DecoderInit, EncoderInit, InitModel, ModelSource, Source, TokenizerSource};
pub use self::stage::{Artifact, Stage, StageKind};
use crate::device::DeviceSpec;
pub use crate::train::Schedule;
pub use burn_models::decoder::Architecture;
pub use datasets::Split;

/// One experiment: models, data, and the stages that turn them into results, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the experiment and of its folder under `runs`: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Where all randomness comes from, through named streams. Default 42.
    #[serde(default = "Recipe::default_seed")]
    pub seed: u64,
    /// What the stages compute on. Default `Auto`.
    #[serde(default)]
    pub device: DeviceSpec,
    /// Devices that share every step of an `Sft` stage with `device`, such as `[Cuda(1), Cuda(2)]`: each holds the whole model and
    /// computes some of the step's micro-batches (`micro_tokens` has to leave at least one for each), and the gradients are added
    /// up. The result is that of one device, to rounding. `[Flex]` beside `Flex` takes turns on the same cores. Default none.
    #[serde(default)]
    pub further_devices: Vec<DeviceSpec>,
    /// Decides as the published implementation of GLOW does, wherever a stage leaves it open; a stage that says otherwise is
    /// an error. Default false. `hearth check --print` shows the outcome:
    ///
    /// - `GraphQuestions`: `test_workflows: 200`, `strict_test_count: true`, `node_render: PyRepr`, `answer_style: Bare`;
    /// - `Embed`: `truncation: Right`, `node_render: PyRepr`;
    /// - `GlowTrain`: `inputs: AsIs`, both fusion layers start equal (`identical_layer_init`), warm-up on `Records` with
    ///   `replay`, `sampler: Shuffle`, `drop_last: true`, `shrink_batch: false`, `contrast.task_norm: CountAll`,
    ///   `patience_rule: PastPatience`, `select_by: ValAccuracy` with `min_delta: 0`, `tie_break: None` and votes at
    ///   `threshold: 0.5`;
    /// - `GlowEval`: votes at `threshold: 0.5`, `utility: (min_records: 3, points: 100)`; ties of the published `utility`
    ///   are always broken by the truth.
    ///
    /// One thing is not done: that implementation writes its weights into the data's own folder (`<dataset>/ckpt`), where
    /// the next run overwrites them. Here they are in the run's folder.
    #[serde(default)]
    pub parity: bool,
    /// Folder of all runs. Default "runs".
    #[serde(default = "Recipe::default_runs")]
    pub runs: PathBuf,
    /// Folder of what runs share, such as embeddings. Default `cache` in `runs`.
    #[serde(default)]
    pub cache: Option<PathBuf>,
    /// Models by the name that `Model("…")` refers to.
    #[serde(default)]
    pub models: BTreeMap<String, ModelSource>,
    /// Data by the name that `Data("…")` refers to.
    #[serde(default)]
    pub data: BTreeMap<String, DataSource>,
    /// What is done, in this order.
    pub stages: Vec<Stage>,
}

impl Recipe {
    fn default_seed() -> u64 {
        42
    }

    fn default_runs() -> PathBuf {
        "runs".into()
    }

    /// The run's own folder: `<runs>/<name>`.
    pub fn run_dir(&self) -> PathBuf {
        self.runs.join(&self.name)
    }

    /// The cache folder: `cache`, or `<runs>/cache`.
    pub fn cache_dir(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(|| self.runs.join("cache"))
    }

    /// The resolved recipe as RON, every default in its place. Parses back to an equal recipe.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_ron(&self) -> Result<String, ron::Error> {
        let pretty = PrettyConfig::new().new_line("\n");
        Ok(format!("Recipe{}", syntax::options().to_string_pretty(self, pretty)?))
    }

    /// The experiment apart from its seed: equal for runs that differ in nothing else, whatever they are called and wherever
    /// they lie. `plan` is a resolved recipe as JSON.
    pub fn hash_without_seed(plan: &serde_json::Value) -> String {
        let mut plan = plan.clone();
        if let Some(fields) = plan.as_object_mut() {
            fields.retain(|key, _| !["name", "seed", "runs", "cache"].contains(&key.as_str()));
        }
        blake3::hash(plan.to_string().as_bytes()).to_hex()[..16].to_string()
    }

    /// Number of the stage with this name.
    pub fn stage_index(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|stage| stage.name() == name)
    }

    /// The names of all stages, in order.
    pub fn stage_names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(Stage::name)
    }
}
