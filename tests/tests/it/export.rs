//! `hearth export`: folders that compute what the run's model computes, say where they come from, and are whole or not there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use hearth_tests::program::{Finished, Program, TinyRun, copy_folder, cpu, files};
use hearth_tests::{Tensors, assert_close, json};
use tempfile::TempDir;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// Log-probabilities: absolute.
const ABSOLUTE: f32 = 2e-4;

/// Arguments in pieces of several kinds.
macro_rules! arguments {
    ($($piece:expr),* $(,)?) => {
        vec![$(AsRef::<std::ffi::OsStr>::as_ref($piece).to_os_string()),*]
    };
}

/// A finished run of the tiny recipe, and a place to export to.
struct Place {
    dir: TempDir,
    run: TinyRun,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Steps so large that the adapter makes a difference.
        let run = TinyRun::new(HEARTH, &dir.path().join("runs"), &cpu()).set("stages.sft.optim.lr=0.1");
        run.ok(&[]);
        fs::create_dir(dir.path().join("out")).unwrap();
        Self { dir, run }
    }

    fn base(&self) -> PathBuf {
        self.run.path("sources/llm")
    }

    fn adapter(&self) -> PathBuf {
        self.run.path("stages/02-sft/adapter")
    }

    fn to(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    fn command(&self, source: &Path, to: &Path, more: &[&str]) -> Vec<OsString> {
        let mut all = arguments!["export", source, "--to", to, "--device", &cpu()];
        all.extend(more.iter().map(OsString::from));
        all
    }

    /// Exports to a folder of this name.
    fn export(&self, source: &Path, name: &str, more: &[&str]) -> PathBuf {
        let to = self.to(name);
        HEARTH.ok(self.command(source, &to, more));
        to
    }

    /// The log-probabilities of a few tokens.
    fn score(&self, model: &Path, adapter: Option<&Path>) -> Vec<f32> {
        let rows = self.dir.path().join("rows.jsonl");
        fs::write(&rows, "{\"input_ids\": [5, 300, 7, 41, 9, 1200, 8, 2, 64, 77, 900, 13]}\n").unwrap();
        let mut all = arguments!["score", "--model", model, "--input", &rows, "--output", "-", "--device", &cpu()];
        if let Some(adapter) = adapter {
            all.extend(arguments!["--adapter", adapter]);
        }
        let values = HEARTH.ok(all).json()["logprobs"].as_array().unwrap().clone();
        values[1..].iter().map(|value| value.as_f64().unwrap() as f32).collect()
    }
}

const MERGED: [&str; 7] = [
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

#[test]
fn merged_folders_compute_what_was_trained() {
    let place = Place::new();
    let want = place.score(&place.base(), Some(&place.adapter()));
    let plain = place.score(&place.base(), None);
    assert!(hearth_tests::max_abs(&plain, &want) > 100.0 * ABSOLUTE, "the adapter makes no difference");

    // However it is named, it is the same model.
    let adapter = place.adapter();
    let (stage, merged) = (place.run.path("stages/02-sft"), place.run.path("stages/03-merge-lora"));
    let weights = fs::read(merged.join("model/model.safetensors")).unwrap();
    let sources: [(&str, &Path, &[&str]); 6] = [
        ("run", &place.run.folder(), &[]),
        ("sft", &stage, &[]),
        ("merge", &merged, &[]),
        ("adapter", &adapter, &[]),
        ("base and adapter", &place.base(), &["--adapter", adapter.to_str().unwrap()]),
        ("base and stage", &place.base(), &["--adapter", stage.to_str().unwrap()]),
    ];
    for (name, source, more) in sources {
        let to = place.export(source, name, more);
        assert_eq!(files(&to), MERGED, "{name}");
        assert!(fs::read(to.join("model.safetensors")).unwrap() == weights, "{name}");
        assert_close(name, &place.score(&to, None), &want, ABSOLUTE);
    }
    let alone = place.export(&place.base(), "base", &[]);
    assert_close("the base alone", &place.score(&alone, None), &plain, 1e-6);

    // Other number formats, and shards.
    for (dtype, stored, tolerance) in [("BF16", "BF16", 0.1), ("F16", "F16", 1e-2), ("f32", "F32", ABSOLUTE)] {
        let more = ["--dtype", dtype, "--max-shard-size", "40kB"];
        let to = place.export(&place.run.folder(), &format!("{dtype} in shards"), &more);
        let index = json(&to.join("model.safetensors.index.json"));
        let shards: Vec<String> = files(&to).into_iter().filter(|file| file.ends_with(".safetensors")).collect();
        assert!(shards.len() > 1, "{dtype}: {shards:?}");
        for (name, file) in index["weight_map"].as_object().unwrap() {
            let tensors = Tensors::open(to.join(file.as_str().unwrap()));
            assert!(tensors.names().iter().any(|found| found == name), "{dtype}: {name}");
        }
        let header = fs::read(to.join(&shards[0])).unwrap();
        assert!(String::from_utf8_lossy(&header[..400]).contains(&format!("\"dtype\":\"{stored}\"")), "{dtype}");
        assert_close(dtype, &place.score(&to, None), &want, tolerance);
    }
}

#[test]
fn adapters_alone() {
    let place = Place::new();
    let want = place.score(&place.base(), Some(&place.adapter()));
    for (name, source) in
        [("run", place.run.folder()), ("stage", place.run.path("stages/02-sft")), ("it", place.adapter())]
    {
        let to = place.export(&source, name, &["--kind", "adapter"]);
        assert_eq!(files(&to), ["README.md", "adapter_config.json", "adapter_model.safetensors"], "{name}");
        assert_eq!(place.score(&place.base(), Some(&to)), want, "{name}");
        let (ours, theirs) =
            (json(&to.join("adapter_config.json")), json(&place.adapter().join("adapter_config.json")));
        assert_eq!(ours["base_model_name_or_path"], serde_json::Value::Null, "{name}: the path of a local folder");
        assert_eq!((&ours["r"], &ours["target_modules"]), (&theirs["r"], &theirs["target_modules"]), "{name}");
    }
}

/// The card says what is known, and nothing of the machine.
#[test]
fn model_cards() {
    let place = Place::new();
    let local = place.dir.path().to_str().unwrap().to_string();
    let card = |folder: &Path| fs::read_to_string(folder.join("README.md")).unwrap();
    let merged = card(&place.export(&place.run.folder(), "merged", &[]));
    let adapter = card(&place.export(&place.run.folder(), "adapter", &["--kind", "adapter"]));
    for (name, text) in [("merged", &merged), ("adapter", &adapter)] {
        for word in
            ["# tiny-glow", "| recipe | tiny-glow, seed 42 |", "### Stage sft (sft)", "| steps | 4 |", "# license:"]
        {
            assert!(text.contains(word), "{name}: no {word:?} in\n{text}");
        }
        assert!(text.contains("a fresh model with random weights") && text.contains("\"rank\": 2"), "{name}: {text}");
        assert!(!text.contains(&local) && !text.contains("base_model:"), "{name}: {text}");
    }
    assert!(merged.contains("### Stage merge-lora") && merged.contains("library_name: transformers"), "{merged}");
    assert!(!adapter.contains("### Stage merge-lora") && adapter.contains("library_name: peft"), "{adapter}");

    // A base from a hub is known by its place in the cache.
    let hub = place.dir.path().join("models--org--small/snapshots/0123abcd");
    copy_folder(&place.base(), &hub);
    let adapter = place.adapter();
    let more = ["--adapter", adapter.to_str().unwrap()];
    let known = place.dir.path().join("adapter of its own");
    copy_folder(&adapter, &known);
    let to = place.export(&hub, "from a hub", &["--adapter", known.to_str().unwrap()]);
    let text = card(&to);
    assert!(
        text.contains("base_model: org/small\nbase_model_relation: finetune\n") && text.contains("0123abcd"),
        "{text}"
    );
    assert!(text.contains("was trained on is not known") && !text.contains(&local), "{text}");
    let to = place.export(&hub, "adapter of a hub", &["--kind", "adapter", "--adapter", known.to_str().unwrap()]);
    assert_eq!(json(&to.join("adapter_config.json"))["base_model_name_or_path"], "org/small");
    // What the run says of its own adapter comes first.
    assert!(card(&place.export(&hub, "of the run", &more)).contains("a fresh model with random weights"));
}

#[test]
fn refused_and_nothing_left() {
    let place = Place::new();
    let broken = place.dir.path().join("runs/broken");
    copy_folder(&place.run.folder(), &broken);
    fs::remove_file(broken.join("stages/02-sft/manifest.json")).unwrap();
    fs::remove_file(broken.join("stages/03-merge-lora/manifest.json")).unwrap();
    // An adapter for another base, and one whose base is gone.
    let (other, lost) = (place.dir.path().join("other"), place.dir.path().join("lost"));
    for adapter in [&other, &lost] {
        copy_folder(&place.adapter(), adapter);
    }
    let config = |folder: &Path, key: &str, value: serde_json::Value| {
        let path = folder.join("adapter_config.json");
        let mut config = json(&path);
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    };
    config(&other, "target_modules", serde_json::json!(["q_proj"]));
    config(&lost, "base_model_name_or_path", "/nowhere".into());
    let other_text = other.to_str().unwrap();
    let full = place.export(&place.base(), "full", &[]);
    let before = files(&place.to(""));
    let refused = |what: &str, source: &Path, to: &Path, more: &[&str], code: i32, words: &[&str]| -> Finished {
        let finished = HEARTH.run(place.command(source, to, more)).expect_code(code);
        let said = finished.words();
        for word in words {
            assert!(said.contains(word), "{what}: no {word:?} in {said}");
        }
        assert_eq!(files(&place.to("")), before, "{what}");
        finished
    };
    let (new, run) = (place.to("new"), place.run.folder());
    refused("an unfinished stage", &broken.join("stages/02-sft"), &new, &[], 2, &["not finished", "hearth run"]);
    refused("an unfinished run", &broken, &new, &[], 2, &["`sft` (unfinished)", "has to be finished first"]);
    refused("no decoder", &run.join("stages/05-glow-train"), &new, &[], 2, &["kind glow-train makes no decoder"]);
    refused("no model", &run.join("stages"), &new, &[], 2, &["expected the folder of a run"]);
    refused("nothing", Path::new("nowhere"), &new, &[], 2, &["nowhere", "expected the folder of a run"]);
    refused("unknown kind", &run, &new, &["--kind", "gguf"], 2, &["gguf", "merged, adapter"]);
    refused("no size", &run, &new, &["--max-shard-size", "much"], 2, &["5GB"]);
    refused("no adapter", &place.base(), &new, &["--kind", "adapter"], 2, &["no adapter in it", "--adapter"]);
    refused("an adapter's format", &run, &new, &["--kind", "adapter", "--dtype", "bf16"], 2, &["--dtype"]);
    refused(
        "merged has none",
        &run.join("stages/03-merge-lora"),
        &new,
        &["--kind", "adapter"],
        2,
        &["no adapter in it"],
    );
    refused("two adapters", &place.adapter(), &new, &["--adapter", other_text], 2, &["adapter of its own"]);
    refused("no adapter's folder", &full, &new, &["--adapter", "recipes"], 2, &["adapter_config.json"]);
    let misfit: [&[&str]; 2] = [&["--adapter", other_text], &["--kind", "adapter", "--adapter", other_text]];
    for more in misfit {
        refused("does not fit", &place.base(), &new, more, 1, &["adapter_model.safetensors", "is not used"]);
    }
    refused("the base is gone", &lost, &new, &[], 2, &["base_model_name_or_path", "/nowhere", "--adapter"]);
    refused("it is there", &run, &full, &[], 2, &["there already", "--force"]);
    refused("no model to replace", &run, place.dir.path(), &["--force"], 2, &["no model's folder"]);
    refused("itself", &full, &full, &["--force"], 2, &["read from it"]);
    // With --force a whole model takes the place of another.
    let weights = fs::read(full.join("model.safetensors")).unwrap();
    fs::write(full.join("old.txt"), "x").unwrap();
    place.export(&run, "full", &["--force"]);
    assert_eq!(files(&full), MERGED);
    assert!(fs::read(full.join("model.safetensors")).unwrap() != weights);
}
