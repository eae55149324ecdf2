//! The stage that makes chats of FLORA records.

use super::context::{StageContext, StageEnd};
use super::error::Error;
use super::graph_questions::{TEST, TRAIN};
use super::judge_data::JudgeData;
use crate::judge::{EncodedPrompt, JudgeEncoder};
use crate::progress::bar;
use crate::recipe::{JudgeChats, Truncation};
use crate::train::stop_requested;
use burn_models::decoder::DecoderConfig;
use burn_models::text::{Message, Tokenizer};
use datasets::Split;
use datasets::atomic::AtomicFile;
use datasets::judge::{JudgePrompts, answer, balanced};
use datasets::rng::stream;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

/// The chats to choose the best model by.
pub(super) const VAL: &str = "val.jsonl";

/// Chats that are made before they are written: enough for all threads, few enough for the memory.
const CHUNK: usize = 1024;

/// A line of the output.
#[derive(Serialize)]
struct JudgeChat {
    messages: Vec<Message>,
    id: String,
    label: f32,
    workflow_id: i64,
    task_id: i64,
    line: u32,
}

pub(super) fn run(context: &StageContext, stage: &JudgeChats) -> Result<StageEnd, Error> {
    let words = stage.templates.as_deref();
    let data = JudgeData::read(context, &stage.data, &Split::ALL, stage.labels, stage.on_bad_edge, words)?;
    let base = context.model_folder("model", &stage.model)?;
    let positions = DecoderConfig::from_folder(&base)?.max_position_embeddings;
    let encoder = JudgeEncoder::new(Tokenizer::from_folder(&base)?, &data.templates.judge, &stage.prompt, positions)?;
    let prompts = JudgePrompts::new(&data.index, &data.templates.judge, stage.prompt.form());

    let mut metrics = BTreeMap::new();
    for (split, file) in [(Split::Train, TRAIN), (Split::Val, VAL), (Split::Test, TEST)] {
        let records = data.records(split)?;
        let chosen: Vec<u32> = match stage.target_ratio {
            Some(ratio) if split == Split::Train => {
                balanced(&records.label, ratio, &mut stream(context.recipe.seed, "judge chats: balance", &[]))
            }
            _ => (0..records.len() as u32).collect(),
        };
        let path = context.folder.join(file);
        let failed = |e: std::io::Error| Error::io(&path)(e);
        let mut out = AtomicFile::create(&path)?;
        let (mut cut, mut too_long, mut yes) = (0, 0, 0);
        let progress = bar(&context.label(), chosen.len());
        for (chunk, numbers) in chosen.chunks(CHUNK).enumerate() {
            if stop_requested() {
                return Ok(StageEnd::Interrupted);
            }
            let chats: Vec<(EncodedPrompt, Vec<u8>)> = numbers
                .par_iter()
                .enumerate()
                .map(|(place, number)| {
                    let record = *number as usize;
                    let found = encoder.encode(&prompts.prompt(records, record), Truncation::KeepSuffix)?;
                    let mut messages = encoder.messages(&found.text);
                    messages.push(Message::assistant(answer(records.label[record])));
                    let chat = JudgeChat {
                        messages,
                        id: (chunk * CHUNK + place + 1).to_string(),
                        label: records.label[record],
                        workflow_id: records.workflow_id[record],
                        task_id: records.task_id[record],
                        line: records.line[record],
                    };
                    let mut line = serde_json::to_vec(&chat).map_err(|e| failed(e.into()))?;
                    line.push(b'\n');
                    Ok((found, line))
                })
                .collect::<Result<_, Error>>()?;
            for (found, line) in chats {
                cut += usize::from(found.cut);
                too_long += usize::from(found.too_long);
                out.write_all(&line).map_err(failed)?;
            }
            yes += numbers.iter().filter(|record| records.label[**record as usize] >= 0.5).count();
            progress.inc(numbers.len() as u64);
        }
        progress.finish_and_clear();
        out.commit()?;
        context.say(&format!(
            "{split}: {} chats, {yes} of them Yes; nodes cut in {cut}, {too_long} too long all the same",
            chosen.len()
        ));
        let number = |n: usize| Some(n as f64);
        for (name, value) in [("records", chosen.len()), ("yes", yes), ("cut", cut), ("too_long", too_long)] {
            metrics.insert(format!("{split}_{name}"), number(value));
        }
    }
    Ok(StageEnd::done(metrics, &[TRAIN, VAL, TEST]))
}
