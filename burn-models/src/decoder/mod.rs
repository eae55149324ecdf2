//! Causal language models: Qwen3, Qwen2 and Llama-3, by configuration.
//!
//! ```text
//! let model = Decoder::from_folder(dir, FloatDType::F32, &device)?;        // or DecoderConfig::default().init(seed, ..)
//! let input = Padded::right(&sequences, pad)?.input(model.config().vocab_size, &device)?;
//! let hidden = model.forward_hidden(&input);                               // [B, L, D], after the final norm
//! let logprobs = model.token_logprobs(rows, targets);                      // [M]: the head only on these rows
//! let model = model.attach_lora(&LoraConfig::default(), seed)?;            // frozen base, trainable adapters
//! ```
//!
//! A block is `x + attention(norm(x))`, then `x + mlp(norm(x))`: RMSNorm, grouped-query attention with rotary positions,
//! SwiGLU. Attention scores, softmax and norms compute in f32 also when weights are f16 or bf16.

mod attention;
mod block;
mod cache;
mod config;
mod context;
mod count;
mod head;
mod hf_config;
mod init;
mod input;
mod load;
mod model;
mod norm;
mod project;
mod recompute;
mod rope;

pub use attention::Attention;
pub use block::{DecoderLayer, Mlp};
pub use cache::{KvCache, LayerCache};
pub use config::{Architecture, DecoderConfig, RopeScaling};
pub use context::Context;
pub use count::ParameterCount;
pub use input::{DecoderInput, Packed, Padded};
pub use load::SaveModel;
pub use model::{Decoder, DecoderModel, HiddenStates};
pub use norm::RmsNorm;

pub use crate::ops::TokenScores;
