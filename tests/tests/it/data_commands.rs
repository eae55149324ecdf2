//! `hearth data`: counts that are right, and records that come through every form unchanged.

use std::fs;
use std::path::Path;

use burn_models::text::{Builtin, Specials, Tokenizer};
use datasets::FloraIndex;
use datasets::flora::ReadOptions;
use datasets::table::read_rows;
use hearth_tests::json_lines;
use hearth_tests::program::{Finished, Program};
use serde_json::{Map, Value, json};

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

fn data(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Finished {
    let mut command = HEARTH.command(["data"]);
    command.args(arguments);
    hearth_tests::program::Running::of(&mut command).finish()
}

fn synthetic(folder: &Path) {
    let sizes = "--workflows 12 --tasks 12 --train 96 --val 24 --test 24 --seed 7".split(' ').collect::<Vec<_>>();
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"synthesize", &"--output", &folder];
    arguments.extend(sizes.iter().map(|word| word as &dyn AsRef<std::ffi::OsStr>));
    let made = data(&arguments).expect_code(0);
    assert!(made.stdout.contains("96, 24, 24 records"), "{}", made.stdout);
}

#[test]
fn stats_are_what_the_index_says() {
    let folder = tempfile::tempdir().unwrap();
    synthetic(folder.path());
    let tokenizer = folder.path().join("tokenizer");
    let pieces = Tokenizer::builtin(Builtin::Encoder).unwrap();
    pieces.save(&tokenizer).unwrap();
    let found = data(&[&"stats", &folder.path(), &"--tokenizer", &tokenizer, &"--json"]).expect_code(0).json();
    let index = FloraIndex::read(folder.path(), &ReadOptions::default()).unwrap();
    let summary = serde_json::to_value(index.summary()).unwrap();
    for (key, value) in summary.as_object().unwrap() {
        assert_eq!(&found[key], value, "{key}");
    }
    let train = &found["splits"]["Train"];
    assert_eq!((&train["records"], &train["known_tasks"]), (&json!(96), &json!(96)));
    assert_eq!(found["nodes"]["count"], 12);
    assert_eq!(found["unlabelled"], 0);
    let tasks: std::collections::BTreeSet<u32> = index.splits().flat_map(|(_, r)| r.task.clone()).collect();
    let length = |text: &u32| pieces.encode(&index.texts()[*text as usize], Specials::Plain).unwrap().len();
    let lengths: Vec<usize> = tasks.iter().map(length).collect();
    assert_eq!(found["tokens"]["task"]["total"], lengths.iter().sum::<usize>());
    assert_eq!(found["tokens"]["task"]["max"], *lengths.iter().max().unwrap());
    assert_eq!(found["tokens"]["task"]["over_256"], 0);

    let table = data(&[&"stats", &folder.path()]).expect_code(0).stdout;
    assert!(table.contains("12 distinct workflows under 12 numbers"), "{table}");
    // One split is enough; nothing is not.
    fs::remove_file(folder.path().join("val.jsonl")).unwrap();
    assert!(!data(&[&"stats", &folder.path()]).expect_code(0).stdout.contains("\nval "));
    let empty = folder.path().join("tokenizer");
    assert!(data(&[&"stats", &empty]).expect_code(1).words().contains("no records of the split"));
    fs::write(folder.path().join("test.jsonl"), "{}\n").unwrap();
    assert!(data(&[&"stats", &folder.path()]).expect_code(1).words().contains("test.jsonl:1"));
}

#[test]
fn questions_are_those_of_the_stage() {
    let folder = tempfile::tempdir().unwrap();
    let flora = folder.path().join("flora");
    synthetic(&flora);
    let out = folder.path().join("questions");
    data(&[&"graph-questions", &flora, &"--output", &out, &"--rounds", &"1", &"--test-workflows", &"2"]).expect_code(0);
    let recipe = folder.path().join("r.ron");
    let text = format!(
        "Recipe(name: \"q\", runs: {:?}, data: {{\"flora\": Flora({flora:?})}}, stages: [GraphQuestions(data: [Data(\"flora\")], \
         rounds: 1, test_workflows: 2)])",
        folder.path().join("runs")
    );
    fs::write(&recipe, text).unwrap();
    HEARTH.ok(["run".as_ref(), recipe.as_os_str()]);
    for name in ["train.jsonl", "test.jsonl"] {
        let stage = folder.path().join("runs/q/stages/01-graph-questions").join(name);
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(stage).unwrap(), "{name}");
    }
    let wrong = data(&[&"graph-questions", &flora, &"--output", &out, &"--rounds", &"0"]).expect_code(1);
    assert!(wrong.words().contains("`rounds`: expected at least 1"), "{}", wrong.stderr);
    let wrong = data(&[&"synthesize", &"--output", &out, &"--train", &"100000"]).expect_code(1);
    assert!(wrong.words().contains("at most workflows"), "{}", wrong.stderr);
}

/// Converts there and back, and gives the records.
fn there_and_back(folder: &Path, input: &Path, through: &str) -> Vec<Map<String, Value>> {
    let (middle, back) = (folder.join(through), folder.join("back.jsonl"));
    data(&[&"convert", &input, &middle]).expect_code(0);
    data(&[&"convert", &middle, &back]).expect_code(0);
    read_rows(&back).unwrap().map(|row| row.unwrap().map).collect()
}

#[test]
fn records_come_through_every_form_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let flora = folder.path().join("flora.jsonl");
    // Ids out of order, differing sets of nodes, no edges, missing labels.
    let records = [
        json!({"nodes": {"2": "c", "0": "a\n", "10": "ü"}, "edge_index": [[0, 2], [2, 10]], "task": "t", "label": 1, "workflow_id": 3, "task_id": 4}),
        json!({"nodes": {"1": "x"}, "edge_index": [], "task": "", "workflow_id": 5, "task_id": 4}),
    ];
    fs::write(&flora, records.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
    let chats = folder.path().join("chats.jsonl");
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let talk = [
        json!({"messages": [turn("user", "q"), turn("assistant", "a")], "id": 7}),
        json!({"messages": [{"role": "user", "content": "r", "name": "n"}, turn("assistant", "")], "id": 8}),
    ];
    fs::write(&chats, talk.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
    for through in ["m.jsonl.zst", "m.parquet", "m.jsonl"] {
        let found = there_and_back(folder.path(), &flora, through);
        let text: Vec<String> = found.iter().map(|map| Value::Object(map.clone()).to_string()).collect();
        let want: Vec<String> = records.iter().map(Value::to_string).collect();
        let sort = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        for (text, want) in text.iter().zip(&want) {
            assert_eq!(sort(text), sort(want), "{through}");
        }
        let keys: Vec<&String> = found[0]["nodes"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["2", "0", "10"], "{through}: the order of nodes counts");
        let found = there_and_back(folder.path(), &chats, through);
        assert_eq!(found.into_iter().map(Value::Object).collect::<Vec<_>>(), talk, "{through}");
    }
    assert!(fs::read(folder.path().join("m.jsonl.zst")).unwrap().starts_with(&[0x28, 0xB5, 0x2F, 0xFD]));
    assert_eq!(json_lines(&folder.path().join("m.jsonl")).len(), 2);

    // What is wrong, or has no columns, is refused with its place, and nothing is left.
    let out = folder.path().join("out.parquet");
    let bad = folder.path().join("bad.jsonl");
    let refused = |line: &str, words: &str| {
        fs::write(&bad, format!("{}\n{line}\n", talk[0])).unwrap();
        let refused = data(&[&"convert", &bad, &out]).expect_code(1);
        assert!(refused.words().contains(words), "{words}\n{}", refused.stderr);
        assert!(!out.exists());
    };
    refused("{\"messages\": []}", "bad.jsonl:2: `messages`: expected at least one message");
    refused("{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{}]}]}", "write .jsonl.zst");
    refused(
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], \"tools\": [{}]}",
        "`tools`: expected no tools in Parquet",
    );
    let refused = data(&[&"convert", &chats, &out, &"--format", &"flora"]).expect_code(1);
    assert!(refused.words().contains("chats.jsonl:1:86: `nodes`"), "{}", refused.stderr);
    fs::write(&bad, "").unwrap();
    assert!(data(&[&"convert", &bad, &out]).expect_code(1).words().contains("there are no rows"));
}
