//! What a step reports, and how burn-train shows it.

use burn::module::Module;
use burn::tensor::{Device, ExecutionError, Tensor, TensorReadError};
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};
use burn::train::{InferenceStep, ItemLazy, TrainStep};
use std::sync::Arc;

/// A model that the strategy trains: burn-train's two steps with [`Scores`] as output.
pub trait Task:
    Module + TrainStep<Output = Scores> + InferenceStep<Output = Scores> + core::fmt::Display + 'static
{
    /// The names of the values that the steps put on the device, the loss first.
    const SCORES: &'static [MetricSpec];
    /// The names of the values that only a whole evaluation has.
    const SUMMARY: &'static [MetricSpec] = &[];

    /// The parts of a step that devices compute side by side, the n-th on device n, at most one for each: their gradients and scores add
    /// up to those of the whole. As it stands here, the first device computes everything.
    fn split(input: <Self as TrainStep>::Input, _devices: &[Device]) -> Vec<<Self as TrainStep>::Input> {
        vec![input]
    }

    /// The values of [`Task::SUMMARY`], in its order, from the outputs that the batches of an evaluation left
    /// ([`Scores::with_outputs`]), one after another. NaN for a value that is not defined.
    fn summarize(&self, _outputs: &[f64]) -> Vec<f64> {
        Vec::new()
    }
}

/// The values of one training step or one validation batch.
///
/// The model leaves them on the device ([`Scores::on_device`]); the strategy reads them, together with the gradient norm,
/// in one synchronisation and adds what it knows itself.
#[derive(Clone, Debug)]
pub struct Scores {
    /// What the values are means over: records or supervised tokens. Weights the mean over batches.
    pub weight: f64,
    /// Tokens processed, without padding; 0 where the notion makes no sense.
    pub tokens: usize,
    /// Places computed for them, padding included and what several share once; 0 where nobody counted.
    pub computed: usize,
    pub(crate) device: Option<Tensor<1>>,
    pub(crate) outputs: Option<Tensor<1>>,
    pub(crate) values: Vec<(&'static str, f64)>,
    /// What the last evaluation has to say in words.
    pub(crate) note: Option<Arc<str>>,
}

impl Scores {
    /// Those of no records.
    pub(crate) fn none() -> Self {
        Self { weight: 0.0, tokens: 0, computed: 0, device: None, outputs: None, values: Vec::new(), note: None }
    }

    /// Values on the device, in the order of [`Task::SCORES`]; shape [number of scores].
    pub fn on_device(values: Tensor<1>, weight: f64, tokens: usize) -> Self {
        Self { weight, tokens, device: Some(values), ..Self::none() }
    }

    /// The same with the number of places that were computed.
    pub fn with_computed(mut self, computed: usize) -> Self {
        self.computed = computed;
        self
    }

    /// The same with what [`Task::summarize`] is to see of this validation batch: any number of values.
    pub fn with_outputs(mut self, outputs: Tensor<1>) -> Self {
        self.outputs = Some(outputs);
        self
    }

    /// The sum with another part of the same step, on a device. All parts are shares of the same weight.
    pub(crate) fn plus(mut self, other: Self, device: &Device) -> Self {
        self.device = match (self.device, other.device) {
            (Some(own), Some(other)) => Some(own + other.to_device(device)),
            (own, other) => own.or(other),
        };
        self.weight = other.weight;
        self.tokens += other.tokens;
        self.computed += other.computed;
        self
    }

    /// The value of this name, once it has been read.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

impl ItemLazy for Scores {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<Scores> for Scores {
    fn adapt(&self) -> Scores {
        self.clone()
    }
}

/// A score's name and how to show it.
#[derive(Clone, Copy, Debug)]
pub struct MetricSpec {
    /// The name in files: `loss`, `accuracy`, …
    pub name: &'static str,
    /// The name on the dashboard.
    pub title: &'static str,
    /// Its unit, where it has one.
    pub unit: Option<&'static str>,
    /// Whether larger is better.
    pub higher_is_better: bool,
}

impl MetricSpec {
    /// A score without a unit.
    pub const fn new(name: &'static str, title: &'static str, higher_is_better: bool) -> Self {
        Self { name, title, unit: None, higher_is_better }
    }

    /// The same with a unit.
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }
}

/// Shows one score on the dashboard: the current value and the weighted mean since the last evaluation.
#[derive(Clone)]
pub(crate) struct ScoreMetric {
    spec: MetricSpec,
    current: Option<f64>,
    /// What was planned of it.
    planned: Option<f64>,
    sum: f64,
    weight: f64,
}

impl ScoreMetric {
    pub(crate) fn new(spec: MetricSpec) -> Self {
        Self { spec, current: None, planned: None, sum: 0.0, weight: 0.0 }
    }

    /// The same beside what was planned.
    pub(crate) fn of(self, planned: Option<f64>) -> Self {
        Self { planned, ..self }
    }

    fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    fn entry(&self) -> SerializedEntry {
        match (self.current, self.mean()) {
            (Some(current), Some(mean)) => {
                let planned =
                    self.planned.map_or_else(String::new, |planned| format!(" of {} planned", short(planned)));
                SerializedEntry::new(
                    format!("mean {} - now {}{planned}", short(mean), short(current)),
                    NumericEntry::Value(current).serialize(),
                )
            }
            _ => SerializedEntry::not_available(self.spec.unit),
        }
    }
}

impl Metric for ScoreMetric {
    type Input = Scores;

    fn name(&self) -> MetricName {
        Arc::new(self.spec.title.to_string())
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: self.spec.unit.map(str::to_string), higher_is_better: self.spec.higher_is_better }
            .into()
    }

    fn update(&mut self, scores: &Scores, _: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        self.current = scores.get(self.spec.name);
        if let Some(value) = self.current {
            self.sum += value * scores.weight;
            self.weight += scores.weight;
        }
        Ok(self.entry())
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry())
    }

    fn clear(&mut self) {
        *self = Self::new(self.spec).of(self.planned);
    }
}

impl Numeric for ScoreMetric {
    fn value(&self) -> Option<NumericEntry> {
        self.current.map(NumericEntry::Value)
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.mean().map(NumericEntry::Value)
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Value(self.mean().unwrap_or(f64::NAN))
    }
}

/// Shows on the dashboard what the last evaluation has to say in words.
#[derive(Clone, Default)]
pub(crate) struct NoteMetric(Option<Arc<str>>);

impl Metric for NoteMetric {
    type Input = Scores;

    fn name(&self) -> MetricName {
        Arc::new("Last answer".into())
    }

    fn update(&mut self, scores: &Scores, _: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        if let Some(note) = &scores.note {
            self.0 = Some(note.clone());
        }
        self.compute()
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let note = self.0.as_deref().unwrap_or("none yet");
        // Logs of metrics in memory keep the second.
        Ok(SerializedEntry::new(note.into(), String::new()))
    }

    // What was said last is shown until there is something newer.
    fn clear(&mut self) {}
}

/// Four significant digits, without an exponent where that is readable.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.3e}");
    }
    let digits = if size >= 1000.0 { 0 } else { 4usize.saturating_sub(1 + size.max(1.0).log10() as usize) };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use burn::data::dataloader::Progress;

    #[test]
    fn what_was_planned_and_what_was_said() {
        let at = MetricMetadata { progress: Progress::new(1, 1, None), iteration: None, lr: None };
        let mut memory = ScoreMetric::new(MetricSpec::new("memory_mib", "Memory", false)).of(Some(310.0));
        let mut note = NoteMetric::default();
        let mut scores = Scores { weight: 1.0, values: vec![("memory_mib", 292.0)], ..Scores::none() };
        assert_eq!(memory.update(&scores, &at).unwrap().formatted, "mean 292.0 - now 292.0 of 310.0 planned");
        assert_eq!(note.update(&scores, &at).unwrap().formatted, "none yet");
        scores.note = Some("step 3: \"a\"".into());
        assert_eq!(note.update(&scores, &at).unwrap().formatted, "step 3: \"a\"");
        // The next window of steps begins with what was said last.
        memory.clear();
        note.clear();
        assert!(note.compute().unwrap().formatted.starts_with("step 3"));
        assert!(memory.update(&scores, &at).unwrap().formatted.ends_with("planned"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(0.0), "0.000");
        assert_eq!(short(0.123456), "0.123");
        assert_eq!(short(12.3456), "12.35");
        assert_eq!(short(123456.0), "123456");
        assert_eq!(short(5e-5), "5.000e-5");
    }
}
