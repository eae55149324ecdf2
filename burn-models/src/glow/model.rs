//! The predictor.

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_gnn::{GnnEncoder, WarmupLoss, init};

use super::batch::{GlowBatch, GlowTables, WarmupBatch};
use super::config::{FusionKind, GlowConfig, Head, MAX_WIDTH, TokenNorm, check_size};
use super::fusion::{FusionEncoder, FusionEncoderConfig};
use crate::mlp::{Mlp, MlpConfig};
use crate::{Error, Result};

/// Number of token types: prediction, language, graph, task.
const TYPES: usize = 4;

/// Predicts whether a workflow solves a task; see the [module](super).
///
/// Fields are named after the reference implementation's state dict (its "batch norms" are layer norms). Parts that the
/// configuration switches off are `None`; the type table always has its four rows.
#[derive(Module, Debug)]
pub struct GlowPredictor {
    /// Task embedding → H.
    pub task_projector: Option<Mlp>,
    /// Language embedding → H.
    pub llm_projector: Option<Mlp>,
    /// Graph → H, with the heads of the warm-up.
    pub gnn_encoder: Option<GnnEncoder>,
    /// Norm of the language token.
    pub llm_embedding_batch_norm: Option<LayerNorm>,
    /// Norm of the graph token.
    pub graph_embedding_batch_norm: Option<LayerNorm>,
    /// Norm of the task token.
    pub task_embedding_batch_norm: Option<LayerNorm>,
    /// The prediction token, `[1, 1, H]`.
    pub pred_token: Param<Tensor<3>>,
    /// One vector per token type, `[4, H]`.
    pub type_embedding: Embedding,
    /// Mixes the tokens, for [`FusionKind::Transformer`].
    pub fusion_encoder: Option<FusionEncoder>,
    /// Mixes the tokens, for the other kinds; prediction token and type vectors have no part in it.
    pub fusion_mlp: Option<Mlp>,
    /// Mixed token → one number.
    pub final_mlp: Mlp,
    /// Mixed token → the number of the rate, for [`Head::Both`].
    pub rate_mlp: Option<Mlp>,
    #[module(skip)]
    use_llm: bool,
    #[module(skip)]
    use_task: bool,
    #[module(skip)]
    head: Head,
    #[module(skip)]
    fusion: FusionKind,
    #[module(skip)]
    token_norm: TokenNorm,
    /// Widths of the language and of the sentence embeddings.
    #[module(skip)]
    widths: [usize; 2],
}

/// The three views of each record as tokens after their LayerNorm, `[B, H]` each; `None` where switched off.
#[derive(Debug, Clone)]
pub struct GlowTokens {
    /// The language token.
    pub llm: Option<Tensor<2>>,
    /// The graph token.
    pub graph: Option<Tensor<2>>,
    /// The task token.
    pub task: Option<Tensor<2>>,
}

/// What a [`GlowPredictor`] computes for B records.
#[derive(Debug, Clone)]
pub struct GlowOutput {
    /// The head's number per record, `[B]`: a logit, see [`GlowPredictor::scores`].
    pub logits: Tensor<1>,
    /// The second number per record, `[B]`, for [`Head::Both`].
    pub rate: Option<Tensor<1>>,
    /// The tokens that went into the fusion encoder.
    pub tokens: GlowTokens,
    /// What came out of it for each record, `[B, H]`: the state of the prediction token.
    pub fused: Tensor<2>,
}

impl GlowConfig {
    /// A predictor for language embeddings of width `llm_dim` and sentence embeddings of width `text_dim`.
    ///
    /// All parameters are drawn from the device's generator before this returns, in a fixed order: seed it with
    /// `device.seed` for the same model each time. Distributions are those of the reference implementation: linear
    /// layers and the bilinear warm-up head uniform in `±1/√fan_in`, attention as [`burn_gnn::GatConvConfig::init`] and
    /// [`FusionEncoderConfig::init`] say, prediction token normal with σ 0.2 (cut at ±2), type vectors normal with σ 1.
    ///
    /// # Errors
    /// As [`validate`](Self::validate); also for a width that is 0 or absurd.
    pub fn init(&self, llm_dim: usize, text_dim: usize, device: &Device) -> Result<GlowPredictor> {
        self.validate()?;
        for (key, width) in [("llm_dim", llm_dim), ("text_dim", text_dim)] {
            check_size(key, width, 4 * MAX_WIDTH)?;
        }
        let h = self.hidden_dim;
        let mlp = |d_input, d_output| {
            MlpConfig::new(d_input, d_output, h)
                .with_layers(self.mlp_layers)
                .with_dropout(self.dropout)
                .with_negative_slope(self.slope)
        };
        let norm = |used: bool, width: usize| {
            (used && self.token_norm == TokenNorm::Layer).then(|| LayerNormConfig::new(width).init(device))
        };
        let projected = |width: usize| if self.projectors { h } else { width };
        let (llm, task) = (projected(llm_dim), projected(text_dim));
        let used = [(self.use_llm, llm), (self.use_graph, h), (self.use_task, task)];
        let joined = used.into_iter().filter(|(used, _)| *used).map(|(_, width)| width).sum();
        let mixed = if self.fusion.kind == FusionKind::Concat { joined } else { h };
        let token = Tensor::random([1, 1, h], Distribution::Normal(0.0, 0.2), device).clamp(-2.0, 2.0);
        Ok(init::draw(GlowPredictor {
            task_projector: (self.use_task && self.projectors).then(|| mlp(text_dim, h).init(device)),
            llm_projector: (self.use_llm && self.projectors).then(|| mlp(llm_dim, h).init(device)),
            gnn_encoder: match self.use_graph {
                true => Some(self.gnn_encoder(text_dim).init(device)?),
                false => None,
            },
            llm_embedding_batch_norm: norm(self.use_llm, llm),
            graph_embedding_batch_norm: norm(self.use_graph, h),
            task_embedding_batch_norm: norm(self.use_task, task),
            pred_token: Param::from_tensor(token),
            type_embedding: EmbeddingConfig::new(TYPES, h).init(device),
            fusion_encoder: (self.fusion.kind == FusionKind::Transformer).then(|| {
                FusionEncoderConfig::new(h)
                    .with_layers(self.fusion.layers)
                    .with_heads(self.fusion.heads)
                    .with_ff_width(self.fusion.ff_width)
                    .with_dropout(self.dropout)
                    .with_identical_layer_init(self.fusion.identical_layer_init)
                    .init(device)
            }),
            fusion_mlp: match self.fusion.kind {
                FusionKind::Transformer | FusionKind::Concat => None,
                FusionKind::ConcatMlp => Some(mlp(joined, h).init(device)),
                FusionKind::MeanMlp => Some(mlp(h, h).init(device)),
            },
            final_mlp: mlp(mixed, 1).init(device),
            rate_mlp: matches!(self.head, Head::Both { .. }).then(|| mlp(mixed, 1).init(device)),
            use_llm: self.use_llm,
            use_task: self.use_task,
            head: self.head,
            fusion: self.fusion.kind,
            token_norm: self.token_norm,
            widths: [llm_dim, text_dim],
        }))
    }
}

/// Through the MLP where there is one.
fn projected(mlp: &Option<Mlp>, x: Tensor<2>) -> Tensor<2> {
    match mlp {
        Some(mlp) => mlp.forward(x),
        None => x,
    }
}

impl GlowPredictor {
    /// What the head's number means.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Checks that embeddings have the widths the predictor was made for.
    ///
    /// # Errors
    /// [`Error::Input`] with both widths.
    pub fn check_tables(&self, tables: &GlowTables) -> Result<()> {
        let [llm, text] = self.widths;
        let reads_text = self.use_task || self.gnn_encoder.is_some();
        for (what, used, expected, table) in
            [("language", self.use_llm, llm, &tables.llm), ("sentence", reads_text, text, &tables.text)]
        {
            let found = table.dims()[1];
            if used && expected != found {
                let problem = format!("{what} embeddings have width {found}, the predictor was made for {expected}");
                return Err(Error::Input(problem));
            }
        }
        Ok(())
    }

    /// Tokens after what is done to them.
    fn normed(&self, norm: &Option<LayerNorm>, x: Tensor<2>) -> Tensor<2> {
        match (norm, self.token_norm) {
            (Some(norm), _) => norm.forward(x),
            // The square root has no gradient at 0.
            (None, TokenNorm::L2) => x.clone() / x.square().sum_dim(1).clamp_min(1e-24).sqrt(),
            (None, _) => x,
        }
    }

    /// The tokens of every record. Each graph of the batch is encoded once.
    pub fn tokens(&self, batch: &GlowBatch, tables: &GlowTables) -> GlowTokens {
        let tasks = tables.text.clone().select(0, batch.task_index.clone());
        GlowTokens { task: self.task_tokens(tasks), ..self.workflow_tokens(batch, tables) }
    }

    /// The tokens of every record but for that of its task.
    pub fn workflow_tokens(&self, batch: &GlowBatch, tables: &GlowTables) -> GlowTokens {
        let graph = self.gnn_encoder.as_ref().map(|gnn| {
            let texts = |index: &Tensor<1, Int>| tables.text.clone().select(0, index.clone());
            // What no dropout has touched is the same for all records of a workflow.
            let nodes = match &batch.distinct {
                Some(distinct) => gnn
                    .before_dropout(texts(&distinct.node_text_index), &distinct.graphs)
                    .select(0, distinct.node_of_node.clone()),
                None => gnn.before_dropout(texts(&batch.node_text_index), &batch.graphs),
            };
            let nodes = gnn.after_dropout(nodes, &batch.graphs);
            let graphs = gnn.output(nodes, &batch.graphs).graphs;
            self.normed(&self.graph_embedding_batch_norm, graphs).select(0, batch.graph_of_record.clone())
        });
        let llm = self.use_llm.then(|| {
            let vectors = tables.llm.clone().select(0, batch.llm_index.clone());
            self.normed(&self.llm_embedding_batch_norm, projected(&self.llm_projector, vectors))
        });
        GlowTokens { llm, graph, task: None }
    }

    /// The tokens `[M, H]` of M tasks, by their sentence vectors `[M, D_text]`.
    pub fn task_tokens(&self, tasks: Tensor<2>) -> Option<Tensor<2>> {
        self.use_task.then(|| self.normed(&self.task_embedding_batch_norm, projected(&self.task_projector, tasks)))
    }

    /// The prediction token and the given ones, each plus its type vector, in the order prediction, language, graph,
    /// task: `[B, 1 + number of tokens, H]`.
    fn sequence(&self, tokens: &GlowTokens, batch: usize) -> Tensor<3> {
        let types = self.type_embedding.weight.val();
        let width = types.dims()[1];
        let pred = self.pred_token.val().reshape([1, width]).expand([batch, width]);
        let parts = [Some(pred), tokens.llm.clone(), tokens.graph.clone(), tokens.task.clone()];
        let typed = parts.into_iter().enumerate().filter_map(|(kind, token)| {
            let kind = types.clone().narrow(0, kind, 1);
            token.map(|token| (token + kind).reshape([batch, 1, width]))
        });
        Tensor::cat(typed.collect(), 1)
    }

    /// The mixed tokens of every record: with a transformer `[B, 1 + number of tokens, H]`, otherwise `[B, 1, H]`.
    pub fn fuse(&self, tokens: &GlowTokens, batch: usize) -> Tensor<3> {
        match &self.fusion_encoder {
            Some(encoder) => encoder.forward(self.sequence(tokens, batch)),
            None => self.mixed(tokens, batch).unsqueeze_dim(1),
        }
    }

    /// The vector of every record that is judged, `[B, H]`.
    fn mixed(&self, tokens: &GlowTokens, batch: usize) -> Tensor<2> {
        let parts = || [&tokens.llm, &tokens.graph, &tokens.task].into_iter().flatten().cloned();
        match (&self.fusion_encoder, &self.fusion_mlp) {
            (Some(encoder), _) => encoder.forward_first(self.sequence(tokens, batch)),
            (None, Some(mlp)) if self.fusion == FusionKind::MeanMlp => {
                let stacked: Vec<Tensor<3>> = parts().map(|part| part.unsqueeze_dim(1)).collect();
                let [_, _, width] = stacked.first().map_or([batch, 0, 0], Tensor::dims);
                mlp.forward(Tensor::cat(stacked, 1).mean_dim(1).reshape([batch, width]))
            }
            (None, mlp) => {
                let joined = Tensor::cat(parts().collect(), 1);
                match mlp {
                    Some(mlp) => mlp.forward(joined),
                    None => joined,
                }
            }
        }
    }

    /// Logits `[B]` and tokens of a batch.
    pub fn forward(&self, batch: &GlowBatch, tables: &GlowTables) -> GlowOutput {
        self.forward_tokens(self.tokens(batch, tables), batch.len())
    }

    /// The same from the tokens of B records: those of a workflow and of a task can serve many records.
    pub fn forward_tokens(&self, tokens: GlowTokens, batch: usize) -> GlowOutput {
        let first = self.mixed(&tokens, batch);
        let number = |mlp: &Mlp| mlp.forward(first.clone()).reshape([batch]);
        let (logits, rate) = (number(&self.final_mlp), self.rate_mlp.as_ref().map(number));
        GlowOutput { logits, rate, tokens, fused: first }
    }

    /// The two terms of the graph encoder's self-supervised loss ([`GnnEncoder::warmup`]).
    ///
    /// # Errors
    /// [`Error::Input`] when the predictor has no graph encoder.
    pub fn warmup_loss(&self, batch: &WarmupBatch, tables: &GlowTables) -> Result<WarmupLoss> {
        let Some(gnn) = &self.gnn_encoder else {
            return Err(Error::Input("the predictor has no graph encoder to warm up (`use_graph` is false)".into()));
        };
        let nodes = tables.text.clone().select(0, batch.node_text_index.clone());
        Ok(gnn.warmup(nodes, &batch.graphs, &batch.target))
    }
}
