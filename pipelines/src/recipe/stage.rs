//! The stages of a recipe.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    Embed, GlowEval, GlowTrain, GraphQuestionEval, GraphQuestions, JudgeChats, JudgeEval, JudgePrompted, MergeLora,
    Sft, Source, ValueHeadTrain,
};

/// One step of an experiment: reads artefacts, writes artefacts into its own folder of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
// A recipe has a handful of stages: their size does not matter, and boxes would show in every match.
#[allow(clippy::large_enum_variant)]
pub enum Stage {
    /// Makes questions and answers about workflow graphs.
    GraphQuestions(GraphQuestions),
    /// Trains a decoder on chats.
    Sft(Sft),
    /// Adds an adapter to its base.
    MergeLora(MergeLora),
    /// Asks a decoder questions about workflow graphs.
    GraphQuestionEval(GraphQuestionEval),
    /// Turns workflows and texts into vectors.
    Embed(Embed),
    /// Trains the GLOW predictor.
    GlowTrain(GlowTrain),
    /// Evaluates a GLOW predictor.
    GlowEval(GlowEval),
    /// Makes chats that ask for a verdict on a workflow.
    JudgeChats(JudgeChats),
    /// Trains a value head on a decoder.
    ValueHeadTrain(ValueHeadTrain),
    /// Evaluates a decoder as a judge.
    JudgeEval(JudgeEval),
    /// Evaluates a model behind a server as a judge.
    JudgePrompted(JudgePrompted),
}

impl Stage {
    /// The stage's name; that of its kind unless the recipe gives one.
    pub fn name(&self) -> &str {
        let name = match self {
            Self::GraphQuestions(stage) => &stage.name,
            Self::GraphQuestionEval(stage) => &stage.name,
            Self::Sft(stage) => &stage.name,
            Self::MergeLora(stage) => &stage.name,
            Self::Embed(stage) => &stage.name,
            Self::GlowTrain(stage) => &stage.name,
            Self::GlowEval(stage) => &stage.name,
            Self::JudgeChats(stage) => &stage.name,
            Self::ValueHeadTrain(stage) => &stage.name,
            Self::JudgeEval(stage) => &stage.name,
            Self::JudgePrompted(stage) => &stage.name,
        };
        name.as_deref().unwrap_or(self.kind().as_str())
    }

    /// What sort of stage it is.
    pub fn kind(&self) -> StageKind {
        match self {
            Self::GraphQuestions(_) => StageKind::GraphQuestions,
            Self::GraphQuestionEval(_) => StageKind::GraphQuestionEval,
            Self::Sft(_) => StageKind::Sft,
            Self::MergeLora(_) => StageKind::MergeLora,
            Self::Embed(_) => StageKind::Embed,
            Self::GlowTrain(_) => StageKind::GlowTrain,
            Self::GlowEval(_) => StageKind::GlowEval,
            Self::JudgeChats(_) => StageKind::JudgeChats,
            Self::ValueHeadTrain(_) => StageKind::ValueHeadTrain,
            Self::JudgeEval(_) => StageKind::JudgeEval,
            Self::JudgePrompted(_) => StageKind::JudgePrompted,
        }
    }

    /// Everything that the stage reads, by the field that says so; a field that is a list comes once per element.
    pub fn inputs(&self) -> Vec<(&'static str, &Source)> {
        match self {
            Self::GraphQuestions(stage) => stage.data.iter().map(|source| ("data", source)).collect(),
            Self::GraphQuestionEval(stage) => {
                let mut inputs = vec![("data", &stage.data), ("model", &stage.model)];
                inputs.extend(stage.adapter.iter().map(|adapter| ("adapter", adapter)));
                inputs
            }
            Self::Sft(stage) => vec![("model", &stage.model), ("data", &stage.data)],
            Self::MergeLora(stage) => vec![("base", &stage.base), ("adapter", &stage.adapter)],
            Self::Embed(stage) => vec![("data", &stage.data), ("llm", &stage.llm), ("text", &stage.text)],
            Self::GlowTrain(stage) => vec![("embeddings", &stage.embeddings)],
            Self::GlowEval(stage) => {
                let mut inputs = vec![("weights", &stage.weights), ("embeddings", &stage.embeddings)];
                inputs.extend(stage.targets.iter().map(|target| ("targets", target)));
                inputs
            }
            Self::JudgeChats(stage) => vec![("data", &stage.data), ("model", &stage.model)],
            Self::ValueHeadTrain(stage) => vec![("data", &stage.data), ("model", &stage.model)],
            Self::JudgeEval(stage) => {
                let mut inputs = vec![("data", &stage.data), ("model", &stage.model)];
                inputs.extend(stage.adapter.iter().map(|adapter| ("adapter", adapter)));
                inputs.extend(stage.value_head.iter().map(|head| ("value_head", head)));
                inputs
            }
            Self::JudgePrompted(stage) => vec![("data", &stage.data)],
        }
    }

    /// The file of prompt templates that the stage reads, where it names one.
    pub fn templates(&self) -> Option<&Path> {
        match self {
            Self::GraphQuestions(stage) => stage.templates.as_deref(),
            Self::Embed(stage) => stage.templates.as_deref(),
            Self::JudgeChats(stage) => stage.templates.as_deref(),
            Self::ValueHeadTrain(stage) => stage.templates.as_deref(),
            Self::JudgeEval(stage) => stage.templates.as_deref(),
            Self::JudgePrompted(stage) => stage.templates.as_deref(),
            _ => None,
        }
    }

    /// What later stages find in the stage's folder; `None` for a stage that nothing can be built on.
    pub fn output(&self) -> Option<Artifact> {
        match self {
            Self::GraphQuestions(_) => Some(Artifact::Chats),
            Self::Sft(stage) => Some(if stage.lora.is_some() { Artifact::Adapter } else { Artifact::Decoder }),
            Self::MergeLora(_) => Some(Artifact::Decoder),
            Self::Embed(_) => Some(Artifact::Embeddings),
            Self::GlowTrain(_) => Some(Artifact::Predictor),
            Self::GraphQuestionEval(_) | Self::GlowEval(_) | Self::JudgeEval(_) | Self::JudgePrompted(_) => None,
            Self::JudgeChats(_) => Some(Artifact::Chats),
            Self::ValueHeadTrain(_) => Some(Artifact::ValueHead),
        }
    }
}

/// The sort of a [`Stage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // Named and documented as the variants of `Stage`.
pub enum StageKind {
    GraphQuestions,
    GraphQuestionEval,
    Sft,
    MergeLora,
    Embed,
    GlowTrain,
    GlowEval,
    JudgeChats,
    ValueHeadTrain,
    JudgeEval,
    JudgePrompted,
}

impl StageKind {
    /// All of them, in the order of `Stage`.
    pub const ALL: [Self; 11] = [
        Self::GraphQuestions,
        Self::GraphQuestionEval,
        Self::Sft,
        Self::MergeLora,
        Self::Embed,
        Self::GlowTrain,
        Self::GlowEval,
        Self::JudgeChats,
        Self::ValueHeadTrain,
        Self::JudgeEval,
        Self::JudgePrompted,
    ];

    /// The default name of such a stage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GraphQuestions => "graph-questions",
            Self::GraphQuestionEval => "graph-question-eval",
            Self::Sft => "sft",
            Self::MergeLora => "merge-lora",
            Self::Embed => "embed",
            Self::GlowTrain => "glow-train",
            Self::GlowEval => "glow-eval",
            Self::JudgeChats => "judge-chats",
            Self::ValueHeadTrain => "value-head",
            Self::JudgeEval => "judge-eval",
            Self::JudgePrompted => "judge-prompted",
        }
    }

    /// What the stage needs in the field that [`Stage::inputs`] names.
    pub(crate) fn needs(self, field: &str) -> Artifact {
        match (self, field) {
            (Self::Sft | Self::GraphQuestionEval, "data") => Artifact::Chats,
            (_, "data" | "targets") => Artifact::Flora,
            (_, "adapter") => Artifact::Adapter,
            (_, "value_head") => Artifact::ValueHead,
            (Self::Embed, "text") => Artifact::Encoder,
            (Self::Embed, "llm") => Artifact::Reader,
            (Self::GlowTrain | Self::GlowEval, "embeddings") => Artifact::Embeddings,
            (Self::GlowEval, "weights") => Artifact::Predictor,
            _ => Artifact::Decoder,
        }
    }
}

impl fmt::Display for StageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What passes between stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Artifact {
    /// FLORA records.
    Flora,
    /// Chats to train on.
    Chats,
    /// A causal language model.
    Decoder,
    /// A sentence encoder.
    Encoder,
    /// One of the two.
    Reader,
    /// A LoRA adapter, of no use without its base.
    Adapter,
    /// Embedded FLORA records.
    Embeddings,
    /// A trained GLOW predictor.
    Predictor,
    /// A value head with the adapter that was trained along, of no use without their base.
    ValueHead,
}

impl Artifact {
    /// Whether it is a model of which a folder's `config.json` says the sort.
    pub(crate) fn is_model(self) -> bool {
        matches!(self, Self::Decoder | Self::Encoder | Self::Reader)
    }

    /// Whether `found` will do where this is needed.
    pub(crate) fn takes(self, found: Self) -> bool {
        self == found || (self == Self::Reader && found.is_model())
    }
}

/// With its article, as in "a decoder".
impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flora => "FLORA data",
            Self::Chats => "chats",
            Self::Decoder => "a decoder",
            Self::Encoder => "a sentence encoder",
            Self::Reader => "a decoder or a sentence encoder",
            Self::Adapter => "a LoRA adapter",
            Self::Embeddings => "embeddings",
            Self::Predictor => "a GLOW predictor",
            Self::ValueHead => "a value head",
        })
    }
}
