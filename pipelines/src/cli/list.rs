//! `hearth list`.

use super::args::ListArgs;
use super::print;
use crate::recipe::{Document, Recipe};
use crate::report::{Align, Manifest, Table};
use crate::run::folder::{find_stage, was_started};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Folders deeper than this are not looked into.
const MAX_DEPTH: usize = 8;

/// A recipe, or why it is none.
#[derive(Serialize)]
struct RecipeEntry {
    path: PathBuf,
    name: Option<String>,
    stages: Vec<String>,
    about: String,
    problem: Option<String>,
}

/// A run and the state of its stages.
#[derive(Serialize)]
struct RunEntry {
    name: String,
    path: PathBuf,
    stages: Vec<StageEntry>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct StageEntry {
    name: String,
    kind: String,
    /// `done`, `started` or `waiting`.
    state: &'static str,
    seconds: Option<f64>,
    metrics: BTreeMap<String, Option<f64>>,
}

/// Prints recipes and runs.
pub(super) fn list(args: &ListArgs) -> Result<()> {
    let mut files = Vec::new();
    if args.folder.is_file() {
        files.push(args.folder.clone());
    } else if let Err(error) = recipes(&args.folder, 0, &mut files) {
        return Err(Error::File { path: args.folder.clone(), reason: format!("cannot be listed: {error}") });
    }
    files.sort();
    let recipes: Vec<RecipeEntry> = files.iter().map(|path| recipe(path)).collect();
    let mut runs: Vec<RunEntry> = std::fs::read_dir(&args.runs)
        .map_or_else(|_| Vec::new(), |entries| entries.flatten().filter_map(|entry| run(&entry.path())).collect());
    runs.sort_by(|a, b| a.name.cmp(&b.name));
    if args.json {
        let all = serde_json::json!({ "recipes": recipes, "runs": runs });
        return print(&format!("{all:#}\n"));
    }
    let boxed = std::io::stdout().is_terminal();
    let left = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Align::Left)).collect::<Vec<_>>();
    let mut text = String::new();
    if recipes.is_empty() {
        text += &format!("no recipes (*.ron) in {}\n", args.folder.display());
    } else {
        let mut table = Table::new(left(&["recipe", "name", "stages", "about"]));
        table.group(recipes.into_iter().map(recipe_row).collect());
        text += &table.render(boxed);
    }
    if runs.is_empty() {
        text += &format!("\nno runs in {}\n", args.runs.display());
    } else {
        let mut columns = left(&["run", "stage", "kind", "state"]);
        columns.push(("seconds".into(), Align::Decimal));
        let mut table = Table::new(columns);
        runs.into_iter().for_each(|run| table.group(run_rows(run)));
        text += &format!("\n{}", table.render(boxed));
    }
    print(&text)
}

fn recipe_row(entry: RecipeEntry) -> Vec<String> {
    let RecipeEntry { path, name, stages, about, problem } = entry;
    let about = problem.map_or(about, |problem| format!("wrong: {problem}"));
    vec![path.display().to_string(), name.unwrap_or_default(), stages.join(" "), about]
}

fn run_rows(entry: RunEntry) -> Vec<Vec<String>> {
    let mut name = entry.name;
    if let Some(problem) = entry.problem {
        return vec![vec![name, String::new(), String::new(), format!("wrong: {problem}")]];
    }
    let row = |stage: StageEntry| {
        let seconds = stage.seconds.map_or(String::new(), |seconds| format!("{seconds:.1}"));
        vec![std::mem::take(&mut name), stage.name, stage.kind, stage.state.to_owned(), seconds]
    };
    entry.stages.into_iter().map(row).collect()
}

/// Collects the recipes below a folder; hidden folders are not looked into, and links not followed.
fn recipes(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() && depth < MAX_DEPTH {
            // One that may not be read is none of ours.
            let _ = recipes(&path, depth + 1, found);
        } else if !kind.is_dir() && path.extension().is_some_and(|extension| extension == "ron") {
            found.push(path);
        }
    }
    Ok(())
}

fn recipe(path: &Path) -> RecipeEntry {
    let entry = RecipeEntry { path: path.to_owned(), name: None, stages: vec![], about: String::new(), problem: None };
    match Document::open(path) {
        Ok(document) => {
            let recipe = document.recipe();
            let stages = recipe.stage_names().map(str::to_owned).collect();
            RecipeEntry { name: Some(recipe.name.clone()), stages, about: about(&document.source().text), ..entry }
        }
        Err(error) => {
            let text = error.to_string();
            RecipeEntry { problem: text.lines().next().map(str::to_owned), ..entry }
        }
    }
}

/// The first sentence of the comment that a recipe opens with, or, without a full stop, its first line.
fn about(text: &str) -> String {
    let comment = text.trim_start().lines().map_while(|line| line.trim().strip_prefix("//"));
    let lines: Vec<&str> = comment.map(str::trim).take_while(|line| !line.is_empty()).collect();
    let joined = lines.join(" ");
    match joined.find(". ") {
        Some(end) => joined[..=end].to_owned(),
        None if joined.ends_with('.') => joined,
        None => lines.first().copied().unwrap_or_default().to_owned(),
    }
}

/// The run in a folder; `None` where there is none.
fn run(path: &Path) -> Option<RunEntry> {
    let text = std::fs::read(path.join("plan.json")).ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    Some(match serde_json::from_slice::<Recipe>(&text) {
        Ok(recipe) => {
            let stages = recipe.stages.iter().map(|stage| stage_entry(path, stage)).collect();
            RunEntry { name, path: path.to_owned(), stages, problem: None }
        }
        Err(error) => {
            let problem = Some(format!("its plan.json is of another version ({error})"));
            RunEntry { name, path: path.to_owned(), stages: Vec::new(), problem }
        }
    })
}

fn stage_entry(run: &Path, stage: &crate::recipe::Stage) -> StageEntry {
    let folder = find_stage(run, stage.name());
    let manifest = folder.as_deref().and_then(|folder| Manifest::read(folder).ok().flatten());
    let state = match (&manifest, &folder) {
        (Some(_), _) => "done",
        (None, Some(folder)) if was_started(folder) => "started",
        _ => "waiting",
    };
    StageEntry {
        name: stage.name().to_owned(),
        kind: stage.kind().to_string(),
        state,
        seconds: manifest.as_ref().map(|manifest| manifest.timings.seconds),
        metrics: manifest.map(|manifest| manifest.metrics).unwrap_or_default(),
    }
}
