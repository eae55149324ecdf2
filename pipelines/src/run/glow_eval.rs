//! The stage that evaluates a GLOW predictor.

use super::context::{StageContext, StageEnd};
use super::embedded::EmbeddedData;
use super::error::Error;
use super::glow_train::{BEST, FINAL};
use super::predictor::PredictorFile;
use crate::eval::{GlowMetrics, ScoredRecord};
use crate::recipe::{GlowEval, Weights};
use datasets::atomic::AtomicFile;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

pub(super) fn run(context: &StageContext, stage: &GlowEval) -> Result<StageEnd, Error> {
    let data = EmbeddedData::load(&context.path("embeddings", &stage.embeddings)?)?;
    let records = data.records(stage.split)?;
    let weights = context.path("weights", &stage.weights)?;

    let mut metrics = BTreeMap::new();
    let mut artefacts = Vec::new();
    for (number, checkpoint) in stage.checkpoints.iter().enumerate() {
        let name = match checkpoint {
            Weights::Best => BEST,
            Weights::Final => FINAL,
        };
        let stored = PredictorFile::load(&weights.join(name), &context.device)?;
        let scores = stored.score(data.clone(), stage.split, stage.batch_size, &context.device)?;
        let scored: Vec<ScoredRecord> = (scores.into_iter().enumerate())
            .map(|(i, score)| ScoredRecord {
                workflow_id: records.workflow_id[i],
                task_id: records.task_id[i],
                label: f64::from(records.label[i]),
                score: f64::from(score),
            })
            .collect();
        let file = format!("scores-{name}.jsonl");
        write_scores(&context.folder.join(&file), &scored)?;
        artefacts.push(file);
        let found = GlowMetrics::compute(&scored, stage.threshold, &stage.utility)?;
        context.say(&format!(
            "{name}: accuracy {:.4} (majority {:.4}), utility {}",
            found.classes.accuracy,
            found.classes.majority,
            found.utility.map_or("undefined".into(), |u| format!("{u:.4}")),
        ));
        // The first checkpoint's metrics carry their plain names.
        let prefix = if number == 0 { String::new() } else { format!("{name}.") };
        metrics.extend(found.flat().into_iter().map(|(metric, value)| (format!("{prefix}{metric}"), value)));
    }
    let artefacts: Vec<&str> = artefacts.iter().map(String::as_str).collect();
    Ok(StageEnd::done(metrics, &artefacts))
}

pub(super) fn write_scores(path: &Path, scored: &[ScoredRecord]) -> Result<(), Error> {
    let mut file = AtomicFile::create(path)?;
    for record in scored {
        let line = serde_json::to_string(record).map_err(|e| Error::io(path)(e.into()))?;
        writeln!(file, "{line}").map_err(Error::io(path))?;
    }
    Ok(file.commit()?)
}
