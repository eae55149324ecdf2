//! Low-rank adapters for linear layers: LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024),
//! with PEFT's files.
//!
//! A network uses [`LoraLinear`] for every projection that may be adapted and lists them through [`Projections`];
//! [`attach`], [`merge`], [`read_adapter`] and [`write_adapter`] then work on any such network. The frozen matrix stays outside
//! automatic differentiation: a step costs the low-rank products only.
//!
//! Shapes in the documentation use these letters throughout: B batch, L length, D model width, H heads, K key/value
//! heads, C head width, F feed-forward width, V vocabulary, N nodes, E edges, G graphs. Here also R, an adapter's rank.

mod attach;
mod config;
mod error;
mod linear;
mod merge;
mod peft;
mod quantize;
mod stream;

pub use attach::{Projections, attach, parameters};
pub use config::{LoraConfig, Targets};
pub use error::{Error, Result};
pub use linear::{Adapter, LoraLinear};
pub use merge::merge;
pub use peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter, read_config, write_adapter};
pub use quantize::{BLOCK, Quantization};
pub use stream::Stream;
