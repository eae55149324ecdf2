//! Settings outside their ranges, and settings that do not go together within one stage.

use burn_models::text::Mask;
use datasets::sampler::Sampler;
use std::path::Path;

use super::{Place, Report, chats, graph_questions, judges};
use crate::eval::UtilityOptions;
use crate::recipe::{
    AdamW, BestBy, Checkpoint, DataSource, DecoderInit, EarlyStopping, Embed, EncoderInit, Evaluation, GlowEval,
    GlowTrain, InitModel, MergeLora, ModelSource, Optim, PlaceKind, Recipe, Schedule, Sft, Source, Stage,
};

/// Nobody waits for more.
const MAX_COUNT: usize = 1_000_000_000;
/// More do not fit into the memory of any one machine that trains from scratch.
const MAX_PARAMETERS: u64 = 20_000_000_000;

pub(super) fn check(report: &mut Report) {
    let recipe = report.recipe();
    for (key, model) in &recipe.models {
        let place = Place::of("models").key(key);
        match model {
            ModelSource::Init(InitModel::Decoder(init)) => decoder(report, &place, init),
            ModelSource::Init(InitModel::Encoder(init)) => encoder(report, &place, init),
            ModelSource::Path(_) | ModelSource::Hub(_) => {}
        }
    }
    for (key, data) in &recipe.data {
        let place = Place::of("data").key(key);
        match data {
            DataSource::Synthetic(config) => synthetic(report, &place, config.validate()),
            DataSource::SyntheticChats(config) => synthetic(report, &place, config.validate()),
            DataSource::Chat(data) => chats::settings(report, &place, data),
            DataSource::Flora(_) | DataSource::Hub(_) => {}
        }
    }
    for (index, stage) in recipe.stages.iter().enumerate() {
        let place = Place::stage(index);
        match stage {
            Stage::GraphQuestions(stage) => graph_questions::made(report, &place, stage),
            Stage::GraphQuestionEval(stage) => graph_questions::asked(report, index, &place, stage),
            Stage::Sft(stage) => sft(report, &place, stage),
            Stage::MergeLora(stage) => merge_lora(report, &place, stage),
            Stage::Embed(stage) => embed(report, &place, stage),
            Stage::GlowTrain(stage) => glow_train(report, &place, stage),
            Stage::GlowEval(stage) => glow_eval(report, &place, stage),
            Stage::JudgeChats(stage) => judges::chats(report, &place, stage),
            Stage::ValueHeadTrain(stage) => judges::value_head(report, &place, stage),
            Stage::JudgeEval(stage) => judges::eval(report, index, &place, stage),
            Stage::JudgePrompted(stage) => judges::prompted(report, &place, stage),
        }
    }
}

impl Report<'_> {
    /// Counts that have to be 1 or more, and few enough that products of them with numbers of records are numbers too.
    pub(super) fn counts<const N: usize>(&mut self, place: &Place, fields: [(&str, usize); N]) {
        for (field, value) in fields {
            if value == 0 {
                self.add(&place.at(field), format!("`{}` is 0, but has to be at least 1", last(field)));
            } else if value > MAX_COUNT {
                let message = format!("`{}` is {value}, but has to be at most {MAX_COUNT}", last(field));
                self.add(&place.at(field), message);
            }
        }
    }

    /// A number that has to be finite and to lie in a range, which is given as a test and in words.
    pub(super) fn number(&mut self, place: &Place, field: &str, value: f64, fits: bool, range: &str) {
        if !(fits && value.is_finite()) {
            self.add(&place.at(field), format!("`{}` is {value}, but has to be {range}", last(field)));
        }
    }
}

pub(super) fn last(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}

fn decoder(report: &mut Report, place: &Place, init: &DecoderInit) {
    let (width, heads) = (init.hidden_size, init.num_attention_heads);
    if init.head_dim.is_none() && heads != 0 && width % heads != 0 {
        let message = format!("`hidden_size` is {width}, which is not a multiple of `num_attention_heads`, {heads}");
        report.add(&place.at("hidden_size"), message);
        return;
    }
    // The size of the vocabulary is the tokenizer's affair.
    let made = init.config(1);
    match made.validate() {
        Ok(()) => parameters(report, place, made.num_parameters()),
        problem => config(report, place, problem),
    }
}

fn encoder(report: &mut Report, place: &Place, init: &EncoderInit) {
    let made = init.config(1);
    match made.validate() {
        Ok(()) if made.max_position_embeddings < 3 => {
            let message = "two tokens mark the ends of a text: `max_position_embeddings` has to be at least 3";
            report.add(&place.at("max_position_embeddings"), message);
        }
        Ok(()) => {
            let (width, inner) = (made.hidden_size as u64, made.intermediate_size as u64);
            parameters(report, place, made.num_hidden_layers as u64 * width * (4 * width + 2 * inner));
        }
        problem => config(report, place, problem),
    }
}

/// The numbers of a fresh model are all made at once.
fn parameters(report: &mut Report, place: &Place, count: u64) {
    if count > MAX_PARAMETERS {
        let most = MAX_PARAMETERS / 1_000_000_000;
        let billions = count.div_ceil(1_000_000_000);
        let message = format!("a fresh model of {billions} billion parameters: it may have at most {most} billion");
        report.add(place, message);
    }
}

/// Reports what a model's own rules find wrong with a key of its configuration.
fn config(report: &mut Report, place: &Place, result: burn_models::Result<()>) {
    if let Err(burn_models::Error::Config { key, problem, .. }) = result {
        report.add(&place.at(&key), format!("`{}`: {problem}", last(&key)));
    }
}

fn synthetic(report: &mut Report, place: &Place, result: datasets::Result<()>) {
    if let Err(datasets::Error::Setting { key, expected, found }) = result {
        // A rule about several settings names them all; the first stands for them.
        let first = key.split(", ").next().unwrap_or(&key);
        report.add(&place.at(first), format!("{key}: found {found}, expected {expected}"));
    }
}

/// `lora` tells whether what is trained is an adapter.
pub(super) fn optim(report: &mut Report, place: &Place, optim: &Optim, lora: bool) {
    let AdamW { lr, weight_decay, betas, eps, lora_plus, .. } = *optim.config();
    let place = place.at("optim");
    report.number(&place, "lr", lr, lr > 0.0, "above 0");
    report.number(&place, "weight_decay", weight_decay, weight_decay >= 0.0, "0 or above");
    report.number(&place, "eps", eps, eps > 0.0, "above 0");
    if let Some(ratio) = lora_plus {
        report.number(&place, "lora_plus", ratio, ratio > 0.0, "above 0, or None");
        if !lora {
            let problem = report.at(&place.at("lora_plus"), "`lora_plus` needs an adapter: the stage has no `lora`");
            report.push(problem.help("leave it out, or add lora: (rank: 8)"));
        }
    }
    for (nth, beta) in [betas.0, betas.1].into_iter().enumerate() {
        if !(0.0..1.0).contains(&beta) {
            report.add(&place.at("betas").key(nth), format!("`betas` holds {beta}, but has to be in [0, 1)"));
        }
    }
}

/// The decay of a moving average.
fn ema(report: &mut Report, place: &Place, ema: Option<f64>) {
    if let Some(decay) = ema {
        report.number(place, "ema", decay, (0.0..1.0).contains(&decay), "in [0, 1), or None");
    }
}

pub(super) fn schedule(report: &mut Report, place: &Place, schedule: &Schedule, optim: &Optim) {
    let lr = optim.lr();
    let place = place.at("schedule");
    match *schedule {
        Schedule::Constant { warmup } => length(report, &place, "warmup", warmup),
        Schedule::WarmupCosine { warmup, min_lr }
        | Schedule::WarmupLinear { warmup, min_lr }
        | Schedule::WarmupPolynomial { warmup, min_lr, .. } => {
            length(report, &place, "warmup", warmup);
            minimum(report, &place, min_lr, lr);
            if let Schedule::WarmupPolynomial { power, .. } = *schedule {
                report.number(&place, "power", power, power > 0.0, "above 0");
            }
        }
        Schedule::WarmupStableDecay { warmup, decay, min_lr, .. } => {
            length(report, &place, "warmup", warmup);
            length(report, &place, "decay", decay);
            if warmup < 1.0 && decay < 1.0 && warmup + decay > 1.0 {
                report
                    .add(&place.at("decay"), format!("warm-up and decay together are {} of all steps", warmup + decay));
            }
            minimum(report, &place, min_lr, lr);
        }
        Schedule::StepLr { every, gamma } => {
            report.counts(&place, [("every", every)]);
            report.number(&place, "gamma", gamma, gamma > 0.0 && gamma <= 1.0, "above 0 and at most 1");
        }
    }
}

fn minimum(report: &mut Report, place: &Place, min_lr: f64, lr: f64) {
    // A learning rate that cannot be is reported by itself.
    let fits = min_lr >= 0.0 && (min_lr <= lr || lr.is_nan() || lr <= 0.0);
    report.number(place, "min_lr", min_lr, fits, "between 0 and `lr`");
}

/// A share of all steps, or a number of steps.
fn length(report: &mut Report, place: &Place, field: &str, value: f64) {
    let fits = (0.0..1.0).contains(&value) || (value >= 1.0 && value.fract() == 0.0 && value <= MAX_COUNT as f64);
    report.number(place, field, value, fits, "a share of all steps, in [0, 1), or a whole number of steps from 1 on");
}

pub(super) fn clip(report: &mut Report, place: &Place, clip: Option<f64>) {
    if let Some(clip) = clip {
        report.number(place, "clip", clip, clip > 0.0, "above 0, or None");
    }
}

pub(super) fn checkpoint(report: &mut Report, place: &Place, checkpoint: &Checkpoint) {
    let fields = [("checkpoint.every_steps", checkpoint.every_steps), ("checkpoint.keep", checkpoint.keep)];
    report.counts(place, fields);
}

/// Every element of a list may stand there once.
pub(super) fn repeated<T: PartialEq + std::fmt::Debug>(report: &mut Report, place: &Place, list: &[T]) {
    for (nth, element) in list.iter().enumerate() {
        if list[..nth].contains(element) {
            report.add(&place.key(nth), format!("{element:?} stands in the list twice"));
        }
    }
}

fn sft(report: &mut Report, place: &Place, stage: &Sft) {
    report.counts(
        place,
        [
            ("epochs", stage.epochs),
            ("max_steps", stage.max_steps.unwrap_or(1)),
            ("sequences_per_step", stage.sequences_per_step),
            ("tokens_per_step", stage.tokens_per_step.unwrap_or(1)),
            ("max_length", stage.max_length),
        ],
    );
    if stage.micro_tokens < stage.max_length {
        let (micro_tokens, max_length) = (stage.micro_tokens, stage.max_length);
        let message =
            format!("`micro_tokens` is {micro_tokens}: a sequence of `max_length`, {max_length}, does not fit in");
        report.add(&place.at("micro_tokens"), message);
    }
    if let Some(lora) = &stage.lora {
        self::lora(report, &place.at("lora"), lora);
    }
    if let Err(problem) = stage.learn.validate() {
        report.add(&place.at("learn"), problem);
    }
    mask(report, place, stage);
    optim(report, place, &stage.optim, stage.lora.is_some());
    schedule(report, place, &stage.schedule, &stage.optim);
    clip(report, place, stage.clip);
    ema(report, place, stage.ema);
    if let Some(alpha) = stage.neftune {
        report.number(place, "neftune", alpha, alpha > 0.0, "above 0, or None");
    }
    samples(report, place, stage);
    if stage.eval.is_some() && !holds_out(report.recipe(), &stage.data) {
        let problem = report.at(&place.at("eval"), format!("{} holds nothing out to evaluate on", stage.data));
        report.push(
            problem
                .help("a GraphQuestions stage does, chats with a `split`, and a folder with val.jsonl or test.jsonl"),
        );
    }
    evaluation(report, place, stage.eval.as_ref(), stage.early_stopping.as_ref());
    checkpoint(report, place, &stage.checkpoint);
}

/// Generated answers belong to evaluations.
fn samples(report: &mut Report, place: &Place, stage: &Sft) {
    if let Some(samples) = &stage.samples {
        let fields = [("samples.count", samples.count), ("samples.max_new_tokens", samples.max_new_tokens)];
        report.counts(place, fields);
        if stage.eval.is_none() {
            let problem =
                report.at(&place.at("samples"), "`samples` needs `eval`, which says when answers are generated");
            report.push(problem.help("add eval: (every_steps: 100)"));
        }
    } else if stage.eval.as_ref().is_some_and(|eval| eval.select_by == BestBy::ValSamples) {
        let problem = report.at(&place.at("eval.select_by"), "`ValSamples` needs `samples`: no answers are scored");
        report.push(problem.help("add samples: (count: 16)"));
    }
}

/// Tags are names, and stand in replies that are learned.
fn mask(report: &mut Report, place: &Place, stage: &Sft) {
    let tags = match &stage.mask {
        Mask::None => return,
        Mask::Tags(tags) => tags.as_slice(),
        Mask::TagTokens(tag) => std::slice::from_ref(tag),
    };
    let place = place.at("mask");
    if tags.is_empty() {
        report.add(&place, "there is no tag in `mask`: leave it out, or name what is only read");
    }
    let named = |tag: &str| !tag.is_empty() && !tag.contains(|c: char| c.is_whitespace() || "<>/".contains(c));
    if let Some(tag) = tags.iter().find(|tag| !named(tag)) {
        let problem = report.at(&place, format!("{tag:?} is no name of a tag"));
        report.push(problem.help("write it without brackets: Tags([\"observation\"])"));
    }
}

pub(super) fn evaluation(
    report: &mut Report,
    place: &Place,
    eval: Option<&Evaluation>,
    early_stopping: Option<&EarlyStopping>,
) {
    if let Some(eval) = eval {
        let records = eval.max_records.unwrap_or(1);
        report.counts(place, [("eval.every_steps", eval.every_steps), ("eval.max_records", records)]);
    }
    if let Some(stopping) = early_stopping {
        report.counts(place, [("early_stopping.patience", stopping.patience)]);
        let min_delta = stopping.min_delta;
        report.number(place, "early_stopping.min_delta", min_delta, min_delta >= 0.0, "0 or above");
        if eval.is_none() {
            let problem =
                report.at(&place.at("early_stopping"), "early stopping needs `eval`, which says when to look");
            report.push(problem.help("add eval: (every_steps: 100)"));
        }
    }
}

/// Whether there is anything to evaluate on beside the data that a decoder is trained on.
fn holds_out(recipe: &Recipe, data: &Source) -> bool {
    // What is not there is reported elsewhere, or lies on another machine.
    let test =
        |path: &Path| !path.exists() || datasets::chat::chat_files(path).is_ok_and(|files| !files.held_out.is_empty());
    match data {
        Source::Stage(name) => match recipe.stages.iter().find(|stage| stage.name() == name) {
            Some(Stage::GraphQuestions(stage)) => stage.test_workflows > 0,
            _ => true,
        },
        Source::Path(path) => test(path),
        Source::Data(key) => match recipe.data.get(key) {
            Some(DataSource::SyntheticChats(config)) => config.val + config.test > 0,
            Some(DataSource::Chat(data)) => {
                data.split.is_some()
                    || data.places(recipe).iter().any(|place| match place.kind {
                        PlaceKind::Path(path) => test(path),
                        PlaceKind::Hub(_) => true,
                        PlaceKind::Registry(..) => false,
                    })
            }
            _ => true,
        },
        Source::Model(_) | Source::Hub(_) => true,
    }
}

pub(super) fn lora(report: &mut Report, place: &Place, config: &burn_lora::LoraConfig) {
    if let Err(burn_lora::Error::Config { key, problem }) = config.validate() {
        report.add(&place.at(key), format!("`{key}` {problem}"));
    }
    let kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    match &config.targets {
        burn_lora::Targets::AllLinear => {}
        burn_lora::Targets::Names(names) if names.is_empty() => {
            report.add(&place.at("targets"), "`targets` is empty: there is nothing to adapt");
        }
        burn_lora::Targets::Names(names) => {
            for (nth, name) in names.iter().enumerate() {
                let kind = last(name);
                if !kinds.contains(&kind) {
                    let problem =
                        report.at(&place.at("targets").key(nth), format!("no linear layer is called `{name}`"));
                    report.push(problem.accepted(kind, kinds));
                }
            }
        }
        burn_lora::Targets::Regex(pattern) => {
            if let Err(error) = regex::Regex::new(pattern) {
                let problem = report.at(&place.at("targets"), "`targets` is not a regular expression");
                report.push(problem.help(error.to_string()));
            }
        }
    }
}

fn merge_lora(report: &mut Report, place: &Place, stage: &MergeLora) {
    report.counts(place, [("verify_prompts", stage.verify_prompts)]);
}

fn embed(report: &mut Report, place: &Place, stage: &Embed) {
    report.counts(place, [("max_length", stage.max_length)]);
    if stage.batch_tokens < stage.max_length {
        let (batch_tokens, max_length) = (stage.batch_tokens, stage.max_length);
        let message =
            format!("`batch_tokens` is {batch_tokens}: a prompt of `max_length`, {max_length}, does not fit in");
        report.add(&place.at("batch_tokens"), message);
    }
    let Some(text_max_length) = stage.text_max_length else { return };
    if text_max_length < 3 {
        report.add(&place.at("text_max_length"), "two tokens mark the ends: `text_max_length` has to be at least 3");
    }
    if let Source::Model(key) = &stage.text
        && let Some(ModelSource::Init(InitModel::Encoder(init))) = report.recipe().models.get(key)
        && text_max_length > init.max_position_embeddings
    {
        let most = init.max_position_embeddings;
        let message =
            format!("`text_max_length` is {text_max_length}, but {} has positions for {most} tokens", stage.text);
        report.add(&place.at("text_max_length"), message);
    }
}

fn glow_train(report: &mut Report, place: &Place, stage: &GlowTrain) {
    report.counts(
        place,
        [
            ("epochs", stage.epochs),
            ("batch_size", stage.batch_size),
            ("eval_every_epochs", stage.eval_every_epochs),
            ("patience", stage.patience),
        ],
    );
    config(report, &place.at("model"), stage.model.validate());
    if let Some(warmup) = &stage.warmup {
        let place = place.at("warmup");
        report.counts(&place, [("steps", warmup.steps), ("batch_size", warmup.batch_size)]);
        for (field, weight) in [("node_weight", warmup.node_weight), ("adj_weight", warmup.adj_weight)] {
            report.number(&place, field, weight, weight >= 0.0, "0 or above");
        }
        optim(report, &place, &warmup.optim, false);
        schedule(report, &place, &warmup.schedule, &warmup.optim);
    }
    if let Sampler::TaskGrouped { group_size, .. } = stage.sampler {
        report.counts(&place.at("sampler"), [("group_size", group_size)]);
    }
    if let Some(contrast) = &stage.contrast {
        let place = place.at("contrast");
        config(report, &place, contrast.validate());
        if contrast.on.is_empty() {
            report.add(&place.at("on"), "`on` is empty: there is nothing to contrast; `contrast: None` says so");
        }
        repeated(report, &place.at("on"), &contrast.on);
    }
    report.number(place, "pred_weight", stage.pred_weight, stage.pred_weight >= 0.0, "0 or above");
    report.number(place, "min_delta", stage.min_delta, stage.min_delta >= 0.0, "0 or above");
    report.number(place, "threshold", stage.threshold, (0.0..=1.0).contains(&stage.threshold), "in [0, 1]");
    optim(report, place, &stage.optim, false);
    schedule(report, place, &stage.schedule, &stage.optim);
    clip(report, place, stage.clip);
    ema(report, place, stage.ema);
    checkpoint(report, place, &stage.checkpoint);
}

fn glow_eval(report: &mut Report, place: &Place, stage: &GlowEval) {
    report.counts(place, [("batch_size", stage.batch_size)]);
    if stage.checkpoints.is_empty() {
        report.add(&place.at("checkpoints"), "`checkpoints` is empty: there is nothing to evaluate");
    }
    repeated(report, &place.at("checkpoints"), &stage.checkpoints);
    repeated(report, &place.at("targets"), &stage.targets);
    if stage.suite.is_some() && stage.targets.is_empty() {
        let problem = report.at(&place.at("suite"), "the recipe declares none of FLORA-Bench's sub-data sets");
        report.push(problem.help("they are entries of `data` whose folders are called Coding-AF, Math-GD and so on"));
    }
    if let Err(crate::eval::Error::Setting { setting, value, expected }) = stage.bootstrap.validate() {
        report.add(&place.at(setting), format!("`{}` is {value}, but has to be {expected}", last(setting)));
    }
    scoring(report, place, stage.threshold, &stage.utility);
}

/// What turns scores into metrics.
pub(super) fn scoring(report: &mut Report, place: &Place, threshold: f64, utility: &UtilityOptions) {
    report.number(place, "threshold", threshold, (0.0..=1.0).contains(&threshold), "in [0, 1]");
    if let Err(crate::eval::Error::Setting { setting, value, expected }) = utility.validate() {
        report.add(&place.at(setting), format!("`{}` is {value}, but has to be {expected}", last(setting)));
    }
}
