//! One layer of a graph encoder: any of the convolutions.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    GatConv, GatConvConfig, GatV2Conv, GatV2ConvConfig, Gcn2Conv, Gcn2ConvConfig, GcnConv, GcnConvConfig, GinConv,
    GinConvConfig, GraphBatch, SageConv, SageConvConfig, TransformerConv, TransformerConvConfig,
};

/// Which convolution a graph encoder is made of. Attention kinds have the encoder's heads side by side; the settings that are not
/// named here are the defaults of PyTorch Geometric.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ConvKind {
    /// [`GatConv`], as published.
    #[default]
    Gat,
    /// [`GatV2Conv`].
    GatV2,
    /// [`GcnConv`].
    Gcn,
    /// [`Gcn2Conv`] on a linear map of the node features to the encoder's width, which is also X₀; one matrix, and β = 1 in every
    /// layer.
    Gcn2 {
        /// The share of X₀, in `[0, 1]`. 0.1.
        #[serde(default = "ConvKind::default_alpha")]
        alpha: f64,
    },
    /// [`SageConv`] with the mean of the neighbours.
    Sage,
    /// [`GinConv`] with a network of two linear layers.
    Gin,
    /// [`TransformerConv`].
    Transformer {
        /// Whether a gate mixes the node's own vector with what it hears. `true`.
        #[serde(default = "ConvKind::default_beta")]
        beta: bool,
    },
}

impl ConvKind {
    fn default_alpha() -> f64 {
        0.1
    }

    fn default_beta() -> bool {
        true
    }

    /// Whether it has heads.
    pub fn attends(self) -> bool {
        matches!(self, Self::Gat | Self::GatV2 | Self::Transformer { .. })
    }

    /// Whether every node hears itself, through a self-loop that the batch adds.
    pub fn wants_loops(self) -> bool {
        matches!(self, Self::Gat | Self::GatV2 | Self::Gcn | Self::Gcn2 { .. })
    }

    /// A convolution from width `input` to `output`, freshly drawn; `slope` is that of the LeakyReLU on attention scores.
    pub(crate) fn init(self, input: usize, output: usize, heads: usize, slope: f64, device: &Device) -> GnnConv {
        let head = output / heads.max(1);
        match self {
            Self::Gat => {
                GnnConv::Gat(GatConvConfig::new(input, head).with_heads(heads).with_negative_slope(slope).init(device))
            }
            Self::GatV2 => GnnConv::GatV2(
                GatV2ConvConfig::new(input, head).with_heads(heads).with_negative_slope(slope).init(device),
            ),
            Self::Gcn => GnnConv::Gcn(GcnConvConfig::new(input, output).init(device)),
            // ln(θ/layer + 1) = 1
            Self::Gcn2 { alpha } => {
                GnnConv::Gcn2(Gcn2ConvConfig::new(output, alpha, std::f64::consts::E - 1.0, 1).init(device))
            }
            Self::Sage => GnnConv::Sage(SageConvConfig::new(input, output).init(device)),
            Self::Gin => GnnConv::Gin(GinConvConfig::new(vec![input, output, output]).init(device)),
            Self::Transformer { beta } => GnnConv::Transformer(
                TransformerConvConfig::new(input, head).with_heads(heads).with_beta(beta).init(device),
            ),
        }
    }
}

/// A convolution of any kind.
// An encoder has a few of them: what the largest kind takes more than the others does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum GnnConv {
    /// See [`ConvKind::Gat`].
    Gat(GatConv),
    /// See [`ConvKind::GatV2`].
    GatV2(GatV2Conv),
    /// See [`ConvKind::Gcn`].
    Gcn(GcnConv),
    /// See [`ConvKind::Gcn2`].
    Gcn2(Gcn2Conv),
    /// See [`ConvKind::Sage`].
    Sage(SageConv),
    /// See [`ConvKind::Gin`].
    Gin(GinConv),
    /// See [`ConvKind::Transformer`].
    Transformer(TransformerConv),
}

impl GnnConv {
    /// Node vectors `[N, D]` to node vectors `[N, H]`; `first` are those that the first layer got.
    pub(crate) fn forward(&self, x: Tensor<2>, first: &Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        match self {
            Self::Gat(conv) => conv.forward(x, graphs),
            Self::GatV2(conv) => conv.forward(x, graphs),
            Self::Gcn(conv) => conv.forward(x, graphs, None),
            Self::Gcn2(conv) => conv.forward(x, first.clone(), graphs, None),
            Self::Sage(conv) => conv.forward(x, graphs),
            Self::Gin(conv) => conv.forward(x, graphs),
            Self::Transformer(conv) => conv.forward(x, graphs),
        }
    }
}
