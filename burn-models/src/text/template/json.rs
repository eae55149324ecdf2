//! JSON as Python's `json.dumps` writes it, for the `tojson` filter of chat templates.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind};
use std::fmt::Write;

/// The deepest nesting that is written.
const MAX_DEPTH: usize = 128;

/// How to write JSON; the defaults are those of `json.dumps(value, ensure_ascii=False)`.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonStyle {
    /// Write characters outside ASCII as `\uXXXX`.
    pub(super) ensure_ascii: bool,
    /// Text of one level of indentation; every element on its own line where it is set.
    pub(super) indent: Option<String>,
    /// Separators after an item and after a key; `None` for Python's choice.
    pub(super) separators: Option<(String, String)>,
    /// Keys in order of their text.
    pub(super) sort_keys: bool,
}

/// The `tojson` filter of the `transformers` library:
/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    type Positional = (Option<Value>, Option<Value>, Option<Value>, Option<Value>, Kwargs);
    let args = args.into_values();
    let (ensure_ascii, indent, separators, sort_keys, kwargs) = from_args::<Positional>(&args)?;
    let given = |positional: Option<Value>, name: &str| -> Result<Option<Value>, Error> {
        let value = if positional.is_some() { positional } else { kwargs.get::<Option<Value>>(name)? };
        Ok(value.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let ensure_ascii = given(ensure_ascii, "ensure_ascii")?;
    let indent = given(indent, "indent")?;
    let separators = given(separators, "separators")?;
    let sort_keys = given(sort_keys, "sort_keys")?;
    kwargs.assert_all_used()?;
    let style = JsonStyle {
        ensure_ascii: ensure_ascii.is_some_and(|v| v.is_true()),
        indent: indent.map(indentation).transpose()?,
        separators: separators.map(separator_pair).transpose()?,
        sort_keys: sort_keys.is_some_and(|v| v.is_true()),
    };
    dumps(value, &style).map(Value::from)
}

fn indentation(value: Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_string());
    }
    let width = value.as_i64().ok_or_else(|| invalid("tojson: indent must be a number or a string"))?;
    Ok(" ".repeat(width.clamp(0, 64) as usize))
}

fn separator_pair(value: Value) -> Result<(String, String), Error> {
    let parts: Vec<Value> = value.try_iter()?.take(3).collect();
    match parts.as_slice() {
        [item, key] => match (item.as_str(), key.as_str()) {
            (Some(item), Some(key)) => Ok((item.to_string(), key.to_string())),
            _ => Err(invalid("tojson: separators must be two strings")),
        },
        _ => Err(invalid("tojson: separators must be two strings")),
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// `json.dumps(value, …)`.
pub(super) fn dumps(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut writer = Writer { out: String::new(), style };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    style: &'a JsonStyle,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.block('[', ']', items.len(), depth, |this, i| this.value(&items[i], depth + 1))?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    pairs.push((key_text(&key)?, item));
                }
                if self.style.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.block('{', '}', pairs.len(), depth, |this, i| {
                    this.string(&pairs[i].0);
                    let colon = this.style.separators.as_ref().map_or(": ", |s| s.1.as_str());
                    this.out.push_str(colon);
                    this.value(&pairs[i].1, depth + 1)
                })?;
            }
            ValueKind::Undefined => return Err(invalid("tojson: the value is undefined")),
            _ => return Err(invalid("tojson: a value of this kind has no JSON form")),
        }
        Ok(())
    }

    /// Brackets around `count` elements, with separators and indentation.
    fn block(
        &mut self,
        open: char,
        close: char,
        count: usize,
        depth: usize,
        mut element: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for i in 0..count {
            if i > 0 {
                let comma = match (&self.style.separators, &self.style.indent) {
                    (Some((item, _)), _) => item.as_str(),
                    (None, Some(_)) => ",",
                    (None, None) => ", ",
                };
                self.out.push_str(comma);
            }
            self.new_line(depth + 1);
            element(self, i)?;
        }
        if count > 0 {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\u{1f}' => self.escape(c as u32),
                // Characters that stand for protected ones must survive; see `crate::text::guard`.
                c if self.style.ensure_ascii && !(' '..='~').contains(&c) && !crate::text::guard::is_mark(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.escape(*unit as u32);
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, unit: u32) {
        // Writing to a String cannot fail.
        let _ = write!(self.out, "\\u{unit:04x}");
    }
}

/// A key as Python writes it: strings as they are, numbers and constants by their JSON form.
fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_string(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number => number(key)?,
        _ => return Err(invalid("tojson: keys must be strings, numbers, true, false or none")),
    })
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() { Ok(value.to_string()) } else { f64::try_from(value.clone()).map(float_repr) }
}

/// The shortest text that reads back as the same number, in the form Python's `repr` gives it: exponents below -4 or
/// from 16 on in scientific notation with at least two digits.
fn float_repr(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{x:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(e) if !(-4..16).contains(&e) => {
            format!("{mantissa}e{}{:02}", if e < 0 { '-' } else { '+' }, e.unsigned_abs())
        }
        _ => {
            let plain = format!("{x}");
            if plain.contains('.') { plain } else { format!("{plain}.0") }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (x, text) in cases {
            assert_eq!(float_repr(x), text);
        }
    }

    #[test]
    fn strings_keep_unicode_and_html() {
        let value = Value::from("é\u{7f}<b>&\"\\\n\u{1}🚀");
        assert_eq!(dumps(&value, &JsonStyle::default()).unwrap(), "\"é\u{7f}<b>&\\\"\\\\\\n\\u0001🚀\"");
        let ascii = JsonStyle { ensure_ascii: true, ..JsonStyle::default() };
        assert_eq!(dumps(&value, &ascii).unwrap(), "\"\\u00e9\\u007f<b>&\\\"\\\\\\n\\u0001\\ud83d\\ude80\"");
    }

    #[test]
    fn indentation_puts_elements_on_lines_but_not_empty_brackets() {
        let value = Value::from_pairs([("a", Value::from(vec![1, 2])), ("b", Value::from_pairs::<_, &str, Value>([]))]);
        let style = JsonStyle { indent: Some("  ".into()), ..JsonStyle::default() };
        assert_eq!(dumps(&value, &style).unwrap(), "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": {}\n}");
        assert_eq!(dumps(&value, &JsonStyle::default()).unwrap(), "{\"a\": [1, 2], \"b\": {}}");
    }
}
