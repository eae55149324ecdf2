//! A look ahead: what a stage would read, without a run.

use super::context::{StageContext, StageEnd};
use super::error::Error;
use super::folder::RunFolder;
use crate::hub::Folders;
use crate::recipe::{Recipe, Source, Stage};
use crate::train::stop_requested;
use burn::tensor::Device;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A recipe in a temporary place. Stages that make chats are done there, when another one reads them; where a stage reads a
/// model that an earlier one would train, it gets the model that the training begins with, which has the same tokenizer and
/// the same sizes.
pub(crate) struct Scout {
    recipe: Recipe,
    run: RunFolder,
    hub: Folders,
    device: Device,
    // Removed last.
    _place: TempDir,
}

impl Scout {
    /// `hub` is what was fetched for the recipe.
    pub(crate) fn new(recipe: &Recipe, hub: Folders) -> crate::Result<Self> {
        let device = recipe.device.init()?;
        let place = tempfile::tempdir()?;
        let mut recipe = Recipe { runs: place.path().to_owned(), cache: None, ..recipe.clone() };
        for index in 0..recipe.stages.len() {
            let (before, rest) = recipe.stages.split_at_mut(index);
            if let Some(model) = rest.first_mut().and_then(model_of) {
                *model = beginning(before, model);
            }
        }
        let run = RunFolder::open(recipe.run_dir())?;
        Ok(Self { recipe, run, hub, device, _place: place })
    }

    /// The recipe in its temporary place.
    pub(crate) fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// What it computes on.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// A folder of this name in the temporary place.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.run.path().join(name)
    }

    /// Runs `stage` in place of stage `index`, in a folder of its own, and gives that folder.
    ///
    /// # Errors
    /// What the stage says.
    pub(crate) fn try_out(&self, index: usize, stage: &Stage) -> Result<PathBuf, Error> {
        self.look(index, |context| {
            let folder = self.place(&format!("probe-{index}"));
            std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            let context = StageContext {
                recipe: context.recipe,
                run: context.run,
                device: context.device.clone(),
                further_devices: context.further_devices,
                number: context.number,
                total: context.total,
                name: context.name.clone(),
                folder,
                finished: context.finished,
                hub: context.hub,
            };
            match context.execute(stage)? {
                StageEnd::Interrupted => Err(context.error("interrupted")),
                StageEnd::Done { .. } => Ok(context.folder),
            }
        })
    }

    /// Calls `look` with the context of stage `index`, once the chats that it reads are made.
    ///
    /// # Errors
    /// What `look` says; and [`Error::Stage`] where the stage reads something else that an earlier one makes.
    pub(crate) fn look<T>(
        &self,
        index: usize,
        look: impl FnOnce(&StageContext) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut finished = BTreeMap::new();
        for (_, source) in self.recipe.stages[index].inputs() {
            let Source::Stage(name) = source else { continue };
            let made = self.recipe.stages[..index].iter().position(|stage| stage.name() == name);
            if let Some(made) = made
                && matches!(self.recipe.stages[made], Stage::GraphQuestions(_) | Stage::JudgeChats(_))
            {
                let folder = self.make(made)?;
                finished.insert(name.clone(), folder);
            }
        }
        look(&self.context(index, &finished)?)
    }

    /// Does a stage that makes chats, unless that is done.
    pub(crate) fn make(&self, index: usize) -> Result<PathBuf, Error> {
        let stage = &self.recipe.stages[index];
        let nothing = BTreeMap::new();
        let context = self.context(index, &nothing)?;
        if !context.folder.exists() {
            std::fs::create_dir_all(&context.folder).map_err(Error::io(&context.folder))?;
            if matches!(context.execute(stage)?, StageEnd::Interrupted) || stop_requested() {
                return Err(context.error("interrupted"));
            }
        }
        Ok(context.folder)
    }

    fn context<'a>(&'a self, index: usize, finished: &'a BTreeMap<String, PathBuf>) -> Result<StageContext<'a>, Error> {
        let name = self.recipe.stages[index].name().to_owned();
        Ok(StageContext {
            recipe: &self.recipe,
            run: &self.run,
            device: self.device.clone(),
            // Measured on one device.
            further_devices: &[],
            number: index + 1,
            total: self.recipe.stages.len(),
            folder: self.run.stage(index + 1, &name)?,
            name,
            finished,
            hub: &self.hub,
        })
    }
}

/// The files that are directly in a folder, by name.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn files_of(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// The field of a stage that names its decoder.
fn model_of(stage: &mut Stage) -> Option<&mut Source> {
    match stage {
        Stage::Sft(stage) => Some(&mut stage.model),
        Stage::MergeLora(stage) => Some(&mut stage.base),
        Stage::Embed(stage) => Some(&mut stage.llm),
        Stage::GraphQuestionEval(stage) => Some(&mut stage.model),
        Stage::JudgeChats(stage) => Some(&mut stage.model),
        Stage::ValueHeadTrain(stage) => Some(&mut stage.model),
        Stage::JudgeEval(stage) => Some(&mut stage.model),
        _ => None,
    }
}

/// The model that the training of `source` begins with. The stages before have been traced already.
fn beginning(before: &[Stage], source: &Source) -> Source {
    let Source::Stage(name) = source else { return source.clone() };
    match before.iter().find(|stage| stage.name() == name) {
        Some(Stage::Sft(stage)) => stage.model.clone(),
        Some(Stage::MergeLora(stage)) => stage.base.clone(),
        _ => source.clone(),
    }
}
