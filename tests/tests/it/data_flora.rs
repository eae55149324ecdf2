//! FLORA records: reading, the index, the synthetic generator.

use datasets::flora::ReadOptions;
use datasets::index::Records;
use datasets::synthetic::{Synthetic, SyntheticConfig, rule};
use datasets::{FloraIndex, Split};
use hearth_tests::{fixtures, json, json_lines, list};
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders of the reference data that hold FLORA records.
fn reference_folders() -> Vec<PathBuf> {
    let Some(root) = fixtures("flora-like") else { return Vec::new() };
    list(&root).into_iter().filter(|path| path.join("train.jsonl").is_file()).collect()
}

fn synthetic(folder: &Path) -> Synthetic {
    let data = Synthetic::generate(&SyntheticConfig::default(), 42).unwrap();
    data.write(folder).unwrap();
    data
}

/// Compares an index with the lines that it was made from.
fn assert_equals_lines(index: &FloraIndex, split: Split, lines: &[Value]) {
    let records: &Records = index.split(split).unwrap();
    let kept: Vec<(usize, &Value)> =
        lines.iter().enumerate().filter(|(_, line)| !line["nodes"].as_object().unwrap().is_empty()).collect();
    assert_eq!(records.len(), kept.len());
    for (at, (line, record)) in kept.into_iter().enumerate() {
        let number = records.workflow[at];
        let workflow = index.workflow(number);
        let nodes: Vec<(u32, String)> = record["nodes"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(id, text)| (id.parse().unwrap(), text.as_str().unwrap().to_owned()))
            .collect();
        let edges: Vec<[u32; 2]> = serde_json::from_value(record["edge_index"].clone()).unwrap();
        assert_eq!((&workflow.nodes, &workflow.edges), (&nodes, &edges));

        let graph = index.graph(number);
        let sorted = workflow.sorted_ids();
        assert_eq!(graph.num_nodes, nodes.len());
        let by_id: Vec<[u32; 2]> = graph.edges.iter().map(|edge| edge.map(|rank| sorted[rank as usize])).collect();
        assert_eq!(by_id, edges);
        let texts: Vec<&str> = index.node_texts(number).iter().map(|text| &*index.texts()[*text as usize]).collect();
        let mut wanted = nodes.clone();
        wanted.sort();
        assert_eq!(texts, wanted.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>());

        assert_eq!(&*index.texts()[records.task[at] as usize], record["task"].as_str().unwrap());
        assert_eq!(f64::from(records.label[at]), record["label"].as_f64().unwrap());
        assert_eq!(records.workflow_id[at], record["workflow_id"].as_i64().unwrap());
        assert_eq!(records.task_id[at], record["task_id"].as_i64().unwrap());
        assert_eq!(records.line[at] as usize, line + 1);
    }
}

#[test]
fn reference_records_are_read_as_they_are() {
    for folder in reference_folders() {
        let index = FloraIndex::read(&folder, &ReadOptions::default()).unwrap();
        for split in Split::ALL {
            assert_equals_lines(&index, split, &json_lines(&folder.join(format!("{split}.jsonl"))));
        }
        let texts: HashSet<&str> = index.texts().iter().map(|text| &**text).collect();
        assert_eq!(texts.len(), index.texts().len());
        let workflows = 0..index.workflows().len() as u32;
        let contents: HashSet<String> = workflows.map(|number| index.workflow(number).content_hash()).collect();
        assert_eq!(contents.len(), index.workflows().len());
    }
}

#[test]
fn reference_counts_agree() {
    let Some(root) = fixtures("flora-like") else { return };
    for (name, stats) in json(&root.join("stats.json")).as_object().unwrap() {
        let Some((folder, split)) = name.split_once('/') else { continue };
        let split = Split::ALL.into_iter().find(|known| known.name() == split).unwrap();
        let options = ReadOptions { splits: vec![split], ..ReadOptions::default() };
        let index = FloraIndex::read(&root.join(folder), &options).unwrap();
        let (records, summary) = (index.split(split).unwrap(), index.summary());
        let rows = stats["rows"].as_u64().unwrap();
        assert_eq!(records.len() as u64 + summary.dropped_empty, rows, "{name}");
        let positive = records.label.iter().filter(|label| **label == 1.0).count() as u64;
        let difference = stats["positive"].as_u64().unwrap() - positive;
        assert!(difference <= summary.dropped_empty, "{name}");
        if summary.dropped_empty == 0 {
            let majority = stats["majority"].as_f64().unwrap();
            assert!((records.majority() - majority).abs() < 1e-4, "{name}: {} {majority}", records.majority());
        }
    }
}

#[test]
fn an_index_survives_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    synthetic(folder.path());
    let mut folders = reference_folders();
    folders.push(folder.path().to_path_buf());
    for data in folders {
        let saved = tempfile::tempdir().unwrap();
        let index = FloraIndex::read(&data, &ReadOptions::default()).unwrap();
        index.save(saved.path()).unwrap();
        assert_eq!(FloraIndex::load(saved.path()).unwrap(), index);
        assert_eq!(list(saved.path()).len(), 1);

        let file = list(saved.path()).remove(0);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
        let error = FloraIndex::load(saved.path()).unwrap_err().to_string();
        assert!(error.contains("checksum") && error.contains("delete it"), "{error}");
    }
}

#[test]
fn shards_are_read_in_natural_order() {
    let (whole, sharded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    synthetic(whole.path());
    let lines = fs::read_to_string(whole.path().join("train.jsonl")).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    for (number, part) in lines.chunks(150).enumerate() {
        fs::write(sharded.path().join(format!("train_{}.jsonl", number + 1)), part.join("\n")).unwrap();
    }
    let options = ReadOptions { splits: vec![Split::Train], ..ReadOptions::default() };
    let one = FloraIndex::read(whole.path(), &options).unwrap();
    let many = FloraIndex::read(sharded.path(), &options).unwrap();
    assert!(many.sources().len() > 10);
    assert_eq!(one.split(Split::Train), many.split(Split::Train));
    assert_eq!((one.texts(), one.workflows()), (many.texts(), many.workflows()));

    let error = FloraIndex::read(sharded.path(), &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no records of the split `val`: expected `val.jsonl`, or shards `val_*.jsonl`"), "{error}");
}

#[test]
fn one_number_for_two_workflows_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let line = |text: &str, edges: &str| {
        format!(
            r#"{{"nodes": {{"4": "{text}", "1": "b"}}, "edge_index": {edges}, "task": "t", "label": 1, "workflow_id": 3, "task_id": 1}}"#
        )
    };
    let lines = [line("a", "[]"), line("a", "[[4, 1]]"), line("c", "[]"), line("a", "[]")];
    let path = folder.path().join("records.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    let index = FloraIndex::read_file(&path, Split::Test, &ReadOptions::default()).unwrap();
    assert_eq!(index.split(Split::Test).unwrap().workflow, [0, 1, 2, 0]);
    assert_eq!((index.summary().conflicting_ids, index.summary().workflows), (1, 3));
    assert_eq!(index.graph(1).edges, [[1, 0]]);

    fs::write(&path, r#"{"nodes": {}, "edge_index": [], "task": "t", "label": 1, "workflow_id": 3, "task_id": 1}"#)
        .unwrap();
    let error = FloraIndex::read_file(&path, Split::Test, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("records.jsonl: no usable record (1 had no nodes)"), "{error}");
}

#[test]
fn synthetic_records_carry_their_rule() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic(folder.path());
    let index = FloraIndex::read(folder.path(), &ReadOptions::default()).unwrap();
    let summary = index.summary();
    assert_eq!((summary.workflows, summary.workflow_ids, summary.tasks), (64, 64, 40));
    assert_eq!(summary.conflicting_ids, 0);
    for (split, records) in index.splits() {
        assert_eq!(records.len(), data.split(split).len());
        assert!(records.majority() <= 0.60, "{split}: {}", records.majority());
        let right = (0..records.len()).filter(|at| {
            let workflow = index.workflow(records.workflow[*at]);
            rule(&workflow, &index.texts()[records.task[*at] as usize]) == Some(records.label[*at] == 1.0)
        });
        assert_eq!(right.count() * 10, records.len() * 9, "{split}");
    }
    // Short texts embed fast.
    assert!(index.texts().iter().all(|text| text.len() <= 60));
}
