//! Small tokenizers of our own, for networks that start from nothing: no download, known licence, quick to load.
//!
//! Both were learned from `corpus.txt` by [`train`]; a test learns them again and compares the files byte by byte.
//! They are ordinary Hugging Face tokenizers: [`Tokenizer::save`] writes a folder that other tools read.

mod learn;
mod train;

use super::folder::Folder;
use super::tokenizer::Tokenizer;
use crate::Result;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use train::train;

/// Which small tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Builtin {
    /// For decoders: byte-level BPE with 2,048 ids. NFC and the pre-tokenizer expression of Qwen2 and Qwen3, all 256
    /// bytes, the special tokens `<|endoftext|>` (padding), `<|im_start|>` and `<|im_end|>` (end of text), the tokens
    /// `<think>`, `</think>`, `<tool_call>`, `</tool_call>`, `<tool_response>` and `</tool_response>`, and a ChatML
    /// template.
    ///
    /// The template differs from Qwen3's in that no thinking block is put before a reply unless the message has
    /// `reasoning_content`; with `enable_thinking` false every reply, and the generation prompt, begins with an empty one.
    Decoder,
    /// For sentence encoders: uncased WordPiece with at most 2,000 ids, normalised and split like BERT's, with `[PAD]`,
    /// `[UNK]`, `[CLS]`, `[SEP]` and `[MASK]` as ids 0 to 4.
    Encoder,
}

impl Tokenizer {
    /// One of the small tokenizers that come with this crate.
    ///
    /// # Errors
    /// None in practice: the files are part of the program and a test reads them.
    pub fn builtin(kind: Builtin) -> Result<Self> {
        let bytes: &[u8] = match kind {
            Builtin::Decoder => include_bytes!("decoder/tokenizer.json"),
            Builtin::Encoder => include_bytes!("encoder/tokenizer.json"),
        };
        Self::from_files(kind.folder(bytes.to_vec()))
    }
}

impl Builtin {
    /// The files that belong to a `tokenizer.json` of this kind.
    fn folder(self, tokenizer: Vec<u8>) -> Folder {
        let config = match self {
            Builtin::Decoder => serde_json::json!({
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": null,
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "unk_token": null,
                "model_max_length": 1_000_000,
                "clean_up_tokenization_spaces": false,
            }),
            Builtin::Encoder => serde_json::json!({
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": true,
                "strip_accents": null,
                "tokenize_chinese_chars": true,
                "pad_token": "[PAD]",
                "unk_token": "[UNK]",
                "cls_token": "[CLS]",
                "sep_token": "[SEP]",
                "mask_token": "[MASK]",
                "model_max_length": 512,
            }),
        };
        let generation = match self {
            Builtin::Decoder => Some(serde_json::json!({ "eos_token_id": [2041, 2039], "pad_token_id": 2039 })),
            Builtin::Encoder => None,
        };
        let object = |value: serde_json::Value| value.as_object().cloned();
        let template = match self {
            Builtin::Decoder => Some(include_str!("decoder/chat_template.jinja").to_string()),
            Builtin::Encoder => None,
        };
        let path = PathBuf::from(match self {
            Builtin::Decoder => "builtin decoder tokenizer",
            Builtin::Encoder => "builtin encoder tokenizer",
        });
        Folder {
            path,
            tokenizer,
            config: object(config),
            special_map: None,
            generation: generation.and_then(object),
            template,
        }
    }
}
