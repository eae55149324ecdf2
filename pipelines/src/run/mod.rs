//! Running a recipe: stage after stage, each skipped when it is finished and continued when it was interrupted.
//!
//! What is on disk, and when a stage counts as finished, is described in [`folder`].

mod answers;
mod chats;
mod context;
mod embed;
mod embedded;
mod error;
pub mod folder;
mod glow_eval;
mod glow_train;
mod graph_question_eval;
mod graph_questions;
mod hashes;
mod judge_chats;
mod judge_data;
mod judge_eval;
mod judge_prompted;
mod merge_lora;
mod predictor;
mod results_csv;
mod scout;
mod scratch;
mod sentences;
mod sft;
mod sft_passes;
mod sft_samples;
mod sources;
mod targets;
mod value_head;
mod warm_up;

pub(crate) use chats::{Chats, table as chats_table};
pub use context::{StageContext, StageEnd, be_quiet, is_quiet, say};
pub(crate) use embed::Embedder;
pub use embedded::{EmbedInfo, EmbeddedData, InputScale, Keys, Standardization, Table, glow_data};
pub use error::Error;
pub use glow_train::predictor_folder;
pub(crate) use graph_question_eval::questions_file;
pub(crate) use graph_questions::templates as load_words;
pub use hashes::Hashes;
pub(crate) use judge_data::JudgeData;
pub use merge_lora::{MergeReport, merge};
pub(crate) use merge_lora::{WriteModel, write_model};
pub use predictor::{PredictorFile, Scored, StoredPredictor};
pub(crate) use scout::{Scout, files_of};
pub(crate) use sentences::{Reader, prompted_rows};
pub(crate) use sft::{adapter_folder, sample_options, step_plan, steps as sft_steps};
pub(crate) use sft_passes::Passes;
pub(crate) use value_head::value_prompts;

use crate::device::DeviceSpec;
use crate::hub::Folders;
use crate::recipe::{Recipe, Stage};
use crate::report::{Manifest, Status, Timings};
use crate::train::stop_requested;
use folder::{RunFolder, StageState, stage_state, start_stage, was_started, write_json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Which stages of a recipe to run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Only the stage of this name; the ones it reads must be finished.
    pub only: Option<String>,
    /// The stage of this name and those after it; the ones they read must be finished.
    pub from: Option<String>,
    /// Start the selected stages again, even finished ones.
    pub fresh: bool,
    /// What was fetched from a hub: everything that [`hub::needed`](crate::hub::needed) lists.
    pub hub: Folders,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// All selected stages are finished.
    Finished,
    /// Stopped by Ctrl-C; everything is saved, and the same command continues.
    Interrupted,
}

/// Runs the selected stages of a checked recipe. `source` is its text, kept in the run folder.
///
/// # Errors
/// See [`Error`]. A stage that fails leaves what it saved, and no manifest.
pub fn execute(recipe: &Recipe, source: &str, options: &RunOptions) -> Result<RunEnd, Error> {
    let init = |device: &DeviceSpec| {
        device.init().map_err(|e| Error::Stage { stage: recipe.name.clone(), reason: e.to_string() })
    };
    let device = init(&recipe.device)?;
    let further_devices = recipe.further_devices.iter().map(init).collect::<Result<Vec<_>, _>>()?;
    let run = RunFolder::open(recipe.run_dir())?;
    datasets::atomic::write_file(run.path().join("recipe.ron"), source.as_bytes())?;
    write_json(&run.path().join("plan.json"), recipe)?;
    let mut hashes = Hashes::open(recipe.cache_dir().join("hashes.json"));
    let selected = |index: usize, name: &str| match (&options.only, &options.from) {
        (Some(only), _) => name == only,
        (None, Some(from)) => recipe.stage_index(from).is_none_or(|start| index >= start),
        (None, None) => true,
    };

    let mut fingerprints: BTreeMap<String, String> = BTreeMap::new();
    let mut finished: BTreeMap<String, PathBuf> = BTreeMap::new();
    let total = recipe.stages.len();
    for (index, stage) in recipe.stages.iter().enumerate() {
        let name = stage.name().to_string();
        let context = StageContext {
            recipe,
            run: &run,
            device: device.clone(),
            further_devices: &further_devices,
            number: index + 1,
            total,
            name: name.clone(),
            folder: run.stage(index + 1, &name)?,
            finished: &finished,
            hub: &options.hub,
        };
        let selected = selected(index, &name);
        let missing = context.missing_input(stage);
        if let Some(input) = missing {
            if selected {
                return Err(Error::NotFinished { stage: name, input });
            }
            continue;
        }
        let inputs = context.input_hashes(stage, &fingerprints, &mut hashes)?;
        let fingerprint = fingerprint(recipe, stage, &inputs)?;
        let mut state = stage_state(&context.folder, &fingerprint);
        if selected && options.fresh {
            state = StageState::Absent;
        }
        if selected && !matches!(state, StageState::Finished(_)) && stop_requested() {
            context.say("interrupted before it started; the same command continues");
            hashes.save()?;
            return Ok(RunEnd::Interrupted);
        }
        match (&state, selected) {
            (StageState::Finished(manifest), _) => {
                if selected {
                    context.say(&format!("finished before ({:.1} s)", manifest.timings.seconds));
                }
            }
            (_, false) => continue,
            (StageState::Absent, true) if was_started(&context.folder) => {
                let kept = run.replace(&context.folder)?;
                let why = if options.fresh { "" } else { "settings or inputs changed: " };
                context.say(&format!("{why}starting again (before: {})", kept.display()));
            }
            (StageState::Started, true) => context.say("continuing"),
            (StageState::Absent, true) => context.say("starting"),
        }
        if !matches!(state, StageState::Finished(_)) {
            start_stage(&context.folder, &fingerprint)?;
            let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
            let clock = Instant::now();
            match context.execute(stage)? {
                StageEnd::Interrupted => {
                    context.say("interrupted; everything is saved, the same command continues");
                    hashes.save()?;
                    return Ok(RunEnd::Interrupted);
                }
                StageEnd::Done { metrics, artefacts, earlier_seconds } => {
                    let seconds = earlier_seconds + clock.elapsed().as_secs_f64();
                    Manifest {
                        stage: name.clone(),
                        kind: stage.kind().as_str().into(),
                        status: Status::Done,
                        version: env!("CARGO_PKG_VERSION").into(),
                        seed: recipe.seed,
                        settings: settings(stage)?,
                        inputs,
                        metrics,
                        timings: Timings { seconds, started },
                        artefacts,
                    }
                    .write(&context.folder)?;
                    context.say(&format!("done in {seconds:.1} s"));
                }
            }
        }
        finished.insert(name.clone(), context.folder.clone());
        fingerprints.insert(name, fingerprint);
    }
    hashes.save()?;
    Ok(RunEnd::Finished)
}

/// The stage's fields, without the name of its kind around them.
fn settings(stage: &Stage) -> Result<serde_json::Value, Error> {
    let value = serde_json::to_value(stage)
        .map_err(|e| Error::Stage { stage: stage.name().to_string(), reason: e.to_string() })?;
    Ok(match value {
        serde_json::Value::Object(map) => map.into_iter().next().map_or(serde_json::Value::Null, |(_, fields)| fields),
        other => other,
    })
}

/// Settings that change nothing about what a stage computes: an interrupted stage goes on when one of them changes.
const WITHOUT_EFFECT: [&str; 3] = ["name", "checkpoint", "client"];

/// See [`folder`].
fn fingerprint(recipe: &Recipe, stage: &Stage, inputs: &BTreeMap<String, String>) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    let mut settings = settings(stage)?;
    if let Some(fields) = settings.as_object_mut() {
        fields.retain(|key, _| !WITHOUT_EFFECT.contains(&key.as_str()));
    }
    for part in [
        env!("CARGO_PKG_VERSION").to_string(),
        stage.kind().as_str().to_string(),
        recipe.seed.to_string(),
        settings.to_string(),
    ] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    for (name, hash) in inputs {
        hasher.update(name.as_bytes());
        hasher.update(hash.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
