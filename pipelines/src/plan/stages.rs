//! The counts of every sort of stage.

use super::StagePlan;
use super::memory::{Memory, activations, head, inference};
use crate::preview::Prepared;
use crate::recipe::{Dtype, Embed, GlowTrain, MergeDtype, MergeLora, Recompute, Sft, Source, Stage, ValueHeadTrain};
use crate::run::{
    EmbeddedData, Embedder, Error, JudgeData, Passes, Reader, Scout, StageContext, questions_file, sft_steps,
    value_prompts,
};
use burn::module::Module;
use burn_models::decoder::DecoderConfig;
use burn_models::text::Tokenizer;
use burn_models::value_head::ValueHeadConfig;
use datasets::flora::ReadOptions;
use datasets::index::FloraIndex;
use datasets::sampler::Sampler;
use std::fs;
use std::path::Path;

/// Plans stage `index`.
pub(super) fn plan(scout: &Scout, index: usize, stage: &Stage) -> Result<StagePlan, Error> {
    match stage {
        Stage::GraphQuestions(_) | Stage::JudgeChats(_) => made(scout, index),
        Stage::Sft(stage) => sft(scout, index, stage),
        Stage::GraphQuestionEval(stage) => scout.look(index, |context| {
            let config = DecoderConfig::from_folder(&context.model_folder("model", &stage.model)?)?;
            let asked = lines(&questions_file(context, stage)?)?;
            let asked = stage.limit.map_or(asked, |limit| asked.min(limit as u64));
            let parameters = config.num_parameters();
            let notes = vec![format!("writes up to {} tokens for each", stage.max_new_tokens)];
            Ok(StagePlan {
                records: Some(asked),
                parameters: Some(parameters),
                trainable: Some(0),
                memory: Some(Memory::of_parameters(parameters, size(stage.dtype), 0, false)),
                disk: Some(asked * SCORE),
                notes,
                ..StagePlan::default()
            })
        }),
        Stage::MergeLora(stage) => scout.look(index, |context| merge(context, stage)),
        Stage::Embed(stage) => scout.look(index, |context| embed(context, stage)),
        Stage::GlowTrain(stage) => glow_train(scout, stage),
        Stage::GlowEval(stage) => {
            let index = embedded(scout, &stage.embeddings)?.0;
            let records = index.split(stage.split).map_or(0, |records| records.len() as u64);
            let disk = records * SCORE * stage.checkpoints.len() as u64;
            Ok(StagePlan { records: Some(records), disk: Some(disk), ..StagePlan::default() })
        }
        Stage::ValueHeadTrain(stage) => scout.look(index, |context| value_head(context, stage)),
        Stage::JudgeEval(stage) => scout.look(index, |context| {
            let folder = context.model_folder("model", &stage.model)?;
            let config = DecoderConfig::from_folder(&folder)?;
            let splits = [stage.split];
            let data = JudgeData::read(context, &stage.data, &splits, stage.labels, stage.on_bad_edge, None)?;
            let records = data.records(stage.split)?.len() as u64;
            let tokens = (stage.batch_tokens as u64).min(records * stage.prompt.max_length as u64);
            let parameters = config.num_parameters();
            let memory = Memory {
                activations: inference(&config, tokens, size(stage.dtype)),
                ..Memory::of_parameters(parameters, size(stage.dtype), 0, false)
            };
            let disk = Some(records * SCORE);
            let (records, parameters, memory) = (Some(records), Some(parameters), Some(memory));
            Ok(StagePlan { records, parameters, memory, disk, trainable: Some(0), ..StagePlan::default() })
        }),
        Stage::JudgePrompted(stage) => scout.look(index, |context| {
            let splits = [stage.split];
            let data = JudgeData::read(context, &stage.data, &splits, stage.labels, stage.on_bad_edge, None)?;
            let records = data.records(stage.split)?.len() as u64;
            let notes = vec!["its time is that of the server".to_owned()];
            Ok(StagePlan { records: Some(records), disk: Some(records * SCORE), notes, ..StagePlan::default() })
        }),
    }
}

/// Bytes of a scored record in a file of them.
const SCORE: u64 = 90;

fn size(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => 4,
        Dtype::Bf16 => 2,
    }
}

/// The lines of a file.
fn lines(path: &Path) -> Result<u64, Error> {
    let mut lines = datasets::lines::FileLines::open(path, datasets::chat::MAX_LINE_BYTES)?;
    let mut count = 0;
    while lines.next_line()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// A stage that makes chats: it is done, in the temporary place.
fn made(scout: &Scout, index: usize) -> Result<StagePlan, Error> {
    let clock = std::time::Instant::now();
    let folder = scout.make(index)?;
    let seconds = clock.elapsed().as_secs_f64();
    let (mut records, mut disk) = (0, 0);
    for file in crate::run::files_of(&folder)? {
        disk += fs::metadata(&file).map_or(0, |meta| meta.len());
        if file.extension().is_some_and(|extension| extension == "jsonl") {
            records += lines(&file)?;
        }
    }
    let (records, disk, seconds) = (Some(records), Some(disk), Some(seconds));
    Ok(StagePlan { records, disk, seconds, ..StagePlan::default() })
}

fn sft(scout: &Scout, index: usize, stage: &Sft) -> Result<StagePlan, Error> {
    let prepared = Prepared::new(scout, index, stage)?;
    let config =
        scout.look(index, |context| Ok(DecoderConfig::from_folder(&context.model_folder("model", &stage.model)?)?))?;
    let counts = prepared.data.counts();
    let (computed, largest) = prepared.computed()?;
    let steps = sft_steps(stage, prepared.plan.steps_per_epoch());
    let (frozen, trained) = sft_parameters(stage, &config)?;
    let batch = prepared.data.batch(&largest, stage.packing, prepared.tokenizer.fill_id())?;
    let (computed_at_once, rows) = (batch.computed() as u64, batch.rows.len() as u64);
    let several = prepared.plan.epoch(0).step(0).len() > 1;
    let memory = sft_memory(stage, &config, prepared.passes.recompute, computed_at_once, rows, several)?;
    let mut notes = Vec::new();
    if stage.recompute == Recompute::Auto {
        let Passes { micro_tokens, recompute } = prepared.passes;
        notes.push(format!("`recompute: Auto` is {recompute:?} here, with up to {micro_tokens} tokens in a pass"));
    }
    for (count, reason) in counts.dropped() {
        notes.push(match reason {
            "too long" => format!("{count} chats are longer than `max_length` and left out"),
            _ => format!("{count} chats are left out: {reason}"),
        });
    }
    if counts.truncated > 0 {
        notes.push(format!("{} chats are cut to `max_length`", counts.truncated));
    }
    if stage.early_stopping.is_some() {
        notes.push("may stop earlier".into());
    }
    Ok(StagePlan {
        records: Some(counts.kept()),
        tokens: Some(prepared.data.tokens(prepared.plan.epoch(0).all()).0),
        computed: Some(computed as u64),
        steps: Some(steps as u64),
        parameters: Some(frozen + trained),
        trainable: Some(trained),
        // With the tokens of the chats, which are there until the stage ends.
        disk: Some(
            trained * 4
                + checkpoints(trained, stage.checkpoint.keep, steps, stage.checkpoint.every_steps)
                + counts.tokens * 4,
        ),
        memory: Some(memory),
        notes,
        ..StagePlan::default()
    })
}

/// Frozen and trained parameters.
fn sft_parameters(stage: &Sft, config: &DecoderConfig) -> Result<(u64, u64), Error> {
    let base = config.num_parameters();
    Ok(match &stage.lora {
        Some(lora) => (base, config.num_lora_parameters(lora)?),
        None => (0, base),
    })
}

/// The memory of a fine-tuning whose largest pass computes `tokens` tokens and learns `rows` of them; `several`: whether a step has
/// several passes.
pub(crate) fn sft_memory(
    stage: &Sft,
    config: &DecoderConfig,
    recompute: crate::learners::Recompute,
    tokens: u64,
    rows: u64,
    several: bool,
) -> Result<Memory, Error> {
    let (frozen, trained) = sft_parameters(stage, config)?;
    let bytes = size(stage.dtype);
    let recompute = recompute == crate::learners::Recompute::Layers;
    let mut memory = Memory {
        activations: activations(config, stage.lora.as_ref(), tokens, bytes, recompute),
        head: head(config, rows),
        ..Memory::of_parameters(frozen, bytes, trained, several)
    };
    if stage.lora.is_none() && stage.dtype != Dtype::F32 {
        // The copies that compute, and their gradients.
        memory.weights += trained * bytes;
        memory.gradients += trained * bytes;
    }
    if let Some(quantization) = stage.quantize {
        let stored: u64 = config.projections().iter().map(|(_, [input, output])| (input * output) as u64).sum();
        let kept = if recompute { stored / config.num_hidden_layers.max(1) as u64 } else { stored };
        memory.weights = memory.weights.saturating_sub(stored * bytes) + (stored as f64 * quantization.bytes()) as u64;
        // Restored in f32.
        memory.activations += kept * 4;
    }
    if stage.ema.is_some() {
        memory.optimizer += trained * 4;
    }
    Ok(memory)
}

/// Bytes of the checkpoints that are kept: parameters and two moments.
fn checkpoints(trained: u64, keep: usize, steps: usize, every: usize) -> u64 {
    let saves = steps.div_ceil(every.max(1)).clamp(1, keep.max(1));
    trained * 12 * saves as u64
}

fn merge(context: &StageContext, stage: &MergeLora) -> Result<StagePlan, Error> {
    let folder = context.model_folder("base", &stage.base)?;
    let parameters = DecoderConfig::from_folder(&folder)?.num_parameters();
    let mut stored = 0;
    for file in crate::run::files_of(&folder)? {
        stored += fs::metadata(&file).map_or(0, |meta| meta.len());
    }
    let disk = match stage.dtype {
        MergeDtype::Keep => stored,
        MergeDtype::F32 => parameters * 4,
        MergeDtype::Bf16 | MergeDtype::F16 => parameters * 2,
    };
    // Base and merged weights, in f32.
    let memory = Memory { weights: parameters * 8, ..Memory::default() };
    let (parameters, disk, memory) = (Some(parameters), Some(disk), Some(memory));
    Ok(StagePlan { parameters, disk, memory, trainable: Some(0), ..StagePlan::default() })
}

/// An embedder of a stage in the temporary place.
pub(super) fn embedder<T>(
    context: &StageContext,
    stage: &Embed,
    look: impl FnOnce(&Embedder, &FloraIndex) -> Result<T, Error>,
) -> Result<T, Error> {
    let options = ReadOptions { labels: stage.labels.into(), on_bad_edge: stage.on_bad_edge, ..ReadOptions::default() };
    let index = FloraIndex::read(&context.path("data", &stage.data)?, &options)?;
    let info = crate::run::EmbedInfo {
        llm: context.model_folder("llm", &stage.llm)?,
        text: context.model_folder("text", &stage.text)?,
        settings: stage.clone(),
    };
    let (cache, device) = (context.recipe.cache_dir(), context.device.clone());
    look(&Embedder { info: &info, cache, device, label: context.label() }, &index)
}

fn embed(context: &StageContext, stage: &Embed) -> Result<StagePlan, Error> {
    embedder(context, stage, |embedder, index| {
        let reader = embedder.reader()?;
        let work = embedder.work(index)?;
        let longest = work.prompts.iter().map(Vec::len).max().unwrap_or(0) as u64;
        let tokens = longest.max(stage.batch_tokens as u64);
        let bytes = size(stage.dtype);
        let vectors = (work.prompts.len() * reader.width() + work.text_tokens.len() * work.text_width) as u64 * 4;
        let (parameters, activations) = match &reader {
            Reader::Decoder(config) => (config.num_parameters(), inference(config, tokens, bytes)),
            // Of a layer: the hidden states, queries, keys, values, and what the feed-forward part makes of them.
            Reader::Encoder(encoder) => {
                let config = encoder.encoder().config();
                let wide = 8 * config.hidden_size + 2 * config.intermediate_size;
                (encoder.encoder().num_params() as u64, tokens * wide as u64 * 4)
            }
        };
        let memory = Memory { weights: parameters * bytes + vectors, activations, ..Memory::default() };
        let prompt_tokens: usize = work.prompts.iter().map(Vec::len).sum();
        let text_tokens: usize = work.text_tokens.iter().sum();
        let notes = vec![format!(
            "{} workflow prompts ({prompt_tokens} tokens) and {} texts ({text_tokens} tokens); those in the cache are not computed again",
            work.prompts.len(),
            work.text_tokens.len()
        )];
        Ok(StagePlan {
            records: Some(index.splits().map(|(_, records)| records.len() as u64).sum()),
            tokens: Some((prompt_tokens + text_tokens) as u64),
            parameters: Some(parameters),
            trainable: Some(0),
            // Once in the stage's folder, once in the cache.
            disk: Some(2 * vectors),
            memory: Some(memory),
            notes,
            ..StagePlan::default()
        })
    })
}

/// The records behind embeddings, and the widths of the two sorts of vectors.
pub(super) fn embedded(scout: &Scout, source: &Source) -> Result<(FloraIndex, usize, usize), Error> {
    match source {
        Source::Stage(name) => {
            let stages = &scout.recipe().stages;
            let found = stages.iter().enumerate().find_map(|(index, stage)| match stage {
                Stage::Embed(embed) if stage.name() == name => Some((index, embed)),
                _ => None,
            });
            let missing = || Error::Stage { stage: name.clone(), reason: "this is no Embed stage".into() };
            let (index, stage) = found.ok_or_else(missing)?;
            scout.look(index, |context| {
                embedder(context, stage, |embedder, index| {
                    let text = embedder.sentence_encoder(&embedder.info.text)?.dim();
                    Ok((index.clone(), embedder.reader()?.width(), text))
                })
            })
        }
        Source::Path(path) => {
            let data = EmbeddedData::load(path)?;
            Ok((data.index, data.llm.width, data.text.width))
        }
        other => Err(Error::Stage { stage: other.to_string(), reason: "these are no embeddings".into() }),
    }
}

fn glow_train(scout: &Scout, stage: &GlowTrain) -> Result<StagePlan, Error> {
    let (index, llm_dim, text_dim) = embedded(scout, &stage.embeddings)?;
    let records = index
        .split(datasets::Split::Train)
        .ok_or_else(|| Error::Stage { stage: "glow-train".into(), reason: "there is no training split".into() })?;
    let tasks = records.task_id.clone();
    let epochs = crate::learners::Epochs::new(tasks, stage.batch_size, stage.drop_last, stage.sampler, 0)?;
    let steps = stage.epochs * epochs.per_epoch();
    let model = stage.model.init(llm_dim, text_dim, scout.device())?;
    let parameters = model.num_params() as u64;
    let warmup = stage.warmup.as_ref().filter(|_| stage.model.use_graph).map_or(0, |warmup| warmup.steps);
    let vectors = (index.workflows().len() * llm_dim + index.texts().len() * text_dim) as u64 * 4;
    // Of every record three tokens and the mixed ones through the fusion layers, and its graph's nodes through the convolutions.
    let wide = |count: usize| count as u64;
    let nodes = index.workflows().iter().map(|w| w.ids.len()).sum::<usize>() / index.workflows().len().max(1);
    let (hidden, fusion) = (stage.model.hidden_dim, &stage.model.fusion);
    let record = 4 * fusion.layers * (12 * hidden + 3 * fusion.ff_width)
        + nodes * stage.model.gnn.layers * 8 * hidden
        + 8 * (llm_dim + text_dim);
    let batch = stage.batch_size.min(records.len());
    // The tables are on the host and on the device.
    let mut memory = Memory::of_parameters(0, 4, parameters, false);
    memory.weights += 2 * vectors;
    memory.activations = wide(batch) * wide(record) * 4;
    let mut notes = vec![format!("stops after {} evaluations without improvement", stage.patience)];
    if warmup > 0 {
        notes.push(format!("{warmup} steps of warm-up before, not counted in its steps"));
    }
    Ok(StagePlan {
        records: Some(records.len() as u64),
        steps: Some(steps as u64),
        parameters: Some(parameters),
        trainable: Some(parameters),
        disk: Some(
            parameters * 8 + 2 * checkpoints(parameters, stage.checkpoint.keep, steps, stage.checkpoint.every_steps),
        ),
        memory: Some(memory),
        notes,
        ..StagePlan::default()
    })
}

fn value_head(context: &StageContext, stage: &ValueHeadTrain) -> Result<StagePlan, Error> {
    let folder = context.model_folder("model", &stage.model)?;
    let config = DecoderConfig::from_folder(&folder)?;
    let tokenizer = Tokenizer::from_folder(&folder)?;
    let prompts = value_prompts(context, stage, tokenizer, config.max_position_embeddings)?;
    let epochs =
        crate::learners::Epochs::new(vec![0; prompts.len()], stage.sequences_per_step, false, Sampler::Shuffle, 0)?;
    let steps = stage.max_steps.unwrap_or(usize::MAX).min(stage.epochs * epochs.per_epoch());
    let head = ValueHeadConfig { hidden_size: config.hidden_size, inner_size: stage.hidden };
    let head = head.init(&context.device).num_params() as u64;
    let adapters = stage.lora.as_ref().map(|lora| config.num_lora_parameters(lora)).transpose()?.unwrap_or(0);
    let (base, trained) = (config.num_parameters(), head + adapters);
    let bytes = size(stage.dtype);
    let tokens = (stage.micro_tokens as u64).min(prompts.tokens() as u64);
    let recompute = stage.recompute == crate::learners::Recompute::Layers;
    let memory = Memory {
        activations: match adapters {
            0 => inference(&config, tokens, bytes),
            _ => activations(&config, stage.lora.as_ref(), tokens, bytes, recompute),
        },
        ..Memory::of_parameters(base, bytes, trained, prompts.tokens() > stage.micro_tokens)
    };
    Ok(StagePlan {
        records: Some(prompts.len() as u64),
        tokens: Some(prompts.tokens() as u64),
        steps: Some(steps as u64),
        parameters: Some(base + trained),
        trainable: Some(trained),
        disk: Some(trained * 4 + checkpoints(trained, stage.checkpoint.keep, steps, stage.checkpoint.every_steps)),
        memory: Some(memory),
        notes: if stage.early_stopping.is_some() { vec!["may stop earlier".into()] } else { vec![] },
        ..StagePlan::default()
    })
}
