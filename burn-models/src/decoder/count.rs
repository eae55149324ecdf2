//! How many parameters.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn_lora::LoraConfig;

use super::config::DecoderConfig;
use super::model::Decoder;
use crate::Result;

/// Numbers of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParameterCount {
    /// All.
    pub total: u64,
    /// Those that training changes.
    pub trainable: u64,
}

impl DecoderConfig {
    /// Every linear layer but the head: path and `[in, out]`.
    pub fn projections(&self) -> Vec<(String, [usize; 2])> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let layer = [
            ("self_attn.q_proj", [d, q]),
            ("self_attn.k_proj", [d, kv]),
            ("self_attn.v_proj", [d, kv]),
            ("self_attn.o_proj", [q, d]),
            ("mlp.gate_proj", [d, f]),
            ("mlp.up_proj", [d, f]),
            ("mlp.down_proj", [f, d]),
        ];
        let paths = |i: usize| layer.map(|(name, size)| (format!("model.layers.{i}.{name}"), size));
        (0..self.num_hidden_layers).flat_map(paths).collect()
    }

    /// The number of parameters of a decoder of these sizes, adapters not counted.
    pub fn num_parameters(&self) -> u64 {
        let (d, c, layers) = (self.hidden_size as u64, self.head_dim as u64, self.num_hidden_layers as u64);
        let table = self.vocab_size as u64 * d;
        let tables = if self.tie_word_embeddings { table } else { 2 * table };
        let linear: u64 = self.projections().iter().map(|(_, [i, o])| *i as u64 * *o as u64).sum();
        let qkv = (self.num_attention_heads + 2 * self.num_key_value_heads) as u64 * c;
        let bias = if self.qkv_bias() { qkv } else { 0 };
        let head_norms = if self.qk_norm() { 2 * c } else { 0 };
        tables + linear + layers * (2 * d + bias + head_norms) + d
    }

    /// The number of parameters of adapters on a decoder of these sizes.
    ///
    /// # Errors
    /// When a setting is out of range or a target matches nothing.
    pub fn num_lora_parameters(&self, lora: &LoraConfig) -> Result<u64> {
        Ok(burn_lora::parameters(lora, &self.projections())?)
    }
}

impl Decoder {
    /// Counts parameters, adapters included.
    pub fn parameter_count(&self) -> ParameterCount {
        struct Count(ParameterCount);
        impl ModuleVisitor for Count {
            fn visit_float<const N: usize>(&mut self, param: &Param<Tensor<N>>) {
                let size = param.lazy_shape().num_elements() as u64;
                self.0.total += size;
                self.0.trainable += if param.is_require_grad() { size } else { 0 };
            }
        }
        // What a parameter is set to shows on an autodiff device only; going there and back shares all storage.
        let mut count = Count(ParameterCount::default());
        self.valid().train().visit(&mut count);
        count.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn published_sizes() {
        let qwen3 = DecoderConfig {
            vocab_size: 151_936,
            hidden_size: 2048,
            intermediate_size: 6144,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 128,
            ..DecoderConfig::default()
        };
        assert_eq!(qwen3.num_parameters(), 1_720_574_976);
        assert_eq!(qwen3.num_lora_parameters(&LoraConfig::default()).unwrap(), 8_716_288);
    }
}
