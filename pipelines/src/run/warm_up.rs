//! The warm-up of the GLOW predictor's graph encoder, the first part of its training stage.

use super::context::StageContext;
use super::error::Error;
use crate::learners::{Epochs, GlowData, WarmupBatches, WarmupTask};
use crate::recipe::{GlowTrain, Warmup, WarmupSampling};
use crate::train::{Direction, EarlyStopping, FitData, FitOptions, Fitted, Hooks, fit, stream};
use burn_models::glow::GlowPredictor;
use datasets::sampler::Sampler;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The score that the warm-up is judged by at its end.
const AUC: &str = "adjacency_auc";

/// The graph encoder learns to read node texts and edges back from its vectors; at the end it is evaluated on the workflows
/// of the validation split.
pub(super) fn warm_up(
    context: &StageContext,
    stage: &GlowTrain,
    warmup: &Warmup,
    predictor: GlowPredictor,
    train: &GlowData,
    valid: &GlowData,
) -> Result<Fitted<WarmupTask>, Error> {
    let seed = context.recipe.seed;
    let drawn = train.records.iter().map(|r| r.workflow);
    let (pool, what): (Vec<u32>, _) = match warmup.sampling {
        WarmupSampling::UniqueWorkflows => (distinct(train), "distinct workflows to warm up on"),
        WarmupSampling::Records => (drawn.collect(), "records to warm up on"),
    };
    context.batch_fits("warmup.batch_size", warmup.batch_size, pool.len(), what, stage.shrink_batch)?;
    let epochs = |pool: &[u32], drop_last: bool, name: &str| {
        let tasks = vec![0; pool.len()];
        Epochs::new(tasks, warmup.batch_size, drop_last, Sampler::Shuffle, stream(seed, name, &[]))
    };
    let batches =
        |pool, epochs, steps| WarmupBatches::new(train.workflows.clone(), pool, train.tables.clone(), epochs, steps);
    let train_epochs = epochs(&pool, true, "warmup data")?;
    let steps_per_epoch = train_epochs.per_epoch();
    let valid_pool = distinct(valid);
    let valid_epochs = epochs(&valid_pool, false, "warmup validation")?;
    let valid_batches = valid_epochs.per_epoch();
    let data = FitData {
        train: Arc::new(batches(pool, train_epochs, warmup.steps).replay(warmup.replay)),
        valid: Arc::new(batches(valid_pool, valid_epochs, valid_batches)),
    };
    let options = FitOptions {
        label: format!("{} warm-up", context.label()),
        seed: stream(seed, "warmup", &[]),
        steps_per_epoch,
        lr: warmup.optim.lr(),
        schedule: warmup.schedule.clone(),
        schedule_unit: 1,
        clip: None,
        ema: None,
        further_devices: Vec::new(),
        compute_dtype: None,
        planned_memory: None,
        eval_every: Some(warmup.steps),
        checkpoint_every: Some(stage.checkpoint.every_steps),
        keep: stage.checkpoint.keep,
        select_by: AUC,
        tie_break_by_loss: false,
        early_stopping: EarlyStopping::new(Direction::Highest, None),
    };
    let task = WarmupTask::new(predictor, warmup.node_weight, warmup.adj_weight);
    let folder = context.folder.join("warmup");
    let device = context.device.clone().autodiff();
    Ok(fit(task, warmup.optim.init(), data, &device, &folder, options, Hooks::new(|_, _| Ok(())))?)
}

/// The adjacency AUC at the end of a warm-up; `None` where the validation split's graphs have no edge, or every edge.
pub(super) fn adjacency_auc(fitted: &Fitted<WarmupTask>) -> Option<f64> {
    fitted.state.early_stopping.best.map(|(auc, _)| auc).filter(|auc| auc.is_finite())
}

/// The workflows of a split, each once.
fn distinct(data: &GlowData) -> Vec<u32> {
    data.records.iter().map(|r| r.workflow).collect::<BTreeSet<_>>().into_iter().collect()
}
