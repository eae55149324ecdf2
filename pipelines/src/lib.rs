//! Hearth: recipes that train, tune and evaluate models of agentic workflows, and the `hearth` program that runs them.
//!
//! ```text
//! recipe.ron ──parse──▶ Recipe ──check──▶ stage ▸ stage ▸ stage ──▶ report
//!             (strict)           (names, sizes,   each: inputs → batches → learner → artefacts, manifest last
//!                                 files, device)
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | [`recipe`] | the recipe language: types, parsing, `--set`, the rules across fields |
//! | [`diagnostics`] | what is wrong and where: `file:line:column`, the source line, the nearest accepted name |
//! | [`run`] | stage after stage: skip, continue or redo; the run folder; what each stage does |
//! | [`train`] | the step loop on burn-train: checkpoints, evaluation, schedules, dashboard |
//! | [`learners`] | what is trained: decoder, value head, GLOW predictor, its warm-up; their batches |
//! | [`docs`] | the reference of the recipe language, from its own source |
//! | [`embedding`] | vectors of token sequences by a decoder |
//! | [`judge`] | a decoder that says whether a workflow solves a task |
//! | [`client`] | a client of OpenAI-compatible servers |
//! | [`hub`] | models and data from a hub, through the cache that other tools share |
//! | [`eval`] | metrics: pure functions of scores |
//! | [`report`] | manifests, logs, tables, plots |
//! | [`commands`] | commands on files of rows: embed, score, generate, merge, predict |
//! | [`plan`] | what a recipe will take: counts, memory, disk, time |
//! | [`preview`] | what a stage will train on |
//! | [`mod@bench`] | speed and memory, beside the usual way in Python |
//! | [`device`] | the only place that knows which devices there are |
//! | [`cli`] | the command line and exit codes |
//!
//! # Decisions
//!
//! - **Everything random is a function of the recipe's seed, a name and a counter** ([`train::stream`]): no generator's state is
//!   saved, and a continued stage repeats the uninterrupted one bit for bit on a CPU.
//! - **The strategy owns the optimizer.** `burn-train`'s learner does not give its optimizer's state away, and saves at the end of
//!   an epoch only; here the learner carries the model, and checkpoints are written at any step, hashed, and renamed into
//!   place.
//! - **A reference in a recipe always carries its tag** (`Model("llm")`, `Stage("prefinetune")`): RON cannot tell a bare string
//!   from a tagged one, and a typing mistake must not become a path.
//! - **The warm-up is part of `GlowTrain`**, with a log and checkpoints of its own: both need the same architecture, which then stands
//!   in one place.
//! - **`GlowTrain.inputs: Standardize`** is ours. The states of a language model at the end of one template all point almost the
//!   same way (cosines of 0.98 and more), and so do the sentence vectors of small encoders; with the published `AsIs` the
//!   quickstart's predictor reached 0.84 test accuracy in the same number of epochs, standardised 0.90, which is the ceiling (one
//!   seed each). On small real-text data neither is reliably better.
//! - **Devices share a step by its micro-batches**, not by halves of a batch: every part's loss is divided by the weight of the whole step,
//!   so that the sum of gradients is that of one device, whatever the parts' sizes. Burn's own multi-device strategies average the
//!   gradients of equal batches, and its collective operations exist for GPUs only. A device of another host is one of them: Burn sends
//!   it the operations of its micro-batches and gets their gradients back (`lend`, with the feature `remote`).
//! - **Whole models in bf16 have masters in f32**: steps of 1e-5 are smaller than the gaps between bf16 numbers. Copies that compute
//!   and copies on further devices are one mechanism.
//! - **`recompute: Auto` decides once**, by an estimate that tests compare with measured peaks, and writes the choice down: a continued
//!   run computes as it began, though less memory may be free.
//! - **Patience counts evaluations** and stops when it is used up. The published rule counts epochs and stops one later.

pub mod bench;
pub mod cli;
pub mod client;
pub mod commands;
pub mod device;
pub mod diagnostics;
pub mod docs;
pub mod embedding;
mod error;
pub mod eval;
pub mod hub;
pub mod judge;
pub mod learners;
#[cfg(feature = "remote")]
pub mod lend;
pub mod plan;
pub mod preview;
mod progress;
pub mod recipe;
pub mod report;
pub mod run;
pub mod train;

pub use cli::main;
pub use error::{Error, Result};
