//! `hearth glow predict --rank` and `--tasks`: workflows by what is predicted of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hearth_tests::json_lines;
use hearth_tests::program::{Finished, Program, TinyRun, cpu};
use serde_json::{Value, json};
use tempfile::TempDir;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

struct Setup {
    dir: TempDir,
    run: TinyRun,
    records: Vec<Value>,
}

fn setup(change: &str) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let run = TinyRun::new(HEARTH, &dir.path().join("runs"), &cpu()).set(change);
    for stage in ["embed", "glow-train"] {
        let model = run.clone().set("stages.embed.llm=Model(\"llm\")");
        model.ok(&["--only", stage]);
    }
    let records = json_lines(&run.path("sources/flora/test.jsonl"));
    Setup { dir, run, records }
}

impl Setup {
    fn file(&self, name: &str, rows: &[Value]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        path
    }

    fn predict(&self, input: &Path, more: &[&str]) -> Finished {
        let (run, device) = (self.run.folder(), cpu());
        let mut all = vec!["glow", "predict", "--run", run.to_str().unwrap(), "--device", &device, "--output", "-"];
        all.extend(["--input", input.to_str().unwrap()]);
        all.extend(more);
        HEARTH.run(all)
    }

    fn rows(&self, input: &Path, more: &[&str]) -> Vec<Value> {
        let said = self.predict(input, more).expect_code(0);
        said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"))
}

#[test]
fn workflows_are_ranked_by_the_mean_score_of_their_records() {
    let setup = setup("stages.glow-train.epochs=2");
    let input = setup.file("input.jsonl", &setup.records);
    let mut want: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for row in setup.rows(&input, &[]) {
        want.entry(row["workflow_id"].as_i64().unwrap()).or_default().push(number(&row, "score"));
    }
    let ranked = setup.rows(&input, &["--rank"]);
    assert_eq!(ranked.len(), want.len());
    for (place, row) in ranked.iter().enumerate() {
        let scores = &want[&row["workflow_id"].as_i64().unwrap()];
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let votes = scores.iter().filter(|score| **score > 0.5).count() as f64 / scores.len() as f64;
        assert!((number(row, "score") - mean).abs() < 1e-6 && (number(row, "votes") - votes).abs() < 1e-12, "{row}");
        assert_eq!((row["rank"].as_u64(), row["tasks"].as_u64()), (Some(place as u64 + 1), Some(scores.len() as u64)));
        assert!(row.get("scores").is_none(), "{row}");
    }
    assert!(ranked.windows(2).all(|pair| number(&pair[0], "score") >= number(&pair[1], "score")));

    // Without numbers, by content; a workflow without nodes comes last.
    let mut bare: Vec<Value> = Vec::new();
    for record in &setup.records {
        bare.push(json!({"nodes": record["nodes"], "edge_index": record["edge_index"], "task": record["task"]}));
    }
    bare.insert(0, json!({"nodes": {}, "edge_index": [], "task": "t"}));
    let unnamed = setup.rows(&setup.file("bare.jsonl", &bare), &["--rank"]);
    assert_eq!(unnamed.len(), ranked.len() + 1);
    for (row, named) in unnamed.iter().zip(&ranked) {
        assert!((number(row, "score") - number(named, "score")).abs() < 1e-6, "{row} {named}");
        assert_eq!((row["workflow_id"].is_null(), row["line"].as_u64()), (true, named["line"].as_u64().map(|n| n + 1)));
    }
    let last = unnamed.last().unwrap();
    assert_eq!((&last["score"], &last["line"], &last["tasks"]), (&Value::Null, &json!(1), &json!(0)));
    let nothing = setup.predict(&setup.file("nothing.jsonl", &[]), &["--rank"]).expect_code(1);
    assert!(nothing.words().contains("nothing.jsonl"), "{}", nothing.stderr);
}

/// Every pair alone gives the score that it has in the matrix.
#[test]
fn a_matrix_holds_the_scores_of_all_pairs() {
    for change in ["stages.glow-train.epochs=2", "stages.glow-train.model.use_graph=false"] {
        let setup = setup(change);
        // Candidates as a search has them: no task, no label; one of them twice, one without nodes, a blank line.
        let mut candidates: Vec<Value> = Vec::new();
        for record in &setup.records {
            let candidate = json!({"nodes": record["nodes"], "edge_index": record["edge_index"], "workflow_id": record["workflow_id"]});
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates.push(json!({"nodes": {}, "edge_index": [], "workflow_id": 777}));
        let distinct = candidates.len();
        candidates.push(candidates[0].clone());
        let input = setup.file("candidates.jsonl", &candidates);
        fs::write(&input, format!("\n{}", fs::read_to_string(&input).unwrap())).unwrap();
        let mut tasks: Vec<Value> =
            setup.records.iter().take(5).map(|r| json!({"task": r["task"], "extra": 1})).collect();
        tasks.push(json!({"task": "Something that no workflow has seen."}));
        tasks.push(tasks[0].clone());
        let file = setup.file("tasks.jsonl", &tasks);
        let more = ["--tasks", file.to_str().unwrap()];
        let matrix = setup.rows(&input, &more);
        assert_eq!(matrix.len(), distinct);

        let mut pairs: Vec<Value> = Vec::new();
        for candidate in &candidates[..distinct] {
            for task in &tasks {
                let mut pair = candidate.clone();
                pair["task"] = task["task"].clone();
                pairs.push(pair);
            }
        }
        let alone = setup.rows(&setup.file("pairs.jsonl", &pairs), &[]);
        for (nth, (row, alone)) in matrix.iter().zip(alone.chunks(tasks.len())).enumerate() {
            assert_eq!((&row["workflow_id"], &row["line"]), (&candidates[nth]["workflow_id"], &json!(nth + 2)));
            let scores = row["scores"].as_array().unwrap();
            assert_eq!(scores.len(), tasks.len());
            assert_eq!(scores[0], scores[6], "the same task twice");
            for (score, alone) in scores.iter().zip(alone) {
                match (score.as_f64(), alone["score"].as_f64()) {
                    (Some(score), Some(alone)) => assert!((score - alone).abs() < 1e-6, "{row} {alone}"),
                    (score, alone) => assert_eq!((nth, score, alone), (distinct - 1, None, None)),
                }
            }
            assert!(row.get("rank").is_none());
        }
        let ranked = setup.rows(&input, &[more[0], more[1], "--rank"]);
        assert_eq!(ranked.len(), distinct);
        assert!(ranked[..distinct - 1].windows(2).all(|pair| number(&pair[0], "score") >= number(&pair[1], "score")));
        assert!(
            ranked
                .iter()
                .all(|row| matrix.iter().any(|other| other["line"] == row["line"] && other["scores"] == row["scores"]))
        );

        // Problems have their places.
        for (name, rows, words) in [
            ("none.jsonl", vec![], "none.jsonl"),
            ("wrong.jsonl", vec![json!({"task": "t"}), json!({"task": 5})], "wrong.jsonl:2"),
            ("missing.jsonl", vec![json!({"Task": "t"})], "missing.jsonl:1"),
        ] {
            let file = setup.file(name, &rows);
            let refused = setup.predict(&input, &["--tasks", file.to_str().unwrap()]).expect_code(1).words();
            assert!(refused.contains(words), "{refused}");
        }
        let bad =
            setup.file("bad.jsonl", &[candidates[0].clone(), json!({"nodes": {"0": "a"}, "edge_index": [[0, 9]]})]);
        let refused = setup.predict(&bad, &more).expect_code(1).words();
        assert!(refused.contains("bad.jsonl:2") && refused.contains("edge_index"), "{refused}");
    }
}
