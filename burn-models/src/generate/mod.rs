//! Text generation from token ids to token ids.
//!
//! ```text
//! let answers = generate(&model, &prompts, &GenerateConfig::default())?;       // one answer for each prompt
//!
//! let mut engine = Engine::new(&model, Some(&tokenizer), EngineConfig::default())?;
//! let number = engine.push(Request { prompt, n: 4, ..Request::default() })?;  // at any time, also while others run
//! while engine.step(&mut |event| …)? {}                                       // tokens and answers as they come
//! ```
//!
//! [`Engine`] runs up to `batch_size` sequences at one time. When some end, waiting ones take their places. What prompts
//! share is computed once: they are processed in the order of their content as a tree of tokens without padding
//! ([`Packed`](crate::decoder::Packed)), from which each sequence takes its keys and values. What an answer is does not depend on
//! what runs beside it: each draws from its own stream of random numbers.
//!
//! # Performance notes
//!
//! Of a step of 64 greedy answers on two cores (a decoder of 25 million parameters beside 151,936 words; profiled with `perf`):
//!
//! - **The head's product is more than half.** Its logits, 39 MB a step, are not kept: where only the most probable token is asked
//!   for, they are computed for 4,096 words at a time and looked at while the caches hold them, so that nothing is written,
//!   copied or read again. That took a tenth off the whole step on a quiet machine, and a quarter on a busy one.
//! - A sixth of the time goes into the order in which the product needs an embedding table, which lies row by row. Panels
//!   of our own that are turned in registers and multiplied in 6 × 16 tiles brought nothing that could be told from noise, and went.
//! - **Weights in bf16** are widened before they are turned: Burn moves single numbers of 16 bits, which took four times as long.
//! - **Drawing a token** looks at logits in passes of sixteen numbers. Filters first find a bound that everything they keep reaches, and
//!   then list and sort what reaches it, mostly little of the vocabulary; without filters the place of the draw is found by
//!   sums of blocks.
//! - Attention over the cache, some 6 %, is bound by reading keys and values.

mod choices;
mod draw;
mod engine;
mod request;
mod sampler;
mod stop;

pub use engine::{Engine, EngineConfig, GenerateConfig, generate};
pub use request::{Event, FinishReason, GenerateStats, Generation, Request};
pub use sampler::SamplingConfig;
