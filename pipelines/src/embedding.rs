//! Vectors of texts by a decoder: batches of equal cost, nothing computed twice.

use burn::tensor::Tensor;
use burn_models::Result;
use burn_models::decoder::{Decoder, DecoderInput, Padded};
use burn_models::ops::is_cpu;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// On a CPU, as many tokens as a thread works on at a time.
const CACHED: usize = 2048;

/// How a decoder's final hidden states become one vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LlmPooling {
    /// The state of the last token.
    #[default]
    LastToken,
    /// The mean over all tokens.
    MeanTokens,
}

/// The vectors `[sequences, D]` of token sequences, row-major f32 in the order given. Sequences are sorted by length and cut
/// into batches of at most `batch_tokens` tokens, padding included (a longer sequence is a batch of its own); no output
/// head is applied. `progress` hears how many sequences are done.
///
/// # Errors
/// An empty sequence, or ids outside the vocabulary.
pub fn embed_tokens(
    model: &Decoder,
    sequences: &[Vec<u32>],
    pooling: LlmPooling,
    batch_tokens: usize,
    mut progress: impl FnMut(usize),
) -> Result<Vec<f32>> {
    let width = model.config().hidden_size;
    let device = model.device();
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|i| sequences[*i].len());
    let cpu = is_cpu(&device);
    let budget = if cpu { batch_tokens.min(CACHED) } else { batch_tokens };
    let mut batches: Vec<&[usize]> = Vec::new();
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let fits = |n: usize| n * sequences[rest[n - 1]].len() <= budget;
        let count = (1..=rest.len()).take_while(|n| fits(*n)).last().unwrap_or(1);
        let (batch, after) = rest.split_at(count);
        batches.push(batch);
        rest = after;
    }
    let compute = |batch: &&[usize]| -> Result<Vec<f32>> {
        let chosen: Vec<&[u32]> = batch.iter().map(|i| sequences[*i].as_slice()).collect();
        let input = Padded::right(&chosen, 0)?.input(model.config().vocab_size, &device)?;
        Ok(vectors(model, &input, pooling).into_data().iter::<f32>().collect())
    };
    let mut rows = vec![0.0; sequences.len() * width];
    let mut done = 0;
    // On a CPU every thread takes a batch: what stands between the matrix products runs on one thread each.
    for round in batches.chunks(if cpu { rayon::current_num_threads() } else { 1 }) {
        let found: Vec<Vec<f32>> = match round {
            [batch] => vec![compute(batch)?],
            several => several.par_iter().map(compute).collect::<Result<_>>()?,
        };
        for (batch, values) in round.iter().zip(found) {
            for (row, i) in values.chunks_exact(width).zip(*batch) {
                rows[i * width..(i + 1) * width].copy_from_slice(row);
            }
            done += batch.len();
            progress(done);
        }
    }
    Ok(rows)
}

/// Vectors `[B, D]` of a batch.
fn vectors(model: &Decoder, input: &DecoderInput, pooling: LlmPooling) -> Tensor<2> {
    match pooling {
        LlmPooling::LastToken => model.last_token_state(input),
        LlmPooling::MeanTokens => {
            let hidden = model.forward_hidden(input).cast(burn::tensor::DType::F32);
            let [b, l, d] = hidden.dims();
            match &input.mask {
                None => hidden.mean_dim(1).reshape([b, d]),
                Some(mask) => {
                    let mask = mask.clone().float().reshape([b, l, 1]);
                    let sums = (hidden * mask.clone()).sum_dim(1).reshape([b, d]);
                    sums / mask.sum_dim(1).reshape([b, 1])
                }
            }
        }
    }
}
