//! The stage that makes questions and answers about workflow graphs.

use std::path::PathBuf;

use datasets::graph_questions::{AnswerStyle, GraphQuestionsConfig, Schedule, TaskType};
use datasets::render::NodeRender;
use serde::{Deserialize, Serialize};

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
