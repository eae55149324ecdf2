//! How much memory a stage needs, estimated.
//!
//! Training a decoder of N layers (widths as in `config.json`: D model, F feed-forward, H·C queries, K·C keys) with b bytes a number:
//!
//! ```text
//! weights       parameters · b, adapters and heads · 4
//! gradients     trained parameters · 4, twice where a step has several passes (their sum, and the present one)
//! optimizer     trained parameters · 8 (two moments in f32)
//! activations   what the backward pass needs of the largest pass, of P tokens:
//!                 layer = P · b · (2·D + 3·H·C + 3·K·C + 2·F) + P · inputs
//!                 N · layer; with `recompute: Layers` only the input of every layer, and one layer: N · P · D · b + layer
//! inputs        what the linear layers read, for the gradients of their weights: b · (2·D + H·C + F). Of adapters with dropout
//!                 each its own, so that the common ones are not kept: 4 · (5·D + H·C + F), where all are adapted, and in bf16 that
//!                 (adapters compute in f32) and the factors of the dropout, 2 bytes each
//! head          the logits of a chunk of rows, with their gradient: 2 · min(2²⁵, learned rows · V) · 4
//! ```
//! The factors count the tensors that a layer keeps: the inputs of two norms, q and k before norm and rotation and behind them, v, what
//! attention gives, gate and up; attention runs in tiles and keeps no scores. The runtime's own memory (some 42 MiB), what a device's
//! allocator keeps beyond that and the data on the host come on top. A test compares the formula with measured peaks of a CPU; other
//! devices compute norms and activations by more operations, which may keep more.

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

/// Bytes that the backward pass of `tokens` tokens through a decoder needs.
pub(super) fn activations(
    config: &DecoderConfig,
    lora: Option<&LoraConfig>,
    tokens: u64,
    bytes: u64,
    recompute: bool,
) -> u64 {
    let [d, f, c] = [config.hidden_size, config.intermediate_size, config.head_dim].map(|n| n as u64);
    let [heads, groups] = [config.num_attention_heads, config.num_key_value_heads].map(|n| n as u64 * c);
    let token = (2 * d + 3 * heads + 3 * groups + 2 * f) * bytes + inputs(config, lora, bytes);
    let layer = tokens * token;
    let layers = config.num_hidden_layers as u64;
    if recompute { layers * tokens * d * bytes + layer } else { layers * layer }
}

/// Bytes of what the linear layers of a block read of a token.
fn inputs(config: &DecoderConfig, lora: Option<&LoraConfig>, bytes: u64) -> u64 {
    let block = DecoderConfig { num_hidden_layers: 1, ..config.clone() }.projections();
    let common =
        (2 * config.hidden_size + config.num_attention_heads * config.head_dim + config.intermediate_size) as u64;
    let Some(lora) = lora else { return common * bytes };
    let paths: Vec<String> = block.iter().map(|(path, _)| path.clone()).collect();
    // A pattern that matches nothing here is found when the adapter is made.
    let chosen = lora.targets.select(&paths).unwrap_or_else(|_| vec![true; paths.len()]);
    let own: u64 =
        block.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|((_, [width, _]), _)| *width as u64).sum();
    let dropout = lora.dropout > 0.0;
    match (bytes < 4, dropout) {
        (false, false) => own.min(common) * 4,
        (false, true) => own * 4,
        (true, false) => own.min(common) * bytes + own * 4,
        (true, true) => own * (4 + bytes),
    }
}

/// Bytes of the largest intermediate results of a pass without a backward one.
pub(super) fn inference(config: &DecoderConfig, tokens: u64, bytes: u64) -> u64 {
    let one = DecoderConfig { num_hidden_layers: 1, ..config.clone() };
    activations(&one, None, tokens, bytes, false)
}

/// Bytes of the logits of so many rows.
pub(super) fn head(config: &DecoderConfig, rows: u64) -> u64 {
    2 * 4 * LOGITS.min(rows * config.vocab_size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_lora::Targets;

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
        // 10 tokens · (2·8 + 3·8 + 3·4 + 2·16, and 2·8 + 8 + 16 that linear layers read) · 4
        let layer = 10 * (84 + 40) * 4;
        assert_eq!(activations(&config, None, 10, 4, false), 3 * layer);
        assert_eq!(activations(&config, None, 10, 4, true), 3 * 10 * 8 * 4 + layer);
        let lora = LoraConfig::default();
        assert_eq!(activations(&config, Some(&lora), 10, 4, false), 3 * 10 * (84 + 5 * 8 + 8 + 16) * 4);
        assert_eq!(activations(&config, Some(&lora), 10, 2, false), 3 * 10 * (84 * 2 + (5 * 8 + 8 + 16) * 6));
        let two = LoraConfig { targets: Targets::Names(vec!["q_proj".into(), "v_proj".into()]), dropout: 0.0, ..lora };
        assert_eq!(activations(&config, Some(&two), 10, 4, false), 3 * 10 * (84 + 2 * 8) * 4);
        assert_eq!(head(&config, 5), 2 * 4 * 500);
        let memory = Memory::of_parameters(1000, 2, 10, true);
        assert_eq!((memory.weights, memory.gradients, memory.optimizer), (2040, 80, 80));
        assert_eq!(memory.total(), 2200);
    }
}
