//! The stage that writes graph questions.

use super::context::{StageContext, StageEnd};
use super::error::Error;
use crate::recipe::{GraphQuestions, load_templates};
use datasets::flora::{Labels, ReadOptions};
use datasets::graph_questions::{GraphQuestions as Questions, GraphQuestionsConfig, OutputPaths, Source, collect};
use datasets::templates::Templates;
use std::collections::BTreeMap;
use std::path::Path;

/// The questions to train on, in the stage's folder.
pub(super) const TRAIN: &str = "train.jsonl";
/// The questions of held-out workflows.
pub(super) const TEST: &str = "test.jsonl";
const MANIFEST: &str = "questions.json";

pub(super) fn run(context: &StageContext, stage: &GraphQuestions) -> Result<StageEnd, Error> {
    let mut sources = Vec::new();
    for source in &stage.data {
        let folder = context.path("data", source)?;
        let name = match source {
            crate::recipe::Source::Data(key) => key.clone(),
            _ => folder.file_name().map_or_else(|| "data".into(), |n| n.to_string_lossy().into_owned()),
        };
        sources.push(Source { name, folder });
    }
    let config = GraphQuestionsConfig::from(stage);
    let templates = templates(stage.templates.as_deref())?;
    let paths = OutputPaths {
        train: context.folder.join(TRAIN),
        test: context.folder.join(TEST),
        manifest: context.folder.join(MANIFEST),
    };
    let questions = Questions::new(config, templates, context.recipe.seed)?;
    // The questions are about graphs: any label will do.
    let options = ReadOptions { labels: Labels::Unit, ..ReadOptions::default() };
    let manifest = questions.write(&collect(&sources, &options)?, &paths)?;
    let (train, test) = (&manifest.train.counts, &manifest.test.counts);
    context.say(&format!(
        "{} questions about {} workflows to train on, {} about {} held out",
        train.records, train.workflows, test.records, test.workflows
    ));
    let metrics = BTreeMap::from([
        ("train_records".to_string(), Some(train.records as f64)),
        ("test_records".to_string(), Some(test.records as f64)),
    ]);
    Ok(StageEnd::done(metrics, &[TRAIN, TEST, MANIFEST]))
}

/// The built-in templates, or those of a RON file.
pub(crate) fn templates(path: Option<&Path>) -> Result<Templates, Error> {
    match path {
        Some(path) => load_templates(path).map_err(|e| Error::Templates(Box::new(e))),
        None => Ok(Templates::default()),
    }
}
