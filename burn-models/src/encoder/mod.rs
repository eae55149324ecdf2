//! Sentence encoders: BERT with pooling, in the folders of the sentence-transformers library.
//!
//! ```text
//! let encoder = SentenceEncoder::from_folder(dir, FloatDType::F32, &device)?;
//! let vectors = encoder.embed(&texts, 8192)?;                             // host, row-major [texts, dim]
//! ```

mod config;
mod init;
mod load;
mod model;
mod modules;
mod pooling;
mod sentence;

pub use config::BertConfig;
pub use load::checkpoint_name;
pub use model::{BertEncoder, BertLayer};
pub use pooling::{Pooling, normalize};
pub use sentence::{Embeddings, SentenceEncoder, SentenceOptions, Work};
