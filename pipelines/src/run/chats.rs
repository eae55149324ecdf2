//! The chats that a stage reads: which files, of which format, and what became of them.

use super::context::StageContext;
use super::error::Error;
use super::folder::write_json;
use crate::hub::Repo;
use crate::recipe::{ChatData, DataSource, PlaceKind, Source};
use crate::report::{Align, Table};
use crate::train::stream;
use burn_models::text::Tokenizer;
use datasets::chat::{ChatSource, ChatSplit, Side};
use datasets::sft::{Part, SftDataset, SftOptions, SftSelection, SourceReport, counts_table};
use std::path::PathBuf;

/// What became of the chats, in the stage's folder.
pub(super) const DATA: &str = "data.json";

/// The tokens of the chats, in the stage's folder until it has ended: 4 bytes each, mapped into memory.
const TOKENS: &str = "tokens";

/// Where the chats of a stage are.
pub(crate) struct Chats {
    train: Vec<ChatSource>,
    held_out: Vec<ChatSource>,
    split: Option<ChatSplit>,
    deduplicate: bool,
    seed: u64,
}

impl Chats {
    /// Finds the files behind the source of a stage.
    ///
    /// # Errors
    /// Files that are not there.
    pub(crate) fn of(context: &StageContext, source: &Source) -> Result<Self, Error> {
        let recipe = context.recipe;
        let own;
        let entry = match source {
            Source::Data(key) => recipe.data.get(key),
            _ => None,
        };
        let data = match entry {
            Some(DataSource::Chat(data)) => data,
            _ => {
                own = ChatData::of(context.path("data", source)?);
                &own
            }
        };
        let mut chats = Self {
            train: Vec::new(),
            held_out: Vec::new(),
            split: data.split.clone(),
            deduplicate: data.deduplicate,
            seed: stream(recipe.seed, "chats", &[]),
        };
        for place in data.places(recipe) {
            let folder = match place.kind {
                PlaceKind::Hub(hub) => Some(context.fetched(&Repo::data(hub))?),
                PlaceKind::Path(_) | PlaceKind::Registry(..) => None,
            };
            let found = place.find(folder.as_deref())?;
            chats.train.push(found.train);
            chats.held_out.extend(found.held_out);
        }
        Ok(chats)
    }

    /// The files to train on.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.train.iter().flat_map(|source| source.files.clone()).collect()
    }

    /// The files to train on and those to evaluate on.
    pub(super) fn all_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.train.iter().chain(&self.held_out).flat_map(|source| &source.files)
    }

    /// Everything but what is in the files, as text.
    pub(super) fn settings(&self) -> String {
        format!("{:?}", (&self.train, &self.held_out, &self.split, self.deduplicate))
    }

    /// The samples to train on.
    ///
    /// # Errors
    /// Chats that cannot be used, by `options`.
    pub(crate) fn train_samples(
        &self,
        context: &StageContext,
        tokenizer: &Tokenizer,
        options: &SftOptions,
    ) -> Result<SftDataset, Error> {
        samples(context, "train", &self.training(), tokenizer, options)
    }

    /// The samples to evaluate on, if there are any.
    ///
    /// # Errors
    /// Chats that cannot be used, by `options`.
    pub(super) fn held_out_samples(
        &self,
        context: &StageContext,
        tokenizer: &Tokenizer,
        options: &SftOptions,
    ) -> Result<Option<SftDataset>, Error> {
        let held_out = self.held_out();
        held_out.map(|selection| samples(context, "held-out", &selection, tokenizer, options)).transpose()
    }

    /// What to train on.
    fn training(&self) -> SftSelection {
        let part = self.split.clone().map(|split| Part { split, side: Side::Train, seed: self.seed });
        SftSelection { sources: self.train.clone(), part, deduplicate: self.deduplicate }
    }

    /// What to evaluate on, if there is anything.
    fn held_out(&self) -> Option<SftSelection> {
        let all = |sources: &[ChatSource]| {
            sources.iter().map(|source| ChatSource { amount: Default::default(), ..source.clone() }).collect()
        };
        if let Some(split) = self.split.clone() {
            let part = Some(Part { split, side: Side::HeldOut, seed: self.seed });
            return Some(SftSelection { sources: all(&self.train), part, deduplicate: self.deduplicate });
        }
        let sources: Vec<ChatSource> = all(&self.held_out);
        (!sources.is_empty()).then_some(SftSelection { sources, part: None, deduplicate: self.deduplicate })
    }
}

/// Samples in the stage's folder. Those of a stage that was stopped are there: settings and files are still the same.
fn samples(
    context: &StageContext,
    name: &str,
    selection: &SftSelection,
    tokenizer: &Tokenizer,
    options: &SftOptions,
) -> Result<SftDataset, Error> {
    let folder = context.folder.join(TOKENS).join(name);
    if SftDataset::is_in(&folder) {
        match SftDataset::load(&folder) {
            Ok(samples) => return Ok(samples),
            Err(error) => context.say(&format!("{error}: the chats are read again")),
        }
    }
    // What a process that was killed has left.
    let _ = std::fs::remove_dir_all(&folder);
    Ok(SftDataset::read_into(&folder, selection, tokenizer, options)?)
}

/// Removes the samples of a stage that has ended.
pub(super) fn forget_samples(context: &StageContext) {
    // Where a mapped file cannot be removed it stays.
    let _ = std::fs::remove_dir_all(context.folder.join(TOKENS));
}

/// Says what became of the chats, and writes it into the stage's folder.
pub(super) fn report(context: &StageContext, train: &SftDataset, held_out: Option<&SftDataset>) -> Result<(), Error> {
    for (what, data) in [("to train on", Some(train)), ("to evaluate on", held_out)] {
        let Some(data) = data else { continue };
        context.say(&format!("chats {what}"));
        table(data.sources()).iter().for_each(|line| context.say(line));
        for source in data.sources() {
            source.examples.iter().for_each(|example| context.say(&format!("left out: {example}")));
        }
    }
    let written = serde_json::json!({
        "train": train.sources(),
        "held_out": held_out.map(SftDataset::sources).unwrap_or_default(),
    });
    write_json(&context.folder.join(DATA), &written)
}

/// What became of the records of sources, as lines of a table.
pub(crate) fn table(sources: &[SourceReport]) -> Vec<String> {
    let mut rows = counts_table(sources).into_iter();
    let align = |number: usize| if number < 2 { Align::Left } else { Align::Decimal };
    let head = rows.next().unwrap_or_default();
    let mut table = Table::new(head.into_iter().enumerate().map(|(number, name)| (name, align(number))));
    table.group(rows.collect());
    table.render(false).lines().map(str::to_owned).collect()
}
