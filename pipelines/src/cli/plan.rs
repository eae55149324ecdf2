//! `hearth plan`.

use super::args::PlanArgs;
use super::print;
use super::run::fetch;
use crate::Result;
use crate::plan::{plan as look, table};
use crate::recipe::Document;
use crate::run::Scout;
use std::io::IsTerminal;

/// Prints what a recipe will take.
pub(super) fn plan(args: &PlanArgs) -> Result<()> {
    let document = Document::load(&args.recipe, &args.changes.sets, args.changes.device.as_deref())?;
    let _ = crate::train::watch_for_ctrl_c();
    let scout = Scout::new(document.recipe(), fetch(&document)?)?;
    let found = look(document.recipe(), &scout, !args.no_probe)?;
    if args.json {
        let value = serde_json::to_value(&found).map_err(std::io::Error::other)?;
        return print(&format!("{value:#}\n"));
    }
    print(&table(&found, std::io::stdout().is_terminal()))
}
