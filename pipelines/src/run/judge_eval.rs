//! The stage that evaluates a decoder as a judge.

use super::answers::AnswerLog;
use super::context::{StageContext, StageEnd};
use super::error::Error;
use super::judge_data::{JudgeData, evaluate};
use super::sft::adapter_folder;
use super::value_head::StoredValueHead;
use crate::judge::{EncodedPrompt, JudgeEncoder, last_states, score, word_probabilities};
use crate::progress::bar;
use crate::recipe::JudgeEval;
use crate::train::stop_requested;
use burn_models::decoder::Decoder;
use burn_models::text::Tokenizer;
use datasets::judge::JudgePrompts;
use datasets::templates::SectionOrder;
use rayon::prelude::*;
use std::path::Path;

/// Prompts that are judged before their scores are kept: enough to have something in common, few enough to lose.
const GROUP: usize = 512;
/// Scores so far, for a run that goes on.
const SO_FAR: &str = "so-far.jsonl";

/// What is kept of a record: its score, p(Yes) + p(No) where words were judged, and whether nodes were cut.
type Verdict = (f64, Option<f64>, bool);

pub(super) fn run(context: &StageContext, stage: &JudgeEval) -> Result<StageEnd, Error> {
    let words = stage.templates.as_deref();
    let data = JudgeData::read(context, &stage.data, &[stage.split], stage.labels, stage.on_bad_edge, words)?;
    let records = data.records(stage.split)?;
    let base = context.model_folder("model", &stage.model)?;
    let tokenizer = Tokenizer::from_folder(&base)?;
    let decoder = Decoder::from_folder(&base, stage.dtype.into(), &context.device)?;
    tokenizer.fits(decoder.config().vocab_size)?;
    let positions = decoder.config().max_position_embeddings;
    let encoder = JudgeEncoder::new(tokenizer, &data.templates.judge, &stage.prompt, positions)?;
    let judge = match (&stage.value_head, &stage.adapter) {
        (Some(source), _) => {
            let folder = context.path("value_head", source)?;
            let stored = StoredValueHead::load(&folder, decoder, &context.device)?;
            stored.check_prompt(&folder, &stage.prompt, &data.templates.judge)?;
            Judge::Head(Box::new(stored))
        }
        (None, Some(source)) => {
            let adapter = adapter_folder(&context.path("adapter", source)?);
            Judge::Words(Box::new(decoder.load_adapter(&adapter)?), encoder.words())
        }
        (None, None) => Judge::Words(Box::new(decoder), encoder.words()),
    };

    let prompts = JudgePrompts::new(&data.index, &data.templates.judge, stage.prompt.form());
    let path = context.folder.join(SO_FAR);
    let mut kept = AnswerLog::<Verdict>::open(&path)?;
    // Prompts that begin alike go through the decoder together.
    let mut all: Vec<usize> = (0..records.len()).collect();
    match stage.prompt.order {
        SectionOrder::TaskFirst => all.sort_by_key(|record| records.task[*record]),
        SectionOrder::WorkflowFirst => all.sort_by_key(|record| records.workflow[*record]),
    }
    let progress = bar(&context.label(), all.len());
    let mut verdicts: Vec<Verdict> = vec![(0.0, None, false); all.len()];
    for group in all.chunks(GROUP) {
        let known: Vec<Option<Verdict>> = group.iter().map(|record| kept.get(&record.to_string()).copied()).collect();
        // A group is kept as a whole, so that a run that goes on makes the same batches.
        let found: Vec<Verdict> = match known.into_iter().collect() {
            Some(known) => known,
            None => {
                if stop_requested() {
                    return Ok(StageEnd::Interrupted);
                }
                let encode = |record: &usize| encoder.encode(&prompts.prompt(records, *record), stage.truncation);
                let encoded: Vec<EncodedPrompt> = group.par_iter().map(encode).collect::<Result<_, _>>()?;
                let found = judge.verdicts(&encoded, stage.batch_tokens, &base)?;
                for (record, verdict) in group.iter().zip(&found) {
                    kept.keep(record.to_string(), *verdict)?;
                }
                kept.sync()?;
                found
            }
        };
        for (record, verdict) in group.iter().zip(found) {
            verdicts[*record] = verdict;
        }
        progress.inc(group.len() as u64);
    }
    progress.finish_and_clear();

    let scores: Vec<f64> = verdicts.iter().map(|(score, _, _)| *score).collect();
    let (file, mut metrics) = evaluate(context, "judge", records, &scores, stage.threshold, &stage.utility)?;
    metrics.insert("prompts_cut".into(), Some(verdicts.iter().filter(|(_, _, cut)| *cut).count() as f64));
    if let Some(shares) = verdicts.iter().map(|(_, share, _)| *share).collect::<Option<Vec<f64>>>() {
        metrics.insert("yes_no_share".into(), Some(shares.iter().sum::<f64>() / shares.len().max(1) as f64));
    }
    drop(kept);
    std::fs::remove_file(&path).map_err(Error::io(&path))?;
    Ok(StageEnd::done(metrics, &[file.as_str()]))
}

/// What gives the score.
enum Judge {
    /// The probabilities of the first tokens of Yes and of No.
    Words(Box<Decoder>, [u32; 2]),
    Head(Box<StoredValueHead>),
}

impl Judge {
    fn verdicts(&self, prompts: &[EncodedPrompt], batch_tokens: usize, model: &Path) -> Result<Vec<Verdict>, Error> {
        let ids: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
        let decoder = match self {
            Self::Words(decoder, _) => decoder,
            Self::Head(stored) => stored.decoder(),
        };
        let states = last_states(decoder, &ids, batch_tokens)?;
        Error::unless_finite(model, &states)?;
        let scores: Vec<(f64, Option<f64>)> = match self {
            Self::Words(decoder, words) => {
                let pairs = word_probabilities(decoder, states, *words).into_iter();
                pairs.map(|pair| (score(pair), Some(pair[0] + pair[1]))).collect()
            }
            Self::Head(stored) => stored.scores(states).into_iter().map(|score| (score, None)).collect(),
        };
        if let Some((score, _)) = scores.iter().find(|(score, _)| !score.is_finite()) {
            Error::unless_finite(model, &[*score as f32])?;
        }
        Ok(scores.into_iter().zip(prompts).map(|((score, share), prompt)| (score, share, prompt.cut)).collect())
    }
}
