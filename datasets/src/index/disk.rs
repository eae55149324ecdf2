//! The index on disk: one file of columns.

use super::{FloraIndex, IndexedWorkflow, Records};
use crate::error::Result;
use crate::flora::SourceFile;
use crate::splits::Split;
use crate::store::{Columns, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const KIND: &str = "flora index";
const VERSION: u32 = 1;
const FILE: &str = "index.safetensors";
const REMEDY: &str = "delete it, it will be made again from the records";

#[derive(Debug, Serialize, Deserialize)]
struct Info {
    splits: Vec<Split>,
    sources: Vec<(Split, SourceFile)>,
    conflicting_ids: u64,
}

impl FloraIndex {
    /// Writes the index to one file in `folder`.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let (mut text_bytes, mut text_offsets) = (Vec::new(), vec![0u64]);
        for text in &self.texts {
            text_bytes.extend_from_slice(text.as_bytes());
            text_offsets.push(text_bytes.len() as u64);
        }
        let (mut ids, mut node_texts, mut node_offsets) = (Vec::new(), Vec::new(), vec![0u64]);
        let (mut edges, mut edge_offsets) = (Vec::new(), vec![0u64]);
        for workflow in &self.workflows {
            ids.extend_from_slice(&workflow.ids);
            node_texts.extend_from_slice(&workflow.texts);
            edges.extend_from_slice(workflow.edges.as_flattened());
            node_offsets.push(ids.len() as u64);
            edge_offsets.push(edges.len() as u64 / 2);
        }
        let mut columns = Columns::default();
        columns.add("texts", &text_bytes);
        columns.add("text_offsets", &text_offsets);
        columns.add("node_ids", &ids);
        columns.add("node_texts", &node_texts);
        columns.add("node_offsets", &node_offsets);
        columns.add_shaped("edges", vec![edges.len() / 2, 2], &edges);
        columns.add("edge_offsets", &edge_offsets);
        for (split, records) in self.splits() {
            columns.add(format!("{split}.workflow"), &records.workflow);
            columns.add(format!("{split}.task"), &records.task);
            columns.add(format!("{split}.label"), &records.label);
            columns.add(format!("{split}.workflow_id"), &records.workflow_id);
            columns.add(format!("{split}.task_id"), &records.task_id);
            columns.add(format!("{split}.line"), &records.line);
        }
        let info = Info {
            splits: self.splits.keys().copied().collect(),
            sources: self.sources.clone(),
            conflicting_ids: self.conflicting_ids,
        };
        columns.save(&folder.join(FILE), KIND, VERSION, &info)
    }

    /// Reads what [`FloraIndex::save`] wrote, and checks it.
    pub fn load(folder: &Path) -> Result<Self> {
        let table: Table<Info> = Table::open(&folder.join(FILE), KIND, VERSION, REMEDY)?;
        let text_bytes: Vec<u8> = table.values("texts")?;
        let text_offsets = table.offsets("text_offsets", text_bytes.len())?;
        let mut texts: Vec<Arc<str>> = Vec::with_capacity(text_offsets.len());
        for bounds in text_offsets.windows(2) {
            let text = std::str::from_utf8(&text_bytes[bounds[0] as usize..bounds[1] as usize]);
            texts.push(text.map_err(|e| table.damaged(format!("the column `texts`: {e}")))?.into());
        }

        let ids: Vec<u32> = table.values("node_ids")?;
        let node_texts: Vec<u32> = table.values("node_texts")?;
        if ids.len() != node_texts.len() {
            return Err(table.damaged("the columns of the nodes differ in length".into()));
        }
        table.check_below("node_texts", &node_texts, texts.len())?;
        let edges: Vec<u32> = table.values("edges")?;
        let (edges, rest) = edges.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(table.damaged("the column `edges` does not hold pairs".into()));
        }
        let node_offsets = table.offsets("node_offsets", ids.len())?;
        let edge_offsets = table.offsets("edge_offsets", edges.len())?;
        if node_offsets.len() != edge_offsets.len() {
            return Err(table.damaged("the columns of the workflows differ in length".into()));
        }
        let mut workflows = Vec::with_capacity(node_offsets.len());
        for (nodes, own_edges) in node_offsets.windows(2).zip(edge_offsets.windows(2)) {
            let nodes = nodes[0] as usize..nodes[1] as usize;
            let edges = edges[own_edges[0] as usize..own_edges[1] as usize].to_vec();
            table.check_below("edges", edges.as_flattened(), nodes.len())?;
            workflows.push(IndexedWorkflow {
                ids: ids[nodes.clone()].to_vec(),
                texts: node_texts[nodes].to_vec(),
                edges,
            });
        }

        let mut splits = BTreeMap::new();
        for split in &table.info.splits {
            let records = Records {
                workflow: table.values(&format!("{split}.workflow"))?,
                task: table.values(&format!("{split}.task"))?,
                label: table.values(&format!("{split}.label"))?,
                workflow_id: table.values(&format!("{split}.workflow_id"))?,
                task_id: table.values(&format!("{split}.task_id"))?,
                line: table.values(&format!("{split}.line"))?,
            };
            let lengths = [records.task.len(), records.label.len(), records.workflow_id.len(), records.task_id.len()];
            if lengths.iter().chain([&records.line.len()]).any(|length| *length != records.len()) {
                return Err(table.damaged(format!("the columns of the split `{split}` differ in length")));
            }
            table.check_below("workflow", &records.workflow, workflows.len())?;
            table.check_below("task", &records.task, texts.len())?;
            splits.insert(*split, records);
        }
        let Info { sources, conflicting_ids, .. } = table.info;
        Ok(Self { texts, workflows, splits, sources, conflicting_ids })
    }
}
