//! From node vectors to one vector per graph.

use crate::GraphBatch;
use crate::graph::ints;
use crate::segment::{segment_max, segment_sum};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// How the nodes of a graph are reduced to one vector. A graph without nodes gives 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Pool {
    /// Mean over the nodes.
    #[default]
    Mean,
    /// Sum over the nodes.
    Sum,
    /// Largest element per column.
    Max,
    /// The node that so many others follow: 0 is the last one. A graph without that node gives 0.
    FromEnd(usize),
}

impl Pool {
    /// Reduces node vectors `[N, F]` to graph vectors `[G, F]`.
    pub fn forward(self, nodes: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        assert_eq!(nodes.dims()[0], graphs.num_nodes(), "one row per node of the batch");
        let (segments, num_graphs) = (graphs.graph_of_node(), graphs.num_graphs());
        match self {
            Self::Mean => {
                let counts = graphs.node_counts().clamp_min(1).float().cast(nodes.dtype());
                segment_sum(nodes, segments, num_graphs) / counts.unsqueeze_dim(1)
            }
            Self::Sum => segment_sum(nodes, segments, num_graphs),
            Self::Max => segment_max(nodes, segments, num_graphs),
            Self::FromEnd(after) => {
                let device = nodes.device();
                let place = |range: &[usize]| {
                    let place = range[1].checked_sub(after + 1).filter(|place| *place >= range[0]);
                    place.map_or((0, 0), |place| (place as i64, 1))
                };
                let (places, there): (Vec<i64>, Vec<i64>) = graphs.node_offsets().windows(2).map(place).unzip();
                if graphs.num_nodes() == 0 {
                    return Tensor::zeros([num_graphs, nodes.dims()[1]], (&device, nodes.dtype()));
                }
                let there = ints(there, &device).float().cast(nodes.dtype());
                nodes.select(0, ints(places, &device)) * there.unsqueeze_dim(1)
            }
        }
    }
}
