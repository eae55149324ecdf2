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

mod choices;
mod draw;
mod engine;
mod request;
mod sampler;
mod stop;

pub use engine::{Engine, EngineConfig, GenerateConfig, generate};
pub use request::{Event, FinishReason, GenerateStats, Generation, Request};
pub use sampler::SamplingConfig;
