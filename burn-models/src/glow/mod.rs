//! GLOW: predict, without running it, whether an agentic workflow solves a task.
//!
//! After *GLOW: Graph-Language Co-Reasoning for Agentic Workflow Performance Prediction*, arXiv 2512.15751. A workflow
//! is a directed graph whose nodes carry texts. Three views of it and of the task become tokens of one width H:
//!
//! | token | from | through |
//! | --- | --- | --- |
//! | 0 prediction | a learned vector | – |
//! | 1 language | a language model's embedding of the rendered graph | MLP, LayerNorm |
//! | 2 graph | sentence embeddings of the node texts | [`burn_gnn::GnnEncoder`], LayerNorm |
//! | 3 task | sentence embedding of the task | MLP, LayerNorm |
//!
//! A type vector is added to each, a small transformer encoder mixes them ([`FusionEncoder`]), and an MLP on token 0
//! gives one logit per record. Training adds a contrastive term that pulls together the workflows that solve the same
//! task ([`contrast()`]).
//!
//! ```text
//! let model = GlowConfig::default().init(llm_dim, text_dim, &device)?;      // seed the device before
//! let tables = GlowTables { llm, text };                                    // all embeddings of a data set, once
//! let batch = GlowBatch::new(&records, &workflows, &tables, Dedup::Share, &device)?;
//! let batch = batch.with_contrast(&ContrastConfig::default(), seed)?;       // for training
//! let output = model.forward(&batch, &tables);                              // logits [B] and the three tokens
//! let loss = model.loss(&output, &batch, 1.0);
//! let scores = model.scores(output.logits);                                 // in [0, 1]
//! ```
//!
//! Parameters carry the names of the reference implementation ([`original_name`]), so that its files load and ours load
//! there.

mod batch;
mod config;
mod contrast;
mod fusion;
mod loss;
mod model;
mod names;

pub use batch::{Dedup, DistinctGraphs, GlowBatch, GlowRecord, GlowTables, GlowWorkflow, PromptRows, WarmupBatch};
pub use config::{
    FusionConfig, FusionKind, GlowConfig, GraphConfig, Head, Regression, RegressionLoss, RegressionOutput,
    RegressionTarget, TokenNorm,
};
pub use contrast::{
    Anchors, ContrastConfig, ContrastForm, ContrastGroups, ContrastToken, Distance, Grouping, Reduce, TaskNorm,
    contrast,
};
pub use fusion::{FusionEncoder, FusionEncoderConfig, FusionLayer, SelfAttention};
pub use loss::{GlowLoss, classification_loss, prediction_loss, rates, regression_loss};
pub use model::{GlowOutput, GlowPredictor, GlowTokens};
pub use names::original_name;
