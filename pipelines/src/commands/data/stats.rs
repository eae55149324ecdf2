//! `hearth data stats`: what is in a folder of FLORA records; of chats, see [`chat_stats`].

use super::chat_stats;
use crate::cli::args::StatsArgs;
use crate::cli::print;
use crate::report::{Align, Table};
use crate::run::Error;
use burn_models::text::{Specials, Tokenizer};
use datasets::flora::{Labels, OnBadEdge, ReadOptions};
use datasets::index::{FloraIndex, IndexSummary};
use datasets::{Error as DataError, Split};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;

/// Texts with more tokens than these are counted: usual limits of sentence encoders.
const LIMITS: [usize; 2] = [256, 512];
/// Texts that are tokenised at a time.
const CHUNK: usize = 4096;

/// Numbers that describe a folder.
#[derive(Serialize)]
struct Stats {
    #[serde(flatten)]
    summary: IndexSummary,
    /// Records without a label.
    unlabelled: usize,
    /// Nodes of the distinct workflows.
    nodes: Spread,
    /// Edges of the distinct workflows.
    edges: Spread,
    splits: BTreeMap<Split, SplitStats>,
    /// By sort of text, over distinct texts; only with a tokenizer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tokens: BTreeMap<&'static str, TokenStats>,
}

#[derive(Serialize)]
struct SplitStats {
    records: usize,
    workflows: usize,
    tasks: usize,
    positive_share: f64,
    /// Records whose workflow is in the training split too.
    known_workflows: usize,
    /// Records whose task is in the training split too.
    known_tasks: usize,
}

/// Quantiles by the nearest rank: the smallest value that this share of all values does not exceed.
#[derive(Serialize)]
pub(super) struct Spread {
    count: usize,
    mean: f64,
    min: usize,
    p50: usize,
    p90: usize,
    p99: usize,
    max: usize,
}

#[derive(Serialize)]
pub(super) struct TokenStats {
    #[serde(flatten)]
    spread: Spread,
    total: usize,
    over_256: usize,
    over_512: usize,
}

impl Spread {
    pub(super) fn of(mut values: Vec<usize>) -> Self {
        values.sort_unstable();
        let count = values.len();
        let rank = |share: f64| {
            let rank = (share * count as f64).ceil() as usize;
            values.get(rank.clamp(1, count.max(1)) - 1).copied().unwrap_or(0)
        };
        let mean = values.iter().sum::<usize>() as f64 / count.max(1) as f64;
        Self { count, mean, min: rank(0.0), p50: rank(0.5), p90: rank(0.9), p99: rank(0.99), max: rank(1.0) }
    }
}

/// Prints what is in a folder.
///
/// # Errors
/// Records or a tokenizer that cannot be read.
pub fn stats(args: &StatsArgs) -> crate::Result<()> {
    let boxed = std::io::stdout().is_terminal();
    let (value, text) = if chat_stats::is_chats(&args.folder) {
        let found = chat_stats::compute(args)?;
        (serde_json::to_value(&found), chat_stats::tables(&found, boxed))
    } else {
        let found = compute(args)?;
        (serde_json::to_value(&found), tables(&found, boxed))
    };
    match args.json {
        true => print(&format!("{:#}\n", value.map_err(std::io::Error::other)?)),
        false => print(&text),
    }
}

fn compute(args: &StatsArgs) -> Result<Stats, Error> {
    let mut splits = Vec::new();
    for split in Split::ALL {
        if !split.files(&args.folder)?.is_empty() {
            splits.push(split);
        }
    }
    if splits.is_empty() {
        return Err(DataError::NoSplit { folder: args.folder.clone(), split: Split::Train.name() }.into());
    }
    let options =
        ReadOptions { splits, labels: Labels::Optional, on_bad_edge: OnBadEdge::Drop, ..ReadOptions::default() };
    let index = FloraIndex::read(&args.folder, &options)?;
    let distinct = |values: &[u32]| values.iter().copied().collect::<BTreeSet<u32>>();
    let known = index.split(Split::Train).map(|train| (distinct(&train.workflow), distinct(&train.task)));
    let (known_workflows, known_tasks) = known.unwrap_or_default();
    let splits = index.splits().map(|(split, records)| {
        let among = |values: &[u32], known: &BTreeSet<u32>| values.iter().filter(|v| known.contains(v)).count();
        let stats = SplitStats {
            records: records.len(),
            workflows: distinct(&records.workflow).len(),
            tasks: distinct(&records.task).len(),
            positive_share: records.positive_share(),
            known_workflows: among(&records.workflow, &known_workflows),
            known_tasks: among(&records.task, &known_tasks),
        };
        (split, stats)
    });
    let splits: BTreeMap<Split, SplitStats> = splits.collect();
    let tokens = match &args.tokenizer {
        Some(folder) => {
            let tokenizer = Tokenizer::from_folder(folder)?;
            let tasks: BTreeSet<u32> = index.splits().flat_map(|(_, records)| records.task.iter().copied()).collect();
            let nodes: BTreeSet<u32> = index.workflows().iter().flat_map(|w| w.texts.iter().copied()).collect();
            BTreeMap::from([
                ("node", lengths(&index, &nodes, &tokenizer)?),
                ("task", lengths(&index, &tasks, &tokenizer)?),
            ])
        }
        None => BTreeMap::new(),
    };
    Ok(Stats {
        summary: index.summary(),
        unlabelled: index.splits().flat_map(|(_, records)| &records.label).filter(|label| label.is_nan()).count(),
        nodes: Spread::of(index.workflows().iter().map(|workflow| workflow.ids.len()).collect()),
        edges: Spread::of(index.workflows().iter().map(|workflow| workflow.edges.len()).collect()),
        splits,
        tokens,
    })
}

/// Lengths in tokens, without what a tokenizer puts around a text.
fn lengths(index: &FloraIndex, texts: &BTreeSet<u32>, tokenizer: &Tokenizer) -> Result<TokenStats, Error> {
    let texts: Vec<&str> =
        texts.iter().filter_map(|text| index.texts().get(*text as usize)).map(AsRef::as_ref).collect();
    let bar = crate::progress::bar("tokens", texts.len());
    let mut lengths = Vec::with_capacity(texts.len());
    for chunk in texts.chunks(CHUNK) {
        lengths.extend(tokenizer.encode_batch(chunk, Specials::Plain)?.iter().map(Vec::len));
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(token_stats(lengths))
}

/// What numbers of tokens come to.
pub(super) fn token_stats(lengths: Vec<usize>) -> TokenStats {
    let over = |limit: usize| lengths.iter().filter(|length| **length > limit).count();
    let (over_256, over_512) = (over(LIMITS[0]), over(LIMITS[1]));
    TokenStats { total: lengths.iter().sum(), over_256, over_512, spread: Spread::of(lengths) }
}

impl TokenStats {
    /// A row of a table.
    pub(super) fn row(&self, name: &str) -> Vec<String> {
        spread_row(name, &self.spread, Some([self.over_256, self.over_512]))
    }
}

/// A row of a table.
pub(super) fn spread_row(name: &str, s: &Spread, over: Option<[usize; 2]>) -> Vec<String> {
    let numbers = [s.min, s.p50, s.p90, s.p99, s.max].map(|number| number.to_string());
    let over = over.map_or(vec![], |over| over.map(|count| count.to_string()).to_vec());
    [vec![name.to_owned(), s.count.to_string(), format!("{:.2}", s.mean)], numbers.to_vec(), over].concat()
}

fn tables(stats: &Stats, boxed: bool) -> String {
    let columns = |first: &str, rest: &[&str]| {
        let rest = rest.iter().map(|name| ((*name).to_owned(), Align::Decimal));
        [(first.to_owned(), Align::Left)].into_iter().chain(rest).collect::<Vec<_>>()
    };
    let mut splits = Table::new(columns(
        "split",
        &["records", "workflows", "tasks", "label 1", "workflow in train", "task in train"],
    ));
    let share = |part: usize, whole: usize| format!("{:.4}", part as f64 / whole.max(1) as f64);
    let row = |(split, s): (&Split, &SplitStats)| {
        let counts = [s.records, s.workflows, s.tasks].map(|count| count.to_string());
        let shares = [share(s.known_workflows, s.records), share(s.known_tasks, s.records)];
        [vec![split.name().to_owned()], counts.to_vec(), vec![format!("{:.4}", s.positive_share)], shares.to_vec()]
            .concat()
    };
    splits.group(stats.splits.iter().map(row).collect());
    let mut spreads = Table::new(columns(
        "over distinct ones",
        &["count", "mean", "min", "p50", "p90", "p99", "max", ">256", ">512"],
    ));
    let mut rows = vec![
        spread_row("nodes of a workflow", &stats.nodes, None),
        spread_row("edges of a workflow", &stats.edges, None),
    ];
    rows.extend(stats.tokens.iter().map(|(name, tokens)| tokens.row(&format!("tokens of a {name} text"))));
    spreads.group(rows);
    let summary = &stats.summary;
    let mut text = splits.render(boxed) + "\n" + &spreads.render(boxed);
    text += &format!(
        "\n{} distinct workflows under {} numbers, {} tasks, {} node texts\n",
        summary.workflows, summary.workflow_ids, summary.tasks, summary.node_texts
    );
    let left_out = [
        (summary.dropped_empty, "records without nodes left out"),
        (summary.dropped_edges, "edges from or to nowhere left out"),
        (summary.conflicting_ids, "workflow numbers that stand for several workflows"),
        (stats.unlabelled as u64, "records without a label"),
    ];
    for (count, what) in left_out.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!("{count} {what}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn quantiles_by_the_nearest_rank() {
        let spread = Spread::of((1..=10).rev().collect());
        let found = [spread.count, spread.min, spread.p50, spread.p90, spread.p99, spread.max];
        assert_eq!((found, spread.mean), ([10, 1, 5, 9, 10, 10], 5.5));
        let one = Spread::of(vec![7]);
        assert_eq!([one.min, one.p50, one.p90, one.max], [7; 4]);
        assert_eq!(Spread::of(vec![]).max, 0);
    }
}
