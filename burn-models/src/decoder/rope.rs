//! Rotary position embeddings, the rotate-half convention.

use std::f64::consts::TAU;

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::config::{DecoderConfig, RopeScaling};
use crate::ops::Angles;

/// fᵢ = θ^(−2i/C), i < C/2, changed by `rope_scaling`.
fn frequencies(config: &DecoderConfig) -> Vec<f32> {
    let width = config.head_dim;
    (0..width / 2)
        .map(|i| {
            let f = config.rope_theta.powf(-2.0 * i as f64 / width as f64);
            config.rope_scaling.as_ref().map_or(f, |scaling| scaled(f, scaling)) as f32
        })
        .collect()
}

fn scaled(f: f64, scaling: &RopeScaling) -> f64 {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } = scaling;
    // How often a wave fits into the context of pre-training, as a blend: 0 = too long, 1 = short enough.
    let waves = original_max_position_embeddings * f / TAU;
    let keep = ((waves - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
    f * (keep + (1.0 - keep) / factor)
}

/// cos(p·f) and sin(p·f) for every position p and frequency f: `positions` `[B, L]`, computed in f32 and stored as `dtype`.
///
/// Element i of a head and element i + C/2 form the pair that is turned, not neighbours.
pub(super) fn angles(config: &DecoderConfig, positions: Tensor<2, Int>, dtype: DType) -> Angles {
    let [batch, length] = positions.dims();
    let f = frequencies(config);
    let f = TensorData::new(f, [1, 1, 1, config.head_dim / 2]);
    let f = Tensor::<4>::from_data(f, (&positions.device(), DType::F32));
    let angles = positions.float().cast(DType::F32).reshape([batch, 1, length, 1]) * f;
    Angles { cos: angles.clone().cos().cast(dtype), sin: angles.sin().cast(dtype) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_has_three_bands() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64.0,
        };
        // Wavelengths 10 (short), 128 (long) and 32 (2 waves, a third of the way from 1 to 4).
        assert_eq!(scaled(TAU / 10.0, &scaling), TAU / 10.0);
        assert_eq!(scaled(TAU / 128.0, &scaling), TAU / 128.0 / 8.0);
        let middle = scaled(TAU / 32.0, &scaling) / (TAU / 32.0);
        assert!((middle - (1.0 / 3.0 + 2.0 / 3.0 / 8.0)).abs() < 1e-12);
    }
}
