//! Deep graph convolution with initial residual and identity mapping.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::{gcn_norm, propagate};
use crate::GraphBatch;

/// Configuration of a [`Gcn2Conv`].
#[derive(Config, Debug)]
pub struct Gcn2ConvConfig {
    /// Width of input and output.
    pub d_model: usize,
    /// Share α of the initial vectors.
    pub alpha: f64,
    /// Strength θ of the matrix; it fades with depth.
    pub theta: f64,
    /// Number of the layer, from 1.
    pub layer: usize,
    /// One matrix for both parts.
    #[config(default = true)]
    pub shared_weights: bool,
}

/// Graph convolution (Chen et al., *Simple and Deep Graph Convolutional Networks*, 2020), as `GCN2Conv` of PyTorch
/// Geometric.
///
/// With `P` the propagation of [`gcn_norm`] and `β = ln(θ/layer + 1)`: `y = (1−α)·P X + α·X₀`, `out = (1−β)·y + β·y
/// W₁`; with two matrices W₁ acts on the first part of `y` and W₂ on the second. Build the batch with
/// [`SelfLoops::ReplaceOnce`](crate::SelfLoops::ReplaceOnce).
#[derive(Module, Debug)]
pub struct Gcn2Conv {
    /// W₁, `[d_model, d_model]`, multiplied from the right.
    pub weight1: Param<Tensor<2>>,
    /// W₂, where it is not W₁.
    pub weight2: Option<Param<Tensor<2>>>,
    alpha: f64,
    beta: f64,
}

impl Gcn2ConvConfig {
    /// A convolution with Glorot-uniform matrices.
    pub fn init(&self, device: &Device) -> Gcn2Conv {
        let d = self.d_model;
        let matrix = || Initializer::XavierUniform { gain: 1.0 }.init_with([d, d], Some(d), Some(d), device);
        Gcn2Conv {
            weight1: matrix(),
            weight2: (!self.shared_weights).then(matrix),
            alpha: self.alpha,
            beta: (self.theta / self.layer as f64 + 1.0).ln(),
        }
    }
}

impl Gcn2Conv {
    /// Node vectors `x` and initial node vectors `x0`, both `[N, d_model]`, to node vectors `[N, d_model]`; `weights`
    /// `[E]` as in [`gcn_norm`].
    pub fn forward(&self, x: Tensor<2>, x0: Tensor<2>, graphs: &GraphBatch, weights: Option<Tensor<1>>) -> Tensor<2> {
        let norm = gcn_norm(graphs, weights, &x.device());
        let mapped = |x: Tensor<2>, matrix: &Param<Tensor<2>>| {
            x.clone() * (1.0 - self.beta) + x.matmul(matrix.val()) * self.beta
        };
        let neighbours = propagate(x, Some(norm), graphs) * (1.0 - self.alpha);
        let initial = x0 * self.alpha;
        match &self.weight2 {
            None => mapped(neighbours + initial, &self.weight1),
            Some(weight2) => mapped(neighbours, &self.weight1) + mapped(initial, weight2),
        }
    }
}
