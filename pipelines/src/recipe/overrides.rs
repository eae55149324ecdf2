//! `--set path=value`: the value is written into the resolved recipe, which is then parsed as strictly as a file.

use std::fmt;
use std::ops::Range;

use super::spans::{Node, is_one_value};
use super::{Recipe, syntax};
use crate::diagnostics::{Problem, SourceText};

/// A value of a recipe that an argument has replaced.
#[derive(Debug, Clone)]
pub(super) struct Override {
    /// The argument.
    source: SourceText,
    /// What it replaced, with stages by number.
    path: Vec<String>,
    /// Where the new value stands in the argument.
    value: Range<usize>,
}

impl Override {
    /// An argument that is the value of a field of the recipe.
    pub(super) fn field(source: SourceText, field: &str) -> Self {
        Self { value: 0..source.text.len(), source, path: vec![field.to_owned()] }
    }

    /// The recipe that the argument `path=value` makes of `recipe`.
    pub(super) fn apply(recipe: &Recipe, argument: &str) -> Result<(Recipe, Self), Problem> {
        let source = SourceText::new("--set", argument);
        let whole = 0..argument.len();
        let Some((target, value)) = argument.split_once('=') else {
            return Err(
                Problem::new(&source, whole, "there is no `=`").help("write path=value, as in stages.sft.epochs=3")
            );
        };
        let text = recipe.to_ron().map_err(|error| Problem::new(&source, whole, error.to_string()))?;
        let (path, slot) = find(recipe, &text, target.trim_end()).map_err(|problem| problem.of(&source))?;
        let here = target.len() + 1..argument.len();
        // The line break ends a comment in the value.
        let fill = |value: &str| SourceText::new("", [&text[..slot.start], value, "\n", &text[slot.end..]].concat());
        let strict = match is_one_value(value) {
            true => syntax::parse(&fill(value)).map_err(|problem| {
                let Range { start, end } = problem.span();
                let inside = slot.start <= start && end <= slot.start + value.len();
                let at = |offset: usize| offset - slot.start + here.start;
                problem.moved(&source, if inside { at(start)..at(end) } else { here.clone() })
            }),
            false => Err(Problem::new(&source, here.clone(), "expected one value after `=`")),
        };
        // A string may be written without its quotes: whatever is no value as it stands is tried as a string.
        let recipe = strict.or_else(|problem| syntax::parse(&fill(&format!("{value:?}"))).map_err(|_| problem))?;
        Ok((recipe, Self { source, path, value: here }))
    }

    /// Whether the argument says what the value at `path` is, or a part of it.
    pub(super) fn writes(&self, path: &[String]) -> bool {
        match path.strip_prefix(self.path.as_slice()) {
            Some(rest) => Node::read(&self.source.text[self.value.clone()]).find(rest).1 == rest.len(),
            None => self.path.starts_with(path),
        }
    }

    /// Where the value at `path` stands in the argument, if the argument has set it.
    pub(super) fn locate(&self, path: &[String]) -> Option<(&SourceText, Range<usize>)> {
        let rest = path.strip_prefix(self.path.as_slice())?;
        let value = &self.source.text[self.value.clone()];
        let span = Node::read(value).find(rest).0.headline(value);
        Some((&self.source, self.value.start + span.start..self.value.start + span.end))
    }
}

/// As on the command line.
impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.source.name, self.source.text)
    }
}

/// A step of a path that leads nowhere.
struct Lost {
    span: Range<usize>,
    message: String,
    found: String,
    accepted: Vec<String>,
}

impl Lost {
    fn of(self, source: &SourceText) -> Problem {
        Problem::new(source, self.span, self.message)
            .label("not found")
            .accepted(&self.found, self.accepted.iter().map(String::as_str))
    }
}

/// The steps to the value that `target` names, and the value's place in the text of the resolved recipe.
fn find(recipe: &Recipe, text: &str, target: &str) -> Result<(Vec<String>, Range<usize>), Lost> {
    let tree = Node::read(text);
    let (mut node, mut path, mut rest) = (&tree, Vec::new(), target);
    loop {
        // A key may contain dots itself: the longest that fits is meant. Stages go by name as well as by number.
        let children = &node.inner().children;
        let names: Vec<&str> = match path.as_slice() {
            [only] if only == "stages" => recipe.stage_names().collect(),
            _ => Vec::new(),
        };
        let keys = names.iter().copied().zip(children).chain(children.iter().map(|child| (child.key.as_str(), child)));
        let fits = |key: &str| rest.strip_prefix(key).is_some_and(|more| more.is_empty() || more.starts_with('.'));
        match keys.clone().filter(|(key, _)| fits(key)).max_by_key(|(key, _)| key.len()) {
            Some((key, child)) => {
                node = &child.value;
                path.push(child.key.clone());
                match rest[key.len()..].strip_prefix('.') {
                    Some(more) => rest = more,
                    None => return Ok((path, node.span.clone())),
                }
            }
            None => {
                let start = target.len() - rest.len();
                let found = rest.split('.').next().unwrap_or(rest).to_owned();
                let parent = target[..start].trim_end_matches('.');
                let message = match (&text[node.span.clone()], children.is_empty()) {
                    ("None", _) => format!("`{parent}` is None: set it as a whole"),
                    (value, true) => format!("`{parent}` is {value}, which has no parts"),
                    _ if parent.is_empty() => format!("a recipe has no `{found}`"),
                    _ => format!("`{parent}` has no `{found}`"),
                };
                let accepted = if names.is_empty() { keys.map(|(key, _)| key).collect() } else { names };
                let accepted = accepted.into_iter().map(str::to_owned).collect();
                return Err(Lost { span: start..start + found.len(), message, found, accepted });
            }
        }
    }
}
