//! Tokens from logits, for all rows of a batch.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn_lora::Stream;
use rayon::prelude::*;

use super::choices::{Choices, Place};
use super::request::{Accepted, FinishReason, Generation};
use super::stop::GrowingText;
use crate::decoder::Decoder;
use crate::ops::{Largest, log_sum_exp};
use crate::text::Tokenizer;
use crate::{Error, Result};

/// An answer that is being written.
pub(super) struct Row {
    pub(super) accepted: Arc<Accepted>,
    pub(super) sample: usize,
    /// Its row in the cache.
    pub(super) place: usize,
    pub(super) answer: Generation,
    stream: Stream,
    growing: Option<GrowingText>,
    /// Where it stands among the choices.
    choice: usize,
}

/// What a token did to an answer.
pub(super) struct Settled<'a> {
    pub(super) ended: bool,
    /// New text of a streamed answer.
    pub(super) text: Option<&'a str>,
}

impl Row {
    pub(super) fn new(accepted: Arc<Accepted>, sample: usize) -> Self {
        let request = &accepted.request;
        let growing = (request.streamed || !request.stop.is_empty()).then(GrowingText::default);
        let answer = Generation::new(request.choices.len());
        let stream = accepted.stream(sample);
        Self { accepted, sample, place: 0, answer, stream, growing, choice: Choices::START }
    }

    /// Tokens so far: the next token's position.
    pub(super) fn len(&self) -> usize {
        self.accepted.request.prompt.len() + self.answer.ids.len()
    }

    /// The tokens that a cache has seen: all but the newest.
    pub(super) fn seen(&self) -> Vec<u32> {
        let ids = &self.answer.ids;
        [&self.accepted.request.prompt, &ids[..ids.len().saturating_sub(1)]].concat()
    }

    /// New tokens that may still come.
    pub(super) fn left(&self) -> usize {
        self.accepted.limit.saturating_sub(self.answer.ids.len())
    }

    fn push(&mut self, id: u32, logprob: f32) -> Result<()> {
        if !logprob.is_finite() {
            return Err(Error::Device(format!(
                "log p of token {id} is {logprob}: the network's logits are not finite"
            )));
        }
        self.answer.ids.push(id);
        self.answer.logprobs.push(logprob);
        Ok(())
    }

    /// Whether the choice needs nothing but the largest logit.
    fn is_argmax(&self) -> bool {
        self.accepted.request.sampling.is_argmax() && self.accepted.choices.is_none()
    }

    /// Draws a token on the host.
    fn draw(&mut self, logits: &[f32]) -> Result<()> {
        if self.is_argmax() {
            let mut largest = Largest::NONE;
            largest.look(logits, 0);
            let (id, logprob) = largest.word();
            return self.push(id, logprob);
        }
        let total = log_sum_exp(logits);
        let sampling = &self.accepted.request.sampling;
        // Only the penalty looks at the text so far.
        let text = match sampling.repetition_penalty == 1.0 {
            true => Vec::new(),
            false => [&self.accepted.request.prompt[..], &self.answer.ids].concat(),
        };
        let id = match &self.accepted.choices {
            None => sampling.sample(logits, &text, &mut self.stream)?,
            Some(choices) => {
                let before = self.answer.logprobs.iter().sum();
                let logprob = |id: u32| logits[id as usize] - total;
                choices.score(self.choice, before, logprob, &mut self.answer.choice_logprobs);
                let mut allowed = vec![f32::NEG_INFINITY; logits.len()];
                for id in choices.allowed(self.choice) {
                    allowed[id as usize] = logits[id as usize];
                }
                sampling.sample(&allowed, &text, &mut self.stream)?
            }
        };
        self.push(id, logits[id as usize] - total)
    }

    /// Looks what the newest token means: whether the answer ends, and the text it gives.
    pub(super) fn settle(&mut self, tokenizer: Option<&Tokenizer>) -> Result<Settled<'_>> {
        let Some(&id) = self.answer.ids.last() else { return Ok(Settled { ended: false, text: None }) };
        let (accepted, stop) = (&self.accepted, &self.accepted.request.stop);
        let mut ended = accepted.stop_ids.contains(&id);
        match accepted.choices.as_ref().and_then(|choices| choices.after(self.choice, id)) {
            Some(Place::Within(node)) => self.choice = node,
            Some(Place::End(choice)) => (self.answer.choice, ended) = (Some(choice), true),
            None => {}
        }
        let mut cut = false;
        if let (Some(growing), Some(tokenizer)) = (&mut self.growing, tokenizer) {
            cut = growing.push(id, stop, tokenizer)?;
            ended |= cut;
        }
        if ended {
            self.answer.finish_reason = FinishReason::Stop;
        }
        ended |= self.answer.ids.len() >= accepted.limit;
        if ended {
            self.finish(cut, tokenizer)?;
        }
        let text = match (&mut self.growing, tokenizer) {
            (Some(growing), Some(tokenizer)) if self.accepted.request.streamed => Some(match ended {
                true => growing.rest(cut, tokenizer)?,
                false => growing.certain(&self.accepted.request.stop),
            }),
            _ => None,
        };
        Ok(Settled { ended, text })
    }

    /// Writes the answer's text.
    pub(super) fn finish(&mut self, cut: bool, tokenizer: Option<&Tokenizer>) -> Result<()> {
        if let Some(tokenizer) = tokenizer {
            self.answer.text = Some(match &self.growing {
                Some(growing) if cut => growing.text().to_owned(),
                _ => tokenizer.decode(&self.answer.ids, true)?,
            });
        }
        Ok(())
    }
}

/// Appends a token to every row; that of row i by line `lines[i]` of final hidden states `[M, D]`.
pub(super) fn draw(model: &Decoder, hidden: Tensor<2>, rows: &mut [Row], lines: &[usize]) -> Result<()> {
    if rows.iter().all(Row::is_argmax) {
        let found = model.likeliest(hidden)?;
        return rows.iter_mut().zip(lines).try_for_each(|(row, line)| {
            let (id, logprob) = found[*line];
            row.push(id, logprob)
        });
    }
    let logits = model.choices(hidden);
    let vocabulary = logits.dims()[1];
    let logits = logits.try_into_vec_as::<f32>().map_err(|e| Error::Device(e.to_string()))?;
    let line = |line: &usize| &logits[line * vocabulary..(line + 1) * vocabulary];
    rows.par_iter_mut().zip(lines).try_for_each(|(row, at)| row.draw(line(at)))
}
