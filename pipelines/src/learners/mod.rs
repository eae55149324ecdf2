//! What is trained: networks as [`train::Task`](crate::train::Task)s, and their batches.
//!
//! # Performance notes
//!
//! What a fine-tuning step on a CPU is made of, and what was tried (`hearth bench`; figures in the README):
//!
//! - **Tokens that are not computed are the largest gain**: no padding (on chats of 64 to 1,448 tokens in batches of eight, 58 % of the
//!   places of the usual way are padding), common beginnings once, and a head that sees learned tokens only, in chunks: one tensor of
//!   logits of such a batch, over 32,768 words, has 1.4 GiB.
//! - **Matrix products** are most of what is left; Burn's reach the speed of PyTorch's with AVX-512.
//! - **Activations, softmax, norms, rotary embedding and Adam** are passes of our own over the memory on a CPU (`burn_models::ops`): Burn's
//!   chains of operations were 5 to 20 times slower.
//! - **Dropout** hashes places in place of drawing numbers one by one.
//! - **Restored weights** of a base in few bits cost a pass over each layer's weights, twice for every pass with recomputation; without
//!   recomputation they would all be kept, which the recipe's rules refuse.

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
