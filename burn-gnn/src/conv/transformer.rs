//! Scaled dot-product attention along edges.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};

use super::{attend, dot_heads, join_heads};
use crate::GraphBatch;

/// Configuration of a [`TransformerConv`].
#[derive(Config, Debug)]
pub struct TransformerConvConfig {
    /// Input width.
    pub d_input: usize,
    /// Width of one head, C.
    pub d_output: usize,
    /// Number of attention heads, H; at least 1.
    #[config(default = 1)]
    pub heads: usize,
    /// Whether heads stand side by side (output width H·C) or are averaged (output width C).
    #[config(default = true)]
    pub concat: bool,
    /// Whether a learned gate mixes the node's own vector with the attended one; else they are added.
    #[config(default = false)]
    pub beta: bool,
    /// Whether the linear maps have a bias (the gate never has).
    #[config(default = true)]
    pub bias: bool,
}

/// Graph convolution (Shi et al., *Masked Label Prediction*, 2021), as `TransformerConv` of PyTorch Geometric.
///
/// Per head: `α_ij = softmax` of `⟨q_i, k_j⟩/√C` over the incoming edges `j → i`, `m_i = Σ_j α_ij v_j` (0 without
/// edges). With `r = W_skip x + b`: `out = m + r`, or with the gate `g = σ(w·[m, r, m − r])`: `out = g·r + (1 − g)·m`.
#[derive(Module, Debug)]
pub struct TransformerConv {
    /// To keys k.
    pub lin_key: Linear,
    /// To queries q.
    pub lin_query: Linear,
    /// To values v.
    pub lin_value: Linear,
    /// To the node's own vector r.
    pub lin_skip: Linear,
    /// The gate's vector w, without bias.
    pub lin_beta: Option<Linear>,
    heads: usize,
    concat: bool,
}

impl TransformerConvConfig {
    /// A convolution with parameters uniform in `±1/√fan_in`.
    pub fn init(&self, device: &Device) -> TransformerConv {
        let joined = self.heads * self.d_output;
        let out = if self.concat { joined } else { self.d_output };
        let linear = |width| LinearConfig::new(self.d_input, width).with_bias(self.bias).init(device);
        TransformerConv {
            lin_key: linear(joined),
            lin_query: linear(joined),
            lin_value: linear(joined),
            lin_skip: linear(out),
            lin_beta: self.beta.then(|| LinearConfig::new(3 * out, 1).with_bias(false).init(device)),
            heads: self.heads,
            concat: self.concat,
        }
    }
}

impl TransformerConv {
    /// Node vectors `[N, d_input]` to node vectors `[N, H·C]`, or `[N, C]` for averaged heads.
    pub fn forward(&self, x: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        let own = self.lin_skip.forward(x.clone());
        let attended = match graphs.num_edges() {
            0 => own.zeros_like(),
            _ => self.attended(x, graphs),
        };
        let Some(lin_beta) = &self.lin_beta else { return attended + own };
        let all = Tensor::cat(vec![attended.clone(), own.clone(), attended.clone() - own.clone()], 1);
        let gate = sigmoid(lin_beta.forward(all));
        gate.clone() * own + (-gate + 1.0) * attended
    }

    /// Σ_j α_ij v_j, heads joined.
    fn attended(&self, x: Tensor<2>, graphs: &GraphBatch) -> Tensor<2> {
        let query = self.lin_query.forward(x.clone());
        let scale = ((query.dims()[1] / self.heads) as f64).sqrt();
        let queries = (query / scale).select(0, graphs.target());
        let keys = self.lin_key.forward(x.clone()).select(0, graphs.source());
        let scores = dot_heads(queries, keys, self.heads);
        join_heads(attend(scores, self.lin_value.forward(x), graphs).0, self.heads, self.concat)
    }
}
