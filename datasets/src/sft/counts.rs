//! What became of the records: nothing is left out without being counted.

use crate::chat::{Amount, ChatFormat};
use crate::error::Error;
use serde::{Deserialize, Serialize};

/// Examples of what was left out that are kept for each source.
const EXAMPLES: usize = 5;

/// What became of the records. With one sample for every reply it is samples that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SftCounts {
    /// Samples that were read, those left out included; not those on the other side of a split.
    pub read: u64,
    /// Left out: longer than the limit.
    pub overlong: u64,
    /// Left out: another sample has the same tokens.
    pub duplicate: u64,
    /// Left out: no token is learned.
    pub nothing_learned: u64,
    /// Left out: tags that do not pair.
    pub tags: u64,
    /// Left out: the chat template, or the framing, refuses the conversation.
    pub template: u64,
    /// Left out: not what the format asks for.
    pub malformed: u64,
    /// On the other side of a split.
    pub other_side: u64,
    /// Kept, but cut to the limit.
    pub truncated: u64,
    /// Tokens of the samples.
    pub tokens: u64,
    /// Tokens that are learned.
    pub supervised: u64,
    /// The length of the longest sample.
    pub longest: u64,
}

/// Why a record cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    NothingLearned,
    Tags,
    Template,
    Malformed,
}

impl Fault {
    /// That of an error about a record.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Text { source, .. } => match source.as_ref() {
                burn_models::Error::NothingLearned { .. } => Self::NothingLearned,
                burn_models::Error::Tags { .. } => Self::Tags,
                _ => Self::Template,
            },
            _ => Self::Malformed,
        }
    }
}

impl SftCounts {
    /// What was left out, by reason: how many, and why in words. Reasons that nothing was left out for are not among them.
    pub fn dropped(&self) -> Vec<(u64, &'static str)> {
        let all = [
            (self.overlong, "too long"),
            (self.duplicate, "duplicate"),
            (self.nothing_learned, "nothing learned"),
            (self.tags, "tags do not pair"),
            (self.template, "refused by the template"),
            (self.malformed, "malformed"),
        ];
        all.into_iter().filter(|(count, _)| *count > 0).collect()
    }

    /// The samples that were kept.
    pub fn kept(&self) -> u64 {
        self.read - self.dropped().iter().map(|(count, _)| count).sum::<u64>()
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        *match fault {
            Fault::NothingLearned => &mut self.nothing_learned,
            Fault::Tags => &mut self.tags,
            Fault::Template => &mut self.template,
            Fault::Malformed => &mut self.malformed,
        } += 1;
    }

    /// Adds those of another source.
    pub(super) fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.overlong += other.overlong;
        self.duplicate += other.duplicate;
        self.nothing_learned += other.nothing_learned;
        self.tags += other.tags;
        self.template += other.template;
        self.malformed += other.malformed;
        self.other_side += other.other_side;
        self.truncated += other.truncated;
        self.tokens += other.tokens;
        self.supervised += other.supervised;
        self.longest = self.longest.max(other.longest);
    }
}

/// What became of the records of one source.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its name.
    pub source: String,
    /// The form of its records, as said or as found.
    pub format: ChatFormat,
    /// Its files.
    pub files: usize,
    /// How much of it an epoch takes.
    pub amount: Amount,
    /// Samples that an epoch draws.
    pub per_epoch: u64,
    /// What became of its records.
    pub counts: SftCounts,
    /// The first of those that could not be used: place and reason.
    pub examples: Vec<String>,
}

impl SourceReport {
    pub(super) fn example(&mut self, error: &Error) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(error.to_string());
        }
    }
}

/// The table of sources and what became of their records: a head and a row for each, and one for all where there are several.
/// Columns of reasons that never happened are left out.
pub fn counts_table(sources: &[SourceReport]) -> Vec<Vec<String>> {
    let mut total = SourceReport { source: "all".into(), ..SourceReport::default() };
    for source in sources {
        total.counts.add(&source.counts);
        total.per_epoch += source.per_epoch;
    }
    type Number = fn(&SourceReport) -> u64;
    let columns: [(&str, bool, Number); 12] = [
        ("read", true, |source| source.counts.read),
        ("kept", true, |source| source.counts.kept()),
        ("truncated", false, |source| source.counts.truncated),
        ("too long", false, |source| source.counts.overlong),
        ("duplicate", false, |source| source.counts.duplicate),
        ("nothing learned", false, |source| source.counts.nothing_learned),
        ("tags do not pair", false, |source| source.counts.tags),
        ("refused by the template", false, |source| source.counts.template),
        ("malformed", false, |source| source.counts.malformed),
        ("an epoch", true, |source| source.per_epoch),
        ("tokens", true, |source| source.counts.tokens),
        ("learned", true, |source| source.counts.supervised),
    ];
    let shown: Vec<_> = columns.into_iter().filter(|(_, always, of)| *always || of(&total) > 0).collect();
    let row = |source: &SourceReport, format: String| {
        let numbers = shown.iter().map(|(_, _, of)| of(source).to_string());
        [source.source.clone(), format].into_iter().chain(numbers).collect::<Vec<_>>()
    };
    let head = ["source", "format"].into_iter().chain(shown.iter().map(|(name, ..)| *name));
    let mut rows = vec![head.map(str::to_owned).collect()];
    rows.extend(sources.iter().map(|source| row(source, source.format.to_string())));
    if sources.len() > 1 {
        rows.push(row(&total, String::new()));
    }
    rows
}
