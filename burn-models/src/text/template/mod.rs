//! Chat templates: Jinja programs that turn a conversation into the text a model was trained on.
//!
//! Rendered as the `transformers` library renders them (`apply_chat_template`): `trim_blocks` and `lstrip_blocks`,
//! loop controls, Python's methods on strings and dictionaries, `tojson` as `json.dumps(…, ensure_ascii=False)`,
//! `raise_exception`, `strftime_now` (here in UTC), and `{% generation %}` blocks, which only mark a part and print it.

mod json;
mod methods;
mod time;

use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use regex::Regex;
use serde_json::{Map, Value as Json};
use std::io::Write;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest template that is accepted, in bytes.
const MAX_SOURCE: usize = 1 << 20;
/// Instructions that one rendering may execute; the longest real conversations need well under a tenth.
const MAX_STEPS: u64 = 50_000_000;
/// The longest text that one rendering may give, in bytes.
const MAX_OUTPUT: usize = 256 << 20;
/// The deepest nesting of messages, tools and variables.
const MAX_DEPTH: usize = 100;
/// The only template of an environment.
const NAME: &str = "chat_template";

/// Tags of the `generation` extension of `transformers`.
static GENERATION: LazyLock<std::result::Result<Regex, regex::Error>> =
    LazyLock::new(|| Regex::new(r"\{%(-|\+)?\s*(end)?generation\s*(-|\+)?%\}"));

/// A compiled chat template. Cheap to clone.
#[derive(Clone)]
pub struct ChatTemplate {
    source: Arc<str>,
    environment: Arc<Environment<'static>>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("bytes", &self.source.len()).finish_non_exhaustive()
    }
}

/// What a template sees beside the conversation.
#[derive(Debug, Clone, Default)]
pub struct RenderContext<'a> {
    /// End with the words that begin an assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables by name, such as `enable_thinking` or `bos_token`.
    pub variables: Map<String, Json>,
    /// Tool descriptions in the form of JSON schemas; `None` is `none` in the template.
    pub tools: Option<&'a [Json]>,
    /// The moment `strftime_now` tells, in seconds since 1970-01-01 UTC; `None` for the system's clock.
    pub now: Option<i64>,
}

/// The message of `raise_exception`, carried through the template engine.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::Template`] with the line where the template is malformed or uses what is not supported.
    pub fn new(source: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            let problem = format!("{} bytes; at most {MAX_SOURCE} are accepted", source.len());
            return Err(Error::Template { line: 0, problem });
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failure)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(methods::call);
        environment.set_fuel(Some(MAX_STEPS));
        environment.add_filter("tojson", json::tojson);
        environment.add_filter("trim", methods::trim);
        environment.add_test("sequence", methods::is_sequence);
        environment.add_test("iterable", methods::is_iterable);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
            },
        );
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(failure)?;
        Ok(Self { source: source.into(), environment: Arc::new(environment) })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text.
    ///
    /// `messages` are JSON objects with at least `role` and `content`; what the template does with other keys is its
    /// own affair.
    ///
    /// # Errors
    /// [`Error::TemplateRaised`] where the template rejects the conversation, [`Error::Template`] where it fails or
    /// runs over its limits (50 million instructions, 256 MiB of text, 100 levels of nesting).
    pub fn render(&self, messages: &[Map<String, Json>], context: &RenderContext<'_>) -> Result<String> {
        let mut variables = Vec::with_capacity(context.variables.len() + 5);
        for (name, value) in &context.variables {
            variables.push((name.as_str(), template_value(value, 0)?));
        }
        let messages = messages.iter().map(|message| template_object(message, 0)).collect::<Result<Vec<_>>>()?;
        variables.push(("messages", Value::from(messages)));
        let tools = match context.tools {
            Some(tools) => Value::from(tools.iter().map(|tool| template_value(tool, 0)).collect::<Result<Vec<_>>>()?),
            None => Value::from(()),
        };
        variables.push(("tools", tools));
        variables.push(("documents", Value::from(())));
        variables.push(("add_generation_prompt", Value::from(context.add_generation_prompt)));
        let now = context.now.unwrap_or_else(system_clock);
        variables.push((
            "strftime_now",
            Value::from_function(move |format: &str| {
                time::strftime(format, now).map_err(|directive| {
                    minijinja::Error::new(
                        ErrorKind::InvalidOperation,
                        format!("strftime_now: directive `{directive}` is not supported"),
                    )
                })
            }),
        ));
        let template = self.environment.get_template(NAME).map_err(failure)?;
        let mut output = Limited { bytes: Vec::new(), limit: MAX_OUTPUT };
        template.render_captured_to(Value::from_pairs(variables), &mut output).map_err(failure)?;
        String::from_utf8(output.bytes)
            .map_err(|_| Error::Template { line: 0, problem: "the text is not valid UTF-8".into() })
    }
}

/// Seconds since 1970-01-01 UTC.
pub(super) fn system_clock() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// `{% generation %}` marks the assistant's part for other tools and prints it unchanged: so does `{% if true %}`.
fn without_generation_tags(source: &str) -> String {
    let Ok(tags) = GENERATION.as_ref() else { return source.to_string() };
    tags.replace_all(source, |tag: &regex::Captures<'_>| {
        let sign = |i: usize| tag.get(i).map_or("", |m| m.as_str());
        let word = if tag.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {word} {}%}}", sign(1), sign(3))
    })
    .into_owned()
}

fn too_deep() -> Error {
    Error::Chat { problem: format!("messages, tools or variables are nested deeper than {MAX_DEPTH} levels") }
}

fn template_value(value: &Json, depth: usize) -> Result<Value> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    Ok(match value {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (None, Some(u)) => Value::from(u),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => {
            Value::from(items.iter().map(|item| template_value(item, depth + 1)).collect::<Result<Vec<_>>>()?)
        }
        Json::Object(object) => template_object(object, depth)?,
    })
}

fn template_object(object: &Map<String, Json>, depth: usize) -> Result<Value> {
    let pairs = object
        .iter()
        .map(|(key, value)| Ok((key.as_str(), template_value(value, depth + 1)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(Value::from_pairs(pairs))
}

/// A template engine's error in our terms.
fn failure(error: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref::<Raised>() {
            return Error::TemplateRaised { message: message.clone() };
        }
        cause = current.source();
    }
    let problem = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("it did not end within {MAX_STEPS} instructions"),
        (ErrorKind::WriteFailure, _) => format!("its text is longer than {MAX_OUTPUT} bytes"),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    Error::Template { line: error.line().unwrap_or(0), problem }
}

/// A buffer that refuses to grow over its limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Limited {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + data.len() > self.limit {
            return Err(std::io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn render(source: &str, messages: &str) -> Result<String> {
        let messages: Vec<Map<String, Json>> = serde_json::from_str(messages).unwrap();
        ChatTemplate::new(source)?.render(&messages, &RenderContext { now: Some(0), ..RenderContext::default() })
    }

    #[test]
    fn python_values_and_methods() {
        let text = render(
            "{{ messages[0].a }} {{ messages[0].b }} {{ messages[0].c | tojson }} {{ ' x\x1f'.strip() }}|\
             {{- 'a b  c'.split() | join(',') }} {{ 'xyz'[::-1] }} {{ strftime_now('%d %B %Y') }}",
            r#"[{"a": true, "b": null, "c": {"z": 1.0, "a": [1e-7, "é"]}}]"#,
        );
        assert_eq!(text.unwrap(), "True None {\"z\": 1.0, \"a\": [1e-07, \"é\"]} x|a,b,c zyx 01 January 1970");
    }

    #[test]
    fn generation_blocks_print_their_content() {
        let source =
            "{% for m in messages %}\n  {%- generation -%}\n {{ m.content }}\n {%- endgeneration %}.{% endfor %}";
        assert_eq!(render(source, r#"[{"content": "a"}, {"content": "b"}]"#).unwrap(), "a.b.");
    }

    #[test]
    fn a_template_that_raises_gives_its_message() {
        let error = render("{{ raise_exception('only ' ~ 2 ~ ' turns') }}", "[]").unwrap_err();
        assert!(matches!(error, Error::TemplateRaised { message } if message == "only 2 turns"));
    }

    #[test]
    fn malformed_templates_name_the_line() {
        let Err(Error::Template { line, .. }) = ChatTemplate::new("a\n{% for x in y %}\n{{ x }") else {
            panic!("an unclosed expression was accepted")
        };
        assert_eq!(line, 3);
        let missing = render("\n\n{{ messages[0].role }}", "[]").unwrap_err();
        assert!(matches!(missing, Error::Template { line: 3, .. }), "{missing}");
    }

    #[test]
    fn runaway_templates_are_stopped() {
        let loops = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}\
                     {% endfor %}{% endfor %}{% endfor %}";
        assert!(matches!(render(loops, "[]"), Err(Error::Template { .. })));
        let long = "{% set s = 'x' * 1000000 %}{% for a in range(1000) %}{{ s }}{% endfor %}";
        let Err(Error::Template { problem, .. }) = render(long, "[]") else { panic!("the output was not limited") };
        assert!(problem.contains("longer than"), "{problem}");
    }
}
