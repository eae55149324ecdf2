//! The stages of a recipe.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Embed, GlowEval, GlowTrain, GraphQuestions, MergeLora, Sft, Source};

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
    /// Turns workflows and texts into vectors.
    Embed(Embed),
    /// Trains the GLOW predictor.
    GlowTrain(GlowTrain),
    /// Evaluates a GLOW predictor.
    GlowEval(GlowEval),
}

impl Stage {
    /// The stage's name; that of its kind unless the recipe gives one.
    pub fn name(&self) -> &str {
        let name = match self {
            Self::GraphQuestions(stage) => &stage.name,
            Self::Sft(stage) => &stage.name,
            Self::MergeLora(stage) => &stage.name,
            Self::Embed(stage) => &stage.name,
            Self::GlowTrain(stage) => &stage.name,
            Self::GlowEval(stage) => &stage.name,
        };
        name.as_deref().unwrap_or(self.kind().as_str())
    }

    /// What sort of stage it is.
    pub fn kind(&self) -> StageKind {
        match self {
            Self::GraphQuestions(_) => StageKind::GraphQuestions,
            Self::Sft(_) => StageKind::Sft,
            Self::MergeLora(_) => StageKind::MergeLora,
            Self::Embed(_) => StageKind::Embed,
            Self::GlowTrain(_) => StageKind::GlowTrain,
            Self::GlowEval(_) => StageKind::GlowEval,
        }
    }

    /// Everything that the stage reads, by the field that says so; a field that is a list comes once per element.
    pub fn inputs(&self) -> Vec<(&'static str, &Source)> {
        match self {
            Self::GraphQuestions(stage) => stage.data.iter().map(|source| ("data", source)).collect(),
            Self::Sft(stage) => vec![("model", &stage.model), ("data", &stage.data)],
            Self::MergeLora(stage) => vec![("base", &stage.base), ("adapter", &stage.adapter)],
            Self::Embed(stage) => vec![("data", &stage.data), ("llm", &stage.llm), ("text", &stage.text)],
            Self::GlowTrain(stage) => vec![("embeddings", &stage.embeddings)],
            Self::GlowEval(stage) => vec![("weights", &stage.weights), ("embeddings", &stage.embeddings)],
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
            Self::GlowEval(_) => None,
        }
    }
}

/// The sort of a [`Stage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // Named and documented as the variants of `Stage`.
pub enum StageKind {
    GraphQuestions,
    Sft,
    MergeLora,
    Embed,
    GlowTrain,
    GlowEval,
}

impl StageKind {
    /// The default name of such a stage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GraphQuestions => "graph-questions",
            Self::Sft => "sft",
            Self::MergeLora => "merge-lora",
            Self::Embed => "embed",
            Self::GlowTrain => "glow-train",
            Self::GlowEval => "glow-eval",
        }
    }

    /// What the stage needs in the field that [`Stage::inputs`] names.
    pub(crate) fn needs(self, field: &str) -> Artifact {
        match (self, field) {
            (Self::GraphQuestions | Self::Embed, "data") => Artifact::Flora,
            (Self::Sft, "data") => Artifact::Chats,
            (Self::MergeLora, "adapter") => Artifact::Adapter,
            (Self::Embed, "text") => Artifact::Encoder,
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
    /// A LoRA adapter, of no use without its base.
    Adapter,
    /// Embedded FLORA records.
    Embeddings,
    /// A trained GLOW predictor.
    Predictor,
}

/// With its article, as in "a decoder".
impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flora => "FLORA data",
            Self::Chats => "chats",
            Self::Decoder => "a decoder",
            Self::Encoder => "a sentence encoder",
            Self::Adapter => "a LoRA adapter",
            Self::Embeddings => "embeddings",
            Self::Predictor => "a GLOW predictor",
        })
    }
}
