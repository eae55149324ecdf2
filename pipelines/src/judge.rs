//! A decoder as a judge of workflows: prompts as token ids, their last states, and the probabilities of Yes and No after them.

use burn::tensor::{Int, Tensor, TensorData};
use burn_models::decoder::{Decoder, Packed};
use burn_models::text::{ChatOptions, Learn, Message, SuperviseOptions, Supervised, Tokenizer};
use datasets::judge::{NO, YES};
use datasets::templates::{Fitted, GraphPrompt, JudgeTemplates};

use crate::recipe::{JudgePrompt, Truncation};

/// Writes judge prompts as a decoder is trained and asked with them.
///
/// A prompt's ids are those of the chat with its answer, up to the first id that is learned: a model is asked exactly as it was
/// trained, whatever the framing.
#[derive(Debug)]
pub struct JudgeEncoder {
    tokenizer: Tokenizer,
    options: SuperviseOptions,
    system: String,
    limit: usize,
    /// Ids that an answer takes behind its prompt.
    reserve: usize,
    /// The first id of either answer.
    words: [u32; 2],
}

/// A prompt's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// The ids, at least one.
    pub ids: Vec<u32>,
    /// The user's message, shortened where that was needed.
    pub text: String,
    /// Whether something had to be left out.
    pub cut: bool,
    /// Whether the prompt with its answer is longer than the limit even without nodes.
    pub too_long: bool,
}

impl JudgeEncoder {
    /// An encoder for prompts of at most `prompt.max_length` tokens with their answer, and at most `positions`.
    ///
    /// # Errors
    /// Where the framing cannot write the chat, or both answers begin with the same token.
    pub fn new(
        tokenizer: Tokenizer,
        templates: &JudgeTemplates,
        prompt: &JudgePrompt,
        positions: usize,
    ) -> burn_models::Result<Self> {
        let options = SuperviseOptions {
            chat: ChatOptions { framing: prompt.framing.into(), ..ChatOptions::default() },
            learn: Learn::LastReply,
            assistant_prefix: prompt.assistant_prefix.clone(),
            ..SuperviseOptions::default()
        };
        let limit = prompt.max_length.min(positions);
        let mut encoder =
            Self { tokenizer, options, system: templates.system.clone(), limit, reserve: 0, words: [0; 2] };
        for (nth, answer) in [YES, NO].into_iter().enumerate() {
            let sample = encoder.sample("?", answer)?;
            let start = sample.prompt_len();
            encoder.reserve = encoder.reserve.max(sample.ids.len() - start);
            encoder.words[nth] = sample.ids.get(start).copied().unwrap_or_default();
        }
        if encoder.words[0] == encoder.words[1] {
            let problem = format!("`{YES}` and `{NO}` begin with the same token of this vocabulary");
            return Err(burn_models::Error::Chat { problem });
        }
        Ok(encoder)
    }

    /// The ids of the first tokens of Yes and of No.
    pub fn words(&self) -> [u32; 2] {
        self.words
    }

    /// The turns before the answer.
    pub fn messages(&self, text: &str) -> Vec<Message> {
        let system = (!self.system.is_empty()).then(|| Message::system(self.system.clone()));
        system.into_iter().chain([Message::user(text)]).collect()
    }

    /// The ids of a prompt. `KeepSuffix` cuts nodes; where that is not enough, it drops what stands first. `Right` cuts the end
    /// of the ids.
    ///
    /// # Errors
    /// Where the framing cannot write the chat.
    pub fn encode(&self, prompt: &GraphPrompt, truncation: Truncation) -> burn_models::Result<EncodedPrompt> {
        let ids = |text: &str| {
            let mut sample = self.sample(text, YES)?;
            sample.ids.truncate(sample.prompt_len());
            Ok::<_, burn_models::Error>(sample.ids)
        };
        if truncation == Truncation::Right {
            let mut ids = ids(&prompt.text)?;
            let cut = ids.len() > self.limit;
            ids.truncate(self.limit);
            return Ok(EncodedPrompt { ids, text: prompt.text.clone(), cut, too_long: false });
        }
        let Fitted { value: (text, mut ids), size, cut } = prompt.fit(self.limit, |text| {
            let ids = ids(text)?;
            let size = ids.len() + self.reserve;
            Ok::<_, burn_models::Error>(((text.to_owned(), ids), size))
        })?;
        let too_long = size > self.limit;
        if too_long {
            ids.drain(..(size - self.limit).min(ids.len() - 1));
        }
        Ok(EncodedPrompt { ids, text, cut, too_long })
    }

    fn sample(&self, text: &str, answer: &str) -> burn_models::Result<Supervised> {
        let mut messages = self.messages(text);
        messages.push(Message::assistant(answer));
        self.tokenizer.supervised_chat(&messages, None, &self.options)
    }
}

/// Prompts in one row without padding, what they begin with alike written once: the same instructions, and the same task or the
/// same workflow, whichever comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptRow {
    /// The tokens.
    pub packed: Packed,
    /// The places of last tokens, ascending.
    pub places: Vec<u32>,
    last: Vec<u32>,
    path: Vec<u32>,
}

impl PromptRow {
    /// Prompts, none of them empty, in rows of at most `row_tokens` tokens (a longer one goes alone), in the order of their ids.
    /// With each row the prompts in it, each with the number of its last token among the row's places.
    pub fn rows(prompts: &[&[u32]], row_tokens: usize) -> Vec<(Self, Vec<(usize, usize)>)> {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|prompt| prompts[*prompt]);
        let mut rows: Vec<(Self, Vec<(usize, usize)>)> = Vec::new();
        for prompt in order {
            let ids = prompts[prompt];
            let fits = |row: &Self| {
                let added = ids.len() - row.shared(ids);
                added == 0 || row.packed.ids.len() + added <= row_tokens
            };
            match rows.last_mut().filter(|(row, _)| fits(row)) {
                Some((row, inside)) => inside.push((prompt, row.push(ids))),
                None => {
                    let mut row = Self::default();
                    let number = row.push(ids);
                    rows.push((row, vec![(prompt, number)]));
                }
            }
        }
        rows
    }

    /// Tokens that the last prompt and this one begin with alike.
    fn shared(&self, ids: &[u32]) -> usize {
        self.last.iter().zip(ids).take_while(|(a, b)| a == b).count()
    }

    /// Adds a prompt that does not stand before the last one in the order of ids: the number of its place.
    fn push(&mut self, ids: &[u32]) -> usize {
        let shared = self.shared(ids);
        // Only one that is equal to the last adds nothing.
        if shared < ids.len() || self.places.is_empty() {
            self.packed.push(ids, shared, &mut self.path);
            self.places.extend(self.path.last());
            self.last = ids.to_vec();
        }
        self.places.len() - 1
    }
}

/// The final states `[prompts, D]` of the last tokens, row-major f32 in the order given. Prompts go through the decoder in
/// rows of at most `row_tokens` tokens; no output head is applied.
///
/// # Errors
/// An empty prompt, or ids outside the vocabulary.
pub fn last_states(model: &Decoder, prompts: &[&[u32]], row_tokens: usize) -> burn_models::Result<Vec<f32>> {
    let width = model.config().hidden_size;
    let device = model.device();
    if let Some(prompt) = prompts.iter().position(|ids| ids.is_empty()) {
        return Err(burn_models::Error::Input(format!("prompt {prompt} is empty")));
    }
    let mut states = vec![0.0; prompts.len() * width];
    for (row, inside) in PromptRow::rows(prompts, row_tokens) {
        let input = row.packed.input(model.config().vocab_size, &device)?;
        let found = model.model.norm.forward(model.forward_places(&input, &row.places));
        let found: Vec<f32> = found.into_data().iter::<f32>().collect();
        for (prompt, number) in inside {
            let state = &found[number * width..(number + 1) * width];
            states[prompt * width..(prompt + 1) * width].copy_from_slice(state);
        }
    }
    Ok(states)
}

/// p(Yes) and p(No), as shares of the whole vocabulary, after each of the final states `[n, D]` (row-major, f32).
pub fn word_probabilities(model: &Decoder, states: Vec<f32>, words: [u32; 2]) -> Vec<[f64; 2]> {
    let width = model.config().hidden_size;
    let count = states.len() / width;
    if count == 0 {
        return Vec::new();
    }
    let device = model.device();
    let states = Tensor::<2>::from_data(TensorData::new(states, [count, width]), (&device, model.dtype()));
    let targets: Vec<i32> = words.iter().flat_map(|word| std::iter::repeat_n(*word as i32, count)).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [2 * count]), &device);
    let logprobs = model.token_logprobs(Tensor::cat(vec![states.clone(), states], 0), targets);
    let probabilities: Vec<f64> = logprobs.into_data().iter::<f32>().map(|logprob| f64::from(logprob).exp()).collect();
    let (yes, no) = probabilities.split_at(count);
    yes.iter().zip(no).map(|(yes, no)| [*yes, *no]).collect()
}

/// The score of a pair of probabilities: p(Yes) / (p(Yes) + p(No)); ½ where both are 0.
pub fn score([yes, no]: [f64; 2]) -> f64 {
    if yes + no > 0.0 { yes / (yes + no) } else { 0.5 }
}
