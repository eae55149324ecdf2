//! The loop over optimizer steps.

use super::average::Average;
use super::checkpoint::{Checkpoints, TrainState};
use super::clip::{gradient_norm, scale_gradients};
use super::copies::Copies;
use super::early_stopping::Direction;
use super::error::Error;
use super::fit::{FitOptions, FitOutcome, Hooks, MEMORY, mib};
use super::scores::{Scores, Task};
use super::seeds::stream;
use super::terminal::stop_requested;
use crate::device::memory_in_use;
use crate::report::{MetricsLog, Split};
use burn::data::dataloader::Progress;
use burn::optim::ModuleOptimizer;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::tensor::{Device, Tensor};
use burn::train::{
    AsyncProcessorTraining, EventProcessorTraining, Learner, LearnerEvent, SupervisedLearningStrategy,
    SupervisedTrainingEventProcessor, TrainLoader, TrainingComponents, TrainingItem, ValidLoader,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What goes into [`StepStrategy`] and, changed, comes out of it.
pub(crate) struct Run<M> {
    pub(crate) optimizer: Option<ModuleOptimizer>,
    pub(crate) state: TrainState,
    pub(crate) average: Option<Average>,
    pub(crate) log: MetricsLog,
    pub(crate) result: Option<Result<FitOutcome, Error>>,
    pub(crate) hooks: Hooks<M>,
    /// What the last evaluation has to say in words.
    pub(crate) note: Option<Arc<str>>,
}

/// The ids of the records of a step.
pub(crate) type StepRecords = Box<dyn Fn(usize) -> Vec<String> + Send + Sync>;

/// Trains step by step (see the [module](super)): a `burn-train` strategy whose "epochs" are the stretches between two
/// evaluations.
pub struct StepStrategy<M> {
    pub(crate) device: Device,
    pub(crate) options: FitOptions,
    pub(crate) total_steps: usize,
    pub(crate) folder: PathBuf,
    pub(crate) records: StepRecords,
    pub(crate) run: Arc<Mutex<Run<M>>>,
}

/// The events of any task: all report [`Scores`].
type Events = AsyncProcessorTraining<LearnerEvent<Scores>, LearnerEvent<Scores>>;

impl<M: Task> SupervisedLearningStrategy<M> for StepStrategy<M> {
    fn fit(
        &self,
        mut components: TrainingComponents<M>,
        learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
        _starting_epoch: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        let mut run = self.run.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut model = learner.model();
        drop(learner);
        let result = self.steps(&mut run, &mut components, &mut model, &train, &valid);
        run.result = Some(result);
        let model = run.evaluated(&model);
        (model, components.event_processor)
    }
}

impl<M: Task> StepStrategy<M> {
    /// Trains until the stage ends or somebody stops it. The model and `run` hold the last finished step on every return.
    fn steps(
        &self,
        run: &mut Run<M>,
        components: &mut TrainingComponents<M>,
        model: &mut M,
        train: &TrainLoader<M>,
        valid: &ValidLoader<M>,
    ) -> Result<FitOutcome, Error> {
        let options = &self.options;
        let checkpoints = Checkpoints::new(self.folder.join("checkpoints"), options.keep);
        let started = Instant::now();
        let before = run.state.seconds;
        let mut optimizer =
            run.optimizer.take().ok_or_else(|| Error::Burn("the strategy was launched twice".into()))?;
        let mut saved_at = run.state.step;
        let devices = [vec![self.device.clone()], options.further_devices.clone()].concat();
        let mut copies = Copies::of(model, devices, options.compute_dtype);

        let outcome = 'stage: {
            if run.state.stopped || run.state.step >= self.total_steps {
                break 'stage FitOutcome::Finished;
            }
            let rest = train.slice(run.state.step, self.total_steps);
            let mut batches = rest.iter();
            let mut window = Window::open(self, run.state.step, &mut components.event_processor)?;
            let mut clock = Instant::now();
            while run.state.step < self.total_steps {
                let Some(batch) = batches.next() else {
                    return Err(Error::Batch { step: run.state.step + 1, reason: "the data ended early".into() });
                };
                let batch = batch.map_err(|e| Error::Batch { step: run.state.step + 1, reason: e.to_string() })?;
                let mut scores =
                    self.step(model, copies.as_mut(), &mut optimizer, run.state.step, batch, &mut clock)?;
                scores.note = run.note.clone();
                run.state.step += 1;
                if let Some(average) = &mut run.average {
                    average.update(model, run.state.step);
                }
                run.state.seconds = before + started.elapsed().as_secs_f64();
                let step = run.state.step;
                self.log(run, Split::Train, &scores)?;
                window.report(&mut components.event_processor, scores, step)?;

                let stop = stop_requested() || components.interrupter.should_stop();
                let last = step == self.total_steps;
                if window.is_full(step) && options.eval_every.is_none() {
                    window.close(&mut components.event_processor)?;
                } else if window.is_full(step) {
                    window.close(&mut components.event_processor)?;
                    let evaluated = run.evaluated(model);
                    let verdict = self.evaluate(run, components, &evaluated, valid, window.number)?;
                    if verdict.improved {
                        (run.hooks.best)(&evaluated, &run.state)?;
                    }
                    run.state.stopped |= verdict.stop || run.state.early_stopping.is_over(step);
                    if !last && !run.state.stopped {
                        window = Window::open(self, step, &mut components.event_processor)?;
                    }
                    // The time of an evaluation is not the time of a step.
                    clock = Instant::now();
                } else {
                    run.state.stopped |= run.state.early_stopping.is_over(step);
                }
                let due = options.checkpoint_every.is_some_and(|every| step.is_multiple_of(every));
                if stop || due || last || run.state.stopped {
                    run.log.flush()?;
                    checkpoints.save(model, run.average.as_ref(), &optimizer, &run.state)?;
                    saved_at = step;
                }
                if run.state.stopped {
                    break 'stage FitOutcome::Finished;
                }
                if stop {
                    break 'stage if last { FitOutcome::Finished } else { FitOutcome::Interrupted };
                }
            }
            FitOutcome::Finished
        };
        if saved_at != run.state.step {
            checkpoints.save(model, run.average.as_ref(), &optimizer, &run.state)?;
        }
        run.log.flush()?;
        Ok(outcome)
    }

    /// One optimizer step: forward, backward, one read of loss and norm, clip, update.
    fn step(
        &self,
        model: &mut M,
        copies: Option<&mut Copies<M>>,
        optimizer: &mut ModuleOptimizer,
        step: usize,
        batch: <M as burn::train::TrainStep>::Input,
        clock: &mut Instant,
    ) -> Result<Scores, Error> {
        let options = &self.options;
        let failed = |reason| Error::Copies { step: step + 1, reason };
        let output = match &copies {
            None => {
                self.device.seed(stream(options.seed, "dropout", &[step as u64]));
                burn::train::TrainStep::step(&*model, batch)
            }
            Some(copies) => {
                let seed = |device| stream(options.seed, "dropout", &[step as u64, device as u64]);
                copies.step(model, batch, seed).map_err(failed)?
            }
        };
        let (mut grads, mut scores) = (output.grads, output.item);
        let norm = gradient_norm(model, &grads);
        let norm = scores.read::<M>(norm).first().copied();
        // Here a device has nothing left to do, and the gradients are still there: near the most that a step needs.
        let memory = memory_in_use(&self.device);
        let loss = scores.values.first().map_or(f64::NAN, |(_, loss)| *loss);
        for (what, value) in [("loss", loss), ("gradient norm", norm.unwrap_or(0.0))] {
            if !value.is_finite() {
                let records = self.folder.join("not-finite-records.json");
                write_records(&records, step + 1, &(self.records)(step))?;
                return Err(Error::NotFinite { step: step + 1, what, value, records });
            }
        }
        if let (Some(max), Some(norm)) = (options.clip, norm)
            && norm > max
        {
            // 1e-6 as in torch.nn.utils.clip_grad_norm_.
            scale_gradients(model, &mut grads, max / (norm + 1e-6));
        }
        let rate = options.schedule.rate(options.lr, step, self.total_steps, options.schedule_unit);
        // With rate 0 (the first step of a warm-up) the moments move and the weights do not.
        *model = optimizer.step(ModuleLearningRate::from(rate), model.clone(), grads);
        if let Some(copies) = copies {
            copies.follow(model).map_err(failed)?;
        }

        let seconds = clock.elapsed().as_secs_f64();
        *clock = Instant::now();
        if let Some(norm) = norm {
            scores.values.push(("grad_norm", norm));
        }
        scores.values.push(("lr", rate));
        if scores.tokens > 0 && seconds > 0.0 {
            scores.values.push(("tokens_per_second", scores.tokens as f64 / seconds));
        }
        if scores.tokens > 0 && scores.computed > 0 {
            scores.values.push(("computed_per_token", scores.computed as f64 / scores.tokens as f64));
        }
        if let Some(memory) = memory {
            scores.values.push((MEMORY, mib(memory)));
        }
        Ok(scores)
    }

    /// The means of all scores over the validation batches.
    fn evaluate(
        &self,
        run: &mut Run<M>,
        components: &mut TrainingComponents<M>,
        model: &M,
        valid: &ValidLoader<M>,
        window: usize,
    ) -> Result<super::Verdict, Error> {
        let options = &self.options;
        let events = &mut components.event_processor;
        let failed = |e: burn::train::EventProcessorError| Error::Burn(e.to_string());
        events
            .process_valid(LearnerEvent::StartSplit { epoch_number: window, total_items: valid.num_items() })
            .map_err(failed)?;
        let model = model.valid();
        let mut sums: Vec<(&'static str, f64)> = Vec::new();
        let (mut weight, mut outputs) = (0.0, Vec::new());
        let total = valid.num_items();
        for (number, batch) in valid.iter().enumerate() {
            let batch = batch.map_err(|e| Error::Batch { step: number + 1, reason: e.to_string() })?;
            let mut scores = burn::train::InferenceStep::step(&model, batch);
            let left = scores.outputs.take();
            outputs.extend(scores.read::<M>(left));
            weight += scores.weight;
            for (name, value) in &scores.values {
                match sums.iter_mut().find(|(n, _)| n == name) {
                    Some((_, sum)) => *sum += value * scores.weight,
                    None => sums.push((*name, value * scores.weight)),
                }
            }
        }
        let mut values: Vec<_> = sums.into_iter().map(|(name, sum)| (name, sum / weight)).collect();
        values.extend(M::SUMMARY.iter().map(|spec| spec.name).zip(model.summarize(&outputs)));
        if let Some(further) = &mut run.hooks.further {
            let measured = (further.score)(&model, run.state.step)?;
            values.extend(further.specs.iter().map(|spec| spec.name).zip(measured.values));
            run.note = measured.note.map(Arc::from);
        }
        let means = Scores { weight, values, ..Scores::none() };
        // One point per evaluation: the means of single batches would draw a saw.
        let item = TrainingItem::new(
            means.clone(),
            Progress::new(total, total, Some("batches".into())),
            Some(run.state.step),
            None,
        );
        events.process_valid(LearnerEvent::ProcessedItem(item)).map_err(failed)?;
        events.process_valid(LearnerEvent::EndSplit(window)).map_err(failed)?;
        events.process_train(LearnerEvent::EndEpoch(window)).map_err(failed)?;
        self.log(run, Split::Valid, &means)?;
        let Some(score) = means.get(options.select_by) else {
            return Err(Error::Empty(format!(
                "there are no validation batches, so no `{}` to choose by",
                options.select_by
            )));
        };
        let tie = if options.tie_break_by_loss { means.get("loss").unwrap_or(0.0) } else { 0.0 };
        // A score that is not a number is the worst there is.
        let score = match (score.is_nan(), run.state.early_stopping.direction) {
            (false, _) => score,
            (true, Direction::Highest) => f64::NEG_INFINITY,
            (true, Direction::Lowest) => f64::INFINITY,
        };
        Ok(run.state.early_stopping.observe(run.state.step, score, tie))
    }

    fn log(&self, run: &mut Run<M>, split: Split, scores: &Scores) -> Result<(), Error> {
        let step = run.state.step as u64;
        let epoch = step as f64 / self.options.steps_per_epoch.max(1) as f64;
        for (name, value) in &scores.values {
            run.log.push(step, Some(epoch), split, name, *value)?;
        }
        Ok(())
    }
}

impl<M: Task> Run<M> {
    /// What is evaluated and kept of a model: its average, where there is one.
    fn evaluated(&self, model: &M) -> M {
        match &self.average {
            Some(average) => average.apply(model),
            None => model.clone(),
        }
    }
}

/// The steps between two evaluations, as burn-train's dashboard sees them.
struct Window {
    number: usize,
    start: usize,
    end: usize,
}

impl Window {
    fn open<M: Task>(strategy: &StepStrategy<M>, step: usize, events: &mut Events) -> Result<Self, Error> {
        let every = strategy.options.eval_every.unwrap_or(strategy.total_steps);
        let number = step / every + 1;
        let end = (number * every).min(strategy.total_steps);
        events
            .process_train(LearnerEvent::StartSplit { epoch_number: number, total_items: end - step })
            .map_err(|e| Error::Burn(e.to_string()))?;
        Ok(Self { number, start: step, end })
    }

    fn report(&self, events: &mut Events, scores: Scores, step: usize) -> Result<(), Error> {
        let progress = Progress::new(step - self.start, self.end - self.start, Some("steps".into()));
        let rate = scores.get("lr").unwrap_or(0.0);
        let item = TrainingItem::new(scores, progress, Some(step), Some(rate.into()));
        events.process_train(LearnerEvent::ProcessedItem(item)).map_err(|e| Error::Burn(e.to_string()))
    }

    fn is_full(&self, step: usize) -> bool {
        step >= self.end
    }

    fn close(&self, events: &mut Events) -> Result<(), Error> {
        events.process_train(LearnerEvent::EndSplit(self.number)).map_err(|e| Error::Burn(e.to_string()))
    }
}

impl Scores {
    /// Brings the values to the host, together with others, which it returns: the only synchronisation of a step.
    pub fn read<M: Task>(&mut self, extra: Option<Tensor<1>>) -> Vec<f64> {
        let Some(device) = self.device.take() else { return Vec::new() };
        let count = device.dims()[0];
        let joined = match &extra {
            Some(extra) => Tensor::cat(vec![device.without_autodiff(), extra.clone().without_autodiff()], 0),
            None => device.without_autodiff(),
        };
        let mut values = joined.into_data().iter::<f64>().collect::<Vec<_>>();
        let extra = values.split_off(count.min(values.len()));
        debug_assert_eq!(count, M::SCORES.len(), "a task reports as many scores as it names");
        self.values = M::SCORES.iter().map(|spec| spec.name).zip(values).collect();
        extra
    }
}

fn write_records(path: &Path, step: usize, records: &[String]) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(&serde_json::json!({ "step": step, "records": records })).unwrap_or_default();
    std::fs::write(path, text).map_err(Error::io(path))
}
