//! A FLORA data set as tables: every distinct text and every distinct workflow once, and for each record only numbers.
//!
//! A workflow repeats on as many lines as it was tried on tasks. Of 450,000 records, the index keeps 32 bytes each,
//! plus the few thousand texts and graphs that they are made of.

mod build;
mod disk;
mod resplit;

pub use resplit::SplitBy;

use crate::error::{Error, Result};
use crate::flora::{ReadCounts, ReadOptions, SourceFile};
use crate::splits::Split;
use crate::workflow::Workflow;
use build::Builder;
use burn_gnn::Graph;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// One distinct workflow; texts are numbers into [`FloraIndex::texts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedWorkflow {
    /// Node ids, in the order of the file.
    pub ids: Vec<u32>,
    /// The text of each of them.
    pub texts: Vec<u32>,
    /// `[source, target]` as ranks among the ascending ids, in the order of the file, repeated ones included.
    pub edges: Vec<[u32; 2]>,
}

impl IndexedWorkflow {
    /// The places of the nodes in the file, in ascending order of their ids: `ids[ranked()[r]]` has rank `r`.
    fn ranked(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.ids.len()).collect();
        places.sort_unstable_by_key(|place| self.ids[*place]);
        places
    }
}

/// The records of one split, one column for each number; all columns have the same length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    /// The workflow, as a number into [`FloraIndex::workflows`].
    pub workflow: Vec<u32>,
    /// The task's text, as a number into [`FloraIndex::texts`].
    pub task: Vec<u32>,
    /// The label; NaN where the file has none.
    pub label: Vec<f32>,
    /// The file's own number for the workflow; −1 where it has none.
    pub workflow_id: Vec<i64>,
    /// The file's own number for the task; −1 where it has none.
    pub task_id: Vec<i64>,
    /// The line, from 1, counted through all files of the split.
    pub line: Vec<u32>,
}

impl Records {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.workflow.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.workflow.is_empty()
    }

    /// The share of records with a label over 0.5; 0 without records.
    pub fn positive_share(&self) -> f64 {
        let positive = self.label.iter().filter(|label| **label > 0.5).count();
        positive as f64 / self.len().max(1) as f64
    }

    /// The accuracy of always saying what is more frequent: `max(p, 1 − p)` of [`Records::positive_share`] p.
    pub fn majority(&self) -> f64 {
        self.positive_share().max(1.0 - self.positive_share())
    }
}

/// Numbers that describe a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexSummary {
    /// Distinct workflows by content.
    pub workflows: usize,
    /// Distinct workflow numbers.
    pub workflow_ids: usize,
    /// Distinct tasks by text.
    pub tasks: usize,
    /// Distinct texts of nodes.
    pub node_texts: usize,
    /// Distinct texts of nodes and tasks together.
    pub texts: usize,
    /// The mean number of nodes over distinct workflows.
    pub mean_nodes: f64,
    /// The share of records with a label over 0.5, over all splits.
    pub positive_share: f64,
    /// By split: its records.
    pub records: BTreeMap<Split, usize>,
    /// By split: the accuracy of always saying what is more frequent there.
    pub majority: BTreeMap<Split, f64>,
    /// Records left out because they have no node.
    pub dropped_empty: u64,
    /// Edges left out because an end is missing.
    pub dropped_edges: u64,
    /// Workflow numbers that stand for more than one content.
    pub conflicting_ids: u64,
}

/// A FLORA data set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FloraIndex {
    texts: Vec<Arc<str>>,
    workflows: Vec<IndexedWorkflow>,
    splits: BTreeMap<Split, Records>,
    sources: Vec<(Split, SourceFile)>,
    conflicting_ids: u64,
}

impl FloraIndex {
    /// Reads the splits that `options` asks for from a folder, line by line.
    ///
    /// Warns when one workflow number stands for two contents; both are kept as workflows of their own.
    ///
    /// # Errors
    /// Fails on a missing split, on a malformed record, and on a split without a usable record.
    pub fn read(folder: &Path, options: &ReadOptions) -> Result<Self> {
        let mut builder = Builder::default();
        for split in &options.splits {
            let files = split.files(folder)?;
            if files.is_empty() {
                return Err(Error::NoSplit { folder: folder.to_path_buf(), split: split.name() });
            }
            for file in files {
                builder.read(&file, *split, options)?;
            }
            if builder.index.splits.get(split).is_none_or(Records::is_empty) {
                return Err(Error::Empty { path: folder.to_path_buf(), detail: format!("split `{split}`") });
            }
        }
        Ok(builder.finish())
    }

    /// Reads one file as the split `split`, the only one of the result.
    ///
    /// # Errors
    /// Fails on a malformed record, and when there is no usable one.
    pub fn read_file(path: &Path, split: Split, options: &ReadOptions) -> Result<Self> {
        let mut builder = Builder::default();
        let counts = builder.read(path, split, options)?;
        if counts.records == 0 {
            let detail = format!("{} had no nodes", counts.dropped_empty);
            return Err(Error::Empty { path: path.to_path_buf(), detail });
        }
        Ok(builder.finish())
    }

    /// All distinct texts of nodes and tasks, in the order of their first appearance.
    pub fn texts(&self) -> &[Arc<str>] {
        &self.texts
    }

    /// All distinct workflows, in the order of their first appearance.
    pub fn workflows(&self) -> &[IndexedWorkflow] {
        &self.workflows
    }

    /// The records of a split; none where it was not read.
    pub fn split(&self, split: Split) -> Option<&Records> {
        self.splits.get(&split)
    }

    /// The splits that were read.
    pub fn splits(&self) -> impl Iterator<Item = (Split, &Records)> {
        self.splits.iter().map(|(split, records)| (*split, records))
    }

    /// The files that were read, with their hashes and counts.
    pub fn sources(&self) -> &[(Split, SourceFile)] {
        &self.sources
    }

    /// The graph of a workflow; node `r` has the `r`-th smallest id.
    ///
    /// # Panics
    /// When there is no workflow of this number.
    pub fn graph(&self, workflow: u32) -> Graph {
        let workflow = &self.workflows[workflow as usize];
        Graph { num_nodes: workflow.ids.len(), edges: workflow.edges.clone() }
    }

    /// The texts of a workflow's nodes, as numbers into [`FloraIndex::texts`], in ascending order of the ids.
    ///
    /// # Panics
    /// When there is no workflow of this number.
    pub fn node_texts(&self, workflow: u32) -> Vec<u32> {
        let workflow = &self.workflows[workflow as usize];
        workflow.ranked().into_iter().map(|place| workflow.texts[place]).collect()
    }

    /// A workflow with its texts, as it stands in the file.
    ///
    /// # Panics
    /// When there is no workflow of this number.
    pub fn workflow(&self, workflow: u32) -> Workflow {
        let workflow = &self.workflows[workflow as usize];
        let ranked = workflow.ranked();
        let id = |rank: u32| workflow.ids[ranked[rank as usize]];
        let texts = workflow.texts.iter().map(|text| self.texts[*text as usize].to_string());
        Workflow {
            nodes: workflow.ids.iter().copied().zip(texts).collect(),
            edges: workflow.edges.iter().map(|[source, target]| [id(*source), id(*target)]).collect(),
        }
    }

    /// Numbers that describe the data set.
    pub fn summary(&self) -> IndexSummary {
        let nodes: usize = self.workflows.iter().map(|workflow| workflow.ids.len()).sum();
        let node_texts: HashSet<u32> = self.workflows.iter().flat_map(|workflow| workflow.texts.clone()).collect();
        let distinct = |column: fn(&Records) -> &Vec<i64>| -> usize {
            self.splits.values().flat_map(column).collect::<HashSet<_>>().len()
        };
        let records: usize = self.splits.values().map(Records::len).sum();
        let positive: f64 = self.splits.values().map(|split| split.positive_share() * split.len() as f64).sum();
        let mut counts = ReadCounts::default();
        self.sources.iter().for_each(|(_, source)| counts.add(source.counts));
        IndexSummary {
            workflows: self.workflows.len(),
            workflow_ids: distinct(|records| &records.workflow_id),
            tasks: self.splits.values().flat_map(|records| &records.task).collect::<HashSet<_>>().len(),
            node_texts: node_texts.len(),
            texts: self.texts.len(),
            mean_nodes: nodes as f64 / self.workflows.len().max(1) as f64,
            positive_share: positive / records.max(1) as f64,
            records: self.splits().map(|(split, records)| (split, records.len())).collect(),
            majority: self.splits().map(|(split, records)| (split, records.majority())).collect(),
            dropped_empty: counts.dropped_empty,
            dropped_edges: counts.dropped_edges,
            conflicting_ids: self.conflicting_ids,
        }
    }
}
