//! `hearth check`.

use super::args::CheckArgs;
use super::print;
use crate::hub::{Hub, needed};
use crate::recipe::{Document, Recipe};
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
                if !args.elsewhere {
                    fetches(document.recipe())?;
                }
            }
            Err(Error::Recipe(found)) => problems.extend(found),
            Err(other) => return Err(other),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Recipe(problems)) }
}

/// Says what a run would fetch, or ask a hub about.
fn fetches(recipe: &Recipe) -> Result<()> {
    let repos = needed(recipe);
    if repos.is_empty() {
        return Ok(());
    }
    let hub = Hub::from_env().map_err(crate::run::Error::from)?;
    for repo in repos {
        let line = match hub.cached(&repo) {
            Some((folder, true)) => format!("is cached in {}", folder.display()),
            Some((folder, false)) => format!("would be completed from {} in {}", hub.endpoint(), folder.display()),
            None => format!("would be fetched from {} into {}", hub.endpoint(), hub.cache().display()),
        };
        print(&format!("  {repo} {line}\n"))?;
    }
    Ok(())
}
