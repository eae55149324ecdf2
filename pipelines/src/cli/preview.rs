//! `hearth preview`.

use super::args::PreviewArgs;
use super::print;
use super::run::fetch;
use crate::preview::{Style, html, preview as look, text};
use crate::recipe::{Document, Stage};
use crate::run::{Error as RunError, Scout};
use crate::{Error, Result};
use std::io::IsTerminal;

/// Shows what a stage will train on.
pub(super) fn preview(args: &PreviewArgs) -> Result<()> {
    let document = Document::load(&args.recipe, &args.changes.sets, args.changes.device.as_deref())?;
    let recipe = document.recipe();
    let is_sft = |index: &usize| matches!(recipe.stages[*index], Stage::Sft(_));
    let stages = || (0..recipe.stages.len()).filter(is_sft);
    let index = match &args.stage {
        Some(name) => document.stage("STAGE", name)?,
        None => stages().next().ok_or_else(|| Error::File {
            path: args.recipe.clone(),
            reason: "no stage of this recipe trains on text: there is no Sft".into(),
        })?,
    };
    if !is_sft(&index) {
        let others: Vec<&str> = stages().map(|index| recipe.stages[index].name()).collect();
        let kind = recipe.stages[index].kind();
        let reason = match others.is_empty() {
            true => format!("a {kind} stage has no text to show"),
            false => format!("a {kind} stage has no text to show; these have: {}", others.join(", ")),
        };
        return Err(Error::File { path: args.recipe.clone(), reason });
    }
    let scout = Scout::new(recipe, fetch(&document)?)?;
    let found = look(recipe, &scout, index, args.samples, args.tokens)?;
    match &args.html {
        Some(path) => {
            datasets::atomic::write_file(path, html(&found).as_bytes()).map_err(RunError::from)?;
            print(&format!("{}\n", path.display()))
        }
        None => print(&text(&found, style(args.plain))),
    }
}

fn style(plain: bool) -> Style {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    let colour = !set("NO_COLOR") && (set("CLICOLOR_FORCE") || std::io::stdout().is_terminal());
    if colour && !plain { Style::Colour } else { Style::Marks }
}
