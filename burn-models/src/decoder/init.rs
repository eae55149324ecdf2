//! Fresh parameters.

use burn::module::{Param, ParamId};
use burn::nn::Embedding;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use burn_lora::{LoraLinear, Stream};

use super::attention::Attention;
use super::block::{DecoderLayer, Mlp};
use super::config::DecoderConfig;
use super::model::{Decoder, DecoderModel};
use super::norm::RmsNorm;
use crate::Result;

/// Makes parameters that are computed when first used, so that loading a checkpoint never computes them.
struct Init<'a> {
    config: &'a DecoderConfig,
    seed: u64,
    dtype: DType,
    device: &'a Device,
}

impl DecoderConfig {
    /// A fresh decoder: weights normal with standard deviation `initializer_range`, norms 1, biases 0. The numbers depend on
    /// the seed and each parameter's name only, so that they are the same on every device.
    ///
    /// # Errors
    /// When the configuration is not valid or the device cannot compute in `dtype`.
    pub fn init(&self, seed: u64, dtype: FloatDType, device: &Device) -> Result<Decoder> {
        self.validate()?;
        crate::checkpoint::supports(device, dtype)?;
        Ok(Init { config: self, seed, dtype: dtype.into(), device }.decoder())
    }
}

impl Init<'_> {
    fn decoder(&self) -> Decoder {
        let config = self.config;
        let table = [config.vocab_size, config.hidden_size];
        let embed_tokens = Embedding { weight: self.normal("model.embed_tokens.weight", table) };
        let layers = (0..config.num_hidden_layers).map(|i| self.layer(&format!("model.layers.{i}"))).collect();
        let norm = self.norm(config.hidden_size);
        let lm_head =
            (!config.tie_word_embeddings).then(|| self.linear("lm_head", config.hidden_size, config.vocab_size, false));
        Decoder::new(DecoderModel { embed_tokens, layers, norm }, lm_head, config.clone())
    }

    fn layer(&self, path: &str) -> DecoderLayer {
        let DecoderConfig { hidden_size: d, intermediate_size: f, head_dim: c, .. } = *self.config;
        let (heads, key_value_heads) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        let bias = self.config.qkv_bias();
        let attn = |name: &str, out: usize| self.linear(&format!("{path}.self_attn.{name}"), d, out, bias);
        let mlp = |name: &str, input: usize, out: usize| self.linear(&format!("{path}.mlp.{name}"), input, out, false);
        let head_norm = || self.config.qk_norm().then(|| self.norm(c));
        DecoderLayer {
            self_attn: Attention {
                q_proj: attn("q_proj", heads * c),
                k_proj: attn("k_proj", key_value_heads * c),
                v_proj: attn("v_proj", key_value_heads * c),
                o_proj: self.linear(&format!("{path}.self_attn.o_proj"), heads * c, d, false),
                q_norm: head_norm(),
                k_norm: head_norm(),
                heads,
                key_value_heads,
                head_dim: c,
            },
            mlp: Mlp {
                gate_proj: mlp("gate_proj", d, f),
                up_proj: mlp("up_proj", d, f),
                down_proj: mlp("down_proj", f, d),
            },
            input_layernorm: self.norm(d),
            post_attention_layernorm: self.norm(d),
        }
    }

    fn linear(&self, path: &str, input: usize, output: usize, bias: bool) -> LoraLinear {
        let weight = self.normal(&format!("{path}.weight"), [input, output]);
        LoraLinear::new(weight, bias.then(|| self.constant(0.0, output)))
    }

    fn norm(&self, width: usize) -> RmsNorm {
        RmsNorm { weight: self.constant(1.0, width), epsilon: self.config.rms_norm_eps }
    }

    fn constant(&self, value: f32, width: usize) -> Param<Tensor<1>> {
        self.lazy([width], move || vec![value; width])
    }

    fn normal(&self, name: &str, shape: [usize; 2]) -> Param<Tensor<2>> {
        let (seed, deviation, name) = (self.seed, self.config.initializer_range, name.to_string());
        self.lazy(shape, move || Stream::new(seed, &["init", &name]).normal(shape[0] * shape[1], deviation))
    }

    fn lazy<const N: usize>(
        &self,
        shape: [usize; N],
        values: impl FnOnce() -> Vec<f32> + Send + Sync + 'static,
    ) -> Param<Tensor<N>> {
        let dtype = self.dtype;
        let init = move |device: &Device, require_grad: bool| {
            let data = TensorData::new(values(), shape).convert_dtype(dtype);
            let tensor = Tensor::from_data(data, (device, dtype));
            // A device without autodiff has no such setting.
            if require_grad { tensor.require_grad() } else { tensor }
        };
        Param::uninitialized(ParamId::new(), init, self.device.clone(), true, shape.into())
    }
}
