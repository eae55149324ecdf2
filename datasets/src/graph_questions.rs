//! Questions about workflow graphs with certain answers, to teach a language model to read such graphs before it embeds
//! them (GLOW, arXiv 2512.15751, pre-finetuning).
//!
//! For every workflow of the training splits, a few rounds of questions: degrees, neighbours, a node's text, paths,
//! sources and sinks, the topological order. What is asked about a workflow depends on the seed, the data set's name, the
//! workflow's number and the round, and on nothing else: neither on the order of lines in a file nor on threads.

pub mod digraph;
mod question;
mod write;

pub use digraph::SimpleDigraph;
pub use question::{Answer, NO_ORDER, Question, Schedule, TaskType, round_questions};
pub use write::{Counts, Manifest, OutputFile, OutputPaths, SourceOfQuestions};

use crate::error::{Error, Result};
use crate::flora::{ReadOptions, SourceFile, read_records};
use crate::json::wrong;
use crate::render::NodeRender;
use crate::rng::stream;
use crate::splits::Split;
use crate::templates::Templates;
use crate::workflow::Workflow;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;

/// How the supervised answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AnswerStyle {
    /// The answer alone; the prompt ends with [`Templates::closing`].
    #[default]
    Bare,
    /// The answer between `<answer>` and `</answer>`; the prompt ends with [`Templates::closing_tagged`].
    Tagged,
}

/// Which questions to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GraphQuestionsConfig {
    /// How many workflows to keep for testing. Default: 200.
    pub test_workflows: usize,
    /// Take that many for testing whatever remains; otherwise at most a fifth of all, with a warning. Default: false.
    pub strict_test_count: bool,
    /// Rounds for each workflow. Default: 3.
    pub rounds: u32,
    /// Which questions a round asks. Default: `Rounds`.
    pub schedule: Schedule,
    /// The kinds to keep; leaving some out does not change the others. Default: all six.
    pub tasks: Vec<TaskType>,
    /// How nodes and edges are written. Default: `PyRepr`.
    pub node_render: NodeRender,
    /// How answers are written. Default: `Bare`.
    pub answer_style: AnswerStyle,
}

impl Default for GraphQuestionsConfig {
    fn default() -> Self {
        Self {
            test_workflows: 200,
            strict_test_count: false,
            rounds: 3,
            schedule: Schedule::default(),
            tasks: TaskType::ALL.to_vec(),
            node_render: NodeRender::default(),
            answer_style: AnswerStyle::default(),
        }
    }
}

impl GraphQuestionsConfig {
    /// Checks that the settings can yield questions.
    pub fn validate(&self) -> Result<()> {
        if self.rounds == 0 {
            return Err(Error::setting("rounds", "at least 1", 0));
        }
        if self.tasks.is_empty() {
            return Err(Error::setting("tasks", "at least one kind of question", "none"));
        }
        Ok(())
    }

    /// How many of `total` workflows are kept for testing.
    pub fn test_count(&self, total: usize) -> usize {
        if self.strict_test_count { self.test_workflows.min(total) } else { self.test_workflows.min(total / 5) }
    }
}

/// A data set to take workflows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name in the records, such as `Coding-AF`.
    pub name: String,
    /// The folder of its `train.jsonl` or `train_*.jsonl`.
    pub folder: PathBuf,
}

/// A workflow to ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceWorkflow {
    /// The data set's name.
    pub sub_dataset: String,
    /// The workflow's number there.
    pub workflow_id: i64,
    /// The workflow.
    pub workflow: Workflow,
}

/// All workflows of some data sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    /// By data set in the order given, then by number.
    pub workflows: Vec<SourceWorkflow>,
    /// The files that were read, each with the data set's name.
    pub files: Vec<(String, SourceFile)>,
    /// Numbers that stood for more than one workflow; the first one in the file was taken.
    pub conflicting_ids: u64,
}

/// Collects the distinct workflows, by number, of the training splits.
///
/// # Errors
/// Fails on a missing split, a malformed record, a name given twice, and when there is no workflow at all.
pub fn collect(sources: &[Source], options: &ReadOptions) -> Result<Collection> {
    let mut collection = Collection { workflows: Vec::new(), files: Vec::new(), conflicting_ids: 0 };
    for (index, source) in sources.iter().enumerate() {
        if sources[..index].iter().any(|other| other.name == source.name) {
            return Err(Error::setting("sources", "each data set once", format!("`{}` twice", source.name)));
        }
        let files = Split::Train.files(&source.folder)?;
        if files.is_empty() {
            return Err(Error::NoSplit { folder: source.folder.clone(), split: Split::Train.name() });
        }
        let mut seen: HashMap<i64, (Workflow, bool)> = HashMap::new();
        for file in files {
            let read = read_records(&file, options, |record| {
                let Some(id) = record.workflow_id else {
                    let expected = "the workflow's number, by which workflows are told apart";
                    return Err(wrong(&file, record.line, "workflow_id", expected, "none", ""));
                };
                if let Some((known, conflicting)) = seen.get_mut(&id) {
                    let same = known.edges == record.edges
                        && known.nodes.len() == record.nodes.len()
                        && known.nodes.iter().zip(&record.nodes).all(|(a, b)| a.0 == b.0 && a.1 == b.1);
                    if !same && !*conflicting {
                        *conflicting = true;
                        let line = record.line;
                        tracing::warn!(path = %file.display(), line, workflow_id = id, "one workflow number, two workflows: the first is taken");
                    }
                    return Ok(());
                }
                let nodes = record.nodes.into_iter().map(|(id, text)| (id, text.into_owned())).collect();
                seen.insert(id, (Workflow { nodes, edges: record.edges }, false));
                Ok(())
            })?;
            collection.files.push((source.name.clone(), read));
        }
        let mut found: Vec<_> = seen.into_iter().collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        for (workflow_id, (workflow, conflicting)) in found {
            collection.conflicting_ids += u64::from(conflicting);
            let sub_dataset = source.name.clone();
            collection.workflows.push(SourceWorkflow { sub_dataset, workflow_id, workflow });
        }
    }
    if collection.workflows.is_empty() {
        let path = sources.first().map(|source| source.folder.clone()).unwrap_or_default();
        return Err(Error::Empty { path, detail: "no workflow in any training split".into() });
    }
    Ok(collection)
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// One question with its answer, as a line of the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuestionRecord {
    /// The question and the supervised answer.
    pub messages: [Turn; 2],
    /// What the question is about.
    pub task_type: TaskType,
    /// The running number in the file, from 1.
    pub id: String,
    /// The data set's name.
    pub sub_dataset: String,
    /// The kind of question, such as `indeg`.
    pub variant: String,
    /// The round, from 0.
    pub round: u32,
    /// The workflow's number in its data set.
    pub workflow_id: i64,
    /// [`Workflow::content_hash`].
    pub graph_hash: String,
    /// The answer as a value: a number, a list of ids, true or false, the node's text, or null where there is no order.
    pub answer: Value,
    /// The distinct edges, for questions about an order: other orders than the expected one may be right too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<Vec<[u32; 2]>>,
}

/// Makes the questions.
#[derive(Debug, Clone)]
pub struct GraphQuestions {
    config: GraphQuestionsConfig,
    templates: Templates,
    seed: u64,
}

impl GraphQuestions {
    /// Checks settings and words.
    pub fn new(config: GraphQuestionsConfig, templates: Templates, seed: u64) -> Result<Self> {
        config.validate()?;
        templates.validate()?;
        Ok(Self { config, templates, seed })
    }

    /// Shuffles the workflows and cuts off those for testing: (for training, for testing).
    pub fn split<'a>(&self, collection: &'a Collection) -> (Vec<&'a SourceWorkflow>, Vec<&'a SourceWorkflow>) {
        let mut workflows: Vec<&SourceWorkflow> = collection.workflows.iter().collect();
        workflows.shuffle(&mut stream(self.seed, "graph questions: order", &[]));
        let count = self.config.test_count(workflows.len());
        if count < self.config.test_workflows {
            let (wanted, total) = (self.config.test_workflows, workflows.len());
            tracing::warn!(wanted, taken = count, total, "fewer workflows kept for testing than asked for");
        }
        let test = workflows.split_off(workflows.len() - count);
        (workflows, test)
    }

    /// All questions about one workflow, in order; `id` is left empty.
    pub fn records(&self, source: &SourceWorkflow) -> Vec<QuestionRecord> {
        let SourceWorkflow { sub_dataset, workflow_id, workflow } = source;
        let graph = SimpleDigraph::new(workflow);
        let graph_hash = workflow.content_hash();
        // What all questions begin with.
        let preamble = self.templates.prompt(&workflow.nodes, &workflow.edges, self.config.node_render, "").text;
        let mut records = Vec::new();
        for round in 0..self.config.rounds {
            let parts: [&[u8]; 3] = [sub_dataset.as_bytes(), &workflow_id.to_le_bytes(), &round.to_le_bytes()];
            let mut rng = stream(self.seed, "graph questions: round", &parts);
            for question in round_questions(workflow, &graph, self.config.schedule, round, &mut rng) {
                if !self.config.tasks.contains(&question.task_type()) {
                    continue;
                }
                let Some(answer) = question.answer(workflow, &graph) else { continue };
                let closing = match self.config.answer_style {
                    AnswerStyle::Bare => &self.templates.closing,
                    AnswerStyle::Tagged => &self.templates.closing_tagged,
                };
                let prompt = [preamble.as_str(), &question.text(&self.templates.questions), closing].concat();
                let content = match self.config.answer_style {
                    AnswerStyle::Bare => answer.text,
                    AnswerStyle::Tagged => format!("<answer>{}</answer>", answer.text),
                };
                records.push(QuestionRecord {
                    messages: [
                        Turn { role: "user".into(), content: prompt },
                        Turn { role: "assistant".into(), content },
                    ],
                    task_type: question.task_type(),
                    id: String::new(),
                    sub_dataset: sub_dataset.clone(),
                    variant: question.variant().into(),
                    round,
                    workflow_id: *workflow_id,
                    graph_hash: graph_hash.clone(),
                    answer: answer.value,
                    edges: (question == Question::TopologicalOrder).then(|| graph.edges()),
                });
            }
        }
        records
    }
}
