//! The stage that evaluates a model behind a server as a judge.

use super::answers::AnswerLog;
use super::context::{StageContext, StageEnd};
use super::error::Error;
use super::judge_data::{JudgeData, evaluate};
use crate::client::{self, ChatClient, Completion, request};
use crate::eval::yes_no::{Answer, read_answer};
use crate::progress::bar;
use crate::recipe::JudgePrompted;
use burn_models::text::Message;
use datasets::atomic::AtomicFile;
use datasets::judge::JudgePrompts;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What every record was answered.
const ANSWERS: &str = "answers.jsonl";

pub(super) fn run(context: &StageContext, stage: &JudgePrompted) -> Result<StageEnd, Error> {
    let words = stage.templates.as_deref();
    let data = JudgeData::read(context, &stage.data, &[stage.split], stage.labels, stage.on_bad_edge, words)?;
    let records = data.records(stage.split)?;
    let client = ChatClient::new(&stage.url, &stage.client)?;
    let templates = &data.templates.judge;
    let prompts = JudgePrompts::new(&data.index, templates, stage.form());
    let ask = |record: usize| -> (Value, bool) {
        let measure = |text: &str| Ok::<_, std::convert::Infallible>((text.to_owned(), text.chars().count()));
        let Ok(fitted) = prompts.prompt(records, record).fit(stage.max_chars, measure);
        let system = (!templates.system.is_empty()).then(|| Message::system(templates.system.clone()));
        let messages: Vec<Message> = system.into_iter().chain([Message::user(fitted.value)]).collect();
        (request(&stage.model, &messages, stage.temperature, stage.max_tokens), fitted.cut)
    };

    let mut log = AnswerLog::<Completion>::open(&log_file(context, stage))?;
    let (mut keys, mut cut) = (Vec::with_capacity(records.len()), 0);
    let (mut open, mut seen) = (Vec::new(), HashSet::new());
    for record in 0..records.len() {
        let (request, was_cut) = ask(record);
        cut += usize::from(was_cut);
        let key = key(&request);
        if log.get(&key).is_none() && seen.insert(key.clone()) {
            open.push(record);
        }
        keys.push(key);
    }
    drop(seen);
    context.say(&format!("{} records, {} questions to ask, the others are answered", records.len(), open.len()));

    let progress = bar(&context.label(), open.len());
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let shared = Mutex::new((&mut log, None::<Error>));
    std::thread::scope(|scope| {
        for _ in 0..stage.client.concurrency.min(open.len()) {
            scope.spawn(|| {
                while !stopped.load(Ordering::Relaxed)
                    && let Some(record) = open.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let answer = client.complete(&ask(*record).0);
                    let mut shared = shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    let kept = match answer {
                        Ok(answer) => shared.0.keep(keys[*record].clone(), answer),
                        Err(error) => Err(error.into()),
                    };
                    match kept {
                        Ok(()) => progress.inc(1),
                        Err(error) => {
                            // The first one says what is wrong; those after it may only follow from it.
                            shared.1.get_or_insert(error);
                            stopped.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (_, failed) = shared.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    progress.finish_and_clear();
    log.sync()?;
    match failed {
        Some(Error::Client(client::Error::Interrupted)) => return Ok(StageEnd::Interrupted),
        Some(error) => return Err(error),
        None => {}
    }

    let path = context.folder.join(ANSWERS);
    let mut file = AtomicFile::create(&path)?;
    let mut scores = Vec::with_capacity(records.len());
    let (mut unclear, mut unfinished, mut tokens) = (0, 0, [0, 0]);
    for (record, key) in keys.iter().enumerate() {
        let Some(completion) = log.get(key) else {
            return Err(context.error(format!("record {} has no answer: run again", record + 1)));
        };
        let answer = read_answer(&completion.content, stage.answer);
        unclear += usize::from(answer == Answer::Unclear);
        unfinished += usize::from(completion.finish_reason.as_deref() == Some("length"));
        for (sum, count) in tokens.iter_mut().zip([completion.prompt_tokens, completion.completion_tokens]) {
            *sum += count.unwrap_or_default();
        }
        scores.push(f64::from(u8::from(answer == Answer::Yes)));
        let row = json!({
            "workflow_id": records.workflow_id[record],
            "task_id": records.task_id[record],
            "label": records.label[record],
            "answer": format!("{answer:?}"),
            "text": completion.content,
        });
        writeln!(file, "{row}").map_err(Error::io(&path))?;
    }
    file.commit()?;
    let (scores_file, mut metrics) = evaluate(context, "prompted", records, &scores, stage.threshold, &stage.utility)?;
    for (name, value) in [
        ("asked", open.len() as f64),
        ("prompts_cut", cut as f64),
        ("answers_unclear", unclear as f64),
        ("answers_unfinished", unfinished as f64),
        ("prompt_tokens", tokens[0] as f64),
        ("completion_tokens", tokens[1] as f64),
    ] {
        metrics.insert(name.into(), Some(value));
    }
    Ok(StageEnd::done(metrics, &[scores_file.as_str(), ANSWERS]))
}

/// The BLAKE3 hash of a question, in hexadecimal.
fn key(request: &Value) -> String {
    blake3::hash(request.to_string().as_bytes()).to_hex().to_string()
}

/// The answers of a model, shared by all runs with this cache.
fn log_file(context: &StageContext, stage: &JudgePrompted) -> PathBuf {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = stage.model.chars().take(80).map(safe).collect();
    // Two names may look alike without what is not safe in them.
    let hash = blake3::hash(stage.model.as_bytes()).to_hex();
    context.recipe.cache_dir().join("responses").join(format!("{name}-{}.jsonl", &hash[..8]))
}
