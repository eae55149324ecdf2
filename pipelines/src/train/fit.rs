//! One training stage from start to end.

use super::average::Average;
use super::batches::{BatchLoader, Batches};
use super::checkpoint::{Checkpoints, TrainState};
use super::early_stopping::EarlyStopping;
use super::error::Error;
use super::schedule::Schedule;
use super::scores::{MetricSpec, NoteMetric, ScoreMetric, Task};
use super::strategy::{Run, StepStrategy};
use super::terminal;
use crate::report::MetricsLog;
use burn::optim::ModuleOptimizer;
use burn::tensor::{Device, FloatDType};
use burn::train::logger::InMemoryMetricLogger;
use burn::train::{InferenceStep, Interrupter, Learner, SupervisedTraining, TrainStep, TrainingStrategy};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The settings of a training stage.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// The stage's name on the dashboard.
    pub label: String,
    /// The recipe's seed; names the dropout streams.
    pub seed: u64,
    /// Optimizer steps per pass over the data, for the epoch column.
    pub steps_per_epoch: usize,
    /// Base learning rate.
    pub lr: f64,
    /// How it changes.
    pub schedule: Schedule,
    /// Steps per unit of [`Schedule::StepLr`]: 1, or the steps of an epoch.
    pub schedule_unit: usize,
    /// Largest norm of all gradients together; `None`: not clipped.
    pub clip: Option<f64>,
    /// Decay of the exponential moving average of the trained parameters, which is then what is evaluated and kept ([`Average`]);
    /// `None`: the parameters themselves.
    pub ema: Option<f64>,
    /// Devices with autodiff that share the work of every step with the model's own.
    pub further_devices: Vec<Device>,
    /// Number format of copies of the parameters that the steps are computed with, beside the parameters that are updated; `None`: no
    /// copies.
    pub compute_dtype: Option<FloatDType>,
    /// Bytes of memory that the stage is expected to need, where somebody has estimated it.
    pub planned_memory: Option<u64>,
    /// Steps between two evaluations; `None`: no evaluation.
    pub eval_every: Option<usize>,
    /// Steps between two checkpoints; `None`: only at the end and when stopped.
    pub checkpoint_every: Option<usize>,
    /// Checkpoints to keep.
    pub keep: usize,
    /// The score by which the best model is chosen.
    pub select_by: &'static str,
    /// Whether equal scores are decided by the lower loss.
    pub tie_break_by_loss: bool,
    /// The rule for the best model and the end.
    pub early_stopping: EarlyStopping,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FitOutcome {
    /// All steps are done, or the early-stopping rule ended it.
    Finished,
    /// Somebody stopped it; everything is saved.
    Interrupted,
}

/// A trained model and how it came about.
pub struct Fitted<M> {
    /// The model after the last step (its average, with [`FitOptions::ema`]), without autodiff.
    pub model: M,
    /// How the stage ended.
    pub outcome: FitOutcome,
    /// Where it stands.
    pub state: TrainState,
    /// Seconds of training before this process continued it.
    pub earlier_seconds: f64,
}

/// What a stage does with an evaluated model.
pub struct Hooks<M> {
    pub(crate) best: Best<M>,
    pub(crate) further: Option<Further<M>>,
}

/// Called with the model whenever it is the best so far.
type Best<M> = Box<dyn FnMut(&M, &TrainState) -> Result<(), Error> + Send>;
/// Scores of a model after a step.
type Score<M> = Box<dyn FnMut(&M, usize) -> Result<Measured, Error> + Send>;

/// Scores that are not means over batches, and what they come from in words.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The scores, in the order of their specs.
    pub values: Vec<f64>,
    /// An example, for the dashboard.
    pub note: Option<String>,
}

/// Scores that are not means over batches, such as those of generated answers.
pub(crate) struct Further<M> {
    pub(crate) specs: &'static [MetricSpec],
    pub(crate) score: Score<M>,
}

impl<M> Hooks<M> {
    /// Calls `best` with the model whenever an evaluation finds it the best so far.
    pub fn new(best: impl FnMut(&M, &TrainState) -> Result<(), Error> + Send + 'static) -> Self {
        Self { best: Box::new(best), further: None }
    }

    /// Also calls `score` in every evaluation, with the model without autodiff and the step; its values are those of `specs`.
    pub fn with_scores(
        mut self,
        specs: &'static [MetricSpec],
        score: impl FnMut(&M, usize) -> Result<Measured, Error> + Send + 'static,
    ) -> Self {
        self.further = Some(Further { specs, score: Box::new(score) });
        self
    }
}

/// The memory that a step was found with.
pub(crate) const MEMORY: &str = "memory_mib";

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// The values that the strategy adds to a task's scores while training.
const TRAIN_METRICS: [MetricSpec; 5] = [
    MetricSpec::new("lr", "Learning rate", false),
    MetricSpec::new("grad_norm", "Gradient norm", false),
    MetricSpec::new("tokens_per_second", "Tokens/s", true),
    // Above 1 is padding, below 1 is shared.
    MetricSpec::new("computed_per_token", "Computed/token", false),
    MetricSpec::new(MEMORY, "Memory", false).unit("MiB"),
];

/// The data of a stage: batch `i` of `train` is optimizer step `i`, over all epochs.
pub struct FitData<M: Task> {
    /// Training batches.
    pub train: Arc<dyn Batches<<M as TrainStep>::Input>>,
    /// Validation batches; may be empty where nothing is evaluated.
    pub valid: Arc<dyn Batches<<M as InferenceStep>::Input>>,
}

/// Trains `model` (made on the autodiff `device`) over all batches, continuing from the newest whole checkpoint in `folder`.
///
/// Files in `folder`: `checkpoints/`, `metrics.jsonl`, `metrics.csv`, and `not-finite-records.json` after a bad step.
///
/// # Errors
/// See [`Error`]. What was saved before stays.
pub fn fit<M: Task>(
    model: M,
    optimizer: ModuleOptimizer,
    data: FitData<M>,
    device: &Device,
    folder: &Path,
    options: FitOptions,
    hooks: Hooks<M>,
) -> Result<Fitted<M>, Error> {
    let total_steps = data.train.len();
    if total_steps == 0 {
        return Err(Error::Empty("the data holds no whole batch".into()));
    }
    if options.eval_every.is_some() && data.valid.is_empty() {
        return Err(Error::Empty("there are no validation batches to evaluate on".into()));
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let checkpoints = Checkpoints::new(folder.join("checkpoints"), options.keep);
    let (model, averaged, optimizer, state) = checkpoints.load(model, optimizer)?;
    let average = options.ema.map(|decay| Average::of(averaged.as_ref().unwrap_or(&model), decay));
    let state = state.unwrap_or(TrainState {
        step: 0,
        early_stopping: options.early_stopping.clone(),
        seconds: 0.0,
        stopped: false,
    });
    let earlier_seconds = state.seconds;
    if state.step > 0 {
        crate::run::say(&format!("[{}] continuing at step {}/{total_steps}", options.label, state.step));
    }
    let log = MetricsLog::open(folder, state.step as u64)?;

    let interrupter = Interrupter::new();
    let renderer = terminal::renderer(interrupter.clone(), total_steps, state.step);
    let windows = options.eval_every.map_or(1, |every| total_steps.div_ceil(every));
    let further = hooks.further.as_ref().map_or(&[][..], |further| further.specs);
    let run = Arc::new(Mutex::new(Run {
        optimizer: Some(optimizer.clone()),
        state,
        average,
        log,
        result: None,
        hooks,
        note: None,
    }));
    let records = data.train.clone();
    let strategy = StepStrategy {
        device: device.clone(),
        total_steps,
        folder: folder.to_path_buf(),
        records: Box::new(move |step| records.records(step)),
        run: run.clone(),
        options: options.clone(),
    };
    let train = Arc::new(BatchLoader::new(data.train, device.clone()));
    let valid = Arc::new(BatchLoader::new(data.valid, device.clone().inner()));
    let mut training = SupervisedTraining::<M>::new(folder, train, valid)
        .with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy)))
        .with_application_logger(None)
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_interrupter(interrupter)
        .renderer(renderer)
        .num_epochs(windows)
        .label(&options.label);
    if !further.is_empty() {
        training = training.metric_train(NoteMetric::default());
    }
    for spec in M::SCORES {
        training = training.metric_train_numeric(ScoreMetric::new(*spec));
        if options.eval_every.is_some() {
            training = training.metric_valid_numeric(ScoreMetric::new(*spec));
        }
    }
    for spec in M::SUMMARY.iter().chain(further).filter(|_| options.eval_every.is_some()) {
        training = training.metric_valid_numeric(ScoreMetric::new(*spec));
    }
    for spec in TRAIN_METRICS {
        let planned = options.planned_memory.filter(|_| spec.name == MEMORY).map(mib);
        training = training.metric_train_numeric(ScoreMetric::new(spec).of(planned));
    }
    // The strategy has its own optimizer and schedule: the learner carries the model.
    let result = training.launch(Learner::new(model, optimizer, options.lr));
    drop(result.renderer);
    terminal::restore_terminal();

    let mut run = run.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let outcome = match run.result.take() {
        Some(result) => result?,
        None => return Err(Error::Burn(result.error.map_or("the loop did not run".into(), |e| e.to_string()))),
    };
    Ok(Fitted { model: result.model, outcome, state: run.state.clone(), earlier_seconds })
}
