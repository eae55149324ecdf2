//! The tiny recipe from start to end, through the program: what it leaves, what a second run does again and what it does
//! not, and that its results follow from recipe and seed alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use hearth_tests::program::{Program, Running, TinyRun, copy_folder, cpu, device_names, files};
use hearth_tests::{Tensors, json, json_lines, max_abs};
use serde_json::Value;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// The stages of the recipe, in order.
const STAGES: [&str; 7] =
    ["graph-questions", "sft", "merge-lora", "embed", "glow-train", "glow-eval", "graph-question-eval"];

/// What the results of a run are: test scores, adapter, merged model, vectors, predictors.
const RESULTS: [&str; 7] = [
    "stages/02-sft/adapter/adapter_model.safetensors",
    "stages/03-merge-lora/model/model.safetensors",
    "stages/04-embed/embeddings.safetensors",
    "stages/05-glow-train/best/model.safetensors",
    "stages/05-glow-train/final/model.safetensors",
    "stages/06-glow-eval/scores-best.jsonl",
    "stages/07-graph-question-eval/answers.jsonl",
];

fn folder(stage: &str) -> String {
    let number = STAGES.iter().position(|name| *name == stage).unwrap() + 1;
    format!("stages/{number:02}-{stage}")
}

/// A run whose results are a matter of bits.
fn tiny(runs: &Path) -> TinyRun {
    TinyRun::new(HEARTH, runs, &cpu())
}

fn manifest(run: &TinyRun, stage: &str) -> Value {
    json(&run.path(&folder(stage)).join("manifest.json"))
}

/// Every file of some folders with the time of its last change.
fn stamps(run: &TinyRun, folders: &[String]) -> BTreeMap<String, SystemTime> {
    let stamp = |file: String| {
        let changed = fs::metadata(run.path(&file)).unwrap().modified().unwrap();
        (file, changed)
    };
    let all = folders.iter().flat_map(|folder| {
        let found = files(&run.path(folder));
        assert!(!found.is_empty(), "{folder} is empty");
        found.into_iter().map(move |file| format!("{folder}/{file}"))
    });
    all.map(stamp).collect()
}

fn folders(stages: &[&str]) -> Vec<String> {
    stages.iter().map(|stage| folder(stage)).collect()
}

/// What standard error says about a stage.
fn said<'a>(stderr: &'a str, stage: &str) -> Vec<&'a str> {
    let number = STAGES.iter().position(|name| *name == stage).unwrap() + 1;
    let prefix = format!("[{number}/7 {stage}] ");
    stderr.lines().filter_map(|line| line.strip_prefix(&prefix)).collect()
}

/// The first thing that is said about every stage: how it starts.
fn starts(stderr: &str) -> Vec<&str> {
    let word = |stage| match said(stderr, stage).first() {
        Some(line) if line.starts_with("finished before") => "finished before",
        Some(line) if line.starts_with("settings or inputs changed: starting again") => "changed",
        Some(line) if line.starts_with("starting again") => "again",
        Some(line) => line,
        None => "",
    };
    STAGES.into_iter().map(word).collect()
}

#[test]
fn a_run_leaves_its_results_and_a_second_one_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut runs = Vec::new();
    for device in device_names() {
        let run = TinyRun::new(HEARTH, &dir.path().join(&device), &device);
        let first = run.ok(&["--json"]);
        assert_eq!(starts(&first.stderr), ["starting"; 7], "{}", first.stderr);
        assert!(!first.stderr.contains('\u{1b}'), "no terminal, no colours: {}", first.stderr);

        for stage in STAGES {
            let manifest = manifest(&run, stage);
            assert_eq!((&manifest["stage"], &manifest["kind"]), (&Value::from(stage), &Value::from(stage)));
            assert_eq!((&manifest["status"], &manifest["seed"]), (&Value::from("done"), &Value::from(42)));
            assert!(manifest["timings"]["seconds"].as_f64().unwrap() > 0.0, "{stage}");
            assert!(manifest["timings"]["started"].as_f64().unwrap() > 1.7e9, "{stage}");
            let inputs = manifest["inputs"].as_object().unwrap();
            assert!(!inputs.is_empty() && inputs.values().all(|hash| !hash.as_str().unwrap().is_empty()), "{stage}");
            let artefacts = manifest["artefacts"].as_array().unwrap();
            assert!(!artefacts.is_empty(), "{stage}");
            for artefact in artefacts {
                assert!(run.path(&folder(stage)).join(artefact.as_str().unwrap()).exists(), "{stage}: {artefact}");
            }
        }
        for (stage, key, value) in [
            ("sft", "max_steps", 4),
            ("sft", "max_length", 2048),
            ("glow-train", "epochs", 2),
            ("glow-train", "patience", 30),
        ] {
            assert_eq!(manifest(&run, stage)["settings"][key], value, "{stage}: {key}");
        }
        assert_eq!(manifest(&run, "sft")["metrics"]["steps"], 4.0);

        // The report's one object, and that of the run itself.
        let report = HEARTH.ok(["report".as_ref(), run.folder().as_os_str(), "--json".as_ref()]).json();
        assert_eq!(first.json(), report);
        assert_eq!(report.as_object().unwrap().keys().collect::<Vec<_>>(), STAGES);
        let scores = json_lines(&run.path("stages/06-glow-eval/scores-best.jsonl"));
        let (accuracy, majority) = accuracy(&scores);
        let eval = &report["glow-eval"];
        assert_eq!((scores.len(), eval["n_records"].as_f64()), (24, Some(24.0)));
        assert!((eval["accuracy"].as_f64().unwrap() - accuracy).abs() < 1e-12, "{eval}");
        assert!((eval["majority"].as_f64().unwrap() - majority).abs() < 1e-12, "{eval}");
        for file in ["report.json", "metrics.csv", "02-sft/training-curves.svg", "05-glow-train/training-curves.svg"] {
            assert!(run.path("report").join(file).exists(), "{file}");
        }

        // Nothing temporary is left anywhere.
        for file in files(&run.folder()) {
            assert!(!file.split('/').any(|name| name.starts_with('.')), "{file}");
        }
        let kept = ["stages", "sources"].map(String::from);
        let before = stamps(&run, &kept);
        let second = run.ok(&["--json"]);
        assert_eq!(starts(&second.stderr), ["finished before"; 7], "{}", second.stderr);
        assert_eq!(second.stderr.lines().count(), 7, "{}", second.stderr);
        assert_eq!(second.json(), report);
        assert_eq!(stamps(&run, &kept), before);
        assert!(!run.path("replaced").exists());
        runs.push((device, run));
    }
    for pair in runs.windows(2) {
        assert_agree(&pair[0], &pair[1]);
    }
}

/// Two devices compute the same up to rounding. CPU devices draw the same random numbers, so everything is comparable: vectors
/// within 1e-3, scores within 1e-2 and accuracies within two of the 24 records, whose scores may lie at the threshold. Other
/// devices draw their own dropout and first weights: only the vectors of texts, which no stage has trained, are the same.
fn assert_agree((one, a): &(String, TinyRun), (two, b): &(String, TinyRun)) {
    let vectors = [a, b].map(|run| Tensors::open(run.path("stages/04-embed/embeddings.safetensors")));
    let is_cpu = |name: &String| name != "cuda";
    for name in ["text", "llm"].into_iter().take(if is_cpu(one) && is_cpu(two) { 2 } else { 1 }) {
        let [(shape, x), (other, y)] = [0, 1].map(|i: usize| vectors[i].f32(name));
        assert_eq!(shape, other);
        let worst = max_abs(&x, &y);
        assert!(worst < 1e-3, "{name} vectors of {one} and {two} differ by {worst}");
    }
    if is_cpu(one) && is_cpu(two) {
        let [x, y] = [a, b].map(|run| json_lines(&run.path("stages/06-glow-eval/scores-best.jsonl")));
        for (x, y) in x.iter().zip(&y) {
            let difference = x["score"].as_f64().unwrap() - y["score"].as_f64().unwrap();
            assert!(difference.abs() < 1e-2, "{one}: {x}, {two}: {y}");
        }
        let difference = accuracy(&x).0 - accuracy(&y).0;
        assert!(difference.abs() < 2.5 / 24.0, "accuracies of {one} and {two} differ by {difference}");
    }
}

/// Accuracy at 0.5 and the share of the more frequent label.
fn accuracy(scores: &[Value]) -> (f64, f64) {
    let count = |is: &dyn Fn(bool, bool) -> bool| {
        let hit = |row: &&Value| is(row["score"].as_f64().unwrap() > 0.5, row["label"] == 1.0);
        scores.iter().filter(hit).count() as f64 / scores.len() as f64
    };
    let positive = count(&|_, label| label);
    (count(&|predicted, label| predicted == label), positive.max(1.0 - positive))
}

#[test]
fn a_changed_setting_redoes_its_stage_and_those_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path());
    run.ok(&[]);
    let kept = folders(&["graph-questions", "sft", "merge-lora", "embed"]);
    let (before, best, scores) = (stamps(&run, &kept), run.read(RESULTS[3]), run.read(RESULTS[5]));

    let longer = run.clone().set("stages.glow-train.epochs=3");
    let said = longer.ok(&[]);
    let [same, changed] = ["finished before", "changed"];
    assert_eq!(starts(&said.stderr), [same, same, same, same, changed, changed, same], "{}", said.stderr);
    assert_eq!(stamps(&run, &kept), before);
    assert_eq!(manifest(&run, "glow-train")["settings"]["epochs"], 3);
    assert_eq!(manifest(&run, "glow-train")["metrics"]["epochs"], 3.0);
    // What was there before is kept, whole.
    assert_eq!(fs::read_dir(run.path("replaced")).unwrap().count(), 2);
    assert_eq!(json(&run.path("replaced/05-glow-train/manifest.json"))["settings"]["epochs"], 2);
    assert_eq!(run.read("replaced/05-glow-train/best/model.safetensors"), best);
    assert_eq!(run.read("replaced/06-glow-eval/scores-best.jsonl"), scores);

    // When to save has no effect on what comes out.
    let saving = longer.set("stages.sft.checkpoint.keep=3").set("stages.glow-train.checkpoint.every_steps=5");
    assert_eq!(starts(&saving.ok(&[]).stderr), [same; 7]);

    // Back again: the same results as before.
    let back = run.ok(&[]);
    assert_eq!(starts(&back.stderr), [same, same, same, same, changed, changed, same], "{}", back.stderr);
    assert_eq!((run.read(RESULTS[3]), run.read(RESULTS[5])), (best, scores));
    assert_eq!(json(&run.path("replaced/05-glow-train/manifest.json"))["settings"]["epochs"], 3);

    // Inputs count as settings: other data, and everything that comes from it is made again.
    let other = run.clone().set("data.flora=Synthetic(workflows: 8, tasks: 10, train: 40, val: 8, test: 8)").ok(&[]);
    assert_eq!(starts(&other.stderr), [changed; 7], "{}", other.stderr);
    assert_eq!(json_lines(&run.path(RESULTS[5])).len(), 8);
}

/// Files are known by what is in them, not by when they were written.
#[test]
fn changed_data_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path());
    run.ok(&["--only", "graph-questions"]);
    let data = dir.path().join("flora");
    copy_folder(&run.path("sources/flora"), &data);
    let run = run.named("from-files").set(&format!("data.flora=Flora({data:?})"));
    run.ok(&[]);

    let path = data.join("test.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text).unwrap();
    let touched = fs::File::options().write(true).open(&path).unwrap();
    touched.set_modified(SystemTime::now() + std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(starts(&run.ok(&[]).stderr), ["finished before"; 7]);

    let last = text.lines().last().unwrap();
    fs::write(&path, format!("{text}{last}\n")).unwrap();
    assert_eq!(starts(&run.ok(&[]).stderr), ["changed"; 7]);
    assert_eq!(json_lines(&run.path(RESULTS[5])).len(), 25);
}

#[test]
fn a_stage_that_was_only_created_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path());
    run.ok(&[]);
    let best = run.read(RESULTS[3]);
    let longer = run.clone().set("stages.glow-train.epochs=3");
    longer.ok(&[]);
    // As a process leaves it that is killed between making the folder and writing its first file.
    for stage in ["glow-train", "glow-eval"] {
        let folder = run.path(&folder(stage));
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(".tmp-abc.partial"), "{").unwrap();
    }
    let again = longer.ok(&[]);
    assert_eq!(starts(&again.stderr)[4..6], ["starting"; 2], "{}", again.stderr);
    assert_eq!(run.read("replaced/05-glow-train/best/model.safetensors"), best);
}

#[test]
fn only_from_and_fresh_choose_stages() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path());

    // What is read has to be finished, and the message says what is not.
    for (flag, stage, input) in [("--only", "embed", "merge-lora"), ("--from", "glow-eval", "glow-train")] {
        let refused = run.run(&[flag, stage]).expect_code(1);
        let words = refused.words();
        assert!(words.contains(&format!("`{stage}`")) && words.contains(&format!("`{input}`")), "{words}");
        assert!(words.contains("not finished"), "{words}");
        assert!(refused.stdout.is_empty());
        assert!(files(&run.path("stages")).is_empty());
    }
    for arguments in [["--only", "embde"], ["--from", "embde"]] {
        let words = run.run(&arguments).expect_code(2).words();
        assert!(words.contains("embde") && words.contains("embed"), "{words}");
    }
    run.run(&["--only", "sft", "--from", "sft"]).expect_code(2);

    // One by one, then the rest.
    for stage in &STAGES[..2] {
        let one = run.ok(&["--only", stage]);
        let alone: Vec<_> = STAGES.into_iter().map(|name| if name == *stage { "starting" } else { "" }).collect();
        assert_eq!(starts(&one.stderr), alone, "{}", one.stderr);
    }
    let rest = run.ok(&[]);
    let [same, start] = ["finished before", "starting"];
    assert_eq!(starts(&rest.stderr), [same, same, start, start, start, start, start], "{}", rest.stderr);

    // A finished stage is left alone, also when it is asked for, unless it is to be made afresh.
    let everything = ["stages".to_string()];
    let before = stamps(&run, &everything);
    assert_eq!(starts(&run.ok(&["--only", "sft"]).stderr), ["", same, "", "", "", "", ""]);
    assert_eq!(starts(&run.ok(&["--from", "glow-train"]).stderr), ["", "", "", "", same, same, same]);
    assert_eq!(stamps(&run, &everything), before);

    let (best, others) = (
        run.read(RESULTS[3]),
        folders(&["graph-questions", "sft", "merge-lora", "embed", "glow-eval", "graph-question-eval"]),
    );
    let (unchanged, started) = (stamps(&run, &others), manifest(&run, "glow-train")["timings"]["started"].as_f64());
    let fresh = run.ok(&["--only", "glow-train", "--fresh"]);
    assert_eq!(starts(&fresh.stderr), ["", "", "", "", "again", "", ""], "{}", fresh.stderr);
    assert_eq!(stamps(&run, &others), unchanged);
    assert!(manifest(&run, "glow-train")["timings"]["started"].as_f64() > started);
    assert_eq!(run.read(RESULTS[3]), best);
    assert_eq!(run.read("replaced/05-glow-train/best/model.safetensors"), best);

    let unchanged = stamps(&run, &folders(&STAGES[..3]));
    let fresh = run.ok(&["--from", "embed", "--fresh"]);
    assert_eq!(starts(&fresh.stderr), ["", "", "", "again", "again", "again", "again"], "{}", fresh.stderr);
    assert_eq!(stamps(&run, &folders(&STAGES[..3])), unchanged);
    assert_eq!(run.read(RESULTS[3]), best);

    // A changed setting of a stage that is not chosen leaves those after it without input.
    let words = run.clone().set("stages.sft.max_steps=3").run(&["--from", "merge-lora"]).expect_code(1).words();
    assert!(words.contains("`merge-lora`") && words.contains("`sft`"), "{words}");
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path());
    let mut first = run.clone().set("stages.glow-train.epochs=100000").start();
    assert!(first.wait_for(&run.path("stages/02-sft/started.json")));
    let second = run.run(&[]).expect_code(1);
    assert!(second.words().contains("another hearth process is running here"), "{}", second.stderr);
    assert!(second.words().contains(&run.folder().display().to_string()), "{}", second.stderr);
    assert!(second.stdout.is_empty());
    // Another run in the same `runs` folder is nobody's business.
    run.clone().named("other").ok(&["--only", "graph-questions"]);
    assert!(first.is_running());
    // The lock goes with the process that holds it.
    assert!(first.kill());
    run.ok(&[]);
}

#[test]
fn results_follow_from_recipe_and_seed() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let computed = |run: &TinyRun| {
        let metrics = &manifest(run, "embed")["metrics"];
        ["llm", "text"].map(|what| {
            let number = |name: &str| metrics[&format!("{what}_{name}")].as_f64().unwrap();
            (number("computed"), number("rows"))
        })
    };
    // Two at the same time, with one cache.
    let first = tiny(dir.path());
    let twin = first.clone().named("twin");
    let both = [first.start(), twin.start()];
    both.into_iter().for_each(|run| drop(run.finish().expect_code(0)));
    let [(_, llm_rows), (_, text_rows)] = computed(&first);
    assert!(llm_rows > 0.0 && text_rows > 0.0);

    // A new folder beside it: everything is made again but the vectors, which come from the shared cache.
    let second = first.clone().named("second");
    assert_eq!(starts(&second.ok(&[]).stderr), ["starting"; 7]);
    assert_eq!(computed(&second), [(0.0, llm_rows), (0.0, text_rows)]);
    // A new folder elsewhere, in one thread.
    let third = tiny(elsewhere.path());
    let mut command = HEARTH.command(third.arguments(&[]));
    Running::of(command.env("RAYON_NUM_THREADS", "1")).finish().expect_code(0);
    assert_eq!(computed(&third), [(llm_rows, llm_rows), (text_rows, text_rows)]);
    for file in RESULTS {
        assert!(first.read(file) == twin.read(file), "{file} of a run beside it differs");
        assert!(first.read(file) == second.read(file), "{file} of a second run differs");
        assert!(first.read(file) == third.read(file), "{file} of a run in one thread differs");
    }

    let other = third.clone().named("other-seed").set("seed=43");
    other.ok(&[]);
    for file in RESULTS {
        assert!(first.read(file) != other.read(file), "{file} does not depend on the seed");
    }
}
