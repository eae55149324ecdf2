//! Splits in which no workflow, or no task, of one split occurs in another.

use super::{FloraIndex, Records};
use crate::error::{Error, Result};
use crate::rng::stream;
use crate::splits::Split;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Which records belong to which split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub enum SplitBy {
    /// As the files say. FLORA-Bench splits pairs of a workflow and a task: nearly every workflow and task of the test split is
    /// in the training split too.
    #[default]
    Files,
    /// All records are split anew, all those of one workflow into the same split: who is tested has never seen the workflow.
    /// With its seed.
    ByWorkflow(u64),
    /// The same with tasks. With its seed.
    ByTask(u64),
}

/// What a record is grouped by.
type Column = fn(&Records) -> &[u32];

impl FloraIndex {
    /// Splits all records anew. The splits keep their sizes as nearly as whole workflows (tasks) allow, and none is empty. Two
    /// workflows are one if their content is the same, whatever their numbers.
    ///
    /// The workflows are shuffled; the first three go to one split each, every other one to the split that lacks most records.
    ///
    /// # Errors
    /// Fewer workflows (tasks) than splits.
    pub fn resplit(&mut self, by: SplitBy) -> Result<()> {
        let (seed, what, column): (u64, &str, Column) = match by {
            SplitBy::Files => return Ok(()),
            SplitBy::ByWorkflow(seed) => (seed, "workflow", |records| &records.workflow),
            SplitBy::ByTask(seed) => (seed, "task", |records| &records.task),
        };
        let mut sizes: HashMap<u32, usize> = HashMap::new();
        let mut groups: Vec<u32> = Vec::new();
        for group in self.splits.values().flat_map(column) {
            let size = sizes.entry(*group).or_insert_with(|| {
                groups.push(*group);
                0
            });
            *size += 1;
        }
        let mut lacking: Vec<(Split, i64)> =
            self.splits.iter().map(|(split, records)| (*split, records.len() as i64)).collect();
        if groups.len() < lacking.len() {
            return Err(Error::Setting {
                key: "split".into(),
                expected: format!("at least {} distinct {what}s, one for each split", lacking.len()),
                found: groups.len().to_string(),
            });
        }
        groups.shuffle(&mut stream(seed, "resplit", &[what.as_bytes()]));
        let mut place: HashMap<u32, Split> = HashMap::new();
        for (nth, group) in groups.iter().enumerate() {
            let chosen = match lacking.get(nth) {
                Some(_) => nth,
                None => (0..lacking.len()).rev().max_by_key(|i| lacking[*i].1).unwrap_or_default(),
            };
            let (split, lacks) = &mut lacking[chosen];
            *lacks -= sizes[group] as i64;
            place.insert(*group, *split);
        }
        let old = std::mem::take(&mut self.splits);
        for (split, _) in &lacking {
            self.splits.insert(*split, Records::default());
        }
        for records in old.values() {
            for (i, group) in column(records).iter().enumerate() {
                if let Some(new) = self.splits.get_mut(&place[group]) {
                    new.workflow.push(records.workflow[i]);
                    new.task.push(records.task[i]);
                    new.label.push(records.label[i]);
                    new.workflow_id.push(records.workflow_id[i]);
                    new.task_id.push(records.task_id[i]);
                    new.line.push(records.line[i]);
                }
            }
        }
        Ok(())
    }
}
