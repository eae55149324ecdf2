//! What is trained: networks as [`train::Task`](crate::train::Task)s, and their batches.

mod causal_lm;
mod glow;
mod lm_batches;
mod order;
mod warmup;

pub use causal_lm::{CausalLm, LmStep, MicroBatch};
pub use lm_batches::LmBatches;
pub use glow::{GlowBatches, GlowData, GlowItem, GlowTask};
pub use order::{EpochOrder, Order};
pub use warmup::{WarmupBatches, WarmupItem, WarmupTask};
