//! A moving average of what is trained.

use super::trained::Trained;
use burn::module::Module;

/// The exponential moving average of the trained parameters: after step t each is `d·average + (1 − d)·parameter` with
/// `d = min(decay, (1 + t) / (10 + t))`, so that the first steps do not weigh forever.
pub struct Average {
    decay: f64,
    values: Trained,
}

impl Average {
    /// One that begins at the trained parameters of `model`.
    pub fn of<M: Module>(model: &M, decay: f64) -> Self {
        Self { decay, values: Trained::of(model) }
    }

    /// Moves towards `model` after its optimizer step number `step`, from 1.
    pub fn update<M: Module>(&mut self, model: &M, step: usize) {
        let step = step as f64;
        self.values.mix(model, self.decay.min((1.0 + step) / (10.0 + step)));
    }

    /// `model` with the averages in place of its trained parameters.
    pub fn apply<M: Module>(&self, model: &M) -> M {
        self.values.put_into(model.clone())
    }
}
