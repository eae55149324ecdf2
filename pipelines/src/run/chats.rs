//! The chats that a stage reads: which files, of which format, and what became of them.

use super::context::StageContext;
use super::error::Error;
use super::folder::write_json;
use crate::hub::Repo;
use crate::recipe::{ChatData, DataSource, PlaceKind, Source};
use crate::report::{Align, Table};
use crate::train::stream;
use datasets::chat::{ChatSource, ChatSplit, Side};
use datasets::sft::{Part, SftDataset, SftSelection, SourceReport, counts_table};
use std::path::PathBuf;

/// What became of the chats, in the stage's folder.
pub(super) const DATA: &str = "data.json";

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

    /// What to train on.
    pub(crate) fn training(&self) -> SftSelection {
        let part = self.split.clone().map(|split| Part { split, side: Side::Train, seed: self.seed });
        SftSelection { sources: self.train.clone(), part, deduplicate: self.deduplicate }
    }

    /// What to evaluate on, if there is anything.
    pub(crate) fn held_out(&self) -> Option<SftSelection> {
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
