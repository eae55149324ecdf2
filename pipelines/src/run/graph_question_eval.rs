//! The stage that asks a decoder questions about graphs.

use super::answers::AnswerLog;
use super::context::{StageContext, StageEnd};
use super::error::Error;
use super::graph_questions::TEST;
use super::sft::adapter_folder;
use crate::eval::graph_questions::{AnswerReport, AnsweredQuestion, extract_answer, score_answer};
use crate::progress::bar;
use crate::recipe::GraphQuestionEval;
use crate::train::stop_requested;
use burn_models::decoder::Decoder;
use burn_models::generate::{FinishReason, GenerateConfig, Generation, SamplingConfig, generate};
use burn_models::text::{ChatOptions, Learn, Message, SuperviseOptions, Tokenizer};
use datasets::Workflow;
use datasets::atomic::AtomicFile;
use datasets::graph_questions::{QuestionRecord, TaskType};
use datasets::table::read_rows;
use datasets::{Error as DataError, RecordError};
use rand::seq::index::sample;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What every question was answered.
const ANSWERS: &str = "answers.jsonl";
/// Answers so far, for a run that goes on.
const SO_FAR: &str = "so-far.jsonl";

/// What is kept of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Given {
    text: String,
    tokens: usize,
    finish_reason: FinishReason,
}

/// The file with the questions.
pub(crate) fn questions_file(context: &StageContext, stage: &GraphQuestionEval) -> Result<PathBuf, Error> {
    let path = context.path("data", &stage.data)?;
    Ok(if path.is_dir() { path.join(TEST) } else { path })
}

pub(super) fn run(context: &StageContext, stage: &GraphQuestionEval) -> Result<StageEnd, Error> {
    let mut questions = read(&questions_file(context, stage)?)?;
    if let Some(limit) = stage.limit.filter(|limit| *limit < questions.len()) {
        let mut random = datasets::rng::stream(context.recipe.seed, "graph question eval", &[]);
        let drawn: BTreeSet<usize> = sample(&mut random, questions.len(), limit).into_iter().collect();
        let mut place = 0..;
        questions.retain(|_| place.next().is_some_and(|place| drawn.contains(&place)));
    }

    let base = context.model_folder("model", &stage.model)?;
    let tokenizer = Tokenizer::from_folder(&base)?;
    let decoder = Decoder::from_folder(&base, stage.dtype.into(), &context.device)?;
    tokenizer.fits(decoder.config().vocab_size)?;
    let decoder = match &stage.adapter {
        Some(source) => decoder.load_adapter(&adapter_folder(&context.path("adapter", source)?))?,
        None => decoder,
    };
    let options = SuperviseOptions {
        chat: ChatOptions { framing: stage.framing.into(), ..ChatOptions::default() },
        learn: Learn::LastReply,
        assistant_prefix: stage.assistant_prefix.clone(),
        ..SuperviseOptions::default()
    };
    // The ids of the chat with its answer, up to the first that is learned: asked exactly as trained.
    let encode = |question: &Question| -> Result<Vec<u32>, Error> {
        let messages = [Message::user(question.prompt.clone()), Message::assistant(question.answer.clone())];
        let mut chat = tokenizer.supervised_chat(&messages, None, &options)?;
        chat.ids.truncate(chat.prompt_len());
        Ok(chat.ids)
    };
    let prompts: Vec<Vec<u32>> = questions.par_iter().map(encode).collect::<Result<_, _>>()?;
    // A position is for the first new token.
    let limit = stage.max_length.min(decoder.config().max_position_embeddings - 1);
    let mut asked: Vec<usize> = (0..questions.len()).filter(|i| prompts[*i].len() <= limit).collect();
    let too_long = questions.len() - asked.len();
    context.say(&format!("{} questions, {too_long} of them too long to be asked", questions.len()));
    // Prompts of similar length together: less padding.
    asked.sort_by_key(|i| prompts[*i].len());

    let so_far = context.folder.join(SO_FAR);
    let mut kept = AnswerLog::<Given>::open(&so_far)?;
    let config = GenerateConfig {
        sampling: SamplingConfig::greedy(),
        max_new_tokens: stage.max_new_tokens,
        batch_size: stage.batch_size,
        ..GenerateConfig::default()
    };
    let progress = bar(&context.label(), asked.len());
    let mut given: Vec<Option<Given>> = vec![None; questions.len()];
    for batch in asked.chunks(stage.batch_size) {
        let known: Option<Vec<Given>> = batch.iter().map(|i| kept.get(&i.to_string()).cloned()).collect();
        // A batch is kept as a whole, so that a run that goes on makes the same ones.
        let found = match known {
            Some(known) => known,
            None => {
                if stop_requested() {
                    return Ok(StageEnd::Interrupted);
                }
                let rows: Vec<Vec<u32>> = batch.iter().map(|i| prompts[*i].clone()).collect();
                let text = |answer: Generation| -> Result<Given, Error> {
                    let text = tokenizer.decode(&answer.ids, true)?;
                    Ok(Given { text, tokens: answer.ids.len(), finish_reason: answer.finish_reason })
                };
                let found: Vec<Given> =
                    generate(&decoder, &rows, &config)?.into_iter().map(text).collect::<Result<_, _>>()?;
                for (i, answer) in batch.iter().zip(&found) {
                    kept.keep(i.to_string(), answer.clone())?;
                }
                kept.sync()?;
                found
            }
        };
        for (i, answer) in batch.iter().zip(found) {
            given[*i] = Some(answer);
        }
        progress.inc(batch.len() as u64);
    }
    progress.finish_and_clear();

    write_answers(&context.folder.join(ANSWERS), &questions, &given)?;
    let answered = questions.iter().zip(&given).map(|(question, given)| question.answered(given.as_ref()));
    let report = AnswerReport::compute(answered)?;
    context.say(&format!("right answers: {:.4} (mean over task types)", report.macro_exact));
    let mut metrics = report.flat();
    let unfinished = given.iter().flatten().filter(|given| given.finish_reason == FinishReason::Length).count();
    let tokens: usize = given.iter().flatten().map(|given| given.tokens).sum();
    for (name, count) in [
        ("n_records", questions.len()),
        ("prompts_too_long", too_long),
        ("answers_unfinished", unfinished),
        ("completion_tokens", tokens),
    ] {
        metrics.insert(name.into(), Some(count as f64));
    }
    drop(kept);
    std::fs::remove_file(&so_far).map_err(Error::io(&so_far))?;
    Ok(StageEnd::done(metrics, &[ANSWERS]))
}

/// A question with what it takes to score an answer to it.
struct Question {
    record: QuestionRecord,
    prompt: String,
    /// The right answer, without tags.
    answer: String,
    /// The graph, where its order is asked for; else nothing.
    workflow: Workflow,
}

impl Question {
    fn new(mut record: QuestionRecord) -> Self {
        let [asked, said] = &mut record.messages;
        let (prompt, said) = (std::mem::take(&mut asked.content), std::mem::take(&mut said.content));
        // The text of a node may hold tags of its own.
        let answer = match (record.task_type, &record.answer) {
            (TaskType::Nfp, Value::String(text)) => text.clone(),
            _ => extract_answer(&said).to_owned(),
        };
        let edges = record.edges.clone().unwrap_or_default();
        // An order holds every node. Where there is none, a cycle among the edges' ends says so.
        let mut nodes: BTreeSet<u32> = edges.iter().flatten().copied().collect();
        let ordered = record.answer.as_array().filter(|_| record.task_type == TaskType::Tsort);
        nodes.extend(ordered.into_iter().flatten().filter_map(|id| u32::try_from(id.as_u64()?).ok()));
        let workflow = Workflow { nodes: nodes.into_iter().map(|id| (id, String::new())).collect(), edges };
        Self { record, prompt, answer, workflow }
    }

    fn answered<'a>(&'a self, given: Option<&'a Given>) -> AnsweredQuestion<'a> {
        AnsweredQuestion {
            task_type: self.record.task_type,
            workflow: &self.workflow,
            answer: &self.answer,
            output: given.map_or("", |given| &given.text),
        }
    }
}

/// Reads the questions of a file, in its order.
fn read(path: &Path) -> Result<Vec<Question>, Error> {
    let mut questions = Vec::new();
    for row in read_rows(path)? {
        let row = row?;
        let record = QuestionRecord::deserialize(Value::Object(row.map)).map_err(|error| {
            DataError::Record(Box::new(RecordError {
                path: path.to_path_buf(),
                line: row.line,
                column: None,
                key: String::new(),
                expected: "a question about a graph".into(),
                found: error.to_string(),
                remedy: "a `GraphQuestions` stage writes such files".into(),
            }))
        })?;
        questions.push(Question::new(record));
    }
    if questions.is_empty() {
        return Err(DataError::Empty { path: path.to_path_buf(), detail: "no question".into() }.into());
    }
    Ok(questions)
}

fn write_answers(path: &Path, questions: &[Question], given: &[Option<Given>]) -> Result<(), Error> {
    let mut file = AtomicFile::create(path)?;
    for (question, given) in questions.iter().zip(given) {
        let score = score_answer(&question.answered(given.as_ref()));
        let QuestionRecord { id, task_type, variant, sub_dataset, workflow_id, .. } = &question.record;
        let row = json!({
            "id": id,
            "task_type": task_type,
            "variant": variant,
            "sub_dataset": sub_dataset,
            "workflow_id": workflow_id,
            "answer": question.answer,
            "text": given.as_ref().map(|given| &given.text),
            "exact": score.exact,
            "valid_order": score.valid_order,
            "similarity": score.similarity,
            "tokens": given.as_ref().map(|given| given.tokens),
            "finish_reason": given.as_ref().map(|given| given.finish_reason),
        });
        writeln!(file, "{row}").map_err(Error::io(path))?;
    }
    Ok(file.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::graph_questions::Turn;

    fn question(task_type: TaskType, said: &str, answer: Value, edges: Option<Vec<[u32; 2]>>) -> Question {
        let turn = |role: &str, content: &str| Turn { role: role.into(), content: content.into() };
        Question::new(QuestionRecord {
            messages: [turn("user", "?"), turn("assistant", said)],
            task_type,
            id: "1".into(),
            sub_dataset: "s".into(),
            variant: "v".into(),
            round: 0,
            workflow_id: 0,
            graph_hash: String::new(),
            answer,
            edges,
        })
    }

    fn exact_and_valid(question: &Question, text: &str) -> (bool, Option<bool>) {
        let given = Given { text: text.into(), tokens: 1, finish_reason: FinishReason::Stop };
        let score = score_answer(&question.answered(Some(&given)));
        (score.exact, score.valid_order)
    }

    #[test]
    fn records_hold_all_it_takes_to_score() {
        // Node 7 has no edge: only the right order names it.
        let edges = vec![[0, 1], [0, 2], [1, 3], [2, 3]];
        let order = question(TaskType::Tsort, "<answer>[0, 1, 2, 3, 7]</answer>", json!([0, 1, 2, 3, 7]), Some(edges));
        assert_eq!(exact_and_valid(&order, "[0, 1, 2, 3, 7]"), (true, Some(true)));
        assert_eq!(exact_and_valid(&order, "I think <answer>[7, 0, 2, 1, 3]</answer>"), (false, Some(true)));
        assert_eq!(exact_and_valid(&order, "[0, 1, 2, 3]"), (false, Some(false)));
        assert_eq!(exact_and_valid(&order, "[1, 0, 2, 3, 7]"), (false, Some(false)));
        let none = "No valid topological order";
        let cycle = question(TaskType::Tsort, none, Value::Null, Some(vec![[0, 1], [1, 0]]));
        assert_eq!(exact_and_valid(&cycle, none), (true, Some(true)));
        assert_eq!(exact_and_valid(&cycle, "[]"), (false, Some(false)));
        assert_eq!(exact_and_valid(&cycle, "[0, 1]"), (false, Some(false)));
        let text = "say <answer>x</answer>";
        let node = question(TaskType::Nfp, &format!("<answer>{text}</answer>"), json!(text), None);
        assert_eq!(exact_and_valid(&node, text), (true, None));
        let degree = question(TaskType::Dbp, "2.00", json!(2.0), None);
        assert_eq!(exact_and_valid(&degree, "2.004"), (true, None));
        // What was not asked is wrong.
        assert!(!score_answer(&degree.answered(None)).exact);
    }
}
