//! The stage that trains the GLOW predictor: warm-up of the graph encoder, then all of it on the labels.

use super::context::{StageContext, StageEnd};
use super::embedded::{EmbeddedData, glow_data};
use super::error::Error;
use super::predictor::PredictorFile;
use crate::learners::{Epochs, GlowBatches, GlowData, GlowRecords, GlowTask, WarmupBatches, WarmupTask};
use crate::recipe::{GlowTrain, Inputs, PatienceRule, SelectBy, TieBreak, Warmup, WarmupSampling};
use crate::train::{Direction, EarlyStopping, FitData, FitOptions, FitOutcome, Fitted, TrainState, fit, stream};
use burn::module::Module;
use burn_models::glow::{GlowLossConfig, GlowPredictor};
use datasets::Split;
use datasets::sampler::Sampler;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Folder of the best predictor in the stage's folder.
pub(super) const BEST: &str = "best";
/// Folder of the predictor after the last epoch.
pub(super) const FINAL: &str = "final";

/// The best predictor of a stage's folder.
pub fn predictor_folder(stage: &std::path::Path) -> std::path::PathBuf {
    stage.join(BEST)
}

pub(super) fn run(context: &StageContext, stage: &GlowTrain) -> Result<StageEnd, Error> {
    let mut data = EmbeddedData::load(&context.path("embeddings", &stage.embeddings)?)?;
    let inputs = match stage.inputs {
        Inputs::AsIs => None,
        Inputs::Standardize => Some(data.standardization(Split::Train)?),
    };
    if let Some(scale) = &inputs {
        data.standardize(scale);
    }
    let file = PredictorFile::new(stage.model.clone(), &data, inputs);
    let tables = data.tables(&context.device);
    let workflows = data.workflows();
    let split =
        |split| -> Result<GlowData, Error> { Ok(glow_data(data.records(split)?, workflows.clone(), tables.clone())) };
    let (train, valid) = (split(Split::Train)?, split(Split::Val)?);
    drop(data);

    let device = context.device.clone().autodiff();
    let mut predictor = file.init(stream(context.recipe.seed, "init", &[]), &device)?;
    let mut earlier_seconds = 0.0;
    // A predictor without the graph token has nothing to warm up.
    if let Some(warmup) = stage.warmup.as_ref().filter(|_| stage.model.use_graph) {
        let fitted = warm_up(context, stage, warmup, predictor, &train)?;
        if fitted.outcome == FitOutcome::Interrupted {
            return Ok(StageEnd::Interrupted);
        }
        earlier_seconds += fitted.earlier_seconds;
        predictor = fitted.model.predictor.train();
    }
    let (fitted, steps_per_epoch) = supervise(context, stage, &file, predictor, train, valid)?;
    if fitted.outcome == FitOutcome::Interrupted {
        return Ok(StageEnd::Interrupted);
    }
    file.save(&fitted.model.predictor, &context.folder.join(FINAL))?;

    let epochs = |steps: usize| Some(steps as f64 / steps_per_epoch as f64);
    let rule = &fitted.state.early_stopping;
    let best = if stage.select_by == SelectBy::ValAccuracy { "best_val_accuracy" } else { "best_val_loss" };
    let metrics = BTreeMap::from([
        ("steps".to_string(), Some(fitted.state.step as f64)),
        ("epochs".to_string(), epochs(fitted.state.step)),
        ("best_epoch".to_string(), epochs(rule.best_step)),
        (best.to_string(), rule.best.map(|(score, _)| score)),
        ("parameters".to_string(), Some(fitted.model.predictor.num_params() as f64)),
    ]);
    let end = StageEnd::done(metrics, &[BEST, FINAL, "metrics.jsonl", "metrics.csv"]);
    Ok(end.after(earlier_seconds + fitted.earlier_seconds))
}

/// The graph encoder learns to read node texts and edges back from its vectors.
fn warm_up(
    context: &StageContext,
    stage: &GlowTrain,
    warmup: &Warmup,
    predictor: GlowPredictor,
    train: &GlowData,
) -> Result<Fitted<WarmupTask>, Error> {
    let drawn = train.records.iter().map(|r| r.workflow);
    let pool: Vec<u32> = match warmup.sampling {
        WarmupSampling::UniqueWorkflows => drawn.collect::<BTreeSet<_>>().into_iter().collect(),
        WarmupSampling::Records => drawn.collect(),
    };
    let seed = context.recipe.seed;
    let draw = || {
        Epochs::new(
            pool.iter().map(|w| i64::from(*w)).collect(),
            warmup.batch_size,
            true,
            Sampler::Shuffle,
            stream(seed, "warmup data", &[]),
        )
    };
    let epochs = draw()?;
    let steps_per_epoch = epochs.per_epoch();
    let batches = |epochs, steps| {
        Arc::new(WarmupBatches::new(train.workflows.clone(), pool.clone(), train.tables.clone(), epochs, steps))
    };
    let options = FitOptions {
        label: format!("{} warm-up", context.label()),
        seed: stream(seed, "warmup", &[]),
        steps_per_epoch,
        lr: warmup.optim.lr(),
        schedule: warmup.schedule.clone(),
        schedule_unit: 1,
        clip: None,
        eval_every: None,
        checkpoint_every: Some(stage.checkpoint.every_steps),
        keep: stage.checkpoint.keep,
        select_by: "loss",
        tie_break_by_loss: false,
        early_stopping: EarlyStopping::new(Direction::Lowest, None),
    };
    let data = FitData { train: batches(epochs, warmup.steps), valid: batches(draw()?, 0) };
    let folder = context.folder.join("warmup");
    let device = context.device.clone().autodiff();
    Ok(fit(WarmupTask { predictor }, warmup.optim.init(), data, &device, &folder, options, |_, _| Ok(()))?)
}

/// Prediction and contrast, with validation after every so many epochs. Also gives the steps of an epoch.
fn supervise(
    context: &StageContext,
    stage: &GlowTrain,
    file: &PredictorFile,
    predictor: GlowPredictor,
    train: GlowData,
    valid: GlowData,
) -> Result<(Fitted<GlowTask>, usize), Error> {
    let seed = context.recipe.seed;
    let tasks = train.records.iter().map(|r| r.task_id).collect();
    let epochs = Epochs::new(tasks, stage.batch_size, stage.drop_last, stage.sampler, stream(seed, "data", &[]))?;
    let steps_per_epoch = epochs.per_epoch();
    let (select_by, direction) = stage.select_by.score();
    let options = FitOptions {
        label: context.label(),
        seed: stream(seed, "glow", &[]),
        steps_per_epoch,
        lr: stage.optim.lr(),
        schedule: stage.schedule.clone(),
        schedule_unit: steps_per_epoch,
        clip: stage.clip,
        eval_every: Some(stage.eval_every_epochs * steps_per_epoch),
        checkpoint_every: Some(stage.checkpoint.every_steps),
        keep: stage.checkpoint.keep,
        select_by,
        tie_break_by_loss: stage.tie_break == TieBreak::LowerLoss,
        early_stopping: EarlyStopping {
            patience_exclusive: stage.patience_rule == PatienceRule::PastPatience,
            ..EarlyStopping::new(direction, Some(stage.patience))
        },
    };
    let loss = GlowLossConfig { contrast: stage.contrast.clone(), ..GlowLossConfig::default() };
    let data = FitData {
        train: Arc::new(GlowBatches::new(train, epochs, stage.epochs)),
        valid: Arc::new(GlowRecords::new(valid, stage.batch_size)),
    };
    let (file, best) = (file.clone(), context.folder.join(BEST));
    let keep = move |task: &GlowTask, _: &TrainState| {
        file.save(&task.predictor, &best).map_err(|e| crate::train::Error::Keep(Box::new(e)))
    };
    let device = context.device.clone().autodiff();
    let model = fit(GlowTask::new(predictor, loss), stage.optim.init(), data, &device, &context.folder, options, keep)?;
    Ok((model, steps_per_epoch))
}
