//! One number about a whole sequence: a head on a decoder's last state.

use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::path::Path;

use crate::checkpoint::{self, LoadOptions, SaveOptions, Weights};
use crate::mlp::{Mlp, MlpConfig};
use crate::{Error, Result};
use burn::tensor::FloatDType;

/// Sizes of a [`ValueHead`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueHeadConfig {
    /// D, the decoder's width.
    pub hidden_size: usize,
    /// Width of the hidden layer; `None` for a linear map.
    pub inner_size: Option<usize>,
}

/// LayerNorm (ε 1e-5), then a linear map D → 1, or D → inner, LeakyReLU, → 1. Parameters and computation are f32 whatever the
/// decoder's are.
#[derive(Module, Debug)]
pub struct ValueHead {
    /// Puts the components of a state on one scale: some of a language model's are hundreds of times larger than most.
    pub norm: LayerNorm,
    /// The map.
    pub mlp: Mlp,
}

impl ValueHeadConfig {
    /// A fresh head, drawn from the device's seed.
    pub fn init(&self, device: &Device) -> ValueHead {
        let (inner, layers) = self.inner_size.map_or((1, 1), |inner| (inner, 2));
        ValueHead {
            norm: LayerNormConfig::new(self.hidden_size).init(device),
            mlp: MlpConfig::new(self.hidden_size, 1, inner).with_layers(layers).init(device),
        }
    }
}

/// Parameter paths are the names in the file.
#[allow(clippy::unnecessary_wraps)]
fn name(path: &str) -> Option<String> {
    Some(path.to_string())
}

impl ValueHead {
    /// Final states `[B, D]`, after the decoder's norm, in any float type → logits `[B]`, f32.
    pub fn forward(&self, states: Tensor<2>) -> Tensor<1> {
        let [batch, _] = states.dims();
        self.mlp.forward(self.norm.forward(states.cast(DType::F32))).reshape([batch])
    }

    /// Writes `model.safetensors` into `folder`.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn save(&self, folder: &Path) -> Result<()> {
        checkpoint::save(self, folder, &SaveOptions { names: &name, dtype: None, shard_bytes: None })
    }

    /// Reads a head from its folder; `source` is the file that `config` comes from.
    ///
    /// # Errors
    /// Missing or damaged weights, and weights of another size than `config` says, before a head of that size is made.
    pub fn load(folder: &Path, config: &ValueHeadConfig, source: &Path, device: &Device) -> Result<Self> {
        let weights = Weights::open(folder)?;
        let wrong = |key: &str, problem: String| Err(Error::config(source, key, problem));
        let inner = config.inner_size.unwrap_or(1);
        for (key, value, name, axis) in
            [("hidden_size", config.hidden_size, "norm.weight", 0), ("inner_size", inner, "mlp.layers.0.weight", 0)]
        {
            let found = weights.get(name).and_then(|info| info.shape.get(axis));
            if let Some(found) = found.filter(|found| **found != value) {
                return wrong(key, format!("{value}, but `{name}` in the weights has {found}"));
            }
            if found.is_none() {
                return wrong(key, format!("`{name}` is not among the weights"));
            }
        }
        let options = LoadOptions { names: &name, dtype: FloatDType::F32, allow_unused: &[] };
        checkpoint::load(config.init(device), &weights, &options)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head(inner_size: Option<usize>) -> (ValueHeadConfig, ValueHead) {
        let config = ValueHeadConfig { hidden_size: 4, inner_size };
        let device = Device::flex();
        device.seed(7);
        let head = config.init(&device);
        (config, head)
    }

    /// LayerNorm of (1, 2, 3, 6) is (−1.069043, −0.534522, 0, 1.603565): worked example 22 of GLOW's specification. Twice the
    /// state gives the same.
    #[test]
    fn a_linear_head_is_a_dot_product_with_the_normalised_state() {
        let device = Device::flex();
        let (_, mut head) = head(None);
        let layer = &mut head.mlp.layers[0];
        layer.weight = burn::module::Param::from_data([[1.0], [2.0], [3.0], [4.0]], &device);
        layer.bias = Some(burn::module::Param::from_data([0.5], &device));
        let states = Tensor::<2>::from_data([[1.0, 2.0, 3.0, 6.0], [2.0, 4.0, 6.0, 12.0]], &device);
        let logits = head.forward(states).try_into_vec_as::<f32>().unwrap();
        for logit in logits {
            assert!((logit - (0.5 - 1.069043 - 2.0 * 0.534522 + 4.0 * 1.603565)).abs() < 1e-4, "{logit}");
        }
    }

    #[test]
    fn comes_back_from_the_disk() {
        let device = Device::flex();
        for inner in [None, Some(3)] {
            let (config, head) = head(inner);
            let folder = tempfile::tempdir().unwrap();
            head.save(folder.path()).unwrap();
            let source = Path::new("value_head.json");
            let again = ValueHead::load(folder.path(), &config, source, &device).unwrap();
            let states = Tensor::<2>::from_data([[0.1, -2.0, 0.3, 1.0]], &device);
            let [a, b] = [head, again].map(|head| head.forward(states.clone()).try_into_vec_as::<f32>().unwrap());
            assert_eq!(a, b);
            for (other, words) in [
                (ValueHeadConfig { hidden_size: 1 << 40, ..config.clone() }, "`hidden_size`"),
                (ValueHeadConfig { inner_size: Some(1 << 40), ..config.clone() }, "`inner_size`"),
            ] {
                let error = ValueHead::load(folder.path(), &other, source, &device).unwrap_err().to_string();
                assert!(error.contains("value_head.json") && error.contains(words), "{error}");
            }
        }
    }
}
