//! `hearth list` and `hearth docs`: that what they say is all there is, and true.

use std::fs;

use hearth::diagnostics::SourceText;
use hearth::docs::{TypeDoc, find, stages, types};
use hearth::recipe::{Document, StageKind};
use hearth_tests::program::{Program, TinyRun, cpu};
use serde_json::Value;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// The documentation of a stage, which only has fields.
fn stage(name: &str) -> &'static TypeDoc {
    types().iter().find(|found| found.name == name && !found.is_choice).unwrap_or_else(|| panic!("{name}"))
}

/// The resolved settings of a stage with only what is required.
fn defaults(doc: &TypeDoc) -> Value {
    let value = |holds: &str| match holds {
        "Source" => "Model(\"m\")",
        "[Source, …]" => "[Data(\"d\")]",
        "\"text\"" => "\"http://localhost/v1\"",
        other => panic!("{}: no value for {other}", doc.name),
    };
    let required = doc.items.iter().filter(|item| !item.optional && !item.holds.ends_with(" or None"));
    let fields: Vec<String> = required.map(|item| format!("{}: {}", item.name, value(&item.holds))).collect();
    let text = format!("Recipe(name: \"x\", stages: [{}({})])", doc.name, fields.join(", "));
    let document =
        Document::parse(SourceText::new("x", text)).unwrap_or_else(|problem| panic!("{}", problem.message()));
    serde_json::to_value(&document.recipe().stages[0]).unwrap()[&doc.name].clone()
}

/// What the documentation says the default is: the word after "Default".
fn said(doc: &str) -> Option<&str> {
    let rest = doc.split_once("Default ").or(doc.split_once("Default: ")).map(|(_, rest)| rest)?;
    match rest.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => Some(rest.split(' ').next()?.trim_end_matches(['.', ',', ';', ':'])),
    }
}

#[test]
fn every_stage_and_every_field_is_documented() {
    assert_eq!(stages().len(), StageKind::ALL.len());
    for (name, kind) in stages() {
        assert!(!kind.is_empty(), "{name}");
        assert_eq!(find(kind), find(name), "{kind}");
    }
    let mut bare = Vec::new();
    for found in types() {
        assert!(!found.doc.is_empty() && !found.items.is_empty(), "{}", found.name);
        for item in &found.items {
            if item.doc.is_empty() {
                bare.push(format!("{}.{}", found.name, item.name));
            }
        }
    }
    assert!(bare.is_empty(), "not documented: {bare:?}");
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let (mut compared, mut silent) = (0, Vec::new());
    for (name, _) in stages() {
        let doc = stage(name);
        let settings = defaults(doc);
        let fields: Vec<&str> = settings.as_object().unwrap().keys().map(String::as_str).collect();
        let documented: Vec<&str> = doc.items.iter().map(|item| item.name.as_str()).collect();
        assert_eq!(fields, documented, "{name}");
        for item in &doc.items {
            let Some(said) = said(&item.doc) else {
                // A type of settings has its own defaults, and what is required has none.
                let own = types().iter().any(|found| found.name == item.holds && !found.is_choice);
                if item.optional && !own {
                    silent.push(format!("{name}.{}", item.name));
                }
                continue;
            };
            let place = format!("{name}.{}: the documentation says {said}", item.name);
            match &settings[&item.name] {
                Value::Number(number) => {
                    assert_eq!(said.replace(',', "").parse(), Ok(number.as_f64().unwrap()), "{place}")
                }
                Value::Bool(bool) => assert_eq!(said, bool.to_string(), "{place}"),
                Value::String(text) => assert_eq!(said, text, "{place}"),
                // What is decided when it runs is described in words.
                Value::Null => assert!(said.parse::<f64>().is_err() && said.parse::<bool>().is_err(), "{place}"),
                _ => continue,
            }
            compared += 1;
        }
    }
    assert!(silent.is_empty(), "no default is documented: {silent:?}");
    assert!(compared > 80, "{compared}");
}

#[test]
fn docs_prints_it() {
    let all = HEARTH.ok(["docs"]).stdout;
    for (name, kind) in stages() {
        assert!(all.contains(name) && all.contains(kind), "{name}");
        let text = HEARTH.ok(["docs", kind]).stdout;
        assert!(
            stage(name).items.iter().all(|item| text.contains(&format!("  {}: {}", item.name, item.holds))),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
    let lora = HEARTH.ok(["docs", "LoraConfig"]).stdout;
    assert!(lora.contains("rank: whole number\n") && lora.contains("Default 8."), "{lora}");
    assert!(HEARTH.ok(["docs", "sft"]).stdout.contains("model: Source   (required)"));
    let wrong = HEARTH.run(["docs", "LoraConfg"]).expect_code(2);
    assert!(wrong.words().contains("did you mean `LoraConfig`?"), "{}", wrong.stderr);
}

#[test]
fn list_shows_recipes_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (recipes, runs) = (folder.path().join("recipes/deep"), folder.path().join("runs"));
    fs::create_dir_all(&recipes).unwrap();
    let text = fs::read_to_string(hearth_tests::workspace().join("recipes/tiny/glow.ron")).unwrap();
    fs::write(recipes.join("a.ron"), &text).unwrap();
    fs::write(recipes.join("b.ron"), "Recipe(").unwrap();
    let list = |more: &[&str]| {
        let mut command = HEARTH.command(["list"]);
        command.arg(folder.path().join("recipes")).arg("--runs").arg(&runs).args(more);
        hearth_tests::program::Running::of(&mut command).finish().expect_code(0)
    };
    let shown = list(&[]).stdout;
    assert!(
        shown.contains("The stages of recipes/quickstart.ron with next to nothing in each: seconds on a CPU."),
        "{shown}"
    );
    assert!(shown.contains("graph-questions sft merge-lora") && shown.contains("never closed"), "{shown}");
    assert!(shown.contains("no runs in"), "{shown}");

    let run = TinyRun::new(HEARTH, &runs, &cpu());
    run.ok(&["--only", "graph-questions"]);
    fs::create_dir(run.path("stages/02-sft")).unwrap();
    fs::write(run.path("stages/02-sft/started.json"), "{}").unwrap();
    fs::create_dir(runs.join("cache")).unwrap_or_default();
    let found = list(&["--json"]).json();
    assert_eq!(found["recipes"][0]["name"], "tiny-glow");
    assert_eq!(found["recipes"][0]["stages"].as_array().unwrap().len(), 7);
    assert!(found["recipes"][1]["problem"].as_str().unwrap().contains("b.ron:1:7"), "{found}");
    assert_eq!(found["runs"].as_array().unwrap().len(), 1);
    let stages = &found["runs"][0]["stages"];
    let states: Vec<&str> = (0..3).map(|n| stages[n]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["done", "started", "waiting"]);
    assert!(stages[0]["metrics"]["train_records"].as_f64().unwrap() > 0.0);
    let shown = list(&[]).stdout;
    let row = |line: &str| line.contains("graph-questions") && line.split_whitespace().any(|word| word == "done");
    assert!(shown.lines().any(row), "{shown}");
    HEARTH.run(["list", "/nonexistent"]).expect_code(2);
    // Every recipe that ships with Hearth says what it does.
    let shipped = HEARTH.ok(["list", hearth_tests::workspace().join("recipes").to_str().unwrap(), "--json"]).json();
    for recipe in shipped["recipes"].as_array().unwrap() {
        assert!(
            recipe["problem"].is_null() && recipe["about"].as_str().is_some_and(|about| about.len() > 10),
            "{recipe}"
        );
    }
}
