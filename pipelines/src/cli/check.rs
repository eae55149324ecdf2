//! `hearth check`.

use super::args::CheckArgs;
use super::print;
use crate::recipe::Document;
use crate::{Error, Result};

/// Checks all recipes, and reports what is wrong with any of them.
pub(super) fn check(args: &CheckArgs) -> Result<()> {
    let mut problems = Vec::new();
    for path in &args.recipes {
        let document = Document::changed(path, &args.changes.sets, args.changes.device.as_deref());
        let checked = document.and_then(|document| {
            if args.elsewhere {
                document.check_elsewhere()?
            } else {
                document.check()?
            }
            Ok(document)
        });
        match checked {
            Ok(document) if args.print => print(&format!("{}\n", document.recipe().to_ron()?))?,
            Ok(document) => {
                let stages: Vec<&str> = document.recipe().stage_names().collect();
                print(&format!("{}: ok ({})\n", path.display(), stages.join(", ")))?;
            }
            Err(Error::Recipe(found)) => problems.extend(found),
            Err(other) => return Err(other),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Recipe(problems)) }
}
