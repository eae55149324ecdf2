//! Convolution that keeps a node apart from the aggregate of its neighbours.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use super::check_rows;
use crate::GraphBatch;
use crate::segment::{segment_max, segment_mean};

/// How the neighbours of a node are aggregated; none give 0.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum SageAggregation {
    /// Mean.
    Mean,
    /// Largest element per column.
    Max,
}

/// Configuration of a [`SageConv`].
#[derive(Config, Debug)]
pub struct SageConvConfig {
    /// Input width.
    pub d_input: usize,
    /// Output width.
    pub d_output: usize,
    /// Aggregation.
    #[config(default = "SageAggregation::Mean")]
    pub aggregation: SageAggregation,
    /// Whether output vectors are scaled to length 1.
    #[config(default = false)]
    pub normalize: bool,
    /// Whether a bias is added to the output.
    #[config(default = true)]
    pub bias: bool,
}

/// Graph convolution (Hamilton et al., *Inductive Representation Learning on Large Graphs*, 2017), as `SAGEConv` of
/// PyTorch Geometric: `out_i = W_l · aggregate_{j → i}(x_j) + b + W_r · x_i`, divided by its length if asked.
#[derive(Module, Debug)]
pub struct SageConv {
    /// W_l and b, on neighbours.
    pub lin_l: Linear,
    /// W_r, on the node itself, without bias.
    pub lin_r: Linear,
    #[module(skip)]
    aggregation: SageAggregation,
    normalize: bool,
}

impl SageConvConfig {
    /// A convolution with parameters uniform in `±1/√d_input`.
    pub fn init(&self, device: &Device) -> SageConv {
        SageConv {
            lin_l: LinearConfig::new(self.d_input, self.d_output).with_bias(self.bias).init(device),
            lin_r: LinearConfig::new(self.d_input, self.d_output).with_bias(false).init(device),
            aggregation: self.aggregation,
            normalize: self.normalize,
        }
    }
}

impl SageConv {
    /// Node vectors `[N, d_input]` to node vectors `[N, d_output]`.
    pub fn forward(&self, x: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        check_rows(&x, graphs);
        let aggregate = match self.aggregation {
            SageAggregation::Mean => segment_mean,
            SageAggregation::Max => segment_max,
        };
        let neighbours = match graphs.num_edges() {
            0 => x.zeros_like(),
            _ => aggregate(x.clone().select(0, graphs.source()), graphs.target(), graphs.num_nodes()),
        };
        let out = self.lin_l.forward(neighbours) + self.lin_r.forward(x);
        if !self.normalize {
            return out;
        }
        // The bound stands under the root: the root's derivative at 0 is infinite.
        let length = out.clone().square().sum_dim(1).clamp_min(1e-24).sqrt();
        out / length
    }
}
