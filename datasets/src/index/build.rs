//! Building the index from records.

use super::{FloraIndex, IndexedWorkflow, Records};
use crate::error::Result;
use crate::flora::{FloraRecord, ReadCounts, ReadOptions, read_records};
use crate::splits::Split;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The tables in the making, with what finds a content again.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) index: FloraIndex,
    text_numbers: HashMap<Arc<str>, u32>,
    /// From ids, texts and edges in a row to the workflow.
    workflow_numbers: HashMap<Box<[u32]>, u32>,
    /// From the file's number to the first content that it stood for, and whether it stood for another one since.
    first_content: HashMap<i64, (u32, bool)>,
    key: Vec<u32>,
}

impl Builder {
    pub(super) fn read(&mut self, path: &Path, split: Split, options: &ReadOptions) -> Result<ReadCounts> {
        // Lines of later shards count on.
        let before: u64 =
            self.index.sources.iter().filter(|(of, _)| *of == split).map(|(_, source)| source.lines).sum();
        let mut records = self.index.splits.remove(&split).unwrap_or_default();
        let source = read_records(path, options, |record| self.push(&mut records, record, before))?;
        self.index.splits.insert(split, records);
        if source.counts.dropped_empty > 0 || source.counts.dropped_edges > 0 {
            let ReadCounts { dropped_empty, dropped_edges, .. } = source.counts;
            tracing::warn!(path = %path.display(), dropped_empty, dropped_edges, "records without nodes, or edges, left out");
        }
        let counts = source.counts;
        self.index.sources.push((split, source));
        Ok(counts)
    }

    fn push(&mut self, records: &mut Records, record: FloraRecord<'_>, lines_before: u64) -> Result<()> {
        let mut sorted: Vec<u32> = record.nodes.iter().map(|(id, _)| *id).collect();
        sorted.sort_unstable();
        // Every edge's ends are among the nodes: the reader has seen to it.
        let rank = |id: &u32| sorted.partition_point(|other| other < id) as u32;

        self.key.clear();
        self.key.push(record.nodes.len() as u32);
        for (id, text) in &record.nodes {
            let text = self.text_number(text);
            self.key.extend([*id, text]);
        }
        self.key.extend(record.edges.iter().flatten().map(rank));
        let workflow = match self.workflow_numbers.get(self.key.as_slice()) {
            Some(workflow) => *workflow,
            None => {
                let workflow = self.index.workflows.len() as u32;
                let (nodes, edges) = self.key[1..].split_at(2 * record.nodes.len());
                self.index.workflows.push(IndexedWorkflow {
                    ids: nodes.iter().step_by(2).copied().collect(),
                    texts: nodes.iter().skip(1).step_by(2).copied().collect(),
                    edges: edges.as_chunks::<2>().0.to_vec(),
                });
                self.workflow_numbers.insert(self.key.as_slice().into(), workflow);
                workflow
            }
        };
        if let Some(id) = record.workflow_id {
            let (first, warned) = self.first_content.entry(id).or_insert((workflow, false));
            if *first != workflow && !*warned {
                *warned = true;
                self.index.conflicting_ids += 1;
                tracing::warn!(
                    workflow_id = id,
                    line = record.line,
                    "one workflow number, two workflows: both are kept"
                );
            }
        }
        records.workflow.push(workflow);
        records.task.push(self.text_number(&record.task));
        records.label.push(record.label.unwrap_or(f32::NAN));
        records.workflow_id.push(record.workflow_id.unwrap_or(-1));
        records.task_id.push(record.task_id.unwrap_or(-1));
        records.line.push(u32::try_from(lines_before + record.line).unwrap_or(u32::MAX));
        Ok(())
    }

    fn text_number(&mut self, text: &str) -> u32 {
        match self.text_numbers.get(text) {
            Some(number) => *number,
            None => {
                let number = self.index.texts.len() as u32;
                let text: Arc<str> = text.into();
                self.index.texts.push(text.clone());
                self.text_numbers.insert(text, number);
                number
            }
        }
    }

    pub(super) fn finish(self) -> FloraIndex {
        self.index
    }
}
