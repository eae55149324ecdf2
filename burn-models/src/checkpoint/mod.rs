//! Weights in Hugging Face layout: safetensors files, read into any Burn module and written from it.
//!
//! ```text
//! let weights = Weights::open(dir)?;                        // model.safetensors, its index and shards, or one file
//! let model = load(model, &weights, &LoadOptions {
//!     names: &|path| Some(path.to_string()),                // dotted field path → name in the file; None = not in a file
//!     dtype: FloatDType::F32,
//!     allow_unused: &[r"rotary_emb\.inv_freq$"],            // regular expressions on names in the file
//! })?;
//! save(&model, dir, &SaveOptions { names: &…, dtype: None, shard_bytes: None })?;
//! let hash: String = weights_hash(dir)?;
//! ```
//!
//! How a parameter and a tensor of the file correspond:
//!
//! - The module is walked in field order. A parameter's path is its field names joined by dots, such as
//!   `model.layers.0.self_attn.q_proj.weight`; the `gamma` and `beta` of Burn's norms are called `weight` and `bias`.
//!   `names` turns that path into the name in the file.
//! - The `weight` of a struct called `Linear` or `LoraLinear` is `[in, out]` here and `[out, in]` in the file:
//!   it is transposed on the way. Everything else keeps its shape.
//! - Missing, unused and mis-shaped tensors are one error that lists them all by their name in the file, before any
//!   parameter is touched.
//! - f32, f16 and bf16 sources are converted to `dtype` tensor by tensor: beside the network itself, at most
//!   one tensor is in memory at a time. A NaN or infinite weight is an error.
//! - A parameter keeps its device and whether it requires gradients. A lazily initialised one is never initialised.

mod hash;
mod header;
mod load;
mod save;
mod slots;
mod weights;

pub use hash::weights_hash;
pub use header::{Dtype, TensorInfo};
pub(crate) use load::supports;
pub use load::{LoadOptions, load};
pub use save::{SaveOptions, save, write_atomic};
pub use slots::hf_path;
pub use weights::Weights;
