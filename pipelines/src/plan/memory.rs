//! How much memory a stage needs, estimated.
//!
//! Training a decoder of N layers (widths as in `config.json`: D model, F feed-forward, H·C queries, K·C keys) with b bytes a number:
//!
//! ```text
//! weights       parameters · b, adapters and heads · 4
//! gradients     trained parameters · 4, twice where a step has several passes (their sum, and the present one)
//! optimizer     trained parameters · 8 (two moments in f32)
//! activations   what the backward pass needs of the largest pass, of P tokens:
//!                 layer = P · b · (8·D + 4·H·C + 4·K·C + 4·F, and the inputs of adapted layers once more where they have dropout)
//!                 N · layer; with `recompute: Layers` only the input of every layer, and one layer: N · P · D · b + layer
//! head          the logits of a chunk of rows, with their gradient: 2 · min(2²⁵, learned rows · V) · 4
//! ```
//! The factors count the tensors that a layer keeps (two norms' inputs and outputs, q, k and v before and after norm and rotation, gate,
//! up, their activation and product, the outputs); attention runs in tiles and keeps no scores. What a device's allocator keeps
//! beyond that, the runtime's own memory (some 40 MiB) and the data on the host come on top. Peaks measured on a CPU for a decoder of
//! 4 layers, less 42 MiB: 151 MiB where the formula says 182, 86 for 80 with `recompute: Layers`, 188 for 220 with LoRA.

use burn_lora::LoraConfig;
use burn_models::decoder::DecoderConfig;
use serde::Serialize;

/// Numbers of logits that exist at one time in the output head.
const LOGITS: u64 = 1 << 25;

/// Bytes by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The model, adapters included, and tables of vectors.
    pub weights: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// The optimizer's moments.
    pub optimizer: u64,
    /// What is kept for the backward pass, or, without one, the largest intermediate results.
    pub activations: u64,
    /// Logits.
    pub head: u64,
}

impl Memory {
    /// All together.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.activations + self.head
    }

    /// Of parameters alone: `frozen` of `bytes` each, and `trained` ones in f32 with gradients and moments. `sums`: whether a step
    /// adds up the gradients of several passes.
    pub(super) fn of_parameters(frozen: u64, bytes: u64, trained: u64, sums: bool) -> Self {
        Self {
            weights: frozen * bytes + trained * 4,
            gradients: trained * if sums { 8 } else { 4 },
            optimizer: trained * 8,
            ..Self::default()
        }
    }
}

/// The largest pass of a training.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pass {
    /// Tokens computed, padding included.
    pub(super) tokens: u64,
    /// Rows that the output head sees.
    pub(super) rows: u64,
}

/// Bytes that a backward pass through a decoder needs.
pub(super) fn activations(
    config: &DecoderConfig,
    lora: Option<&LoraConfig>,
    pass: Pass,
    bytes: u64,
    recompute: bool,
) -> u64 {
    let [d, f, c] = [config.hidden_size, config.intermediate_size, config.head_dim].map(|n| n as u64);
    let [heads, groups] = [config.num_attention_heads, config.num_key_value_heads].map(|n| n as u64);
    let dropped = match lora {
        Some(lora) if lora.dropout > 0.0 => 5 * d + heads * c + f,
        _ => 0,
    };
    let token = 8 * d + 4 * heads * c + 4 * groups * c + 4 * f + dropped;
    let layer = pass.tokens * token * bytes;
    let layers = config.num_hidden_layers as u64;
    if recompute { layers * pass.tokens * d * bytes + layer } else { layers * layer }
}

/// Bytes of the largest intermediate results of a pass without a backward one.
pub(super) fn inference(config: &DecoderConfig, pass: Pass, bytes: u64) -> u64 {
    let one = DecoderConfig { num_hidden_layers: 1, ..config.clone() };
    activations(&one, None, pass, bytes, false)
}

/// Bytes of the logits of so many rows.
pub(super) fn head(config: &DecoderConfig, rows: u64) -> u64 {
    2 * 4 * LOGITS.min(rows * config.vocab_size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worked_example() {
        let config = DecoderConfig {
            vocab_size: 100,
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 3,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 4,
            ..DecoderConfig::default()
        };
        let pass = Pass { tokens: 10, rows: 5 };
        // 10 · (64 + 32 + 16 + 64) · 4
        let layer = 10 * 176 * 4;
        assert_eq!(activations(&config, None, pass, 4, false), 3 * layer);
        assert_eq!(activations(&config, None, pass, 4, true), 3 * 10 * 8 * 4 + layer);
        let lora = LoraConfig::default();
        assert_eq!(activations(&config, Some(&lora), pass, 4, false), 3 * (layer + 10 * (40 + 8 + 16) * 4));
        assert_eq!(head(&config, 5), 2 * 4 * 500);
        let memory = Memory::of_parameters(1000, 2, 10, true);
        assert_eq!((memory.weights, memory.gradients, memory.optimizer), (2040, 80, 80));
        assert_eq!(memory.total(), 2200);
    }
}
