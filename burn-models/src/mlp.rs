//! Multi-layer perceptrons.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::ops::leaky_relu_dropout;

/// Configuration of an [`Mlp`].
#[derive(Config, Debug)]
pub struct MlpConfig {
    /// Input width.
    pub d_input: usize,
    /// Output width.
    pub d_output: usize,
    /// Width between layers.
    pub d_hidden: usize,
    /// Number of linear layers; at least 1, and 1 is a plain linear map.
    #[config(default = 2)]
    pub layers: usize,
    /// Dropout after each activation, in `[0, 1)`.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Slope of the LeakyReLU between layers.
    #[config(default = 0.01)]
    pub negative_slope: f64,
}

/// Linear layers with LeakyReLU and dropout between them: `n − 1` times linear, LeakyReLU, dropout; then linear.
#[derive(Module, Debug)]
pub struct Mlp {
    /// The linear layers.
    pub layers: Vec<Linear>,
    dropout: Dropout,
    negative_slope: f64,
}

impl MlpConfig {
    /// A network with weights and biases uniform in `±1/√fan_in`.
    pub fn init(&self, device: &Device) -> Mlp {
        let last = self.layers.max(1) - 1;
        let layer = |i: usize| {
            let input = if i == 0 { self.d_input } else { self.d_hidden };
            let output = if i == last { self.d_output } else { self.d_hidden };
            LinearConfig::new(input, output).init(device)
        };
        Mlp {
            layers: (0..=last).map(layer).collect(),
            dropout: DropoutConfig::new(self.dropout).init(),
            negative_slope: self.negative_slope,
        }
    }
}

impl Mlp {
    /// `[.., d_input]` to `[.., d_output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.layers.iter().enumerate().fold(x, |x, (i, layer)| {
            let x = match i {
                0 => x,
                _ => leaky_relu_dropout(&self.dropout, x, self.negative_slope),
            };
            layer.forward(x)
        })
    }
}
