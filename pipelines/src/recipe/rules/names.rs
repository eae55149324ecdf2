//! Names that become folders, and names that have to be unique.

use super::sources::inputs;
use super::{Place, Report};
use crate::diagnostics::Problem;
use crate::hub::{repo_problem, revision_problem};
use crate::recipe::{DataSource, HubModel, InitModel, ModelSource, Source, Stage, TokenizerSource};

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
    hub_names(report);
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

/// Names of repositories on a hub.
fn hub_names(report: &mut Report) {
    let recipe = report.recipe();
    for (key, model) in &recipe.models {
        let place = Place::of("models").key(key);
        let tokenizer = match model {
            ModelSource::Hub(HubModel { repo, revision }) => {
                hub_name(report, &place, repo, revision);
                continue;
            }
            ModelSource::Init(InitModel::Decoder(init)) => &init.tokenizer,
            ModelSource::Init(InitModel::Encoder(init)) => &init.tokenizer,
            ModelSource::Path(_) => continue,
        };
        if let TokenizerSource::Hub(HubModel { repo, revision }) = tokenizer {
            hub_name(report, &place.at("tokenizer"), repo, revision);
        }
    }
    for (key, data) in &recipe.data {
        if let DataSource::Hub(hub) = data {
            hub_name(report, &Place::of("data").key(key), &hub.repo, &hub.revision);
        }
    }
    for (index, stage) in recipe.stages.iter().enumerate() {
        for (place, _, source) in inputs(index, stage) {
            if let Source::Hub(HubModel { repo, revision }) = source {
                hub_name(report, &place, repo, revision);
            }
        }
    }
}

fn hub_name(report: &mut Report, place: &Place, repo: &str, revision: &str) {
    for (name, problem) in [(repo, repo_problem(repo)), (revision, revision_problem(revision))] {
        if let Some(problem) = problem {
            report.add(place, format!("{name:?} {problem}"));
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
