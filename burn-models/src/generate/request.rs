//! What is asked, and what is answered.

use burn_lora::Stream;
use serde::{Deserialize, Serialize};

use super::choices::Choices;
use super::sampler::SamplingConfig;
use crate::decoder::DecoderConfig;
use crate::{Error, Result};

/// A prompt, and how it is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// How many answers are drawn. Default 1.
    pub n: usize,
    /// How a token is chosen.
    pub sampling: SamplingConfig,
    /// Most tokens of one answer. Default 256. Choices are written to their end.
    pub max_new_tokens: usize,
    /// Tokens that end an answer; by default those of the decoder's configuration.
    pub stop_ids: Option<Vec<u32>>,
    /// Go on after a token that would end the answer. Default false.
    pub ignore_eos: bool,
    /// Texts that end an answer, wherever tokens begin and end. They are not part of its text. Needs a tokenizer. Default none.
    pub stop: Vec<String>,
    /// The only answers there are, as token ids; none for any answer. Where one begins another one, a token that ends answers
    /// tells them apart. Default none.
    pub choices: Vec<Vec<u32>>,
    /// Seed of the random streams: sample j of the request draws from the stream of (seed, "sample", `stream`, j), without the
    /// last for sample 0. Default 0.
    pub seed: u64,
    /// Tells requests with one seed apart. Default 0.
    pub stream: u64,
    /// Report the text of an answer as it grows: [`Event::Token`]. Needs a tokenizer. Default false.
    pub streamed: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: Vec::new(),
            n: 1,
            sampling: SamplingConfig::default(),
            max_new_tokens: 256,
            stop_ids: None,
            ignore_eos: false,
            stop: Vec::new(),
            choices: Vec::new(),
            seed: 0,
            stream: 0,
            streamed: false,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// With a token that ends answers, which is the last of its ids; with a text that ends it; or with one of the choices.
    Stop,
    /// At the limit of new tokens or of the decoder's positions.
    Length,
    /// It was not wanted any more.
    Cancelled,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The new tokens, the ending one included.
    pub ids: Vec<u32>,
    /// log p of each of them under the network's own distribution: natural logarithm, temperature 1, nothing removed, no
    /// penalty; what training computes for the same tokens.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The text, without special tokens, up to the text that ended it; `None` without a tokenizer.
    pub text: Option<String>,
    /// Which of the choices it is.
    pub choice: Option<usize>,
    /// log p of each choice, its ending token included where one had to tell it from a longer choice. What costs nothing: those
    /// whose tokens were all asked for. A choice of one token always is.
    pub choice_logprobs: Vec<Option<f32>>,
}

impl Generation {
    pub(super) fn new(choices: usize) -> Self {
        Self {
            ids: Vec::new(),
            logprobs: Vec::new(),
            finish_reason: FinishReason::Length,
            text: None,
            choice: None,
            choice_logprobs: vec![None; choices],
        }
    }
}

/// What happens while an engine runs. Requests have the numbers that `Engine::push` gave them.
#[derive(Debug)]
pub enum Event<'a> {
    /// A token of an answer whose request is `streamed`.
    Token {
        /// The request.
        request: usize,
        /// The number of the answer, from 0.
        sample: usize,
        /// The token.
        id: u32,
        /// What is certain of the text and was not reported yet: part of a character, or of a text that may end the answer, is
        /// held back. The last part may come with the last token only.
        text: &'a str,
    },
    /// An answer is complete.
    Done {
        /// The request.
        request: usize,
        /// The number of the answer, from 0.
        sample: usize,
        /// The answer.
        generation: Generation,
    },
}

/// What an engine has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerateStats {
    /// Tokens of the prompts of all answers.
    pub prompt_tokens: usize,
    /// How many tokens of prompts were computed; fewer where answers share them.
    pub prefilled_tokens: usize,
    /// Tokens of all answers.
    pub new_tokens: usize,
    /// Steps of the batch after the prompts.
    pub steps: usize,
}

/// A request that an engine has accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) number: usize,
    pub(super) request: Request,
    pub(super) choices: Option<Choices>,
    pub(super) stop_ids: Vec<u32>,
    /// Most new tokens of an answer.
    pub(super) limit: usize,
}

impl Accepted {
    pub(super) fn new(number: usize, request: Request, config: &DecoderConfig, has_tokenizer: bool) -> Result<Self> {
        request.sampling.validate()?;
        let bad = |problem: String| Err(Error::Input(problem));
        let (length, positions) = (request.prompt.len(), config.max_position_embeddings);
        if length == 0 || length >= positions {
            return bad(format!("prompt {number} has {length} tokens, expected 1 to {}", positions - 1));
        }
        let vocabulary = config.vocab_size;
        let unknown = |ids: &[u32]| ids.iter().find(|id| **id as usize >= vocabulary).copied();
        if let Some(id) = unknown(&request.prompt) {
            return bad(format!("token id {id} in row {number} is outside the vocabulary of {vocabulary}"));
        }
        if request.n == 0 {
            return bad("n is 0, expected at least one answer".into());
        }
        if request.stop.iter().any(String::is_empty) {
            return bad("a stop text is empty".into());
        }
        if !has_tokenizer && (request.streamed || !request.stop.is_empty()) {
            return bad("texts that end an answer, and streamed texts, need a tokenizer".into());
        }
        let ends = request.stop_ids.as_ref().unwrap_or(&config.eos_token_id);
        let (choices, limit) = match request.choices.as_slice() {
            [] => (None, request.max_new_tokens),
            all => {
                if let Some(id) = all.iter().find_map(|ids| unknown(ids)) {
                    return bad(format!("token id {id} of a choice is outside the vocabulary of {vocabulary}"));
                }
                let choices = Choices::new(all, ends)?;
                let longest = choices.longest();
                if longest > positions - length {
                    let left = positions - length;
                    return bad(format!("a choice has {longest} tokens, but prompt {number} leaves {left} positions"));
                }
                (Some(choices), longest)
            }
        };
        let stop_ids = if request.ignore_eos || choices.is_some() { Vec::new() } else { ends.clone() };
        let limit = limit.min(positions - length);
        Ok(Self { number, choices, stop_ids, limit, request })
    }

    /// Random numbers of an answer.
    pub(super) fn stream(&self, sample: usize) -> Stream {
        let Request { seed, stream, .. } = self.request;
        match sample {
            0 => Stream::new(seed, &["sample", &stream.to_string()]),
            _ => Stream::new(seed, &["sample", &stream.to_string(), &sample.to_string()]),
        }
    }
}
