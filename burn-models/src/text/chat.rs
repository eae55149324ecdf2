//! Conversations as text and as token ids.

use super::guard::Marks;
use super::message::Message;
use super::template::{RenderContext, system_clock};
use super::tokenizer::{Specials, Tokenizer};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::ops::Range;

/// What is written around the turns of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Framing {
    /// What the model's chat template writes.
    #[default]
    Template,
    /// ChatML by hand, `<|im_start|>ROLE⏎CONTENT<|im_end|>⏎` for every turn: no system message and no thinking block is
    /// inserted, and contents are not trimmed or rearranged. The template of Qwen3 writes the same but for one thing:
    /// it puts an empty thinking block before the last reply. Tools have no form here.
    ChatMl,
}

/// How a conversation is written.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// What is written around the turns.
    pub framing: Framing,
    /// End with the words that begin an assistant's turn.
    pub add_generation_prompt: bool,
    /// The variable `enable_thinking` of the template; not defined when `None`. ChatML ignores it.
    pub enable_thinking: Option<bool>,
    /// Further variables of the template, such as `date_string`. Special tokens in them are guarded like those in
    /// messages.
    pub variables: Map<String, Json>,
    /// The moment that templates may print, in seconds since 1970-01-01 UTC; `None` for the system's clock.
    pub now: Option<i64>,
}

impl ChatOptions {
    /// The defaults with a generation prompt: what a model is asked with.
    pub fn prompt() -> Self {
        Self { add_generation_prompt: true, ..Self::default() }
    }
}

const IM_START: &str = "<|im_start|>";
const IM_END: &str = "<|im_end|>";

impl Tokenizer {
    /// The text of a conversation: what [`Tokenizer::encode_chat`] encodes.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_chat`].
    pub fn render_chat(&self, messages: &[Message], tools: Option<&[Json]>, options: &ChatOptions) -> Result<String> {
        let chat = Conversation::new(self, messages, tools, options)?;
        let text = chat.text(messages.len(), options.add_generation_prompt)?;
        Ok(chat.marks.restore(&text))
    }

    /// Token ids of a conversation.
    ///
    /// Only special tokens that the framing itself writes become special tokens. Those written inside data (contents,
    /// tool descriptions, tool arguments, variables) are encoded as the characters they consist of; the template does not
    /// recognise them either. Tokens that are not flagged special, such as Qwen3's `<think>`, become single tokens
    /// wherever they stand. Nothing is added at the ends: a beginning-of-text token is the template's business.
    ///
    /// # Errors
    /// [`Error::Chat`] where the framing cannot express the conversation, [`Error::TemplateRaised`] and
    /// [`Error::Template`] from the template.
    pub fn encode_chat(&self, messages: &[Message], tools: Option<&[Json]>, options: &ChatOptions) -> Result<Vec<u32>> {
        let chat = Conversation::new(self, messages, tools, options)?;
        chat.encode(&chat.text(messages.len(), options.add_generation_prompt)?)
    }
}

/// A conversation in which everything that looks like a special token is marked.
pub(super) struct Conversation<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a ChatOptions,
    pub(super) messages: Vec<Map<String, Json>>,
    tools: Option<Vec<Json>>,
    variables: Map<String, Json>,
    /// One moment for all renderings of the conversation.
    now: i64,
    pub(super) marks: Marks,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        messages: &[Message],
        tools: Option<&[Json]>,
        options: &'a ChatOptions,
    ) -> Result<Self> {
        let source = match options.framing {
            Framing::Template => tokenizer.chat_template()?.source(),
            Framing::ChatMl => {
                chatml_supports(tokenizer, messages, tools)?;
                ""
            }
        };
        let guard = &tokenizer.guard;
        let mut variables = options.variables.clone();
        if let Some(thinking) = options.enable_thinking {
            variables.insert("enable_thinking".into(), thinking.into());
        }
        let contents = messages.iter().flat_map(|m| m.as_map().values());
        let data = contents.chain(tools.into_iter().flatten()).chain(variables.values());
        let mut marks = guard.marks(source, data)?;
        let messages = messages
            .iter()
            .map(|message| {
                let mut map = guard.protect_object(message.as_map(), &mut marks);
                // Roles have no characters to forge a token with, and templates compare them.
                map.insert("role".into(), message.role().into());
                map
            })
            .collect();
        let tools = tools.map(|tools| tools.iter().map(|tool| guard.protect(tool, &mut marks)).collect());
        let mut variables = guard.protect_object(&variables, &mut marks);
        for (name, token) in tokenizer.template_variables() {
            variables.entry(name).or_insert(token);
        }
        let now = options.now.unwrap_or_else(system_clock);
        Ok(Self { tokenizer, options, messages, tools, variables, now, marks })
    }

    /// The first `turns` messages as text, with marks.
    pub(super) fn text(&self, turns: usize, add_generation_prompt: bool) -> Result<String> {
        let messages = &self.messages[..turns];
        match self.options.framing {
            Framing::Template => {
                let context = RenderContext {
                    add_generation_prompt,
                    variables: self.variables.clone(),
                    tools: self.tools.as_deref(),
                    now: Some(self.now),
                };
                self.tokenizer.chat_template()?.render(messages, &context)
            }
            Framing::ChatMl => {
                let mut text = String::new();
                for message in messages {
                    let part = |key: &str| message.get(key).and_then(Json::as_str).unwrap_or_default();
                    text.extend([IM_START, part("role"), "\n", part("content"), IM_END, "\n"]);
                }
                if add_generation_prompt {
                    text.extend([IM_START, "assistant\n"]);
                }
                Ok(text)
            }
        }
    }

    /// Token ids of a part of the text.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_offsets(text)?.0)
    }

    /// Token ids of a part of the text, and the bytes of each in that part with its marks restored.
    pub(super) fn encode_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        if !self.marks.used {
            return self.tokenizer.encode_offsets(text, Specials::Parse);
        }
        let (mut ids, mut ranges) = (Vec::new(), Vec::new());
        let (mut end, mut length) = (0, 0);
        let mut add = |part: &str, special: Option<(usize, u32)>| -> Result<()> {
            let plain = self.marks.restore(part);
            let (new, places) = self.tokenizer.encode_offsets(&plain, Specials::Plain)?;
            ids.extend(new);
            ranges.extend(places.into_iter().map(|place| place.start + length..place.end + length));
            length += plain.len();
            if let Some((bytes, id)) = special {
                ids.push(id);
                ranges.push(length..length + bytes);
                length += bytes;
            }
            Ok(())
        };
        for (place, id) in self.tokenizer.special_places(text) {
            add(&text[end..place.start], Some((place.len(), id)))?;
            end = place.end;
        }
        add(&text[end..], None)?;
        Ok((ids, ranges))
    }
}

/// Checks that ChatML can express the conversation with this vocabulary.
fn chatml_supports(tokenizer: &Tokenizer, messages: &[Message], tools: Option<&[Json]>) -> Result<()> {
    let refuse = |problem: String| Err(Error::Chat { problem });
    for token in [IM_START, IM_END] {
        if !tokenizer.token_to_id(token).is_some_and(|id| tokenizer.is_special(id)) {
            return refuse(format!("ChatMl framing: `{token}` is not a special token of this vocabulary"));
        }
    }
    let empty = |value: Option<&Json>| match value {
        None | Some(Json::Null) => true,
        Some(Json::Array(items)) => items.is_empty(),
        _ => false,
    };
    if tools.is_some_and(|tools| !tools.is_empty()) || messages.iter().any(|m| !empty(m.get("tool_calls"))) {
        return refuse("ChatMl framing: tools have no form in it; use the Template framing".into());
    }
    for (i, message) in messages.iter().enumerate() {
        if message.text().is_none() && message.get("content").is_some_and(|content| !content.is_null()) {
            return refuse(format!("ChatMl framing: the content of message {i} is not a text"));
        }
    }
    Ok(())
}
