//! JSON lines, strictly: a key given twice is an error, and every error names the key it happened at.
//!
//! The nesting is limited to 128 levels by the parser.

use crate::error::{Error, RecordError, Result};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::path::Path;

/// More of a path says no more about the place, in bytes.
const MAX_KEY: usize = 120;

/// Where a parser stands inside a line, and what it found wrong there in its own words.
///
/// The parsing functions push the key they enter and pop it when they leave without an error, so that after an error
/// the path leads to its place.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    path: RefCell<Vec<Step>>,
    problem: RefCell<Option<Problem>>,
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

#[derive(Debug)]
struct Problem {
    expected: String,
    found: String,
    remedy: String,
}

impl Trail {
    pub(crate) fn enter(&self, key: impl Into<String>) {
        self.path.borrow_mut().push(Step::Key(key.into()));
    }

    pub(crate) fn enter_index(&self, index: usize) {
        self.path.borrow_mut().push(Step::Index(index));
    }

    pub(crate) fn leave(&self) {
        self.path.borrow_mut().pop();
    }

    /// Records what is wrong at the present place, and gives the error to return.
    pub(crate) fn problem<E: de::Error>(
        &self,
        expected: impl Into<String>,
        found: impl Into<String>,
        remedy: &str,
    ) -> E {
        let problem = Problem { expected: expected.into(), found: found.into(), remedy: remedy.to_owned() };
        *self.problem.borrow_mut() = Some(problem);
        E::custom("see the trail")
    }

    /// The key that stands twice.
    pub(crate) fn duplicate<E: de::Error>(&self, key: &str) -> E {
        self.enter(key);
        self.problem("each key once", "the key a second time", "keep one of them")
    }

    fn key(&self) -> String {
        let mut key = String::new();
        for step in self.path.borrow().iter() {
            match step {
                Step::Key(name) if key.is_empty() => key.push_str(name),
                Step::Key(name) => key.extend([".", name]),
                Step::Index(index) => key.extend(["[", &index.to_string(), "]"]),
            }
        }
        if key.len() > MAX_KEY {
            key.truncate(key.floor_char_boundary(MAX_KEY));
            key.push('…');
        }
        key
    }
}

/// Parses one line with `seed`, which marks its way in `trail`; an error names file, line, column and key.
pub(crate) fn parse_with<'de, S: DeserializeSeed<'de>>(
    path: &Path,
    line: u64,
    text: &'de str,
    trail: &Trail,
    seed: S,
) -> Result<S::Value> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = seed.deserialize(&mut parser).and_then(|value| {
        // What follows the value is outside of every key.
        trail.path.borrow_mut().clear();
        parser.end().map(|()| value)
    });
    parsed.map_err(|error| describe(path, line, trail, &error))
}

/// Parses one line as a JSON object.
pub(crate) fn parse_object(path: &Path, line: u64, text: &str) -> Result<Map<String, Value>> {
    let trail = Trail::default();
    match parse_with(path, line, text, &trail, StrictValue(&trail))? {
        Value::Object(map) => Ok(map),
        other => Err(wrong(path, line, "", "one JSON object a line", kind(&other), "")),
    }
}

/// Parses JSON that stands as a text under `key`.
pub(crate) fn parse_value(path: &Path, line: u64, key: &str, text: &str, expected: &str) -> Result<Value> {
    let trail = Trail::default();
    parse_with(path, line, text, &trail, StrictValue(&trail)).map_err(|error| {
        let found = match error {
            Error::Record(record) => {
                format!("a text that is not JSON ({} where {} has to be)", record.found, record.expected)
            }
            other => other.to_string(),
        };
        wrong(path, line, key, expected, found, "")
    })
}

/// An error about the value of a key.
pub(crate) fn wrong(
    path: &Path,
    line: u64,
    key: impl Into<String>,
    expected: impl Into<String>,
    found: impl Into<String>,
    remedy: impl Into<String>,
) -> Error {
    RecordError {
        path: path.to_path_buf(),
        line,
        column: None,
        key: key.into(),
        expected: expected.into(),
        found: found.into(),
        remedy: remedy.into(),
    }
    .into()
}

/// What a JSON value is, in words, with the value where it is short.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() <= 40 => format!("the string {text:?}"),
        Value::String(text) => format!("a string of {} characters", text.chars().count()),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(map) => format!("an object with {} keys", map.len()),
    }
}

fn describe(path: &Path, line: u64, trail: &Trail, error: &serde_json::Error) -> Error {
    // 0 means that the parser knows no place. Only an element of an array has several lines.
    let column = (error.column() > 0).then_some(error.column());
    let line = line + (error.line() as u64).saturating_sub(1);
    let (expected, found, remedy) = match trail.problem.take() {
        Some(problem) => (problem.expected, problem.found, problem.remedy),
        None => {
            let message = error.to_string();
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(head, _)| head);
            let split = message.strip_prefix("invalid ").and_then(|rest| {
                let rest = rest.split_once(": ")?.1;
                rest.rsplit_once(", expected ")
            });
            match split {
                Some((found, expected)) => (expected.to_owned(), found.to_owned(), String::new()),
                None if error.is_eof() => {
                    ("a whole JSON object".into(), "the end of the line".into(), "the line is cut off".into())
                }
                None => ("valid JSON".into(), message.to_owned(), String::new()),
            }
        }
    };
    RecordError { path: path.to_path_buf(), line, column, key: trail.key(), expected, found, remedy }.into()
}

/// A string that borrows from the line where it has no escapes.
#[derive(Debug)]
pub(crate) struct Text<'de>(pub(crate) Cow<'de, str>);

impl<'de> de::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E: de::Error>(self, text: String) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// Reads any JSON value, refusing a key that stands twice in one object.
#[derive(Debug, Clone, Copy)]
struct StrictValue<'t>(&'t Trail);

impl<'de> DeserializeSeed<'de> for StrictValue<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            self.0.enter_index(items.len());
            let Some(item) = list.next_element_seed(self)? else { break };
            self.0.leave();
            items.push(item);
        }
        self.0.leave();
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Text(key)) = object.next_key()? {
            if map.contains_key(key.as_ref()) {
                return Err(self.0.duplicate(&key));
            }
            self.0.enter(key.as_ref());
            let value = object.next_value_seed(self)?;
            self.0.leave();
            map.insert(key.into_owned(), value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn error(text: &str) -> String {
        parse_object(Path::new("f.jsonl"), 7, text).unwrap_err().to_string()
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#"{"b": [1, -2, 2.5, {"x": null}], "a": "\u00e9\n", "c": {}, "d": true}"#;
        let map = parse_object(Path::new("f"), 1, text).unwrap();
        assert_eq!(Value::Object(map.clone()), serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(map.keys().collect::<Vec<_>>(), ["b", "a", "c", "d"]);
    }

    #[test]
    fn errors_name_the_place() {
        assert!(error(r#"{"a": [0, {"k": 1, "k": 2}]}"#).contains(": `a[1].k`: expected each key once"));
        assert!(error(r#"{"a": NaN}"#).contains("f.jsonl:7:7: `a`: expected valid JSON"), "{}", error(r#"{"a": NaN}"#));
        assert!(error(r#"{"a": [1, 2"#).contains("the line is cut off"), "{}", error(r#"{"a": [1, 2"#));
        assert!(error("[1]").contains("expected one JSON object a line, found a list of 1"));
        assert!(error(r#"{"a": 1} x"#).contains("f.jsonl:7:10: expected valid JSON, found trailing characters"));
        assert!(error(r#"{"a": 1e999}"#).contains("number out of range"));
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(200), "]".repeat(200));
        assert!(error(&deep).contains("recursion limit exceeded"));
    }
}
