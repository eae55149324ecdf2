//! Reports of made-up run folders: tables, JSON, figures, and what becomes of damaged files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hearth::eval::{GlowMetrics, ScoredRecord, UtilityOptions, UtilityReport};
use hearth::report::{
    Error, METRICS_CSV, METRICS_JSONL, Manifest, MetricsLog, Options, Row, Split, Status, Timings, precision_csv,
    precision_figure, report, training_curves,
};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

fn manifest(stage: &str, kind: &str, metrics: &[(&str, Option<f64>)]) -> Manifest {
    Manifest {
        stage: stage.into(),
        kind: kind.into(),
        status: Status::Done,
        version: "0.1.0".into(),
        seed: 42,
        settings: json!({}),
        inputs: BTreeMap::from([("data".to_owned(), "00ff".to_owned())]),
        metrics: metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        timings: Timings { seconds: 12.5, started: 1_763_715_600.0 },
        artefacts: vec!["metrics.jsonl".into()],
    }
}

/// Scores of 25 workflows with 8 tasks each; better ones score higher, with exceptions.
fn scores() -> Vec<ScoredRecord> {
    let pairs = (0..25_i64).flat_map(|workflow| (0..8_i64).map(move |task| (workflow, task)));
    pairs
        .map(|(workflow_id, task_id)| {
            let label = f64::from(u8::from((workflow_id * 13 + task_id * 5) % 25 > task_id + 4));
            let score = (0.2 + 0.25 * label + 0.5 * ((workflow_id * 7 + task_id * 3) % 11) as f64 / 11.0).min(1.0);
            ScoredRecord { workflow_id, task_id, label, score }
        })
        .collect()
}

/// A run of two learner stages and an evaluation; returns its folder.
fn run_folder(root: &Path, name: &str, seconds: f64) -> PathBuf {
    let run = root.join(name);
    let stage = |folder: &str| {
        let path = run.join("stages").join(folder);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let sft = stage("1-prefinetune");
    let mut log = MetricsLog::open(&sft, 0).unwrap();
    for step in 1..=1500_u64 {
        let loss = 0.4 + 2.0 / (1.0 + step as f64 / 60.0) + 0.2 * ((step * 7919 % 97) as f64 / 97.0 - 0.5);
        log.push(step, Some(step as f64 / 500.0), Split::Train, "loss", loss).unwrap();
        log.push(step, None, Split::Train, "lr", 5e-5 * (1.0 - step as f64 / 1500.0)).unwrap();
        log.push(step, None, Split::Train, "tokens_per_second", 18_000.0 + (step % 13) as f64 * 90.0).unwrap();
        if step % 250 == 0 {
            log.push(step, None, Split::Valid, "loss", 0.55 + 2.0 / (1.0 + step as f64 / 55.0)).unwrap();
            log.push(step, None, Split::Valid, "token_accuracy", 1.0 - 0.7 / (1.0 + step as f64 / 300.0)).unwrap();
        }
    }
    log.flush().unwrap();
    let mut sft_manifest = manifest("prefinetune", "sft", &[("loss", Some(0.4123)), ("lr", Some(0.0))]);
    sft_manifest.timings.seconds = seconds;
    sft_manifest.write(&sft).unwrap();

    let mut warmup = MetricsLog::open(&stage("3-glow-train/warmup"), 0).unwrap();
    let mut log = MetricsLog::open(&stage("3-glow-train"), 0).unwrap();
    for step in 1..=60_u64 {
        warmup.push(step, None, Split::Train, "node_loss", 1.0 / step as f64).unwrap();
        log.push(step, None, Split::Train, "loss", 0.7 - step as f64 / 200.0).unwrap();
        if step % 6 == 0 {
            log.push(step, None, Split::Valid, "accuracy", 0.5 + step as f64 / 150.0).unwrap();
        }
    }
    drop((warmup, log));
    manifest("glow-train", "glow-train", &[("steps", Some(60.0))]).write(&stage("3-glow-train")).unwrap();

    let eval = stage("10-glow-eval");
    let records = scores();
    let lines = records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n");
    fs::write(eval.join("scores-best.jsonl"), lines.collect::<String>()).unwrap();
    let metrics = GlowMetrics::compute(&records, 0.5, &UtilityOptions::default()).unwrap();
    let mut eval_manifest = manifest("glow-eval", "glow-eval", &[]);
    eval_manifest.metrics = metrics.flat();
    eval_manifest.settings =
        json!({"threshold": 0.5, "utility": {"min_records": 3, "points": 100}, "plots": true, "batch_size": 512});
    eval_manifest.write(&eval).unwrap();

    let embed = stage("2-embed");
    manifest("embed", "embed", &[("texts", Some(120.0)), ("undefined", None)]).write(&embed).unwrap();
    run
}

/// What a report prints to standard output and beside it.
fn reported(runs: &[PathBuf], options: Options) -> (String, String) {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    report(runs, options, &mut out, &mut notes).unwrap();
    (String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap())
}

const JSON: Options = Options { json: true, boxed: false };

// ---- tables and JSON ----

#[test]
fn json_is_one_object_of_stages_and_metrics() {
    let root = tempdir().unwrap();
    let run = run_folder(root.path(), "quick", 70.0);
    let (out, notes) = reported(std::slice::from_ref(&run), JSON);
    assert_eq!(notes, "");
    let object: Value = serde_json::from_str(&out).unwrap();
    let stages: Vec<&String> = object.as_object().unwrap().keys().collect();
    assert_eq!(stages, ["prefinetune", "embed", "glow-train", "glow-eval"], "in the order of the numbers, 10 after 2");
    let eval = &object["glow-eval"];
    assert!(eval["accuracy"].is_f64() && eval["majority"].is_f64() && eval["utility"].is_f64(), "{eval}");
    assert_eq!(object["prefinetune"]["seconds"], json!(70.0));
    assert_eq!(object["embed"]["undefined"], Value::Null);
    for metrics in object.as_object().unwrap().values() {
        assert!(metrics.as_object().unwrap().values().all(|value| value.is_number() || value.is_null()), "{metrics}");
    }
    let written: Value = serde_json::from_slice(&fs::read(run.join("report/report.json")).unwrap()).unwrap();
    assert_eq!(written, object);
    assert_eq!(reported(std::slice::from_ref(&run), JSON).0, out, "a report does not change the next one");

    let other = run_folder(root.path(), "other", 90.0);
    let (out, _) = reported(&[run, other], JSON);
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object["other"]["prefinetune"]["seconds"], json!(90.0));
    assert_eq!(object["quick"]["glow-eval"]["accuracy"], written["glow-eval"]["accuracy"]);
}

#[test]
fn one_run_prints_its_stages_and_metrics() {
    let root = tempdir().unwrap();
    let run = run_folder(root.path(), "quick", 70.0);
    let (out, _) = reported(std::slice::from_ref(&run), Options::default());
    let line =
        |start: &str| out.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {out}"));
    assert_eq!(
        line("prefinetune  done").split_whitespace().collect::<Vec<_>>(),
        ["prefinetune", "done", "1", "m", "10", "s", "1500"]
    );
    assert!(out.contains("undefined             -\n"), "{out}");
    assert!(out.is_ascii(), "no box characters in a file: {out}");
    let (boxed, _) = reported(std::slice::from_ref(&run), Options { json: false, boxed: true });
    assert!(boxed.contains("│ prefinetune │ done") && boxed.contains("├─"), "{boxed}");

    let table = fs::read_to_string(run.join("report/metrics.csv")).unwrap();
    assert!(
        table.starts_with("stage,kind,metric,value\nprefinetune,sft,loss,0.4123\nprefinetune,sft,lr,0.0\n"),
        "{table}"
    );
    assert!(
        table.contains("\nembed,embed,undefined,\n") && table.contains("\nglow-eval,glow-eval,accuracy,0."),
        "{table}"
    );
}

#[test]
fn several_runs_stand_side_by_side() {
    let root = tempdir().unwrap();
    let runs = [run_folder(root.path(), "first", 70.0), run_folder(root.path(), "second", 90.25)];
    fs::remove_dir_all(runs[1].join("stages/2-embed")).unwrap();
    let (out, _) = reported(&runs, Options::default());
    let cells = |start: &str| -> Vec<String> {
        let line =
            out.lines().find(|line| line.trim_start().starts_with(start)).unwrap_or_else(|| panic!("{start}: {out}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(cells("stage"), ["stage", "metric", "first", "second"]);
    assert_eq!(cells("seconds"), ["seconds", "70", "90.2500"]);
    assert_eq!(cells("texts"), ["texts", "120", "-"]);
    assert!(runs.iter().all(|run| run.join("report/report.json").is_file()));

    // Two runs of one name are told apart by their folders.
    let elsewhere = run_folder(&root.path().join("more"), "first", 1.0);
    let (out, _) = reported(&[runs[0].clone(), elsewhere.clone()], JSON);
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object[elsewhere.display().to_string()]["prefinetune"]["seconds"], json!(1.0));
}

// ---- figures ----

/// Tags in balance, attributes quoted, text escaped: enough of XML for what a plot library can get wrong.
fn assert_xml(svg: &str) {
    let mut open = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        assert!(!text.contains('>'), "{text}");
        let entities = text
            .split('&')
            .skip(1)
            .all(|part| ["lt;", "gt;", "amp;", "quot;", "apos;"].iter().any(|e| part.starts_with(e)));
        assert!(entities && !text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        let end = start + rest[start..].find('>').unwrap();
        let tag = &rest[start + 1..end];
        assert!(tag.matches('"').count().is_multiple_of(2) && !tag.contains('<'), "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && svg.starts_with("<svg ") && svg.contains("viewBox"), "{open:?}");
}

/// The contents of all text elements.
fn texts(svg: &str) -> Vec<&str> {
    svg.split("<text ")
        .skip(1)
        .map(|part| part[part.find('>').unwrap() + 1..part.find("</text>").unwrap()].trim())
        .collect()
}

#[test]
fn a_report_draws_every_learner_and_every_evaluation() {
    let root = tempdir().unwrap();
    let run = run_folder(root.path(), "quick", 70.0);
    let (_, notes) = reported(std::slice::from_ref(&run), JSON);
    assert_eq!(notes, "");

    let curves = fs::read_to_string(run.join("report/1-prefinetune/training-curves.svg")).unwrap();
    assert_xml(&curves);
    let titles: Vec<&str> = texts(&curves).into_iter().filter(|text| text.starts_with("prefinetune:")).collect();
    assert_eq!(
        titles,
        [
            "prefinetune: loss",
            "prefinetune: token accuracy",
            "prefinetune: learning rate",
            "prefinetune: tokens per second"
        ]
    );
    for text in
        ["loss", "token accuracy (share)", "tokens per second (1/s)", "learning rate", "optimizer step", "validation"]
    {
        assert!(texts(&curves).contains(&text), "{text}: {:?}", texts(&curves));
    }
    assert!(texts(&curves).contains(&"training (means of 4 steps)"), "1500 points are thinned: {:?}", texts(&curves));
    let warmup = fs::read_to_string(run.join("report/3-glow-train/training-curves-warmup.svg")).unwrap();
    assert_xml(&warmup);
    assert!(texts(&warmup).contains(&"glow-train warmup: node loss"), "{:?}", texts(&warmup));
    assert!(run.join("report/3-glow-train/training-curves.svg").is_file());
    assert!(!run.join("report/2-embed").exists() && !run.join("report/10-glow-eval/training-curves.svg").exists());

    let figure = fs::read_to_string(run.join("report/10-glow-eval/precision-at-k-best.svg")).unwrap();
    assert_xml(&figure);
    let utility = GlowMetrics::compute(&scores(), 0.5, &UtilityOptions::default()).unwrap().utility.unwrap();
    let found = texts(&figure);
    for text in ["Precision@K", "k", "precision", "1", "11", "21", "truth (utility 1.00)"] {
        assert!(found.contains(&text), "{text}: {found:?}");
    }
    assert!(found.contains(&format!("prediction (utility {utility:.2})").as_str()), "{found:?}");

    let table = fs::read_to_string(run.join("report/10-glow-eval/precision-at-k-best.csv")).unwrap();
    assert!(table.starts_with("k,utility,utility_exact,utility_score\n1,"), "{table}");
    assert_eq!(table.lines().count(), 26);
    assert!(table.ends_with("25,1.0,1.0,1.0\n"), "{table}");
}

#[test]
fn plots_can_be_left_out() {
    let root = tempdir().unwrap();
    let run = run_folder(root.path(), "quick", 1.0);
    replace(&run.join("stages/10-glow-eval/manifest.json"), "\"plots\": true", "\"plots\": false");
    reported(std::slice::from_ref(&run), JSON);
    let files = run.join("report/10-glow-eval");
    assert!(files.join("precision-at-k-best.csv").exists() && !files.join("precision-at-k-best.svg").exists());
}

#[test]
fn figures_survive_hostile_names_and_thin_data() {
    let row = |step, split, name: &str, value| Row { step, epoch: None, split, name: name.into(), value, time: 0.0 };
    assert!(training_curves("empty", &[]).unwrap().is_none());
    assert!(training_curves("nan", &[row(1, Split::Train, "loss", None)]).unwrap().is_none());
    let rows = [
        row(5, Split::Train, "loss", Some(0.7)),
        row(5, Split::Valid, "<b>\"&'\u{1b}\u{0}loss", Some(-1e300)),
        row(6, Split::Valid, "<b>\"&'\u{1b}\u{0}loss", Some(1e300)),
        row(u64::MAX, Split::Train, "huge_step", Some(1e-300)),
        row(0, Split::Train, "constant_mib", Some(0.0)),
        row(9, Split::Train, "constant_mib", Some(0.0)),
    ];
    let svg = training_curves("a<stage>", &rows).unwrap().unwrap();
    assert_xml(&svg);
    assert!(
        texts(&svg).contains(&"a&lt;stage&gt;: loss") && texts(&svg).contains(&"constant (MiB)"),
        "{:?}",
        texts(&svg)
    );

    // Twice the same step, before and after an interruption: the later one counts.
    let twice = [
        row(1, Split::Train, "loss", Some(9.0)),
        row(1, Split::Train, "loss", Some(0.5)),
        row(2, Split::Train, "loss", Some(0.4)),
    ];
    let once = training_curves("s", &twice[1..]).unwrap();
    assert_eq!(training_curves("s", &twice).unwrap(), once);
}

#[test]
fn precision_figures_have_room_for_their_ticks() {
    for workflows in [2, 11, 40, 151, 1338, 20_000_i64] {
        let records: Vec<ScoredRecord> = (0..3 * workflows)
            .map(|i| ScoredRecord {
                workflow_id: i / 3,
                task_id: i % 3,
                label: (i % 2) as f64,
                score: (i % 7) as f64 / 7.0,
            })
            .collect();
        let report =
            UtilityReport::compute(&records, 0.5, &UtilityOptions { tie_draws: 1, ..UtilityOptions::default() })
                .unwrap();
        let svg = precision_figure(&report).unwrap().unwrap();
        assert_xml(&svg);
        let ticks = texts(&svg).iter().filter(|text| text.ends_with('1') && text.parse::<u32>().is_ok()).count();
        assert!((1..=18).contains(&ticks), "{workflows} workflows: {ticks} ticks");
        assert_eq!(precision_csv(&report).unwrap().iter().filter(|byte| **byte == b'\n').count() as i64, workflows + 1);
    }
    let single = [ScoredRecord { workflow_id: 1, task_id: 1, label: 1.0, score: 0.5 }];
    let report = UtilityReport::compute(&single, 0.5, &UtilityOptions::default()).unwrap();
    assert!(precision_figure(&report).unwrap().is_none());
}

// ---- damaged and unfinished runs ----

#[test]
fn an_unfinished_stage_is_shown_as_far_as_it_got() {
    let root = tempdir().unwrap();
    let run = run_folder(root.path(), "quick", 70.0);
    let sft = run.join("stages/1-prefinetune");
    fs::remove_file(sft.join("manifest.json")).unwrap();
    let mut log = fs::read(sft.join(METRICS_JSONL)).unwrap();
    log.truncate(log.len() - 7);
    fs::write(sft.join(METRICS_JSONL), log).unwrap();
    let (out, _) = reported(std::slice::from_ref(&run), Options::default());
    assert!(out.contains("prefinetune  unfinished          1500\n"), "{out}");
    assert!(out.contains("loss (train, so far)"), "{out}");
    assert!(out.contains("metrics.jsonl:4512: the last line is cut off"), "{out}");
    let (json, notes) = reported(std::slice::from_ref(&run), JSON);
    assert!(serde_json::from_str::<Value>(&json).unwrap().get("prefinetune").is_none(), "{json}");
    assert!(notes.starts_with("note: ") && notes.contains("cut off"), "{notes}");
    let (both, _) = reported(&[run, run_folder(root.path(), "other", 1.0)], Options::default());
    assert!(both.contains("prefinetune  status") && both.contains("unfinished"), "{both}");
}

#[test]
fn damage_is_noted_with_its_place_and_the_rest_is_shown() {
    let root = tempdir().unwrap();
    type Damage = (&'static str, fn(&Path), &'static str);
    let damages: [Damage; 9] = [
        ("cut manifest", |run| cut(&run.join("stages/2-embed/manifest.json"), 40), "2-embed/manifest.json:3:18: EOF"),
        (
            "mistyped manifest",
            |run| replace(&run.join("stages/2-embed/manifest.json"), "\"seed\": 42", "\"seed\": \"42\""),
            "manifest.json:6:14: invalid type: string \"42\", expected u64",
        ),
        (
            "no settings",
            |run| replace(&run.join("stages/10-glow-eval/manifest.json"), "threshold", "treshold"),
            "10-glow-eval/manifest.json: `settings`: missing field `threshold`",
        ),
        (
            "a broken line in the log",
            |run| replace(&run.join("stages/1-prefinetune/metrics.jsonl"), "{\"step\":3,", "{\"step\":oops,"),
            "metrics.jsonl:7:9: expected a row of metrics, found `{\"step\":oops",
        ),
        (
            "a score that is no number",
            |run| replace(&run.join("stages/10-glow-eval/scores-best.jsonl"), "\"task_id\":3", "\"task_id\":null"),
            "scores-best.jsonl:4:",
        ),
        (
            "cut scores",
            |run| cut_line(&run.join("stages/10-glow-eval/scores-best.jsonl"), 100, 5),
            "scores-best.jsonl:101:1: the last record is cut off: run the evaluation again",
        ),
        (
            "scores cut between lines",
            |run| cut_line(&run.join("stages/10-glow-eval/scores-best.jsonl"), 100, 0),
            "scores-best.jsonl: 100 records, but 200 were evaluated: run the evaluation again",
        ),
        ("empty manifest", |run| cut(&run.join("stages/2-embed/manifest.json"), 0), "manifest.json:1:0: EOF"),
        (
            "not UTF-8",
            |run| fs::write(run.join("stages/2-embed/metrics.jsonl"), b"{\xff\xfe}\n{}\n").unwrap(),
            "metrics.jsonl:1",
        ),
    ];
    for (index, (what, damage, note)) in damages.into_iter().enumerate() {
        let run = run_folder(root.path(), &format!("run{index}"), 1.0);
        damage(&run);
        let (out, notes) = reported(std::slice::from_ref(&run), JSON);
        assert!(notes.lines().count() == 1 && notes.contains(note), "{what}: {notes}");
        let object: Value = serde_json::from_str(&out).unwrap();
        assert!(object.as_object().unwrap().len() >= 2, "{what}: {out}");
    }
}

fn cut(path: &Path, bytes: usize) {
    let mut text = fs::read(path).unwrap();
    assert!(text.len() > bytes);
    text.truncate(bytes);
    fs::write(path, text).unwrap();
}

/// Keeps whole lines, and some bytes of the next.
fn cut_line(path: &Path, lines: usize, bytes: usize) {
    let text = fs::read_to_string(path).unwrap();
    cut(path, text.split_inclusive('\n').take(lines).map(str::len).sum::<usize>() + bytes);
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}: {text:.300}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn the_latest_of_two_folders_of_a_stage_counts() {
    let root = tempdir().unwrap();
    let run = run_folder(root.path(), "quick", 70.0);
    let old = run.join("stages/4-glow-eval");
    fs::create_dir_all(&old).unwrap();
    let mut stale = manifest("glow-eval", "glow-eval", &[("accuracy", Some(0.0))]);
    stale.timings.started = 1.0;
    stale.write(&old).unwrap();
    let (out, notes) = reported(std::slice::from_ref(&run), JSON);
    assert_ne!(serde_json::from_str::<Value>(&out).unwrap()["glow-eval"]["accuracy"], json!(0.0));
    assert!(notes.contains("4-glow-eval: an older folder of the stage `glow-eval`"), "{notes}");
}

#[test]
fn only_a_report_without_content_is_an_error() {
    let root = tempdir().unwrap();
    let fail = |paths: &[PathBuf]| {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let error = report(paths, JSON, &mut out, &mut notes).unwrap_err();
        assert!(out.is_empty() && matches!(error, Error::NothingToShow { .. }), "{error}");
        error.to_string()
    };
    let absent = root.path().join("absent");
    assert!(fail(std::slice::from_ref(&absent)).contains("absent: not a run: expected a folder with `stages/"));
    let empty = root.path().join("empty");
    fs::create_dir_all(empty.join("stages/1-sft")).unwrap();
    assert!(fail(std::slice::from_ref(&empty)).contains("empty: no finished stage and no log"));
    fs::write(empty.join("stages/1-sft/manifest.json"), "{").unwrap();
    assert!(fail(&[empty.clone(), absent.clone()]).contains("1-sft/manifest.json:1:1: EOF"));

    let run = run_folder(root.path(), "good", 1.0);
    let (out, notes) = reported(&[absent, run], JSON);
    assert!(serde_json::from_str::<Value>(&out).unwrap()["good"]["glow-eval"]["accuracy"].is_f64(), "{out}");
    assert!(notes.contains("absent: not a run"), "{notes}");
}

#[test]
fn a_report_that_cannot_be_written_is_still_printed() {
    let root = tempdir().unwrap();
    let run = run_folder(root.path(), "quick", 1.0);
    fs::write(run.join("report"), "a file where the folder should be").unwrap();
    let (out, notes) = reported(&[run], JSON);
    assert!(serde_json::from_str::<Value>(&out).unwrap()["glow-eval"]["accuracy"].is_f64(), "{out}");
    assert!(notes.lines().count() >= 4 && notes.contains("report"), "{notes}");
}

// ---- manifests and logs ----

#[test]
fn manifests_are_whole_or_absent_and_hold_no_nan() {
    let folder = tempdir().unwrap();
    assert_eq!(Manifest::read(folder.path()).unwrap(), None);
    let mut written =
        manifest("s", "sft", &[("loss", Some(0.1 + 0.2)), ("nan", Some(f64::NAN)), ("infinite", Some(f64::INFINITY))]);
    written.write(folder.path()).unwrap();
    let text = fs::read_to_string(folder.path().join("manifest.json")).unwrap();
    assert!(
        text.contains("\"status\": \"done\"") && text.contains("\"nan\": null") && text.contains("\"infinite\": null"),
        "{text}"
    );
    for name in ["nan", "infinite"] {
        written.metrics.insert(name.into(), None);
    }
    assert_eq!(Manifest::read(folder.path()).unwrap(), Some(written), "numbers come back to the last bit");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}

fn open_log(folder: &TempDir, resume_from_step: u64) -> MetricsLog {
    MetricsLog::open(folder.path(), resume_from_step).unwrap()
}

#[test]
fn a_continued_log_drops_what_came_after_the_save() {
    let folder = tempdir().unwrap();
    let mut log = open_log(&folder, 0);
    for step in 1..=10 {
        log.push(step, Some(step as f64 / 4.0), Split::Train, "loss", 1.0 / step as f64).unwrap();
    }
    log.push(10, None, Split::Valid, "a \"name\", odd", f64::NAN).unwrap();
    drop(log);
    let table = fs::read_to_string(folder.path().join(METRICS_CSV)).unwrap();
    assert!(table.starts_with("step,split,name,value\n1,train,loss,1.0\n2,train,loss,0.5\n"), "{table}");
    assert!(table.ends_with("10,valid,\"a \"\"name\"\", odd\",\n"), "{table}");
    let before = MetricsLog::read(folder.path()).unwrap();
    assert_eq!((before.len(), before[10].value, before[2].value), (11, None, Some(1.0 / 3.0)));
    assert!(before[0].time > 1.7e9 && before[0].epoch == Some(0.25));

    let mut log = open_log(&folder, 6);
    log.push(7, Some(1.75), Split::Train, "loss", 7.0).unwrap();
    log.flush().unwrap();
    let after = MetricsLog::read(folder.path()).unwrap();
    assert_eq!(after[..6], before[..6], "what was saved stays, to the last bit");
    assert_eq!(after[6..].iter().map(|row| (row.step, row.value)).collect::<Vec<_>>(), [(7, Some(7.0))]);
    let table = fs::read_to_string(folder.path().join(METRICS_CSV)).unwrap();
    assert_eq!(table.lines().count(), 8);
    assert!(table.ends_with("\n6,train,loss,0.16666666666666666\n7,train,loss,7.0\n"), "{table}");

    drop(open_log(&folder, 0));
    assert_eq!(MetricsLog::read(folder.path()).unwrap(), [], "nothing was saved: from the beginning");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file stays");
}

/// A process can be killed at any byte: the log opens again and has every whole line up to the save.
#[test]
fn a_log_cut_at_any_byte_opens_again() {
    let folder = tempdir().unwrap();
    let mut log = open_log(&folder, 0);
    for step in 1..=3 {
        log.push(step, None, Split::Train, "verlust-ä", 0.25).unwrap();
    }
    drop(log);
    let whole = fs::read(folder.path().join(METRICS_JSONL)).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').collect();
    for bytes in 0..=whole.len() {
        fs::write(folder.path().join(METRICS_JSONL), &whole[..bytes]).unwrap();
        let lines = ends.iter().filter(|&&end| bytes >= end).count();
        assert_eq!(MetricsLog::read(folder.path()).unwrap().len(), lines, "{bytes} bytes");
        let mut log = open_log(&folder, 2);
        log.push(3, None, Split::Train, "loss", 1.0).unwrap();
        drop(log);
        let rows = MetricsLog::read(folder.path()).unwrap();
        let steps: Vec<u64> = rows.iter().map(|row| row.step).collect();
        assert_eq!(steps, (1..=lines.min(2) as u64).chain([3]).collect::<Vec<_>>(), "{bytes} bytes");
        assert_eq!(fs::read_to_string(folder.path().join(METRICS_CSV)).unwrap().lines().count(), steps.len() + 1);
    }
}

#[test]
fn a_broken_line_inside_a_log_is_an_error_with_its_place() {
    let folder = tempdir().unwrap();
    let good = r#"{"step":1,"epoch":null,"split":"train","name":"loss","value":0.5,"time":1.0}"#;
    for bad in ["{}", "[1]", r#"{"step":-1}"#, "nonsense", "{\"step\":1e999}"] {
        let text = format!("{good}\n{bad}\n{good}\n");
        fs::write(folder.path().join(METRICS_JSONL), &text).unwrap();
        let errors = [MetricsLog::read(folder.path()).unwrap_err(), MetricsLog::open(folder.path(), 5).unwrap_err()];
        for error in errors {
            assert!(error.to_string().contains("metrics.jsonl:2:"), "{bad}: {error}");
        }
        assert_eq!(fs::read_to_string(folder.path().join(METRICS_JSONL)).unwrap(), text, "a log that is refused stays");
    }
    fs::write(folder.path().join(METRICS_JSONL), format!("{good}\n{}\n{good}\n", "x".repeat(2 << 20))).unwrap();
    let error = MetricsLog::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl:2: expected a line of at most 1048576 bytes"), "{error}");
}
