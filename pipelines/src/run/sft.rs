//! The stage that fine-tunes a decoder.

use super::chats::{self, Chats};
use super::context::{StageContext, StageEnd};
use super::error::Error;
use super::merge_lora::copy_tokenizer;
use super::sft_passes::Passes;
use super::sft_samples::{SCORE, SampleAnswers};
use crate::device::memory_in_use;
use crate::learners::{CausalLm, LmBatches, Neftune};
use crate::recipe::{BestBy, Dtype, Recompute, Sft};
use crate::train::{EarlyStopping, FitData, FitOptions, FitOutcome, Hooks, TrainState, fit, stream};
use burn::module::Module;
use burn::tensor::FloatDType;
use burn_models::decoder::{Decoder, SaveModel};
use burn_models::text::{ChatOptions, SuperviseOptions, Tokenizer};
use datasets::sft::{PlanConfig, SftDataset, SftOptions, StepPlan};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Answers of the model in training, in the stage's folder.
const SAMPLES: &str = "samples";
/// The adapter in the stage's folder.
const ADAPTER: &str = "adapter";
/// The whole model in the stage's folder, where no adapter was trained.
const MODEL: &str = "model";

/// The adapter of a stage's folder, or the folder itself.
pub(crate) fn adapter_folder(folder: &Path) -> PathBuf {
    let inner = folder.join(ADAPTER);
    if inner.is_dir() { inner } else { folder.to_path_buf() }
}

/// How chats become samples of a model with so many positions.
pub(crate) fn sample_options(stage: &Sft, positions: usize) -> SftOptions {
    SftOptions {
        supervise: SuperviseOptions {
            chat: ChatOptions { framing: stage.framing.into(), ..ChatOptions::default() },
            learn: stage.learn.clone(),
            mask: stage.mask.clone(),
            thinking: stage.thinking,
            assistant_prefix: stage.assistant_prefix.clone(),
            end_of_turn: stage.end_of_turn,
            learn_header: stage.learn_header,
            ..SuperviseOptions::default()
        },
        max_length: Some(stage.max_length.min(positions)),
        overlong: stage.overlong,
        on_error: stage.on_error,
    }
}

/// Which samples go into which step.
pub(crate) fn step_plan(stage: &Sft, data: &SftDataset, micro_tokens: usize, seed: u64) -> datasets::Result<StepPlan> {
    let Sft { sequences_per_step, tokens_per_step, packing, .. } = *stage;
    let config = PlanConfig { sequences_per_step, tokens_per_step, micro_tokens, packing };
    StepPlan::new(data, config, stream(seed, "data", &[]))
}

/// Optimizer steps of the whole stage, unless it stops early.
pub(crate) fn steps(stage: &Sft, per_epoch: usize) -> usize {
    let all = stage.epochs * per_epoch;
    stage.max_steps.map_or(all, |most| most.min(all))
}

pub(super) fn run(context: &StageContext, stage: &Sft) -> Result<StageEnd, Error> {
    let base = context.model_folder("model", &stage.model)?;
    let chats = Chats::of(context, &stage.data)?;
    let tokenizer = Arc::new(Tokenizer::from_folder(&base)?);
    let device = context.device.clone().autodiff();
    let before = memory_in_use(&device).unwrap_or(0);
    // All weights that are trained are f32; steps in another format are computed with copies.
    let mixed = stage.lora.is_none() && stage.dtype != Dtype::F32;
    let loaded = if mixed { Dtype::F32 } else { stage.dtype };
    let decoder = Decoder::from_folder(&base, loaded.into(), &device)?;
    tokenizer.fits(decoder.config().vocab_size)?;
    let seed = context.recipe.seed;
    let decoder = match &stage.lora {
        Some(lora) => decoder.attach_lora(lora, stream(seed, "adapter", &[]))?,
        None => decoder,
    };
    let decoder = match stage.quantize {
        Some(quantization) => decoder.quantize(quantization)?,
        None => decoder,
    };
    let (total, vocab) = (decoder.num_params(), decoder.config().vocab_size);

    let options = sample_options(stage, decoder.config().max_position_embeddings);
    let train = Arc::new(chats.train_samples(context, &tokenizer, &options)?);
    let counts = train.counts();
    let held_out = match &stage.eval {
        Some(_) => Some(Arc::new(chats.held_out_samples(context, &tokenizer, &options)?.ok_or_else(|| {
            context.error(
                "`eval` needs held-out chats: a val.jsonl, a `split`, or a GraphQuestions stage with test workflows",
            )
        })?)),
        None => None,
    };
    chats::report(context, &train, held_out.as_deref())?;
    let passes = Passes::of(&context.folder, stage, decoder.config(), &train, context.recipe.device.free_memory())?;
    if stage.recompute == Recompute::Auto {
        let Passes { micro_tokens, recompute } = passes;
        context.say(&format!("recompute: {recompute:?}, up to {micro_tokens} tokens in a pass"));
    }
    let plan = |data: &SftDataset| step_plan(stage, data, passes.micro_tokens, seed);
    let train_plan = plan(&train)?;
    let steps_per_epoch = train_plan.steps_per_epoch();
    let (tokens, learned) = train.tokens(train_plan.epoch(0).all());
    let steps = steps(stage, steps_per_epoch);
    let width = decoder.config().hidden_size;
    let noise = stage.neftune.map(|alpha| Neftune { alpha, width });
    let batches = |data: Arc<SftDataset>, plan: StepPlan, len: usize| LmBatches {
        data,
        plan,
        pad_id: tokenizer.fill_id(),
        vocab_size: vocab,
        seed: stream(seed, "dropout", &[]),
        noise: None,
        len,
    };
    let valid: LmBatches = match (&stage.eval, held_out) {
        (Some(eval), Some(data)) => {
            let valid_plan = plan(&data)?;
            let most = eval.max_records.map_or(usize::MAX, |n| valid_plan.steps_for(n));
            let count = valid_plan.steps_per_epoch().min(most);
            batches(data, valid_plan, count)
        }
        _ => batches(train.clone(), train_plan.clone(), 0),
    };

    let select_by = stage.eval.as_ref().map_or(BestBy::default(), |eval| eval.select_by);
    let (score, direction) = select_by.score();
    let mut rule = EarlyStopping::new(direction, stage.early_stopping.as_ref().map(|e| e.patience));
    rule.min_delta = stage.early_stopping.as_ref().map_or(0.0, |e| e.min_delta);
    let fit_options = FitOptions {
        label: context.label(),
        seed: stream(seed, "sft", &[]),
        steps_per_epoch,
        lr: stage.optim.lr(),
        schedule: stage.schedule.clone(),
        schedule_unit: 1,
        clip: stage.clip,
        ema: stage.ema,
        compute_dtype: mixed.then(|| stage.dtype.into()),
        further_devices: context.further_devices.iter().map(|device| device.clone().autodiff()).collect(),
        planned_memory: Some(before + passes.memory(stage, decoder.config(), &train)?),
        eval_every: stage.eval.as_ref().map(|e| e.every_steps),
        checkpoint_every: Some(stage.checkpoint.every_steps),
        keep: stage.checkpoint.keep,
        select_by: score,
        tie_break_by_loss: false,
        early_stopping: rule,
    };
    let written = mixed.then(|| stage.dtype.into());
    let output =
        Output { base: base.clone(), folder: context.folder.clone(), lora: stage.lora.is_some(), dtype: written };
    let keep_best = {
        let output = output.clone();
        move |task: &CausalLm, _: &TrainState| {
            output.write(&task.decoder).map_err(|e| crate::train::Error::Keep(Box::new(e)))
        }
    };
    let mut hooks = Hooks::new(keep_best);
    if let Some(samples) = &stage.samples {
        let samples = SampleAnswers::new(samples, &valid.data, &tokenizer, context.folder.join(SAMPLES))?;
        hooks = hooks.with_scores(SCORE, move |task: &CausalLm, step| samples.score(&task.decoder, step));
    }
    let train = LmBatches { noise, ..batches(train, train_plan, steps) };
    let data = FitData { train: Arc::new(train), valid: Arc::new(valid) };
    let task = CausalLm { decoder, recompute: passes.recompute };
    let fitted = fit(task, stage.optim.init(), data, &device, &context.folder, fit_options, hooks)?;
    if fitted.outcome == FitOutcome::Interrupted {
        return Ok(StageEnd::Interrupted);
    }
    // With evaluations the best model has been written already.
    if stage.eval.is_none() {
        output.write(&fitted.model.decoder)?;
    }
    chats::forget_samples(context);
    let mut metrics = BTreeMap::from([
        ("steps".to_string(), Some(fitted.state.step as f64)),
        ("records".to_string(), Some(counts.kept() as f64)),
        ("overlong".to_string(), Some(counts.overlong as f64)),
        ("left_out".to_string(), Some((counts.read - counts.kept()) as f64)),
        ("truncated".to_string(), Some(counts.truncated as f64)),
        ("tokens_per_epoch".to_string(), Some(tokens as f64)),
        ("learned_tokens_per_epoch".to_string(), Some(learned as f64)),
        ("parameters".to_string(), Some(total as f64)),
    ]);
    if let Some((best, _)) = fitted.state.early_stopping.best {
        metrics.insert(format!("best_val_{score}"), Some(best));
    }
    let end = StageEnd::done(metrics, &[output.name(), "metrics.jsonl", "metrics.csv", chats::DATA]);
    Ok(end.after(fitted.earlier_seconds))
}

/// What the stage leaves behind: an adapter, or a whole model.
#[derive(Clone)]
struct Output {
    base: PathBuf,
    folder: PathBuf,
    lora: bool,
    /// Number format of a whole model, if not that of its parameters.
    dtype: Option<FloatDType>,
}

impl Output {
    fn name(&self) -> &'static str {
        if self.lora { ADAPTER } else { MODEL }
    }

    fn write(&self, decoder: &Decoder) -> Result<(), Error> {
        let target = self.folder.join(self.name());
        if self.lora {
            let base = std::fs::canonicalize(&self.base).map_err(Error::io(&self.base))?;
            return Ok(decoder.save_adapter(&target, Some(&base.to_string_lossy()))?);
        }
        decoder.save(&target, &SaveModel { dtype: self.dtype, shard_bytes: Some(4 << 30) })?;
        copy_tokenizer(&self.base, &target)
    }
}
