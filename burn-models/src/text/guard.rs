//! Keeps special tokens that are written inside data from becoming special tokens.
//!
//! A conversation is data: a user's message, a tool's output or a workflow's node text may contain `<|im_end|>`, and
//! must not end its turn by it. Before a template sees the data, the first character of everything in it that looks
//! like the beginning of a special token is replaced by a *mark*, a private-use character that neither the data nor the
//! template contains. In the rendered text every special token that is still legible was then written by the template;
//! in the parts between them the marks are replaced by their characters again, and encoded as plain text.
//!
//! Only tokens that are flagged special are guarded: `<think>` or `<tool_call>` in a message stay single tokens.

use crate::{Error, Result};
use serde_json::{Map, Value as Json};

/// Marks are taken from the supplementary private use area A.
const MARKS: std::ops::RangeInclusive<char> = '\u{F0000}'..='\u{FFFFD}';

/// Whether a character may stand for another one.
pub(super) fn is_mark(c: char) -> bool {
    MARKS.contains(&c)
}

/// What the special tokens of a vocabulary begin with.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    /// For each special token, its shortest beginning that no ordinary added token shares (at least two characters
    /// where the token has so many).
    heads: Vec<String>,
    /// The distinct first characters of the heads.
    firsts: Vec<char>,
}

impl Guard {
    /// From the special tokens and the other added tokens of a vocabulary.
    pub(super) fn new<'a>(special: impl IntoIterator<Item = &'a str>, ordinary: &[&str]) -> Self {
        let mut heads = Vec::new();
        for token in special.into_iter().filter(|t| !t.is_empty()) {
            let shared = |head: &str| ordinary.iter().any(|other| other.starts_with(head));
            let ends = token.char_indices().map(|(i, c)| i + c.len_utf8());
            let least = if token.chars().count() > 1 { 1 } else { 0 };
            let end = ends.skip(least).find(|end| !shared(&token[..*end])).unwrap_or(token.len());
            heads.push(token[..end].to_string());
        }
        heads.sort();
        heads.dedup();
        let mut firsts: Vec<char> = heads.iter().filter_map(|h| h.chars().next()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        Self { heads, firsts }
    }

    /// Whether `rest` begins like a special token, or is what remains of a text that ends in the middle of a beginning
    /// (the template may put other data directly behind it).
    fn suspicious(&self, rest: &str) -> bool {
        self.heads.iter().any(|head| rest.starts_with(head.as_str()) || head.starts_with(rest))
    }

    /// Chooses marks that do not occur in `template` or in any of the `data`.
    ///
    /// # Errors
    /// [`Error::Chat`] where the data uses up all private-use characters.
    pub(super) fn marks<'a>(&self, template: &str, data: impl IntoIterator<Item = &'a Json>) -> Result<Marks> {
        let mut used: Vec<char> = template.chars().filter(|c| is_mark(*c)).collect();
        for value in data {
            each_text(value, &mut |text| used.extend(text.chars().filter(|c| is_mark(*c))));
        }
        used.sort_unstable();
        used.dedup();
        let mut free = MARKS.filter(|c| used.binary_search(c).is_err());
        let mut pairs = Vec::with_capacity(self.firsts.len());
        for first in &self.firsts {
            let mark = free.next().ok_or_else(|| Error::Chat {
                problem: "the messages contain every character of the private use area U+F0000 to U+FFFFD".into(),
            })?;
            pairs.push((*first, mark));
        }
        Ok(Marks { pairs, used: false })
    }

    /// `value` with the first character of every suspicious place replaced, in keys too.
    pub(super) fn protect(&self, value: &Json, marks: &mut Marks) -> Json {
        match value {
            Json::String(text) => Json::String(self.protect_text(text, marks)),
            Json::Array(items) => Json::Array(items.iter().map(|item| self.protect(item, marks)).collect()),
            Json::Object(object) => Json::Object(self.protect_object(object, marks)),
            other => other.clone(),
        }
    }

    /// [`Guard::protect`] for an object.
    pub(super) fn protect_object(&self, object: &Map<String, Json>, marks: &mut Marks) -> Map<String, Json> {
        object.iter().map(|(key, value)| (self.protect_text(key, marks), self.protect(value, marks))).collect()
    }

    /// [`Guard::protect`] for a text.
    pub(super) fn protect_text(&self, text: &str, marks: &mut Marks) -> String {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            match marks.mark_of(c) {
                Some(mark) if self.suspicious(&text[at..]) => {
                    out.push(mark);
                    marks.used = true;
                }
                _ => out.push(c),
            }
        }
        out
    }
}

/// Characters and the marks that stand for them in one conversation.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    pairs: Vec<(char, char)>,
    /// Whether a mark was put anywhere.
    pub(super) used: bool,
}

impl Marks {
    fn mark_of(&self, c: char) -> Option<char> {
        self.pairs.iter().find(|(first, _)| *first == c).map(|(_, mark)| *mark)
    }

    /// `text` with the characters that the marks stand for.
    pub(super) fn restore(&self, text: &str) -> String {
        if !self.used {
            return text.to_string();
        }
        text.chars()
            .map(|c| match self.pairs.iter().find(|(_, mark)| *mark == c) {
                Some((first, _)) => *first,
                None => c,
            })
            .collect()
    }
}

/// Calls `visit` with every string of a JSON value, keys included.
fn each_text(value: &Json, visit: &mut impl FnMut(&str)) {
    match value {
        Json::String(text) => visit(text),
        Json::Array(items) => items.iter().for_each(|item| each_text(item, visit)),
        Json::Object(object) => {
            for (key, value) in object {
                visit(key);
                each_text(value, visit);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn guard() -> Guard {
        Guard::new(["<|im_start|>", "<|im_end|>", "[MASK]", "</s>"], &["<think>", "</think>", "<|fim_pad|>"])
    }

    #[test]
    fn heads_are_short_but_not_shared() {
        assert_eq!(guard().heads, ["</s", "<|i", "[M"]);
        assert_eq!(Guard::new(["<s>", "§"], &[]).heads, ["<s", "§"]);
    }

    #[test]
    fn beginnings_are_marked_and_restored() {
        let data = json!({"a<|im_end|>": ["x<|im_start|>y", "</think> <|fim_pad|> a < b", "ends in <|", "\u{F0000}"]});
        let guard = guard();
        let mut marks = guard.marks("", [&data]).unwrap();
        let protected = guard.protect(&data, &mut marks).to_string();
        assert!(marks.used);
        assert!(!protected.contains("<|im_"), "{protected}");
        assert!(protected.contains("</think> <|fim_pad|> a < b"), "{protected}");
        assert!(protected.contains("ends in \u{F0002}|") || protected.contains("ends in \u{F0001}|"), "{protected}");
        assert_eq!(marks.restore(&protected), data.to_string());
    }

    #[test]
    fn harmless_data_is_left_alone() {
        let data = json!("a < b, [x], <|think|>, <s>");
        let guard = guard();
        let mut marks = guard.marks("", [&data]).unwrap();
        assert_eq!(guard.protect(&data, &mut marks), data);
        assert!(!marks.used);
    }
}
