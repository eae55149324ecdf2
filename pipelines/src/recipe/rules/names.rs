//! Names that become folders, and names that have to be unique.

use super::{Place, Report};
use crate::diagnostics::Problem;
use crate::recipe::Stage;

pub(super) fn check(report: &mut Report) {
    let recipe = report.recipe();
    folder_name(report, &Place::of("name"), &recipe.name);
    if recipe.run_dir() == recipe.cache_dir() {
        report.add(&Place::of("name"), "the run and the cache would share a folder");
    }
    if recipe.stages.is_empty() {
        report.add(&Place::of("stages"), "there are no stages");
    }
    for (index, stage) in recipe.stages.iter().enumerate() {
        let place = Place::stage(index).at("name");
        folder_name(report, &place, stage.name());
        if let Some(first) = recipe.stage_index(stage.name()).filter(|first| *first < index) {
            twice(report, &place, stage, first);
        }
    }
    for field in ["models", "data"] {
        repeated_keys(report, field);
    }
    for key in recipe.models.keys() {
        folder_name(report, &Place::of("models").key(key), key);
    }
    for key in recipe.data.keys() {
        let place = Place::of("data").key(key);
        folder_name(report, &place, key);
        if recipe.models.contains_key(key) {
            report.add(&place, format!("`models` has an entry called `{key}` too, and both would share a folder"));
        }
    }
}

fn folder_name(report: &mut Report, place: &Place, name: &str) {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let wrong = if name.is_empty() {
        "is empty".to_owned()
    } else if let Some(bad) = name.chars().find(|c| !safe(*c)) {
        format!("contains {bad:?}")
    } else if name.starts_with(['.', '-']) {
        format!("begins with {:?}", &name[..1])
    } else if name.len() > 100 {
        "is longer than 100 characters".to_owned()
    } else {
        return;
    };
    let problem = report.at(place, format!("the name {name:?} {wrong}"));
    report.push(problem.help("it becomes a folder: use letters, digits, `-`, `_` and `.`"));
}

fn twice(report: &mut Report, place: &Place, stage: &Stage, first: usize) {
    let name = stage.name();
    let problem = report.at(place, format!("two stages are called `{name}`"));
    let problem = problem.label(format!("stage {} already has the name", first + 1));
    report.push(problem.help(format!("give this one another: name: \"{name}-2\"")));
}

/// The map type keeps the last of several entries with one key; the text still has them all.
fn repeated_keys(report: &mut Report, field: &str) {
    let source = report.document.source();
    let Some(map) = report.document.tree().child(field) else { return };
    for (index, entry) in map.value.children.iter().enumerate() {
        if map.value.children[..index].iter().any(|earlier| earlier.key == entry.key) {
            let message = format!("`{field}` has two entries called `{}`", entry.key);
            report.push(Problem::new(source, entry.key_span.clone(), message).label("the second one"));
        }
    }
}
