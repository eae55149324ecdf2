//! Conversations as training samples: token ids and how much each of them counts.

use super::chat::{ChatOptions, Conversation, Framing};
use super::message::Message;
use super::tags::{Unpaired, tag_spans, token_spans};
use super::thinking::Thinking;
use super::tokenizer::{Specials, Tokenizer};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::ops::Range;

/// What of a conversation is learned.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub enum Learn {
    /// Every reply of the assistant.
    #[default]
    Replies,
    /// The last message, which must be the assistant's.
    LastReply,
    /// Every reply as a sample of its own that ends with it: each is written as the model is asked for it, also where a template
    /// writes the last reply differently from earlier ones (Qwen3's removes their reasoning). What the samples share is
    /// computed once with the packing `SharedPrefix`.
    EachReply,
    /// Everything: questions, what the template writes, replies.
    Everything,
    /// Turns by role, each token of them with this weight; roles that are not named have none. Of the assistant's turns the
    /// replies are learned, of other roles all that the template writes for the turn.
    Roles(BTreeMap<String, f32>),
}

/// How the end of a learned reply is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum EndOfTurn {
    /// Not at all: the model does not learn to stop.
    Ignore,
    /// The token that ends the turn.
    #[default]
    Token,
    /// That token and the line break that follows it, where there is one.
    TokenAndNewline,
}

/// Parts of replies that are only read, such as what tools answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Mask {
    /// None.
    #[default]
    None,
    /// What stands between tags, `Tags(["observation"])`, with the tags and the white space behind: every token with a character
    /// in it. Tags that do not pair, or stand in each other, are errors.
    Tags(Vec<String>),
    /// GAP's published algorithm for one tag, which looks for the ids of `<TAG` and of `TAG>⏎⏎`. It misses tags that the
    /// tokenizer joins with what is beside them, such as `><observation>`, and then learns what a tool answered; where the
    /// last closing tag is not followed by exactly one blank line, the sample is refused.
    TagTokens(String),
}

/// How a conversation becomes a training sample.
#[derive(Debug, Clone, Default)]
pub struct SuperviseOptions {
    /// How the conversation is written. `add_generation_prompt` has no effect here.
    pub chat: ChatOptions,
    /// What is learned.
    pub learn: Learn,
    /// What of the replies is not learned.
    pub mask: Mask,
    /// What becomes of reasoning.
    pub thinking: Thinking,
    /// Put at the beginning of every learned reply and not learned, as if it were part of the prompt. Special tokens in it
    /// are recognised.
    pub assistant_prefix: String,
    /// How the end of a reply is learned; [`Learn::Everything`] learns all of it.
    pub end_of_turn: EndOfTurn,
    /// Also learn what the template writes before a learned reply, such as `<|im_start|>assistant⏎`.
    pub learn_header: bool,
    /// So many of the first messages are only read, whatever else is learned.
    pub only_read: usize,
}

/// A training sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Supervised {
    /// Token ids of the whole conversation.
    pub ids: Vec<u32>,
    /// For every id how much it counts in the loss; 0 where it is only read.
    pub weights: Vec<f32>,
}

impl Supervised {
    /// For every id, whether it is learned.
    pub fn mask(&self) -> Vec<bool> {
        self.weights.iter().map(|weight| *weight > 0.0).collect()
    }

    /// The place of the first learned id; the number of ids where there is none.
    pub fn prompt_len(&self) -> usize {
        self.weights.iter().position(|weight| *weight > 0.0).unwrap_or(self.ids.len())
    }
}

impl Tokenizer {
    /// The last of [`Tokenizer::supervised_chats`]; with anything but [`Learn::EachReply`] the only one.
    ///
    /// # Errors
    /// The same.
    pub fn supervised_chat(
        &self,
        messages: &[Message],
        tools: Option<&[Json]>,
        options: &SuperviseOptions,
    ) -> Result<Supervised> {
        let last = match options.learn {
            Learn::EachReply => messages.iter().rposition(|message| message.role() == "assistant"),
            _ => None,
        };
        match last {
            Some(last) => self.sample(&messages[..=last], tools, options, &[last]),
            None => self.sample(messages, tools, options, &replies(messages, options)?),
        }
    }

    /// A conversation as samples: token ids, with a weight of 1 on the assistant's replies and what ends them.
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
    /// of the whole one (Qwen3's does with `enable_thinking: Some(false)` before the last question: [`Learn::EachReply`] always
    /// fits), or writes no end-of-turn token; [`Error::Tags`] for tags that do not pair; [`Error::NothingLearned`] without a
    /// reply to learn; otherwise as [`Tokenizer::encode_chat`].
    pub fn supervised_chats(
        &self,
        messages: &[Message],
        tools: Option<&[Json]>,
        options: &SuperviseOptions,
    ) -> Result<Vec<Supervised>> {
        let replies = replies(messages, options)?;
        match options.learn {
            Learn::EachReply => {
                replies.iter().map(|reply| self.sample(&messages[..=*reply], tools, options, &[*reply])).collect()
            }
            _ => Ok(vec![self.sample(messages, tools, options, &replies)?]),
        }
    }

    /// One sample, cut where `replies` begin.
    fn sample(
        &self,
        messages: &[Message],
        tools: Option<&[Json]>,
        options: &SuperviseOptions,
        replies: &[usize],
    ) -> Result<Supervised> {
        let messages = options.thinking.rewrite(messages);
        let chat = Conversation::new(self, &messages, tools, &options.chat)?;
        let ends = self.turn_ends(options.chat.framing)?;
        let text = chat.text(messages.len(), false)?;
        options.thinking.check(&chat, &text)?;

        // The text is cut where replies begin; each cut with what is put there.
        let (block, prefix) = (options.thinking.block(), options.assistant_prefix.as_str());
        let mut cuts = vec![(0, String::new())];
        for turn in replies {
            let prompt = chat.text(*turn, true)?;
            if !text.starts_with(&prompt) || cuts.last().is_some_and(|(before, _)| *before >= prompt.len()) {
                let at = common(&text, &prompt);
                let (whole, prompt) = (excerpt(&text, at), excerpt(&prompt, at));
                let problem = format!(
                    "the prompt before this reply is not how the whole conversation begins: it has {prompt:?} where the \
                     conversation has {whole:?}; EachReply writes every reply in its own sample"
                );
                return Err(Error::TemplateShape { turn: *turn, problem: chat.marks.restore(&problem) });
            }
            cuts.push(match text[prompt.len()..].starts_with(block) {
                // The template writes the empty block itself.
                true => (prompt.len() + block.len(), prefix.to_string()),
                false => (prompt.len(), format!("{block}{prefix}")),
            });
        }
        cuts.push((text.len(), String::new()));

        let mut sample = Encoded::default();
        let outside = if options.learn == Learn::Everything { 1.0 } else { 0.0 };
        for (i, part) in cuts.windows(2).enumerate() {
            // What is put there belongs to the prompt and is encoded together with its last words.
            let (start, end) = (part[0].0, part[1].0);
            let piece = [&text[start..end], part[1].1.as_str()].concat();
            let (ids, ranges) = chat.encode_offsets(&piece)?;
            let piece = chat.marks.restore(&piece);
            let mut weights = Vec::with_capacity(ids.len());
            if let Some(reply) = i.checked_sub(1) {
                let weight = options.learn.weight_of("assistant");
                let place = Reply { turn: replies[reply], last: reply + 1 == replies.len() };
                let learned = self.reply(place, &piece, &ids, &ranges, &ends, options)?;
                weights.extend(learned.into_iter().map(|learned| if learned { weight } else { 0.0 }));
            }
            weights.resize(ids.len(), outside);
            sample.add(start, ids, ranges, weights, piece.len());
        }
        let restored = |from: usize, to: usize| chat.marks.restore(&text[from..to]).len();
        let mut weigh = |from: usize, to: usize, weight: f32| {
            let range = sample.place(from, restored)..sample.place(to, restored);
            sample.weigh(range, weight);
        };
        if options.learn_header {
            for (reply, (cut, _)) in replies.iter().zip(&cuts[1..]) {
                weigh(chat.begins(*reply, &text)?, *cut, options.learn.weight_of("assistant"));
            }
        }
        if matches!(options.learn, Learn::Roles(_)) {
            for (turn, message) in messages.iter().enumerate().filter(|(_, message)| message.role() != "assistant") {
                let weight = options.learn.weight_of(message.role());
                if weight > 0.0 {
                    weigh(chat.begins(turn, &text)?, chat.begins(turn + 1, &text)?, weight);
                }
            }
        }
        if options.only_read > 0 {
            weigh(0, chat.begins(options.only_read.min(messages.len()), &text)?, 0.0);
        }
        Ok(Supervised { ids: sample.ids, weights: sample.weights })
    }

    /// Which of the first ids of a piece, those of the reply that it begins with, are learned; `ranges` are their bytes in `text`.
    fn reply(
        &self,
        Reply { turn, last }: Reply,
        text: &str,
        ids: &[u32],
        ranges: &[Range<usize>],
        ends: &[u32],
        options: &SuperviseOptions,
    ) -> Result<Vec<bool>> {
        let end = ids.iter().position(|id| ends.contains(id)).ok_or_else(|| Error::TemplateShape {
            turn,
            problem: "the template writes no end-of-turn token after this reply".into(),
        })?;
        let newline =
            ids.get(end + 1).is_some_and(|id| self.decode_exact(&[*id], false).is_ok_and(|text| text == "\n"));
        let target = end + 1 + usize::from(newline);
        let mut learned = vec![true; target];
        match options.end_of_turn {
            _ if options.learn == Learn::Everything => {}
            EndOfTurn::Ignore => learned[end..].fill(false),
            EndOfTurn::Token => learned[end + 1..].fill(false),
            EndOfTurn::TokenAndNewline => {}
        }
        let reply = &text[..ranges[end].start];
        let refuse = |problem: String| Err(Error::Tags { turn, problem });
        match &options.mask {
            Mask::None => {}
            Mask::Tags(names) => match tag_spans(reply, names) {
                Ok(spans) => {
                    for span in spans {
                        let inside = |range: &Range<usize>| range.start < span.end && span.start < range.end;
                        let places = learned.iter_mut().zip(ranges).take(end);
                        places.filter(|(_, range)| inside(range)).for_each(|(on, _)| *on = false);
                    }
                }
                Err(Unpaired { tag, problem, at }) => {
                    return refuse(format!("{tag} at byte {at} of the reply {problem}"));
                }
            },
            Mask::TagTokens(tag) => {
                let count = |tag: &str| reply.matches(tag).count();
                let (opened, closed) = (count(&format!("<{tag}>")), count(&format!("</{tag}>")));
                if opened != closed {
                    return refuse(format!("the reply has {opened} <{tag}> and {closed} </{tag}>"));
                }
                let marker = |text: String| self.encode(&text, Specials::Plain);
                let (begin, close) = (marker(format!("<{tag}"))?, marker(format!("{tag}>\n\n"))?);
                let (mask, whole) = token_spans(&ids[..target], &begin, &close);
                if last && !whole {
                    return refuse(format!("the last </{tag}> is not followed by exactly one blank line"));
                }
                learned.iter_mut().zip(mask).for_each(|(on, mask)| *on &= mask);
            }
        }
        Ok(learned)
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

/// A reply among those that are learned.
#[derive(Clone, Copy)]
struct Reply {
    /// Its place among the messages.
    turn: usize,
    /// Whether no other follows.
    last: bool,
}

impl Learn {
    /// How much a token of a role's turns counts.
    fn weight_of(&self, role: &str) -> f32 {
        match self {
            Self::Roles(weights) => weights.get(role).copied().unwrap_or(0.0),
            _ => 1.0,
        }
    }

    /// Checks the weights.
    ///
    /// # Errors
    /// What is wrong with which role.
    pub fn validate(&self) -> std::result::Result<(), String> {
        let Self::Roles(weights) = self else { return Ok(()) };
        if let Some((role, weight)) = weights.iter().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(format!("the weight of {role:?} is {weight}, expected 0 or a positive number"));
        }
        match weights.values().any(|weight| *weight > 0.0) {
            true => Ok(()),
            false => Err("no role has a weight above 0: nothing would be learned".into()),
        }
    }
}

/// Tokens of a conversation with their places in its text.
#[derive(Default)]
struct Encoded {
    ids: Vec<u32>,
    weights: Vec<f32>,
    /// The bytes of every token in all that is encoded.
    ranges: Vec<Range<usize>>,
    /// Where each piece begins: in the text with marks, and in all that is encoded.
    pieces: Vec<(usize, usize)>,
    length: usize,
}

impl Encoded {
    /// Adds a piece that begins at `start` of the text and is `length` bytes of what is encoded.
    fn add(&mut self, start: usize, ids: Vec<u32>, ranges: Vec<Range<usize>>, weights: Vec<f32>, length: usize) {
        self.pieces.push((start, self.length));
        self.ranges.extend(ranges.into_iter().map(|range| range.start + self.length..range.end + self.length));
        self.ids.extend(ids);
        self.weights.extend(weights);
        self.length += length;
    }

    /// A place of the text in what is encoded; `restored` tells how long a part of the text is there.
    fn place(&self, at: usize, restored: impl Fn(usize, usize) -> usize) -> usize {
        let piece = self.pieces.partition_point(|(start, _)| *start <= at).saturating_sub(1);
        let (start, place) = self.pieces.get(piece).copied().unwrap_or_default();
        place + restored(start, at)
    }

    /// Gives every token with a byte in a range a weight.
    fn weigh(&mut self, range: Range<usize>, weight: f32) {
        for (own, at) in self.weights.iter_mut().zip(&self.ranges) {
            if at.start < range.end && range.start < at.end {
                *own = weight;
            }
        }
    }
}

impl Conversation<'_> {
    /// Where a turn begins in the text of the whole conversation: what of it can be told without that turn.
    fn begins(&self, turn: usize, text: &str) -> Result<usize> {
        Ok(if turn == 0 { 0 } else { common(text, &self.text(turn, false)?) })
    }
}

/// The indices of the replies to learn, or to cut the text at.
fn replies(messages: &[Message], options: &SuperviseOptions) -> Result<Vec<usize>> {
    let learn = &options.learn;
    let mut replies: Vec<usize> = (0..messages.len()).filter(|i| messages[*i].role() == "assistant").collect();
    match learn {
        Learn::Everything | Learn::Roles(_) => return Ok(replies),
        Learn::LastReply => replies.retain(|i| i + 1 == messages.len()),
        Learn::Replies | Learn::EachReply => {}
    }
    replies.retain(|i| *i >= options.only_read);
    if replies.is_empty() {
        let problem = match learn {
            Learn::LastReply => "the last message is not the assistant's: there is nothing to learn",
            _ => "no message is the assistant's: there is nothing to learn",
        };
        return Err(Error::NothingLearned { problem: problem.into() });
    }
    Ok(replies)
}

/// How many bytes two texts begin with alike, up to a whole character.
fn common(a: &str, b: &str) -> usize {
    a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b).map_or(a.len().min(b.len()), |((at, _), _)| at)
}

/// At most 32 characters of a text from a byte position on.
fn excerpt(text: &str, at: usize) -> String {
    text.get(at..).unwrap_or_default().chars().take(32).collect()
}
