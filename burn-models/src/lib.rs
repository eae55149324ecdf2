//! Networks, text and checkpoints for agentic workflows, on [Burn](burn).
//!
//! Shapes in the documentation use these letters throughout: B batch, L length, D model width, H heads, K key/value
//! heads, C head width, F feed-forward width, V vocabulary, N nodes, E edges, G graphs.

pub mod checkpoint;
pub mod decoder;
pub mod encoder;
mod error;
pub mod generate;
pub mod glow;
pub mod mlp;
pub mod ops;
mod shield;
pub mod text;
pub mod value_head;

pub use error::{Error, Result, ShapeMismatch};
pub use shield::shield;
