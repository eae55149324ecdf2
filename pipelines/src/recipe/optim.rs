//! Settings that every training stage has: optimizer, checkpoints, number format.

use burn::module::ParamGroup;
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
        let AdamW { weight_decay, betas, eps, decay, lora_plus, .. } = *self.config();
        let betas = [betas.0 as f32, betas.1 as f32];
        let optimizer = FusedAdamW {
            betas,
            epsilon: eps as f32,
            weight_decay,
            decoupled: matches!(self, Self::AdamW(_)),
            spare_vectors: decay == Decay::Matrices,
            rate_factor: 1.0,
        };
        match lora_plus {
            None => optimizer.into(),
            Some(ratio) => {
                let second = FusedAdamW { rate_factor: ratio, ..optimizer.clone() };
                ModuleOptimizer::from(optimizer).with_group(ParamGroup::from_predicate("lora_b"), second, None)
            }
        }
    }
}

/// Settings of an optimizer. A stage's own default holds for `optim` as a whole: where `optim` is written, the defaults
/// below hold for what it leaves out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamW {
    /// Peak learning rate; the schedule scales it. No default.
    pub lr: f64,
    /// How much parameters shrink in a step, times the learning rate. Default 1e-4.
    #[serde(default = "AdamW::default_weight_decay")]
    pub weight_decay: f64,
    /// Decay rates of the two moment averages, each in [0, 1). Default (0.9, 0.999).
    #[serde(default = "AdamW::default_betas")]
    pub betas: (f64, f64),
    /// Added to the denominator. Default 1e-8.
    #[serde(default = "AdamW::default_eps")]
    pub eps: f64,
    /// What shrinks: `All` (as PyTorch's optimizer does by itself), or `Matrices`: no norms and biases (as transformers' trainer).
    /// Default `All`.
    #[serde(default)]
    pub decay: Decay,
    /// The learning rate of a LoRA adapter's second factor over that of the first (LoRA+, Hayou et al. 2024; 16 is usual). Default
    /// none: the same rate for both.
    #[serde(default)]
    pub lora_plus: Option<f64>,
}

/// Which parameters weight decay shrinks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decay {
    /// All that are trained.
    #[default]
    All,
    /// Those of two or more dimensions.
    Matrices,
}

impl AdamW {
    /// The defaults with a learning rate.
    pub fn new(lr: f64) -> Self {
        Self {
            lr,
            weight_decay: Self::default_weight_decay(),
            betas: Self::default_betas(),
            eps: Self::default_eps(),
            decay: Decay::default(),
            lora_plus: None,
        }
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

/// Number format of the weights that compute. What is trained is always F32: adapters and heads as they are, whole models as masters
/// beside weights in this format.
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
