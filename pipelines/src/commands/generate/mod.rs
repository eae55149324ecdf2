//! `hearth generate`: answers to prompts.

mod request;
mod show;

use super::rows::{decoder, wrong};
use crate::Error as CommandError;
use crate::cli::args::GenerateArgs;
use crate::progress::bar;
use crate::run::{Error, say};
use burn_models::generate::{Engine, EngineConfig, Event, Generation, Request};
use burn_models::text::Tokenizer;
use datasets::table::{Row, RowWriter, is_standard_stream, read_rows};
use request::Asked;
use serde_json::{Value, json};
use show::Show;
use std::collections::BTreeMap;
use std::time::Instant;

/// Reads rows with `prompt`, `messages` or `input_ids`; writes them with `output_ids` (new tokens only), `text`, `logprobs` and
/// `finish_reason` added. `prompt` is plain text: special tokens written in it are characters. A chat is written by the
/// model's own template and ends with the words that begin an answer.
///
/// Where a row asks for more than one answer, there is a row for each, with its number as `sample`. With choices, `choice` is the
/// one that was taken and `choice_logprobs` has log p of each in their order, null where it was not computed.
///
/// `logprobs` are natural logarithms under the network's own distribution, before temperature and filters. `text` is null
/// where the model's folder has no tokenizer.
///
/// # Errors
/// Rows that cannot be used, by line and key; files that cannot be read or written. Nothing is left under the output's
/// name then.
pub fn generate(args: &GenerateArgs) -> crate::Result<()> {
    if args.stream && is_standard_stream(&args.files.output) {
        let reason = "--stream shows the answers on standard output: give --output the name of a file".to_owned();
        return Err(CommandError::File { path: args.files.output.clone(), reason });
    }
    let device = args.compute.init()?;
    let model = decoder(&args.model, args.adapter.as_deref(), args.compute.dtype, &device)?;
    let tokenizer = match args.model.join("tokenizer.json").exists() {
        true => Some(Tokenizer::from_folder(&args.model).map_err(Error::from)?),
        false => None,
    };
    if let Some(tokenizer) = &tokenizer {
        tokenizer.fits(model.config().vocab_size).map_err(Error::from)?;
    }
    let rows: Vec<Row> =
        read_rows(&args.files.input).map_err(Error::from)?.collect::<Result<_, _>>().map_err(Error::from)?;
    let asked = Asked { args, config: model.config(), tokenizer: tokenizer.as_ref() };
    let settings = EngineConfig { batch_size: args.batch_size, ..EngineConfig::default() };
    let mut engine = Engine::new(&model, tokenizer.as_ref(), settings).map_err(Error::from)?;
    let mut counts = Vec::with_capacity(rows.len());
    let mut choices = Vec::with_capacity(rows.len());
    for (number, row) in (0..).zip(&rows) {
        let (request, texts): (Request, Vec<String>) = asked.request(number, row)?;
        counts.push(request.n);
        choices.push(texts);
        engine.push(request).map_err(|e| {
            wrong(&args.files.input, row, "choices", "texts that differ and fit behind the prompt", e, "see --choices")
        })?;
    }

    let writer = RowWriter::create(&args.files.output).map_err(Error::from)?;
    let mut output = Output { writer, rows, choices, counts, waiting: BTreeMap::new(), next: (0, 0) };
    let total: usize = output.counts.iter().sum();
    let mut show = Show::new(args.stream, &output.counts);
    let progress = bar("generate", if args.stream { 0 } else { total });
    let started = Instant::now();
    let mut done = Vec::new();
    loop {
        let more = engine.step(&mut |event| match event {
            Event::Token { request, sample, text, .. } => show.text((request, sample), text),
            Event::Done { request, sample, generation } => {
                show.done((request, sample));
                done.push(((request, sample), generation));
            }
        });
        let more = more.map_err(Error::from)?;
        progress.inc(done.len() as u64);
        output.take(done.drain(..))?;
        show.print()?;
        if !more {
            break;
        }
    }
    progress.finish_and_clear();
    let (stats, seconds) = (engine.stats(), started.elapsed().as_secs_f64());
    output.writer.finish().map_err(Error::from)?;
    say(&format!(
        "{total} answers: {} prompt tokens, {} of them computed; {} new tokens in {} steps; {seconds:.1} s, {:.1} new tokens/s",
        stats.prompt_tokens,
        stats.prefilled_tokens,
        stats.new_tokens,
        stats.steps,
        stats.new_tokens as f64 / seconds.max(1e-9)
    ));
    Ok(())
}

/// Rows in their order, while answers come in any.
struct Output {
    writer: RowWriter,
    rows: Vec<Row>,
    /// The choices of each row.
    choices: Vec<Vec<String>>,
    /// How many answers each row has.
    counts: Vec<usize>,
    waiting: BTreeMap<(usize, usize), Generation>,
    /// Row and sample that are written next.
    next: (usize, usize),
}

impl Output {
    fn take(&mut self, answers: impl Iterator<Item = ((usize, usize), Generation)>) -> Result<(), Error> {
        self.waiting.extend(answers);
        while let Some(answer) = self.waiting.remove(&self.next) {
            self.write(answer)?;
            let (row, sample) = self.next;
            self.next = if sample + 1 < self.counts[row] { (row, sample + 1) } else { (row + 1, 0) };
        }
        Ok(())
    }

    fn write(&mut self, answer: Generation) -> Result<(), Error> {
        let (row, sample) = self.next;
        let last = sample + 1 == self.counts[row];
        let from = &mut self.rows[row].map;
        let mut map = if last { std::mem::take(from) } else { from.clone() };
        // One table has one set of columns.
        if self.counts.iter().any(|count| *count > 1) {
            map.insert("sample".into(), json!(sample));
        }
        map.insert("output_ids".into(), json!(answer.ids));
        map.insert("text".into(), answer.text.map_or(Value::Null, Value::String));
        map.insert("logprobs".into(), json!(answer.logprobs));
        map.insert("finish_reason".into(), json!(answer.finish_reason));
        if let Some(choice) = answer.choice.and_then(|choice| self.choices[row].get(choice)) {
            map.insert("choice".into(), json!(choice));
            map.insert("choice_logprobs".into(), json!(answer.choice_logprobs));
        }
        Ok(self.writer.write(&map)?)
    }
}
