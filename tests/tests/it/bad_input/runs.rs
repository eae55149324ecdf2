//! Runs whose files are damaged, and training that comes to numbers that are none.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use hearth_tests::json;
use hearth_tests::program::{TinyRun, cpu, files};
use serde_json::json;

use super::bench::{Bench, Case, HEARTH, arguments, change_json, cut, faults, refused, replace};

const TRAINED: &str = "stages/05-glow-train";
const EMBEDDED: &str = "stages/04-embed";

fn predict(bench: &Bench, run: &Path, records: &Path) -> Vec<OsString> {
    arguments![
        "glow",
        "predict",
        "--run",
        run,
        "--input",
        records,
        "--output",
        &bench.output("o.jsonl"),
        "--device",
        &cpu()
    ]
}

/// Predictions with a run that is damaged.
fn damaged(name: &str, words: &[&str], spoil: impl Fn(&Path) + Sync + 'static) -> Case {
    Case::new(name, 1, words, move |bench| {
        let run = bench.copy_run();
        spoil(&run);
        predict(bench, &run, &bench.world.flora().join("test.jsonl"))
    })
}

/// Predictions for records that are damaged.
fn records(name: &str, words: &[&str], content: impl Fn(&str) -> String + Sync + 'static) -> Case {
    Case::new(name, 1, words, move |bench| {
        let good = fs::read_to_string(bench.world.flora().join("test.jsonl")).unwrap();
        predict(bench, &bench.copy_run(), &bench.write("rows.jsonl", content(&good)))
    })
}

#[test]
fn predictions() {
    let predictor = |change: fn(&mut serde_json::Value)| {
        move |run: &Path| change_json(&run.join(TRAINED).join("best/predictor.json"), change)
    };
    refused(vec![
        Case::new("no run", 1, &["in/nowhere", "not a run"], |bench| {
            predict(bench, &bench.input("nowhere"), &bench.world.flora().join("test.jsonl"))
        }),
        damaged("an unfinished run", &["tiny-glow", "no finished stage", "run its recipe first"], |run| {
            fs::remove_file(run.join(TRAINED).join("manifest.json")).unwrap();
        }),
        damaged("a manifest cut off", &["05-glow-train/manifest.json:", "EOF while parsing"], |run| {
            cut(&run.join(TRAINED).join("manifest.json"), 60);
        }),
        damaged("no predictor", &["best/predictor.json", "No such file"], |run| {
            fs::remove_file(run.join(TRAINED).join("best/predictor.json")).unwrap();
        }),
        damaged("a predictor cut off", &["best/predictor.json", "EOF while parsing"], |run| {
            cut(&run.join(TRAINED).join("best/predictor.json"), 30);
        }),
        damaged(
            "absurd width",
            &["best/predictor.json", "`llm_dim`: 1000000000000, but"],
            predictor(|p| p["llm_dim"] = json!(1e12 as u64)),
        ),
        damaged(
            "absurd network",
            &["best/predictor.json", "`model.hidden_dim`: 10000000 is above"],
            predictor(|p| {
                p["model"]["hidden_dim"] = json!(10_000_000);
            }),
        ),
        damaged(
            "another network",
            &["best/predictor.json", "`model.hidden_dim`: 32, but `pred_token`", "has 16"],
            predictor(|p| {
                p["model"]["hidden_dim"] = json!(32);
            }),
        ),
        damaged(
            "no deviation",
            &["best/predictor.json", "`inputs.llm`", "above 0"],
            predictor(|p| {
                let zeros = json!({ "mean": vec![0.0; 32], "deviation": vec![0.0; 32] });
                p["inputs"] = json!({ "llm": zeros, "text": zeros });
            }),
        ),
        damaged("weights cut off", &["best/model.safetensors", "truncated"], |run| {
            cut(&run.join(TRAINED).join("best/model.safetensors"), 7000);
        }),
        damaged("a model that is gone", &["`llm`", "/gone/model", "put it back"], |run| {
            change_json(&run.join(EMBEDDED).join("embed.json"), |info| info["llm"] = json!("/gone/model"));
        }),
        records("cut off", &["rows.jsonl:24:", "the line is cut off"], |good| good[..good.len() - 30].to_string()),
        records("empty", &["rows.jsonl", "no usable record"], |_| String::new()),
        records("a score", &["rows.jsonl:1", "`score`", "rename it"], |good| good.replacen('{', "{\"score\": 1, ", 1)),
        records("a label", &["rows.jsonl:1", "`label`"], |good| {
            good.replacen("\"label\": 1", "\"label\": 7", 1).replacen("\"label\":1", "\"label\":7", 1)
        }),
    ]);
}

#[test]
fn reports() {
    let report = |run: &Path| arguments!["report", run];
    refused(vec![
        Case::new("nothing", 1, &["nothing to show", "in/nowhere", "not a run"], move |bench| {
            report(&bench.input("nowhere"))
        }),
        Case::new("a file", 1, &["nothing to show", "in/file", "not a run"], move |bench| {
            report(&bench.write("file", "x"))
        }),
        Case::new("no stages", 1, &["nothing to show", "/in/run", "no finished stage and no log"], move |bench| {
            fs::create_dir_all(bench.input("run/stages")).unwrap();
            report(&bench.input("run"))
        }),
        Case::new(
            "damaged manifests",
            1,
            &["nothing to show", "05-glow-train/manifest.json:", "EOF while parsing"],
            move |bench| {
                let run = bench.copy_run();
                for file in files(&run) {
                    match file.rsplit('/').next() {
                        Some("manifest.json") => cut(&run.join(file), 40),
                        Some("metrics.jsonl") => fs::write(run.join(file), [0xff; 3000]).unwrap(),
                        _ => {}
                    }
                }
                report(&run)
            },
        ),
    ]);

    // What can be shown is shown, with a note about the rest.
    let bench = Bench::new();
    let run = bench.copy_run();
    let log = run.join(TRAINED).join("metrics.jsonl");
    let lines = fs::read_to_string(&log).unwrap().lines().count();
    cut(&log, fs::metadata(&log).unwrap().len() as usize - 20);
    fs::write(run.join("stages/06-glow-eval/scores-best.jsonl"), "{\"workflow_id\": 1}\n").unwrap();
    replace(&run.join("stages/02-sft/manifest.json"), "\"metrics\": {", "\"metrics\": [");
    let finished = bench.run(&report(&run));
    assert!(faults(&finished, 0, &[]).is_empty(), "{}", finished.stderr);
    let notes = [
        format!("{}:{lines}: the last line is cut off", log.display()),
        "06-glow-eval/scores-best.jsonl:1:".into(),
        "02-sft/manifest.json:".into(),
        "damaged".into(),
    ];
    for note in notes {
        assert!(finished.stdout.contains(&note), "{note}\n{}", finished.stdout);
    }
}

/// The run of a bench's own, with a change.
fn changed(bench: &Bench, change: &str) -> TinyRun {
    TinyRun::new(HEARTH, &bench.output("runs"), &cpu()).set(change)
}

/// A loss that is not a number stops the stage before it reaches the weights, and writes down which records it comes from.
#[test]
fn losses_that_are_not_numbers() {
    let cases: [(&str, &str, &[&str], usize); 3] = [
        ("stages.sft.optim.lr=1e30", "stages/02-sft", &["line "], 1),
        ("stages.glow-train.warmup.optim.lr=1e38", "stages/05-glow-train/warmup", &["workflow "], 4),
        ("stages.glow-train.optim.lr=1e30", "stages/05-glow-train", &["workflow", "task_id "], 4),
    ];
    for (change, folder, words, finished_before) in cases {
        let bench = Bench::new();
        let run = changed(&bench, change);
        let finished = run.run(&[]);
        let list = run.path(folder).join("not-finite-records.json");
        let said =
            ["the loss is NaN", "the step was not applied", &list.display().to_string(), "lower the learning rate"];
        let wrong = faults(&finished, 1, &said.map(String::from));
        assert!(wrong.is_empty(), "{change}: {}\n{}", wrong.join("; "), finished.stderr);
        let list = json(&list);
        let records = list["records"].as_array().unwrap();
        assert!(!records.is_empty() && list["step"].as_u64() >= Some(1), "{list}");
        for word in words {
            assert!(records.iter().all(|record| record.as_str().unwrap().contains(word)), "{change}: {list}");
        }
        let manifests = files(&run.folder()).iter().filter(|file| file.ends_with("/manifest.json")).count();
        assert_eq!(manifests, finished_before, "{change}");
        // The same command comes to the same end, from what was saved before.
        assert!(faults(&run.run(&[]), 1, &["the loss is NaN".into()]).is_empty(), "{change}");
    }
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Shards of the embedding cache with a flipped bit are noticed, made again, and change nothing.
#[test]
fn damaged_caches_are_made_again() {
    let bench = Bench::new();
    let run = TinyRun::new(HEARTH, &bench.output("runs"), &cpu());
    run.ok(&[]);
    let cache = bench.output("runs/cache/embeddings");
    let shards: Vec<PathBuf> =
        files(&cache).into_iter().filter(|f| f.ends_with(".safetensors")).map(|f| cache.join(f)).collect();
    assert_eq!(shards.len(), 2, "one of prompts, one of texts");
    let embeddings = run.read("stages/04-embed/embeddings.safetensors");
    let good: Vec<Vec<u8>> = shards.iter().map(|shard| fs::read(shard).unwrap()).collect();
    shards.iter().for_each(|shard| flip(shard));
    let finished = run.ok(&["--only", "embed", "--fresh"]);
    assert!(faults(&finished, 0, &[]).is_empty(), "{}", finished.stderr);
    for (shard, good) in shards.iter().zip(good) {
        let warning = format!("{}: its checksum does not fit its content", shard.display());
        assert!(finished.words().contains(&warning), "{warning}\n{}", finished.stderr);
        assert!(fs::read(shard).unwrap() == good, "{}", shard.display());
    }
    assert!(run.read("stages/04-embed/embeddings.safetensors") == embeddings);
}

/// A finished stage whose files are damaged is named by the stage that reads them; a damaged manifest is written again.
#[test]
fn damaged_stages() {
    let bench = Bench::new();
    let run = TinyRun::new(HEARTH, &bench.output("runs"), &cpu());
    run.ok(&[]);
    let manifest = run.path("stages/06-glow-eval/manifest.json");
    let before = json(&manifest);
    cut(&manifest, 50);
    let finished = run.ok(&[]);
    assert!(finished.words().contains("06-glow-eval/manifest.json:"), "{}", finished.stderr);
    assert_eq!(json(&manifest)["metrics"], before["metrics"]);

    type Damage = (&'static str, fn(&Path), &'static str, &'static [&'static str]);
    let cases: [Damage; 5] = [
        ("stages/04-embed/index/index.safetensors", flip, "glow-train", &["its checksum does not fit"]),
        ("stages/04-embed/embeddings.safetensors", |path| cut(path, 900), "glow-train", &[]),
        ("stages/04-embed/embeddings.safetensors", flip, "glow-train", &["not those that were written"]),
        ("stages/05-glow-train/best/model.safetensors", |path| cut(path, 900), "glow-eval", &["truncated"]),
        ("stages/02-sft/adapter/adapter_config.json", |path| cut(path, 40), "merge-lora", &["EOF while parsing"]),
    ];
    for (file, spoil, stage, words) in cases {
        let path = run.path(file);
        let good = fs::read(&path).unwrap();
        spoil(&path);
        let finished = run.run(&["--only", stage, "--fresh"]);
        let said: Vec<String> = [file].iter().chain(words).map(|word| word.to_string()).collect();
        let wrong = faults(&finished, 1, &said);
        assert!(wrong.is_empty(), "{file}: {}\n{}", wrong.join("; "), finished.stderr);
        fs::write(&path, good).unwrap();
        run.ok(&[]);
    }
}
