//! The stages that make questions and answers about workflow graphs, and that ask them.

use std::path::PathBuf;

use datasets::graph_questions::{AnswerStyle, GraphQuestionsConfig, Schedule, TaskType};
use datasets::render::NodeRender;
use serde::{Deserialize, Serialize};

use super::optim::Dtype;
use super::sft::Framing;
use super::source::Source;

/// Makes chats that ask for facts about the workflow graphs of the training splits (degrees, neighbours, node texts,
/// reachability, key nodes, topological order), to acquaint a language model with graphs. Writes `train.jsonl` and
/// `test.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphQuestions {
    /// Name of the stage. Default "graph-questions".
    #[serde(default)]
    pub name: Option<String>,
    /// FLORA data; each entry's distinct training workflows are asked about.
    pub data: Vec<Source>,
    /// Rounds of questions per workflow. Default 3.
    #[serde(default = "GraphQuestions::default_rounds")]
    pub rounds: u32,
    /// Which questions a round asks. Default `Rounds`: 15 per workflow in three rounds.
    #[serde(default)]
    pub schedule: Schedule,
    /// Workflows held out for the test split, at most a fifth of all of them. Default 200.
    #[serde(default = "GraphQuestions::default_test_workflows")]
    pub test_workflows: usize,
    /// Holds out exactly `test_workflows`, even if no training split remains. Default false.
    #[serde(default)]
    pub strict_test_count: bool,
    /// The kinds of questions. Default all six.
    #[serde(default = "GraphQuestions::default_tasks")]
    pub tasks: Vec<TaskType>,
    /// How the node texts are written in the prompt; `Embed` has to use the same. Default `PyRepr`.
    #[serde(default)]
    pub node_render: NodeRender,
    /// Default `Bare`.
    #[serde(default)]
    pub answer_style: AnswerStyle,
    /// A RON file with prompt templates of your own; `Embed` has to use the same. Default: the built-in ones.
    #[serde(default)]
    pub templates: Option<PathBuf>,
}

impl GraphQuestions {
    fn default_rounds() -> u32 {
        3
    }

    fn default_test_workflows() -> usize {
        200
    }

    fn default_tasks() -> Vec<TaskType> {
        TaskType::ALL.to_vec()
    }
}

impl From<&GraphQuestions> for GraphQuestionsConfig {
    fn from(stage: &GraphQuestions) -> Self {
        Self {
            test_workflows: stage.test_workflows,
            strict_test_count: stage.strict_test_count,
            rounds: stage.rounds,
            schedule: stage.schedule,
            tasks: stage.tasks.clone(),
            node_render: stage.node_render,
            answer_style: stage.answer_style,
        }
    }
}

/// Asks a decoder the questions about graphs that `GraphQuestions` held out, and scores its answers: the likeliest token every
/// time, as it was trained to be asked. Writes `answers.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphQuestionEval {
    /// Name of the stage. Default "graph-question-eval".
    #[serde(default)]
    pub name: Option<String>,
    /// A `GraphQuestions` stage, the folder of one, or a file such as its `test.jsonl`.
    pub data: Source,
    /// The decoder.
    pub model: Source,
    /// An adapter for it. Default none.
    #[serde(default)]
    pub adapter: Option<Source>,
    /// Asks so many of the questions, drawn with the recipe's seed. Default none: all of them.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Longest answer in tokens. Default 512.
    #[serde(default = "GraphQuestionEval::default_max_new_tokens")]
    pub max_new_tokens: usize,
    /// Questions with longer prompts are not asked and count as wrong. Default 10240 tokens.
    #[serde(default = "GraphQuestionEval::default_max_length")]
    pub max_length: usize,
    /// Questions that are answered at one time. Default 32.
    #[serde(default = "GraphQuestionEval::default_batch_size")]
    pub batch_size: usize,
    /// How the turns are written, as in the `Sft` stage that trained the model. Default `ChatMl`.
    #[serde(default)]
    pub framing: Framing,
    /// Written before the answer, as in that stage. Default "".
    #[serde(default)]
    pub assistant_prefix: String,
    /// Number format of the weights. Default F32.
    #[serde(default)]
    pub dtype: Dtype,
}

impl GraphQuestionEval {
    fn default_max_new_tokens() -> usize {
        512
    }

    fn default_max_length() -> usize {
        10_240
    }

    fn default_batch_size() -> usize {
        32
    }
}
