//! What a stage knows of the run it belongs to.

use super::error::Error;
use super::folder::RunFolder;
use super::hashes::Hashes;
use super::{
    embed, glow_eval, glow_train, graph_question_eval, graph_questions, judge_chats, judge_eval, judge_prompted,
    merge_lora, sft, sources, value_head,
};
use crate::hub::{Folders, Repo};
use crate::recipe::{DataSource, ModelSource, Recipe, Source, Stage};
use burn::tensor::Device;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// One stage of a run in progress.
pub struct StageContext<'a> {
    /// The resolved recipe.
    pub recipe: &'a Recipe,
    /// The run's folder.
    pub run: &'a RunFolder,
    /// The device, without autodiff.
    pub device: Device,
    /// The recipe's further devices, without autodiff.
    pub further_devices: &'a [Device],
    /// The stage's number, from 1.
    pub number: usize,
    /// The number of stages.
    pub total: usize,
    /// The stage's name.
    pub name: String,
    /// Where it keeps its files.
    pub folder: PathBuf,
    /// The folders of the finished stages before it.
    pub finished: &'a BTreeMap<String, PathBuf>,
    /// What was fetched from a hub.
    pub hub: &'a Folders,
}

/// How a stage ended.
pub enum StageEnd {
    /// All its files are written.
    Done {
        /// Flat metric → number.
        metrics: BTreeMap<String, Option<f64>>,
        /// Files, relative to the stage's folder.
        artefacts: Vec<String>,
        /// Seconds of work before an interruption.
        earlier_seconds: f64,
    },
    /// It was asked to stop; a later run continues it.
    Interrupted,
}

impl StageEnd {
    /// Done without an interruption before.
    pub fn done(metrics: BTreeMap<String, Option<f64>>, artefacts: &[&str]) -> Self {
        Self::Done { metrics, artefacts: artefacts.iter().map(|a| a.to_string()).collect(), earlier_seconds: 0.0 }
    }

    /// The same, with this much work done before an interruption.
    pub fn after(self, earlier_seconds: f64) -> Self {
        match self {
            Self::Done { metrics, artefacts, .. } => Self::Done { metrics, artefacts, earlier_seconds },
            Self::Interrupted => Self::Interrupted,
        }
    }
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on only errors are written to standard error.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether only errors are to be written.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Writes a line to standard error, unless only errors are wanted; a closed one is no reason to stop.
pub fn say(line: &str) {
    if is_quiet() {
        return;
    }
    let _ = writeln!(std::io::stderr(), "{line}");
}

impl StageContext<'_> {
    /// `[2/6 prefinetune]`: how the stage is called on the screen.
    pub fn label(&self) -> String {
        format!("{}/{} {}", self.number, self.total, self.name)
    }

    /// Writes a line about this stage to standard error.
    pub fn say(&self, what: &str) {
        say(&format!("[{}] {what}", self.label()));
    }

    /// An error about this stage.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::Stage { stage: self.name.clone(), reason: reason.into() }
    }

    /// An error about one of its inputs.
    pub fn input_error(&self, field: &'static str, path: &Path, reason: impl Into<String>) -> Error {
        Error::Input { stage: self.name.clone(), field, path: path.into(), reason: reason.into() }
    }

    /// Says that `size` things to draw from are fewer than a batch, where batches may shrink to that.
    ///
    /// # Errors
    /// Where they may not.
    pub(super) fn batch_fits(
        &self,
        field: &str,
        batch: usize,
        size: usize,
        what: &str,
        shrink: bool,
    ) -> Result<(), Error> {
        match (size < batch, shrink) {
            (false, _) => Ok(()),
            (true, true) => {
                self.say(&format!("`{field}` is {batch}, but there are only {size} {what}: a batch is all of them"));
                Ok(())
            }
            (true, false) => Err(self.error(format!(
                "`{field}` is {batch}, but there are only {size} {what}: use a smaller one, or `shrink_batch: true`"
            ))),
        }
    }

    /// The name of a stage that `stage` reads and that is not finished.
    pub(super) fn missing_input(&self, stage: &Stage) -> Option<String> {
        stage.inputs().into_iter().find_map(|(_, source)| match source {
            Source::Stage(name) if !self.finished.contains_key(name) => Some(name.clone()),
            _ => None,
        })
    }

    /// The fingerprint or content hash of everything the stage reads.
    pub(super) fn input_hashes(
        &self,
        stage: &Stage,
        fingerprints: &BTreeMap<String, String>,
        hashes: &mut Hashes,
    ) -> Result<BTreeMap<String, String>, Error> {
        let mut found = BTreeMap::new();
        for (index, (field, source)) in stage.inputs().into_iter().enumerate() {
            let hash = match source {
                Source::Stage(name) => fingerprints.get(name).cloned().unwrap_or_default(),
                _ => match self.made(source)? {
                    // What is made from the recipe is known by its settings.
                    Some(settings) => format!("{settings}, seed {}", self.recipe.seed),
                    None => {
                        if let Some(hash) = self.mixture_hash(source, hashes)? {
                            found.insert(format!("{index} {field} {source}"), hash);
                            continue;
                        }
                        let path = self.path(field, source)?;
                        let mut parts = Vec::new();
                        for file in datasets::matching(&path)? {
                            if !file.exists() {
                                return Err(self.input_error(field, &path, "there is no such file or folder"));
                            }
                            parts.push(hashes.of(&file)?);
                        }
                        parts.join(" ")
                    }
                },
            };
            found.insert(format!("{index} {field} {source}"), hash);
        }
        if let Some(templates) = stage.templates() {
            found.insert("templates".into(), hashes.of(templates)?);
        }
        Ok(found)
    }

    /// The settings and the content hashes of chats of which more is said than a path.
    fn mixture_hash(&self, source: &Source, hashes: &mut Hashes) -> Result<Option<String>, Error> {
        let Source::Data(key) = source else { return Ok(None) };
        let Some(DataSource::Chat(data)) = self.recipe.data.get(key) else { return Ok(None) };
        if data.only_path().is_some() {
            return Ok(None);
        }
        let chats = super::chats::Chats::of(self, source)?;
        let mut parts = vec![chats.settings()];
        for file in chats.all_files() {
            parts.push(hashes.of(file)?);
        }
        Ok(Some(parts.join(" ")))
    }

    /// The settings of a source that Hearth makes itself, as text.
    fn made(&self, source: &Source) -> Result<Option<String>, Error> {
        let text = |value: serde_json::Result<String>| value.map(Some).map_err(|e| self.error(e.to_string()));
        match source {
            Source::Model(key) => match self.recipe.models.get(key) {
                Some(ModelSource::Init(init)) => {
                    // A branch may stand for another commit by now; the folder's name has it.
                    let tokenizer = init.hub_tokenizer().map(|hub| self.fetched(&Repo::tokenizer(hub))).transpose()?;
                    let tokenizer = tokenizer.map_or(String::new(), |folder| format!(" {}", folder.display()));
                    Ok(text(serde_json::to_string(&(key, init)))?.map(|settings| settings + &tokenizer))
                }
                _ => Ok(None),
            },
            Source::Data(key) => match self.recipe.data.get(key) {
                Some(DataSource::Synthetic(config)) => text(serde_json::to_string(&(key, config))),
                Some(DataSource::SyntheticChats(config)) => text(serde_json::to_string(&(key, config))),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// The folder or file that a source means. What has to be made first is made.
    pub fn path(&self, field: &'static str, source: &Source) -> Result<PathBuf, Error> {
        let unknown = || self.input_error(field, Path::new(&source.to_string()), "the recipe has no such entry");
        match source {
            Source::Path(path) => Ok(path.clone()),
            Source::Hub(hub) => self.fetched(&Repo::model(hub)),
            Source::Stage(name) => self.finished.get(name).cloned().ok_or_else(unknown),
            Source::Model(key) => match self.recipe.models.get(key).ok_or_else(unknown)? {
                ModelSource::Path(path) => Ok(path.clone()),
                ModelSource::Hub(hub) => self.fetched(&Repo::model(hub)),
                ModelSource::Init(init) => sources::model(self, key, init),
            },
            Source::Data(key) => match self.recipe.data.get(key).ok_or_else(unknown)? {
                DataSource::Flora(path) => Ok(path.clone()),
                DataSource::Chat(data) => data.only_path().map(Path::to_owned).ok_or_else(|| {
                    self.input_error(
                        field,
                        Path::new(&source.to_string()),
                        "only an Sft stage reads chats of this form",
                    )
                }),
                DataSource::Hub(hub) => self.fetched(&Repo::data(hub)),
                DataSource::Synthetic(config) => sources::synthetic(self, key, config),
                DataSource::SyntheticChats(config) => sources::chats(self, key, config),
            },
        }
    }

    /// The folder of what was fetched from a hub before the run.
    pub(super) fn fetched(&self, repo: &Repo) -> Result<PathBuf, Error> {
        self.hub.get(repo).cloned().ok_or_else(|| self.error(format!("{repo} was not fetched")))
    }

    /// The folder of a decoder or encoder in Hugging Face layout: a stage that made one keeps it in `model/`.
    pub fn model_folder(&self, field: &'static str, source: &Source) -> Result<PathBuf, Error> {
        let path = self.path(field, source)?;
        let inner = path.join("model");
        Ok(if !path.join("config.json").exists() && inner.join("config.json").exists() { inner } else { path })
    }

    pub(super) fn execute(&self, stage: &Stage) -> Result<StageEnd, Error> {
        match stage {
            Stage::GraphQuestions(stage) => graph_questions::run(self, stage),
            Stage::GraphQuestionEval(stage) => graph_question_eval::run(self, stage),
            Stage::Sft(stage) => sft::run(self, stage),
            Stage::MergeLora(stage) => merge_lora::run(self, stage),
            Stage::Embed(stage) => embed::run(self, stage),
            Stage::GlowTrain(stage) => glow_train::run(self, stage),
            Stage::GlowEval(stage) => glow_eval::run(self, stage),
            Stage::JudgeChats(stage) => judge_chats::run(self, stage),
            Stage::ValueHeadTrain(stage) => value_head::run(self, stage),
            Stage::JudgeEval(stage) => judge_eval::run(self, stage),
            Stage::JudgePrompted(stage) => judge_prompted::run(self, stage),
        }
    }
}
