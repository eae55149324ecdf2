//! Settings of the stages that make questions about graphs and ask them.

use super::numbers::repeated;
use super::{Place, Report};
use crate::recipe::{GraphQuestionEval, GraphQuestions, MergeLora, Sft, Source, Stage};

/// A workflow has long been asked everything by then.
const MAX_ROUNDS: u32 = 10_000;

pub(super) fn made(report: &mut Report, place: &Place, stage: &GraphQuestions) {
    report.counts(place, [("rounds", stage.rounds as usize)]);
    if stage.rounds > MAX_ROUNDS {
        report.add(&place.at("rounds"), format!("`rounds` is {}, but has to be at most {MAX_ROUNDS}", stage.rounds));
    }
    if stage.data.is_empty() {
        report.add(&place.at("data"), "`data` is empty: there is nothing to ask about");
    }
    if stage.tasks.is_empty() {
        report.add(&place.at("tasks"), "`tasks` is empty: there is nothing to ask");
    }
    repeated(report, &place.at("tasks"), &stage.tasks);
    repeated(report, &place.at("data"), &stage.data);
}

pub(super) fn asked(report: &mut Report, index: usize, place: &Place, stage: &GraphQuestionEval) {
    report.counts(
        place,
        [
            ("limit", stage.limit.unwrap_or(1)),
            ("max_new_tokens", stage.max_new_tokens),
            ("max_length", stage.max_length),
            ("batch_size", stage.batch_size),
        ],
    );
    let stages = &report.recipe().stages[..index];
    let find = |source: &Source| match source {
        Source::Stage(name) => stages.iter().find(|stage| stage.name() == name),
        _ => None,
    };
    match find(&stage.data) {
        Some(Stage::GraphQuestions(made)) if made.test_workflows == 0 => {
            let problem = report.at(&place.at("data"), format!("{} holds no questions out", stage.data));
            report.push(problem.help("give it `test_workflows`"));
        }
        Some(Stage::JudgeChats(_)) => {
            report.add(&place.at("data"), format!("{} makes no questions about graphs", stage.data));
        }
        _ => {}
    }
    if let Some(sft) = trained(&find, stage.adapter.as_ref().unwrap_or(&stage.model)) {
        for (field, trained, asked) in [
            ("framing", format!("{:?}", sft.framing), format!("{:?}", stage.framing)),
            ("assistant_prefix", format!("{:?}", sft.assistant_prefix), format!("{:?}", stage.assistant_prefix)),
        ] {
            if trained != asked {
                let message = format!("`{field}` is {asked}, but the model was trained with {trained}");
                report.add(&place.at(field), message);
            }
        }
    }
}

/// The stage that trained a model on such questions.
fn trained<'a>(find: &impl Fn(&Source) -> Option<&'a Stage>, model: &Source) -> Option<&'a Sft> {
    let found = match find(model)? {
        Stage::MergeLora(MergeLora { adapter, .. }) => find(adapter)?,
        other => other,
    };
    match found {
        Stage::Sft(sft) if matches!(find(&sft.data), Some(Stage::GraphQuestions(_))) => Some(sft),
        _ => None,
    }
}
