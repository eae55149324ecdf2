//! Supervised fine-tuning of a decoder, and merging of what it trained.

use burn_lora::{LoraConfig, Quantization};
use burn_models::text::{EndOfTurn, Learn, Mask, Thinking};
use datasets::sft::{OnError, Overlong, Packing};
use serde::{Deserialize, Serialize};

use super::optim::{AdamW, Checkpoint, Dtype, Optim};
use super::source::Source;
use crate::eval::AnswerMetric;
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
    /// Stores the frozen weights of the linear layers in fewer bits, `Q8` or `Q4`, each restored when its layer computes (QLoRA); needs
    /// `lora`, and `recompute: Layers`, without which all restored weights would be kept. Default none.
    #[serde(default)]
    pub quantize: Option<Quantization>,
    /// Number format of the weights that compute. Where all are trained, those are copies of masters in F32 that take the updates, and
    /// the model is written in this format. Default F32.
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
    /// In place of `sequences_per_step`, about so many tokens per optimizer step, a chat counting whole. Default none.
    #[serde(default)]
    pub tokens_per_step: Option<usize>,
    /// Tokens, padding included, that go through the model at once; a step is made of as many micro-batches as that
    /// takes. Default 32768.
    #[serde(default = "Sft::default_micro_tokens")]
    pub micro_tokens: usize,
    /// How chats share a forward pass; the loss is the same. Default `SharedPrefix`.
    #[serde(default)]
    pub packing: Packing,
    /// What is computed twice to save memory: `None`; `Layers`, every layer, in the backward pass; or `Auto`, which takes what fits into
    /// the memory that is free when the stage begins, and smaller passes than `micro_tokens` where that helps. Default `None`.
    #[serde(default)]
    pub recompute: Recompute,
    /// The most tokens of a chat: see `overlong`. Default 10240.
    #[serde(default = "Sft::default_max_length")]
    pub max_length: usize,
    /// What becomes of longer chats: `Delete`, `TruncateEnd`, `KeepAnswer`, `Error`. What is left out or cut is counted. Default
    /// `Delete`.
    #[serde(default)]
    pub overlong: Overlong,
    /// What becomes of chats that cannot be used: `Stop` ends the run, `Skip` leaves them out and counts them by reason. Default
    /// `Stop`.
    #[serde(default)]
    pub on_error: OnError,
    /// How the turns are written. Default `ChatMl`.
    #[serde(default)]
    pub framing: Framing,
    /// What of a chat is learned: `Replies`, `LastReply`, `EachReply` (every reply as a sample of its own), `Everything`, or roles
    /// with weights, `Roles({"assistant": 1.0, "tool": 0.1})`. Default `Replies`.
    #[serde(default)]
    pub learn: Learn,
    /// What of the replies is only read: `Tags(["observation"])`, the parts between these tags; `TagTokens("observation")`, as the
    /// code published with GAP finds them. Default `None`.
    #[serde(default)]
    pub mask: Mask,
    /// What becomes of reasoning, `<think>…</think>`: `Template`, `Keep`, `StripEarlier`, `EmptyBlock`. Default `Template`: what the
    /// framing makes of it.
    #[serde(default)]
    pub thinking: Thinking,
    /// Written before every learned reply and not learned. Default "".
    #[serde(default)]
    pub assistant_prefix: String,
    /// How the end of a reply is learned: `Ignore`, `Token`, `TokenAndNewline`. Default `Token`.
    #[serde(default)]
    pub end_of_turn: EndOfTurn,
    /// Whether what the framing writes before a learned reply is learned too. Default false.
    #[serde(default)]
    pub learn_header: bool,
    /// Noise on the embeddings while training: uniform in ± α / √(L·D) for a chat of L tokens (NEFTune, Jain et al. 2023; 5 is
    /// usual). Default none.
    #[serde(default)]
    pub neftune: Option<f64>,
    /// Decay of the exponential moving average of the trained weights; with it the average is what is evaluated and kept. Default
    /// none.
    #[serde(default)]
    pub ema: Option<f64>,
    /// Default `AdamW(lr: 5e-5, weight_decay: 1e-4, betas: (0.9, 0.95), eps: 1e-8)`.
    #[serde(default = "Sft::default_optim")]
    pub optim: Optim,
    /// Largest global norm of the gradient; longer ones are scaled down to it. Default 1.
    #[serde(default = "Sft::default_clip")]
    pub clip: Option<f64>,
    /// `StepLr` counts optimizer steps. Default `WarmupCosine(warmup: 0.03)`.
    #[serde(default = "Sft::default_lr_schedule")]
    pub schedule: Schedule,
    /// Evaluates on what the data holds out: the questions about the test workflows of a `GraphQuestions` stage, the `split` of
    /// `Chat` data, or `val.jsonl`, else `test.jsonl`, of a folder. Default none.
    #[serde(default)]
    pub eval: Option<Evaluation>,
    /// Answers some held-out chats in every evaluation, scores the answers, and keeps them in `samples/`; needs `eval`. Default
    /// none.
    #[serde(default)]
    pub samples: Option<Samples>,
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

/// What is computed twice to save memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Recompute {
    /// Nothing: the fastest.
    #[default]
    None,
    /// Every layer, in the backward pass: the intermediate results of one layer are kept instead of those of all.
    Layers,
    /// Nothing, if that fits into the free memory, else every layer.
    Auto,
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

/// Answers that are generated in an evaluation, without sampling: each to the last learned part of a chat, behind all that stands
/// before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Samples {
    /// How many chats, from the beginning of what is held out. Default 16.
    pub count: usize,
    /// The most tokens of an answer. Default 128.
    pub max_new_tokens: usize,
    /// How an answer is scored: `ExactMatch`, `NormalizedMatch`, `TokenF1`. Default `ExactMatch`.
    pub metric: AnswerMetric,
}

impl Default for Samples {
    fn default() -> Self {
        Self { count: 16, max_new_tokens: 128, metric: AnswerMetric::default() }
    }
}

/// The validation score that chooses the best step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BestBy {
    /// Lowest loss.
    #[default]
    ValLoss,
    /// Highest share of right tokens; of right verdicts, for a value head.
    ValAccuracy,
    /// Highest mean score of the generated answers; needs `samples`.
    ValSamples,
}

impl BestBy {
    /// The score's name in logs, and which way it improves.
    pub fn score(self) -> (&'static str, Direction) {
        match self {
            Self::ValLoss => ("loss", Direction::Lowest),
            Self::ValAccuracy => ("accuracy", Direction::Highest),
            Self::ValSamples => ("sample_score", Direction::Highest),
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
    /// 16-bit floats of IEEE 754, up to 65504; every weight is rounded once, after the sum.
    F16,
}
