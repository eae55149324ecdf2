//! What is wrong with a recipe or an argument, and where: a message, the place as `file:line:column`, the source line
//! with the culprit underlined, and what would have been right.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode, SourceSpan};

/// A named text that problems point into: a recipe file, or one argument of the command line.
#[derive(Debug, Clone)]
pub struct SourceText {
    /// Path of the file as the user wrote it, or the flag (`--set`).
    pub name: Arc<str>,
    /// The whole text.
    pub text: Arc<str>,
}

impl SourceText {
    /// A text and the name it goes by.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// Line and column, both counted from 1, the column in characters, of a byte offset.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Byte offset of a line and a column, both counted from 1; the end of the text when it has no such place.
    pub fn offset(&self, line: usize, column: usize) -> usize {
        let line_start: usize = self.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let rest = &self.text[line_start..];
        line_start + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(at, _)| at)
    }
}

/// One thing that is wrong, with its place.
#[derive(Debug, Clone)]
pub struct Problem {
    message: String,
    label: String,
    help: Option<String>,
    source: SourceText,
    span: Range<usize>,
}

/// Longer messages are cut, in bytes.
const MESSAGE: usize = 1000;
/// Longer lines are shown in part.
const LINE: usize = 240;

impl Problem {
    /// A problem with the bytes `span` of `source`.
    pub fn new(source: &SourceText, span: Range<usize>, message: impl Into<String>) -> Self {
        let mut message = message.into();
        // What a message quotes may be of any length.
        if message.len() > MESSAGE {
            message.truncate(message.floor_char_boundary(MESSAGE));
            message.push('…');
        }
        Self { message, label: String::new(), help: None, source: source.clone(), span }
    }

    /// The same problem with another text.
    pub fn moved(self, source: &SourceText, span: Range<usize>) -> Self {
        Self { label: self.label, help: self.help, ..Self::new(source, span, self.message) }
    }

    /// What to write beside the underlined part.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// How to put it right.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Help for an unknown word: all the accepted ones. The nearest of them, if one is near, becomes the label.
    pub fn accepted<'a>(mut self, found: &str, accepted: impl IntoIterator<Item = &'a str>) -> Self {
        let accepted: Vec<&str> = accepted.into_iter().collect();
        if let Some(near) = nearest(found, accepted.iter().copied()) {
            self.label = format!("did you mean `{near}`?");
        }
        self.help(match accepted.as_slice() {
            [] => "nothing is accepted here".to_owned(),
            words => format!("accepted: {}", words.join(", ")),
        })
    }

    /// `file:line:column` of the first underlined character.
    pub fn place(&self) -> String {
        let (line, column) = self.source.line_column(self.span.start);
        format!("{}:{line}:{column}", self.source.name)
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The text the problem is in.
    pub fn text(&self) -> &SourceText {
        &self.source
    }

    /// The underlined bytes of [`Problem::text`].
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The problem as miette draws it: with the lines around it, or, where these are long, with a part of its own.
    fn drawn(&self) -> Drawn<'_> {
        let text = &*self.source.text;
        let start = text[..self.span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let above = text[..start.saturating_sub(1)].rfind('\n').map_or(0, |newline| newline + 1);
        let (excerpt, span) = match text[above..].lines().take(3).all(|line| line.len() <= LINE) {
            true => (self.source.text.clone(), self.span.clone()),
            false => {
                let line = &text[start..start + text[start..].find('\n').unwrap_or(text.len() - start)];
                let from = line.floor_char_boundary((self.span.start - start).saturating_sub(LINE / 2));
                let to = line.floor_char_boundary(from + LINE);
                // Empty lines above keep the number of the line.
                let head = text[..start].matches('\n').count();
                let end = self.span.end.min(start + to);
                let shift = |at: usize| at - start - from + head;
                let excerpt = format!("{}{}", "\n".repeat(head), &line[from..to]);
                (excerpt.into(), shift(self.span.start)..shift(end))
            }
        };
        Drawn { problem: self, source: NamedSource::new(self.place(), excerpt), span }
    }
}

/// The message alone: the place stands beside the source line when a problem is rendered.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// A problem with the text that is shown of it.
#[derive(Debug)]
struct Drawn<'a> {
    problem: &'a Problem,
    source: NamedSource<Arc<str>>,
    span: Range<usize>,
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for Drawn<'_> {}

impl Diagnostic for Drawn<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = (!self.problem.label.is_empty()).then(|| self.problem.label.clone());
        let span = SourceSpan::new(self.span.start.into(), self.span.len());
        Some(Box::new(std::iter::once(LabeledSpan::new_primary_with_span(label, span))))
    }
}

/// Draws problems as text for a terminal, each followed by an empty line.
///
/// # Errors
/// Only those of the writer.
pub fn render(problems: &[Problem], colour: bool, out: &mut impl fmt::Write) -> fmt::Result {
    for problem in problems {
        draw(&problem.drawn(), colour, out)?;
        out.write_char('\n')?;
    }
    Ok(())
}

/// Draws an error that has no place.
///
/// # Errors
/// Only those of the writer.
pub fn render_error(error: &(dyn Diagnostic + 'static), colour: bool, out: &mut impl fmt::Write) -> fmt::Result {
    draw(error, colour, out)
}

fn draw(diagnostic: &dyn Diagnostic, colour: bool, out: &mut impl fmt::Write) -> fmt::Result {
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::none() };
    GraphicalReportHandler::new_themed(theme)
        // The name of the source already ends in line and column, counted in characters; miette's own count is in bytes.
        .without_primary_span_start()
        // Every message of ours already says what its causes say.
        .without_cause_chain()
        // A path that is broken over two lines can be neither copied nor found.
        .with_wrap_lines(false)
        .render_report(out, diagnostic)
}

/// The candidate that `word` was probably meant to be: the one with the fewest edits, upper and lower case alike, if a
/// third of the word or less has to change.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= (word.len().max(candidate.len()) / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        let text = SourceText::new("r.ron", "ab\nçé, x\n");
        assert_eq!(text.line_column(0), (1, 1));
        assert_eq!(text.line_column(9), (2, 5));
        assert_eq!(text.offset(2, 5), 9);
        assert_eq!(text.offset(2, 99), text.text.len());
        assert_eq!(text.offset(9, 1), text.text.len());
        assert_eq!(Problem::new(&text, 9..10, "no").place(), "r.ron:2:5");
    }

    #[test]
    fn long_lines_are_shown_in_part() {
        let text = SourceText::new("r.ron", format!("a\n{}X{}\nb", "é".repeat(50_000), "y".repeat(50_000)));
        let at = 2 + 2 * 50_000;
        let mut out = String::new();
        render(&[Problem::new(&text, at..at + 90_000, "too long")], false, &mut out).unwrap();
        assert!(out.contains("[r.ron:2:50001]") && out.contains(" 2 | "), "{out}");
        assert!(out.len() < 2_000 && out.contains("éXy"), "{out}");
    }

    #[test]
    fn the_nearest_word_is_near() {
        let fields = ["epochs", "max_steps", "model"];
        assert_eq!(nearest("epohcs", fields), Some("epochs"));
        assert_eq!(nearest("Model", fields), Some("model"));
        assert_eq!(nearest("learning_rate", fields), None);
        assert_eq!(nearest("x", []), None);
    }
}
