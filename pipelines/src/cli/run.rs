//! `hearth run` and `hearth report`.

use super::args::{ReportArgs, RunArgs};
use crate::recipe::Document;
use crate::report::{Options, report};
use crate::run::{RunEnd, RunOptions, execute};
use crate::{Error, Result};
use std::io::IsTerminal;
use std::path::PathBuf;

/// Checks the recipe, runs it, and prints what came out.
pub(super) fn run(args: &RunArgs) -> Result<()> {
    let mut document = Document::open(&args.recipe)?;
    for argument in &args.changes.sets {
        document.set(argument)?;
    }
    if let Some(device) = &args.changes.device {
        document.set_device(device)?;
    }
    document.check()?;
    let recipe = document.recipe();
    for name in args.only.iter().chain(&args.from) {
        if recipe.stage_index(name).is_none() {
            let names: Vec<&str> = recipe.stage_names().collect();
            let reason = format!("there is no stage `{name}`; its stages are {}", names.join(", "));
            return Err(Error::File { path: args.recipe.clone(), reason });
        }
    }
    // Where a handler is installed already, somebody else decides when to stop.
    let _ = crate::train::watch_for_ctrl_c();
    let options = RunOptions { only: args.only.clone(), from: args.from.clone(), fresh: args.fresh };
    match execute(recipe, &document.source().text, &options)? {
        RunEnd::Interrupted => Err(Error::Interrupted),
        RunEnd::Finished => show(&[recipe.run_dir()], args.json),
    }
}

/// Reports on runs.
pub(super) fn report_runs(args: &ReportArgs) -> Result<()> {
    show(&args.runs, args.json)
}

fn show(runs: &[PathBuf], json: bool) -> Result<()> {
    let options = Options { json, boxed: std::io::stdout().is_terminal() };
    report(runs, options, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())?;
    Ok(())
}
