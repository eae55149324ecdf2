//! The kinds of questions, their words and their answers.

use super::digraph::SimpleDigraph;
use crate::render::id_list;
use crate::templates::{Questions, fill};
use crate::workflow::Workflow;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// The answer to a question about an order that a cycle forbids.
pub const NO_ORDER: &str = "No valid topological order";

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskType {
    /// Degrees.
    #[serde(rename = "DBP", alias = "Dbp")]
    Dbp,
    /// Predecessors and successors.
    #[serde(rename = "DNE", alias = "Dne")]
    Dne,
    /// The text of a node.
    #[serde(rename = "NFP", alias = "Nfp")]
    Nfp,
    /// Reachability and path lengths.
    #[serde(rename = "REACH", alias = "Reach")]
    Reach,
    /// Sources and sinks.
    #[serde(rename = "KNI", alias = "Kni")]
    Kni,
    /// Topological order.
    #[serde(rename = "TSORT", alias = "Tsort")]
    Tsort,
}

impl TaskType {
    /// All six, in the order in which a round asks them.
    pub const ALL: [TaskType; 6] =
        [TaskType::Dbp, TaskType::Dne, TaskType::Nfp, TaskType::Reach, TaskType::Kni, TaskType::Tsort];

    /// The code in records.
    pub fn code(self) -> &'static str {
        match self {
            TaskType::Dbp => "DBP",
            TaskType::Dne => "DNE",
            TaskType::Nfp => "NFP",
            TaskType::Reach => "REACH",
            TaskType::Kni => "KNI",
            TaskType::Tsort => "TSORT",
        }
    }
}

impl fmt::Display for TaskType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Which questions a round asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Schedule {
    /// Degree, neighbours, text and reachability in every round; the sources in the first, the sinks in the second; the
    /// topological order in the first. 15 questions in three rounds.
    #[default]
    Rounds,
    /// All six in every round; sources or sinks by chance. 18 questions in three rounds.
    Uniform,
}

/// One question; nodes by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Question {
    /// The number of edges into a node.
    InDegree { node: u32 },
    /// The number of edges out of a node.
    OutDegree { node: u32 },
    /// The mean degree.
    AverageDegree,
    /// The ids with an edge into a node.
    Predecessors { node: u32 },
    /// The ids with an edge from a node.
    Successors { node: u32 },
    /// The text of a node.
    Content { node: u32 },
    /// Whether a path leads from one node to another.
    Reach { source: u32, target: u32 },
    /// The length of a shortest path.
    Length { source: u32, target: u32 },
    /// The ids without an edge into them.
    Sources,
    /// The ids without an edge out of them.
    Sinks,
    /// The topological order.
    TopologicalOrder,
}

/// The right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// In words, as it is to be said.
    pub text: String,
    /// As a value: a number, a list of ids, true or false, the node's text, or null where there is no order.
    pub value: Value,
}

impl Question {
    /// What the question is about.
    pub fn task_type(&self) -> TaskType {
        match self {
            Self::InDegree { .. } | Self::OutDegree { .. } | Self::AverageDegree => TaskType::Dbp,
            Self::Predecessors { .. } | Self::Successors { .. } => TaskType::Dne,
            Self::Content { .. } => TaskType::Nfp,
            Self::Reach { .. } | Self::Length { .. } => TaskType::Reach,
            Self::Sources | Self::Sinks => TaskType::Kni,
            Self::TopologicalOrder => TaskType::Tsort,
        }
    }

    /// The name of the kind in records and templates.
    pub fn variant(&self) -> &'static str {
        match self {
            Self::InDegree { .. } => "indeg",
            Self::OutDegree { .. } => "outdeg",
            Self::AverageDegree => "avgdeg",
            Self::Predecessors { .. } => "predecessors",
            Self::Successors { .. } => "successors",
            Self::Content { .. } => "content",
            Self::Reach { .. } => "reach",
            Self::Length { .. } => "length",
            Self::Sources => "sources",
            Self::Sinks => "sinks",
            Self::TopologicalOrder => "toposort",
        }
    }

    /// The question in words.
    pub fn text(&self, words: &Questions) -> String {
        let node = |template: &str, node: u32| fill(template, &[("node", &node.to_string())]);
        let pair = |template: &str, source: u32, target: u32| {
            fill(template, &[("source", &source.to_string()), ("target", &target.to_string())])
        };
        match *self {
            Self::InDegree { node: id } => node(&words.indeg, id),
            Self::OutDegree { node: id } => node(&words.outdeg, id),
            Self::AverageDegree => words.avgdeg.clone(),
            Self::Predecessors { node: id } => node(&words.predecessors, id),
            Self::Successors { node: id } => node(&words.successors, id),
            Self::Content { node: id } => node(&words.content, id),
            Self::Reach { source, target } => pair(&words.reach, source, target),
            Self::Length { source, target } => pair(&words.length, source, target),
            Self::Sources => words.sources.clone(),
            Self::Sinks => words.sinks.clone(),
            Self::TopologicalOrder => words.toposort.clone(),
        }
    }

    /// The right answer; none when the question names a node that the workflow does not have, or asks for the length of
    /// a path that is not there.
    pub fn answer(&self, workflow: &Workflow, graph: &SimpleDigraph) -> Option<Answer> {
        let number = |number: usize| Answer { text: number.to_string(), value: number.into() };
        let list = |ids: Vec<u32>| Answer { text: id_list(&ids), value: ids.into() };
        Some(match *self {
            Self::InDegree { node } => number(graph.in_degree(graph.rank(node)?)),
            Self::OutDegree { node } => number(graph.out_degree(graph.rank(node)?)),
            Self::AverageDegree => {
                let text = graph.average_degree();
                Answer { value: text.parse::<f64>().ok()?.into(), text }
            }
            Self::Predecessors { node } => list(graph.predecessors(graph.rank(node)?)),
            Self::Successors { node } => list(graph.successors(graph.rank(node)?)),
            Self::Content { node } => {
                let (_, text) = workflow.nodes.iter().find(|(id, _)| *id == node)?;
                Answer { text: text.clone(), value: text.as_str().into() }
            }
            Self::Reach { source, target } => {
                let yes = graph.distance(graph.rank(source)?, graph.rank(target)?).is_some();
                Answer { text: if yes { "Yes" } else { "No" }.into(), value: yes.into() }
            }
            Self::Length { source, target } => number(graph.distance(graph.rank(source)?, graph.rank(target)?)?),
            Self::Sources => list(graph.sources()),
            Self::Sinks => list(graph.sinks()),
            Self::TopologicalOrder => match graph.topological_order() {
                Some(order) => list(order),
                None => Answer { text: NO_ORDER.into(), value: Value::Null },
            },
        })
    }
}

/// The questions of one round about one workflow, in order.
///
/// The draws do not depend on which of the questions are kept. Reachability is left out for a workflow of one node.
pub fn round_questions(
    workflow: &Workflow,
    graph: &SimpleDigraph,
    schedule: Schedule,
    round: u32,
    rng: &mut ChaCha8Rng,
) -> Vec<Question> {
    let ids: Vec<u32> = workflow.nodes.iter().map(|(id, _)| *id).collect();
    let mut questions = Vec::with_capacity(6);
    let (Some(&degree_of), kind) = (ids.choose(rng), rng.random_range(0..3u32)) else { return questions };
    questions.push(match kind {
        0 => Question::InDegree { node: degree_of },
        1 => Question::OutDegree { node: degree_of },
        _ => Question::AverageDegree,
    });
    if let Some(&node) = ids.choose(rng) {
        let into = rng.random_bool(0.5);
        questions.push(if into { Question::Predecessors { node } } else { Question::Successors { node } });
    }
    if let Some(&node) = ids.choose(rng) {
        questions.push(Question::Content { node });
    }
    if ids.len() >= 2 {
        let first = rng.random_range(0..ids.len());
        let second = rng.random_range(0..ids.len() - 1);
        // Skipping over the first makes every other node equally likely.
        let second = second + usize::from(second >= first);
        let (source, target) = (ids[first], ids[second]);
        let distance = graph.rank(source).zip(graph.rank(target)).and_then(|(s, t)| graph.distance(s, t));
        let ask_length = distance.is_some() && rng.random_bool(0.5);
        questions.push(if ask_length {
            Question::Length { source, target }
        } else {
            Question::Reach { source, target }
        });
    }
    match schedule {
        Schedule::Rounds => {
            match round {
                0 => questions.push(Question::Sources),
                1 => questions.push(Question::Sinks),
                _ => {}
            }
            if round == 0 {
                questions.push(Question::TopologicalOrder);
            }
        }
        Schedule::Uniform => {
            questions.push(if rng.random_bool(0.5) { Question::Sources } else { Question::Sinks });
            questions.push(Question::TopologicalOrder);
        }
    }
    questions
}
