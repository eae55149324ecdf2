//! Text: tokenizers, chat templates, and token ids of conversations.

mod chat;
mod folder;
mod guard;
mod message;
mod supervise;
mod template;
mod tokenizer;

pub mod builtin;

pub use builtin::Builtin;
pub use chat::{ChatOptions, Framing};
pub use message::Message;
pub use supervise::{SuperviseOptions, Supervised, Turns};
pub use template::{ChatTemplate, RenderContext};
pub use tokenizer::{Specials, Tokenizer};
