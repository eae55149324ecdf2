//! Runs that are killed, interrupted, or find their files damaged: they go on, and end as if nothing had happened, bit for
//! bit on a CPU device.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use burn::nn::LinearConfig;
use burn::optim::AdamWConfig;
use hearth::train::{Checkpoints, Direction, EarlyStopping, TrainState};
use hearth_tests::program::{Finished, Program, TinyRun, copy_folder, cpu, files};
use hearth_tests::{devices, json, json_lines};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// Test scores, adapter, merged model, vectors, predictors.
const RESULTS: [&str; 8] = [
    "stages/01-graph-questions/train.jsonl",
    "stages/02-sft/adapter/adapter_model.safetensors",
    "stages/03-merge-lora/model/model.safetensors",
    "stages/04-embed/embeddings.safetensors",
    "stages/05-glow-train/best/model.safetensors",
    "stages/05-glow-train/best/predictor.json",
    "stages/05-glow-train/final/model.safetensors",
    "stages/06-glow-eval/scores-best.jsonl",
];
/// The folders with a learner's log.
const LOGS: [&str; 3] = ["stages/02-sft", "stages/05-glow-train/warmup", "stages/05-glow-train"];
/// What a log holds that is a matter of time and place.
const NOT_COMPARED: [&str; 2] = ["tokens_per_second", "memory_mib"];

/// A run with more steps than the recipe's, evaluations that do not fall together with checkpoints, and a best model that
/// changes.
fn tiny(runs: &Path) -> TinyRun {
    [
        "stages.sft.max_steps=10",
        "stages.sft.eval=(every_steps: 3)",
        "stages.glow-train.warmup.steps=10",
        "stages.glow-train.epochs=4",
        "stages.glow-train.select_by=ValLoss",
    ]
    .iter()
    .fold(TinyRun::new(HEARTH, runs, &cpu()), |run, change| run.set(change))
}

/// Everything that must not depend on how often a run was stopped, by file.
type Outcome = BTreeMap<String, Vec<u8>>;

fn outcome(run: &TinyRun) -> Outcome {
    let mut found: Outcome = RESULTS.iter().map(|file| (file.to_string(), run.read(file))).collect();
    for folder in LOGS {
        let rows = json_lines(&run.path(folder).join("metrics.jsonl"));
        assert!(rows.len() > 20, "{folder}: {} rows", rows.len());
        let mut log = String::new();
        for row in rows {
            let value =
                if NOT_COMPARED.iter().any(|name| row["name"] == *name) { "" } else { &row["value"].to_string() };
            log += &format!("{} {} {} {} {value}\n", row["step"], row["epoch"], row["split"], row["name"]);
        }
        found.insert(format!("{folder}/metrics.jsonl"), log.into_bytes());
        let table = String::from_utf8(run.read(&format!("{folder}/metrics.csv"))).unwrap();
        let same = |line: &&str| !NOT_COMPARED.iter().any(|name| line.contains(name));
        found.insert(format!("{folder}/metrics.csv"), table.lines().filter(same).collect::<String>().into_bytes());
    }
    for stage in ["02-sft", "05-glow-train", "06-glow-eval"] {
        let metrics = json(&run.path(&format!("stages/{stage}/manifest.json")))["metrics"].to_string();
        found.insert(format!("{stage}: metrics"), metrics.into_bytes());
    }
    found
}

/// What a run that nobody disturbs comes to, and how long it takes.
static UNDISTURBED: LazyLock<(Outcome, Duration)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path());
    let clock = Instant::now();
    run.ok(&[]);
    (outcome(&run), clock.elapsed())
});

fn assert_undisturbed(run: &TinyRun, what: &str) {
    let found = outcome(run);
    assert_eq!(found.keys().collect::<Vec<_>>(), UNDISTURBED.0.keys().collect::<Vec<_>>());
    for (file, want) in &UNDISTURBED.0 {
        if found[file] != *want {
            let [got, want] = [&found[file], want].map(|bytes| bytes.split(|byte| *byte == b'\n'));
            let line = got.zip(want).enumerate().find(|(_, (got, want))| got != want);
            let show = |(number, (got, want)): (usize, (&[u8], &[u8]))| {
                let [got, want] =
                    [got, want].map(|line| String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned());
                format!("line {}: {got:?}, not {want:?}", number + 1)
            };
            panic!("{what}: {file} is not that of an undisturbed run: {}", line.map_or("its length".into(), show));
        }
    }
}

#[test]
fn killed_at_random_moments() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut kills = 0;
    while kills < 8 {
        let dir = tempfile::tempdir().unwrap();
        let run = tiny(dir.path());
        // Until it gets through between two kills.
        loop {
            let running = run.start();
            std::thread::sleep(UNDISTURBED.1.mul_f64(rng.random_range(0.02..0.8)));
            if !running.kill() {
                break;
            }
            kills += 1;
        }
        run.ok(&[]);
        assert_undisturbed(&run, &format!("{kills} kills"));
    }
}

#[test]
fn killed_at_every_step_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path());
    let mut kills = 0;
    for file in [
        "run.lock",
        "sources/flora/train.jsonl",
        "stages/01-graph-questions/started.json",
        "stages/01-graph-questions/train.jsonl",
        "sources/llm/model.safetensors",
        "stages/02-sft/metrics.jsonl",
        "stages/02-sft/checkpoints/.step-00000002.partial",
        "stages/02-sft/checkpoints/step-00000004",
        "stages/02-sft/adapter/adapter_model.safetensors",
        "stages/02-sft/checkpoints/step-00000010",
        "stages/03-merge-lora/model/model.safetensors",
        "stages/04-embed/started.json",
        "sources/text/model.safetensors",
        "stages/04-embed/index",
        "stages/05-glow-train/started.json",
        "stages/05-glow-train/warmup/checkpoints/step-00000002",
        "stages/05-glow-train/best/model.safetensors",
        "stages/05-glow-train/checkpoints/step-00000004",
        "stages/05-glow-train/final/model.safetensors",
        "stages/06-glow-eval/started.json",
    ] {
        let path = run.path(file);
        if path.exists() {
            // The kill before came a little late.
            continue;
        }
        let mut running = run.start();
        running.wait_for(&path);
        kills += usize::from(running.kill());
    }
    assert!(kills >= 8, "only {kills} kills");
    run.ok(&[]);
    assert_undisturbed(&run, &format!("{kills} kills"));
}

/// The newest checkpoint of a learner.
fn newest(folder: &Path) -> usize {
    let steps = hearth_tests::list(&folder.join("checkpoints")).into_iter().filter_map(|path| {
        path.file_name().unwrap().to_str().unwrap().strip_prefix("step-").map(|step| step.parse().unwrap())
    });
    steps.max().unwrap_or(0)
}

/// Starts a run and sends it a signal while a learner is at work; again in a new folder where that came too late.
#[cfg(unix)]
fn interrupt(learner: &str, signal: rustix::process::Signal) -> (tempfile::TempDir, TinyRun, Finished) {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let run = tiny(dir.path());
        let mut running = run.start();
        assert!(running.wait_for(&run.path(learner).join("checkpoints/step-00000002")));
        running.signal(signal);
        let stopped = running.finish();
        if newest(&run.path(learner)) < 10 {
            return (dir, run, stopped.expect_code(130));
        }
    }
    panic!("{learner} was always done before the signal came");
}

#[cfg(unix)]
#[test]
fn interrupted() {
    use rustix::process::Signal;
    for (stage, learner, signal) in [
        ("2/7 sft", "stages/02-sft", Signal::INT),
        ("5/7 glow-train", "stages/05-glow-train/warmup", Signal::TERM),
        ("5/7 glow-train", "stages/05-glow-train", Signal::INT),
    ] {
        let (_dir, run, stopped) = interrupt(learner, signal);
        assert!(stopped.stderr.contains(&format!("[{stage}] interrupted; everything is saved")), "{}", stopped.stderr);
        assert!(stopped.stdout.is_empty(), "{}", stopped.stdout);

        // The last step that was logged is the one that was saved, and nothing half-written lies about.
        let folder = run.path(learner);
        let saved = newest(&folder);
        assert_eq!(json_lines(&folder.join("metrics.jsonl")).last().unwrap()["step"], saved, "{learner}");
        let hidden = files(&run.folder()).into_iter().find(|file| file.split('/').any(|name| name.starts_with('.')));
        assert_eq!(hidden, None);

        let finished = run.ok(&[]);
        assert!(finished.stderr.contains(&format!("[{stage}] continuing\n")), "{}", finished.stderr);
        assert!(finished.stderr.contains(&format!("continuing at step {saved}/")), "{}", finished.stderr);
        assert_undisturbed(&run, learner);
    }
}

/// Between two learners there is nothing to save, but a run that was told to stop does not begin another stage.
#[cfg(unix)]
#[test]
fn interrupted_outside_of_training() {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let dir = tempfile::tempdir().unwrap();
        let run = tiny(dir.path());
        let mut running = run.start();
        assert!(running.wait_for(&run.path("stages/01-graph-questions/started.json")));
        running.signal(rustix::process::Signal::INT);
        let stopped = running.finish().expect_code(130);
        if stopped.stderr.contains("[2/7 sft] interrupted before it started") {
            assert!(!run.path("stages/02-sft/started.json").exists());
            run.ok(&[]);
            assert_undisturbed(&run, "interrupted while questions were written");
            return;
        }
        assert!(attempts < 5, "{}", stopped.stderr);
    }
}

#[cfg(unix)]
#[test]
fn interrupted_twice() {
    use rustix::process::Signal;
    let dir = tempfile::tempdir().unwrap();
    // One step that takes long: the first signal has to wait for its end.
    let run = [
        "models.llm=Init(Decoder(hidden_size: 256, intermediate_size: 1024, num_hidden_layers: 6))",
        "stages.sft.sequences_per_step=60",
        "stages.sft.max_steps=1",
    ]
    .iter()
    .fold(TinyRun::new(HEARTH, dir.path(), &cpu()), |run, change| run.set(change));
    let mut running = run.start();
    let log = run.path("stages/02-sft/metrics.jsonl");
    assert!(running.wait_for(&log));
    running.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(100));
    assert!(running.is_running(), "the step was too short to tell");
    running.signal(Signal::INT);
    let stopped = running.finish().expect_code(130);
    assert!(!stopped.stderr.contains("interrupted"), "{}", stopped.stderr);
    assert_eq!(fs::read(&log).unwrap(), b"", "it waited for the step");
    run.ok(&["--only", "graph-questions"]);
}

/// A run that is finished but for some stages: these were done, and killed before they could say so.
fn almost_finished(from: &TinyRun, runs: &Path, stages: &[&str]) -> TinyRun {
    let run = tiny(runs);
    copy_folder(&from.folder(), &run.folder());
    for stage in stages {
        fs::remove_file(run.path(&format!("stages/{stage}/manifest.json"))).unwrap();
    }
    run
}

fn truncate(path: &Path) {
    let half = fs::metadata(path).unwrap().len() / 2;
    fs::File::options().write(true).open(path).unwrap().set_len(half).unwrap();
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The steps at which learners said that they continue, by what they are called.
fn continued(finished: &Finished) -> Vec<(String, usize)> {
    let lines = finished.stderr.lines().filter_map(|line| line.split_once("] continuing at step "));
    let one = |(name, step): (&str, &str)| (name[1..].to_string(), step.split('/').next().unwrap().parse().unwrap());
    lines.map(one).collect()
}

#[test]
fn torn_checkpoints_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let whole = tiny(&dir.path().join("whole"));
    whole.ok(&[]);
    let steps = [newest(&whole.path(LOGS[0])), newest(&whole.path(LOGS[1])), newest(&whole.path(LOGS[2]))];
    assert_eq!(steps, [10, 10, 12]);
    let stages = ["02-sft", "05-glow-train"];
    let say = |all: &[(&str, usize)]| all.iter().map(|(name, step)| (name.to_string(), *step)).collect::<Vec<_>>();

    // The newest of each learner is damaged in a way of its own.
    let run = almost_finished(&whole, &dir.path().join("newest"), &stages);
    truncate(&run.path("stages/02-sft/checkpoints/step-00000010/model.bpk"));
    fs::remove_file(run.path("stages/05-glow-train/warmup/checkpoints/step-00000010/optimizer.bpk")).unwrap();
    truncate(&run.path("stages/05-glow-train/checkpoints/step-00000012/state.json"));
    let finished = run.ok(&[]);
    let want = say(&[("2/7 sft", 8), ("5/7 glow-train warm-up", 8), ("5/7 glow-train", 10)]);
    assert_eq!(continued(&finished), want, "{}", finished.stderr);
    for damaged in ["step-00000010: model.bpk is damaged", "step-00000010: ", "step-00000012: state.json"] {
        assert!(finished.stderr.contains(damaged), "{damaged}: {}", finished.stderr);
    }
    assert_undisturbed(&run, "the newest checkpoints are damaged");

    // One has lost a single bit; another learner has nothing left at all.
    let run = almost_finished(&whole, &dir.path().join("all"), &stages);
    flip(&run.path("stages/02-sft/checkpoints/step-00000010/optimizer.bpk"));
    for step in ["step-00000010", "step-00000012"] {
        flip(&run.path("stages/05-glow-train/checkpoints").join(step).join("model.bpk"));
    }
    let finished = run.ok(&[]);
    let want = say(&[("2/7 sft", 8), ("5/7 glow-train warm-up", 10)]);
    assert_eq!(continued(&finished), want, "{}", finished.stderr);
    assert_undisturbed(&run, "all checkpoints are damaged");
}

#[test]
fn leftovers_do_not_disturb() {
    let dir = tempfile::tempdir().unwrap();
    let whole = tiny(&dir.path().join("whole"));
    whole.ok(&[]);
    let run =
        almost_finished(&whole, &dir.path().join("again"), &["02-sft", "03-merge-lora", "04-embed", "05-glow-train"]);
    // Temporary files in every folder, and a checkpoint that was being written.
    let mut folders: Vec<_> =
        files(&run.folder()).iter().map(|f| run.path(f).parent().unwrap().to_path_buf()).collect();
    folders.push(run.path("stages"));
    for folder in folders {
        for name in [".tmp-0a1B2c.partial", ".writing-0a1B2c"] {
            fs::write(folder.join(name), "half of a fi").unwrap();
        }
    }
    let partial = run.path("stages/02-sft/checkpoints/.step-00000010.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("model.bpk"), "half of a mod").unwrap();
    // Logs that are ahead of the newest checkpoint, and end within a line.
    fs::remove_dir_all(run.path("stages/02-sft/checkpoints/step-00000010")).unwrap();
    for file in ["metrics.jsonl", "metrics.csv"] {
        let path = run.path("stages/02-sft").join(file);
        let mut text = fs::read(&path).unwrap();
        text.extend(br#"{"step": 11, "ep"#);
        fs::write(path, text).unwrap();
    }
    let finished = run.ok(&[]);
    assert_eq!(continued(&finished)[0], ("2/7 sft".to_string(), 8), "{}", finished.stderr);
    assert_undisturbed(&run, "leftovers");
}

/// Where a learner went back before a damaged checkpoint, the ones it writes from there on count.
#[test]
fn checkpoints_after_a_damaged_one_are_kept() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = devices().remove(0);
    let device = device.autodiff();
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(dir.path(), 1);
    let model = || LinearConfig::new(3, 2).init(&device);
    let optimizer = || AdamWConfig::new().init();
    let state = |step| TrainState {
        step,
        early_stopping: EarlyStopping::new(Direction::Lowest, None),
        seconds: 0.0,
        stopped: false,
    };
    let step = || checkpoints.load(model(), optimizer()).unwrap().3.map(|state| state.step);
    assert_eq!(step(), None);
    checkpoints.save(&model(), None, &optimizer(), &state(6)).unwrap();
    assert_eq!(step(), Some(6));
    truncate(&dir.path().join("step-00000006/model.bpk"));
    assert_eq!(step(), None);
    for saved in [2, 4] {
        checkpoints.save(&model(), None, &optimizer(), &state(saved)).unwrap();
        assert_eq!(step(), Some(saved));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A learner that its early-stopping rule has ended is not trained further by whoever starts it again.
#[test]
fn stopped_early_stays_stopped() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing improves at such a rate.
    let run = ["stages.glow-train.optim.lr=1e-12", "stages.glow-train.patience=2", "stages.glow-train.epochs=20"]
        .iter()
        .fold(TinyRun::new(HEARTH, dir.path(), &cpu()), |run, change| run.set(change));
    run.ok(&[]);
    let folder = run.path("stages/05-glow-train");
    let metrics = || json(&folder.join("manifest.json"))["metrics"].clone();
    let before = (metrics(), run.read(RESULTS[4]), run.read(RESULTS[6]));
    assert_eq!((&before.0["epochs"], &before.0["best_epoch"]), (&3.0.into(), &1.0.into()));
    assert_eq!(newest(&folder), 9);
    // Once with the checkpoint at which it stopped, once with the one before it.
    for step in [9, 8] {
        fs::remove_file(folder.join("manifest.json")).unwrap();
        if step == 8 {
            fs::remove_dir_all(folder.join("checkpoints/step-00000009")).unwrap();
        }
        let again = run.ok(&[]);
        assert!(continued(&again).contains(&("5/7 glow-train".to_string(), step)), "{}", again.stderr);
        assert_eq!((metrics(), run.read(RESULTS[4]), run.read(RESULTS[6])), before);
    }
}

/// Nobody reads what a run says: it goes on all the same.
#[test]
fn closed_streams_do_not_stop_a_run() {
    let deaf = |run: &TinyRun| {
        let mut command = HEARTH.command(run.arguments(&["--json"]));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        child.wait().unwrap().code()
    };
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(&dir.path().join("run"));
    assert_eq!(deaf(&run), Some(0));
    assert_undisturbed(&run, "closed streams");
    // A run that continues has more to say.
    let again = almost_finished(&run, &dir.path().join("again"), &["02-sft", "05-glow-train"]);
    for checkpoint in ["02-sft/checkpoints/step-00000010", "05-glow-train/checkpoints/step-00000012"] {
        truncate(&again.path("stages").join(checkpoint).join("model.bpk"));
    }
    assert_eq!(deaf(&again), Some(0));
    assert_undisturbed(&again, "closed streams, continued");
    assert_eq!(deaf(&again), Some(0));
}
