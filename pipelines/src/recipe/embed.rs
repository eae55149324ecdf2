//! The stage that turns workflows and texts into vectors.

use std::path::PathBuf;

use datasets::flora::OnBadEdge;
use datasets::index::SplitBy;
use datasets::render::NodeRender;
use serde::{Deserialize, Serialize};

use super::optim::Dtype;
use super::source::Source;
use crate::embedding::LlmPooling;

/// Embeds the workflows of FLORA data with a decoder, and their node texts and tasks with a sentence encoder: all three
/// splits, every distinct workflow and text once, through the recipe's cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embed {
    /// Name of the stage. Default "embed".
    #[serde(default)]
    pub name: Option<String>,
    /// FLORA data.
    pub data: Source,
    /// The decoder that reads whole workflows. A sentence encoder does too, and gets the nodes and the edges without any words
    /// around them: what the MLP baseline of FLORA-Bench looks at.
    pub llm: Source,
    /// The sentence encoder that reads node texts and tasks.
    pub text: Source,
    /// What it reads beside them. Default `Plain`: nothing.
    #[serde(default)]
    pub sentences: Sentences,
    /// Number format of the decoder. Default F32.
    #[serde(default)]
    pub dtype: Dtype,
    /// Which of the decoder's final hidden states is the workflow's vector. Default `LastToken`.
    #[serde(default)]
    pub llm_pooling: LlmPooling,
    /// Longest workflow prompt in tokens. Default 10240.
    #[serde(default = "Embed::default_max_length")]
    pub max_length: usize,
    /// What a longer prompt loses. Default `KeepSuffix`.
    #[serde(default)]
    pub truncation: Truncation,
    /// Tokens, padding included, that go through a model at once. Default 32768.
    #[serde(default = "Embed::default_batch_tokens")]
    pub batch_tokens: usize,
    /// How the node texts are written in the prompt; as in `GraphQuestions`. Default `PyRepr`.
    #[serde(default)]
    pub node_render: NodeRender,
    /// A RON file with prompt templates of your own; as in `GraphQuestions`. Default: the built-in ones.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// Longest node text or task in tokens, and longest workflow where a sentence encoder reads it. Default: what the encoder's folder says (256 for all-MiniLM-L6-v2).
    #[serde(default)]
    pub text_max_length: Option<usize>,
    /// Which labels the records have. Default `Binary`.
    #[serde(default)]
    pub labels: Labels,
    /// What to do with an edge to a node that is not there. Default `Error`.
    #[serde(default)]
    pub on_bad_edge: OnBadEdge,
    /// Splits all records anew, for all stages that read these embeddings: `ByWorkflow(seed)` so that the workflows of the
    /// test split are unseen in training, `ByTask(seed)` so that its tasks are. Default `Files`.
    #[serde(default)]
    pub split: SplitBy,
}

impl Embed {
    fn default_max_length() -> usize {
        10_240
    }

    fn default_batch_tokens() -> usize {
        32_768
    }
}

/// Texts for the sentence encoder beside those of nodes and tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sentences {
    /// None.
    #[default]
    Plain,
    /// Those of One-For-All's nodes: each node's text with the part it plays, each task as that of a workflow that succeeds
    /// and of one that fails, and what is asked. For a predictor with `gnn: (prompt_nodes: true)`.
    OneForAll,
}

/// The labels of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Labels {
    /// 0 or 1: whether the workflow solves the task.
    #[default]
    Binary,
    /// A number from 0 to 1: how well it does; for a predictor with a `Regression` head.
    Unit,
}

impl From<Labels> for datasets::flora::Labels {
    fn from(labels: Labels) -> Self {
        match labels {
            Labels::Binary => Self::Binary,
            Labels::Unit => Self::Unit,
        }
    }
}

/// What an over-long prompt loses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Truncation {
    /// The end of the node texts; the request and the generation prompt stay.
    #[default]
    KeepSuffix,
    /// Its end, as the published implementation does.
    Right,
}
