//! The encoder of workflow graphs.

use crate::warmup::{Bilinear, BilinearConfig};
use crate::{ConvKind, Error, GnnConv, GraphBatch, Pool, init};
use burn::config::Config;
use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::leaky_relu;
use burn::tensor::{Device, Tensor};
use std::borrow::Cow;

/// Configuration of a [`GnnEncoder`].
#[derive(Config, Debug)]
pub struct GnnEncoderConfig {
    /// Width of a node's features, D.
    pub d_input: usize,
    /// Width of node states and of the graph vector; a multiple of `heads`.
    pub hidden_dim: usize,
    /// Which convolution.
    #[config(default = "ConvKind::Gat")]
    pub kind: ConvKind,
    /// Number of convolutions; at least 1.
    #[config(default = 2)]
    pub layers: usize,
    /// Attention heads of each convolution, where it has heads.
    #[config(default = 4)]
    pub heads: usize,
    /// Slope of the LeakyReLU on attention scores.
    #[config(default = 0.2)]
    pub attn_slope: f64,
    /// Dropout between convolutions, in `[0, 1)`.
    #[config(default = 0.2)]
    pub dropout: f64,
    /// Slope of the LeakyReLU between convolutions; 0 is ReLU.
    #[config(default = 0.01)]
    pub slope: f64,
    /// Whether a LayerNorm follows each convolution.
    #[config(default = true)]
    pub norm: bool,
    /// Whether the graph vector is a linear map of the mean node state, or that mean itself.
    #[config(default = true)]
    pub output: bool,
    /// How the nodes of a graph become one vector.
    #[config(default = "Pool::Mean")]
    pub pool: Pool,
}

/// The graph encoder of GLOW (arXiv 2512.15751): convolutions, each followed by a LayerNorm, and, but for the last, by
/// LeakyReLU(0.01) and dropout; the graph vector is a linear map of the mean node state (or of what else `pool` says). Without `norm` and `output` and with
/// slope 0 it is that of the FLORA-Bench baselines (arXiv 2503.11301).
///
/// It owns the two heads of the self-supervised warm-up ([`warmup`](Self::warmup)), which supervised training never
/// touches. Parameter names are those of the reference implementation (its "batch norms" are layer norms).
#[derive(Module, Debug)]
pub struct GnnEncoder {
    /// Node features to the width of the convolutions, for [`ConvKind::Gcn2`], which does not change it.
    pub input: Option<Linear>,
    /// The convolutions, heads side by side.
    pub gnn_layers: Vec<GnnConv>,
    /// The LayerNorm after each convolution, ε 1e-5; none without `norm`.
    pub batch_norms: Vec<LayerNorm>,
    /// From the mean node state to the graph vector.
    pub lin: Option<Linear>,
    /// Warm-up head: node state to node features.
    pub node_decoder: Linear,
    /// Warm-up head: pair of node states to the logit of an edge.
    pub adj_decoder: Bilinear,
    dropout: Dropout,
    #[module(skip)]
    kind: ConvKind,
    #[module(skip)]
    pool: Pool,
    slope: f64,
}

/// What a [`GnnEncoder`] computes.
#[derive(Debug, Clone)]
pub struct GnnOutput {
    /// Node states, `[N, hidden_dim]`.
    pub nodes: Tensor<2>,
    /// Graph vectors, `[G, hidden_dim]`.
    pub graphs: Tensor<2>,
}

impl GnnEncoderConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Config`] for the first setting that cannot be.
    pub fn validate(&self) -> crate::Result<()> {
        let fail = |key, problem: String| Err(Error::Config { key, problem });
        for (key, value) in
            [("d_input", self.d_input), ("hidden_dim", self.hidden_dim), ("layers", self.layers), ("heads", self.heads)]
        {
            if value == 0 {
                return fail(key, "must be at least 1".into());
            }
        }
        if self.kind.attends() && !self.hidden_dim.is_multiple_of(self.heads) {
            return fail("hidden_dim", format!("{} is not a multiple of {} heads", self.hidden_dim, self.heads));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail("dropout", format!("{} is not in [0, 1)", self.dropout));
        }
        if let ConvKind::Gcn2 { alpha } = self.kind
            && !(0.0..=1.0).contains(&alpha)
        {
            return fail("kind", format!("alpha {alpha} is not in [0, 1]"));
        }
        if !self.attn_slope.is_finite() {
            return fail("attn_slope", format!("{} is not a number", self.attn_slope));
        }
        Ok(())
    }

    /// An encoder with freshly drawn parameters, all drawn before this returns, in the order of its fields.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> crate::Result<GnnEncoder> {
        self.validate()?;
        let h = self.hidden_dim;
        let mapped = matches!(self.kind, ConvKind::Gcn2 { .. });
        let convolution = |layer: usize| {
            let input = if layer == 0 && !mapped { self.d_input } else { h };
            self.kind.init(input, h, self.heads, self.attn_slope, device)
        };
        Ok(init::draw(GnnEncoder {
            input: mapped.then(|| LinearConfig::new(self.d_input, h).init(device)),
            gnn_layers: (0..self.layers).map(convolution).collect(),
            batch_norms: (0..self.layers).filter(|_| self.norm).map(|_| LayerNormConfig::new(h).init(device)).collect(),
            lin: self.output.then(|| LinearConfig::new(h, h).init(device)),
            node_decoder: LinearConfig::new(h, self.d_input).init(device),
            adj_decoder: BilinearConfig::new(h).init(device),
            dropout: DropoutConfig::new(self.dropout).init(),
            kind: self.kind,
            pool: self.pool,
            slope: self.slope,
        }))
    }
}

impl GnnEncoder {
    /// Width of the node features that it takes.
    pub fn d_input(&self) -> usize {
        self.node_decoder.weight.dims()[1]
    }

    /// Node states `[N, hidden_dim]` of node features `[N, D]`. The batch must have been built with
    /// [`SelfLoops::ReplaceOnce`](crate::SelfLoops::ReplaceOnce).
    pub fn nodes(&self, x: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        self.after_dropout(self.before_dropout(x, graphs), graphs)
    }

    /// The part of [`nodes`](Self::nodes) that comes before any dropout, `[N, hidden_dim]`: equal for equal graphs, so that of
    /// graphs that come several times one is enough.
    pub fn before_dropout(&self, x: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        if graphs.num_nodes() == 0 {
            return Tensor::zeros([0, self.node_decoder.weight.dims()[0]], (&x.device(), x.dtype()));
        }
        match &self.input {
            Some(input) => leaky_relu(input.forward(x), self.slope),
            None => self.layer(0, x.clone(), &x, &self.edges(graphs)),
        }
    }

    /// The rest of it, from the states `[N, hidden_dim]` that [`before_dropout`](Self::before_dropout) gave.
    pub fn after_dropout(&self, x: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        let done = usize::from(self.input.is_none());
        if graphs.num_nodes() == 0 || done == self.gnn_layers.len() {
            return x;
        }
        let graphs = self.edges(graphs);
        let first = self.dropout.forward(x);
        let last = self.gnn_layers.len() - 1;
        (done..=last).fold(first.clone(), |x, layer| {
            let x = self.layer(layer, x, &first, &graphs);
            if layer == last { x } else { self.dropout.forward(x) }
        })
    }

    /// A convolution with its LayerNorm and, but for the last, LeakyReLU.
    fn layer(&self, layer: usize, x: Tensor<2>, first: &Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        let x = self.gnn_layers[layer].forward(x, first, graphs);
        let x = match self.batch_norms.get(layer) {
            Some(norm) => norm.forward(x),
            None => x,
        };
        if layer + 1 == self.gnn_layers.len() { x } else { leaky_relu(x, self.slope) }
    }

    /// The edges that the convolutions want.
    fn edges<'a>(&self, graphs: &'a GraphBatch) -> Cow<'a, GraphBatch> {
        if self.kind.wants_loops() { Cow::Borrowed(graphs) } else { Cow::Owned(graphs.given()) }
    }

    /// Node states and graph vectors of node features `[N, D]`.
    pub fn forward(&self, x: Tensor<2>, graphs: &GraphBatch) -> GnnOutput {
        self.output(self.nodes(x, graphs), graphs)
    }

    /// The graph vectors of node states `[N, hidden_dim]`, with them.
    pub fn output(&self, nodes: Tensor<2>, graphs: &GraphBatch) -> GnnOutput {
        let pooled = self.pool.forward(nodes.clone(), graphs);
        let graphs = match &self.lin {
            Some(lin) => lin.forward(pooled),
            None => pooled,
        };
        GnnOutput { graphs, nodes }
    }
}
