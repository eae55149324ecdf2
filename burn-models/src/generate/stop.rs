//! The text of an answer while it grows.

use crate::Result;
use crate::text::Tokenizer;

/// So many tokens whose text ends within a character are given out as they are: no character has more bytes.
const PENDING: usize = 8;

/// Text from tokens that come one by one, until a text that ends it.
#[derive(Debug, Default)]
pub(super) struct GrowingText {
    ids: Vec<u32>,
    /// Tokens before `read` are in the text; those from `context` on are decoded again with the next ones, as the text of a token
    /// may depend on those before it.
    context: usize,
    read: usize,
    text: String,
    /// Bytes that were given out.
    given: usize,
}

impl GrowingText {
    /// Adds a token; true once one of `stop` is complete, which then ends the text.
    pub(super) fn push(&mut self, id: u32, stop: &[String], tokenizer: &Tokenizer) -> Result<bool> {
        self.ids.push(id);
        let before = tokenizer.decode_exact(&self.ids[self.context..self.read], true)?;
        let now = tokenizer.decode_exact(&self.ids[self.context..], true)?;
        let open = now.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.read < PENDING;
        if open || now.len() <= before.len() {
            return Ok(false);
        }
        (self.context, self.read) = (self.read, self.ids.len());
        let old = self.text.len();
        // Bytes that were no character may be one now.
        let new = if now.starts_with(&before) { &now[before.len()..] } else { now.as_str() };
        self.text.push_str(new);
        let longest = stop.iter().map(String::len).max().unwrap_or(0);
        let from = self.text.floor_char_boundary(old.saturating_sub(longest));
        let found = stop.iter().filter_map(|stop| self.text[from..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.text.truncate(from + at);
        }
        Ok(found.is_some())
    }

    /// The text so far.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What can be given out now and was not before: all but what may be the beginning of one of `stop`.
    pub(super) fn certain(&mut self, stop: &[String]) -> &str {
        let held = |stop: &String| {
            (1..stop.len())
                .rev()
                .filter(|len| stop.is_char_boundary(*len))
                .find(|len| self.text.ends_with(&stop[..*len]))
        };
        let held = stop.iter().filter_map(held).max().unwrap_or(0);
        self.give(self.text.len() - held)
    }

    /// Everything that was not given out, when nothing follows. `cut` by a text that ended it, the text is complete; otherwise
    /// what is left of a character is given out as it is.
    pub(super) fn rest(&mut self, cut: bool, tokenizer: &Tokenizer) -> Result<&str> {
        if !cut && self.read < self.ids.len() {
            let before = tokenizer.decode_exact(&self.ids[self.context..self.read], true)?;
            let now = tokenizer.decode_exact(&self.ids[self.context..], true)?;
            self.text.push_str(now.strip_prefix(&before).unwrap_or_default());
            self.read = self.ids.len();
        }
        Ok(self.give(self.text.len()))
    }

    fn give(&mut self, end: usize) -> &str {
        let from = self.given.min(end);
        self.given = self.given.max(end);
        &self.text[from..end]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::text::{Builtin, Specials};

    fn grow(text: &str, stop: &[&str]) -> (String, String, usize) {
        let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
        let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_string()).collect();
        let (mut growing, mut given) = (GrowingText::default(), String::new());
        let ids = tokenizer.encode(text, Specials::Plain).unwrap();
        for (count, id) in ids.iter().enumerate() {
            let done = growing.push(*id, &stop, &tokenizer).unwrap();
            if done {
                given += growing.rest(true, &tokenizer).unwrap();
                return (growing.text().into(), given, count + 1);
            }
            given += growing.certain(&stop);
            assert!(!stop.iter().any(|stop| given.ends_with(stop.chars().next().unwrap())), "{given:?}");
        }
        given += growing.rest(false, &tokenizer).unwrap();
        (growing.text().into(), given, ids.len())
    }

    #[test]
    fn a_text_ends_before_what_ends_it() {
        let (text, given, _) = grow("plan a 🚀 step ü中, then", &["#"]);
        assert_eq!((text.as_str(), given.as_str()), ("plan a 🚀 step ü中, then", "plan a 🚀 step ü中, then"));
        let (text, given, count) = grow("plan a step#END and more", &["#END", "#AND"]);
        assert_eq!((text.as_str(), given.as_str()), ("plan a step", "plan a step"));
        assert!(count < 30);
        let (text, ..) = grow("中🚀中x", &["🚀中"]);
        assert_eq!(text, "中");
    }
}
