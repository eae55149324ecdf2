//! Self-supervised warm-up of a graph encoder: predict each node's features and each ordered pair's edge.

use crate::graph::ints;
use crate::{Error, GnnEncoder, Graph, GraphBatch};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Padded pairs of one batch: 2²⁸ are 1 GiB in f32.
const MAX_PAIRS: usize = 1 << 28;

/// Configuration of a [`Bilinear`].
#[derive(Config, Debug)]
pub struct BilinearConfig {
    /// Width of a node's state.
    pub d_model: usize,
}

/// A bilinear form on pairs of node states: `logit(i, j) = z_iᵀ W z_j + b`.
#[derive(Module, Debug)]
pub struct Bilinear {
    /// W, `[1, d_model, d_model]`.
    pub weight: Param<Tensor<3>>,
    /// b, `[1]`.
    pub bias: Param<Tensor<1>>,
}

impl BilinearConfig {
    /// A form with parameters uniform in `±1/√d_model`.
    pub fn init(&self, device: &Device) -> Bilinear {
        let bound = 1.0 / (self.d_model as f64).sqrt();
        let uniform = Initializer::Uniform { min: -bound, max: bound };
        Bilinear { weight: uniform.init([1, self.d_model, self.d_model], device), bias: uniform.init([1], device) }
    }
}

impl Bilinear {
    /// Logits of all ordered pairs within each graph, padded: `[G, n, n]` with n the largest number of nodes. Entries
    /// of padding mean nothing.
    pub fn forward(&self, nodes: Tensor<2>, target: &AdjacencyTarget) -> Tensor<3> {
        let [num_graphs, size, _] = target.codes.dims();
        let [num_nodes, width] = nodes.dims();
        assert_eq!(num_nodes, target.num_nodes, "one row per node of the target's graphs");
        let padded = |x: Tensor<2>| x.select(0, target.slots.clone()).reshape([num_graphs, size, width]);
        let left = padded(nodes.clone().matmul(self.weight.val().reshape([width, width])));
        left.matmul(padded(nodes).swap_dims(1, 2)) + self.bias.val().unsqueeze()
    }
}

/// The adjacency matrices of a batch of graphs, padded to the largest: entry `[g, i, j]` is 1 when graph g has an edge
/// from i to j (once or more), else 0. Edges are those of the graphs as given: explicit self-loops stand on the
/// diagonal.
///
/// Holds integer tensors only, like [`GraphBatch`].
#[derive(Debug, Clone)]
pub struct AdjacencyTarget {
    /// Node row of every padded place, `[G·n]`; padding points to row 0.
    slots: Tensor<1, Int>,
    /// 1 edge, 0 no edge, −1 padding: `[G, n, n]`.
    codes: Tensor<3, Int>,
    /// Number of graphs that have a node.
    num_filled: usize,
    num_nodes: usize,
}

impl AdjacencyTarget {
    /// The targets of the graphs that a [`GraphBatch`] was built from, in the same order.
    ///
    /// # Errors
    /// [`Error::EdgeOutOfRange`], or [`Error::TooLarge`] when the padded form would have more than 2²⁸ entries.
    pub fn new(graphs: &[&Graph], device: &Device) -> crate::Result<Self> {
        let size = graphs.iter().map(|g| g.num_nodes).max().unwrap_or(0);
        let pairs = graphs.len().saturating_mul(size).saturating_mul(size);
        if pairs > MAX_PAIRS {
            return Err(Error::TooLarge { what: "padded node pairs", found: pairs, limit: MAX_PAIRS });
        }
        let mut slots = vec![0; graphs.len() * size];
        let mut codes = vec![-1i32; pairs];
        let mut first_node = 0;
        for (number, graph) in graphs.iter().enumerate() {
            graph.check(number)?;
            let block = &mut codes[number * size * size..][..size * size];
            for i in 0..graph.num_nodes {
                slots[number * size + i] = (first_node + i) as i64;
                block[i * size..][..graph.num_nodes].fill(0);
            }
            for &[source, target] in &graph.edges {
                block[source as usize * size + target as usize] = 1;
            }
            first_node += graph.num_nodes;
        }
        Ok(Self {
            slots: ints(slots, device),
            codes: Tensor::from_data(TensorData::new(codes, [graphs.len(), size, size]), device),
            num_filled: graphs.iter().filter(|g| g.num_nodes > 0).count(),
            num_nodes: first_node,
        })
    }

    /// Of every padded pair 1 for an edge, 0 for none, −1 for padding: `[G, n, n]`.
    pub fn codes(&self) -> Tensor<3, Int> {
        self.codes.clone()
    }
}

/// Binary cross-entropy of padded pair logits `[G, n, n]`: the mean over the n_g² ordered pairs of each graph, diagonal
/// included, `[G]`; 0 for a graph without nodes.
pub fn adjacency_loss(logits: Tensor<3>, target: &AdjacencyTarget) -> Tensor<1> {
    let [num_graphs, size, _] = target.codes.dims();
    let dtype = logits.dtype();
    let inside = target.codes.clone().greater_equal_scalar(0).float().cast(dtype);
    let edge = target.codes.clone().clamp_min(0).float().cast(dtype);
    // −y·ln σ(x) − (1 − y)·ln(1 − σ(x)) = (1 − y)·x − ln σ(x), exact for any x.
    let loss = (-edge + 1.0) * logits.clone() - log_sigmoid(logits);
    let by_graph = |x: Tensor<3>| x.reshape([num_graphs, size * size]).sum_dim(1).reshape([num_graphs]);
    by_graph(loss * inside.clone()) / by_graph(inside).clamp_min(1.0)
}

/// The two terms of the warm-up loss, each `[1]`, and what the second one is made of.
#[derive(Debug, Clone)]
pub struct WarmupLoss {
    /// Mean squared error between decoded and given node features, over all N·D elements.
    pub node: Tensor<1>,
    /// [`adjacency_loss`], unweighted mean over the graphs that have a node.
    pub adjacency: Tensor<1>,
    /// Logits of all ordered pairs of nodes, padded as [`AdjacencyTarget::codes`], `[G, n, n]`; `None` without nodes.
    pub logits: Option<Tensor<3>>,
}

impl GnnEncoder {
    /// The warm-up loss of node features `[N, D]`. `target` must come from the graphs of `graphs`. A batch without
    /// nodes gives 0.
    pub fn warmup(&self, x: Tensor<2>, graphs: &GraphBatch, target: &AdjacencyTarget) -> WarmupLoss {
        if graphs.num_nodes() == 0 {
            let zero = Tensor::zeros([1], (&x.device(), x.dtype()));
            return WarmupLoss { node: zero.clone(), adjacency: zero, logits: None };
        }
        let nodes = self.nodes(x.clone(), graphs);
        let node = (self.node_decoder.forward(nodes.clone()) - x).square().mean();
        let logits = self.adj_decoder.forward(nodes, target);
        let adjacency = adjacency_loss(logits.clone(), target).sum() / target.num_filled as f64;
        WarmupLoss { node, adjacency, logits: Some(logits) }
    }
}
