//! The page of a report, and runs of several seeds as one experiment.

use std::fs;
use std::path::{Path, PathBuf};

use hearth::eval::ScoredRecord;
use hearth::report::{
    Evaluated, Manifest, Options, Status, Timings, map_figure, reliability_csv, reliability_figure, report,
};
use serde_json::{Value, json};
use tempfile::tempdir;

/// A run with one evaluation.
fn run(root: &Path, name: &str, seed: u64, epochs: u64, accuracy: f64) -> PathBuf {
    let path = root.join(name);
    let stage = path.join("stages/01-glow-eval");
    fs::create_dir_all(&stage).unwrap();
    let plan = json!({"name": name, "seed": seed, "runs": root, "stages": [{"GlowTrain": {"epochs": epochs}}]});
    fs::write(path.join("plan.json"), plan.to_string()).unwrap();
    let records: Vec<ScoredRecord> = (0..40)
        .map(|i| ScoredRecord { workflow_id: i / 4, task_id: i % 4, label: (i % 2) as f64, score: i as f64 / 40.0 })
        .collect();
    let lines: String = records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n").collect();
    fs::write(stage.join("scores-best.jsonl"), lines).unwrap();
    fs::write(stage.join("map-best.csv"), "x,y,label\n0.5,-1,0\n-0.5,1.25,1\n").unwrap();
    Manifest {
        stage: "glow-eval".into(),
        kind: "glow-eval".into(),
        status: Status::Done,
        version: "0.1.0".into(),
        seed,
        settings: json!({"threshold": 0.5, "utility": {}, "plots": true}),
        inputs: Default::default(),
        metrics: [("accuracy".into(), Some(accuracy)), ("n_records".into(), Some(40.0)), ("<odd>&".into(), None)]
            .into(),
        timings: Timings { seconds: 1.5, started: 1.7e9 },
        artefacts: vec![],
    }
    .write(&stage)
    .unwrap();
    path
}

fn reported(runs: &[PathBuf], json: bool) -> String {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    report(runs, Options { json, boxed: false }, &mut out, &mut notes).unwrap();
    assert_eq!(String::from_utf8(notes).unwrap(), "");
    String::from_utf8(out).unwrap()
}

fn line(text: &str, word: &str) -> String {
    let found = text.lines().find(|line| line.split_whitespace().any(|w| w == word));
    found.unwrap_or_else(|| panic!("{word}: {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn seeds_of_one_experiment_are_one_column() {
    let root = tempdir().unwrap();
    let one = |name: &str, seed, epochs, accuracy| run(root.path(), name, seed, epochs, accuracy);
    let runs = [one("a", 1, 5, 0.6), one("b", 2, 5, 0.7), one("other", 1, 9, 0.9), one("c", 3, 5, 0.8)];
    let text = reported(&runs, false);
    assert_eq!(line(&text, "stage"), "stage metric a (3 seeds) other");
    assert_eq!(line(&text, "accuracy"), "accuracy 0.7000 ± 0.1000 0.9000");
    assert_eq!(line(&text, "n_records"), "n_records 40 ± 0 40");
    // JSON keeps the runs apart.
    let object: Value = serde_json::from_str(&reported(&runs, true)).unwrap();
    assert_eq!(object.as_object().unwrap().len(), 4);
    assert_eq!(object["b"]["glow-eval"]["accuracy"], json!(0.7));

    let bars = fs::read_to_string(runs[0].join("report/comparison.svg")).unwrap();
    assert!(bars.contains("1: a (3 seeds), 0.7000 ± 0.1000") && bars.contains("2: other, 0.9000"), "{bars}");
    assert!(!runs[1].join("report/comparison.svg").exists());
    // The same seed twice is no draw, and a run that has no plan is like no other.
    let again = one("again", 1, 5, 0.5);
    fs::remove_file(runs[3].join("plan.json")).unwrap();
    let text = reported(&[runs[0].clone(), runs[1].clone(), again, runs[3].clone()], false);
    assert_eq!(line(&text, "accuracy"), "accuracy 0.6500 ± 0.0707 0.5000 0.8000");
}

#[test]
fn the_page_stands_alone() {
    let root = tempdir().unwrap();
    let path = run(root.path(), "a<b>&\"c\"", 1, 5, 0.6);
    let other = run(root.path(), "plain", 1, 6, 0.7);
    let evaluated = |target: &str| Evaluated {
        trained_on: "<Coding>".into(),
        target: target.into(),
        checkpoint: "best".into(),
        prefix: String::new(),
        scores: "scores-best.jsonl".into(),
    };
    let list = serde_json::to_vec(&[evaluated("x"), evaluated("<script>alert(1)</script>")]).unwrap();
    fs::write(path.join("stages/01-glow-eval/evaluated.json"), list).unwrap();
    reported(&[path.clone(), other.clone()], false);
    let page = fs::read_to_string(path.join("report/index.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("<h1>a&lt;b&gt;&amp;&quot;c&quot;</h1>") && page.contains("&lt;odd&gt;&amp;"), "{page}");
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
    for section in ["Stages", "Metrics", "Transfer", "Comparison", "Figures"] {
        assert!(page.contains(&format!("<h2>{section}</h2>")), "{section}");
    }
    // Curves, reliability, map and bars, all of them inside.
    assert_eq!(page.matches("<svg ").count(), 4);
    assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
    for outside in ["src=", "href=", "url(", "@import", "<link", "<img", "<?xml"] {
        assert!(!page.contains(outside), "{outside}");
    }
    // Every tag that is opened is closed.
    for tag in ["table", "tr", "td", "th", "thead", "tbody", "figure", "p", "h1", "h2", "body", "head", "style"] {
        let count = |start: &str| {
            page.match_indices(start).filter(|(at, _)| page[at + start.len()..].starts_with([' ', '>'])).count()
        };
        assert_eq!(count(&format!("<{tag}")), count(&format!("</{tag}")), "{tag}");
    }
    let alone = fs::read_to_string(other.join("report/index.html")).unwrap();
    assert!(!alone.contains("Comparison") && alone.contains("plain"));
}

#[test]
fn reliability_shows_the_bins_of_the_calibration_error() {
    // Scores 0.05 (class 0), 0.35 (0, 1), 0.95 (1): three bins of fifteen.
    let record = |score, label| ScoredRecord { workflow_id: 0, task_id: 0, label, score };
    let records = [record(0.05, 0.0), record(0.35, 0.0), record(0.35, 1.0), record(0.95, 1.0)];
    let table = reliability_csv(&records);
    let rows: Vec<&str> = table.lines().filter(|line| !line.ends_with(",0,,")).collect();
    assert_eq!(rows.len(), 1 + 3, "{table}");
    assert!(rows[1].starts_with("0,0.06666666666666667,1,0.05,0") && rows[2].ends_with(",2,0.35,0.5"), "{table}");
    let svg = reliability_figure(&records).unwrap().unwrap();
    // (1·0.05 + 2·0.15 + 1·0.05) / 4 = 0.1.
    assert!(svg.contains("calibration error 0.100"), "{svg}");
    assert!(reliability_figure(&[]).unwrap().is_none() && map_figure(&[]).unwrap().is_none());
    let map = map_figure(&[(0.0, 0.0, 1.0)]).unwrap().unwrap();
    assert!(map.contains("label 1") && map.contains("<circle"), "{map}");
}
