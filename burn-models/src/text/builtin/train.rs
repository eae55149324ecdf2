//! How the small tokenizers are made from a text.

use super::learn::{count, merges};
use super::{Builtin, Tokenizer};
use crate::{Error, Result};
use serde_json::{Map, Value as Json, json};
use std::path::PathBuf;
use tokenizers::tokenizer::{Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
use tokenizers::{NormalizedString, PreTokenizerWrapper};

/// The pre-tokenizer of Qwen2 and Qwen3: contractions, words with the space before them, single digits, punctuation,
/// line breaks, spaces.
const WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Added behind the byte-level vocabulary: text and whether it is special.
const DECODER_TOKENS: [(&str, bool); 9] = [
    ("<|endoftext|>", true),
    ("<|im_start|>", true),
    ("<|im_end|>", true),
    ("<think>", false),
    ("</think>", false),
    ("<tool_call>", false),
    ("</tool_call>", false),
    ("<tool_response>", false),
    ("</tool_response>", false),
];
/// The first ids of the WordPiece vocabulary.
const ENCODER_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// The prefix of word pieces that do not begin a word.
const INSIDE: &str = "##";

/// Learns a tokenizer of a kind from a text, with at most `vocab_size` ids. Deterministic.
///
/// # Errors
/// [`Error::Input`] where `vocab_size` does not even hold the alphabet and the special tokens.
pub fn train(kind: Builtin, corpus: &str, vocab_size: usize) -> Result<Tokenizer> {
    let json = match kind {
        Builtin::Decoder => byte_level(corpus, vocab_size)?,
        Builtin::Encoder => word_piece(corpus, vocab_size)?,
    };
    let mut bytes = serde_json::to_vec(&json).map_err(Error::json("tokenizer.json"))?;
    bytes.push(b'\n');
    Tokenizer::from_files(kind.folder(bytes))
}

/// `tokenizer.json` of a byte-level BPE tokenizer.
fn byte_level(corpus: &str, vocab_size: usize) -> Result<Json> {
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let normalizer = json!({ "type": "NFC" });
    let pre_tokenizer = json!({
        "type": "Sequence",
        "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": WORDS }, "behavior": "Isolated", "invert": false },
            byte_level,
        ],
    });
    let mut alphabet: Vec<String> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().map(String::from).collect();
    alphabet.sort();
    let room = room(vocab_size, alphabet.len() + DECODER_TOKENS.len())?;
    let words = words(corpus, &normalizer, &pre_tokenizer)?
        .into_iter()
        .map(|(word, n)| (word.chars().map(String::from).collect(), n))
        .collect();
    let merges = merges(words, room, |a, b| format!("{a}{b}"));
    let mut vocab = Map::new();
    for token in alphabet.into_iter().chain(merges.iter().map(|(a, b)| format!("{a}{b}"))) {
        let id = vocab.len();
        vocab.entry(token).or_insert_with(|| id.into());
    }
    let added =
        DECODER_TOKENS.iter().enumerate().map(|(i, (token, special))| added_token(vocab.len() + i, token, *special));
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges,
        },
    }))
}

/// `tokenizer.json` of an uncased WordPiece tokenizer.
fn word_piece(corpus: &str, vocab_size: usize) -> Result<Json> {
    let normalizer = json!({
        "type": "BertNormalizer",
        "clean_text": true,
        "handle_chinese_chars": true,
        "strip_accents": null,
        "lowercase": true,
    });
    let pre_tokenizer = json!({ "type": "BertPreTokenizer" });
    let symbols = |word: &str| -> Vec<String> {
        word.chars().enumerate().map(|(i, c)| if i == 0 { c.to_string() } else { format!("{INSIDE}{c}") }).collect()
    };
    let words: Vec<(Vec<String>, u64)> =
        words(corpus, &normalizer, &pre_tokenizer)?.into_iter().map(|(word, n)| (symbols(&word), n)).collect();
    // Printable ASCII in both positions, so that any English word can be spelled, and whatever else the text has.
    let ascii = ('!'..='~').filter(|c| !c.is_ascii_uppercase());
    let mut alphabet: Vec<String> = ascii.flat_map(|c| [c.to_string(), format!("{INSIDE}{c}")]).collect();
    alphabet.extend(words.iter().flat_map(|(symbols, _)| symbols.iter().cloned()));
    alphabet.sort();
    alphabet.dedup();
    let room = room(vocab_size, alphabet.len() + ENCODER_TOKENS.len())?;
    let join = |a: &str, b: &str| format!("{a}{}", b.strip_prefix(INSIDE).unwrap_or(b));
    let merges = merges(words, room, join);
    let mut vocab = Map::new();
    let learned = merges.iter().map(|(a, b)| join(a, b));
    for token in ENCODER_TOKENS.map(String::from).into_iter().chain(alphabet).chain(learned) {
        let id = vocab.len();
        vocab.entry(token).or_insert_with(|| id.into());
    }
    let special = |name: &str, kind: u8| json!({ "SpecialToken": { "id": name, "type_id": kind } });
    let sequence = |name: &str, kind: u8| json!({ "Sequence": { "id": name, "type_id": kind } });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": ENCODER_TOKENS.iter().enumerate().map(|(i, t)| added_token(i, t, true)).collect::<Vec<_>>(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)],
            "pair": [
                special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0), sequence("B", 1), special("[SEP]", 1),
            ],
            "special_tokens": {
                "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] },
            },
        },
        "decoder": { "type": "WordPiece", "prefix": INSIDE, "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": INSIDE,
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }))
}

fn room(vocab_size: usize, needed: usize) -> Result<usize> {
    vocab_size.checked_sub(needed).ok_or_else(|| {
        Error::Input(format!(
            "a vocabulary of {vocab_size} ids has no room for its {needed} characters and special tokens"
        ))
    })
}

fn added_token(id: usize, content: &str, special: bool) -> Json {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special,
    })
}

/// The words of a text after normalisation, as the pre-tokenizer splits them, with their counts.
fn words(corpus: &str, normalizer: &Json, pre_tokenizer: &Json) -> Result<std::collections::BTreeMap<String, u64>> {
    let broken = |problem: String| Error::Tokenizer { path: PathBuf::from("tokenizer.json"), problem };
    let normalizer: tokenizers::NormalizerWrapper =
        serde_json::from_value(normalizer.clone()).map_err(|e| broken(e.to_string()))?;
    let pre_tokenizer: PreTokenizerWrapper =
        serde_json::from_value(pre_tokenizer.clone()).map_err(|e| broken(e.to_string()))?;
    let mut text = NormalizedString::from(corpus);
    normalizer.normalize(&mut text).map_err(|e| broken(e.to_string()))?;
    let mut pieces = PreTokenizedString::from(text);
    pre_tokenizer.pre_tokenize(&mut pieces).map_err(|e| broken(e.to_string()))?;
    let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(count(splits.into_iter().map(|(word, _, _)| word.to_string())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CORPUS: &str = include_str!("corpus.txt");

    fn files(tokenizer: &Tokenizer) -> Vec<(String, Vec<u8>)> {
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
            .collect();
        files.sort();
        files
    }

    const SIZES: [(Builtin, usize); 2] = [(Builtin::Decoder, 2048), (Builtin::Encoder, 2000)];

    #[test]
    fn the_committed_files_are_what_the_corpus_gives() {
        for (kind, size) in SIZES {
            let learned = train(kind, CORPUS, size).unwrap();
            assert_eq!(learned.vocab_size(), size, "{kind:?}");
            assert!(
                files(&learned) == files(&Tokenizer::builtin(kind).unwrap()),
                "{kind:?} differs: run `write_files`"
            );
        }
    }

    #[test]
    fn a_vocabulary_without_room_for_the_alphabet_is_an_error() {
        for (kind, _) in SIZES {
            assert!(matches!(train(kind, CORPUS, 100), Err(Error::Input(_))));
        }
    }

    /// Makes the committed files anew, after the corpus was changed.
    #[test]
    #[ignore = "writes into the source folder"]
    fn write_files() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/text/builtin");
        for ((kind, size), folder) in SIZES.into_iter().zip(["decoder", "encoder"]) {
            let files = files(&train(kind, CORPUS, size).unwrap());
            let (_, bytes) = files.iter().find(|(name, _)| name == "tokenizer.json").unwrap();
            std::fs::create_dir_all(source.join(folder)).unwrap();
            std::fs::write(source.join(folder).join("tokenizer.json"), bytes).unwrap();
        }
    }
}
