//! Checkpoints that are whole or not there.
//!
//! `checkpoints/step-00000123/` holds `model.bpk` (trainable parameters only: a frozen base is not written again),
//! `optimizer.bpk`, with an average of the parameters `average.bpk`, and `state.json`. The folder is written under a temporary name, flushed to disk and renamed, and
//! `state.json` carries the BLAKE3 hashes of the other files, so a torn or damaged checkpoint is never loaded: the one before it
//! is.

use super::average::Average;
use super::early_stopping::EarlyStopping;
use super::error::Error;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where a training stage stands. Batches, learning rate and random streams are functions of the step, so this is all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// Optimizer steps done.
    pub step: usize,
    /// Best score, patience.
    pub early_stopping: EarlyStopping,
    /// Seconds of training before this point.
    pub seconds: f64,
    /// Whether the early-stopping rule has ended the stage.
    pub stopped: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    state: TrainState,
    files: BTreeMap<String, String>,
}

/// The checkpoints of one training stage.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const AVERAGE: &str = "average.bpk";
const STATE: &str = "state.json";

impl Checkpoints {
    /// The checkpoints below `folder`; the newest `keep` (at least 1) are kept.
    pub fn new(folder: impl Into<PathBuf>, keep: usize) -> Self {
        Self { folder: folder.into(), keep: keep.max(1) }
    }

    /// Writes the trainable parameters of `model`, their average where there is one, the optimizer and the state.
    ///
    /// # Errors
    /// [`Error::Io`] where the disk refuses; nothing is left under the checkpoint's name then.
    pub fn save<M: Module>(
        &self,
        model: &M,
        average: Option<&Average>,
        optimizer: &ModuleOptimizer,
        state: &TrainState,
    ) -> Result<(), Error> {
        let target = self.folder.join(format!("step-{:08}", state.step));
        let scratch = self.folder.join(format!(".step-{:08}.partial", state.step));
        let io = |e| Error::io(&scratch)(e);
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(io)?;
        }
        fs::create_dir_all(&scratch).map_err(io)?;

        let record_failed =
            |e: burn::store::RecordError| Error::Checkpoint { path: target.clone(), reason: e.to_string() };
        let mut names = vec![MODEL, OPTIMIZER];
        model.clone().into_record_group(trainable(model)).save(scratch.join(MODEL)).map_err(record_failed)?;
        optimizer.to_record().save(scratch.join(OPTIMIZER)).map_err(record_failed)?;
        if let Some(average) = average {
            let record = average.apply(model).into_record_group(trainable(model));
            record.save(scratch.join(AVERAGE)).map_err(record_failed)?;
            names.push(AVERAGE);
        }

        let mut files = BTreeMap::new();
        for name in names {
            files.insert(name.to_string(), hash(&scratch.join(name))?);
            File::open(scratch.join(name)).and_then(|f| f.sync_all()).map_err(io)?;
        }
        let text = serde_json::to_vec_pretty(&StateFile { state: state.clone(), files }).map_err(|e| io(e.into()))?;
        fs::write(scratch.join(STATE), text).map_err(io)?;
        File::open(scratch.join(STATE)).and_then(|f| f.sync_all()).map_err(io)?;
        if target.exists() {
            fs::remove_dir_all(&target).map_err(io)?;
        }
        fs::rename(&scratch, &target).map_err(io)?;
        // Makes the rename itself durable.
        File::open(&self.folder).and_then(|f| f.sync_all()).map_err(io)?;
        self.prune(&target);
        Ok(())
    }

    /// The newest checkpoint that is whole, loaded into `model` and `optimizer`; `None` where there is none. Damaged ones are
    /// passed over with a warning. The second model has the averages, where the checkpoint holds some.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where a whole checkpoint does not fit the model.
    pub fn load<M: Module>(
        &self,
        model: M,
        optimizer: ModuleOptimizer,
    ) -> Result<(M, Option<M>, ModuleOptimizer, Option<TrainState>), Error> {
        for folder in self.list().into_iter().rev() {
            let (state, averaged) = match verify(&folder) {
                Ok(StateFile { state, files }) => (state, files.contains_key(AVERAGE)),
                Err(reason) => {
                    tracing::warn!("{}: {reason}; using the checkpoint before it", folder.display());
                    continue;
                }
            };
            let wrong = |reason: String| Error::Checkpoint { path: folder.clone(), reason };
            let load = |name: &str| {
                let record = ModuleRecord::load(folder.join(name)).map_err(|e| wrong(e.to_string()))?;
                let loaded = model.clone().try_load_record(record.allow_partial(true));
                loaded.map_err(|e| wrong(format!("the model of the recipe is another one ({e})")))
            };
            let average = averaged.then(|| load(AVERAGE)).transpose()?;
            let model = load(MODEL)?;
            let record = OptimizerRecord::load(folder.join(OPTIMIZER)).map_err(|e| wrong(e.to_string()))?;
            return Ok((model, average, optimizer.load_record(record), Some(state)));
        }
        Ok((model, None, optimizer, None))
    }

    /// The folders of finished checkpoints, oldest first.
    fn list(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let mut found: Vec<PathBuf> = entries
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("step-")))
            .collect();
        found.sort();
        found
    }

    /// Keeps the newest checkpoints up to `current`. Those of later steps are damaged: training went back before them.
    fn prune(&self, current: &Path) {
        let (kept, later): (Vec<_>, Vec<_>) = self.list().into_iter().partition(|folder| folder <= current);
        let outdated = kept[..kept.len().saturating_sub(self.keep)].iter();
        for old in outdated.chain(&later) {
            if let Err(e) = fs::remove_dir_all(old) {
                tracing::warn!("{}: an old checkpoint could not be removed: {e}", old.display());
            }
        }
    }
}

/// Reads `state.json` and compares the hashes of the other files.
fn verify(folder: &Path) -> Result<StateFile, String> {
    let text = fs::read_to_string(folder.join(STATE)).map_err(|e| format!("{STATE}: {e}"))?;
    let file: StateFile = serde_json::from_str(&text).map_err(|e| format!("{STATE}: {e}"))?;
    if let Some(name) = [MODEL, OPTIMIZER].into_iter().find(|name| !file.files.contains_key(*name)) {
        return Err(format!("{STATE} does not list {name}"));
    }
    for (name, want) in file.files.iter().filter(|(name, _)| [MODEL, OPTIMIZER, AVERAGE].contains(&name.as_str())) {
        if hash(&folder.join(name)).map_err(|e| e.to_string())? != *want {
            return Err(format!("{name} is damaged (its hash is not the one in {STATE})"));
        }
    }
    Ok(file)
}

fn hash(path: &Path) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(Error::io(path))?;
    std::io::copy(&mut std::io::BufReader::with_capacity(1 << 20, file), &mut hasher).map_err(Error::io(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

struct Trainable(Vec<ParamId>);

impl ModuleVisitor for Trainable {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.0.push(param.id);
        }
    }
}

fn trainable<M: Module>(model: &M) -> ParamGroup {
    let mut visitor = Trainable(Vec::new());
    model.visit(&mut visitor);
    ParamGroup::from_ids(visitor.0)
}
