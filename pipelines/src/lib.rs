//! Hearth: recipes that train, tune and evaluate models of agentic workflows, and the `hearth` program that runs them.

pub mod cli;
pub mod commands;
pub mod device;
pub mod diagnostics;
pub mod embedding;
mod error;
pub mod eval;
pub mod learners;
mod progress;
pub mod recipe;
pub mod report;
pub mod run;
pub mod train;

pub use cli::main;
pub use error::{Error, Result};
