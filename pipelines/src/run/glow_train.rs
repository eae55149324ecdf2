//! The stage that trains the GLOW predictor: warm-up of the graph encoder, then all of it on the labels.

use super::context::{StageContext, StageEnd};
use super::embedded::{EmbeddedData, glow_data};
use super::error::Error;
use super::predictor::PredictorFile;
use super::warm_up::{adjacency_auc, warm_up};
use crate::eval::UtilityOptions;
use crate::eval::utility::workflows;
use crate::learners::{Contrast, Epochs, GlowBatches, GlowData, GlowRecords, GlowTask, GlowTaskSettings};
use crate::recipe::{GlowTrain, Inputs, PatienceRule, SelectBy, TieBreak};
use crate::train::{EarlyStopping, FitData, FitOptions, FitOutcome, Fitted, Hooks, TrainState, fit, stream};
use burn::module::Module;
use burn_models::glow::{GlowPredictor, Grouping};
use datasets::Split;
use std::collections::BTreeMap;
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
    let workflows = data.workflows(&stage.model.gnn);
    let prompts = data.prompt_rows(&stage.model)?;
    let split = |split| -> Result<GlowData, Error> {
        Ok(glow_data(data.records(split)?, workflows.clone(), tables.clone(), prompts))
    };
    let (mut train, mut valid) = (split(Split::Train)?, split(Split::Val)?);
    drop(data);
    if let Some(rate) = stage.model.head.regression() {
        valid = valid.with_targets(rate.target, &train);
        train = train.clone().with_targets(rate.target, &train);
    }
    fits(context, stage, &train, &valid)?;

    let device = context.device.clone().autodiff();
    let mut predictor = file.init(stream(context.recipe.seed, "init", &[]), &device)?;
    let (mut earlier_seconds, mut auc) = (0.0, None);
    // A predictor without the graph token has nothing to warm up.
    if let Some(warmup) = stage.warmup.as_ref().filter(|_| stage.model.use_graph) {
        let fitted = warm_up(context, stage, warmup, predictor, &train, &valid)?;
        if fitted.outcome == FitOutcome::Interrupted {
            return Ok(StageEnd::Interrupted);
        }
        earlier_seconds += fitted.earlier_seconds;
        let found = adjacency_auc(&fitted);
        if let Some(found) = found {
            context.say(&format!("warm-up: adjacency AUC {found:.4} on the validation split"));
        }
        auc = Some(found);
        predictor = fitted.model.predictor.train();
    }
    let (fitted, steps_per_epoch) = supervise(context, stage, &file, predictor, train, valid)?;
    if fitted.outcome == FitOutcome::Interrupted {
        return Ok(StageEnd::Interrupted);
    }
    file.save(&fitted.model.predictor, &context.folder.join(FINAL))?;

    let epochs = |steps: usize| Some(steps as f64 / steps_per_epoch as f64);
    let rule = &fitted.state.early_stopping;
    let mut metrics = BTreeMap::from([
        ("steps".to_string(), Some(fitted.state.step as f64)),
        ("epochs".to_string(), epochs(fitted.state.step)),
        ("best_epoch".to_string(), epochs(rule.best_step)),
        (format!("best_val_{}", stage.select_by.score().0), rule.best.map(|(score, _)| score)),
        ("parameters".to_string(), Some(fitted.model.predictor.num_params() as f64)),
    ]);
    if let Some(auc) = auc {
        metrics.insert("warmup_adjacency_auc".to_string(), auc);
    }
    let end = StageEnd::done(metrics, &[BEST, FINAL, "metrics.jsonl", "metrics.csv"]);
    Ok(end.after(earlier_seconds + fitted.earlier_seconds))
}

/// Whether the data can be trained on and chosen by with these settings; says what of them has no effect.
fn fits(context: &StageContext, stage: &GlowTrain, train: &GlowData, valid: &GlowData) -> Result<(), Error> {
    context.batch_fits("batch_size", stage.batch_size, train.records.len(), "training records", stage.shrink_batch)?;
    let labels: Vec<f32> = train.records.iter().map(|record| record.label).collect();
    if let Some(only) = labels.first().filter(|first| labels.iter().all(|label| label == *first)) {
        return Err(context.error(format!(
            "all {} records of the training split have label {only}: there is nothing to tell apart",
            labels.len()
        )));
    }
    if stage.select_by == SelectBy::ValUtility {
        let least = UtilityOptions::default().min_records;
        let ranked = workflows(&valid.unscored(), stage.threshold).iter().filter(|w| w.records >= least).count();
        if ranked < 2 {
            return Err(context.error(format!(
                "`select_by: ValUtility` needs two workflows with at least {least} validation records each, and there are \
                 {ranked}: choose by ValAccuracy, ValLoss or ValMacroF1"
            )));
        }
    }
    if let Some(config) = &stage.contrast {
        let mut counts: BTreeMap<i64, [usize; 2]> = BTreeMap::new();
        for record in train.records.iter() {
            let group = if config.group == Grouping::Global { 0 } else { record.task_id };
            counts.entry(group).or_default()[usize::from(record.label >= config.positive_at as f32)] += 1;
        }
        let why = if !counts.values().any(|[negatives, positives]| config.has_anchor(*negatives, *positives)) {
            Some("no task has two training records of one label and one of the other")
        } else if !config.on.iter().any(|token| stage.model.has(*token)) {
            Some("the model has none of the tokens to contrast")
        } else {
            None
        };
        if let Some(why) = why {
            context.say(&format!("{why}: `contrast` has no effect"));
        }
    }
    Ok(())
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
    let positive_at = stage.contrast.as_ref().map_or(0.5, |contrast| contrast.positive_at) as f32;
    let epochs = Epochs::new(tasks, stage.batch_size, stage.drop_last, stage.sampler, stream(seed, "data", &[]))?
        .with_labels(train.records.iter().map(|r| r.label >= positive_at).collect())?;
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
        ema: stage.ema,
        further_devices: Vec::new(),
        compute_dtype: None,
        planned_memory: None,
        eval_every: Some(stage.eval_every_epochs * steps_per_epoch),
        checkpoint_every: Some(stage.checkpoint.every_steps),
        keep: stage.checkpoint.keep,
        select_by,
        tie_break_by_loss: stage.tie_break == TieBreak::LowerLoss,
        early_stopping: EarlyStopping {
            min_delta: stage.min_delta,
            past_patience: (stage.patience_rule == PatienceRule::PastPatience).then_some(steps_per_epoch),
            ..EarlyStopping::new(direction, Some(stage.patience))
        },
    };
    let settings = GlowTaskSettings {
        pred_weight: stage.pred_weight,
        threshold: stage.threshold,
        valid: Arc::new(valid.unscored()),
    };
    let contrast = |name: &str| {
        stage.contrast.as_ref().map(|config| Contrast { config: config.clone(), seed: stream(seed, name, &[]) })
    };
    let data = FitData {
        train: Arc::new(GlowBatches::new(train, contrast("contrast"), epochs, stage.epochs)),
        valid: Arc::new(GlowRecords::new(valid, contrast("contrast validation"), stage.batch_size)),
    };
    let (file, best) = (file.clone(), context.folder.join(BEST));
    let keep = move |task: &GlowTask, _: &TrainState| {
        file.save(&task.predictor, &best).map_err(|e| crate::train::Error::Keep(Box::new(e)))
    };
    let device = context.device.clone().autodiff();
    let task = GlowTask::new(predictor, settings);
    let model = fit(task, stage.optim.init(), data, &device, &context.folder, options, Hooks::new(keep))?;
    Ok((model, steps_per_epoch))
}
