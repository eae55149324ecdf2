//! Batches that are larger than the data they are drawn from, where the recipe says how much data there is: generated data
//! has a size before it exists.

use datasets::Split;
use datasets::graph_questions::{GraphQuestionsConfig, Schedule, TaskType};
use datasets::synthetic::SyntheticConfig;

use super::{Place, Report};
use crate::recipe::{DataSource, Embed, GraphQuestions, Recipe, Source, Stage, WarmupSampling};

pub(super) fn check(report: &mut Report) {
    let recipe = report.recipe();
    for (index, stage) in recipe.stages.iter().enumerate() {
        let place = Place::stage(index);
        match stage {
            Stage::GraphQuestions(stage) => {
                if let Some(workflows) = workflows(recipe, stage)
                    && workflows > 0
                    && GraphQuestionsConfig::from(stage).test_count(workflows) == workflows
                {
                    let message = format!("all {workflows} workflows are held out: no question remains to train on");
                    report.add(&place.at("test_workflows"), message);
                }
            }
            Stage::Sft(stage) => {
                if let Some(Stage::GraphQuestions(asked)) = earlier(recipe, index, &stage.data)
                    && let Some(questions) = questions(recipe, asked)
                {
                    batch(report, &place, "sequences_per_step", stage.sequences_per_step, questions, "questions");
                }
                if let Some(Stage::JudgeChats(judged)) = earlier(recipe, index, &stage.data)
                    && let Some(data) = synthetic(recipe, &judged.data)
                    && judged.target_ratio.is_none()
                {
                    let size = stage.sequences_per_step;
                    batch(report, &place, "sequences_per_step", size, data.train, "training records");
                }
            }
            Stage::Embed(embed) => filled(report, stage, &embed.data, &Split::ALL),
            Stage::JudgeChats(chats) => filled(report, stage, &chats.data, &Split::ALL),
            Stage::JudgeEval(eval) => filled(report, stage, &eval.data, &[eval.split]),
            Stage::JudgePrompted(eval) => filled(report, stage, &eval.data, &[eval.split]),
            Stage::ValueHeadTrain(train) => {
                let splits: &[Split] = if train.eval.is_some() { &[Split::Train, Split::Val] } else { &[Split::Train] };
                filled(report, stage, &train.data, splits);
                if let Some(data) = synthetic(recipe, &train.data)
                    && train.target_ratio.is_none()
                {
                    let size = train.sequences_per_step;
                    batch(report, &place, "sequences_per_step", size, data.train, "training records");
                }
            }
            Stage::GlowTrain(stage) => {
                let Some(Stage::Embed(Embed { data, .. })) = earlier(recipe, index, &stage.embeddings) else {
                    continue;
                };
                let Some(data) = synthetic(recipe, data) else { continue };
                batch(report, &place, "batch_size", stage.batch_size, data.train, "training records");
                if let Some(warmup) = &stage.warmup {
                    let (size, what) = match warmup.sampling {
                        WarmupSampling::UniqueWorkflows => (data.workflows.min(data.train), "distinct workflows"),
                        WarmupSampling::Records => (data.train, "training records"),
                    };
                    batch(report, &place.at("warmup"), "batch_size", warmup.batch_size, size, what);
                }
            }
            _ => {}
        }
    }
}

/// The splits that a stage reads must have records.
fn filled(report: &mut Report, stage: &Stage, source: &Source, splits: &[Split]) {
    let (Source::Data(key), Some(data)) = (source, synthetic(report.recipe(), source)) else { return };
    let reads = if splits.len() == Split::ALL.len() { "reads all three splits" } else { "reads this split" };
    for split in splits {
        let count = match split {
            Split::Train => data.train,
            Split::Val => data.val,
            Split::Test => data.test,
        };
        if count == 0 {
            let message = format!("`{split}` is 0, but stage `{}` {reads}", stage.name());
            report.add(&Place::of("data").key(key).at(split.name()), message);
        }
    }
}

fn batch(report: &mut Report, place: &Place, field: &str, batch: usize, size: usize, what: &str) {
    if batch > size && size > 0 {
        let problem = report.at(&place.at(field), format!("`{field}` is {batch}, but there are only {size} {what}"));
        report.push(problem.help(format!("use at most {size}, or make more data")));
    }
}

/// The stage before number `index` that a source names.
fn earlier<'a>(recipe: &'a Recipe, index: usize, source: &Source) -> Option<&'a Stage> {
    let Source::Stage(name) = source else { return None };
    recipe.stages[..index].iter().find(|stage| stage.name() == name)
}

/// The settings of generated data; none for data whose settings cannot be, which is reported elsewhere.
fn synthetic<'a>(recipe: &'a Recipe, source: &Source) -> Option<&'a SyntheticConfig> {
    let Source::Data(key) = source else { return None };
    match recipe.data.get(key)? {
        DataSource::Synthetic(config) => Some(config).filter(|config| config.validate().is_ok()),
        _ => None,
    }
}

/// How many workflows there are to ask about at most, if all data is generated.
fn workflows(recipe: &Recipe, stage: &GraphQuestions) -> Option<usize> {
    stage.data.iter().map(|source| synthetic(recipe, source).map(|data| data.workflows.min(data.train))).sum()
}

/// How many training questions there are at most, if all data is generated.
fn questions(recipe: &Recipe, stage: &GraphQuestions) -> Option<usize> {
    let workflows = workflows(recipe, stage)?;
    let rounds = stage.rounds as usize;
    let asked = |task: &TaskType| match (stage.schedule, task) {
        (Schedule::Rounds, TaskType::Kni) => rounds.min(2),
        (Schedule::Rounds, TaskType::Tsort) => rounds.min(1),
        _ => rounds,
    };
    let held_out = GraphQuestionsConfig::from(stage).test_count(workflows);
    Some((workflows - held_out) * stage.tasks.iter().map(asked).sum::<usize>())
}
