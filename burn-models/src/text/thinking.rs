//! What becomes of the reasoning in replies.

use super::chat::Conversation;
use super::message::Message;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::borrow::Cow;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
const EMPTY: &str = "<think>\n\n</think>\n\n";
/// Where some formats keep reasoning beside the content.
const KEY: &str = "reasoning_content";

/// What becomes of the reasoning in the assistant's turns, `<think>…</think>` at the beginning of a content or the key
/// `reasoning_content`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Thinking {
    /// What the framing makes of it. Qwen3's template leaves it out of turns before the last question, and writes an empty
    /// block into the others where there is none; ChatML writes contents as they are.
    #[default]
    Template,
    /// All of it has to be in the sample: a template that leaves some out is an error.
    Keep,
    /// It is removed from turns before the last question, whatever the framing.
    StripEarlier,
    /// It is removed from all turns, and every learned reply is asked for after an empty block, which is not learned: a model that
    /// answers without thinking.
    EmptyBlock,
}

impl Thinking {
    /// The messages as the framing gets them.
    pub(super) fn rewrite(self, messages: &[Message]) -> Cow<'_, [Message]> {
        let until = match self {
            Self::Template | Self::Keep => return Cow::Borrowed(messages),
            Self::StripEarlier => messages.iter().rposition(|m| m.role() == "user").unwrap_or(0),
            Self::EmptyBlock => messages.len(),
        };
        let strip = |(at, message): (usize, &Message)| match message.role() == "assistant" && at < until {
            true => stripped(message),
            false => message.clone(),
        };
        Cow::Owned(messages.iter().enumerate().map(strip).collect())
    }

    /// What stands before every learned reply.
    pub(super) fn block(self) -> &'static str {
        if self == Self::EmptyBlock { EMPTY } else { "" }
    }

    /// Checks that a text holds all reasoning that has to be kept.
    pub(super) fn check(self, chat: &Conversation, text: &str) -> Result<()> {
        if self != Self::Keep {
            return Ok(());
        }
        for (turn, message) in chat.messages.iter().enumerate() {
            if reasoning(message).is_some_and(|reasoning| !text.contains(reasoning)) {
                let problem =
                    "the template leaves the reasoning of this turn out: learn EachReply, or use the ChatMl framing";
                return Err(Error::TemplateShape { turn, problem: problem.into() });
            }
        }
        Ok(())
    }
}

/// A turn without its reasoning.
fn stripped(message: &Message) -> Message {
    let message = message.clone().without(KEY);
    let content = message.text().and_then(split).map(|(_, rest)| rest.to_string());
    match content {
        Some(content) => message.with("content", content),
        None => message,
    }
}

/// The reasoning of a turn, where there is any.
fn reasoning(message: &Map<String, Json>) -> Option<&str> {
    let text = |key: &str| message.get(key).and_then(Json::as_str);
    let reasoning = match text(KEY) {
        Some(reasoning) => reasoning,
        None => split(text("content")?)?.0,
    };
    Some(reasoning.trim()).filter(|reasoning| !reasoning.is_empty())
}

/// A content's reasoning and what follows it.
fn split(content: &str) -> Option<(&str, &str)> {
    let (reasoning, rest) = content.trim_start().strip_prefix(OPEN)?.split_once(CLOSE)?;
    Some((reasoning, rest.trim_start_matches('\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_is_taken_out() {
        let chat = [
            Message::user("q"),
            Message::assistant("<think>\nwhy\n</think>\n\na"),
            Message::user("r"),
            Message::assistant("b").with(KEY, "how"),
        ];
        let texts = |thinking: Thinking| -> Vec<String> {
            let chat = thinking.rewrite(&chat);
            [1, 3].map(|turn| format!("{:?} {:?}", chat[turn].text(), chat[turn].get(KEY))).into()
        };
        let [first, second] = ["Some(\"<think>\\nwhy\\n</think>\\n\\na\") None", "Some(\"b\") Some(String(\"how\"))"];
        assert_eq!(texts(Thinking::Template), [first, second]);
        assert_eq!(texts(Thinking::StripEarlier), ["Some(\"a\") None", second]);
        assert_eq!(texts(Thinking::EmptyBlock), ["Some(\"a\") None", "Some(\"b\") None"]);
        assert_eq!(reasoning(chat[1].as_map()), Some("why"));
        assert_eq!(reasoning(chat[3].as_map()), Some("how"));
        assert_eq!(reasoning(Message::assistant("a <think>x</think>").as_map()), None);
    }
}
