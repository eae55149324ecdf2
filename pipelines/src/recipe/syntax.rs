//! Parsing, and what ron's errors mean to the reader of a recipe.

use std::ops::Range;

use ron::Options;
use ron::error::{Error as Ron, SpannedError};
use ron::extensions::Extensions;
use serde::de::DeserializeOwned;

use super::spans::{Node, Token, TokenKind, tokens};
use crate::diagnostics::{Problem, SourceText};

/// How recipes are read and written: `lr: 1` stands for `Some(1)`, and a variant's fields follow its name directly, as in
/// `Sft(model: …)`. ron's own limit on nesting (128 calls, about 30 brackets) holds.
pub(super) fn options() -> Options {
    Options::default()
        .with_default_extension(Extensions::IMPLICIT_SOME)
        .with_default_extension(Extensions::UNWRAP_VARIANT_NEWTYPES)
}

/// Parses a text that holds one value.
pub(super) fn parse<T: DeserializeOwned>(source: &SourceText) -> Result<T, Problem> {
    options().from_str(&source.text).map_err(|error| Text::new(source).explain::<T>(&error))
}

/// A text that did not parse.
struct Text<'a> {
    source: &'a SourceText,
    tokens: Vec<Token>,
}

impl<'a> Text<'a> {
    fn new(source: &'a SourceText) -> Self {
        Self { source, tokens: tokens(&source.text) }
    }

    fn explain<T: DeserializeOwned>(&self, error: &SpannedError) -> Problem {
        let start = self.source.offset(error.span.start.line, error.span.start.col);
        let end = self.source.offset(error.span.end.line, error.span.end.col);
        if let Some(problem) = self.unbalanced(end) {
            return problem;
        }
        let (last, next) = (self.last(end), self.next(end));
        if expectation(&error.code).is_some() && self.quoted(&last).contains('\n') {
            let (line, column) = self.source.line_column(last.end);
            return self
                .problem(last.start..last.start + 1, format!("this string only ends at {line}:{column}"))
                .label("is its closing quote missing?");
        }
        match &error.code {
            Ron::NoSuchStructField { expected, found, outer } => {
                let place = outer.as_ref().map_or(String::new(), |outer| format!(" in `{outer}`"));
                self.problem(start..end, format!("unknown field `{found}`{place}"))
                    .label("not a field here")
                    .accepted(found, expected.iter().copied())
            }
            Ron::NoSuchEnumVariant { expected, found, .. } => self
                .problem(start..end, format!("unknown value `{found}`"))
                .label("not accepted here")
                .accepted(found, expected.iter().copied()),
            Ron::DuplicateStructField { field, .. } => {
                self.problem(start..end, format!("field `{field}` stands here twice")).label("the second one")
            }
            Ron::MissingStructField { field, outer } => {
                let place = outer.as_ref().map_or(String::new(), |outer| format!(" in `{outer}`"));
                self.problem(self.enclosing(end), format!("field `{field}` is missing{place}"))
                    .label(format!("add `{field}: …`"))
            }
            Ron::ExpectedDifferentStructName { expected, found } => {
                self.problem(start..end, format!("expected `{expected}`, found `{found}`")).accepted(found, [*expected])
            }
            Ron::IntegerOutOfBounds => {
                self.problem(last.clone(), format!("`{}` is out of range here", self.quote(&last)))
            }
            Ron::InvalidIntegerDigit { .. } => self.expected("an integer", next),
            Ron::ExpectedComma if self.inside_number(end) => self.expected("an integer", next),
            Ron::ExpectedComma if self.quote(&next) == "(" && next.start == last.end => {
                self.problem(next, format!("`{}` has no fields", self.quote(&last))).help("leave the parentheses out")
            }
            Ron::ExpectedStructLike | Ron::ExpectedNamedStructLike(_) if self.is_word(&last) && last.end == end => {
                let name = self.quote(&last);
                self.problem(last.clone(), format!("`{name}` needs parentheses"))
                    .label(format!("write `{name}(…)`, or `{name}()` for its defaults"))
            }
            Ron::ExpectedIdentifier | Ron::SuggestRawIdentifier(_) => self.name_expected::<T>(next),
            Ron::ExceededRecursionLimit => {
                self.problem(next, "the brackets are nested too deeply").help("a recipe needs about ten levels")
            }
            Ron::TrailingCharacters => {
                self.problem(next, "the recipe ends before this").help("a file holds one `Recipe(…)`")
            }
            Ron::InvalidEscape(reason) => self.problem(next, format!("wrong escape in a string: {reason}")),
            Ron::InvalidValueForType { expected, found } => {
                self.problem(self.consumed(&last), format!("expected {expected}, found {found}"))
            }
            Ron::ExpectedDifferentLength { expected, found } => {
                self.problem(self.consumed(&last), format!("expected {expected}, found {found} elements"))
            }
            Ron::Message(message) => self.problem(self.consumed(&last), message.clone()),
            code => match expectation(code) {
                Some(expectation) => self.expected(expectation, next),
                None => self.problem(next, code.to_string()),
            },
        }
    }

    fn problem(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem::new(self.source, span, message)
    }

    fn expected(&self, expectation: &str, span: Range<usize>) -> Problem {
        let found = if span.is_empty() { "the end".to_owned() } else { format!("`{}`", self.quote(&span)) };
        self.problem(span, format!("expected {expectation}, found {found}"))
    }

    /// A field or variant name has to stand here. Which ones would do is asked of the type, by putting a name here that
    /// nothing has.
    fn name_expected<T: DeserializeOwned>(&self, span: Range<usize>) -> Problem {
        let text = &self.source.text;
        let probe = format!("{}__ {}", &text[..span.start], &text[span.start..]);
        match options().from_str::<T>(&probe).err().map(|error| error.code) {
            Some(Ron::NoSuchEnumVariant { expected, found, .. }) if found == "__" => self
                .expected("one of the accepted values", span.clone())
                .label("has to begin with its kind")
                .accepted("", expected.iter().copied()),
            Some(Ron::NoSuchStructField { expected, found, .. }) if found == "__" => {
                self.expected("a field", span.clone()).accepted("", expected.iter().copied())
            }
            _ => self.expected("a name", span),
        }
    }

    /// The token that ends at or before `at`.
    fn last(&self, at: usize) -> Range<usize> {
        self.tokens.iter().rev().find(|token| token.span.end <= at).map_or(0..0, |token| token.span.clone())
    }

    /// The token that `at` is in, or the one after it.
    fn next(&self, at: usize) -> Range<usize> {
        let end = self.source.text.len();
        self.tokens.iter().find(|token| token.span.end > at).map_or(end..end, |token| token.span.clone())
    }

    /// The text of a token; shortened if it is long.
    fn quote(&self, span: &Range<usize>) -> String {
        let text = &self.source.text[span.clone()];
        match text.char_indices().nth(40) {
            Some((cut, _)) => format!("{}…", &text[..cut]),
            None => text.to_owned(),
        }
    }

    /// The text of a token if it is a string.
    fn quoted(&self, span: &Range<usize>) -> &str {
        let text = self.tokens.iter().any(|token| token.kind == TokenKind::Text && token.span == *span);
        if text { &self.source.text[span.clone()] } else { "" }
    }

    fn is_word(&self, span: &Range<usize>) -> bool {
        self.tokens.iter().any(|token| token.kind == TokenKind::Word && token.span == *span)
    }

    fn inside_number(&self, at: usize) -> bool {
        self.tokens.iter().any(|token| token.kind == TokenKind::Other && token.span.start < at && at < token.span.end)
    }

    /// The value that ends with the token `last`: that token, or the name of what it closes.
    fn consumed(&self, last: &Range<usize>) -> Range<usize> {
        fn ending_at(node: &Node, end: usize) -> Option<&Node> {
            if node.span.end == end {
                Some(node)
            } else {
                node.children.iter().find_map(|child| ending_at(&child.value, end))
            }
        }
        let text = &self.source.text;
        ending_at(&Node::read(text), last.end).map_or(last.clone(), |node| node.headline(text))
    }

    /// The name, else the bracket, of the innermost value around `at`.
    fn enclosing(&self, at: usize) -> Range<usize> {
        let around = |node: &&Node| node.bracket != 0 && node.span.start < at && at < node.span.end;
        let tree = Node::read(&self.source.text);
        let mut node = &tree;
        while let Some(inner) = node.children.iter().map(|child| &child.value).find(around) {
            node = inner;
        }
        node.name.clone().unwrap_or(node.span.start..node.span.start + 1)
    }

    /// A bracket or string before `at` that is not closed, or closed by another bracket; ron only notices later, and
    /// elsewhere.
    fn unbalanced(&self, at: usize) -> Option<Problem> {
        let text = &self.source.text;
        let mut open: Vec<&Token> = Vec::new();
        for token in self.tokens.iter().take_while(|token| token.span.start <= at) {
            let first = text.as_bytes()[token.span.start];
            match token.kind {
                TokenKind::Open => open.push(token),
                TokenKind::Close => {
                    let opened = open.pop()?;
                    let closer = match text.as_bytes()[opened.span.start] {
                        b'(' => b')',
                        b'[' => b']',
                        _ => b'}',
                    };
                    if first != closer {
                        let (line, column) = self.source.line_column(opened.span.start);
                        let opener = self.quote(&opened.span);
                        let closer = char::from(closer);
                        return Some(
                            self.problem(
                                token.span.clone(),
                                format!("`{}` cannot close `{opener}`", char::from(first)),
                            )
                            .label(format!("expected `{closer}` for the `{opener}` at {line}:{column}")),
                        );
                    }
                }
                TokenKind::Text if token.span.end == text.len() && !closed_string(&text[token.span.clone()]) => {
                    let start = token.span.start;
                    return Some(self.problem(start..start + 1, "the string is never closed"));
                }
                _ => {}
            }
        }
        let innermost = open.last().filter(|_| self.next(at).is_empty())?;
        Some(self.problem(innermost.span.clone(), format!("`{}` is never closed", self.quote(&innermost.span))))
    }
}

/// Whether a string token that reaches the end of the text is complete.
fn closed_string(token: &str) -> bool {
    token.len() > 1 && token.trim_end_matches('#').ends_with(['"', '\''])
}

/// What ron wanted, for those errors that stand before the offending token.
fn expectation(code: &Ron) -> Option<&'static str> {
    Some(match code {
        Ron::ExpectedArray => "a list `[…]`",
        Ron::ExpectedMap => "a map `{…}`",
        Ron::ExpectedBoolean => "true or false",
        Ron::ExpectedInteger => "an integer",
        Ron::ExpectedFloat => "a number",
        Ron::ExpectedString => "a string in quotes",
        Ron::ExpectedComma => "a comma",
        Ron::ExpectedMapColon => "`:`",
        Ron::ExpectedArrayEnd => "`]`",
        Ron::ExpectedMapEnd => "`}`",
        Ron::ExpectedStructLike | Ron::ExpectedNamedStructLike(_) => "`(`",
        Ron::ExpectedStructLikeEnd | Ron::ExpectedOptionEnd => "`)`",
        Ron::Eof => "more",
        _ => return None,
    })
}
