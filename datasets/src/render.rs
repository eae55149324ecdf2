//! Nodes and edges as text.
//!
//! [`NodeRender::PyRepr`] writes what Python 3.11 prints for a dict with integer keys and for a list of lists, to the
//! character: that is what published GLOW prompts hold, and an embedding is only comparable when its prompt is equal.

use crate::printable::is_printable;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// How node and edge sections are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NodeRender {
    /// As Python prints them: `{0: 'text', 1: "it's"}` and `[[0, 1]]`.
    #[default]
    PyRepr,
    /// As `PyRepr`, with the ids as strings, as Python prints records of FLORA-Bench that it has read: `{'0': 'text'}`.
    PyReprStr,
    /// As JSON: `{"0": "text", "1": "it's"}` and `[[0, 1]]`.
    Json,
    /// One a line: `0: text` and `0 -> 1`, with line breaks, carriage returns, tabs and backslashes in texts escaped.
    Lines,
}

impl NodeRender {
    /// The node section; nodes in the order given.
    pub fn nodes<S: AsRef<str>>(self, nodes: &[(u32, S)]) -> String {
        let mut out = String::new();
        if self != Self::Lines {
            out.push('{');
        }
        for (index, (id, text)) in nodes.iter().enumerate() {
            let text = text.as_ref();
            if index > 0 {
                out.push_str(if self == Self::Lines { "\n" } else { ", " });
            }
            match self {
                Self::PyRepr => {
                    push(&mut out, format_args!("{id}: "));
                    py_repr(text, &mut out);
                }
                Self::PyReprStr => {
                    push(&mut out, format_args!("'{id}': "));
                    py_repr(text, &mut out);
                }
                Self::Json => push(&mut out, format_args!("\"{id}\": {}", serde_json::Value::from(text))),
                Self::Lines => {
                    push(&mut out, format_args!("{id}: "));
                    for character in text.chars() {
                        push_control(character, &mut out);
                    }
                }
            }
        }
        if self != Self::Lines {
            out.push('}');
        }
        out
    }

    /// The edge section; edges in the order given, repeated ones included.
    pub fn edges(self, edges: &[[u32; 2]]) -> String {
        if self == Self::Lines {
            let lines: Vec<String> = edges.iter().map(|[source, target]| format!("{source} -> {target}")).collect();
            return if lines.is_empty() { "(none)".into() } else { lines.join("\n") };
        }
        let pairs: Vec<String> = edges.iter().map(|[source, target]| format!("[{source}, {target}]")).collect();
        format!("[{}]", pairs.join(", "))
    }
}

/// A list of ids as the answers have it: `[0, 2, 10]`, `[]`.
pub fn id_list(ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    format!("[{}]", ids.join(", "))
}

/// Appends Python's `repr` of a string.
///
/// Single quotes, unless the text holds a single and no double quote; backslash, the quote, newline, carriage return
/// and tab escaped by a backslash; other characters that Python does not call printable as `\xNN`, `\uNNNN` or
/// `\UNNNNNNNN`; everything else as it is.
pub fn py_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    // Runs of plain characters are copied as a whole.
    let plain = |c: char| c != quote && c != '\\' && (matches!(c, ' '..='~') || !c.is_ascii() && is_printable(c));
    let mut rest = text;
    while let Some(start) = rest.find(|c| !plain(c)) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let Some(character) = rest.chars().next() else { break };
        rest = &rest[character.len_utf8()..];
        match character {
            c if c == quote => out.extend(['\\', quote]),
            '\\' | '\n' | '\r' | '\t' => push_control(character, out),
            other => match u32::from(other) {
                code @ ..=0xFF => push(out, format_args!("\\x{code:02x}")),
                code @ ..=0xFFFF => push(out, format_args!("\\u{code:04x}")),
                code => push(out, format_args!("\\U{code:08x}")),
            },
        }
    }
    out.push_str(rest);
    out.push(quote);
}

/// Appends a character, with backslash, newline, carriage return and tab escaped.
fn push_control(character: char, out: &mut String) {
    match character {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        other => out.push(other),
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repr(text: &str) -> String {
        let mut out = String::new();
        py_repr(text, &mut out);
        out
    }

    #[test]
    fn python_repr() {
        // Each pair was printed by Python 3.11.
        let cases = [
            ("", "''"),
            ("a'b", "\"a'b\""),
            ("say \"hi\"", "'say \"hi\"'"),
            ("both ' and \"", "'both \\' and \"'"),
            ("x\ny\r\t\\", "'x\\ny\\r\\t\\\\'"),
            ("\0\x1b\x7f\u{a0}\u{ad}é", "'\\x00\\x1b\\x7f\\xa0\\xadé'"),
            ("\u{200b}\u{2028}\u{feff}中\u{3000}", "'\\u200b\\u2028\\ufeff中\\u3000'"),
            ("🚀\u{e0001}\u{10ffff}", "'🚀\\U000e0001\\U0010ffff'"),
        ];
        for (text, want) in cases {
            assert_eq!(repr(text), want);
        }
    }

    #[test]
    fn nodes_and_edges() {
        let nodes = [(0, "a'b"), (1, "say \"hi\""), (2, "x\ny")];
        assert_eq!(NodeRender::PyRepr.nodes(&nodes), r#"{0: "a'b", 1: 'say "hi"', 2: 'x\ny'}"#);
        assert_eq!(NodeRender::PyReprStr.nodes(&nodes), r#"{'0': "a'b", '1': 'say "hi"', '2': 'x\ny'}"#);
        assert_eq!(NodeRender::Json.nodes(&nodes), r#"{"0": "a'b", "1": "say \"hi\"", "2": "x\ny"}"#);
        assert_eq!(NodeRender::Lines.nodes(&nodes), "0: a'b\n1: say \"hi\"\n2: x\\ny");
        let edges = [[0, 1], [10, 2]];
        assert_eq!(NodeRender::PyRepr.edges(&edges), "[[0, 1], [10, 2]]");
        assert_eq!(NodeRender::Json.edges(&[]), "[]");
        assert_eq!(NodeRender::Lines.edges(&edges), "0 -> 1\n10 -> 2");
        assert_eq!(NodeRender::Lines.edges(&[]), "(none)");
        assert_eq!(id_list(&[0, 2, 10]), "[0, 2, 10]");
        assert_eq!(id_list(&[]), "[]");
    }
}
