//! Evaluation on other data than was trained on, on unseen workflows, and the table of all evaluations.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use datasets::Split;
use hearth::run::EmbeddedData;
use hearth_tests::program::{Program, TinyRun, cpu};
use hearth_tests::{json, json_lines};
use serde_json::Value;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// Four of the six sub-data sets; weights of one are evaluated.
const RECIPE: &str = r#"Recipe(
    name: "suite",
    models: {
        "llm": Init(Decoder(hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1)),
        "text": Init(Encoder(hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1)),
    },
    data: {
        "Coding-AF": Synthetic(workflows: 12, tasks: 12, train: 96, val: 24, test: 24),
        "Coding-GD": Synthetic(workflows: 8, tasks: 12, train: 48, val: 16, test: 30),
        "Math-AF": Synthetic(workflows: 8, tasks: 10, train: 40, val: 16, test: 20),
        "Math-GD": Synthetic(workflows: 8, tasks: 15, train: 40, val: 16, test: 22),
        "other": Synthetic(workflows: 4, tasks: 10, train: 16, val: 8, test: 8),
    },
    stages: [
        Embed(data: Data("Coding-AF"), llm: Model("llm"), text: Model("text"), max_length: 2048, batch_tokens: 4096),
        GlowTrain(
            embeddings: Stage("embed"),
            model: (hidden_dim: 16, fusion: (ff_width: 32)),
            warmup: None,
            epochs: 2,
            batch_size: 32,
            optim: AdamW(lr: 1e-3),
        ),
        GlowEval(name: "own", weights: Stage("glow-train"), embeddings: Stage("embed"), checkpoints: [Best, Final]),
        GlowEval(
            name: "suite",
            weights: Stage("glow-train"),
            embeddings: Stage("embed"),
            checkpoints: [Best, Final],
            suite: All,
            bootstrap: (draws: 50),
        ),
    ],
)
"#;

fn recipe(dir: &Path) -> (PathBuf, TinyRun) {
    let path = dir.join("suite.ron");
    fs::write(&path, RECIPE).unwrap();
    let run = TinyRun::new(HEARTH, &dir.join("runs"), &cpu()).of(&path).named("suite");
    (path, run)
}

fn manifest(run: &TinyRun, stage: &str) -> Value {
    json(&run.path(&format!("stages/{stage}/manifest.json")))
}

fn keys(metrics: &Value) -> BTreeSet<&str> {
    metrics.as_object().unwrap().keys().map(|key| key.split('.').next().unwrap()).collect()
}

#[test]
fn weights_are_evaluated_on_all_sub_data_sets() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("results.csv");
    let (_, run) = recipe(dir.path());
    let run = run.set(&format!("stages.suite.csv={table:?}")).set(&format!("stages.own.csv={table:?}"));
    run.ok(&[]);
    let (own, suite) = (manifest(&run, "03-own")["metrics"].clone(), manifest(&run, "04-suite")["metrics"].clone());

    // On its own data a suite says what an evaluation of it says, under the data's name.
    for (metric, value) in own.as_object().unwrap() {
        if metric.ends_with("_low") || metric.ends_with("_high") {
            continue;
        }
        assert_eq!(suite[format!("Coding-AF.{metric}")], *value, "{metric}");
    }
    assert_eq!(keys(&suite), BTreeSet::from(["Coding-AF", "Coding-GD", "Math-AF", "Math-GD"]));
    for (target, records) in [("Coding-AF", 24.0), ("Coding-GD", 30.0), ("Math-AF", 20.0), ("Math-GD", 22.0)] {
        assert_eq!(suite[format!("{target}.final.n_records")].as_f64(), Some(records));
        let rows = json_lines(&run.path(&format!("stages/04-suite/scores-{target}.final.jsonl")));
        assert_eq!(rows.len() as f64, records);
        let end = |end: &str| suite[format!("{target}.accuracy{end}")].as_f64().unwrap();
        assert!(end("_low") <= end("") && end("") <= end("_high"), "{suite}");
    }

    // The table of both stages: two checkpoints of one data set, then of four.
    let text = fs::read_to_string(&table).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 1 + 2 + 8, "{text}");
    assert_eq!(
        rows[0][..12].join(","),
        "data_path,cross_system,tag,accuracy,utility,precision_1,recall_1,f1_1,precision_0,recall_0,f1_0,avg_f1"
    );
    assert_eq!(
        rows[0][12..].join(","),
        "seed,recipe_hash,n_records,n_workflows,utility_flora,utility_exact,auroc,timestamp"
    );
    assert_eq!(
        (rows[1][..3].join(","), rows[2][..3].join(",")),
        ("Coding-AF,,Best Val".into(), "Coding-AF,,Final".into())
    );
    assert_eq!(rows[5][..3].join(","), "Coding-GD,Coding-AF,Best Val");
    assert!((rows[1][3].parse::<f64>().unwrap() - own["accuracy"].as_f64().unwrap()).abs() < 5e-5);
    assert_eq!((rows[1][12], rows[1][14]), ("42", "24"));

    // A finished stage adds nothing; one that is made again does.
    run.ok(&[]);
    assert_eq!(fs::read_to_string(&table).unwrap(), text);
    run.ok(&["--only", "own", "--fresh"]);
    assert_eq!(fs::read_to_string(&table).unwrap().lines().count(), 13);
    fs::write(&table, "something,else\n").unwrap();
    let refused = run.run(&["--only", "own", "--fresh"]).expect_code(1).words();
    assert!(refused.contains("results.csv") && refused.contains("something,else"), "{refused}");
    run.clone().set("stages.own.csv=None").ok(&[]);

    // The matrix: a row per checkpoint, a column per target.
    let report = HEARTH.ok(["report".as_ref(), run.folder().as_os_str()]).stdout;
    let at = report.find("accuracy: trained on").unwrap_or_else(|| panic!("{report}"));
    let lines: Vec<Vec<&str>> = report[at..].lines().take(4).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][3..], ["Coding-AF", "Coding-GD", "Math-AF", "Math-GD"]);
    assert_eq!((lines[2][0], lines[2][1], lines[3][1]), ("Coding-AF", "(best)", "(final)"));
    let cell = suite["Math-AF.accuracy"].as_f64().unwrap();
    assert!((lines[2][4].parse::<f64>().unwrap() - cell).abs() < 1e-4, "{report}");
    for file in ["precision-at-k-Math-GD.final.csv", "reliability-Math-GD.best.svg", "map-Math-GD.best.svg"] {
        assert!(run.path("report/04-suite").join(file).exists(), "{file}");
    }
}

#[test]
fn suites_choose_by_what_was_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let (path, run) = recipe(dir.path());
    let run = run.set("stages.suite.checkpoints=[Best]").set("stages.suite.plots=false");
    for (suite, targets) in
        [("InDomain", vec!["Coding-AF"]), ("CrossSystem", vec!["Coding-GD"]), ("CrossDomain", vec!["Math-AF"])]
    {
        run.clone().set(&format!("stages.suite.suite={suite}")).ok(&[]);
        assert_eq!(keys(&manifest(&run, "04-suite")["metrics"]), targets.into_iter().collect(), "{suite}");
    }
    // By name, whatever they are called.
    let named =
        run.clone().set("stages.suite.suite=None").set("stages.suite.targets=[Data(\"other\"), Data(\"Math-GD\")]");
    named.ok(&[]);
    assert_eq!(keys(&manifest(&run, "04-suite")["metrics"]), BTreeSet::from(["Math-GD", "other"]));
    // The weights of another run, which says what they were trained on.
    let weights = run.path("stages/02-glow-train");
    let elsewhere = run.clone().named("elsewhere").set(&format!("stages.suite.weights=Path({weights:?})"));
    elsewhere.ok(&["--only", "embed"]);
    elsewhere.ok(&["--only", "suite"]);
    assert_eq!(keys(&manifest(&elsewhere, "04-suite")["metrics"]).len(), 4);

    // What cannot be.
    for (change, code, words) in [
        ("stages.suite.targets=[Data(\"nothing\")]", 2, "no entry of `data` called `nothing`"),
        ("stages.suite.targets=[Data(\"other\"), Data(\"other\")]", 2, "twice"),
        ("stages.suite.targets=[Stage(\"embed\")]", 2, "FLORA data is needed here"),
        ("stages.suite.bootstrap.level=1.5", 2, "`level` is 1.5"),
        ("stages.suite.suite=Crosssystem", 2, "did you mean `CrossSystem`?"),
        ("stages.embed.split=ByWorkflows(1)", 2, "did you mean `ByWorkflow`?"),
    ] {
        let refused = run.clone().set(change).run(&["--from", "suite"]).expect_code(code).words();
        assert!(refused.contains(words), "{change}: {refused}");
    }
    let only = run.set("stages.suite.targets=[Data(\"other\")]").set("stages.suite.suite=CrossSystem");
    let refused = only.run(&[]).expect_code(1).words();
    assert!(refused.contains("`suite` finds no target") && refused.contains("Coding-AF"), "{refused}");
    let text = fs::read_to_string(&path).unwrap();
    let renamed = text.replace("\"Coding-", "\"C").replace("\"Math-", "\"M");
    fs::write(&path, renamed).unwrap();
    let refused = HEARTH.run(["check".as_ref(), path.as_os_str()]).expect_code(2).words();
    assert!(refused.contains("declares none of FLORA-Bench's sub-data sets"), "{refused}");
}

#[test]
fn unseen_workflows_and_tasks_are_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let (_, run) = recipe(dir.path());
    let run = run.set("stages.suite.suite=InDomain").set("stages.suite.checkpoints=[Best]");
    for split in ["ByWorkflow(3)", "ByTask(3)"] {
        let run = run.clone().set(&format!("stages.embed.split={split}"));
        run.ok(&[]);
        let data = EmbeddedData::load(&run.path("stages/01-embed")).unwrap();
        let of = |kind: Split| -> BTreeSet<u32> {
            let records = data.records(kind).unwrap();
            if split.starts_with("ByTask") { &records.task } else { &records.workflow }.iter().copied().collect()
        };
        assert!(of(Split::Train).is_disjoint(&of(Split::Test)) && of(Split::Train).is_disjoint(&of(Split::Val)));
        // The suite splits what it embeds in the same way.
        let scores = |stage: &str, file: &str| json_lines(&run.path(&format!("stages/{stage}/{file}")));
        let own = scores("03-own", "scores-best.jsonl");
        assert_eq!(own.len(), data.records(Split::Test).unwrap().len());
        assert_eq!(own, scores("04-suite", "scores-Coding-AF.best.jsonl"));
    }
}
