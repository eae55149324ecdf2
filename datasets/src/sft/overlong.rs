//! Samples that are longer than the limit.

use super::options::{Overlong, SftOptions};
use crate::chat::ChatRecord;
use burn_models::Result;
use burn_models::text::{Learn, Message, SuperviseOptions, Supervised, Tokenizer};

/// A sample within the limit, or the length of one that is not.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fitted {
    Whole(Supervised),
    Cut(Supervised),
    TooLong(usize),
}

/// Cuts off what is beyond the limit, unless nothing learned would be left.
pub(super) fn fit(sample: Supervised, options: &SftOptions) -> Fitted {
    let Some(limit) = options.max_length.filter(|limit| sample.ids.len() > *limit) else {
        return Fitted::Whole(sample);
    };
    let Supervised { mut ids, mut weights } = sample;
    let whole = ids.len();
    ids.truncate(limit);
    weights.truncate(limit);
    match options.overlong == Overlong::TruncateEnd && weights.iter().skip(1).any(|weight| *weight > 0.0) {
        true => Fitted::Cut(Supervised { ids, weights }),
        false => Fitted::TooLong(whole),
    }
}

/// Brings the sample of a conversation within the limit; `end` is the number of its turns, of which the last are kept.
pub(super) fn fit_chat(
    sample: Supervised,
    record: &ChatRecord,
    end: usize,
    tokenizer: &Tokenizer,
    options: &SftOptions,
) -> Result<Fitted> {
    let limit = options.max_length.unwrap_or(usize::MAX);
    let whole = sample.ids.len();
    if whole <= limit || options.overlong != Overlong::KeepAnswer {
        return Ok(fit(sample, options));
    }
    let cut = Shortening { record, messages: &record.messages[..end], tokenizer, options, limit };
    Ok(cut.shortened()?.map_or(Fitted::TooLong(whole), Fitted::Cut))
}

/// Brings the sample of a plain text within the limit, of which the first `prompt` tokens are only read and the first `kept` of
/// these belong to the tokenizer.
pub(super) fn fit_plain(sample: Supervised, kept: usize, prompt: usize, options: &SftOptions) -> Fitted {
    let limit = options.max_length.unwrap_or(usize::MAX);
    let excess = sample.ids.len().saturating_sub(limit);
    if options.overlong != Overlong::KeepAnswer || excess == 0 {
        return fit(sample, options);
    }
    if kept + excess > prompt {
        return Fitted::TooLong(sample.ids.len());
    }
    let Supervised { mut ids, mut weights } = sample;
    ids.drain(kept..kept + excess);
    weights.drain(kept..kept + excess);
    Fitted::Cut(Supervised { ids, weights })
}

/// A conversation that has to become shorter from its front.
struct Shortening<'a> {
    record: &'a ChatRecord,
    messages: &'a [Message],
    tokenizer: &'a Tokenizer,
    options: &'a SftOptions,
    limit: usize,
}

impl Shortening<'_> {
    fn shortened(&self) -> Result<Option<Supervised>> {
        let Some(reply) = self.messages.iter().rposition(|message| message.role() == "assistant") else {
            return Ok(None);
        };
        let system =
            self.messages.iter().take_while(|message| ["system", "developer"].contains(&message.role())).count();
        // What is left may begin with any question up to the last one before the reply.
        let begins: Vec<usize> = (system..reply).filter(|turn| self.messages[*turn].role() == "user").collect();
        let Some(last) = begins.last().copied() else { return Ok(None) };
        // Fewer turns are shorter: the first beginning that fits is found by halving.
        let mut fitting = None;
        let (mut low, mut high) = (0, begins.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.sample(system, begins[middle], None)? {
                Some(sample) => (fitting, high) = (Some(sample), middle),
                None => low = middle + 1,
            }
        }
        if fitting.is_some() {
            return Ok(fitting);
        }
        // Nor does the last question: its front is cut, by characters.
        let Some(text) = self.messages[last].text() else { return Ok(None) };
        let places: Vec<usize> = text.char_indices().map(|(place, _)| place).chain([text.len()]).collect();
        let (mut low, mut high) = (1, places.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.sample(system, last, text.get(places[middle]..))? {
                Some(sample) => (fitting, high) = (Some(sample), middle),
                None => low = middle + 1,
            }
        }
        Ok(fitting)
    }

    /// The sample of the system turns and of those from `begin` on, the first of them with another text, if it fits.
    fn sample(&self, system: usize, begin: usize, text: Option<&str>) -> Result<Option<Supervised>> {
        let mut messages = self.messages[..system].to_vec();
        messages.extend_from_slice(&self.messages[begin..]);
        if let Some(text) = text {
            messages[system] = messages[system].clone().with("content", text);
        }
        let supervise = &self.options.supervise;
        let learn = match supervise.learn {
            Learn::EachReply => Learn::LastReply,
            ref learn => learn.clone(),
        };
        // Of the turns that are only read, those that are gone are no more counted.
        let removed = begin - system;
        let only_read = self.record.only_read.saturating_sub(removed).max(self.record.only_read.min(system));
        let options = SuperviseOptions { learn, only_read, ..supervise.clone() };
        let sample = self.tokenizer.supervised_chat(&messages, self.record.tools.as_deref(), &options)?;
        Ok(Some(sample).filter(|sample| sample.ids.len() <= self.limit))
    }
}
