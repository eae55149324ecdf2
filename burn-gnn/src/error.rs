//! The error of this crate.

/// What can go wrong in this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An edge names a node that its graph does not have.
    #[error("graph {graph}: edge {edge} is {source_node} -> {target_node}, but the graph has {num_nodes} nodes")]
    EdgeOutOfRange {
        /// Position of the graph in the batch.
        graph: usize,
        /// Position of the edge in the graph's list.
        edge: usize,
        /// The edge's source.
        source_node: u32,
        /// The edge's target.
        target_node: u32,
        /// Number of nodes of the graph.
        num_nodes: usize,
    },
    /// A batch is too large for the integers that devices index with, or for the memory a padded form would take.
    #[error("{what}: {found}, at most {limit} are supported")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// The largest supported number.
        limit: usize,
    },
    /// Two things that belong together differ in number.
    #[error("{what}: expected {expected}, found {found}")]
    Count {
        /// What was counted.
        what: &'static str,
        /// The number asked for.
        expected: usize,
        /// The number given.
        found: usize,
    },
    /// A setting has an impossible value.
    #[error("`{key}`: {problem}")]
    Config {
        /// The setting.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;
