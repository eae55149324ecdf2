//! Settings that contradict `parity: true`.

use super::{Place, Report};
use crate::recipe::parity::rewrite;

/// What the recipe leaves open, parity decides; what it says otherwise is a mistake.
pub(super) fn check(report: &mut Report) {
    let mut recipe = report.document.written().clone();
    for change in rewrite(&mut recipe) {
        if report.document.is_written(&change.path) {
            let field = change.path.last().map_or("", String::as_str);
            let message = format!("`{field}` is {}, but `parity: true` stands for {}", change.before, change.after);
            let problem = report.at(&Place(change.path), message);
            report.push(problem.help("leave it out, or leave out `parity: true`"));
        }
    }
}
