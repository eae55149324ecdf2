//! Text generation from token ids to token ids.
//!
//! [`generate`] runs prompts in left-padded batches with a cache of keys and values. What a prompt's result is does not
//! depend on the batch it runs in: each request draws from its own stream of random numbers.

mod engine;
mod sampler;

pub use engine::{FinishReason, GenerateConfig, Generation, generate};
pub use sampler::SamplingConfig;
