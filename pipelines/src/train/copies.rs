//! Copies of a model that compute its steps.

use super::scores::{Scores, Task};
use super::trained::Trained;
use burn::module::{ModuleMapper, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, FloatDType, Tensor};
use burn::train::{TrainOutput, TrainStep};

/// Copies of a model that compute the gradients of its steps, while the model itself is what is updated and saved:
///
/// - on further devices, which compute their parts of every step (data parallelism); the gradients are added up on the first;
/// - in bf16, beside masters in f32 (mixed precision).
///
/// After every step the copies take over what is trained. Frozen weights are copied once.
pub(crate) struct Copies<M> {
    /// With autodiff; the first is the model's own.
    devices: Vec<Device>,
    /// For every device; `None` where the model itself computes.
    models: Vec<Option<M>>,
}

impl<M: Task> Copies<M> {
    /// The copies that are needed for a model on the first device; `None` where it can compute alone.
    pub(crate) fn of(model: &M, devices: Vec<Device>, dtype: Option<FloatDType>) -> Option<Self> {
        if devices.len() == 1 && dtype.is_none() {
            return None;
        }
        let copy = |(at, device): (usize, &Device)| match dtype {
            Some(dtype) => Some(model.clone().fork(device).map(&mut Cast(dtype))),
            None => (at > 0).then(|| model.clone().fork(device)),
        };
        let models = devices.iter().enumerate().map(copy).collect();
        Some(Self { devices, models })
    }

    /// Takes over what is trained.
    ///
    /// # Errors
    /// What a device said when it failed.
    pub(crate) fn follow(&mut self, model: &M) -> Result<(), String> {
        let alone = self.devices.len() == 1;
        guarded(alone, || self.take_over(model))
    }

    fn take_over(&mut self, model: &M) {
        for (copy, device) in self.models.iter_mut().zip(&self.devices) {
            if let Some(old) = copy.take() {
                let trained = Trained::of(model).onto(&device.clone().inner(), model);
                *copy = Some(trained.put_into(old));
            }
        }
    }

    /// One step: gradients and scores on the first device. `seed` gives each device the seed of its random numbers.
    ///
    /// Devices that are one and the same, as CPU devices are, take turns: they share a generator, and nothing would be won.
    ///
    /// # Errors
    /// What a device said when it failed.
    pub(crate) fn step(
        &self,
        model: &M,
        input: <M as TrainStep>::Input,
        seed: impl Fn(usize) -> u64,
    ) -> Result<TrainOutput<Scores>, String> {
        guarded(self.devices.len() == 1, || self.compute(model, input, seed))
    }

    fn compute(&self, model: &M, input: <M as TrainStep>::Input, seed: impl Fn(usize) -> u64) -> TrainOutput<Scores> {
        let parts = M::split(input, &self.devices);
        let apart = (1..parts.len()).all(|at| !self.devices[..at].contains(&self.devices[at]));
        let jobs = parts.into_iter().enumerate().map(|(at, part)| {
            let model = self.models[at].as_ref().unwrap_or(model).clone();
            let (device, seed) = (self.devices[at].clone(), seed(at));
            move || {
                device.seed(seed);
                TrainStep::step(&model, part)
            }
        });
        let outputs: Vec<TrainOutput<Scores>> = if apart && jobs.len() > 1 {
            std::thread::scope(|scope| {
                let running: Vec<_> = jobs.map(|job| scope.spawn(job)).collect();
                let joined = running.into_iter().map(|job| job.join());
                joined.map(|output| output.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
            })
        } else {
            jobs.map(|job| job()).collect()
        };
        self.sum(model, outputs)
    }

    fn sum(&self, model: &M, outputs: Vec<TrainOutput<Scores>>) -> TrainOutput<Scores> {
        let plain = self.devices[0].clone().inner();
        let mut gradients = GradientsAccumulator::new();
        let mut total = Scores::none();
        for (at, TrainOutput { grads, item }) in outputs.into_iter().enumerate() {
            let grads: GradientsParams = if at == 0 { grads } else { grads.to_device(&plain, model) };
            gradients.accumulate(model, grads);
            total = total.plus(item, &plain);
        }
        TrainOutput { grads: gradients.grads(), item: total }
    }
}

/// Burn's operations have no errors to return: a device that fails, such as one of another host, panics. With one device only there is
/// no other to go on with.
fn guarded<R>(alone: bool, work: impl FnOnce() -> R) -> Result<R, String> {
    if alone {
        return Ok(work());
    }
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("it gave no reason").to_owned()
    })
}

/// Parameters in another number format.
struct Cast(FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| {
            let trained = old.is_require_grad();
            Tensor::from_inner(old.without_autodiff().cast(self.0)).set_require_grad(trained)
        })
    }
}
