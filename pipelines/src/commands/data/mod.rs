//! `hearth data`: what is in data, making some, and changing its form.

mod chat_stats;
mod convert;
mod stats;

pub use convert::convert;
pub use stats::stats;

use crate::cli::args::{QuestionsArgs, SynthesizeArgs};
use crate::cli::print;
use crate::run::{Error, load_words};
use datasets::flora::{Labels, ReadOptions};
use datasets::graph_questions::{GraphQuestions, GraphQuestionsConfig, OutputPaths, Source, collect};
use datasets::synthetic::{Synthetic, SyntheticConfig};

/// Writes the questions about the workflows of FLORA folders.
///
/// # Errors
/// A folder or a setting that cannot be used.
pub fn graph_questions(args: &QuestionsArgs) -> crate::Result<()> {
    let sources = args.data.iter().map(|folder| {
        let name = std::path::absolute(folder).ok().and_then(|path| path.file_name().map(ToOwned::to_owned));
        Source { name: name.unwrap_or_default().to_string_lossy().into_owned(), folder: folder.clone() }
    });
    let config = GraphQuestionsConfig {
        rounds: args.rounds,
        test_workflows: args.test_workflows,
        ..GraphQuestionsConfig::default()
    };
    let words = load_words(args.templates.as_deref())?;
    let questions = GraphQuestions::new(config, words, args.seed).map_err(Error::from)?;
    // The questions are about graphs: any label will do.
    let options = ReadOptions { labels: Labels::Optional, ..ReadOptions::default() };
    let collection = collect(&sources.collect::<Vec<_>>(), &options).map_err(Error::from)?;
    let paths = OutputPaths {
        train: args.output.join("train.jsonl"),
        test: args.output.join("test.jsonl"),
        manifest: args.output.join("questions.json"),
    };
    let manifest = questions.write(&collection, &paths).map_err(Error::from)?;
    let (train, test) = (&manifest.train.counts, &manifest.test.counts);
    print(&format!(
        "{}: {} questions about {} workflows to train on, {} about {} held out\n",
        args.output.display(),
        train.records,
        train.workflows,
        test.records,
        test.workflows
    ))
}

/// Writes generated FLORA records.
///
/// # Errors
/// Settings that do not fit together.
pub fn synthesize(args: &SynthesizeArgs) -> crate::Result<()> {
    let config = SyntheticConfig {
        workflows: args.workflows,
        tasks: args.tasks,
        train: args.train,
        val: args.val,
        test: args.test,
        min_nodes: args.min_nodes,
        max_nodes: args.max_nodes,
        label_noise: args.label_noise,
    };
    let made = Synthetic::generate(&config, args.seed).map_err(Error::from)?;
    made.write(&args.output).map_err(Error::from)?;
    let counts = [config.train, config.val, config.test].map(|count| count.to_string());
    print(&format!("{}: {} records of train, val and test\n", args.output.display(), counts.join(", ")))
}
