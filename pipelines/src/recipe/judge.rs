//! The stages that judge workflows with a language model alone: without graph, without embeddings. They are the baselines
//! that a GLOW predictor is compared with.
//!
//! | what is trained | stages |
//! | --- | --- |
//! | the words Yes and No | [`JudgeChats`], [`Sft`](super::Sft), [`JudgeEval`] with its adapter |
//! | a value head | [`ValueHeadTrain`], [`JudgeEval`] with it |
//! | nothing | [`JudgeEval`] with a model alone, or [`JudgePrompted`] with one behind a server |

use std::path::PathBuf;

use burn_lora::{LoraConfig, Targets};
use burn_models::glow::Head;
use datasets::Split;
use datasets::flora::OnBadEdge;
use datasets::judge::JudgeForm;
use datasets::render::NodeRender;
use datasets::templates::{JudgeStyle, SectionOrder};
use serde::{Deserialize, Serialize};

use super::embed::{Labels, Truncation};
use super::optim::{AdamW, Checkpoint, Dtype, Optim};
use super::sft::{EarlyStopping, Evaluation, Framing};
use super::source::Source;
use crate::eval::UtilityOptions;
use crate::eval::yes_no::AnswerRule;
use crate::learners::Recompute;
use crate::train::Schedule;

/// How a record becomes the tokens that a decoder judges. What is evaluated has to be asked as it was trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgePrompt {
    /// How the node texts are written. Default `PyReprStr`.
    pub node_render: NodeRender,
    /// Whether the task or the workflow comes first. Default `TaskFirst`, as published. What prompts begin with alike is
    /// computed once for all that go through the decoder together: with `WorkflowFirst` most of an evaluation, because
    /// workflows are long, few, and each is tried on many tasks.
    pub order: SectionOrder,
    /// How the turns are written; `Sft` has to use the same. Default `ChatMl`.
    pub framing: Framing,
    /// Written before the answer, such as an empty thinking block; `Sft` has to use the same. Default "".
    pub assistant_prefix: String,
    /// Longest prompt with its answer, in tokens. Default 4096.
    pub max_length: usize,
}

impl Default for JudgePrompt {
    fn default() -> Self {
        Self {
            node_render: NodeRender::PyReprStr,
            order: SectionOrder::TaskFirst,
            framing: Framing::ChatMl,
            assistant_prefix: String::new(),
            max_length: 4096,
        }
    }
}

impl JudgePrompt {
    /// The part that makes the text.
    pub fn form(&self) -> JudgeForm {
        JudgeForm { node_render: self.node_render, order: self.order, style: JudgeStyle::Direct }
    }
}

/// Makes chats of FLORA data for `Sft`: a judge's system message, the task and the workflow, and the answer Yes or No.
/// Writes `train.jsonl`, `val.jsonl` and `test.jsonl`. Nodes that do not fit are cut from the end of the node section; the
/// published implementation cuts the end of the whole text, and the answer with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeChats {
    /// Name of the stage. Default "judge-chats".
    #[serde(default)]
    pub name: Option<String>,
    /// FLORA data, all three splits.
    pub data: Source,
    /// The decoder that is to be trained: its tokenizer says how long a prompt is.
    pub model: Source,
    /// How a record is written.
    #[serde(default)]
    pub prompt: JudgePrompt,
    /// A RON file with prompt templates of your own; `JudgeEval` has to use the same. Default: the built-in ones.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// Repeats training records of the rarer answer until it has this share, in (0, 1). Default none, as published.
    #[serde(default)]
    pub target_ratio: Option<f64>,
    /// Which labels the records have; graded ones are Yes from 0.5 on. Default `Binary`.
    #[serde(default)]
    pub labels: Labels,
    /// What to do with an edge to a node that is not there. Default `Error`.
    #[serde(default)]
    pub on_bad_edge: OnBadEdge,
}

/// Trains a value head on a decoder: layer norm and MLP on the final state of the prompt's last token give one logit. The
/// adapter is trained along; without one the decoder stays as it is. Evaluates on the validation split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueHeadTrain {
    /// Name of the stage. Default "value-head".
    #[serde(default)]
    pub name: Option<String>,
    /// FLORA data; the training split and, to evaluate on, the validation split are read.
    pub data: Source,
    /// The decoder.
    pub model: Source,
    /// How a record is written.
    #[serde(default)]
    pub prompt: JudgePrompt,
    /// A RON file with prompt templates of your own; `JudgeEval` has to use the same. Default: the built-in ones.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// Width of the head's hidden layer; `None` for a linear head. Default 256.
    #[serde(default = "ValueHeadTrain::default_hidden")]
    pub hidden: Option<usize>,
    /// What the logit means and which loss trains it. Default `Classification`.
    #[serde(default)]
    pub head: Head,
    /// The adapter that is trained along; `None` trains the head alone. Default as published for the words Yes and No:
    /// `(rank: 8, alpha: 16, dropout: 0.05)` on all linear layers.
    #[serde(default = "ValueHeadTrain::default_lora")]
    pub lora: Option<LoraConfig>,
    /// Number format of the frozen weights. Default F32.
    #[serde(default)]
    pub dtype: Dtype,
    /// Repeats training records of the rarer answer until it has this share, in (0, 1). Default none.
    #[serde(default)]
    pub target_ratio: Option<f64>,
    /// Passes over the training split. Default 10.
    #[serde(default = "ValueHeadTrain::default_epochs")]
    pub epochs: usize,
    /// Stops after so many optimizer steps, if that is earlier. Default none.
    #[serde(default)]
    pub max_steps: Option<usize>,
    /// Records per optimizer step. Default 32.
    #[serde(default = "ValueHeadTrain::default_sequences_per_step")]
    pub sequences_per_step: usize,
    /// Tokens that go through the model at once, those that prompts share counted once; a step is made of as many
    /// micro-batches as that takes. Default 16384.
    #[serde(default = "ValueHeadTrain::default_micro_tokens")]
    pub micro_tokens: usize,
    /// What is computed twice to save memory. Default `None`.
    #[serde(default)]
    pub recompute: Recompute,
    /// Default `AdamW(lr: 1e-4)`.
    #[serde(default = "ValueHeadTrain::default_optim")]
    pub optim: Optim,
    /// Largest global norm of the gradient. Default 1.
    #[serde(default = "ValueHeadTrain::default_clip")]
    pub clip: Option<f64>,
    /// `StepLr` counts optimizer steps. Default `WarmupPolynomial(warmup: 0.03, power: 1, min_lr: 1e-7)`.
    #[serde(default = "ValueHeadTrain::default_lr_schedule")]
    pub schedule: Schedule,
    /// Evaluates on the validation split and keeps the best. Default none: the last is kept.
    #[serde(default)]
    pub eval: Option<Evaluation>,
    /// Ends training when evaluation no longer improves; needs `eval`. Default none.
    #[serde(default)]
    pub early_stopping: Option<EarlyStopping>,
    /// When to save.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// Which labels the records have. Default `Binary`.
    #[serde(default)]
    pub labels: Labels,
    /// What to do with an edge to a node that is not there. Default `Error`.
    #[serde(default)]
    pub on_bad_edge: OnBadEdge,
}

// The signatures are serde's.
#[allow(clippy::unnecessary_wraps)]
impl ValueHeadTrain {
    fn default_hidden() -> Option<usize> {
        Some(256)
    }

    fn default_lora() -> Option<LoraConfig> {
        Some(LoraConfig { rank: 8, alpha: 16.0, dropout: 0.05, targets: Targets::AllLinear, ..LoraConfig::default() })
    }

    fn default_epochs() -> usize {
        10
    }

    fn default_sequences_per_step() -> usize {
        32
    }

    fn default_micro_tokens() -> usize {
        16_384
    }

    fn default_optim() -> Optim {
        Optim::AdamW(AdamW::new(1e-4))
    }

    fn default_clip() -> Option<f64> {
        Some(1.0)
    }

    fn default_lr_schedule() -> Schedule {
        Schedule::WarmupPolynomial { warmup: 0.03, power: 1.0, min_lr: 1e-7 }
    }
}

/// Evaluates a decoder as a judge: one pass over each prompt, no text is generated. The score is that of the value head or,
/// without one, p(Yes) / (p(Yes) + p(No)) of the first tokens of both answers. Metrics and files are those of `GlowEval`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeEval {
    /// Name of the stage. Default "judge-eval".
    #[serde(default)]
    pub name: Option<String>,
    /// FLORA data; for a transfer experiment another than was trained on.
    pub data: Source,
    /// The decoder; where an adapter is used, the one it was trained on.
    pub model: Source,
    /// An `Sft` stage with `lora`, or the path of a PEFT adapter folder. Default none: the decoder as it is.
    #[serde(default)]
    pub adapter: Option<Source>,
    /// A `ValueHeadTrain` stage, or the folder of one; it brings its own adapter. Default none: the words Yes and No.
    #[serde(default)]
    pub value_head: Option<Source>,
    /// Default `Test`.
    #[serde(default = "default_split")]
    pub split: Split,
    /// How a record is written; as it was trained.
    #[serde(default)]
    pub prompt: JudgePrompt,
    /// A RON file with prompt templates of your own; as it was trained. Default: the built-in ones.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// What a longer prompt loses. Default `KeepSuffix`; the published implementation cuts `Right`, and the words that begin
    /// the answer with it.
    #[serde(default)]
    pub truncation: Truncation,
    /// Number format of the decoder. Default F32.
    #[serde(default)]
    pub dtype: Dtype,
    /// Tokens that go through the model at once, those that prompts share counted once. Default 32768.
    #[serde(default = "JudgeEval::default_batch_tokens")]
    pub batch_tokens: usize,
    /// A score above it predicts 1. Default 0.5: 1 where Yes is more probable than No.
    #[serde(default = "default_threshold")]
    pub threshold: f64,
    /// Settings of the ranking metric.
    #[serde(default)]
    pub utility: UtilityOptions,
    /// Draws the Precision@K curves. Default true.
    #[serde(default = "default_plots")]
    pub plots: bool,
    /// Which labels the records have. Default `Binary`.
    #[serde(default)]
    pub labels: Labels,
    /// What to do with an edge to a node that is not there. Default `Error`.
    #[serde(default)]
    pub on_bad_edge: OnBadEdge,
}

impl JudgeEval {
    fn default_batch_tokens() -> usize {
        32_768
    }
}

fn default_split() -> Split {
    Split::Test
}

fn default_threshold() -> f64 {
    0.5
}

fn default_plots() -> bool {
    true
}

/// Evaluates a model behind an OpenAI-compatible server as a judge: it is asked for its reasons and for Yes or No between
/// answer tags. Every answer is kept in the recipe's cache under the content of its question, so that no question is asked
/// twice (for a second draw, give the recipe another `cache`). The score is 1 for a Yes, else 0. Metrics and files are those of `GlowEval`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgePrompted {
    /// Name of the stage. Default "judge-prompted".
    #[serde(default)]
    pub name: Option<String>,
    /// FLORA data.
    pub data: Source,
    /// Address of the server, such as "http://localhost:7999/v1"; `/chat/completions` is added.
    pub url: String,
    /// Name of the model there.
    pub model: String,
    /// Default `Test`.
    #[serde(default = "default_split")]
    pub split: Split,
    /// How the node texts are written. Default `PyReprStr`.
    #[serde(default = "JudgePrompted::default_node_render")]
    pub node_render: NodeRender,
    /// Whether the task or the workflow comes first. Default `TaskFirst`.
    #[serde(default)]
    pub order: SectionOrder,
    /// A RON file with prompt templates of your own. Default: the built-in ones.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// Longest user message in characters; nodes that do not fit are cut. Default 24000, some 8000 tokens of English.
    #[serde(default = "JudgePrompted::default_max_chars")]
    pub max_chars: usize,
    /// Default 1.
    #[serde(default = "JudgePrompted::default_temperature")]
    pub temperature: f64,
    /// Longest answer in tokens. Default 2048.
    #[serde(default = "JudgePrompted::default_max_tokens")]
    pub max_tokens: usize,
    /// How an answer is read. Default `Words`.
    #[serde(default)]
    pub answer: AnswerRule,
    /// How the server is asked; has no influence on the results.
    #[serde(default)]
    pub client: Client,
    /// A score above it predicts 1. Default 0.5.
    #[serde(default = "default_threshold")]
    pub threshold: f64,
    /// Settings of the ranking metric. Default `(min_records: 1)`, as published for this baseline; 3 elsewhere.
    #[serde(default = "JudgePrompted::default_utility")]
    pub utility: UtilityOptions,
    /// Draws the Precision@K curves. Default true.
    #[serde(default = "default_plots")]
    pub plots: bool,
    /// Which labels the records have. Default `Binary`.
    #[serde(default)]
    pub labels: Labels,
    /// What to do with an edge to a node that is not there. Default `Error`.
    #[serde(default)]
    pub on_bad_edge: OnBadEdge,
}

impl JudgePrompted {
    fn default_node_render() -> NodeRender {
        NodeRender::PyReprStr
    }

    fn default_max_chars() -> usize {
        24_000
    }

    fn default_temperature() -> f64 {
        1.0
    }

    fn default_max_tokens() -> usize {
        2048
    }

    fn default_utility() -> UtilityOptions {
        UtilityOptions { min_records: 1, ..UtilityOptions::default() }
    }

    /// The part that makes the text.
    pub fn form(&self) -> JudgeForm {
        JudgeForm { node_render: self.node_render, order: self.order, style: JudgeStyle::Reasoned }
    }
}

/// How a server is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Client {
    /// `env:NAME`: the key is in the environment variable of this name. A key itself is refused. Default none.
    pub key: Option<String>,
    /// Questions that are under way at one time. Default 16.
    pub concurrency: usize,
    /// How often a question is asked again after a failure that may pass: no connection, no answer in time, too many
    /// requests, a fault of the server, an answer that makes no sense. Default 8.
    pub retries: usize,
    /// Seconds until it is asked again for the first time; twice as many every time after that, 60 at most. Default 1.
    pub wait_seconds: f64,
    /// Longest time for one answer, in seconds. Default 600.
    pub timeout_seconds: f64,
}

impl Default for Client {
    fn default() -> Self {
        Self { key: None, concurrency: 16, retries: 8, wait_seconds: 1.0, timeout_seconds: 600.0 }
    }
}
