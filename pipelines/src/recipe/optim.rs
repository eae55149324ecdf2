//! Settings that every training stage has: optimizer, checkpoints, number format.

use burn::optim::ModuleOptimizer;
use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

use crate::train::FusedAdamW;

/// Optimizer of a training stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Optim {
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    AdamW(AdamW),
    /// Adam (Kingma and Ba, 2015) with weight decay as an L2 penalty: λ times the weight is added to its gradient.
    Adam(AdamW),
}

impl Optim {
    /// Its settings, which both kinds share.
    pub fn config(&self) -> &AdamW {
        let (Self::AdamW(config) | Self::Adam(config)) = self;
        config
    }

    /// The peak learning rate.
    pub fn lr(&self) -> f64 {
        self.config().lr
    }

    /// A fresh optimizer; the learning rate is given at every step.
    pub fn init(&self) -> ModuleOptimizer {
        let AdamW { weight_decay, betas, eps, .. } = *self.config();
        let betas = [betas.0 as f32, betas.1 as f32];
        let decoupled = matches!(self, Self::AdamW(_));
        FusedAdamW { betas, epsilon: eps as f32, weight_decay, decoupled }.into()
    }
}

/// Settings of an optimizer. A stage's own default holds for `optim` as a whole: where `optim` is written, the defaults
/// below hold for what it leaves out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamW {
    /// Peak learning rate; the schedule scales it. No default.
    pub lr: f64,
    /// Decay of every trained parameter, norms and biases included. Default 1e-4.
    #[serde(default = "AdamW::default_weight_decay")]
    pub weight_decay: f64,
    /// Decay rates of the two moment averages, each in [0, 1). Default (0.9, 0.999).
    #[serde(default = "AdamW::default_betas")]
    pub betas: (f64, f64),
    /// Added to the denominator. Default 1e-8.
    #[serde(default = "AdamW::default_eps")]
    pub eps: f64,
}

impl AdamW {
    /// The defaults with a learning rate.
    pub fn new(lr: f64) -> Self {
        Self { lr, weight_decay: Self::default_weight_decay(), betas: Self::default_betas(), eps: Self::default_eps() }
    }

    fn default_weight_decay() -> f64 {
        1e-4
    }

    fn default_betas() -> (f64, f64) {
        (0.9, 0.999)
    }

    fn default_eps() -> f64 {
        1e-8
    }
}

/// When training saves its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// Optimizer steps between two saves; a crash loses at most so many. Default 500.
    pub every_steps: usize,
    /// How many of the newest saves are kept, besides the best one. Default 2.
    pub keep: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every_steps: 500, keep: 2 }
    }
}

/// Number format of a frozen model's weights and of the computation with them. What is trained is always F32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16: half the memory, about three significant digits. Not on the Ndarray device.
    Bf16,
}

impl From<Dtype> for FloatDType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
        }
    }
}
