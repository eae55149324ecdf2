//! Vectors of texts by a decoder: batches of equal cost, nothing computed twice.

use burn::tensor::Tensor;
use burn_models::decoder::{Decoder, Padded};
use serde::{Deserialize, Serialize};

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
) -> burn_models::Result<Vec<f32>> {
    let width = model.config().hidden_size;
    let device = model.device();
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|i| sequences[*i].len());
    let mut rows = vec![0.0; sequences.len() * width];
    let mut rest = order.as_slice();
    let mut done = 0;
    while !rest.is_empty() {
        let fits = |n: usize| n * sequences[rest[n - 1]].len() <= batch_tokens;
        let count = (1..=rest.len()).take_while(|n| fits(*n)).last().unwrap_or(1);
        let (batch, after) = rest.split_at(count);
        let chosen: Vec<&[u32]> = batch.iter().map(|i| sequences[*i].as_slice()).collect();
        let padded = Padded::right(&chosen, 0)?;
        let input = padded.input(model.config().vocab_size, &device)?;
        let vectors: Tensor<2> = match pooling {
            LlmPooling::LastToken => model.last_token_state(&input),
            LlmPooling::MeanTokens => {
                let hidden = model.forward_hidden(&input);
                let hidden = hidden.cast(burn::tensor::DType::F32);
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
        };
        let values: Vec<f32> = vectors.into_data().iter::<f32>().collect();
        for (row, i) in values.chunks_exact(width).zip(batch) {
            rows[i * width..(i + 1) * width].copy_from_slice(row);
        }
        done += count;
        progress(done);
        rest = after;
    }
    Ok(rows)
}
