//! Commands that work on files of rows, for use from scripts and other programs.

mod chat;
mod data;
mod embed;
mod export;
mod generate;
mod merge;
mod predict;
mod rank;
mod rows;
mod score;

pub use chat::chat;
pub use data::{convert, graph_questions, stats, synthesize};
pub use embed::embed;
pub use export::export;
pub use generate::generate;
pub use merge::merge;
pub use predict::predict;
pub use score::score;
