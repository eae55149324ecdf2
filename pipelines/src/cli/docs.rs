//! `hearth docs`.

use super::args::DocsArgs;
use super::print;
use crate::diagnostics::{Problem, SourceText};
use crate::docs::{find, stages, types};
use crate::{Error, Result};
use std::fmt::Write;

/// The widest text that is easily read.
const WIDTH: usize = 100;

/// Prints the reference of a type, or what there is.
pub(super) fn docs(args: &DocsArgs) -> Result<()> {
    let Some(name) = &args.name else { return print(&overview()) };
    let found = find(name);
    if found.is_empty() {
        let names: Vec<&str> =
            types().iter().map(|found| found.name.as_str()).chain(stages().iter().map(|(_, kind)| *kind)).collect();
        let text = SourceText::new("hearth docs", name.as_str());
        let problem = Problem::new(&text, 0..name.len(), format!("there is no stage or type called `{name}`"));
        return Err(Error::from(problem.accepted(name, names)));
    }
    let width = crossterm::terminal::size().map_or(WIDTH, |(columns, _)| usize::from(columns).clamp(60, WIDTH));
    let texts: Vec<String> = found.into_iter().map(|found| found.render(width)).collect();
    print(&texts.join("\n"))
}

/// Stages and types with a sentence each.
fn overview() -> String {
    let stages = stages();
    let mut text = "A recipe is a Recipe(…) with stages:\n\n".to_owned();
    let summary = |name: &str| types().iter().find(|found| found.name == name).map_or("", |found| found.summary());
    for (stage, kind) in &stages {
        let _ = writeln!(text, "  {stage:<16} {kind:<16} {}", summary(stage));
    }
    text += "\nTypes of their settings:\n\n";
    let is_stage = |name: &str| stages.iter().any(|(stage, _)| *stage == name);
    let mut others: Vec<_> = types().iter().filter(|found| !is_stage(&found.name)).collect();
    others.sort_by_key(|found| &found.name);
    for found in others {
        let _ = writeln!(text, "  {:<16} {}", found.name, found.summary().lines().next().unwrap_or_default());
    }
    text + "\nMore about one: hearth docs Sft\n"
}
