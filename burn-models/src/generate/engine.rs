//! Batched decoding.

use burn::tensor::{Int, Tensor, TensorData};
use burn_lora::Stream;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::sampler::SamplingConfig;
use crate::decoder::{Decoder, DecoderInput, KvCache, Padded};
use crate::ops::{is_cpu, log_sum_exp};
use crate::{Error, Result};

/// Columns for new tokens that a cache has room for at first.
const ROOM: usize = 256;

/// How texts are generated.
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
    /// Seed of the random streams: request i draws from the stream of (seed, "sample", i). Default 0.
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

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// With a token that ends answers, which is the last of its ids.
    Stop,
    /// At the limit of new tokens or of the decoder's positions.
    Length,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The new tokens, the ending one included.
    pub ids: Vec<u32>,
    /// log p of each of them under the network's own distribution: natural logarithm, temperature 1, nothing removed, no
    /// penalty; what training computes for the same tokens.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// One request in a batch.
struct Row<'a> {
    request: usize,
    prompt: &'a [u32],
    limit: usize,
    stream: Stream,
    answer: Generation,
}

impl Row<'_> {
    fn push(&mut self, id: u32, logprob: f32) -> Result<()> {
        if !logprob.is_finite() {
            return Err(Error::Device(format!(
                "log p of token {id} is {logprob}: the network's logits are not finite"
            )));
        }
        self.answer.ids.push(id);
        self.answer.logprobs.push(logprob);
        Ok(())
    }

    /// Tokens so far: the next token's position.
    fn len(&self) -> usize {
        self.prompt.len() + self.answer.ids.len()
    }
}

/// Answers every prompt, in order. `model` must be without gradients ([`burn::module::Module::valid`]).
///
/// # Errors
/// When a setting is out of range, a prompt is empty, too long or holds ids outside the vocabulary, the model tracks
/// gradients, or its logits are not finite.
pub fn generate(model: &Decoder, prompts: &[Vec<u32>], config: &GenerateConfig) -> Result<Vec<Generation>> {
    config.sampling.validate()?;
    if config.batch_size == 0 {
        return Err(Error::Input("batch_size is 0".into()));
    }
    if model.device().is_autodiff() {
        return Err(Error::Input("generation needs a model without gradients: call `valid` first".into()));
    }
    let positions = model.config().max_position_embeddings;
    let mut rows = Vec::with_capacity(prompts.len());
    for (request, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() || prompt.len() >= positions {
            let length = prompt.len();
            return Err(Error::Input(format!("prompt {request} has {length} tokens, expected 1 to {}", positions - 1)));
        }
        rows.push(Row {
            request,
            prompt,
            limit: config.max_new_tokens.min(positions - prompt.len()),
            stream: Stream::new(config.seed, &["sample", &request.to_string()]),
            answer: Generation { ids: Vec::new(), logprobs: Vec::new(), finish_reason: FinishReason::Length },
        });
    }
    // Prompts of similar length together: less padding.
    rows.sort_by_key(|row| row.prompt.len());
    let mut done = Vec::with_capacity(rows.len());
    while !rows.is_empty() {
        let rest = rows.split_off(config.batch_size.min(rows.len()));
        done.extend(run(model, std::mem::replace(&mut rows, rest), config)?);
    }
    done.sort_by_key(|row| row.request);
    Ok(done.into_iter().map(|row| row.answer).collect())
}

/// Answers one batch.
fn run<'a>(model: &Decoder, rows: Vec<Row<'a>>, config: &GenerateConfig) -> Result<Vec<Row<'a>>> {
    let none = Vec::new();
    let stop_ids = match &config.stop_ids {
        _ if config.ignore_eos => &none,
        Some(ids) => ids,
        None => &model.config().eos_token_id,
    };
    let (mut active, mut done): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.limit > 0);
    if active.is_empty() {
        return Ok(done);
    }
    let device = model.device();
    let prompts: Vec<&[u32]> = active.iter().map(|row| row.prompt).collect();
    let batch = Padded::left(&prompts, model.config().pad_token_id.unwrap_or(0))?;
    let mut input = batch.input(model.config().vocab_size, &device)?;
    let capacity = batch.length + config.max_new_tokens.min(ROOM);
    let mut cache = KvCache::new(model.config(), active.len(), capacity, model.dtype(), &device);
    loop {
        let hidden = model.forward_cached(&input, &mut cache);
        let [count, length, width] = hidden.dims();
        // Padding is on the left: the last column holds every row's last token.
        let last = hidden.slice_dim(1, length - 1..length).reshape([count, width]);
        let logits = model.choices(last);
        if config.sampling.is_argmax() && !is_cpu(&device) {
            largest(logits, &mut active)?
        } else {
            draw(logits, &mut active, &config.sampling)?
        }

        let mut kept = Vec::new();
        for (i, mut row) in std::mem::take(&mut active).into_iter().enumerate() {
            if row.answer.ids.last().is_some_and(|id| stop_ids.contains(id)) {
                row.answer.finish_reason = FinishReason::Stop;
                done.push(row);
            } else if row.answer.ids.len() == row.limit {
                done.push(row);
            } else {
                kept.push(i);
                active.push(row);
            }
        }
        if active.is_empty() {
            return Ok(done);
        }
        if kept.len() < count {
            cache.select(&kept, &device);
        }
        input = next(&active, &device);
    }
}

/// The newest token of every row as a batch of one column.
fn next(rows: &[Row], device: &burn::tensor::Device) -> DecoderInput {
    let column = |values: Vec<i32>| Tensor::<2, Int>::from_data(TensorData::new(values, [rows.len(), 1]), device);
    DecoderInput {
        ids: column(rows.iter().filter_map(|row| row.answer.ids.last()).map(|&id| id as i32).collect()),
        mask: None,
        positions: column(rows.iter().map(|row| row.len() as i32 - 1).collect()),
        until: None,
        noise: None,
    }
}

/// Appends the token with the largest logit, chosen on the device.
fn largest(logits: Tensor<2>, rows: &mut [Row]) -> Result<()> {
    let read = |e: burn::tensor::TensorReadError| Error::Device(e.to_string());
    let ids = logits.clone().argmax(1).try_into_vec_as::<i64>().map_err(read)?;
    let top = logits.clone().max_dim(1);
    // log p of the largest: its logit cancels out of logit − log Σ exp.
    let logprobs = (logits - top).exp().sum_dim(1).log().neg().try_into_vec_as::<f32>().map_err(read)?;
    for ((row, id), logprob) in rows.iter_mut().zip(ids).zip(logprobs) {
        row.push(id as u32, logprob)?;
    }
    Ok(())
}

/// Appends a token chosen on the host.
fn draw(logits: Tensor<2>, rows: &mut [Row], sampling: &SamplingConfig) -> Result<()> {
    let vocabulary = logits.dims()[1];
    let logits = logits.try_into_vec_as::<f32>().map_err(|e| Error::Device(e.to_string()))?;
    rows.par_iter_mut().zip(logits.par_chunks(vocabulary)).try_for_each(|(row, logits)| {
        // Only the penalty looks at the text so far.
        let text = if sampling.repetition_penalty == 1.0 { Vec::new() } else { [row.prompt, &row.answer.ids].concat() };
        let id = match sampling.is_argmax() {
            // Of equal ones the first; that one which is not a number is larger than all shows in its log p.
            true => {
                logits
                    .iter()
                    .enumerate()
                    .fold((0, f32::NEG_INFINITY), |(best, top), (i, &l)| match l > top {
                        true => (i as u32, l),
                        false => (best, top),
                    })
                    .0
            }
            false => sampling.sample(logits, &text, &mut row.stream)?,
        };
        row.push(id, logits[id as usize] - log_sum_exp(logits))
    })
}
