//! `hearth run` and `hearth report`.

use super::args::{ReportArgs, RunArgs};
use super::print;
use crate::hub::{Folders, Hub, needed};
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
    let hub = fetch(&document)?;
    let options = RunOptions { only: args.only.clone(), from: args.from.clone(), fresh: args.fresh, hub };
    match execute(document.recipe(), &document.text()?, &options)? {
        RunEnd::Interrupted => Err(Error::Interrupted),
        RunEnd::Finished => show(&[document.recipe().run_dir()], args.json),
    }
}

/// Fetches what the stages read from a hub, and checks the recipe again: now that it is there.
pub(super) fn fetch(document: &Document) -> Result<Folders> {
    if needed(document.recipe()).is_empty() {
        return Ok(Folders::new());
    }
    let hub = Hub::from_env().map_err(crate::run::Error::from)?;
    let folders = hub.fetch_all(document.recipe()).map_err(|error| match error {
        crate::hub::Error::Interrupted => Error::Interrupted,
        other => crate::run::Error::from(other).into(),
    })?;
    document.check_with(&hub.offline())?;
    Ok(folders)
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
