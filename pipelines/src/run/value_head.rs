//! The stage that trains a value head, and what it leaves behind.
//!
//! ```text
//! best/model.safetensors   the head
//!      adapter/            the adapter below it, in PEFT's files, where one was trained
//!      value_head.json     its settings, and what it was trained with
//! ```

use super::context::{StageContext, StageEnd};
use super::error::Error;
use super::folder::write_json;
use super::judge_data::JudgeData;
use crate::judge::JudgeEncoder;
use crate::learners::{Epochs, JudgedPrompts, Recompute, ValueBatches, ValueTask};
use crate::recipe::{BestBy, JudgePrompt, Truncation, ValueHeadTrain};
use crate::train::{EarlyStopping, FitData, FitOptions, FitOutcome, Hooks, TrainState, fit, stream};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use burn_models::Error as ModelError;
use burn_models::decoder::Decoder;
use burn_models::glow::{Head, rates};
use burn_models::text::Tokenizer;
use burn_models::value_head::{ValueHead, ValueHeadConfig};
use datasets::Split;
use datasets::judge::{JudgePrompts, balanced};
use datasets::sampler::Sampler;
use datasets::templates::JudgeTemplates;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The best head in the stage's folder.
const BEST: &str = "best";
const ADAPTER: &str = "adapter";
const FILE: &str = "value_head.json";
/// Prompts that are encoded before they are put into the row of all ids.
const CHUNK: usize = 1024;

pub(super) fn run(context: &StageContext, stage: &ValueHeadTrain) -> Result<StageEnd, Error> {
    let splits: &[Split] = if stage.eval.is_some() { &[Split::Train, Split::Val] } else { &[Split::Train] };
    let words = stage.templates.as_deref();
    let data = JudgeData::read(context, &stage.data, splits, stage.labels, stage.on_bad_edge, words)?;
    let base = context.model_folder("model", &stage.model)?;
    let tokenizer = Tokenizer::from_folder(&base)?;
    let device = context.device.clone().autodiff();
    let decoder = Decoder::from_folder(&base, stage.dtype.into(), &device)?;
    let (vocab, positions) = (decoder.config().vocab_size, decoder.config().max_position_embeddings);
    tokenizer.fits(vocab)?;
    let encoder = JudgeEncoder::new(tokenizer, &data.templates.judge, &stage.prompt, positions)?;
    let seed = context.recipe.seed;
    let decoder = match &stage.lora {
        Some(lora) => decoder.attach_lora(lora, stream(seed, "adapter", &[]))?,
        None => decoder.no_grad(),
    };
    let config = ValueHeadConfig { hidden_size: decoder.config().hidden_size, inner_size: stage.hidden };
    device.seed(stream(seed, "value head", &[]));
    let task = ValueTask::new(decoder, config.init(&device), stage.head, stage.recompute);
    let parameters = task.num_params();

    let train = Arc::new(prompts(&data, &encoder, stage, Split::Train, seed)?);
    context.say(&format!("{} records, {} tokens", train.len(), train.tokens()));
    let batches = |data: Arc<JudgedPrompts>, len: &dyn Fn(usize) -> usize| -> Result<ValueBatches, Error> {
        let shuffled = stream(seed, "data", &[]);
        let epochs = Epochs::new(vec![0; data.len()], stage.sequences_per_step, false, Sampler::Shuffle, shuffled)?;
        let len = len(epochs.per_epoch());
        let (micro_tokens, seed) = (stage.micro_tokens, stream(seed, "dropout", &[]));
        Ok(ValueBatches { data, epochs, micro_tokens, vocab_size: vocab, seed, len })
    };
    let records = train.len();
    let train = batches(train, &|per_epoch| stage.max_steps.unwrap_or(usize::MAX).min(stage.epochs * per_epoch))?;
    let steps_per_epoch = train.epochs.per_epoch();
    let valid = match &stage.eval {
        Some(eval) => {
            let most = eval.max_records.map_or(usize::MAX, |n| n.div_ceil(stage.sequences_per_step).max(1));
            let data = Arc::new(prompts(&data, &encoder, stage, Split::Val, seed)?);
            batches(data, &|per_epoch| per_epoch.min(most))?
        }
        None => batches(train.data.clone(), &|_| 0)?,
    };

    let (select_by, direction) = stage.eval.as_ref().map_or(BestBy::default(), |eval| eval.select_by).score();
    let mut rule = EarlyStopping::new(direction, stage.early_stopping.as_ref().map(|e| e.patience));
    rule.min_delta = stage.early_stopping.as_ref().map_or(0.0, |e| e.min_delta);
    let options = FitOptions {
        label: context.label(),
        seed: stream(seed, "value head training", &[]),
        steps_per_epoch,
        lr: stage.optim.lr(),
        schedule: stage.schedule.clone(),
        schedule_unit: 1,
        clip: stage.clip,
        ema: None,
        further_devices: Vec::new(),
        compute_dtype: None,
        planned_memory: None,
        eval_every: stage.eval.as_ref().map(|e| e.every_steps),
        checkpoint_every: Some(stage.checkpoint.every_steps),
        keep: stage.checkpoint.keep,
        select_by,
        tie_break_by_loss: false,
        early_stopping: rule,
    };
    let file = ValueHeadFile {
        head: config,
        loss: stage.head,
        prompt: prompt_key(&stage.prompt, &data.templates.judge),
        base: fs::canonicalize(&base).map_err(Error::io(&base))?.to_string_lossy().into_owned(),
        adapter: stage.lora.is_some(),
    };
    let target = context.folder.join(BEST);
    let keep_best = {
        let (file, target) = (file.clone(), target.clone());
        move |task: &ValueTask, _: &TrainState| {
            file.save(task, &target).map_err(|e| crate::train::Error::Keep(Box::new(e)))
        }
    };
    let data = FitData { train: Arc::new(train), valid: Arc::new(valid) };
    let fitted = fit(task, stage.optim.init(), data, &device, &context.folder, options, Hooks::new(keep_best))?;
    if fitted.outcome == FitOutcome::Interrupted {
        return Ok(StageEnd::Interrupted);
    }
    // With evaluations the best head has been written already.
    if stage.eval.is_none() {
        file.save(&fitted.model, &target)?;
    }
    let mut metrics = BTreeMap::from([
        ("steps".to_string(), Some(fitted.state.step as f64)),
        ("records".to_string(), Some(records as f64)),
        ("parameters".to_string(), Some(parameters as f64)),
    ]);
    if let Some((best, _)) = fitted.state.early_stopping.best {
        metrics.insert(format!("best_val_{select_by}"), Some(best));
        metrics.insert("best_step".to_string(), Some(fitted.state.early_stopping.best_step as f64));
    }
    let end = StageEnd::done(metrics, &[BEST, "metrics.jsonl", "metrics.csv"]);
    Ok(end.after(fitted.earlier_seconds))
}

/// The prompts that a stage trains on, with the tokenizer of its model.
pub(crate) fn value_prompts(
    context: &StageContext,
    stage: &ValueHeadTrain,
    tokenizer: Tokenizer,
    positions: usize,
) -> Result<JudgedPrompts, Error> {
    let words = stage.templates.as_deref();
    let data = JudgeData::read(context, &stage.data, &[Split::Train], stage.labels, stage.on_bad_edge, words)?;
    let encoder = JudgeEncoder::new(tokenizer, &data.templates.judge, &stage.prompt, positions)?;
    prompts(&data, &encoder, stage, Split::Train, context.recipe.seed)
}

/// The prompts of a split, the rarer label repeated where that is asked for.
fn prompts(
    data: &JudgeData,
    encoder: &JudgeEncoder,
    stage: &ValueHeadTrain,
    split: Split,
    seed: u64,
) -> Result<JudgedPrompts, Error> {
    let records = data.records(split)?;
    let texts = JudgePrompts::new(&data.index, &data.templates.judge, stage.prompt.form());
    let chosen: Vec<u32> = match stage.target_ratio {
        Some(ratio) if split == Split::Train => {
            balanced(&records.label, ratio, &mut datasets::rng::stream(seed, "judge chats: balance", &[]))
        }
        _ => (0..records.len() as u32).collect(),
    };
    let mut found = JudgedPrompts::default();
    for chunk in chosen.chunks(CHUNK) {
        let encode = |record: &u32| encoder.encode(&texts.prompt(records, *record as usize), Truncation::KeepSuffix);
        let encoded = chunk.par_iter().map(encode).collect::<burn_models::Result<Vec<_>>>()?;
        for (record, prompt) in chunk.iter().zip(encoded) {
            let record = *record as usize;
            let place = (records.line[record], records.workflow_id[record], records.task_id[record]);
            found.push(&prompt.ids, records.label[record], place);
        }
    }
    Ok(found)
}

/// Equal for prompts of equal form and words.
fn prompt_key(prompt: &JudgePrompt, templates: &JudgeTemplates) -> String {
    let JudgePrompt { node_render, order, framing, assistant_prefix, max_length } = prompt;
    let form = format!("{node_render:?} {order:?} {framing:?} {max_length} {assistant_prefix:?}");
    blake3::hash(format!("{form} {}", templates.hash()).as_bytes()).to_hex().to_string()
}

/// What is to be known about a head (`value_head.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueHeadFile {
    /// Its sizes.
    head: ValueHeadConfig,
    /// What its number means.
    loss: Head,
    /// [`prompt_key`] of the prompts it was trained on.
    prompt: String,
    /// The folder of the decoder it was trained on; to be read by people.
    base: String,
    /// Whether there is an adapter.
    adapter: bool,
}

impl ValueHeadFile {
    /// Writes head and adapter into a folder of their own and puts it in the place of `target`, as a whole.
    fn save(&self, task: &ValueTask, target: &Path) -> Result<(), Error> {
        let scratch = target.with_file_name(format!(".{BEST}.partial"));
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(Error::io(&scratch))?;
        }
        fs::create_dir_all(&scratch).map_err(Error::io(&scratch))?;
        task.head.save(&scratch)?;
        if self.adapter {
            task.decoder.save_adapter(&scratch.join(ADAPTER), Some(&self.base))?;
        }
        write_json(&scratch.join(FILE), self)?;
        if target.exists() {
            fs::remove_dir_all(target).map_err(Error::io(target))?;
        }
        fs::rename(&scratch, target).map_err(Error::io(target))
    }
}

/// A head with its decoder, read from disk, without autodiff.
pub(super) struct StoredValueHead {
    task: ValueTask,
    file: ValueHeadFile,
}

impl StoredValueHead {
    /// Reads the head in `folder`, or in the `best/` of a stage's folder, and puts it and its adapter on `decoder`.
    pub(super) fn load(folder: &Path, decoder: Decoder, device: &Device) -> Result<Self, Error> {
        let folder = inner(folder);
        let path = folder.join(FILE);
        let text = fs::read(&path).map_err(Error::io(&path))?;
        let file: ValueHeadFile = serde_json::from_slice(&text).map_err(|e| Error::io(&path)(e.into()))?;
        let width = decoder.config().hidden_size;
        if file.head.hidden_size != width {
            let problem = format!("{}, but the decoder's states have {width} numbers", file.head.hidden_size);
            return Err(ModelError::config(&path, "head.hidden_size", problem).into());
        }
        let head = ValueHead::load(&folder, &file.head, &path, device)?;
        let decoder = if file.adapter { decoder.load_adapter(&folder.join(ADAPTER))? } else { decoder };
        Ok(Self { task: ValueTask::new(decoder, head, file.loss, Recompute::None), file })
    }

    /// Refuses prompts of another form or other words than those it was trained on.
    pub(super) fn check_prompt(
        &self,
        folder: &Path,
        prompt: &JudgePrompt,
        templates: &JudgeTemplates,
    ) -> Result<(), Error> {
        if self.file.prompt == prompt_key(prompt, templates) {
            return Ok(());
        }
        let reason = format!(
            "{} was trained on prompts of another form or other words: use the `prompt` and `templates` of its training",
            folder.display()
        );
        Err(Error::Stage { stage: "judge-eval".into(), reason })
    }

    pub(super) fn decoder(&self) -> &Decoder {
        &self.task.decoder
    }

    /// Scores in [0, 1] of final states `[n, D]`, row-major.
    pub(super) fn scores(&self, states: Vec<f32>) -> Vec<f64> {
        let width = self.file.head.hidden_size;
        let shape = [states.len() / width, width];
        let device = self.task.decoder.device();
        let logits = self.task.head.forward(Tensor::from_data(TensorData::new(states, shape), &device));
        // A regression without a logistic function may leave the range of rates. A NaN stays one.
        let scores = rates(logits, self.file.loss).into_data();
        scores.iter::<f32>().map(|score| f64::from(score.clamp(0.0, 1.0))).collect()
    }
}

/// The head of a stage's folder, or the folder itself.
fn inner(folder: &Path) -> PathBuf {
    let best = folder.join(BEST);
    if !folder.join(FILE).exists() && best.join(FILE).exists() { best } else { folder.to_path_buf() }
}
