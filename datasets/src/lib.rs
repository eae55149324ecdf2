//! Data for agentic workflows: readers with strict errors, samples for training, caches and tables.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`flora`], [`index`] | FLORA-Bench records (workflow, task, label), line by line, and as compact tables |
//! | [`synthetic`] | FLORA records with a planted rule, to try things without a download |
//! | [`synthetic_chats`] | chats that answer questions by searching, for the same |
//! | [`render`], [`templates`] | workflows as text, and the words around them |
//! | [`graph_questions`] | questions about workflow graphs, to pre-finetune a language model on |
//! | [`judge`] | FLORA records as questions with the answers Yes and No |
//! | [`chat`], [`sft`] | conversations, and token samples, steps and batches made from them |
//! | [`sampler`] | which records go into which batch |
//! | [`cache`] | embeddings on disk, found again by content |
//! | [`table`] | rows in and out of commands, as JSON lines or Parquet |
//! | [`rng`], [`lines`], [`atomic`] | random streams by name, lines with numbers, compressed or not, files that are whole or absent |
//!
//! Shapes in the documentation use these letters throughout: B batch, L length, D model width, H heads, K key/value
//! heads, C head width, F feed-forward width, V vocabulary, N nodes, E edges, G graphs.
//!
//! Every error names its place (`file:line: key`), what was expected, what was found and, where it is not plain, what to
//! do. Every output file appears under its name only when it is complete. Everything random is a pure function of a seed
//! and of names, and does not depend on the order of files or on threads.

pub mod atomic;
pub mod cache;
pub mod chat;
mod error;
pub mod flora;
pub mod graph_questions;
pub mod index;
mod json;
pub mod judge;
pub mod lines;
mod printable;
pub mod render;
pub mod rng;
pub mod sampler;
pub mod sft;
mod splits;
mod store;
pub mod synthetic;
pub mod synthetic_chats;
pub mod table;
pub mod templates;
mod workflow;

pub use error::{Error, RecordError, Result};
pub use index::FloraIndex;
pub use splits::{Split, matching};
pub use workflow::Workflow;
