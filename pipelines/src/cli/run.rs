//! `hearth run` and `hearth report`.

use super::args::{ReportArgs, RunArgs};
use super::print;
use crate::recipe::Document;
use crate::report::{Options, report};
use crate::run::{RunEnd, RunOptions, execute};
use crate::{Error, Result};
use std::io::IsTerminal;
use std::path::PathBuf;

/// Checks the recipe, runs it, and prints what came out.
pub(super) fn run(args: &RunArgs) -> Result<()> {
    let document = Document::load(&args.recipe, &args.changes.sets, args.changes.device.as_deref())?;
    for (flag, name) in [("--only", &args.only), ("--from", &args.from)] {
        if let Some(name) = name {
            document.stage(flag, name)?;
        }
    }
    // Where a handler is installed already, somebody else decides when to stop.
    let _ = crate::train::watch_for_ctrl_c();
    let options = RunOptions { only: args.only.clone(), from: args.from.clone(), fresh: args.fresh };
    match execute(document.recipe(), &document.text()?, &options)? {
        RunEnd::Interrupted => Err(Error::Interrupted),
        RunEnd::Finished => show(&[document.recipe().run_dir()], args.json),
    }
}

/// Reports on runs.
pub(super) fn report_runs(args: &ReportArgs) -> Result<()> {
    show(&args.runs, args.json)
}

fn show(runs: &[PathBuf], json: bool) -> Result<()> {
    let options = Options { json, boxed: std::io::stdout().is_terminal() };
    let mut out = Vec::new();
    report(runs, options, &mut out, &mut std::io::stderr().lock())?;
    print(&String::from_utf8_lossy(&out))
}
