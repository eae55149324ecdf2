//! Frozen weights in few bits (QLoRA, Dettmers et al. 2023).

use burn::module::Param;
use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, LoraLinear, Result};

/// How frozen weights are stored: whole numbers with one f32 scale for up to [`BLOCK`] neighbours of a row, symmetric around 0.
///
/// Measured on nearly normal weights, relative to their size (root mean square): Q8 is off by 0.6 %, Q4 by 10 %. On a CPU Burn
/// keeps four bits in a byte each, so that Q4 saves no more than Q8 there; CUDA packs two into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Quantization {
    /// 8 bits: −127 to 127.
    Q8,
    /// 4 bits: −7 to 7.
    Q4,
}

/// The most weights that share a scale.
pub const BLOCK: usize = 64;

impl Quantization {
    /// Bytes of a weight on a device that packs them, its share of a scale included.
    pub fn bytes(self) -> f64 {
        let scale = 4.0 / BLOCK as f64;
        match self {
            Self::Q8 => 1.0 + scale,
            Self::Q4 => 0.5 + scale,
        }
    }

    fn scheme(self, block: usize) -> QuantScheme {
        let value = match self {
            Self::Q8 => QuantValue::Q8S,
            Self::Q4 => QuantValue::Q4S,
        };
        // The largest power of two up to the limit fits into a byte.
        let block = [block as u8];
        QuantScheme::default().with_value(value).with_store(QuantStore::PackedU32(0)).per_block(block, ScaleDtype::F32)
    }
}

impl LoraLinear {
    /// Stores W in fewer bits; it is frozen then, and restored whenever the layer computes.
    ///
    /// # Errors
    /// [`Error::Config`] where a row cannot be cut into blocks of 8 or more.
    pub fn quantize(&mut self, quantization: Quantization) -> Result<()> {
        let weight = self.weight.val();
        let [_, width] = weight.dims();
        let block = (width & width.wrapping_neg()).min(BLOCK);
        if block < 8 {
            let problem = format!("cannot store rows of {width} weights: a multiple of 8 is needed");
            return Err(Error::Config { key: "quantize", problem });
        }
        let (autodiff, id) = (weight.is_autodiff(), self.weight.id);
        let stored = weight.without_autodiff().cast(DType::F32).quantize_dynamic(&quantization.scheme(block));
        let stored = if autodiff { stored.autodiff() } else { stored };
        self.weight = Param::initialized(id, stored.set_require_grad(false));
        Ok(())
    }

    /// W `[in, out]` as it computes, in the type of what it is multiplied with.
    pub(crate) fn restored(&self, dtype: DType) -> Tensor<2> {
        let weight = self.weight.val();
        match weight.dtype() {
            DType::QFloat(_) => weight.dequantize().cast(dtype),
            _ => weight,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{LoraConfig, Stream};
    use burn::module::Module;
    use burn::optim::GradientsParams;
    use burn::tensor::{Device, TensorData};

    fn layer(width: usize, device: &Device) -> LoraLinear {
        // Sums of uniform numbers are nearly normal.
        let mut stream = Stream::new(1, &["weights"]);
        let mut weights = vec![0.0f32; 128 * width];
        for _ in 0..12 {
            let more = stream.uniform(weights.len(), 0.02);
            weights.iter_mut().zip(more).for_each(|(weight, more)| *weight += more);
        }
        let weight = Tensor::<2>::from_data(TensorData::new(weights, [128, width]), device);
        let mut layer = LoraLinear::new(Param::from_tensor(weight), None).no_grad();
        layer.attach(&LoraConfig { dropout: 0.0, ..LoraConfig::default() }, 1, "layer");
        layer
    }

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.without_autodiff().try_into_vec_as::<f32>().unwrap()
    }

    fn off(got: &[f32], want: &[f32]) -> f32 {
        let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
        (sum(&mut got.iter().zip(want).map(|(a, b)| a - b)) / sum(&mut want.iter().copied())).sqrt()
    }

    #[test]
    fn restored_weights_are_near() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            for (quantization, range) in [(Quantization::Q8, 0.003..0.007), (Quantization::Q4, 0.06..0.12)] {
                for width in [192, 40] {
                    let exact = layer(width, &device);
                    let mut stored = exact.clone();
                    stored.quantize(quantization).unwrap();
                    let error = off(&values(stored.restored(DType::F32)), &values(exact.weight.val()));
                    assert!(range.contains(&error), "{quantization:?} {width}: {error}");
                }
            }
        }
        let error = layer(36, &Device::flex()).quantize(Quantization::Q8).unwrap_err().to_string();
        assert!(error.contains("36") && error.contains("quantize"), "{error}");
    }

    /// Forward pass and gradients are those of the restored weights.
    #[test]
    fn adapters_train_on_stored_weights() {
        let device = Device::flex().autodiff();
        let mut stored = layer(64, &device);
        stored.quantize(Quantization::Q4).unwrap();
        let mut plain = stored.clone();
        plain.weight = Param::from_tensor(stored.restored(DType::F32).without_autodiff().autodiff()).no_grad();
        let x = Tensor::<1, burn::tensor::Int>::arange(0..3 * 128, &device).float().sin().reshape([3, 128]);
        let run = |layer: &LoraLinear| {
            let x = x.clone().require_grad();
            let gradients = layer.forward(x.clone()).square().sum().backward();
            let below = values(x.grad(&gradients).unwrap());
            let gradients = GradientsParams::from_grads(gradients, layer);
            let lora = layer.lora.as_ref().unwrap();
            assert_eq!(gradients.len(), 2, "only the adapter is trained");
            [values(layer.forward(x)), below, values(gradients.get::<2>(lora.lora_b.id).unwrap())]
        };
        for (got, want) in run(&stored).iter().zip(&run(&plain)) {
            assert!(off(got, want) < 1e-6 && want.iter().any(|x| *x != 0.0));
        }
    }
}
