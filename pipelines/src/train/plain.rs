//! Training without a terminal: one line now and then.

use super::scores::short;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, MetricId};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Prints a line at most every few seconds, and one per evaluation (at most one a second) to standard error.
pub(crate) struct PlainRenderer {
    names: HashMap<MetricId, String>,
    train: Vec<(String, f64)>,
    valid: Vec<(String, f64)>,
    label: String,
    total_steps: usize,
    steps_before: usize,
    window: usize,
    done: usize,
    in_valid: bool,
    last: Option<Instant>,
    last_valid: Option<Instant>,
}

/// The time between two lines about training.
const EVERY: Duration = Duration::from_secs(5);
/// The time between two lines about evaluations: a small predictor has dozens in a second.
const EVERY_VALID: Duration = Duration::from_secs(1);

impl PlainRenderer {
    /// `total_steps` of the stage, of which `done` are done already.
    pub(crate) fn new(total_steps: usize, done: usize) -> Self {
        Self {
            names: HashMap::new(),
            train: Vec::new(),
            valid: Vec::new(),
            label: String::new(),
            total_steps,
            steps_before: done,
            window: 0,
            done: 0,
            in_valid: false,
            last: None,
            last_valid: None,
        }
    }

    fn put(&mut self, state: MetricState, valid: bool) {
        let MetricState::Numeric(entry, Some(value)) = state else { return };
        let Some(name) = self.names.get(&entry.metric_id) else { return };
        let list = if valid { &mut self.valid } else { &mut self.train };
        match list.iter_mut().find(|(n, _)| n == name) {
            Some((_, v)) => *v = value.current(),
            None => list.push((name.clone(), value.current())),
        }
    }

    fn line(&self, what: &str, values: &[(String, f64)]) {
        let mut text = format!("[{}] {what}", self.label);
        for (name, value) in values.iter().filter(|(_, v)| v.is_finite()) {
            text.push_str(&format!("  {name} {}", short(*value)));
        }
        crate::run::say(&text);
    }
}

impl MetricsRendererTraining for PlainRenderer {
    fn update_train(&mut self, state: MetricState) {
        self.put(state, false);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.put(state, true);
    }
}

impl TrainingProgressLogger for PlainRenderer {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, label: Option<&str>) {
        self.label = label.unwrap_or("train").to_string();
    }

    fn update_epoch(&mut self, _: usize) {}

    fn start_split(&mut self, split: &str, items: usize) {
        self.in_valid = split != "train";
        if !self.in_valid {
            self.window = items;
            self.done = 0;
        }
    }

    fn update_split(&mut self, items: usize) {
        if self.in_valid {
            return;
        }
        self.done = items;
        let step = self.steps_before + items;
        let due = self.last.is_none_or(|last| last.elapsed() >= EVERY) || step == self.total_steps;
        if due {
            self.last = Some(Instant::now());
            self.line(&format!("step {step}/{}", self.total_steps), &self.train);
        }
    }

    fn end_split(&mut self) {
        if self.in_valid {
            let step = self.steps_before;
            let due = self.last_valid.is_none_or(|last| last.elapsed() >= EVERY_VALID) || step == self.total_steps;
            if due {
                self.last_valid = Some(Instant::now());
                self.line(&format!("step {step}/{} evaluation", self.total_steps), &self.valid);
            }
        } else {
            self.steps_before += self.done;
        }
    }

    fn end(&mut self) {}

    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for PlainRenderer {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRendererEvaluation for PlainRenderer {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl MetricsRenderer for PlainRenderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id, definition.name.to_string());
    }
}
