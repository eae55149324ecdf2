//! Batched decoding.

use std::collections::VecDeque;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::draw::{Row, draw};
use super::request::{Accepted, Event, FinishReason, GenerateStats, Generation, Request};
use super::sampler::SamplingConfig;
use crate::decoder::{Decoder, DecoderInput, KvCache, Packed};
use crate::text::Tokenizer;
use crate::{Error, Result};

/// Columns for new tokens that a cache has room for at first.
const ROOM: usize = 256;
/// After so many new tokens of prompts a pass takes no further prompt.
const PASS: usize = 8192;
/// A beginning of so many tokens is kept for the prompts of later passes.
const SHARED: usize = 8;
/// Requests are put into the order of their content among so many, so that none waits for ever.
const WINDOW: usize = 1024;

/// How [`generate`] answers all its prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateConfig {
    /// How a token is chosen.
    pub sampling: SamplingConfig,
    /// Most tokens of one answer. Default 256.
    pub max_new_tokens: usize,
    /// Tokens that end an answer; by default those of the decoder's configuration.
    pub stop_ids: Option<Vec<u32>>,
    /// Go on after a token that would end the answer. Default false.
    pub ignore_eos: bool,
    /// Seed of the random streams: prompt i draws from the stream of (seed, "sample", i). Default 0.
    pub seed: u64,
    /// Most prompts that run at one time. Default 32.
    pub batch_size: usize,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self {
            sampling: SamplingConfig::default(),
            max_new_tokens: 256,
            stop_ids: None,
            ignore_eos: false,
            seed: 0,
            batch_size: 32,
        }
    }
}

/// Answers every prompt, in order. `model` must be without gradients ([`burn::module::Module::valid`]).
///
/// # Errors
/// When a setting is out of range, a prompt is empty, too long or holds ids outside the vocabulary, the model tracks
/// gradients, or its logits are not finite.
pub fn generate(model: &Decoder, prompts: &[Vec<u32>], config: &GenerateConfig) -> Result<Vec<Generation>> {
    let settings = EngineConfig { batch_size: config.batch_size, ..EngineConfig::default() };
    let mut engine = Engine::new(model, None, settings)?;
    config.sampling.validate()?;
    for (stream, prompt) in (0..).zip(prompts) {
        engine.push(Request {
            prompt: prompt.clone(),
            sampling: config.sampling,
            max_new_tokens: config.max_new_tokens,
            stop_ids: config.stop_ids.clone(),
            ignore_eos: config.ignore_eos,
            seed: config.seed,
            stream,
            ..Request::default()
        })?;
    }
    let mut answers = Vec::with_capacity(prompts.len());
    let mut take = |event: Event| {
        if let Event::Done { request, generation, .. } = event {
            answers.push((request, generation));
        }
    };
    while engine.step(&mut take)? {}
    answers.sort_by_key(|(request, _)| *request);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// Settings of an [`Engine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most answers that are written at one time. Default 32.
    pub batch_size: usize,
    /// Keep what was computed for the last answer when nothing waits, for a prompt that goes on from it. Default false.
    pub keep: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { batch_size: 32, keep: false }
    }
}

/// Answers requests in a batch that others join when some leave.
pub struct Engine<'a> {
    model: &'a Decoder,
    tokenizer: Option<&'a Tokenizer>,
    config: EngineConfig,
    device: Device,
    /// What to begin next, in order once it is `sorted`.
    waiting: VecDeque<Waiting>,
    sorted: bool,
    pushed: usize,
    rows: Vec<Row>,
    /// Keys and values of the rows, and of some that have ended since.
    cache: Option<KvCache>,
    trunk: Option<Trunk>,
    stats: GenerateStats,
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.config)
            .field("waiting", &self.waiting.len())
            .field("rows", &self.rows.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// A request of which some samples were not begun.
struct Waiting {
    accepted: Arc<Accepted>,
    sample: usize,
}

/// The beginning of the next prompts, in a cache of one row.
struct Trunk {
    ids: Vec<u32>,
    cache: KvCache,
}

/// What a pass over prompts computes.
#[derive(Default)]
struct Pass {
    /// The trunk, then the prompts.
    packed: Packed,
    /// The places of each different prompt in it.
    paths: Vec<Vec<u32>>,
    rows: Vec<Row>,
    /// The path of each row.
    lines: Vec<usize>,
}

impl<'a> Engine<'a> {
    /// An engine without requests. `model` must be without gradients ([`burn::module::Module::valid`]). With a tokenizer
    /// answers have texts.
    ///
    /// # Errors
    /// When the batch has no rows, or the model tracks gradients.
    pub fn new(model: &'a Decoder, tokenizer: Option<&'a Tokenizer>, config: EngineConfig) -> Result<Self> {
        if config.batch_size == 0 {
            return Err(Error::Input("batch_size is 0".into()));
        }
        let device = model.device();
        if device.is_autodiff() {
            return Err(Error::Input("generation needs a model without gradients: call `valid` first".into()));
        }
        Ok(Self {
            model,
            tokenizer,
            config,
            device,
            waiting: VecDeque::new(),
            sorted: true,
            pushed: 0,
            rows: Vec::new(),
            cache: None,
            trunk: None,
            stats: GenerateStats::default(),
        })
    }

    /// Adds a request and gives its number: 0, 1, 2, …
    ///
    /// # Errors
    /// When a setting is out of range, or the prompt is empty, too long or holds ids outside the vocabulary.
    pub fn push(&mut self, request: Request) -> Result<usize> {
        let number = self.pushed;
        let accepted = Accepted::new(number, request, self.model.config(), self.tokenizer.is_some())?;
        self.waiting.push_back(Waiting { accepted: Arc::new(accepted), sample: 0 });
        (self.pushed, self.sorted) = (number + 1, false);
        Ok(number)
    }

    /// What was done so far.
    pub fn stats(&self) -> GenerateStats {
        self.stats
    }

    /// One token for every answer that runs, and for those that begin to. False once nothing is left to do.
    ///
    /// # Errors
    /// When the network's logits are not finite, or a device or a tokenizer fails.
    pub fn step(&mut self, on: &mut dyn FnMut(Event)) -> Result<bool> {
        let free = self.config.batch_size.saturating_sub(self.rows.len());
        // Joining copies the cache: not for every single row of a large batch.
        let enough = free * 8 >= self.config.batch_size || self.waiting.len() <= free;
        if !self.waiting.is_empty() && free > 0 && (enough || self.rows.is_empty()) {
            self.begin(free, on)?;
        }
        if !self.rows.is_empty() {
            self.decode(on)?;
        }
        Ok(!(self.rows.is_empty() && self.waiting.is_empty()))
    }

    /// Ends a request. Answers that were begun end with [`FinishReason::Cancelled`].
    ///
    /// # Errors
    /// When a tokenizer fails.
    pub fn cancel(&mut self, request: usize, on: &mut dyn FnMut(Event)) -> Result<()> {
        self.waiting.retain(|waiting| waiting.accepted.number != request);
        let (ended, rows) = std::mem::take(&mut self.rows).into_iter().partition(|row| row.accepted.number == request);
        self.rows = rows;
        for mut row in ended {
            row.answer.finish_reason = FinishReason::Cancelled;
            row.finish(false, self.tokenizer)?;
            self.leave(row, on);
        }
        Ok(())
    }

    /// Computes prompts that wait and lets their answers join the batch.
    fn begin(&mut self, free: usize, on: &mut dyn FnMut(Event)) -> Result<()> {
        if !std::mem::replace(&mut self.sorted, true) {
            let order = |waiting: &Waiting| (waiting.accepted.number / WINDOW, waiting.accepted.number);
            self.waiting.make_contiguous().sort_by(|a, b| {
                let ((a_window, a_number), (b_window, b_number)) = (order(a), order(b));
                let prompts = || a.accepted.request.prompt.cmp(&b.accepted.request.prompt);
                a_window.cmp(&b_window).then_with(prompts).then(a_number.cmp(&b_number))
            });
        }
        let first = self.waiting.front().map(|waiting| &waiting.accepted.request.prompt[..]).unwrap_or_default();
        let trunk = self.trunk.take().filter(|trunk| shared(&trunk.ids, first) >= SHARED);
        let Pass { packed, paths, mut rows, lines } = self.plan(free, trunk.as_ref().map(|trunk| &trunk.ids[..]), on);
        let Some(path) = paths.last() else { return Ok(()) };
        let mut cache = match trunk {
            Some(trunk) => trunk.cache,
            None => KvCache::new(self.model.config(), 1, packed.ids.len(), self.model.dtype(), &self.device),
        };
        self.stats.prefilled_tokens += packed.ids.len() - cache.len();
        let places: Vec<u32> = paths.iter().filter_map(|path| path.last()).copied().collect();
        let hidden = self.model.forward_packed(&packed, &places, &mut cache)?;
        draw(self.model, hidden, &mut rows, &lines)?;
        self.trunk = self.next_trunk(&packed, path, &cache);

        let mut joining = Vec::new();
        for (row, line) in rows.into_iter().zip(lines) {
            if let Some(row) = self.settle(row, on)? {
                joining.push((row, &paths[line][..]));
            }
        }
        let (new, paths): (Vec<Row>, Vec<&[u32]>) = joining.into_iter().unzip();
        if new.is_empty() {
            return Ok(());
        }
        let places: Vec<usize> = self.rows.iter().map(|row| row.place).collect();
        self.rows.extend(new);
        let fresh = |room| cache.branches(&paths, room);
        self.cache = Some(match self.cache.take() {
            Some(old) if !places.is_empty() => old.joined(&places, Some(&fresh(0)), self.room()),
            _ => fresh(self.room()),
        });
        self.place();
        Ok(())
    }

    /// Takes up to `free` answers off the queue. Each prompt goes into the tree where it leaves the one before it.
    fn plan(&mut self, free: usize, trunk: Option<&[u32]>, on: &mut dyn FnMut(Event)) -> Pass {
        let (mut pass, mut path) = (Pass::default(), Vec::new());
        if let Some(trunk) = trunk {
            pass.packed.push(trunk, 0, &mut path);
        }
        let past = pass.packed.ids.len();
        let mut last = trunk.unwrap_or_default().to_vec();
        while let Some(next) = self.waiting.front_mut() {
            let accepted = Arc::clone(&next.accepted);
            let Request { prompt, n, .. } = &accepted.request;
            if accepted.limit == 0 {
                for sample in next.sample..*n {
                    let mut row = Row::new(Arc::clone(&accepted), sample);
                    row.answer.text = self.tokenizer.map(|_| String::new());
                    on(Event::Done { request: accepted.number, sample, generation: row.answer });
                }
                self.waiting.pop_front();
                continue;
            }
            let is_new = pass.paths.is_empty() || *prompt != last;
            if pass.rows.len() == free || (is_new && !pass.rows.is_empty() && pass.packed.ids.len() - past >= PASS) {
                break;
            }
            if is_new {
                // The last token is computed in any case: the answer begins with what it gives.
                pass.packed.push(prompt, shared(&last, prompt).min(prompt.len() - 1), &mut path);
                pass.paths.push(path.clone());
                last.clone_from(prompt);
            }
            let count = (n - next.sample).min(free - pass.rows.len());
            for sample in next.sample..next.sample + count {
                pass.rows.push(Row::new(Arc::clone(&accepted), sample));
                pass.lines.push(pass.paths.len() - 1);
            }
            self.stats.prompt_tokens += count * prompt.len();
            next.sample += count;
            if next.sample == *n {
                self.waiting.pop_front();
            }
        }
        pass
    }

    /// What the next prompts share with the one at the end of a pass.
    fn next_trunk(&self, packed: &Packed, path: &[u32], cache: &KvCache) -> Option<Trunk> {
        let ids: Vec<u32> = path.iter().map(|place| packed.ids[*place as usize]).collect();
        let length = match self.waiting.front() {
            Some(next) => shared(&ids, &next.accepted.request.prompt),
            None if self.config.keep => ids.len(),
            None => 0,
        };
        (length >= SHARED).then(|| Trunk { ids: ids[..length].to_vec(), cache: cache.branches(&[&path[..length]], 0) })
    }

    /// One token for every row.
    fn decode(&mut self, on: &mut dyn FnMut(Event)) -> Result<()> {
        let Some(mut cache) = self.cache.take() else { return Ok(()) };
        if self.rows.len() < cache.rows() {
            let places: Vec<usize> = self.rows.iter().map(|row| row.place).collect();
            cache = cache.joined(&places, None, self.room());
            self.place();
        }
        let hidden = self.model.forward_cached(&next(&self.rows, &self.device), &mut cache);
        self.cache = Some(cache);
        self.stats.steps += 1;
        let [count, length, width] = hidden.dims();
        let hidden = hidden.reshape([count * length, width]);
        let mut rows = std::mem::take(&mut self.rows);
        let lines: Vec<usize> = (0..rows.len()).collect();
        draw(self.model, hidden, &mut rows, &lines)?;
        for row in rows {
            if let Some(row) = self.settle(row, on)? {
                self.rows.push(row);
            }
        }
        Ok(())
    }

    /// Reports the newest token of a row, which is given back unless it ends.
    fn settle(&mut self, mut row: Row, on: &mut dyn FnMut(Event)) -> Result<Option<Row>> {
        self.stats.new_tokens += 1;
        let (request, sample, id) = (row.accepted.number, row.sample, row.answer.ids.last().copied());
        let settled = row.settle(self.tokenizer)?;
        if let (Some(text), Some(id)) = (settled.text, id) {
            on(Event::Token { request, sample, id, text });
        }
        if !settled.ended {
            return Ok(Some(row));
        }
        self.leave(row, on);
        Ok(None)
    }

    /// Reports an answer.
    fn leave(&mut self, row: Row, on: &mut dyn FnMut(Event)) {
        // A row that ends with its first token was never in the cache; the trunk holds its prompt.
        let keep = self.config.keep && self.waiting.is_empty() && row.answer.ids.len() > 1;
        if let Some(cache) = self.cache.as_ref().filter(|_| keep) {
            self.trunk = Some(Trunk { ids: row.seen(), cache: cache.joined(&[row.place], None, 0) });
        }
        on(Event::Done { request: row.accepted.number, sample: row.sample, generation: row.answer });
    }

    /// Columns that the rows will need.
    fn room(&self) -> usize {
        self.rows.iter().map(Row::left).max().unwrap_or(0).min(ROOM)
    }

    /// The rows are those of the cache again.
    fn place(&mut self) {
        for (place, row) in self.rows.iter_mut().enumerate() {
            row.place = place;
        }
    }
}

/// How many tokens two sequences have in common at the beginning.
fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The newest token of every row as a batch of one column.
fn next(rows: &[Row], device: &Device) -> DecoderInput {
    let column = |values: Vec<i32>| Tensor::<2, Int>::from_data(TensorData::new(values, [rows.len(), 1]), device);
    DecoderInput {
        ids: column(rows.iter().filter_map(|row| row.answer.ids.last()).map(|&id| id as i32).collect()),
        mask: None,
        positions: column(rows.iter().map(|row| row.len() as i32 - 1).collect()),
        until: None,
        noise: None,
    }
}
