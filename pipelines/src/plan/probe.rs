//! How long a stage takes, from a few steps of its own learner in a temporary place.
//!
//! - `Sft`: a few optimizer steps; the time between the first and the last of them, by the tokens computed in between, times all
//!   tokens to compute. The first step, which also fills caches and compiles kernels, is not counted.
//! - `ValueHeadTrain`: the same by steps.
//! - `Embed`: prompts and texts spread over all of them, by their tokens.
//! - `GlowTrain`: two epochs at most on vectors drawn by chance, evaluations included, and a few steps of warm-up, by steps.
//!
//! Loading a model and evaluations of a decoder are not part of it.

use super::StagePlan;
use super::stages::{embedded, embedder};
use crate::embedding::embed_tokens;
use crate::preview::Prepared;
use crate::recipe::{Checkpoint, Embed, GlowTrain, Sft, Stage, Warmup};
use crate::report::{METRICS_JSONL, Row};
use crate::run::{EmbedInfo, EmbeddedData, Error, Keys, Reader, Scout, Table, prompted_rows};
use burn_models::decoder::Decoder;
use datasets::rng::stream;
use rand::RngExt;
use std::path::Path;
use std::time::Instant;

/// Optimizer steps of a probe; the first is not counted.
const STEPS: usize = 4;
/// Prompts and texts that are embedded.
const PROMPTS: usize = 12;
/// The same.
const TEXTS: usize = 64;

/// Sets the stage's seconds where they can be measured.
pub(super) fn measure(scout: &Scout, index: usize, stage: &Stage, plan: &mut StagePlan) -> Result<(), Error> {
    plan.seconds = match stage {
        Stage::Sft(stage) => sft(scout, index, stage)?,
        Stage::ValueHeadTrain(stage) => {
            let mut few = stage.clone();
            few.max_steps = Some(stage.max_steps.unwrap_or(usize::MAX).min(STEPS));
            (few.eval, few.early_stopping, few.checkpoint) = (None, None, seldom());
            let log = scout.try_out(index, &Stage::ValueHeadTrain(few))?;
            between(&log, STEPS)?.map(|(seconds, steps)| seconds / steps as f64 * plan.steps.unwrap_or(0) as f64)
        }
        Stage::Embed(stage) => embed(scout, index, stage)?,
        Stage::GlowTrain(stage) => glow(scout, index, stage, plan.steps.unwrap_or(0))?,
        _ => None,
    };
    if plan.seconds.is_some() {
        plan.notes.push("time from a short probe on this machine".into());
    }
    Ok(())
}

/// Saves no checkpoint but the last.
fn seldom() -> Checkpoint {
    Checkpoint { every_steps: 1_000_000, keep: 1 }
}

/// Seconds between the first and the last training step in a log, and the steps in between; `None` after one step.
fn between(folder: &Path, most: usize) -> Result<Option<(f64, usize)>, Error> {
    let path = folder.join(METRICS_JSONL);
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let rows: Vec<Row> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let times = |step: u64| rows.iter().filter(move |row| row.step == step).map(|row| row.time);
    let last = rows.iter().map(|row| row.step).max().unwrap_or(0).min(most as u64);
    let (first, end) = (times(1).fold(f64::NAN, f64::max), times(last).fold(f64::NAN, f64::max));
    Ok((last > 1 && end >= first).then_some((end - first, last as usize - 1)))
}

fn sft(scout: &Scout, index: usize, stage: &Sft) -> Result<Option<f64>, Error> {
    let prepared = Prepared::new(scout, index, stage)?;
    let per_epoch = prepared.plan.steps_per_epoch();
    let all = crate::run::sft_steps(stage, per_epoch);
    let mut few = stage.clone();
    few.max_steps = Some(all.min(STEPS));
    few.epochs = stage.epochs.max(STEPS.div_ceil(per_epoch).min(all));
    (few.eval, few.early_stopping, few.checkpoint) = (None, None, seldom());
    let log = scout.try_out(index, &Stage::Sft(few))?;
    let Some((seconds, steps)) = between(&log, STEPS)? else { return Ok(None) };
    let probed: usize = (1..=steps).map(|step| prepared.computed_in(step)).sum::<Result<_, _>>()?;
    let epoch = prepared.computed()?.0 as f64;
    Ok(Some(seconds / probed.max(1) as f64 * epoch * all as f64 / per_epoch as f64))
}

/// So many numbers below `total`, evenly spread.
fn spread(total: usize, count: usize) -> Vec<usize> {
    let count = count.min(total);
    (0..count).map(|n| (2 * n + 1) * total / (2 * count)).collect()
}

fn embed(scout: &Scout, index: usize, stage: &Embed) -> Result<Option<f64>, Error> {
    scout.look(index, |context| {
        embedder(context, stage, |embedder, data| {
            let work = embedder.work(data)?;
            let chosen: Vec<Vec<u32>> =
                spread(work.prompts.len(), PROMPTS).into_iter().map(|prompt| work.prompts[prompt].clone()).collect();
            let share = |part: usize, all: usize| all as f64 / part.max(1) as f64;
            let tokens = |prompts: &[Vec<u32>]| prompts.iter().map(Vec::len).sum::<usize>();
            let clock = match embedder.reader()? {
                Reader::Encoder(encoder) => {
                    let texts = embedder.workflow_texts(data);
                    let texts: Vec<_> = spread(texts.len(), PROMPTS).into_iter().map(|i| texts[i].clone()).collect();
                    let clock = Instant::now();
                    encoder.embed(&texts, stage.batch_tokens)?;
                    clock
                }
                Reader::Decoder(_) => {
                    let model = Decoder::from_folder(&embedder.info.llm, stage.dtype.into(), &context.device)?;
                    // The first one pays for what is done once.
                    embed_tokens(
                        &model,
                        &chosen[..1.min(chosen.len())],
                        stage.llm_pooling,
                        stage.batch_tokens,
                        |_| (),
                    )?;
                    let clock = Instant::now();
                    embed_tokens(&model, &chosen, stage.llm_pooling, stage.batch_tokens, |_| ())?;
                    clock
                }
            };
            let llm = clock.elapsed().as_secs_f64() * share(tokens(&chosen), tokens(&work.prompts));
            let encoder = embedder.sentence_encoder(&embedder.info.text)?;
            let places = spread(data.texts().len(), TEXTS);
            let texts: Vec<&str> = places.iter().map(|text| &*data.texts()[*text]).collect();
            let clock = Instant::now();
            encoder.embed(&texts, stage.batch_tokens)?;
            let part: usize = places.iter().map(|text| work.text_tokens[*text]).sum();
            let text = clock.elapsed().as_secs_f64() * share(part, work.text_tokens.iter().sum());
            Ok(Some(llm + text))
        })
    })
}

fn glow(scout: &Scout, index: usize, stage: &GlowTrain, steps: u64) -> Result<Option<f64>, Error> {
    let (data, llm_dim, text_dim) = embedded(scout, &stage.embeddings)?;
    let mut rng = stream(scout.recipe().seed, "plan: vectors", &[]);
    let mut table = |rows: usize, width: usize| Table {
        values: (0..rows * width).map(|_| rng.random_range(-1.0f32..1.0)).collect(),
        width,
    };
    let llm = table(data.workflows().len(), llm_dim);
    let prompted = stage.model.use_graph && stage.model.gnn.prompt_nodes;
    let texts = data.texts().len();
    let text = table(if prompted { prompted_rows(texts) } else { texts }, text_dim);
    let keys = Keys { llm: "probe".into(), text: "probe".into() };
    let settings = scout.recipe().stages.iter().find_map(|stage| match stage {
        Stage::Embed(embed) => Some(embed.clone()),
        _ => None,
    });
    let Some(settings) = settings else { return Ok(None) };
    let info = EmbedInfo { llm: "probe".into(), text: "probe".into(), settings };
    let place = scout.place("probe-embeddings");
    EmbeddedData { index: data, keys, llm, text }.save(&place, &info)?;
    let mut few = stage.clone();
    few.embeddings = crate::recipe::Source::Path(place);
    few.epochs = stage.epochs.min(2);
    few.warmup = stage.warmup.clone().map(|warmup| Warmup { steps: warmup.steps.min(STEPS), ..warmup });
    few.checkpoint = seldom();
    let log = scout.try_out(index, &Stage::GlowTrain(few))?;
    let total =
        |found: Option<(f64, usize)>, steps: u64| found.map(|(seconds, few)| seconds / few as f64 * steps as f64);
    let train = total(between(&log, usize::MAX)?, steps);
    let warmup = match &stage.warmup {
        Some(warmup) if stage.model.use_graph => total(between(&log.join("warmup"), STEPS)?, warmup.steps as u64),
        _ => Some(0.0),
    };
    Ok(train.zip(warmup).map(|(train, warmup)| train + warmup))
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn samples_are_spread() {
        assert_eq!(spread(10, 2), [2, 7]);
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert!(spread(0, 5).is_empty());
    }
}
