//! AdamW with its update in one pass over a parameter.

use burn::optim::{AdamWState, AdaptiveMomentumState, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};
use burn_models::ops::AdamStep;

/// Burn's `AdamW` (and `Adam`) on [`AdamStep`]: the same numbers and the same state, in one pass in place of a dozen.
#[derive(Debug, Clone)]
pub struct FusedAdamW {
    /// β₁ and β₂.
    pub betas: [f32; 2],
    /// ε.
    pub epsilon: f32,
    /// λ.
    pub weight_decay: f64,
    /// Whether λ shrinks the weight beside the step (AdamW) or is an L2 penalty in the gradient (Adam).
    pub decoupled: bool,
    /// Whether parameters of one dimension, norms and biases, are spared it.
    pub spare_vectors: bool,
    /// What the learning rate is multiplied by.
    pub rate_factor: f64,
}

impl Optimizer for FusedAdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let (time, moments) = match state {
            Some(AdamWState { momentum }) => (momentum.time + 1, [momentum.moment_1, momentum.moment_2]),
            None => (1, [grad.zeros_like(), grad.zeros_like()]),
        };
        let Self { betas, epsilon, mut weight_decay, decoupled, spare_vectors, rate_factor } = *self;
        let rate = rate * rate_factor;
        if spare_vectors && D == 1 {
            weight_decay = 0.0;
        }
        let grad = match decoupled || weight_decay == 0.0 {
            true => grad,
            false => grad + tensor.clone() * std::mem::take(&mut weight_decay),
        };
        let step = AdamStep { betas, epsilon, weight_decay, rate, time };
        let (tensor, [moment_1, moment_2]) = step.apply(tensor, grad, moments);
        (tensor, Some(AdamWState::new(AdaptiveMomentumState::new(time, moment_1, moment_2))))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}
