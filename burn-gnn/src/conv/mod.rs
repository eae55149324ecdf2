//! Convolutions, after PyTorch Geometric.

mod gat;
mod gatv2;
mod gcn;
mod gcn2;
mod gin;
mod sage;
mod transformer;

pub use gat::{GatConv, GatConvConfig};
pub use gatv2::{GatV2Conv, GatV2ConvConfig};
pub use gcn::{GcnConv, GcnConvConfig, gcn_norm};
pub use gcn2::{Gcn2Conv, Gcn2ConvConfig};
pub use gin::{GinConv, GinConvConfig};
pub use sage::{SageAggregation, SageConv, SageConvConfig};
pub use transformer::{TransformerConv, TransformerConvConfig};

use burn::tensor::Tensor;

use crate::GraphBatch;
use crate::segment::{segment_softmax, segment_sum};

/// Attention-weighted sums of messages over incoming edges.
///
/// `scores` `[E, H]`, `values` `[N, H·C]` → node vectors `[N, H·C]` and attention weights `[E, H]`.
fn attend(scores: Tensor<2>, values: Tensor<2>, graphs: &GraphBatch) -> (Tensor<2>, Tensor<2>) {
    let [num_nodes, width] = values.dims();
    let [num_edges, heads] = scores.dims();
    check_rows(&values, graphs);
    let attention = segment_softmax(scores, graphs.target(), num_nodes);
    let messages = values.select(0, graphs.source()).reshape([num_edges, heads, width / heads])
        * attention.clone().reshape([num_edges, heads, 1]);
    (segment_sum(messages.reshape([num_edges, width]), graphs.target(), num_nodes), attention)
}

/// Heads side by side, `[N, H·C]`, or their mean, `[N, C]`.
fn join_heads(x: Tensor<2>, heads: usize, concat: bool) -> Tensor<2> {
    let [num_nodes, width] = x.dims();
    match concat {
        true => x,
        false => x.reshape([num_nodes, heads, width / heads]).mean_dim(1).reshape([num_nodes, width / heads]),
    }
}

/// `⟨a, b⟩` of corresponding heads: `[rows, H·C]` twice to `[rows, H]`.
fn dot_heads(a: Tensor<2>, b: Tensor<2>, heads: usize) -> Tensor<2> {
    let [rows, width] = a.dims();
    (a * b).reshape([rows, heads, width / heads]).sum_dim(2).reshape([rows, heads])
}

/// Sum of `values[source]` over the incoming edges of each node, each edge times its weight if given: `[N, F]`.
fn propagate(values: Tensor<2>, weights: Option<Tensor<1>>, graphs: &GraphBatch) -> Tensor<2> {
    check_rows(&values, graphs);
    if graphs.num_edges() == 0 {
        return values.zeros_like();
    }
    let num_nodes = values.dims()[0];
    let messages = values.select(0, graphs.source());
    let messages = match weights {
        Some(weights) => messages * weights.unsqueeze_dim(1),
        None => messages,
    };
    segment_sum(messages, graphs.target(), num_nodes)
}

/// Node vectors of another batch would index out of range, which a GPU does not notice.
fn check_rows(values: &Tensor<2>, graphs: &GraphBatch) {
    assert_eq!(values.dims()[0], graphs.num_nodes(), "one row per node of the batch");
}
