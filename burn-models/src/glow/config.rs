//! The predictor's settings.

use burn_gnn::{ConvKind, GnnEncoderConfig, Pool};
use serde::{Deserialize, Serialize};

use super::contrast::ContrastToken;
use crate::{Error, Result};

/// The widest predictor: a larger number is a mistake, and would ask for more memory than there is.
pub(super) const MAX_WIDTH: usize = 1 << 14;
/// The deepest one.
const MAX_LAYERS: usize = 256;

/// Settings of a [`GlowPredictor`](super::GlowPredictor). The defaults are the published ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GlowConfig {
    /// Width H of all tokens; a multiple of both numbers of heads. 256.
    pub hidden_dim: usize,
    /// Linear layers of the two projectors and of the prediction head. 2.
    pub mlp_layers: usize,
    /// Dropout everywhere, in `[0, 1)`. 0.2.
    pub dropout: f64,
    /// Slope of the LeakyReLU in MLPs and between convolutions; 0 is ReLU. 0.01.
    pub slope: f64,
    /// Whether the language and the task embedding go through an MLP to width H. Without, they are tokens as they are, which
    /// only [`FusionKind::Concat`] takes. `true`.
    pub projectors: bool,
    /// What is done to the tokens. [`TokenNorm::Layer`].
    pub token_norm: TokenNorm,
    /// The graph encoder.
    pub gnn: GraphConfig,
    /// The fusion encoder.
    pub fusion: FusionConfig,
    /// Whether there is a language token. `true`.
    pub use_llm: bool,
    /// Whether there is a graph token. `true`.
    pub use_graph: bool,
    /// Whether there is a task token. `true`.
    pub use_task: bool,
    /// What is predicted. [`Head::Classification`].
    pub head: Head,
}

/// The graph encoder's settings: [`burn_gnn::GnnEncoder`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GraphConfig {
    /// Which convolution. [`ConvKind::Gat`].
    pub kind: ConvKind,
    /// Number of convolutions. 2.
    pub layers: usize,
    /// Attention heads per convolution, where it has heads. 4.
    pub heads: usize,
    /// Slope of the LeakyReLU on attention scores. 0.2.
    pub attn_slope: f64,
    /// Whether a LayerNorm follows each convolution. `true`.
    pub norm: bool,
    /// Whether the graph vector is a linear map of the mean node state, or that mean itself. `true`.
    pub output: bool,
    /// Whether messages pass against the edges too: every edge gets its reverse, where that is not there, before anything else
    /// sees the graph, the warm-up included. `false`.
    pub bidirectional_edges: bool,
    /// Whether each record's graph gets the three prompt nodes of One-For-All (arXiv 2310.00149,
    /// [`PromptRows`](super::PromptRows)), and the state of the second one, which says that the workflow solves the task, is the
    /// graph vector. Needs sentence vectors made with `sentences: OneForAll`. The warm-up goes without them. `false`.
    pub prompt_nodes: bool,
}

/// What is done to the tokens before they are contrasted and fused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TokenNorm {
    /// A LayerNorm for each kind of token, as published.
    #[default]
    Layer,
    /// Scaling to length 1, as the FLORA-Bench baselines with graphs do.
    L2,
    /// Nothing.
    None,
}

/// How the tokens of a record become the vector that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FusionKind {
    /// A transformer encoder over a prediction token and the others, as published: [`FusionEncoder`](super::FusionEncoder).
    #[default]
    Transformer,
    /// The tokens side by side through an MLP: for ablation.
    ConcatMlp,
    /// The mean of the tokens through an MLP: for ablation.
    MeanMlp,
    /// The tokens side by side, straight to the head: the FLORA-Bench baselines.
    Concat,
}

/// The fusion's settings. Layers, heads, width and initial numbers are those of the transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FusionConfig {
    /// How tokens are fused. [`FusionKind::Transformer`].
    pub kind: FusionKind,
    /// Number of encoder layers. 2.
    pub layers: usize,
    /// Attention heads per layer. 4.
    pub heads: usize,
    /// Width of the feed-forward part. 2048.
    pub ff_width: usize,
    /// Start all layers from the same numbers, as the reference implementation does by copying one layer. `false`.
    pub identical_layer_init: bool,
}

/// What is predicted, and which loss trains it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Head {
    /// The logit of "solves the task": binary cross-entropy with logits.
    #[default]
    Classification,
    /// A rate in `[0, 1]`.
    Regression(Regression),
    /// Both, by two MLPs on the mixed prediction token. The logit gives the scores; the rate shapes what they share.
    Both {
        /// Weight of the rate's loss beside that of the logit. 1.
        #[serde(default = "Head::default_reg_weight")]
        reg_weight: f64,
        /// The rate.
        #[serde(default)]
        rate: Regression,
    },
}

impl Head {
    fn default_reg_weight() -> f64 {
        1.0
    }

    /// How a rate is predicted, if one is.
    pub fn regression(&self) -> Option<&Regression> {
        match self {
            Self::Classification => None,
            Self::Regression(rate) | Self::Both { rate, .. } => Some(rate),
        }
    }
}

/// A predicted rate.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Regression {
    /// Loss on the error. [`RegressionLoss::Mse`].
    pub loss: RegressionLoss,
    /// From the head's number to the rate. [`RegressionOutput::Sigmoid`].
    pub output: RegressionOutput,
    /// What the rate is fitted to. [`RegressionTarget::RecordLabel`].
    pub target: RegressionTarget,
}

/// What a rate is fitted to. Contrast, accuracy and utility go by the record's own label in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RegressionTarget {
    /// The record's own label.
    #[default]
    RecordLabel,
    /// The mean label of the record's workflow over the training split. Of a workflow that is not there, over its own
    /// split.
    WorkflowRate,
}

/// Loss on an error `e`, mean over the batch.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub enum RegressionLoss {
    /// `e²`.
    #[default]
    Mse,
    /// `½e²` up to `|e| = δ`, then `δ(|e| − ½δ)`.
    Huber(f64),
    /// `½e²/β` up to `|e| = β`, then `|e| − ½β`.
    SmoothL1(f64),
}

/// From the head's number to the predicted rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RegressionOutput {
    /// The logistic function of it.
    #[default]
    Sigmoid,
    /// The number itself.
    Identity,
}

impl Default for GlowConfig {
    fn default() -> Self {
        Self {
            hidden_dim: 256,
            mlp_layers: 2,
            dropout: 0.2,
            slope: 0.01,
            projectors: true,
            token_norm: TokenNorm::Layer,
            gnn: GraphConfig::default(),
            fusion: FusionConfig::default(),
            use_llm: true,
            use_graph: true,
            use_task: true,
            head: Head::Classification,
        }
    }
}

impl Default for GraphConfig {
    fn default() -> Self {
        Self {
            kind: ConvKind::Gat,
            layers: 2,
            heads: 4,
            attn_slope: 0.2,
            norm: true,
            output: true,
            bidirectional_edges: false,
            prompt_nodes: false,
        }
    }
}

impl Default for FusionConfig {
    fn default() -> Self {
        Self { kind: FusionKind::Transformer, layers: 2, heads: 4, ff_width: 2048, identical_layer_init: false }
    }
}

/// Refuses 0 and what is above `most`.
pub(super) fn check_size(key: &str, value: usize, most: usize) -> Result<()> {
    match value {
        0 => Err(Error::config("glow", key, "must be at least 1")),
        _ if value > most => Err(Error::config("glow", key, format!("{value} is above {most}"))),
        _ => Ok(()),
    }
}

impl GlowConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Config`] with the first key whose value cannot be.
    pub fn validate(&self) -> Result<()> {
        let fail = |key: &str, problem: String| Err(Error::config("glow", key, problem));
        for (key, value, most) in [
            ("hidden_dim", self.hidden_dim, MAX_WIDTH),
            ("mlp_layers", self.mlp_layers, MAX_LAYERS),
            ("gnn.layers", self.gnn.layers, MAX_LAYERS),
            ("gnn.heads", self.gnn.heads, MAX_WIDTH),
            ("fusion.layers", self.fusion.layers, MAX_LAYERS),
            ("fusion.heads", self.fusion.heads, MAX_WIDTH),
            ("fusion.ff_width", self.fusion.ff_width, 4 * MAX_WIDTH),
        ] {
            check_size(key, value, most)?;
        }
        let transformer = self.fusion.kind == FusionKind::Transformer;
        for (key, heads, used) in
            [("gnn.heads", self.gnn.heads, self.gnn.kind.attends()), ("fusion.heads", self.fusion.heads, transformer)]
        {
            if used && !self.hidden_dim.is_multiple_of(heads) {
                return fail(key, format!("hidden_dim {} is not a multiple of {heads}", self.hidden_dim));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail("dropout", format!("{} is not in [0, 1)", self.dropout));
        }
        if let ConvKind::Gcn2 { alpha } = self.gnn.kind
            && !(0.0..=1.0).contains(&alpha)
        {
            return fail("gnn.kind", format!("alpha {alpha} is not in [0, 1]"));
        }
        if !(0.0..1.0).contains(&self.slope) {
            return fail("slope", format!("{} is not in [0, 1)", self.slope));
        }
        if !self.gnn.attn_slope.is_finite() {
            return fail("gnn.attn_slope", format!("{} is not finite", self.gnn.attn_slope));
        }
        if !self.projectors && self.fusion.kind != FusionKind::Concat {
            return fail("projectors", format!("false needs fusion.kind Concat, not {:?}", self.fusion.kind));
        }
        if !(self.use_llm || self.use_graph || self.use_task) {
            return fail(
                "use_llm",
                "use_llm, use_graph and use_task are all false: there is nothing to predict from".into(),
            );
        }
        if let Some(RegressionLoss::Huber(limit) | RegressionLoss::SmoothL1(limit)) =
            self.head.regression().map(|rate| rate.loss)
            && !(limit > 0.0 && limit.is_finite())
        {
            return fail("head.loss", format!("{limit} is not above 0"));
        }
        if let Head::Both { reg_weight, .. } = self.head
            && !(reg_weight >= 0.0 && reg_weight.is_finite())
        {
            return fail("head.reg_weight", format!("{reg_weight} is not 0 or above"));
        }
        Ok(())
    }

    /// Whether the predictor has a token that can be contrasted.
    pub fn has(&self, token: ContrastToken) -> bool {
        match token {
            ContrastToken::Llm => self.use_llm,
            ContrastToken::Graph => self.use_graph,
        }
    }

    /// The graph encoder for sentence embeddings of width `text_dim`.
    pub(super) fn gnn_encoder(&self, text_dim: usize) -> GnnEncoderConfig {
        GnnEncoderConfig::new(text_dim, self.hidden_dim)
            .with_kind(self.gnn.kind)
            .with_layers(self.gnn.layers)
            .with_heads(self.gnn.heads)
            .with_attn_slope(self.gnn.attn_slope)
            .with_dropout(self.dropout)
            .with_slope(self.slope)
            .with_norm(self.gnn.norm)
            .with_output(self.gnn.output)
            .with_pool(if self.gnn.prompt_nodes { Pool::FromEnd(1) } else { Pool::Mean })
    }
}
