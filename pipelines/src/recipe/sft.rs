//! Supervised fine-tuning of a decoder, and merging of what it trained.

use burn_lora::LoraConfig;
use datasets::sft::Packing;
use serde::{Deserialize, Serialize};

use super::optim::{AdamW, Checkpoint, Dtype, Optim};
use super::source::Source;
use crate::learners::Recompute;
use crate::train::{Direction, Schedule};

/// Trains a decoder on the assistant's turns of chats, through a LoRA adapter or in full. The loss is the mean
/// cross-entropy over the supervised tokens of one optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sft {
    /// Name of the stage. Default "sft".
    #[serde(default)]
    pub name: Option<String>,
    /// The decoder to train.
    pub model: Source,
    /// A `GraphQuestions` or `JudgeChats` stage, `Chat` data, or the path of such.
    pub data: Source,
    /// The adapter to train. Default none: all weights are trained.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// Number format of the frozen weights. Default F32.
    #[serde(default)]
    pub dtype: Dtype,
    /// Passes over the data. Default 20.
    #[serde(default = "Sft::default_epochs")]
    pub epochs: usize,
    /// Stops after so many optimizer steps, if that is earlier. Default none.
    #[serde(default)]
    pub max_steps: Option<usize>,
    /// Chats per optimizer step. Default 64.
    #[serde(default = "Sft::default_sequences_per_step")]
    pub sequences_per_step: usize,
    /// Tokens, padding included, that go through the model at once; a step is made of as many micro-batches as that
    /// takes. Default 32768.
    #[serde(default = "Sft::default_micro_tokens")]
    pub micro_tokens: usize,
    /// How chats share a forward pass; the loss is the same. Default `SharedPrefix`.
    #[serde(default)]
    pub packing: Packing,
    /// What is computed twice to save memory. Default `None`.
    #[serde(default)]
    pub recompute: Recompute,
    /// Chats with more tokens are left out, and counted. Default 10240.
    #[serde(default = "Sft::default_max_length")]
    pub max_length: usize,
    /// How the turns are written. Default `ChatMl`.
    #[serde(default)]
    pub framing: Framing,
    /// Written before every supervised answer, such as an empty thinking block. Default "".
    #[serde(default)]
    pub assistant_prefix: String,
    /// Whether the newline after an end-of-turn token is learned too. Default false.
    #[serde(default)]
    pub supervise_trailing_newline: bool,
    /// Default `AdamW(lr: 5e-5, weight_decay: 1e-4, betas: (0.9, 0.95), eps: 1e-8)`.
    #[serde(default = "Sft::default_optim")]
    pub optim: Optim,
    /// Largest global norm of the gradient; longer ones are scaled down to it. Default 1.
    #[serde(default = "Sft::default_clip")]
    pub clip: Option<f64>,
    /// `StepLr` counts optimizer steps. Default `WarmupCosine(warmup: 0.03)`.
    #[serde(default = "Sft::default_lr_schedule")]
    pub schedule: Schedule,
    /// Evaluates on what the data holds out: the questions about the test workflows of a `GraphQuestions` stage, or
    /// `val.jsonl`, else `test.jsonl`, of a folder. Default none.
    #[serde(default)]
    pub eval: Option<Evaluation>,
    /// Ends training when evaluation no longer improves; needs `eval`. Default none.
    #[serde(default)]
    pub early_stopping: Option<EarlyStopping>,
    /// When to save.
    #[serde(default)]
    pub checkpoint: Checkpoint,
}

impl Sft {
    fn default_epochs() -> usize {
        20
    }

    fn default_sequences_per_step() -> usize {
        64
    }

    fn default_micro_tokens() -> usize {
        32_768
    }

    fn default_max_length() -> usize {
        10_240
    }

    fn default_optim() -> Optim {
        Optim::AdamW(AdamW { betas: (0.9, 0.95), ..AdamW::new(5e-5) })
    }

    // The signature is serde's.
    #[allow(clippy::unnecessary_wraps)]
    fn default_clip() -> Option<f64> {
        Some(1.0)
    }

    fn default_lr_schedule() -> Schedule {
        Schedule::WarmupCosine { warmup: 0.03, min_lr: 0.0 }
    }
}

/// What is written around the turns of a chat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Framing {
    /// `<|im_start|>ROLE⏎CONTENT<|im_end|>⏎` for every turn; no system message and no thinking block is added.
    #[default]
    ChatMl,
    /// What the model's own chat template writes.
    Template,
}

impl From<Framing> for burn_models::text::Framing {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::ChatMl => Self::ChatMl,
            Framing::Template => Self::Template,
        }
    }
}

/// Evaluation in the course of training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Optimizer steps between two evaluations.
    pub every_steps: usize,
    /// Evaluates on so many records only, always the same ones, drawn by chance; rounded up to whole steps. Default all.
    #[serde(default)]
    pub max_records: Option<usize>,
    /// What makes the best model. Default `ValLoss`.
    #[serde(default)]
    pub select_by: BestBy,
}

/// The validation score that chooses the best step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BestBy {
    /// Lowest loss.
    #[default]
    ValLoss,
    /// Highest share of right tokens; of right verdicts, for a value head.
    ValAccuracy,
}

impl BestBy {
    /// The score's name in logs, and which way it improves.
    pub fn score(self) -> (&'static str, Direction) {
        match self {
            Self::ValLoss => ("loss", Direction::Lowest),
            Self::ValAccuracy => ("accuracy", Direction::Highest),
        }
    }
}

/// When to give up on improvement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Evaluations in a row without improvement after which training ends.
    pub patience: usize,
    /// The loss has to fall, or the accuracy to rise, by more than this to count as improved. Default 0.
    #[serde(default)]
    pub min_delta: f64,
}

/// Adds a LoRA adapter to the weights it was trained on, in F32, checks the result against base plus adapter, and writes
/// a model folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeLora {
    /// Name of the stage. Default "merge-lora".
    #[serde(default)]
    pub name: Option<String>,
    /// The decoder that the adapter was trained on.
    pub base: Source,
    /// An `Sft` stage with `lora`, or the path of a PEFT adapter folder.
    pub adapter: Source,
    /// Number format of the weights that are written. Default `Keep`.
    #[serde(default)]
    pub dtype: MergeDtype,
    /// Prompts on which the merged model is compared with base plus adapter. Default 4.
    #[serde(default = "MergeLora::default_verify_prompts")]
    pub verify_prompts: usize,
}

impl MergeLora {
    fn default_verify_prompts() -> usize {
        4
    }
}

/// Number format of merged weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
pub enum MergeDtype {
    /// That of the base.
    #[default]
    Keep,
    /// 32-bit floats.
    F32,
    /// bfloat16; every weight is rounded once, after the sum.
    Bf16,
}
