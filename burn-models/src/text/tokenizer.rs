//! Text to token ids and back.

use super::folder::{self, Folder};
use super::guard::Guard;
use super::template::ChatTemplate;
use crate::checkpoint::write_atomic;
use crate::{Error, Result, shield};
use rayon::prelude::*;
use serde_json::{Map, Value as Json};
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use tokenizers::tokenizer::{
    AddedToken, AddedVocabulary, Encoding, Model, OffsetType, PreTokenizedString, PreTokenizer, TruncationDirection,
};

/// What becomes of special tokens that are written in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Specials {
    /// They become their single id: for text of our own, such as a rendered chat template.
    Parse,
    /// They are encoded as the characters they consist of: for data.
    Plain,
}

/// A tokenizer in Hugging Face form, with its special tokens and its chat template.
///
/// Truncation and padding that are stored in `tokenizer.json` are ignored: whoever makes batches decides about both.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The added tokens without the special ones, which [`Specials::Plain`] does not recognise.
    plain: AddedVocabulary,
    files: Folder,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
    vocab_size: usize,
    pub(super) guard: Guard,
    /// Compiled on first use: a tokenizer with a template that cannot be used is still a tokenizer.
    template: OnceLock<ChatTemplate>,
    /// Ids that end an assistant's turn in the template; see `supervise`.
    pub(super) turn_ends: OnceLock<Vec<u32>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.files.path)
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

/// The tokens that have a name of their own in `tokenizer_config.json`.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// Reads a folder with a `tokenizer.json` and, where they exist, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json` (end-of-text ids) and `chat_template.jinja`.
    ///
    /// # Errors
    /// Names the file and what is wrong with it. `tokenizer.json` may have up to 64 MiB.
    pub fn from_folder(dir: impl AsRef<Path>) -> Result<Self> {
        Self::from_files(Folder::read(dir.as_ref())?)
    }

    pub(super) fn from_files(files: Folder) -> Result<Self> {
        let path = files.path.join(folder::TOKENIZER);
        let broken = |problem: String| Error::Tokenizer { path: path.clone(), problem };
        let mut inner = careful(|| tokenizers::Tokenizer::from_bytes(&files.tokenizer)).map_err(broken)?;
        inner.with_truncation(None).map_err(|e| broken(e.to_string()))?;
        inner.with_padding(None);
        add_listed_tokens(&mut inner, &files)?;

        let id = |name: &str| -> Result<Option<u32>> {
            let Some(token) = files.special(name) else { return Ok(None) };
            inner.token_to_id(token).map(Some).ok_or_else(|| {
                let problem = format!("`{token}` is not in the vocabulary of {}", folder::TOKENIZER);
                Error::config(files.path.join(folder::CONFIG), name, problem)
            })
        };
        let first = |key: &str| -> Result<Option<u32>> { Ok(files.generation_ids(key)?.first().copied()) };
        let bos = id("bos_token")?.map_or_else(|| first("bos_token_id"), |id| Ok(Some(id)))?;
        let pad = id("pad_token")?.map_or_else(|| first("pad_token_id"), |id| Ok(Some(id)))?;
        let mut eos: Vec<u32> = id("eos_token")?.into_iter().collect();
        for id in files.generation_ids("eos_token_id")? {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }

        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let contents = |special: bool| added.values().filter(move |t| t.special == special).map(|t| t.content.as_str());
        let guard = Guard::new(contents(true), &contents(false).collect::<Vec<_>>());
        let (template, turn_ends) = (OnceLock::new(), OnceLock::new());
        Ok(Self { inner, plain, files, bos, eos, pad, vocab_size, guard, template, turn_ends })
    }

    /// Token ids of a text, without the tokens that `tokenizer.json` adds around a sequence.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the vocabulary has no token for a part of the text and no token for the unknown.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        Ok(self.encoding(text, specials, OffsetType::None)?.get_ids().to_vec())
    }

    /// [`Tokenizer::encode`] with the tokens that `tokenizer.json` adds around a sequence, such as `[CLS]` and `[SEP]`
    /// or a beginning-of-text token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_added(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        let encoding = self.encoding(text, specials, OffsetType::None)?;
        Ok(self.surround(encoding)?.get_ids().to_vec())
    }

    /// [`Tokenizer::encode_added`] cut at the end to at most `max` ids, the added ones included, and whether anything
    /// was cut. At least the added tokens are given, also where `max` is smaller than their number.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_within(&self, text: &str, specials: Specials, max: usize) -> Result<(Vec<u32>, bool)> {
        let mut encoding = self.encoding(text, specials, OffsetType::None)?;
        let room = max.saturating_sub(self.added_per_sequence());
        let cut = encoding.len() > room;
        encoding.truncate(room, 0, TruncationDirection::Right);
        Ok((self.surround(encoding)?.get_ids().to_vec(), cut))
    }

    /// [`Tokenizer::encode`] with the byte range of the text that every token covers. A character that several tokens
    /// share is in the range of each of them.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_offsets(&self, text: &str, specials: Specials) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = self.encoding(text, specials, OffsetType::Byte)?;
        let ranges = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok((encoding.get_ids().to_vec(), ranges))
    }

    /// [`Tokenizer::encode`] of many texts, on all processors.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], for the first text that fails.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S], specials: Specials) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text.as_ref(), specials)).collect()
    }

    /// How many tokens `tokenizer.json` adds around one sequence.
    pub fn added_per_sequence(&self) -> usize {
        self.inner.get_post_processor().map_or(0, |p| tokenizers::PostProcessor::added_tokens(p, false))
    }

    fn encoding(&self, text: &str, specials: Specials, offsets: OffsetType) -> Result<Encoding> {
        let added = match specials {
            Specials::Parse => self.inner.get_added_vocabulary(),
            Specials::Plain => &self.plain,
        };
        let work = || self.tokenize(added.extract_and_normalize(self.inner.get_normalizer(), text), offsets);
        careful(work).map_err(|problem| self.failure(problem))
    }

    fn tokenize(&self, mut pieces: PreTokenizedString, offsets: OffsetType) -> tokenizers::Result<Encoding> {
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        let model = self.inner.get_model();
        pieces.tokenize(|piece| model.tokenize(piece.get()))?;
        let encoding = pieces.into_encoding(None, 0, offsets)?;
        // Without its own tokens the post-processor still tidies the offsets.
        self.inner.post_process(encoding, None, false)
    }

    fn surround(&self, encoding: Encoding) -> Result<Encoding> {
        careful(|| self.inner.post_process(encoding, None, true)).map_err(|problem| self.failure(problem))
    }

    fn failure(&self, problem: String) -> Error {
        Error::Tokenizer { path: self.files.path.join(folder::TOKENIZER), problem }
    }

    /// Where special tokens stand in a text: byte range and id, in order.
    pub(super) fn special_places(&self, text: &str) -> Vec<(Range<usize>, u32)> {
        // Without a normalizer, so that only what is literally there counts.
        let pieces =
            self.inner.get_added_vocabulary().extract_and_normalize(None::<&tokenizers::NormalizerWrapper>, text);
        let mut places = Vec::new();
        for (_, (start, end), tokens) in pieces.get_splits(tokenizers::OffsetReferential::Original, OffsetType::Byte) {
            match tokens.as_deref() {
                Some([token]) if self.is_special(token.id) => places.push((start..end, token.id)),
                _ => {}
            }
        }
        places
    }

    /// The text of a sequence, byte for byte what its tokens stand for. Ids that are not in the vocabulary are left out;
    /// `skip_special` leaves out special tokens as well.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the decoder of `tokenizer.json` fails.
    pub fn decode_exact(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        careful(|| self.inner.decode(ids, skip_special)).map_err(|problem| self.failure(problem))
    }

    /// [`Tokenizer::decode_exact`] as the `transformers` library does it: spaces before punctuation are removed where
    /// `tokenizer_config.json` asks for it (`clean_up_tokenization_spaces`; Llama 3's does, Qwen's does not).
    ///
    /// # Errors
    /// As [`Tokenizer::decode_exact`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = self.decode_exact(ids, skip_special)?;
        let asked = self.files.config.as_ref().and_then(|map| map.get("clean_up_tokenization_spaces"));
        if asked != Some(&Json::Bool(true)) {
            return Ok(text);
        }
        const CLEANED: [(&str, &str); 10] = [
            (" .", "."),
            (" ?", "?"),
            (" !", "!"),
            (" ,", ","),
            (" ' ", "'"),
            (" n't", "n't"),
            (" 'm", "'m"),
            (" 's", "'s"),
            (" 've", "'ve"),
            (" 're", "'re"),
        ];
        Ok(CLEANED.iter().fold(text, |text, (from, to)| text.replace(from, to)))
    }

    /// The id of a token by its text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token as it stands in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a token is flagged special in `tokenizer.json`.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// The largest id plus one: the least number of rows of an embedding matrix. Matrices of real models often have
    /// more.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that a network whose embedding matrix has `rows` rows knows every id.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] with both numbers.
    pub fn fits(&self, rows: usize) -> Result<()> {
        if self.vocab_size <= rows {
            return Ok(());
        }
        let last = self.vocab_size - 1;
        let problem =
            format!("it has ids up to {last}, but the model has embeddings for {rows}: is it another model's?");
        Err(Error::Tokenizer { path: self.files.path.join(folder::TOKENIZER), problem })
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The ids that end a generated text: the tokenizer's own first, then those of `generation_config.json`.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The token that fills short rows of a batch.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// [`Tokenizer::pad_id`], else the first end-of-text id, else 0. What stands in masked places does not matter.
    pub fn fill_id(&self) -> u32 {
        self.pad.or(self.eos.first().copied()).unwrap_or(0)
    }

    /// The longest sequence `tokenizer_config.json` names, if it names a real one.
    pub fn model_max_length(&self) -> Option<usize> {
        let value = self.files.config.as_ref()?.get("model_max_length")?;
        // "No limit" is written as a huge float.
        value.as_u64().and_then(|length| usize::try_from(length).ok()).filter(|length| (1..1 << 40).contains(length))
    }

    /// BLAKE3 (hexadecimal) of all that decides about ids: `tokenizer.json`, further added tokens and the ids above.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.files.tokenizer.len() as u64).to_le_bytes());
        hasher.update(&self.files.tokenizer);
        let listed = self.files.config.as_ref().and_then(|map| map.get("added_tokens_decoder"));
        hasher.update(format!("{listed:?} {:?} {:?} {:?}", self.bos, self.eos, self.pad).as_bytes());
        hasher.finalize().to_hex().to_string()
    }

    /// The chat template of the folder, or the one set by [`Tokenizer::with_chat_template`].
    ///
    /// # Errors
    /// [`Error::Chat`] where there is none, [`Error::Template`] where it cannot be compiled.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        if let Some(template) = self.template.get() {
            return Ok(template);
        }
        let source = self.files.chat_template()?.ok_or_else(|| Error::Chat {
            problem: format!(
                "{} has no chat template: put a {} beside {}, or choose the ChatMl framing",
                self.files.path.display(),
                folder::TEMPLATE,
                folder::TOKENIZER
            ),
        })?;
        let template = ChatTemplate::new(&source)?;
        Ok(self.template.get_or_init(|| template))
    }

    /// The same tokenizer with another chat template, which [`Tokenizer::save`] then writes.
    #[must_use]
    pub fn with_chat_template(mut self, template: ChatTemplate) -> Self {
        self.files.template = Some(template.source().to_string());
        self.template = OnceLock::from(template);
        self.turn_ends = OnceLock::new();
        self
    }

    /// The named special tokens as variables of a chat template (`bos_token`, `eos_token`, …).
    pub(super) fn template_variables(&self) -> Map<String, Json> {
        let mut variables = Map::new();
        for name in NAMED {
            if let Some(token) = self.files.special(name) {
                variables.insert(name.into(), token.into());
            }
        }
        let additional = self.files.additional_special();
        if !additional.is_empty() {
            variables.insert("additional_special_tokens".into(), additional.into());
        }
        variables
    }

    /// Writes all tokenizer files, so that the folder can be read by [`Tokenizer::from_folder`] and by
    /// `AutoTokenizer.from_pretrained`. A `generation_config.json` that is there is left alone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let write = |name: &str, bytes: &[u8]| write_atomic(&dir.join(name), bytes);
        let write_object = |name: &str, object: &Option<Map<String, Json>>| match object {
            Some(object) => {
                let mut text = serde_json::to_string_pretty(object).map_err(Error::json(dir.join(name)))?;
                text.push('\n');
                write(name, text.as_bytes())
            }
            None => Ok(()),
        };
        write(folder::TOKENIZER, &self.files.tokenizer)?;
        write_object(folder::CONFIG, &self.files.config)?;
        write_object(folder::SPECIAL_MAP, &self.files.special_map)?;
        if !dir.join(folder::GENERATION).exists() {
            write_object(folder::GENERATION, &self.files.generation)?;
        }
        match &self.files.template {
            Some(template) => write(folder::TEMPLATE, template.as_bytes()),
            None => Ok(()),
        }
    }
}

/// Runs code of the tokenizer library, which may panic on settings that cannot be.
fn careful<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match shield(work) {
        Some(result) => result.map_err(|e| e.to_string()),
        None => Err("it is damaged, or has a form that cannot be read".into()),
    }
}

/// Adds tokens that only `tokenizer_config.json` lists, under the ids it gives them.
fn add_listed_tokens(inner: &mut tokenizers::Tokenizer, files: &Folder) -> Result<()> {
    let Some(Json::Object(listed)) = files.config.as_ref().and_then(|map| map.get("added_tokens_decoder")) else {
        return Ok(());
    };
    let problem = |key: &str, problem: String| {
        Error::config(files.path.join(folder::CONFIG), format!("added_tokens_decoder.{key}"), problem)
    };
    let mut missing = Vec::new();
    for (key, value) in listed {
        let id: u32 = key.parse().map_err(|_| problem(key, "not a token id".into()))?;
        let token: AddedToken =
            serde_json::from_value(value.clone()).map_err(|e| problem(key, format!("not a token: {e}")))?;
        match inner.token_to_id(&token.content) {
            Some(found) if found == id => {}
            Some(found) => {
                return Err(problem(key, format!("`{}` has the id {found} in {}", token.content, folder::TOKENIZER)));
            }
            None => missing.push((id, token)),
        }
    }
    missing.sort_by_key(|(id, _)| *id);
    for (id, token) in missing {
        let content = token.content.clone();
        let added = inner.add_tokens([token]).map_err(|e| problem(&id.to_string(), e.to_string()))?;
        if added != 1 || inner.token_to_id(&content) != Some(id) {
            return Err(problem(
                &id.to_string(),
                format!("`{content}` cannot get this id: others before it are missing"),
            ));
        }
    }
    Ok(())
}
