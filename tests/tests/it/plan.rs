//! `hearth plan`: counts that are exactly those of the run, and estimates that are not far from what is measured.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hearth_tests::program::{Finished, Program, TinyRun, cpu};
use hearth_tests::{json, json_lines, workspace};
use serde_json::Value;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

fn plan(recipe: &Path, runs: &Path, more: &[&str]) -> Finished {
    let mut command = HEARTH.command(["plan"]);
    command.arg(recipe).args(["--device", &cpu(), "--set", &format!("runs={runs:?}")]).args(more);
    hearth_tests::program::Running::of(&mut command).finish()
}

fn stage<'a>(plan: &'a Value, name: &str) -> &'a Value {
    plan["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == name).unwrap()
}

/// Every metric of a finished stage that the plan has to know before, by the plan's name for it.
fn compare(plan: &Value, run: &TinyRun, name: &str, pairs: &[(&str, &[&str])]) {
    let folder = fs::read_dir(run.path("stages")).unwrap().flatten().map(|e| e.path());
    let folder = folder.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap()[3..] == *name).unwrap();
    let metrics = json(&folder.join("manifest.json"))["metrics"].clone();
    for (planned, measured) in pairs {
        let sum: f64 =
            measured.iter().map(|m| metrics[*m].as_f64().unwrap_or_else(|| panic!("{name}.{m}: {metrics}"))).sum();
        assert_eq!(stage(plan, name)[*planned].as_f64(), Some(sum), "{name}.{planned}");
    }
}

#[test]
fn counts_are_exact_and_estimates_are_near() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = workspace().join("recipes/tiny/glow.ron");
    let planned = plan(&recipe, folder.path(), &["--json"]).expect_code(0).json();
    let run = TinyRun::new(HEARTH, folder.path(), &cpu());
    assert!(!run.folder().exists());
    run.ok(&[]);
    compare(&planned, &run, "graph-questions", &[("records", &["train_records", "test_records"])]);
    compare(
        &planned,
        &run,
        "sft",
        &[
            ("records", &["records"]),
            ("tokens", &["tokens_per_epoch"]),
            ("steps", &["steps"]),
            ("parameters", &["parameters"]),
        ],
    );
    compare(&planned, &run, "glow-train", &[("steps", &["steps"]), ("parameters", &["parameters"])]);
    assert_eq!(stage(&planned, "embed")["records"], 96 + 24 + 24);
    assert_eq!(stage(&planned, "glow-train")["records"], 96);
    assert_eq!(stage(&planned, "glow-eval")["records"], 24);
    // LoRA of rank 2 on the seven linear layers of the one layer (D 32, F 64, q 32, k and v 16).
    let layers = [[32, 32], [32, 16], [32, 16], [32, 32], [32, 64], [32, 64], [64, 32]];
    let adapters: u64 = layers.iter().map(|[i, o]| 2 * (i + o)).sum();
    assert_eq!(stage(&planned, "sft")["trainable"], adapters);
    let manifest = json(&run.path("stages/04-embed/manifest.json"));
    let rows = |name: &str| manifest["metrics"][name].as_f64().unwrap() as u64;
    let notes = stage(&planned, "embed")["notes"].to_string();
    assert!(notes.contains(&format!("{} workflow prompts", rows("llm_rows"))), "{notes}");
    assert!(notes.contains(&format!("and {} texts", rows("text_rows"))), "{notes}");

    // A factor of three in the counts would be seen; a machine that is busy with other tests would not.
    for (name, number) in [("sft", "02"), ("glow-train", "05")] {
        let manifest = json(&run.path(&format!("stages/{number}-{name}/manifest.json")));
        let measured = manifest["timings"]["seconds"].as_f64().unwrap();
        let estimated = stage(&planned, name)["seconds"].as_f64().unwrap();
        assert!(estimated > 0.0 && estimated < 20.0 * measured + 1.0, "{name}: {estimated} s for {measured} s");
    }
    for name in ["graph-questions", "sft", "embed", "glow-train"] {
        let number =
            ["graph-questions", "sft", "merge-lora", "embed", "glow-train"].iter().position(|n| *n == name).unwrap()
                + 1;
        let files = run.path(&format!("stages/{number:02}-{name}"));
        let on_disk: u64 =
            hearth_tests::program::files(&files).iter().map(|f| fs::metadata(files.join(f)).unwrap().len()).sum();
        let estimated = stage(&planned, name)["disk"].as_u64().unwrap();
        // Logs and manifests of a tiny stage are as large as what it trains.
        assert!(
            estimated < 4 * on_disk && on_disk < 4 * estimated + 300_000,
            "{name}: {estimated} for {on_disk} bytes"
        );
    }
}

#[test]
fn judges_are_counted_too() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = workspace().join("recipes/tiny/llm-judge.ron");
    let planned = plan(&recipe, folder.path(), &["--json", "--no-probe"]).expect_code(0).json();
    let text = fs::read_to_string(&recipe).unwrap();
    let name = text.split("name: \"").nth(1).unwrap().split('"').next().unwrap();
    let run = TinyRun::new(HEARTH, folder.path(), &cpu()).of(&recipe).named(name);
    run.ok(&[]);
    for found in planned["stages"].as_array().unwrap() {
        let name = found["stage"].as_str().unwrap();
        match found["kind"].as_str().unwrap() {
            "sft" => compare(
                &planned,
                &run,
                name,
                &[
                    ("records", &["records"]),
                    ("tokens", &["tokens_per_epoch"]),
                    ("steps", &["steps"]),
                    ("parameters", &["parameters"]),
                ],
            ),
            "value-head" => {
                compare(
                    &planned,
                    &run,
                    name,
                    &[("records", &["records"]), ("steps", &["steps"]), ("parameters", &["parameters"])],
                );
            }
            _ => assert!(found["records"].as_u64().unwrap() > 0, "{found}"),
        }
        assert_eq!(found["seconds"].is_null(), found["kind"] != "judge-chats", "{found}");
    }
    let table = plan(&recipe, folder.path(), &["--no-probe"]).expect_code(0).stdout;
    assert!(
        table.contains("are exact; ~ is estimated") && table.contains("no probe: its time is not estimated"),
        "{table}"
    );
    assert!(table.contains("time not estimated"), "{table}");
}

/// A chat recipe whose training takes most of its memory for activations.
fn large(folder: &Path, more: &str) -> std::path::PathBuf {
    let chats = folder.join("chats.jsonl");
    let line = |n: usize| {
        let words: String = (0..120).map(|word| format!("w{} ", (word * 7 + n * 13) % 97)).collect();
        serde_json::json!({"messages": [{"role": "user", "content": words}, {"role": "assistant", "content": words}]})
    };
    fs::write(&chats, (0..16).map(|n| format!("{}\n", line(n))).collect::<String>()).unwrap();
    let recipe = folder.join("r.ron");
    let text = format!(
        "Recipe(name: \"large\", runs: {:?}, models: {{\"llm\": Init(Decoder(hidden_size: 192, intermediate_size: 512, num_hidden_layers: 6))}}, \
         data: {{\"chats\": Chat({chats:?})}}, stages: [Sft(model: Model(\"llm\"), data: Data(\"chats\"), epochs: 1, \
         sequences_per_step: 4, micro_tokens: 4096, max_length: 4096, packing: Packed{more})])",
        folder.join("runs")
    );
    fs::write(&recipe, text).unwrap();
    recipe
}

/// The peak of a process's resident memory in bytes, looked at until it ends.
#[cfg(target_os = "linux")]
fn peak(command: &mut Command) -> u64 {
    let mut child = command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (mut peak, clock) = (0, Instant::now());
    while child.try_wait().unwrap().is_none() {
        assert!(clock.elapsed() < Duration::from_secs(100));
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn memory_and_time_are_near_what_is_measured() {
    for more in [
        "",
        ", recompute: Layers",
        ", dtype: Bf16",
        ", lora: (rank: 4)",
        ", lora: (rank: 4, dropout: 0.0), recompute: Layers",
        ", lora: (rank: 4, dropout: 0.0, targets: Names([\"q_proj\", \"v_proj\"]))",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let recipe = large(folder.path(), more);
        let planned = plan(&recipe, &folder.path().join("elsewhere"), &["--json"]).expect_code(0).json();
        let mut check = HEARTH.command(["preview"]);
        let nothing = peak(check.arg(&recipe));
        let estimated = planned["memory"].as_u64().unwrap() as f64;
        // What the allocator keeps varies from run to run, where other tests run beside this one: of a few the smallest.
        let mut measured = f64::INFINITY;
        for _ in 0..4 {
            let mut run = HEARTH.command(["run", "--fresh"]);
            let all = peak(run.arg(&recipe).args(["--device", &cpu()]));
            measured = measured.min(all.saturating_sub(nothing) as f64);
            println!("{more}: {:.0} MiB estimated, {:.0} measured", estimated / 1048576.0, measured / 1048576.0);
            if measured < 1.15 * estimated {
                break;
            }
        }
        assert!((measured / estimated - 1.0).abs() < 0.15, "{more}: {estimated} for {measured} bytes");

        let log = json_lines(&folder.path().join("runs/large/stages/01-sft/metrics.jsonl"));
        let time = |row: &Value| row["time"].as_f64().unwrap();
        let last = log.iter().map(|row| row["step"].as_u64().unwrap()).max().unwrap();
        let (first, end) = (time(&log[0]), log.iter().map(time).fold(0.0, f64::max));
        let measured = (end - first) / (last - 1) as f64 * last as f64;
        let estimated = planned["stages"][0]["seconds"].as_f64().unwrap();
        println!("{more}: {estimated:.2} s estimated, {measured:.2} s measured");
        // Other tests run beside this one.
        assert!(estimated < 6.0 * measured && measured < 6.0 * estimated, "{more}: {estimated} s for {measured} s");
        assert_eq!(planned["stages"][0]["steps"].as_u64(), Some(last));
    }
}
