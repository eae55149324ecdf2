//! The BERT encoder (Devlin et al. 2019).

use super::config::BertConfig;
use super::pooling::Pooling;
use crate::decoder::{DecoderInput, Padded};
use crate::ops::{Tile, View, attention, gelu};
use crate::{Error, Result};
use burn::module::Module;
use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::{Bool, DType, Device, Int, Tensor};

/// A BERT encoder: embeddings, post-norm transformer layers, and a pooler where the checkpoint has one.
///
/// Dropout is never applied. Without a backward pass, use [`Module::valid`] first: a forward pass on an autodiff device
/// keeps its graph until some backward pass.
#[derive(Module, Debug)]
pub struct BertEncoder {
    /// `[V, D]`.
    pub word_embeddings: Embedding,
    /// `[positions, D]`.
    pub position_embeddings: Embedding,
    /// `[segments, D]`.
    pub token_type_embeddings: Embedding,
    /// On the sum of the three.
    pub embedding_norm: LayerNorm,
    /// The layers.
    pub layers: Vec<BertLayer>,
    /// D → D, on the first token.
    pub pooler: Option<Linear>,
    #[module(skip)]
    config: BertConfig,
}

/// One layer: y = norm(x + attention(x)), then norm(y + mlp(y)).
#[derive(Module, Debug)]
pub struct BertLayer {
    /// D → D.
    pub query: Linear,
    /// D → D.
    pub key: Linear,
    /// D → D.
    pub value: Linear,
    /// D → D.
    pub attention_output: Linear,
    /// After attention.
    pub attention_norm: LayerNorm,
    /// D → F.
    pub intermediate: Linear,
    /// F → D.
    pub output: Linear,
    /// After the feed-forward part.
    pub output_norm: LayerNorm,
    /// H.
    pub heads: usize,
}

impl BertEncoder {
    pub(super) fn new(
        tables: [Embedding; 3],
        embedding_norm: LayerNorm,
        layers: Vec<BertLayer>,
        pooler: Option<Linear>,
        config: BertConfig,
    ) -> Self {
        let [word_embeddings, position_embeddings, token_type_embeddings] = tables;
        Self { word_embeddings, position_embeddings, token_type_embeddings, embedding_norm, layers, pooler, config }
    }

    /// Sizes and constants.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The device of the parameters, with its autodiff setting.
    pub fn device(&self) -> Device {
        self.word_embeddings.weight.lazy_device()
    }

    /// Token sequences as a batch on this encoder's device, filled up at the end.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty batch or sequence, ids outside the vocabulary, and sequences longer than the position
    /// table: devices do not check.
    pub fn batch(&self, sequences: &[impl AsRef<[u32]>]) -> Result<DecoderInput> {
        let padded = Padded::right(sequences, self.config.pad_token_id)?;
        if padded.length > self.config.max_position_embeddings {
            let (length, most) = (padded.length, self.config.max_position_embeddings);
            return Err(Error::Input(format!("a sequence of {length} tokens; the encoder takes at most {most}")));
        }
        padded.input(self.config.vocab_size, &self.device())
    }

    /// Hidden states `[B, L, D]` of the last layer. `ids` `[B, L]` are below V and L is within the position table (see
    /// [`BertEncoder::batch`]); `mask` `[B, L]` tells tokens from padding, `None` for no padding. What comes out at
    /// padding is finite and without meaning.
    pub fn forward(&self, ids: Tensor<2, Int>, mask: Option<Tensor<2, Bool>>) -> Tensor<3> {
        let view = view(ids.dims()[1], mask);
        let embedded = self.embed(ids);
        self.layers.iter().fold(embedded, |x, layer| layer.forward(x, &view))
    }

    /// The embeddings, then the output of each layer: `[B, L, D]`, one more than there are layers.
    pub fn hidden_states(&self, ids: Tensor<2, Int>, mask: Option<Tensor<2, Bool>>) -> Vec<Tensor<3>> {
        let view = view(ids.dims()[1], mask);
        let mut x = self.embed(ids);
        let mut states = vec![x.clone()];
        for layer in &self.layers {
            x = layer.forward(x, &view);
            states.push(x.clone());
        }
        states
    }

    /// One vector `[B, D]` per sequence: the last hidden states, pooled.
    pub fn pooled(&self, input: &DecoderInput, pooling: Pooling) -> Tensor<2> {
        pooling.apply(self.forward(input.ids.clone(), input.mask.clone()), input.mask.clone())
    }

    /// tanh(W h + b) of the first token's state, from last hidden states `[B, L, D]` → `[B, D]`; `None` without a pooler.
    pub fn pooler_output(&self, hidden: Tensor<3>) -> Option<Tensor<2>> {
        self.pooler.as_ref().map(|pooler| pooler.forward(Pooling::Cls.apply(hidden, None)).tanh())
    }

    fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [_, length] = ids.dims();
        let words = self.word_embeddings.forward(ids);
        let positions = self.position_embeddings.weight.val().slice_dim(0, 0..length);
        let segment = self.token_type_embeddings.weight.val().slice_dim(0, 0..1);
        self.embedding_norm.forward(words + (positions + segment).unsqueeze::<3>())
    }
}

/// Queries whose scores are computed at a time.
const QUERIES: usize = 64;

/// Every query sees every key that is not padding; `mask` `[B, L]` is true at tokens.
fn view(length: usize, mask: Option<Tensor<2, Bool>>) -> View {
    let until = mask.map(|mask| {
        let until = mask.to_data().iter::<bool>().map(|token| if token { i32::MAX } else { 0 }).collect();
        (until, mask.dims()[0])
    });
    let keys = |used: bool| if used { std::iter::once(0..length).collect() } else { Vec::new() };
    let tiles = (0..length).step_by(QUERIES).map(|start| Tile {
        queries: start..length.min(start + QUERIES),
        full: keys(until.is_none()),
        partial: keys(until.is_some()),
    });
    let tiles = tiles.collect();
    View::new(vec![length as i32 - 1; length], until, tiles)
}

impl BertLayer {
    /// `x` `[B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: Tensor<3>, view: &View) -> Tensor<3> {
        let attended = self.attention_output.forward(self.attend(x.clone(), view));
        let x = self.attention_norm.forward(x + attended);
        let inner = gelu(self.intermediate.forward(x.clone()));
        self.output_norm.forward(x + self.output.forward(inner))
    }

    /// softmax(q·kᵀ/√C)·v per head, over the keys that are not padding. Scores are f32 also when the weights are not.
    fn attend(&self, x: Tensor<3>, view: &View) -> Tensor<3> {
        let [batch, length, width] = x.dims();
        let dtype = x.dtype();
        let split = |y: Tensor<3>| {
            let heads = y.reshape([batch, length, self.heads, width / self.heads]).swap_dims(1, 2);
            if dtype == DType::F32 { heads } else { heads.cast(DType::F32) }
        };
        let q = split(self.query.forward(x.clone())) / ((width / self.heads) as f64).sqrt();
        let k = split(self.key.forward(x.clone()));
        let v = split(self.value.forward(x));
        let out = attention(q, k, v, view);
        let out = out.swap_dims(1, 2).reshape([batch, length, width]);
        if dtype == DType::F32 { out } else { out.cast(dtype) }
    }
}
