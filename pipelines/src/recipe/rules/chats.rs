//! Chats to fine-tune on: where they are, and whether their records can be what is said of them.

use std::fs;
use std::path::Path;

use datasets::chat::{ChatFormat, ChatSplit, Registry};

use super::environment::{fetched, missing};
use super::{Place, Report};
use crate::hub::{Hub, Repo};
use crate::recipe::{ChatData, ChatPlace, DataFormat, DataSource, PlaceKind, Source};

/// Nobody repeats data more often.
const MAX_WEIGHT: f64 = 1000.0;

/// What does not depend on files.
pub(super) fn settings(report: &mut Report, place: &Place, data: &ChatData) {
    let given = [data.path.is_some(), !data.sources.is_empty(), data.registry.is_some()];
    match given.into_iter().filter(|given| *given).count() {
        1 => {}
        0 => {
            let problem = report.at(place, "nothing says where these chats are");
            report.push(problem.help("give `path`, `sources`, or `registry` and `name`"));
        }
        _ => {
            report.add(place, "`path`, `sources` and `registry` stand here together: one of them says where chats are")
        }
    }
    match (&data.registry, &data.name) {
        (Some(_), None) => report.add(&place.at("registry"), "`registry` needs the `name` of one of its data sets"),
        (None, Some(_)) => {
            report.add(&place.at("name"), "`name` is that of a data set in a `registry`, and there is none")
        }
        _ => {}
    }
    if data.registry.is_some()
        && *data
            != (ChatData {
                format: ChatFormat::Auto,
                columns: Default::default(),
                tags: Default::default(),
                ..data.clone()
            })
    {
        report.add(place, "the registry says the format, the columns and the tags: leave them out here");
    }
    let known = data.format.columns();
    for (field, _) in data.columns.given() {
        if !known.contains(&field) {
            let message = format!("records of format {} have no column `{field}`", data.format);
            let problem = report.at(&place.at("columns").at(field), message);
            report.push(problem.accepted(field, known.iter().copied()));
        }
    }
    if data.tags != Default::default() && !matches!(data.format, ChatFormat::ShareGpt | ChatFormat::Auto) {
        report.add(&place.at("tags"), format!("`tags` are those of ShareGpt, and the format is {}", data.format));
    }
    if let Some(split) = &data.split {
        let fraction = split.fraction();
        let field = match split {
            ChatSplit::Fraction(_) => "split",
            ChatSplit::Key { .. } => "split.fraction",
        };
        report.number(place, field, fraction, fraction > 0.0 && fraction < 1.0, "above 0 and below 1");
    }
    for (number, part) in data.sources.iter().enumerate() {
        let place = place.at("sources").key(number);
        let weight = part.weight;
        report.number(&place, "weight", weight, weight > 0.0 && weight <= MAX_WEIGHT, "above 0 and at most 1000");
        source(report, &place.at("data"), &part.data);
    }
}

/// What a mixture can take.
fn source(report: &mut Report, place: &Place, source: &Source) {
    let recipe = report.recipe();
    let key = match source {
        Source::Path(_) => return,
        Source::Data(key) => key,
        _ => {
            let problem = report.at(place, format!("{source} cannot be a part of a mixture"));
            return report.push(problem.help("give another entry of `data`, Data(\"…\"), or Path(\"…\")"));
        }
    };
    match recipe.data.get(key) {
        None => {
            let known = recipe.data.keys().map(String::as_str);
            let problem = report.at(place, format!("there is no entry of `data` called `{key}`"));
            report.push(problem.accepted(key, known));
        }
        Some(DataSource::Chat(data)) if !data.sources.is_empty() => {
            report.add(place, format!("`{key}` is a mixture itself: name its parts here"));
        }
        Some(DataSource::Chat(data)) if data.split.is_some() || data.deduplicate => {
            report.add(place, format!("`{key}` has a `split` or `deduplicate`: they belong to the whole mixture"));
        }
        Some(DataSource::Chat(_)) => {}
        Some(DataSource::Hub(hub)) if hub.format == DataFormat::Chat => {}
        Some(_) => report.add(place, format!("`{key}` holds no chats")),
    }
}

/// A path of chats of which nothing more is said.
pub(super) fn path(report: &mut Report, place: &Place, path: &Path) {
    let data = ChatData::of(path);
    for found in data.places(report.recipe()) {
        at_path(report, place, &found, path);
    }
}

/// What is in the files.
pub(super) fn files(report: &mut Report, hub: &Hub, place: &Place, data: &ChatData) {
    for found in data.places(report.recipe()) {
        match found.kind {
            PlaceKind::Path(path) => at_path(report, place, &found, path),
            PlaceKind::Registry(path, name) if path.is_file() => match Registry::open(path) {
                Ok(registry) if !registry.names().any(|known| known == name) => {
                    let message = format!("{} has no data set `{name}`", path.display());
                    let problem = report.at(&place.at("name"), message);
                    report.push(problem.accepted(name, registry.names()));
                }
                Ok(_) => look(report, place, &found, None),
                Err(error) => report.add(&place.at("registry"), error.to_string()),
            },
            PlaceKind::Registry(path, _) => missing(report, &place.at("registry"), path, "file"),
            PlaceKind::Hub(repo) => {
                let folder = fetched(report, place, hub, &Repo::data(repo)).filter(|_| hub.is_offline());
                if let Some(folder) = folder {
                    look(report, place, &found, Some(&folder));
                }
            }
        }
    }
    let held_out = |found: &ChatPlace| {
        matches!(found.kind, PlaceKind::Path(_)) && found.find(None).is_ok_and(|f| f.held_out.is_some())
    };
    if data.split.is_some() && data.places(report.recipe()).iter().any(held_out) {
        let problem = report.at(&place.at("split"), "the folder holds chats out already, in files of their own");
        report.push(problem.help("leave `split` out, or name the file to train on"));
    }
}

fn at_path(report: &mut Report, place: &Place, found: &ChatPlace, path: &Path) {
    if fs::metadata(path).is_err()
        && !datasets::matching(path).is_ok_and(|files| files.iter().all(|file| file.exists()))
    {
        match datasets::matching(path) {
            Err(error @ datasets::Error::Empty { .. }) => report.add(place, error.to_string()),
            _ => missing(report, place, path, "file"),
        }
        return;
    }
    look(report, place, found, None);
}

/// Whether the first records can be read as is said.
fn look(report: &mut Report, place: &Place, found: &ChatPlace, folder: Option<&Path>) {
    let sources = match found.find(folder) {
        Ok(found) => [Some(found.train), found.held_out],
        Err(error) => return report.add(place, error.to_string()),
    };
    for source in sources.into_iter().flatten() {
        match source.look() {
            Ok(Some((format, lacks))) if !lacks.is_empty() => {
                let file = source.files.first().map(|file| file.display().to_string()).unwrap_or_default();
                let names: Vec<String> = lacks.iter().map(|name| format!("`{name}`")).collect();
                let message = format!("the records of {file} have no {}, which {format} needs", names.join(" and no "));
                let problem = report.at(place, message);
                report.push(problem.help("say what the keys are called: columns: (…), or choose another `format`"));
            }
            Ok(_) => {}
            Err(error) => report.add(place, error.to_string()),
        }
    }
}
