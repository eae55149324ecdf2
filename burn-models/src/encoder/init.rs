//! Fresh parameters.

use super::config::BertConfig;
use super::model::{BertEncoder, BertLayer};
use crate::Result;
use burn::module::{Param, ParamId};
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_lora::Stream;

impl BertConfig {
    /// A fresh encoder in f32: weights normal with standard deviation `initializer_range`, biases 0, norms 1, the padding
    /// token's embedding 0. The numbers depend on the seed and each parameter's name only, so that they are the same on every
    /// device.
    ///
    /// # Errors
    /// When the configuration is not valid.
    pub fn init(&self, pooler: bool, seed: u64, device: &Device) -> Result<BertEncoder> {
        self.validate()?;
        Ok(Init { config: self, seed, device }.encoder(pooler))
    }
}

/// Makes parameters that are computed when first used, so that loading a checkpoint never computes them.
struct Init<'a> {
    config: &'a BertConfig,
    seed: u64,
    device: &'a Device,
}

impl Init<'_> {
    fn encoder(&self, pooler: bool) -> BertEncoder {
        let BertConfig { hidden_size: d, vocab_size, max_position_embeddings, type_vocab_size, .. } = *self.config;
        let table = |name: &str, rows: usize, zero: Option<usize>| Embedding {
            weight: self.normal(&format!("embeddings.{name}.weight"), [rows, d], zero),
        };
        let tables = [
            table("word_embeddings", vocab_size, Some(self.config.pad_token_id as usize)),
            table("position_embeddings", max_position_embeddings, None),
            table("token_type_embeddings", type_vocab_size, None),
        ];
        let layers = (0..self.config.num_hidden_layers).map(|i| self.layer(&format!("encoder.layer.{i}"))).collect();
        let pooler = pooler.then(|| self.linear("pooler.dense", d, d));
        BertEncoder::new(tables, self.norm(), layers, pooler, self.config.clone())
    }

    fn layer(&self, path: &str) -> BertLayer {
        let BertConfig { hidden_size: d, intermediate_size: f, num_attention_heads: heads, .. } = *self.config;
        let linear = |name: &str, input: usize, output: usize| self.linear(&format!("{path}.{name}"), input, output);
        BertLayer {
            query: linear("attention.self.query", d, d),
            key: linear("attention.self.key", d, d),
            value: linear("attention.self.value", d, d),
            attention_output: linear("attention.output.dense", d, d),
            attention_norm: self.norm(),
            intermediate: linear("intermediate.dense", d, f),
            output: linear("output.dense", f, d),
            output_norm: self.norm(),
            heads,
        }
    }

    fn norm(&self) -> LayerNorm {
        LayerNormConfig::new(self.config.hidden_size).with_epsilon(self.config.layer_norm_eps).init(self.device)
    }

    fn linear(&self, path: &str, input: usize, output: usize) -> Linear {
        Linear {
            weight: self.normal(&format!("{path}.weight"), [input, output], None),
            bias: Some(self.lazy([output], move || vec![0.0; output])),
        }
    }

    /// A matrix of normal values, with one row of zeros where asked.
    fn normal(&self, name: &str, shape: [usize; 2], zero: Option<usize>) -> Param<Tensor<2>> {
        let (seed, deviation, name) = (self.seed, self.config.initializer_range, name.to_string());
        self.lazy(shape, move || {
            let mut values = Stream::new(seed, &["init", &name]).normal(shape[0] * shape[1], deviation);
            if let Some(row) = zero {
                values[row * shape[1]..(row + 1) * shape[1]].fill(0.0);
            }
            values
        })
    }

    fn lazy<const N: usize>(
        &self,
        shape: [usize; N],
        values: impl FnOnce() -> Vec<f32> + Send + Sync + 'static,
    ) -> Param<Tensor<N>> {
        let init = move |device: &Device, require_grad: bool| {
            let tensor = Tensor::from_data(TensorData::new(values(), shape), (device, DType::F32));
            // A device without autodiff has no such setting.
            if require_grad { tensor.require_grad() } else { tensor }
        };
        Param::uninitialized(ParamId::new(), init, self.device.clone(), true, shape.into())
    }
}
