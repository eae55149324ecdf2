//! Training on `burn-train`, step by step.
//!
//! Every learner of Hearth is a `burn-train` model ([`Task`]) that is driven by one
//! [`SupervisedLearningStrategy`](burn::train::SupervisedLearningStrategy), [`StepStrategy`]. It keeps what burn-train has (event processor,
//! metrics, terminal dashboard, interrupter) and adds what it lacks:
//!
//! - save, evaluate and resume at any step, not only at the end of an epoch;
//! - a learning rate that is a pure function of the step ([`Schedule`]);
//! - clipping by the norm of *all* gradients (Burn clips each parameter by itself);
//! - micro-batches whose gradients are summed with the weights of the whole step, so that an accumulated step equals one
//!   big batch, token for token;
//! - several devices on one step, which equals the step of one device to rounding, and steps in bf16 on masters in f32;
//! - one device synchronisation per step: loss, scores and gradient norm come back in one read;
//! - scores that only a whole evaluation has, such as the quality of a ranking ([`Task::summarize`]);
//! - a step whose loss or gradient is not finite stops the stage before it reaches the weights, and writes down which
//!   records it was made of.
//!
//! Everything random is drawn from a stream named by the seed, its purpose and the step, so nothing about a generator has
//! to be saved: a continued run repeats the uninterrupted one bit for bit on a CPU device.

mod adamw;
mod average;
mod batches;
mod checkpoint;
mod clip;
mod copies;
mod early_stopping;
mod error;
mod fit;
mod plain;
mod schedule;
mod scores;
mod seeds;
mod strategy;
mod terminal;
mod trained;

pub use adamw::FusedAdamW;
pub use average::Average;
pub use batches::{BatchLoader, Batches};
pub use checkpoint::{Checkpoints, TrainState};
pub use clip::{gradient_norm, scale_gradients};
pub use early_stopping::{Direction, EarlyStopping, Verdict};
pub use error::Error;
pub use fit::{FitData, FitOptions, FitOutcome, Fitted, Hooks, Measured, fit};
pub use schedule::{DecayShape, Schedule};
pub use scores::{MetricSpec, Scores, Task};
pub use seeds::stream;
pub use strategy::StepStrategy;
pub use terminal::{is_dashboard, restore_terminal, stop_requested, watch_for_ctrl_c};
