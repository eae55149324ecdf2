//! Graph neural networks on [Burn](burn): batches of graphs, reductions by segment, convolutions, pooling, and the
//! encoder of workflow graphs with its self-supervised heads.
//!
//! Shapes in the documentation use these letters: N nodes, E edges, G graphs (all of one batch together), D input
//! width, H attention heads, C width of one head.
//!
//! A batch of graphs is their *disjoint union* ([`GraphBatch`]): the nodes of all graphs stand one after the other in
//! one matrix `[N, D]`, and edges carry node numbers of that matrix. Edges are sorted by target once, on the host, so
//! that every sum over the incoming edges of a node runs in one fixed order: the same batch gives the same bits.
//!
//! Convolutions follow PyTorch Geometric: names of parameters, initial distributions, treatment of self-loops and of
//! parallel edges (which count separately).

mod conv;
mod encoder;
mod error;
mod graph;
pub mod init;
mod layer;
mod pool;
pub mod segment;
mod warmup;

pub use conv::{
    GatConv, GatConvConfig, GatV2Conv, GatV2ConvConfig, Gcn2Conv, Gcn2ConvConfig, GcnConv, GcnConvConfig, GinConv,
    GinConvConfig, SageAggregation, SageConv, SageConvConfig, TransformerConv, TransformerConvConfig, gcn_norm,
};
pub use encoder::{GnnEncoder, GnnEncoderConfig, GnnOutput};
pub use error::{Error, Result};
pub use graph::{Graph, GraphBatch, SelfLoops};
pub use layer::{ConvKind, GnnConv};
pub use pool::Pool;
pub use warmup::{AdjacencyTarget, Bilinear, BilinearConfig, WarmupLoss, adjacency_loss};
