//! Conversations as training samples: token ids and which of them are learned.

use super::chat::{ChatOptions, Conversation, Framing};
use super::message::Message;
use super::tokenizer::Tokenizer;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Which replies are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Turns {
    /// Every turn of the assistant.
    #[default]
    All,
    /// The last message, which must be the assistant's.
    Last,
}

/// How a conversation becomes a training sample.
#[derive(Debug, Clone, Default)]
pub struct SuperviseOptions {
    /// How the conversation is written. `add_generation_prompt` has no effect here.
    pub chat: ChatOptions,
    /// Which replies are learned.
    pub turns: Turns,
    /// Put at the beginning of every learned reply and not learned, as if it were part of the prompt; for example an
    /// empty thinking block. Special tokens in it are recognised.
    pub assistant_prefix: String,
    /// Also learn the line break that follows the end-of-turn token, where there is one.
    pub supervise_trailing_newline: bool,
}

/// A training sample.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Supervised {
    /// Token ids of the whole conversation.
    pub ids: Vec<u32>,
    /// For every id, whether it is learned: the content of the chosen replies and their end-of-turn tokens.
    pub mask: Vec<bool>,
}

impl Tokenizer {
    /// Token ids of a conversation, with a mask that is true on the assistant's content and its end-of-turn token.
    ///
    /// A reply begins where the conversation before it, written with a generation prompt, ends; it is encoded separately
    /// from there on, as it is when the model generates it. It ends with the first end-of-turn token: what the template
    /// writes after a reply, or one of [`Tokenizer::eos_ids`]. With [`Framing::ChatMl`] one question and one answer give
    /// exactly `<|im_start|>user⏎…<|im_end|>⏎<|im_start|>assistant⏎ANSWER<|im_end|>⏎`.
    ///
    /// Special tokens inside data are guarded as in [`Tokenizer::encode_chat`].
    ///
    /// # Errors
    /// [`Error::TemplateShape`] where the template writes the conversation before a reply differently from the beginning
    /// of the whole one (Qwen3's does with `enable_thinking: Some(false)` before the last question: learn the last turn
    /// only, or leave the variable undefined), or writes no end-of-turn token; [`Error::Chat`] without a reply to learn;
    /// otherwise as [`Tokenizer::encode_chat`].
    pub fn supervised_chat(
        &self,
        messages: &[Message],
        tools: Option<&[Json]>,
        options: &SuperviseOptions,
    ) -> Result<Supervised> {
        let turns = learned_turns(messages, options.turns)?;
        let chat = Conversation::new(self, messages, tools, &options.chat)?;
        let ends = self.turn_ends(options.chat.framing)?;
        let text = chat.text(messages.len(), false)?;
        // The text is cut where learned replies begin.
        let mut cuts = vec![0];
        for turn in &turns {
            let prompt = chat.text(*turn, true)?;
            if !text.starts_with(&prompt) || cuts.last().is_some_and(|before| *before >= prompt.len()) {
                let at = text.bytes().zip(prompt.bytes()).take_while(|(a, b)| a == b).count();
                let (whole, prompt) = (excerpt(&text, at), excerpt(&prompt, at));
                let problem = format!(
                    "the prompt before this reply is not how the whole conversation begins: it has {prompt:?} where the \
                     conversation has {whole:?}"
                );
                return Err(Error::TemplateShape { turn: *turn, problem: chat.marks.restore(&problem) });
            }
            cuts.push(prompt.len());
        }
        cuts.push(text.len());

        let mut sample = Supervised::default();
        for (i, part) in cuts.windows(2).enumerate() {
            // The prefix belongs to the prompt and is encoded together with its last words.
            let prefix = if i < turns.len() { options.assistant_prefix.as_str() } else { "" };
            let ids = chat.encode(&[&text[part[0]..part[1]], prefix].concat())?;
            let learned = match i.checked_sub(1) {
                None => 0,
                Some(reply) => self.reply_length(&ids, &ends, options).ok_or_else(|| Error::TemplateShape {
                    turn: turns[reply],
                    problem: "the template writes no end-of-turn token after this reply".into(),
                })?,
            };
            sample.mask.extend((0..ids.len()).map(|k| k < learned));
            sample.ids.extend(ids);
        }
        Ok(sample)
    }

    /// How many of `ids`, which begin with a reply, are learned.
    fn reply_length(&self, ids: &[u32], ends: &[u32], options: &SuperviseOptions) -> Option<usize> {
        let length = ids.iter().position(|id| ends.contains(id))? + 1;
        let newline = options.supervise_trailing_newline
            && ids.get(length).is_some_and(|id| self.decode_exact(&[*id], false).is_ok_and(|text| text == "\n"));
        Some(length + usize::from(newline))
    }

    /// Ids that end a reply in a framing.
    fn turn_ends(&self, framing: Framing) -> Result<Vec<u32>> {
        match framing {
            Framing::ChatMl => Ok(self.token_to_id("<|im_end|>").into_iter().collect()),
            Framing::Template => {
                if let Some(ends) = self.turn_ends.get() {
                    return Ok(ends.clone());
                }
                let mut ends = self.eos_ids().to_vec();
                // A template may end turns with a token that does not end a text.
                let probe = [Message::user("a"), Message::assistant("b")];
                let options = ChatOptions { now: Some(0), ..ChatOptions::default() };
                if let Ok(chat) = Conversation::new(self, &probe, None, &options)
                    && let (Ok(prompt), Ok(whole)) = (chat.text(1, true), chat.text(2, false))
                    && let Some(reply) = whole.strip_prefix(prompt.as_str())
                    && let Some((_, id)) = self.special_places(reply).first()
                    && !ends.contains(id)
                {
                    ends.push(*id);
                }
                Ok(self.turn_ends.get_or_init(|| ends).clone())
            }
        }
    }
}

/// The indices of the replies to learn.
fn learned_turns(messages: &[Message], turns: Turns) -> Result<Vec<usize>> {
    let mut replies: Vec<usize> = (0..messages.len()).filter(|i| messages[*i].role() == "assistant").collect();
    if turns == Turns::Last {
        replies.retain(|i| i + 1 == messages.len());
    }
    if replies.is_empty() {
        let problem = match turns {
            Turns::All => "no message is the assistant's: there is nothing to learn",
            Turns::Last => "the last message is not the assistant's: there is nothing to learn",
        };
        return Err(Error::Chat { problem: problem.into() });
    }
    Ok(replies)
}

/// At most 32 characters of a text from a byte position on, which is moved back to a character's beginning.
fn excerpt(text: &str, at: usize) -> String {
    let start = (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[start..].chars().take(32).collect()
}
