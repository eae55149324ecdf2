//! Python's string and dictionary methods in templates, where they differ from what `minijinja-contrib` offers.

use minijinja::value::{StringInput, ValueKind, from_args};
use minijinja::{Error, State, Value};
use minijinja_contrib::pycompat;
use std::borrow::Cow;

/// Python's notion of white space: Unicode's, and the four ASCII separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Line ends of `str.splitlines`.
fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}' | '\u{1d}' | '\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Called for methods that a value does not have by itself.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if value.kind() != ValueKind::String {
        return pycompat::unknown_method_callback(state, value, method, args);
    }
    let text = value.as_str().unwrap_or_default();
    match (method, args) {
        ("strip", []) => Ok(text.trim_matches(is_space).into()),
        ("lstrip", []) => Ok(text.trim_start_matches(is_space).into()),
        ("rstrip", []) => Ok(text.trim_end_matches(is_space).into()),
        ("split", []) => Ok(text.split(is_space).filter(|s| !s.is_empty()).map(Value::from).collect()),
        ("isspace", []) => Ok((!text.is_empty() && text.chars().all(is_space)).into()),
        ("splitlines", _) => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            Ok(split_lines(text, keep_ends.unwrap_or(false)).into_iter().map(Value::from).collect())
        }
        ("removeprefix", _) => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        ("removesuffix", _) => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_line_end) {
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(if keep_ends { &rest[..at + end] } else { &rest[..at] });
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// The `trim` filter: `str.strip`.
pub(super) fn trim(text: StringInput<'_>, characters: Option<Cow<'_, str>>) -> String {
    match characters {
        Some(set) => text.as_str().trim_matches(|c| set.contains(c)).to_string(),
        None => text.as_str().trim_matches(is_space).to_string(),
    }
}

/// The `sequence` test of Jinja: whatever has a length and can be indexed.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
}

/// The `iterable` test of Jinja, where strings are iterable too.
pub(super) fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || matches!(value.kind(), ValueKind::Iterable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_python_ends_them() {
        assert_eq!(split_lines("a\r\nb\u{2028}\n\nc", false), ["a", "b", "", "", "c"]);
        assert_eq!(split_lines("a\r\nb\n", true), ["a\r\n", "b\n"]);
        assert!(split_lines("", false).is_empty());
    }
}
