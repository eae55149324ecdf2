//! Convolution as discriminating as the Weisfeiler-Lehman test.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use super::propagate;
use crate::GraphBatch;

/// Configuration of a [`GinConv`].
#[derive(Config, Debug)]
pub struct GinConvConfig {
    /// Widths of the network: input, hidden ones, output; at least two.
    pub widths: Vec<usize>,
    /// Start of ε.
    #[config(default = 0.0)]
    pub eps: f64,
    /// Whether ε is trained.
    #[config(default = false)]
    pub train_eps: bool,
}

/// Graph convolution (Xu et al., *How Powerful are Graph Neural Networks?*, 2019), as `GINConv` of PyTorch Geometric:
/// `out_i = MLP((1 + ε)·x_i + Σ_{j → i} x_j)`, the MLP with ReLU between its linear layers.
#[derive(Module, Debug)]
pub struct GinConv {
    /// The linear layers of the MLP.
    pub nn: Vec<Linear>,
    /// ε, `[1]`.
    pub eps: Param<Tensor<1>>,
}

impl GinConvConfig {
    /// A convolution with linear layers uniform in `±1/√fan_in`.
    pub fn init(&self, device: &Device) -> GinConv {
        let eps = Param::from_tensor(Tensor::full([1], self.eps, device));
        GinConv {
            nn: self.widths.windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(device)).collect(),
            eps: if self.train_eps { eps } else { eps.set_require_grad(false) },
        }
    }
}

impl GinConv {
    /// Node vectors `[N, input]` to node vectors `[N, output]`.
    pub fn forward(&self, x: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        let own = x.clone() * (self.eps.val() + 1.0).unsqueeze();
        let sum = own + propagate(x, None, graphs);
        self.nn.iter().enumerate().fold(sum, |x, (i, layer)| layer.forward(if i == 0 { x } else { relu(x) }))
    }
}
