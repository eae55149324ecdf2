//! What is trained: networks as [`train::Task`](crate::train::Task)s, and their batches.

mod causal_lm;
mod epochs;
mod glow;
mod lm_batches;
mod value_head;
mod warmup;

pub use causal_lm::{CausalLm, LmStep, MicroBatch, Recompute};
pub use epochs::Epochs;
pub use glow::{Contrast, GlowBatches, GlowData, GlowItem, GlowRecords, GlowTask, GlowTaskSettings};
pub use lm_batches::{LmBatches, Neftune};
pub use value_head::{JudgedPrompts, ValueBatches, ValueMicro, ValueStep, ValueTask};
pub use warmup::{WarmupBatches, WarmupItem, WarmupTask};
