//! Graphs on the host, and batches of graphs on a device.

use crate::{Error, Result};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Devices index with 32-bit integers by default.
const MAX_INDEX: usize = i32::MAX as usize;

/// A directed graph: `num_nodes` nodes numbered from 0, and edges `[source, target]`. Self-loops and parallel edges
/// are allowed, and so is a graph without nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// Number of nodes.
    pub num_nodes: usize,
    /// Edges as `[source, target]`.
    pub edges: Vec<[u32; 2]>,
}

impl Graph {
    /// A graph whose edges all lie within its nodes.
    ///
    /// # Errors
    /// [`Error::EdgeOutOfRange`] with graph number 0.
    pub fn new(num_nodes: usize, edges: Vec<[u32; 2]>) -> Result<Self> {
        let graph = Self { num_nodes, edges };
        graph.check(0)?;
        Ok(graph)
    }

    /// The graph with the reverse of every edge: each that is not there yet is added once, after the given ones and in their
    /// order. Self-loops are their own reverse.
    pub fn bidirectional(&self) -> Self {
        let mut there: HashSet<[u32; 2]> = self.edges.iter().copied().collect();
        let reversed = self.edges.iter().map(|&[source, target]| [target, source]);
        let added: Vec<[u32; 2]> = reversed.filter(|edge| there.insert(*edge)).collect();
        Self { num_nodes: self.num_nodes, edges: self.edges.iter().copied().chain(added).collect() }
    }

    pub(crate) fn check(&self, graph: usize) -> Result<()> {
        match self.edges.iter().position(|e| e.iter().any(|&node| node as usize >= self.num_nodes)) {
            None => Ok(()),
            Some(edge) => {
                let [source_node, target_node] = self.edges[edge];
                Err(Error::EdgeOutOfRange { graph, edge, source_node, target_node, num_nodes: self.num_nodes })
            }
        }
    }
}

/// What a batch does with edges from a node to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SelfLoops {
    /// Edges stay as they are.
    #[default]
    Keep,
    /// All self-loops are removed and every node gets exactly one, as attention convolutions and GCN want it.
    ReplaceOnce,
}

/// Several graphs as one: their disjoint union, with edges sorted by target, then by source.
///
/// Holds integer tensors only, so that the same batch serves a model with and without autodiff.
#[derive(Debug, Clone)]
pub struct GraphBatch {
    source: Tensor<1, Int>,
    target: Tensor<1, Int>,
    graph_of_node: Tensor<1, Int>,
    node_counts: Tensor<1, Int>,
    node_offsets: Vec<usize>,
    edge_offsets: Vec<usize>,
    edge_origins: Vec<Option<usize>>,
    input_edges: usize,
}

impl GraphBatch {
    /// Joins graphs; the nodes of graph `g` follow those of graph `g − 1`.
    ///
    /// # Errors
    /// [`Error::EdgeOutOfRange`], or [`Error::TooLarge`] for more than 2³¹ − 1 nodes or edges.
    pub fn new(graphs: &[&Graph], self_loops: SelfLoops, device: &Device) -> Result<Self> {
        let num_nodes = graphs.iter().map(|g| g.num_nodes).fold(0usize, usize::saturating_add);
        let input_edges = graphs.iter().map(|g| g.edges.len()).fold(0usize, usize::saturating_add);
        for (what, found) in [("nodes", num_nodes), ("edges", input_edges.saturating_add(num_nodes))] {
            if found > MAX_INDEX {
                return Err(Error::TooLarge { what, found, limit: MAX_INDEX });
            }
        }

        let mut node_offsets = Vec::with_capacity(graphs.len() + 1);
        node_offsets.push(0);
        let mut graph_of_node = Vec::with_capacity(num_nodes);
        // (target, source, position among the input edges)
        let mut edges: Vec<(usize, usize, Option<usize>)> = Vec::with_capacity(input_edges + num_nodes);
        let mut position = 0;
        for (number, graph) in graphs.iter().enumerate() {
            graph.check(number)?;
            let (first_node, first_edge) = (graph_of_node.len(), edges.len());
            graph_of_node.resize(first_node + graph.num_nodes, number as i64);
            node_offsets.push(graph_of_node.len());

            let mut loops = vec![None; if self_loops == SelfLoops::ReplaceOnce { graph.num_nodes } else { 0 }];
            for &[source, target] in &graph.edges {
                let (source, target) = (source as usize, target as usize);
                match self_loops {
                    SelfLoops::ReplaceOnce if source == target => loops[source] = Some(position),
                    _ => edges.push((first_node + target, first_node + source, Some(position))),
                }
                position += 1;
            }
            edges.extend(loops.into_iter().enumerate().map(|(i, origin)| (first_node + i, first_node + i, origin)));
            edges[first_edge..].sort_unstable();
        }

        let mut edge_offsets = vec![0; num_nodes + 1];
        for (target, _, _) in &edges {
            edge_offsets[target + 1] += 1;
        }
        for i in 0..num_nodes {
            edge_offsets[i + 1] += edge_offsets[i];
        }

        let node_counts = graphs.iter().map(|g| g.num_nodes as i64).collect();
        Ok(Self {
            source: ints(edges.iter().map(|e| e.1 as i64).collect(), device),
            target: ints(edges.iter().map(|e| e.0 as i64).collect(), device),
            graph_of_node: ints(graph_of_node, device),
            node_counts: ints(node_counts, device),
            node_offsets,
            edge_offsets,
            edge_origins: edges.into_iter().map(|e| e.2).collect(),
            input_edges,
        })
    }

    /// Number of graphs, G.
    pub fn num_graphs(&self) -> usize {
        self.node_offsets.len() - 1
    }

    /// Number of nodes of all graphs, N.
    pub fn num_nodes(&self) -> usize {
        self.edge_offsets.len() - 1
    }

    /// Number of edges after the treatment of self-loops, E.
    pub fn num_edges(&self) -> usize {
        self.edge_origins.len()
    }

    /// Source node of every edge, `[E]`.
    pub fn source(&self) -> Tensor<1, Int> {
        self.source.clone()
    }

    /// Target node of every edge, `[E]`, ascending.
    pub fn target(&self) -> Tensor<1, Int> {
        self.target.clone()
    }

    /// Graph of every node, `[N]`, ascending.
    pub fn graph_of_node(&self) -> Tensor<1, Int> {
        self.graph_of_node.clone()
    }

    /// Number of nodes of every graph, `[G]`.
    pub fn node_counts(&self) -> Tensor<1, Int> {
        self.node_counts.clone()
    }

    /// Where the nodes of graph `g` begin and end: entries `g` and `g + 1`; G + 1 entries.
    pub fn node_offsets(&self) -> &[usize] {
        &self.node_offsets
    }

    /// Where the incoming edges of node `i` begin and end: entries `i` and `i + 1`; N + 1 entries.
    pub fn edge_offsets(&self) -> &[usize] {
        &self.edge_offsets
    }

    /// For every edge its position among the edges of all given graphs in order. A self-loop made by
    /// [`SelfLoops::ReplaceOnce`] stands for the last one its node had, and has no origin where there was none.
    pub fn edge_origins(&self) -> &[Option<usize>] {
        &self.edge_origins
    }

    /// One value per edge, `[E]`, from one value per given edge (all graphs in order); self-loops that were added get
    /// `added`.
    ///
    /// # Errors
    /// [`Error::Count`] when the number of values is not the number of given edges.
    pub fn edge_values(&self, values: &[f32], added: f32, device: &Device) -> Result<Tensor<1>> {
        if values.len() != self.input_edges {
            return Err(Error::Count { what: "edge values", expected: self.input_edges, found: values.len() });
        }
        let sorted: Vec<f32> = self.edge_origins.iter().map(|o| o.map_or(added, |i| values[i])).collect();
        let shape = [sorted.len()];
        Ok(Tensor::from_data(TensorData::new(sorted, shape), device))
    }

    /// The batch without the self-loops that [`SelfLoops::ReplaceOnce`] added, for convolutions that want the edges as they were
    /// given. Of several self-loops that a node had, one is left.
    pub fn given(&self) -> Self {
        if self.edge_origins.iter().all(Option::is_some) {
            return self.clone();
        }
        let kept: Vec<usize> = (0..self.num_edges()).filter(|edge| self.edge_origins[*edge].is_some()).collect();
        let places = ints(kept.iter().map(|edge| *edge as i64).collect(), &self.source.device());
        let before = |edge: usize| kept.partition_point(|kept| *kept < edge);
        Self {
            source: self.source().select(0, places.clone()),
            target: self.target().select(0, places),
            edge_offsets: self.edge_offsets.iter().map(|edge| before(*edge)).collect(),
            edge_origins: kept.iter().map(|edge| self.edge_origins[*edge]).collect(),
            ..self.clone()
        }
    }

    /// The same batch on another device.
    pub fn to_device(&self, device: &Device) -> Self {
        Self {
            source: self.source().to_device(device),
            target: self.target().to_device(device),
            graph_of_node: self.graph_of_node().to_device(device),
            node_counts: self.node_counts().to_device(device),
            ..self.clone()
        }
    }
}

/// Integers on a device, in its default integer type.
pub(crate) fn ints(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}
