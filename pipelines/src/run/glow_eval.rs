//! The stage that evaluates a GLOW predictor.

use super::context::{StageContext, StageEnd};
use super::embedded::EmbeddedData;
use super::error::Error;
use super::folder::write_json;
use super::glow_train::{BEST, FINAL};
use super::predictor::{PredictorFile, Scored, StoredPredictor};
use super::results_csv::{self, Origin};
use super::targets::{Target, embed, targets};
use crate::eval::pca::pca;
use crate::eval::{GlowMetrics, ScoredRecord};
use crate::recipe::{GlowEval, Recipe, Weights};
use crate::report::{EVALUATED, Evaluated};
use datasets::atomic::{AtomicFile, write_file};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn run(context: &StageContext, stage: &GlowEval) -> Result<StageEnd, Error> {
    if let Some(path) = &stage.csv {
        results_csv::existing(path)?;
    }
    let embeddings = context.path("embeddings", &stage.embeddings)?;
    let weights = context.path("weights", &stage.weights)?;
    let checkpoints: Vec<(Weights, StoredPredictor)> = (stage.checkpoints.iter())
        .map(|weight| Ok((*weight, PredictorFile::load(&weights.join(folder(*weight)), &context.device)?)))
        .collect::<Result<_, Error>>()?;
    let trained_on = checkpoints.first().map(|(_, stored)| stored.file.data.clone()).unwrap_or_default();

    let mut metrics = BTreeMap::new();
    let mut artefacts = vec![EVALUATED.to_string()];
    let mut evaluated = Vec::new();
    let mut rows = Vec::new();
    let plan = serde_json::to_value(context.recipe).map_err(|e| context.error(e.to_string()))?;
    let recipe_hash = Recipe::hash_without_seed(&plan);
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    for target in targets(context, stage, &trained_on)? {
        // The metrics of the embeddings' own data carry their plain names.
        let (name, data) = match &target {
            Target::Own => {
                let data = EmbeddedData::load(&embeddings)?;
                (None, data)
            }
            Target::Other { name, folder } => {
                match embed(context, &EmbeddedData::info(&embeddings)?, folder, stage.split)? {
                    Some(data) => (Some(name.as_str()), data),
                    None => return Ok(StageEnd::Interrupted),
                }
            }
        };
        let records = data.records(stage.split)?;
        for (number, (checkpoint, stored)) in checkpoints.iter().enumerate() {
            let vectors = stage.plots.then_some(MAP_POINTS);
            let output = stored.evaluate(data.clone(), stage.split, stage.batch_size, vectors, &context.device)?;
            let scored: Vec<ScoredRecord> = (output.scores.iter().enumerate())
                .map(|(i, score)| ScoredRecord {
                    workflow_id: records.workflow_id[i],
                    task_id: records.task_id[i],
                    label: f64::from(records.label[i]),
                    score: f64::from(*score),
                })
                .collect();
            let weights = folder(*checkpoint);
            let label = name.map_or_else(|| weights.to_string(), |name| format!("{name}.{weights}"));
            let scores = format!("scores-{label}.jsonl");
            write_scores(&context.folder.join(&scores), &scored)?;
            if stage.plots {
                let map = format!("map-{label}.csv");
                write_map(&context.folder.join(&map), &output, &scored)?;
                artefacts.push(map);
            }
            let found = GlowMetrics::compute(&scored, stage.threshold, &stage.utility)?;
            let intervals = stage.bootstrap.intervals(&scored, stage.threshold, &stage.utility)?;
            context.say(&format!(
                "{label}: accuracy {:.4} (majority {:.4}), utility {}",
                found.classes.accuracy,
                found.classes.majority,
                found.utility.map_or("undefined".into(), |u| format!("{u:.4}")),
            ));
            // So do those of the first checkpoint.
            let parts = name.into_iter().chain((number > 0).then_some(weights));
            let prefix: String = parts.map(|part| format!("{part}.")).collect();
            let mut flat = found.flat();
            flat.extend(intervals.iter().flat_map(|intervals| intervals.flat()));
            metrics.extend(flat.into_iter().map(|(metric, value)| (format!("{prefix}{metric}"), value)));
            let target = name.map_or_else(|| data.name(), str::to_string);
            let origin = Origin {
                data: &target,
                trained_on: &trained_on,
                tag: match checkpoint {
                    Weights::Best => "Best Val",
                    Weights::Final => "Final",
                },
                seed: context.recipe.seed,
                recipe_hash: &recipe_hash,
                timestamp,
            };
            rows.push(results_csv::row(&origin, &found));
            evaluated.push(Evaluated {
                trained_on: trained_on.clone(),
                target,
                checkpoint: weights.to_string(),
                prefix,
                scores: scores.clone(),
            });
            artefacts.push(scores);
        }
    }
    write_json(&context.folder.join(EVALUATED), &evaluated)?;
    // Last, so that a row stands for an evaluation that is complete.
    if let Some(path) = &stage.csv {
        results_csv::append(path, &rows)?;
    }
    let artefacts: Vec<&str> = artefacts.iter().map(String::as_str).collect();
    Ok(StageEnd::done(metrics, &artefacts))
}

/// Where the training stage keeps these weights.
fn folder(weights: Weights) -> &'static str {
    match weights {
        Weights::Best => BEST,
        Weights::Final => FINAL,
    }
}

/// Points of a map.
const MAP_POINTS: usize = 2000;

/// The two principal components of the fused vectors as CSV: `x`, `y`, `label`.
fn write_map(path: &Path, output: &Scored, scored: &[ScoredRecord]) -> Result<(), Error> {
    let found = pca(&output.vectors, output.records.len());
    let mut table = String::from("x,y,label\n");
    for ([x, y], record) in found.points.iter().zip(&output.records) {
        table += &format!("{x},{y},{}\n", scored[*record].label);
    }
    Ok(write_file(path, table.as_bytes())?)
}

pub(super) fn write_scores(path: &Path, scored: &[ScoredRecord]) -> Result<(), Error> {
    let mut file = AtomicFile::create(path)?;
    for record in scored {
        let line = serde_json::to_string(record).map_err(|e| Error::io(path)(e.into()))?;
        writeln!(file, "{line}").map_err(Error::io(path))?;
    }
    Ok(file.commit()?)
}
