//! FLORA-Bench records: one (workflow, task) pair a line, with a label that says whether the workflow solved the task.
//!
//! ```json
//! {"nodes": {"0": "Draft a plan.", "1": "Solve it."}, "edge_index": [[0, 1]], "task": "…", "label": 1,
//!  "workflow_id": 8, "task_id": 7}
//! ```
//! Format: FLORA-Bench (arXiv 2503.11301), as GLOW (arXiv 2512.15751) reads it. Keys beyond these six are ignored.
//! Records without nodes are dropped and counted. The order of `nodes` in the file is kept, because language models see
//! it; tensors use the ascending order of the ids.

mod parse;

use crate::error::Result;
use crate::json::{Trail, parse_with};
use crate::lines::FileLines;
use crate::splits::Split;
use parse::RecordSeed;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Which labels a file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Labels {
    /// 0 or 1 in every record.
    #[default]
    Binary,
    /// A number from 0 to 1 in every record: for regression.
    Unit,
    /// A number from 0 to 1, or none, and the two ids may be missing too: for records that are to be scored.
    Optional,
}

/// What to do with an edge whose end is not among the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnBadEdge {
    /// Stop, naming the place.
    #[default]
    Error,
    /// Leave the edge out and count it.
    Drop,
}

/// How to read FLORA records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// The splits that must be there. Default: all three.
    pub splits: Vec<Split>,
    /// Which labels are right. Default: `Binary`.
    pub labels: Labels,
    /// What to do with an edge to or from nowhere. Default: `Error`.
    pub on_bad_edge: OnBadEdge,
    /// The longest line in bytes. Default: 16 MiB.
    pub max_line_bytes: usize,
    /// The most nodes in a workflow. Default: 4,096.
    pub max_nodes: usize,
    /// The most edges in a workflow. Default: 65,536.
    pub max_edges: usize,
    /// The longest text of a node or a task in bytes. Default: 1 MiB.
    pub max_text_bytes: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            splits: Split::ALL.to_vec(),
            labels: Labels::Binary,
            on_bad_edge: OnBadEdge::Error,
            max_line_bytes: 16 << 20,
            max_nodes: 4096,
            max_edges: 65_536,
            max_text_bytes: 1 << 20,
        }
    }
}

/// One record, borrowing from the line that it stands on.
#[derive(Debug, Clone, PartialEq)]
pub struct FloraRecord<'a> {
    /// The line of the file, from 1.
    pub line: u64,
    /// Node ids and their texts, in the order of the file; no id twice, at least one.
    pub nodes: Vec<(u32, Cow<'a, str>)>,
    /// `[source, target]` ids, in the order of the file, repeated ones included; all among the nodes.
    pub edges: Vec<[u32; 2]>,
    /// The problem's text.
    pub task: Cow<'a, str>,
    /// How well the workflow did, in [0, 1]; none only with [`Labels::Optional`].
    pub label: Option<f32>,
    /// Which workflow, within one data set; none only with [`Labels::Optional`].
    pub workflow_id: Option<i64>,
    /// Which task, within one data set; none only with [`Labels::Optional`].
    pub task_id: Option<i64>,
}

/// What a reader has met so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReadCounts {
    /// Records handed out.
    pub records: u64,
    /// Records left out because they have no node.
    pub dropped_empty: u64,
    /// Edges left out because an end is missing.
    pub dropped_edges: u64,
}

impl ReadCounts {
    /// Adds the counts of another file.
    pub fn add(&mut self, other: ReadCounts) {
        self.records += other.records;
        self.dropped_empty += other.dropped_empty;
        self.dropped_edges += other.dropped_edges;
    }
}

/// A file that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// The file.
    pub path: PathBuf,
    /// The BLAKE3 hash of its bytes, in hexadecimal.
    pub blake3: String,
    /// The number of its lines.
    pub lines: u64,
    /// What was in it.
    #[serde(flatten)]
    pub counts: ReadCounts,
}

/// Reads the records of one file, one by one, and hands those with nodes to `each`; memory is that of the longest line.
pub fn read_records(
    path: &Path,
    options: &ReadOptions,
    mut each: impl FnMut(FloraRecord<'_>) -> Result<()>,
) -> Result<SourceFile> {
    let mut lines = FileLines::open(path, options.max_line_bytes)?;
    let mut counts = ReadCounts::default();
    while let Some((line, text)) = lines.next_line()? {
        let trail = Trail::default();
        let raw = parse_with(path, line, text, &trail, RecordSeed { trail: &trail, options })?;
        if raw.nodes.is_empty() {
            counts.dropped_empty += 1;
            continue;
        }
        let record = raw.check(path, line, options, &mut counts)?;
        counts.records += 1;
        each(record)?;
    }
    Ok(SourceFile {
        path: path.to_path_buf(),
        blake3: lines.hash().to_hex().to_string(),
        lines: lines.number(),
        counts,
    })
}

/// Checks one record that stands in `text`; `path` and `line` are its place in messages.
///
/// # Errors
/// What is wrong with it.
pub fn check_record(path: &Path, line: u64, text: &str, options: &ReadOptions) -> Result<()> {
    let trail = Trail::default();
    let raw = parse_with(path, line, text, &trail, RecordSeed { trail: &trail, options })?;
    raw.check(path, line, options, &mut ReadCounts::default()).map(|_| ())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    const GOOD: &str = r#"{"nodes": {"2": "c", "0": "a\n"}, "edge_index": [[0, 2], [0, 2]], "task": "t", "label": 1, "workflow_id": 3, "task_id": -4, "more": {"x": [1]}}"#;

    fn read(text: &str, options: &ReadOptions) -> Result<(Vec<FloraRecord<'static>>, SourceFile)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        fs::write(&path, text).unwrap();
        let mut records = Vec::new();
        let source = read_records(&path, options, |record| {
            let FloraRecord { line, nodes, edges, task, label, workflow_id, task_id } = record;
            let nodes = nodes.into_iter().map(|(id, text)| (id, Cow::Owned(text.into_owned()))).collect();
            let task = Cow::Owned(task.into_owned());
            records.push(FloraRecord { line, nodes, edges, task, label, workflow_id, task_id });
            Ok(())
        })?;
        Ok((records, source))
    }

    #[test]
    fn keeps_the_order_and_counts_what_it_drops() {
        let empty = GOOD.replace(r#"{"2": "c", "0": "a\n"}"#, "{}");
        let (records, source) = read(&format!("{GOOD}\r\n\n{empty}\n{GOOD}"), &ReadOptions::default()).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].nodes, vec![(2, Cow::Borrowed("c")), (0, Cow::Borrowed("a\n"))]);
        assert_eq!(records[0].edges, vec![[0, 2], [0, 2]]);
        assert_eq!((records[0].label, records[0].workflow_id, records[0].task_id), (Some(1.0), Some(3), Some(-4)));
        assert_eq!((records[0].line, records[1].line), (1, 4));
        assert_eq!(source.counts, ReadCounts { records: 2, dropped_empty: 1, dropped_edges: 0 });
        assert_eq!(source.lines, 4);
    }

    #[test]
    fn errors_name_line_key_and_remedy() {
        let cases = [
            (r#""label": 1"#, r#""label": 2"#, "`label`: expected 0 or 1, found 2"),
            (r#""label": 1"#, r#""label": 0.5"#, "read with labels: Unit"),
            (r#""label": 1"#, r#""label": "1""#, "`label`: expected 0 or 1, found string \"1\""),
            (r#""label": 1"#, r#""label": true"#, "`label`: expected 0 or 1, found boolean `true`"),
            (r#""label": 1"#, r#""label": NaN"#, "`label`: expected valid JSON"),
            (r#""label": 1"#, r#""label": 1, "label": 1"#, "`label`: expected each key once"),
            (r#", "label": 1"#, "", "`label`: expected this key in every record, found none"),
            (
                r#""workflow_id": 3"#,
                r#""workflow_id": 3.5"#,
                "`workflow_id`: expected a whole number of 64 bits, found floating point",
            ),
            (r#""task_id": -4"#, r#""task_id": 18446744073709551615"#, "`task_id`: expected a whole number of 64 bits"),
            (r#""task": "t""#, r#""task": 7"#, "`task`: expected a string, found integer `7`"),
            (
                "[0, 2], [0, 2]",
                "[0, 2], [0, 1]",
                "`edge_index[1]`: expected two ids that are among the nodes, found [0, 1], and there is no node 1",
            ),
            (
                "[0, 2], [0, 2]",
                "[0, 2, 0], [1]",
                "`edge_index[0]`: expected a pair [source, target], found a list of 3 (edge_index is a list of pairs",
            ),
            ("[0, 2], [0, 2]", "[0, \"2\"]", "`edge_index[0]`: expected a whole number of 64 bits, found string"),
            ("[[0, 2], [0, 2]]", "7", "`edge_index`: expected a list of pairs"),
            (r#""0": "a"#, r#""2": "a"#, "`nodes.2`: expected each key once"),
            (r#""0": "a"#, r#""00": "a"#, "`nodes.00`: expected a node id"),
            (r#""0": "a"#, r#""-1": "a"#, "`nodes.-1`: expected a node id"),
            (r#""2": "c""#, r#""2": null"#, "`nodes.2`: expected a string, found null"),
            (
                r#"{"2": "c", "0": "a\n"}"#,
                r#"["c", "a"]"#,
                "`nodes`: expected an object from node ids to texts, found sequence",
            ),
            (r#""more": {"x": [1]}}"#, r#""more": {"x": [1"#, "the line is cut off"),
            (r#""more": {"x": [1]}}"#, r#""more": 1}}"#, "trailing characters"),
        ];
        for (from, to, want) in cases {
            assert!(GOOD.contains(from), "{from}");
            let text = format!("{GOOD}\n{}\n", GOOD.replacen(from, to, 1));
            let error = read(&text, &ReadOptions::default()).unwrap_err().to_string();
            assert!(error.contains(want), "{want}\n{error}");
            assert!(error.contains("train.jsonl:2"), "{error}");
        }
        let error = read("[1]\n", &ReadOptions::default()).unwrap_err().to_string();
        assert!(error.contains("train.jsonl:1: expected one JSON object a line, found sequence"), "{error}");
    }

    #[test]
    fn options_loosen_the_rules() {
        let graded = GOOD.replace(r#""label": 1"#, r#""label": 0.25"#);
        let unit = ReadOptions { labels: Labels::Unit, ..ReadOptions::default() };
        assert_eq!(read(&graded, &unit).unwrap().0[0].label, Some(0.25));

        let bare = r#"{"nodes": {"0": "a"}, "edge_index": [], "task": "t"}"#;
        assert!(read(bare, &unit).is_err());
        let optional = ReadOptions { labels: Labels::Optional, ..ReadOptions::default() };
        let records = read(bare, &optional).unwrap().0;
        assert_eq!((records[0].label, records[0].workflow_id), (None, None));

        let bad = GOOD.replace("[0, 2], [0, 2]", "[0, 7], [0, 2], [-1, 0]");
        let drop = ReadOptions { on_bad_edge: OnBadEdge::Drop, ..ReadOptions::default() };
        let (records, source) = read(&bad, &drop).unwrap();
        assert_eq!((records[0].edges.as_slice(), source.counts.dropped_edges), ([[0, 2]].as_slice(), 2));
    }

    #[test]
    fn limits_hold() {
        let small = |change: fn(&mut ReadOptions)| {
            let mut options = ReadOptions::default();
            change(&mut options);
            read(GOOD, &options).unwrap_err().to_string()
        };
        assert!(small(|o| o.max_nodes = 1).contains("`nodes.0`: expected at most 1 nodes"));
        assert!(small(|o| o.max_edges = 1).contains("`edge_index[1]`: expected at most 1 edges"));
        assert!(small(|o| o.max_text_bytes = 1).contains("`nodes.0`: expected a text of at most 1 bytes"));
        assert!(small(|o| o.max_line_bytes = 20).contains("expected a line of at most 20 bytes"));
    }
}
