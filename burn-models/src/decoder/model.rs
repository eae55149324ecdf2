//! The decoder.

use burn::module::Module;
use burn::nn::Embedding;
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use burn_lora::{LoraConfig, LoraLinear, Projections};

use super::block::DecoderLayer;
use super::cache::KvCache;
use super::config::DecoderConfig;
use super::context::{Context, Sizes};
use super::input::{DecoderInput, Packed};
use super::norm::RmsNorm;
use crate::{Error, Result};

/// The body of a decoder: embedding, blocks, final norm.
#[derive(Module, Debug)]
pub struct DecoderModel {
    /// `[V, D]`.
    pub embed_tokens: Embedding,
    /// The blocks.
    pub layers: Vec<DecoderLayer>,
    /// On the output of the last block.
    pub norm: RmsNorm,
}

/// A causal language model. Parameter paths are Hugging Face's names.
///
/// Without a backward pass, use [`Module::valid`] first: a forward pass on an autodiff device keeps its graph until some
/// backward pass.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Embedding, blocks, final norm.
    pub model: DecoderModel,
    /// D → V; `None` when it is the embedding table.
    pub lm_head: Option<LoraLinear>,
    #[module(skip)]
    config: DecoderConfig,
    #[module(skip)]
    pub(super) lora: Option<LoraConfig>,
}

/// The residual stream at every depth.
#[derive(Debug, Clone)]
pub struct HiddenStates {
    /// The embeddings, then the output of each block: one more than there are blocks, `[B, L, D]` each. The
    /// reference library's `hidden_states` has [`HiddenStates::normed`] in the last place.
    pub states: Vec<Tensor<3>>,
    /// The last of them after the final norm.
    pub normed: Tensor<3>,
}

impl Decoder {
    pub(super) fn new(model: DecoderModel, lm_head: Option<LoraLinear>, config: DecoderConfig) -> Self {
        Self { model, lm_head, config, lora: None }
    }

    /// Sizes and constants.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The device of the parameters, with its autodiff setting.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.lazy_device()
    }

    /// The number format of the parameters.
    pub fn dtype(&self) -> DType {
        self.model.embed_tokens.weight.val().dtype()
    }

    /// Embeddings `[B, L, D]` of token ids.
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.embed_tokens.forward(ids.without_autodiff())
    }

    /// Embeddings `[B, L, D]` of a batch, with its noise.
    pub(super) fn embedded(&self, input: &DecoderInput) -> Tensor<3> {
        let x = self.embed(input.ids.clone());
        let Some(amplitude) = &input.noise else { return x };
        let [batch, length, _] = x.dims();
        let plain = x.device().without_autodiff();
        let noise = Tensor::<3>::random(x.dims(), Distribution::Uniform(-1.0, 1.0), (&plain, DType::F32));
        let dtype = x.dtype();
        x + Tensor::from_inner((noise * amplitude.clone().reshape([batch, length, 1])).cast(dtype))
    }

    /// What the blocks share in a pass over `input`. With [`Decoder::embed`], [`DecoderLayer::forward`] and
    /// the final norm a caller can run the blocks one at a time.
    pub fn context(&self, input: &DecoderInput) -> Context {
        self.context_of(input, None)
    }

    /// The same; with `wanted` the last layer computes those places only.
    pub(super) fn context_of(&self, input: &DecoderInput, wanted: Option<&[u32]>) -> Context {
        Context::new(&self.sizes(0), input, input.visible(), wanted)
    }

    fn sizes(&self, past: usize) -> Sizes<'_> {
        Sizes { config: &self.config, dtype: self.dtype(), past }
    }

    /// The residual stream `[B, L, D]` after the last block, before the final norm.
    pub fn forward_raw(&self, input: &DecoderInput) -> Tensor<3> {
        let context = self.context(input);
        let embedded = self.embedded(input);
        self.model.layers.iter().fold(embedded, |x, layer| layer.forward(x, &context, None))
    }

    /// The residual stream `[P, D]` after the last block at some `places` of a flattened batch `[B·L]`, ascending. The last layer
    /// computes no other place where the batch is one row.
    pub fn forward_places(&self, input: &DecoderInput, places: &[u32]) -> Tensor<2> {
        let [batch, length] = input.dims();
        let context = self.context_of(input, (batch == 1).then_some(places));
        let mut x = self.embedded(input);
        for (i, layer) in self.model.layers.iter().enumerate() {
            x = layer.forward_at(x, &context, context.queries(i + 1 == self.model.layers.len()), None);
        }
        let [_, _, width] = x.dims();
        if batch == 1 {
            return x.reshape([places.len(), width]);
        }
        x.reshape([batch * length, width]).select(0, index(places, &input.ids.device()))
    }

    /// How many attention scores of one head a pass over `input` computes in a layer that computes all places.
    pub fn scores(&self, input: &DecoderInput) -> usize {
        input.dims()[0] * self.context(input).all.view.scores()
    }

    /// Final hidden states `[B, L, D]`, after the final norm: what the output head reads.
    pub fn forward_hidden(&self, input: &DecoderInput) -> Tensor<3> {
        self.model.norm.forward(self.forward_raw(input))
    }

    /// The residual stream at every depth.
    pub fn hidden_states(&self, input: &DecoderInput) -> HiddenStates {
        let context = self.context(input);
        let mut x = self.embedded(input);
        let mut states = vec![x.clone()];
        for layer in &self.model.layers {
            x = layer.forward(x, &context, None);
            states.push(x.clone());
        }
        HiddenStates { states, normed: self.model.norm.forward(x) }
    }

    /// The final hidden state `[B, D]` of each row's last token.
    pub fn last_token_state(&self, input: &DecoderInput) -> Tensor<2> {
        let raw = self.forward_raw(input);
        let [batch, _, width] = raw.dims();
        let columns = input.last_columns().reshape([batch, 1, 1]).expand([batch, 1, width]);
        self.model.norm.forward(raw.gather(1, columns).reshape([batch, width]))
    }

    /// The attention weights `[B, H, L, L]` of one block, f32; `None` when there is no such block.
    pub fn attention_weights(&self, input: &DecoderInput, layer: usize) -> Option<Tensor<4>> {
        let context = self.context(input);
        let block = self.model.layers.get(layer)?;
        let before = self.model.layers.iter().take(layer);
        let x = before.fold(self.embedded(input), |x, layer| layer.forward(x, &context, None));
        Some(block.self_attn.probabilities(block.input_layernorm.forward(x), &context))
    }

    /// Continues the sequences in `cache` by `input` `[B, L]`: final hidden states `[B, L, D]` of the new tokens. Rows of
    /// `input` belong to rows of the cache; its positions go on from theirs. Only without autodiff.
    pub fn forward_cached(&self, input: &DecoderInput, cache: &mut KvCache) -> Tensor<3> {
        let past = cache.len;
        cache.extend(input.host_mask(), input.dims()[1]);
        let context = Context::new(&self.sizes(past), input, cache.until(), None);
        let mut x = self.embedded(input);
        for (layer, cache) in self.model.layers.iter().zip(&mut cache.layers) {
            x = layer.forward(x, &context, Some(cache));
        }
        self.model.norm.forward(x)
    }

    /// Computes a packed row, of which `cache` holds the beginning: final hidden states `[P, D]` at some of the other places,
    /// ascending. All of the row is in the cache then. Only without autodiff.
    ///
    /// # Errors
    /// When nothing is left to compute, a place is none of the others, or an id is outside the vocabulary.
    pub fn forward_packed(&self, packed: &Packed, places: &[u32], cache: &mut KvCache) -> Result<Tensor<2>> {
        let past = cache.len;
        let input = packed.input_from(past, self.config.vocab_size, &self.device())?;
        let length = input.dims()[1];
        let wanted: Option<Vec<u32>> = places.iter().map(|place| place.checked_sub(past as u32)).collect();
        let wanted = wanted.filter(|wanted| cache.rows() == 1 && wanted.iter().all(|place| (*place as usize) < length));
        let wanted =
            wanted.ok_or_else(|| Error::Input(format!("places of a row that begins at {past}: {places:?}")))?;
        cache.extend(None, length);
        let context = Context::new(&self.sizes(past), &input, Some((packed.until.clone(), 1)), Some(&wanted));
        let mut x = self.embed(input.ids);
        let last = self.model.layers.len();
        for (i, (layer, cache)) in self.model.layers.iter().zip(&mut cache.layers).enumerate() {
            x = layer.forward_at(x, &context, context.queries(i + 1 == last), Some(cache));
        }
        let width = x.dims()[2];
        Ok(self.model.norm.forward(x.reshape([places.len(), width])))
    }
}

/// Places as a tensor `[P]`, without autodiff.
pub(super) fn index(places: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = places.iter().map(|place| *place as i32).collect();
    Tensor::from_data(TensorData::new(values, [places.len()]), &device.clone().without_autodiff())
}

impl Projections for Decoder {
    fn projections(&self) -> Vec<(String, &LoraLinear)> {
        let mut all = Vec::new();
        for (i, layer) in self.model.layers.iter().enumerate() {
            let DecoderLayer { self_attn: attn, mlp, .. } = layer;
            for (name, linear) in [
                ("self_attn.q_proj", &attn.q_proj),
                ("self_attn.k_proj", &attn.k_proj),
                ("self_attn.v_proj", &attn.v_proj),
                ("self_attn.o_proj", &attn.o_proj),
                ("mlp.gate_proj", &mlp.gate_proj),
                ("mlp.up_proj", &mlp.up_proj),
                ("mlp.down_proj", &mlp.down_proj),
            ] {
                all.push((format!("model.layers.{i}.{name}"), linear));
            }
        }
        all
    }

    fn projections_mut(&mut self) -> Vec<(String, &mut LoraLinear)> {
        let mut all = Vec::new();
        for (i, layer) in self.model.layers.iter_mut().enumerate() {
            let DecoderLayer { self_attn: attn, mlp, .. } = layer;
            for (name, linear) in [
                ("self_attn.q_proj", &mut attn.q_proj),
                ("self_attn.k_proj", &mut attn.k_proj),
                ("self_attn.v_proj", &mut attn.v_proj),
                ("self_attn.o_proj", &mut attn.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ] {
                all.push((format!("model.layers.{i}.{name}"), linear));
            }
        }
        all
    }
}
