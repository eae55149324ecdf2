//! The command line of what generates text.

use std::path::PathBuf;

use burn_models::generate::SamplingConfig;
use clap::Args;

use super::{Compute, InOut};

/// Most answers to one prompt.
pub(crate) const MOST_ANSWERS: usize = 65_536;

/// Which tokens may be drawn.
#[derive(Debug, Args)]
pub struct Filters {
    /// Sample from the likeliest tokens that add up to this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share)]
    pub top_p: f64,
    /// Sample from the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Sample from tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = fraction)]
    pub min_p: f64,
    /// Make tokens that are already in the text less likely; 1 changes nothing
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = positive)]
    pub repetition_penalty: f64,
}

impl Filters {
    /// With this temperature.
    pub(crate) fn sampling(&self, temperature: f64) -> SamplingConfig {
        SamplingConfig {
            temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
        }
    }
}

/// `hearth generate`: `{"prompt": …}`, `{"messages": […]}` or `{"input_ids": […]}` in; adds `output_ids`, `text`, `logprobs`
/// and `finish_reason`. A row may have settings of its own, under the names of the arguments: `temperature`, `top_p`, `top_k`,
/// `min_p`, `repetition_penalty`, `max_new_tokens`, `n`, `stop`, `choices`, `seed`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Folder of a decoder
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Folder of a LoRA adapter for it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Where to read and write.
    #[command(flatten)]
    pub files: InOut,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token every time
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    pub temperature: f64,
    /// Which tokens may be drawn.
    #[command(flatten)]
    pub filters: Filters,
    /// Answers to each prompt, a row each, told apart by `sample`
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = answers)]
    pub n: usize,
    /// End an answer before this text; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = text)]
    pub stop: Vec<String>,
    /// The only answers there are, as in Yes,No; adds `choice` and `choice_logprobs`
    #[arg(long, value_name = "TEXT,TEXT", value_delimiter = ',', conflicts_with = "stop")]
    pub choices: Vec<String>,
    /// Answers depend on it and on the line's number only, not on the batch; a row's own `seed` alone decides about its answers
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
    /// Go on after an end-of-turn token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Most answers that are written at one time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count)]
    pub batch_size: usize,
    /// Show the answers on standard output while they are written, one after the other
    #[arg(long)]
    pub stream: bool,
    /// What to compute with.
    #[command(flatten)]
    pub compute: Compute,
}

/// `hearth chat`. A line of standard input is a message; /help lists the commands.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Folder of a decoder, of a stage that made a model or an adapter, or of a run with such a stage
    pub model: PathBuf,
    /// Folder of a LoRA adapter for it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Longest reply in tokens
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token every time
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = temperature)]
    pub temperature: f64,
    /// Which tokens may be drawn.
    #[command(flatten)]
    pub filters: Filters,
    /// The same messages with the same seed get the same replies
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
    /// Ask templates that know about it for replies without a thinking block
    #[arg(long)]
    pub no_thinking: bool,
    /// What to compute with.
    #[command(flatten)]
    pub compute: Compute,
}

fn number(text: &str, fits: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && fits(*value))
        .ok_or_else(|| format!("expected {expected}"))
}

fn temperature(text: &str) -> Result<f64, String> {
    number(text, |value| value >= 0.0, "0 or a positive number")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0 && value <= 1.0, "a number above 0 and up to 1")
}

fn fraction(text: &str) -> Result<f64, String> {
    number(text, |value| (0.0..=1.0).contains(&value), "a number from 0 to 1")
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0, "a positive number")
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|value| *value > 0).ok_or_else(|| "expected a number from 1 on".to_owned())
}

fn answers(text: &str) -> Result<usize, String> {
    let expected = || format!("expected a number from 1 to {MOST_ANSWERS}");
    text.parse().ok().filter(|value| (1..=MOST_ANSWERS).contains(value)).ok_or_else(expected)
}

fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected a text that is not empty".into()) } else { Ok(text.into()) }
}
