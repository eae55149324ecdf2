//! Answers on standard output while they are written.

use crate::cli::print;
use crate::preview::visible;
use std::collections::{BTreeMap, BTreeSet};

/// Shows one answer after the other, in the order of rows and samples, although all of a batch are written at one time.
pub(super) struct Show {
    wanted: bool,
    /// All answers, and which of them is shown.
    order: Vec<(usize, usize)>,
    current: usize,
    /// Text of later answers.
    texts: BTreeMap<(usize, usize), String>,
    done: BTreeSet<(usize, usize)>,
    /// What was not printed yet.
    out: String,
}

impl Show {
    /// `counts` says how many answers each row has.
    pub(super) fn new(wanted: bool, counts: &[usize]) -> Self {
        let order = match wanted {
            true => counts.iter().enumerate().flat_map(|(row, count)| (0..*count).map(move |n| (row, n))).collect(),
            false => Vec::new(),
        };
        let mut show =
            Self { wanted, order, current: 0, texts: BTreeMap::new(), done: BTreeSet::new(), out: String::new() };
        show.head();
        show
    }

    /// More of an answer.
    pub(super) fn text(&mut self, answer: (usize, usize), text: &str) {
        match self.order.get(self.current) {
            Some(current) if *current == answer => self.out += &visible(text),
            _ if self.wanted => *self.texts.entry(answer).or_default() += text,
            _ => {}
        }
    }

    /// An answer is complete.
    pub(super) fn done(&mut self, answer: (usize, usize)) {
        if !self.wanted {
            return;
        }
        self.done.insert(answer);
        while self.order.get(self.current).is_some_and(|current| self.done.remove(current)) {
            self.out.push('\n');
            self.current += 1;
            self.head();
        }
    }

    fn head(&mut self) {
        if let Some((row, sample)) = self.order.get(self.current) {
            self.out += &format!("── row {}, answer {} ──\n", row + 1, sample + 1);
            if let Some(text) = self.texts.remove(&(*row, *sample)) {
                self.out += &visible(&text);
            }
        }
    }

    /// Prints what is new.
    pub(super) fn print(&mut self) -> crate::Result<()> {
        if self.out.is_empty() { Ok(()) } else { print(&std::mem::take(&mut self.out)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_after_the_other() {
        let mut show = Show::new(true, &[1, 2]);
        show.text((1, 1), "c");
        show.text((0, 0), "a\x1b");
        show.done((1, 1));
        show.text((1, 0), "b");
        assert_eq!(show.out, "── row 1, answer 1 ──\na\\u{1b}");
        show.done((0, 0));
        show.text((1, 0), "B");
        show.done((1, 0));
        let rest = "\n── row 2, answer 1 ──\nbB\n── row 2, answer 2 ──\nc\n";
        assert_eq!(show.out, format!("── row 1, answer 1 ──\na\\u{{1b}}{rest}"));
        let mut silent = Show::new(false, &[1]);
        silent.text((0, 0), "a");
        silent.done((0, 0));
        assert!(silent.out.is_empty() && silent.texts.is_empty());
    }
}
