//! Text: tokenizers, chat templates, and token ids of conversations.

mod chat;
mod folder;
mod guard;
mod message;
mod supervise;
mod tags;
mod template;
mod thinking;
mod tokenizer;

pub mod builtin;

pub use builtin::Builtin;
pub use chat::{ChatOptions, Framing};
pub use message::Message;
pub use supervise::{EndOfTurn, Learn, Mask, SuperviseOptions, Supervised};
pub use template::{ChatTemplate, RenderContext};
pub use thinking::Thinking;
pub use tokenizer::{Specials, Tokenizer};
