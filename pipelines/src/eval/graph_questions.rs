//! Scoring of generated answers to questions about graphs.
//!
//! The answer is what stands in the last pair of answer tags, or the whole text without tags, trimmed. How it is compared
//! follows from the question's `task_type`:
//!
//! | task type | right if |
//! |---|---|
//! | `DBP` degree | same integer; an average degree within 0.005 |
//! | `DNE` neighbours, `KNI` key nodes | same list of integers |
//! | `NFP` node text | same text; also the similarity by characters |
//! | `REACH` | same `Yes` or `No`, or same integer |
//! | `TSORT` topological order | same list or sentence; also whether it is *any* valid order |

use std::collections::{BTreeMap, HashMap};

use datasets::Workflow;
use datasets::graph_questions::TaskType;
use serde::{Deserialize, Serialize};

use super::{Error, Result};

const OPEN: &str = "<answer>";
const CLOSE: &str = "</answer>";

/// Answers with two decimals may be off by half a unit of the last one, plus rounding of the numbers themselves.
const DECIMAL_TOLERANCE: f64 = 0.005 + 1e-9;

/// A question with its right and its generated answer.
#[derive(Debug, Clone, Copy)]
pub struct AnsweredQuestion<'a> {
    /// What the question is about.
    pub task_type: TaskType,
    /// The workflow that is asked about.
    pub workflow: &'a Workflow,
    /// The right answer, without tags.
    pub answer: &'a str,
    /// The generated text.
    pub output: &'a str,
}

/// How a generated answer compares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerScore {
    /// Whether it is right.
    pub exact: bool,
    /// For `TSORT`: whether it is a topological order, or rightly says that there is none.
    pub valid_order: Option<bool>,
    /// For `NFP`: 1 − edit distance / length of the longer text, in characters.
    pub similarity: Option<f64>,
}

/// Means over the answers of one task type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// Number of answers.
    pub n: usize,
    /// Share of right answers.
    pub exact: f64,
    /// Share of valid orders, for `TSORT`.
    pub valid_order: Option<f64>,
    /// Mean similarity, for `NFP`.
    pub similarity: Option<f64>,
}

/// Scores by task type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerReport {
    /// Task type → scores, of the types that were asked.
    pub tasks: BTreeMap<TaskType, TaskScore>,
    /// Mean of `exact` over the task types, each with the same weight.
    pub macro_exact: f64,
}

/// The text in the last pair of answer tags, or the whole text; trimmed.
#[must_use]
pub fn extract_answer(output: &str) -> &str {
    let tagged = output.rfind(CLOSE).and_then(|end| {
        let start = output[..end].rfind(OPEN)? + OPEN.len();
        Some(&output[start..end])
    });
    tagged.unwrap_or(output).trim()
}

/// Compares a generated answer with the right one.
#[must_use]
pub fn score_answer(question: &AnsweredQuestion<'_>) -> AnswerScore {
    let right = question.answer.trim();
    let given = extract_answer(question.output);
    let plain = |exact| AnswerScore { exact, valid_order: None, similarity: None };
    match question.task_type {
        TaskType::Dbp if right.contains('.') => plain(match (right.parse::<f64>(), given.parse::<f64>()) {
            (Ok(right), Ok(given)) => (right - given).abs() <= DECIMAL_TOLERANCE,
            _ => false,
        }),
        TaskType::Dbp | TaskType::Reach => plain(given == right || same_integer(given, right)),
        TaskType::Dne | TaskType::Kni => plain(integers(right).is_some_and(|right| integers(given) == Some(right))),
        TaskType::Nfp => {
            let similarity =
                readings(question.output).map(|given| strsim::normalized_levenshtein(given, right)).fold(0.0, f64::max);
            let exact = readings(question.output).any(|given| given == right);
            AnswerScore { exact, valid_order: None, similarity: Some(similarity) }
        }
        TaskType::Tsort => {
            let exact = match integers(right) {
                Some(right) => integers(given) == Some(right),
                None => given == right,
            };
            // Where there is no order, only the sentence that says so is right.
            let valid = exact || integers(given).is_some_and(|order| is_topological(&order, question.workflow));
            AnswerScore { exact, valid_order: Some(valid), similarity: None }
        }
    }
}

impl AnswerReport {
    /// Scores all answers.
    ///
    /// # Errors
    /// [`Error::NoRecords`] without questions.
    pub fn compute<'a>(questions: impl IntoIterator<Item = AnsweredQuestion<'a>>) -> Result<Self> {
        let mut scores: BTreeMap<TaskType, Vec<AnswerScore>> = BTreeMap::new();
        for question in questions {
            scores.entry(question.task_type).or_default().push(score_answer(&question));
        }
        if scores.is_empty() {
            return Err(Error::NoRecords);
        }
        let tasks: BTreeMap<TaskType, TaskScore> =
            scores.into_iter().map(|(task, scores)| (task, mean(&scores))).collect();
        let macro_exact = tasks.values().map(|task| task.exact).sum::<f64>() / tasks.len() as f64;
        Ok(Self { tasks, macro_exact })
    }

    /// The numbers by name: `exact_<task>` and `n_<task>` (in lower case), `exact_macro`, `valid_order_tsort`,
    /// `similarity_nfp`.
    #[must_use]
    pub fn flat(&self) -> BTreeMap<String, Option<f64>> {
        let mut flat = BTreeMap::from([("exact_macro".to_owned(), Some(self.macro_exact))]);
        for (task, score) in &self.tasks {
            let task = task.code().to_lowercase();
            flat.insert(format!("n_{task}"), Some(score.n as f64));
            flat.insert(format!("exact_{task}"), Some(score.exact));
            let more = [("valid_order", score.valid_order), ("similarity", score.similarity)];
            flat.extend(
                more.into_iter().filter(|(_, value)| value.is_some()).map(|(name, v)| (format!("{name}_{task}"), v)),
            );
        }
        flat
    }
}

fn mean(scores: &[AnswerScore]) -> TaskScore {
    let n = scores.len() as f64;
    let share = |flags: &mut dyn Iterator<Item = bool>| flags.filter(|flag| *flag).count() as f64 / n;
    let first = scores.first();
    TaskScore {
        n: scores.len(),
        exact: share(&mut scores.iter().map(|score| score.exact)),
        valid_order: first
            .and_then(|score| score.valid_order)
            .map(|_| share(&mut scores.iter().map(|score| score.valid_order == Some(true)))),
        similarity: first
            .and_then(|score| score.similarity)
            .map(|_| scores.iter().filter_map(|score| score.similarity).sum::<f64>() / n),
    }
}

/// The ways to read a text answer. The node texts that are asked for hold answer tags themselves now and then, so the last
/// pair of tags may be a part of the answer: the outermost pair and the whole text count as well.
fn readings(output: &str) -> impl Iterator<Item = &str> {
    let outermost =
        output.find(OPEN).zip(output.rfind(CLOSE)).and_then(|(start, end)| output.get(start + OPEN.len()..end));
    [Some(extract_answer(output)), outermost.map(str::trim), Some(output.trim())].into_iter().flatten()
}

fn same_integer(a: &str, b: &str) -> bool {
    matches!((a.parse::<i64>(), b.parse::<i64>()), (Ok(a), Ok(b)) if a == b)
}

/// The integers of a list literal such as `[0, 2, 10]`.
fn integers(text: &str) -> Option<Vec<i64>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    if inner.is_empty() {
        return Some(Vec::new());
    }
    inner.split(',').map(|item| item.trim().parse().ok()).collect()
}

/// Whether `order` holds every node once and the source of every edge before its target.
fn is_topological(order: &[i64], workflow: &Workflow) -> bool {
    let places: HashMap<i64, usize> = order.iter().enumerate().map(|(place, &node)| (node, place)).collect();
    let place = |node: u32| places.get(&i64::from(node)).copied();
    order.len() == workflow.nodes.len()
        && workflow.nodes.iter().all(|(node, _)| place(*node).is_some())
        && workflow.edges.iter().all(|&[source, target]| match (place(source), place(target)) {
            (Some(source), Some(target)) => source < target,
            // An edge that leads out of the graph orders nothing.
            _ => true,
        })
}
