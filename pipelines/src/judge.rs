//! A decoder as a judge of workflows: prompts as token ids, and the probabilities of Yes and No after them.

use burn::tensor::{Int, Tensor, TensorData};
use burn_models::decoder::Decoder;
use burn_models::text::{ChatOptions, Message, SuperviseOptions, Supervised, Tokenizer, Turns};
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
            turns: Turns::Last,
            assistant_prefix: prompt.assistant_prefix.clone(),
            supervise_trailing_newline: false,
        };
        let limit = prompt.max_length.min(positions);
        let mut encoder =
            Self { tokenizer, options, system: templates.system.clone(), limit, reserve: 0, words: [0; 2] };
        for (nth, answer) in [YES, NO].into_iter().enumerate() {
            let sample = encoder.sample("?", answer)?;
            let start = learned_from(&sample);
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
            sample.ids.truncate(learned_from(&sample));
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

/// The place of the first learned id.
fn learned_from(sample: &Supervised) -> usize {
    sample.mask.iter().position(|learned| *learned).unwrap_or(sample.ids.len())
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
