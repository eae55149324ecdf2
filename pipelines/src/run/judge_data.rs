//! What the stages that judge with a language model read: FLORA records, and the words around them.

use super::context::StageContext;
use super::error::Error;
use super::glow_eval::write_scores;
use super::graph_questions::templates;
use crate::eval::{GlowMetrics, ScoredRecord, UtilityOptions};
use crate::recipe::{Labels, Source};
use datasets::flora::{OnBadEdge, ReadOptions};
use datasets::index::{FloraIndex, Records};
use datasets::templates::Templates;
use datasets::{Error as DataError, Split};
use std::collections::BTreeMap;
use std::path::Path;

/// Records with their words.
pub(crate) struct JudgeData {
    pub(super) index: FloraIndex,
    pub(super) templates: Templates,
}

impl JudgeData {
    /// Reads some splits.
    pub(crate) fn read(
        context: &StageContext,
        data: &Source,
        splits: &[Split],
        labels: Labels,
        on_bad_edge: OnBadEdge,
        words: Option<&Path>,
    ) -> Result<Self, Error> {
        let folder = context.path("data", data)?;
        let options =
            ReadOptions { splits: splits.to_vec(), labels: labels.into(), on_bad_edge, ..ReadOptions::default() };
        Ok(Self { index: FloraIndex::read(&folder, &options)?, templates: templates(words)? })
    }

    /// The records of a split that was read.
    pub(crate) fn records(&self, split: Split) -> Result<&Records, Error> {
        let missing = || DataError::NoSplit { folder: "data".into(), split: split.name() };
        Ok(self.index.split(split).ok_or_else(missing)?)
    }
}

/// Writes `scores-<name>.jsonl` and gives the metrics: what `GlowEval` does with the scores of a predictor.
pub(super) fn evaluate(
    context: &StageContext,
    name: &str,
    records: &Records,
    scores: &[f64],
    threshold: f64,
    utility: &UtilityOptions,
) -> Result<(String, BTreeMap<String, Option<f64>>), Error> {
    let scored: Vec<ScoredRecord> = (scores.iter().enumerate())
        .map(|(record, score)| ScoredRecord {
            workflow_id: records.workflow_id[record],
            task_id: records.task_id[record],
            label: f64::from(records.label[record]),
            score: *score,
        })
        .collect();
    let file = format!("scores-{name}.jsonl");
    write_scores(&context.folder.join(&file), &scored)?;
    let found = GlowMetrics::compute(&scored, threshold, utility)?;
    context.say(&format!(
        "accuracy {:.4} (majority {:.4}), utility {}",
        found.classes.accuracy,
        found.classes.majority,
        found.utility.map_or("undefined".into(), |u| format!("{u:.4}")),
    ));
    Ok((file, found.flat()))
}
