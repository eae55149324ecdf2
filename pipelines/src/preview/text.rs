//! A preview for a terminal.

use super::{Pass, Placed, Preview};
use std::fmt::Write;

/// How learned text is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Black on green; on yellow where a token does not count once.
    Colour,
    /// Between ⟦ and ⟧, after its weight where a token does not count once: `⟦×0.5 …⟧`.
    Marks,
}

/// The lines of a preview.
pub fn text(preview: &Preview, style: Style) -> String {
    let mut out = format!("{} / {}\n", preview.recipe, preview.stage);
    for line in preview.summary() {
        let _ = writeln!(out, "  {line}");
    }
    for line in preview.histogram() {
        let _ = writeln!(out, "  {line}");
    }
    for (number, sample) in preview.samples.iter().enumerate() {
        let _ = writeln!(
            out,
            "\n── sample {} ── line {}, {} tokens, {} learned ──",
            number + 1,
            sample.line,
            sample.tokens,
            sample.learned
        );
        for piece in &sample.pieces {
            let shown = visible(&piece.text);
            let whole = piece.weight == 1.0;
            match style {
                _ if piece.weight == 0.0 => out += &shown,
                Style::Marks if whole => out += &format!("⟦{shown}⟧"),
                Style::Marks => out += &format!("⟦×{} {shown}⟧", piece.weight),
                // Line by line, so that a pager keeps the colour where it belongs.
                Style::Colour => {
                    let open = if whole { "\x1b[30;42m" } else { "\x1b[30;43m" };
                    let lines: Vec<String> = shown.split('\n').map(|line| format!("{open}{line}\x1b[0m")).collect();
                    out += &lines.join("\n");
                }
            }
        }
        if !out.ends_with('\n') {
            out.push('\n');
        }
    }
    let _ = writeln!(out, "\n── the first step ── {} ──", passes(preview.first_step.len()));
    for (number, pass) in preview.first_step.iter().enumerate() {
        let _ = writeln!(out, "{}", layout(number, pass));
    }
    out
}

pub(super) fn passes(count: usize) -> String {
    if count == 1 { "1 pass".into() } else { format!("{count} passes") }
}

/// `pass 1: 12 samples, 900 tokens, 640 computed: line 3 (80), line 9 (80, 71 shared) …`
pub(super) fn layout(number: usize, Pass { computed, samples }: &Pass) -> String {
    let tokens: usize = samples.iter().map(|sample| sample.tokens).sum();
    let place = |Placed { line, tokens, shared }: &Placed| match shared {
        0 => format!("line {line} ({tokens})"),
        shared => format!("line {line} ({tokens}, {shared} shared)"),
    };
    let places: Vec<String> = samples.iter().map(place).collect();
    let count = samples.len();
    let number = number + 1;
    format!("pass {number}: {count} samples, {tokens} tokens, {computed} computed: {}", places.join(", "))
}

/// A text that does nothing to a terminal: control characters and those that turn the direction of writing, as escapes.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '\n' | '\t' => shown.push(sign),
            '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => shown.extend(sign.escape_unicode()),
            sign if sign.is_control() => shown.extend(sign.escape_unicode()),
            sign => shown.push(sign),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn a_text_cannot_command_the_terminal() {
        assert_eq!(visible("a\x1b[2J\r\n\tü\u{202E}"), "a\\u{1b}[2J\\u{d}\n\tü\\u{202e}");
    }
}
