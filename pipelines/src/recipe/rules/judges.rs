//! Settings of the stages that judge with a language model: ranges, and what does not go together.

use super::numbers::{checkpoint, clip, evaluation, lora, optim, schedule, scoring};
use super::{Place, Report};
use crate::learners::Recompute;
use crate::recipe::{BestBy, Client, JudgeChats, JudgeEval, JudgePrompt, JudgePrompted, Source, Stage, ValueHeadTrain};
use burn_models::glow::{GlowConfig, Head, RegressionTarget};

/// More connections at one time serve nobody.
const MAX_CONCURRENCY: usize = 1024;
/// Nobody waits for longer: a week.
const MAX_SECONDS: f64 = 604_800.0;

pub(super) fn chats(report: &mut Report, place: &Place, stage: &JudgeChats) {
    prompt(report, place, &stage.prompt);
    target_ratio(report, place, stage.target_ratio);
}

pub(super) fn value_head(report: &mut Report, place: &Place, stage: &ValueHeadTrain) {
    prompt(report, place, &stage.prompt);
    target_ratio(report, place, stage.target_ratio);
    report.counts(
        place,
        [
            ("hidden", stage.hidden.unwrap_or(1)),
            ("epochs", stage.epochs),
            ("max_steps", stage.max_steps.unwrap_or(1)),
            ("sequences_per_step", stage.sequences_per_step),
        ],
    );
    fits(report, place, "micro_tokens", stage.micro_tokens, &stage.prompt);
    // The head's rules are those of GLOW's.
    let glow = GlowConfig { head: stage.head, ..GlowConfig::default() };
    if let Err(burn_models::Error::Config { key, problem, .. }) = glow.validate() {
        report.add(&place.at(&key), format!("`{key}`: {problem}"));
    }
    let one_number = match stage.head {
        Head::Both { .. } => false,
        Head::Regression(rate) => rate.target == RegressionTarget::RecordLabel,
        Head::Classification => true,
    };
    if !one_number {
        report.add(
            &place.at("head"),
            "a value head gives one number for a record's label: `Classification` or `Regression`",
        );
    }
    if let Some(config) = &stage.lora {
        lora(report, &place.at("lora"), config);
    }
    if stage.lora.is_none() && stage.recompute == Recompute::Layers {
        let problem =
            report.at(&place.at("recompute"), "nothing is recomputed in a frozen decoder: only the head is trained");
        report.push(problem.help("leave it out, or add lora: (rank: 8)"));
    }
    optim(report, place, &stage.optim, stage.lora.is_some());
    schedule(report, place, &stage.schedule, &stage.optim);
    clip(report, place, stage.clip);
    evaluation(report, place, stage.eval.as_ref(), stage.early_stopping.as_ref());
    if stage.eval.as_ref().is_some_and(|eval| eval.select_by == BestBy::ValSamples) {
        report.add(
            &place.at("eval.select_by"),
            "a value head writes no answers: `select_by` is `ValLoss` or `ValAccuracy`",
        );
    }
    checkpoint(report, place, &stage.checkpoint);
}

pub(super) fn eval(report: &mut Report, index: usize, place: &Place, stage: &JudgeEval) {
    prompt(report, place, &stage.prompt);
    for trained in [Some(&stage.model), stage.adapter.as_ref(), stage.value_head.as_ref()].into_iter().flatten() {
        asked_as_trained(report, index, place, &stage.prompt, trained);
    }
    fits(report, place, "batch_tokens", stage.batch_tokens, &stage.prompt);
    scoring(report, place, stage.threshold, &stage.utility);
    if stage.adapter.is_some() && stage.value_head.is_some() {
        let problem = report.at(&place.at("adapter"), "`value_head` brings its own adapter");
        report.push(problem.help("leave one of the two out"));
    }
}

pub(super) fn prompted(report: &mut Report, place: &Place, stage: &JudgePrompted) {
    report.counts(place, [("max_chars", stage.max_chars), ("max_tokens", stage.max_tokens)]);
    report.number(place, "temperature", stage.temperature, stage.temperature >= 0.0, "0 or above");
    scoring(report, place, stage.threshold, &stage.utility);
    if stage.model.is_empty() {
        report.add(&place.at("model"), "`model` is empty: the server has to be told which one");
    }
    if let Some(problem) = crate::client::url_problem(&stage.url) {
        let found = report.at(&place.at("url"), format!("`url` {problem}"));
        report.push(found.help("it looks like \"http://localhost:7999/v1\""));
    }
    let Client { key, concurrency, wait_seconds, timeout_seconds, .. } = &stage.client;
    report.counts(place, [("client.concurrency", *concurrency)]);
    if *concurrency > MAX_CONCURRENCY {
        let message = format!("`concurrency` is {concurrency}, but has to be at most {MAX_CONCURRENCY}");
        report.add(&place.at("client.concurrency"), message);
    }
    let (wait, timeout) = (*wait_seconds, *timeout_seconds);
    report.number(place, "client.wait_seconds", wait, (0.0..=MAX_SECONDS).contains(&wait), "from 0 to 604800");
    let fits = timeout > 0.0 && timeout <= MAX_SECONDS;
    report.number(place, "client.timeout_seconds", timeout, fits, "above 0 and at most 604800");
    let named = |key: &str| {
        let name = key.strip_prefix("env:").unwrap_or_default();
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if key.as_deref().is_some_and(|key| !named(key)) {
        // At the stage and not at the key: the line of a problem is printed, and a secret may stand there.
        let problem = report.at(place, "`client.key` has to be \"env:NAME\", the name of an environment variable");
        report.push(problem.help("a key has no place in a recipe; take it out of this file, and out of its history"));
    }
}

/// A judge that is asked in another form than it was trained in gives numbers that mean nothing. Other words are another
/// matter: the published implementation has some.
fn asked_as_trained(report: &mut Report, index: usize, place: &Place, asked: &JudgePrompt, trained: &Source) {
    let stages = &report.recipe().stages[..index];
    let find = |source: &Source| match source {
        Source::Stage(name) => stages.iter().find(|stage| stage.name() == name),
        _ => None,
    };
    let form = match find(trained) {
        Some(Stage::ValueHeadTrain(train)) => train.prompt.clone(),
        Some(Stage::Sft(sft)) => match find(&sft.data) {
            Some(Stage::JudgeChats(chats)) => JudgePrompt {
                framing: sft.framing,
                assistant_prefix: sft.assistant_prefix.clone(),
                // Prompts that were cut elsewhere are much the same.
                max_length: asked.max_length,
                ..chats.prompt.clone()
            },
            _ => return,
        },
        _ => return,
    };
    for (field, trained_with, asked_with) in [
        ("node_render", format!("{:?}", form.node_render), format!("{:?}", asked.node_render)),
        ("order", format!("{:?}", form.order), format!("{:?}", asked.order)),
        ("framing", format!("{:?}", form.framing), format!("{:?}", asked.framing)),
        ("assistant_prefix", format!("{:?}", form.assistant_prefix), format!("{:?}", asked.assistant_prefix)),
        ("max_length", form.max_length.to_string(), asked.max_length.to_string()),
    ] {
        if trained_with != asked_with {
            let message = format!("`{field}` is {asked_with}, but {trained} was trained with {trained_with}");
            report.add(&place.at("prompt").at(field), message);
        }
    }
}

fn prompt(report: &mut Report, place: &Place, prompt: &JudgePrompt) {
    report.counts(place, [("prompt.max_length", prompt.max_length)]);
}

fn fits(report: &mut Report, place: &Place, field: &str, tokens: usize, prompt: &JudgePrompt) {
    let max_length = prompt.max_length;
    if tokens < max_length {
        let message = format!("`{field}` is {tokens}: a prompt of `prompt.max_length`, {max_length}, does not fit in");
        report.add(&place.at(field), message);
    }
}

fn target_ratio(report: &mut Report, place: &Place, ratio: Option<f64>) {
    if let Some(ratio) = ratio {
        let fits = ratio > 0.0 && ratio < 1.0;
        report.number(place, "target_ratio", ratio, fits, "a share above 0 and below 1, or None");
    }
}
