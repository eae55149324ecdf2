//! Activations, norms and rotary positions.

use burn::backend::DispatchTensor;
use burn::tensor::activation::{self, sigmoid};
use burn::tensor::{DType, Tensor, TensorData};

use super::cpu;
use super::function::{Function, InputGradients, Inputs, call};

/// silu(`gate`)·`up`, silu(x) = x / (1 + e⁻ˣ) (Shazeer 2020). Equal shapes.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let shape = gate.dims();
    let (gate, up) = (gate.reshape([-1]), up.reshape([-1]));
    let value: Tensor<1> = call(SwiGlu, gate, up.clone(), up);
    value.reshape(shape)
}

#[derive(Debug)]
struct SwiGlu;

impl Function for SwiGlu {
    fn forward(&self, [gate, up, _]: Inputs, keep: bool) -> (DispatchTensor, Vec<DispatchTensor>) {
        let kept = if keep { vec![gate.clone(), up.clone()] } else { Vec::new() };
        let (gate, up) = (Tensor::<1>::from_dispatch(gate), Tensor::<1>::from_dispatch(up));
        let value = if cpu::is_flex(&up) {
            cpu::update(up, |up| cpu::read(&gate, |gate| cpu::swiglu(gate, up))).0
        } else {
            gate.clone() * sigmoid(gate) * up
        };
        (value.into_dispatch(), kept)
    }

    fn backward(&self, kept: Vec<DispatchTensor>, gradient: DispatchTensor, _needed: [bool; 3]) -> InputGradients {
        let mut kept = kept.into_iter().map(Tensor::<1>::from_dispatch);
        let (Some(gate), Some(up)) = (kept.next(), kept.next()) else { return [None, None, None] };
        let gradient = Tensor::<1>::from_dispatch(gradient);
        if cpu::is_flex(&gate) {
            let (gate, (up, ())) = cpu::update(gate, |gate| {
                cpu::update(up, |up| cpu::read(&gradient, |dy| cpu::swiglu_gradients(gate, up, dy)))
            });
            return [Some(gate.into_dispatch()), Some(up.into_dispatch()), None];
        }
        let s = sigmoid(gate.clone());
        let silu = gate * s.clone();
        let slope = s.clone() + silu.clone() * (s.neg() + 1.0);
        let d_gate = gradient.clone() * up * slope;
        [Some(d_gate.into_dispatch()), Some((gradient * silu).into_dispatch()), None]
    }
}

/// GELU(x) = x·Φ(x), with Φ the normal distribution (Hendrycks & Gimpel 2016), not its tanh approximation.
///
/// Burn's is exact forward, but its gradient on most backends is that of the approximation.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let shape = x.dims();
    let x = x.reshape([-1]);
    let unused = Tensor::<1>::zeros([1], &x.device());
    let value: Tensor<1> = call(Gelu, x, unused.clone(), unused);
    value.reshape(shape)
}

#[derive(Debug)]
struct Gelu;

impl Function for Gelu {
    fn forward(&self, [x, _, _]: Inputs, keep: bool) -> (DispatchTensor, Vec<DispatchTensor>) {
        let kept = if keep { vec![x.clone()] } else { Vec::new() };
        let x = Tensor::<1>::from_dispatch(x);
        let value = if cpu::is_flex(&x) { cpu::update(x, cpu::gelu).0 } else { activation::gelu(x) };
        (value.into_dispatch(), kept)
    }

    fn backward(&self, kept: Vec<DispatchTensor>, gradient: DispatchTensor, _needed: [bool; 3]) -> InputGradients {
        let Some(x) = kept.into_iter().next().map(Tensor::<1>::from_dispatch) else { return [None, None, None] };
        let gradient = Tensor::<1>::from_dispatch(gradient);
        let gradient = if cpu::is_flex(&x) {
            cpu::update(gradient, |g| cpu::read(&x, |x| cpu::gelu_gradient(x, g))).0
        } else {
            let below = (x.clone() / std::f64::consts::SQRT_2).erf().add_scalar(1.0).mul_scalar(0.5);
            let density = x.clone().square().mul_scalar(-0.5).exp().mul_scalar(1.0 / std::f64::consts::TAU.sqrt());
            gradient * (below + x * density)
        };
        [Some(gradient.into_dispatch()), None, None]
    }
}

/// `x` / √(mean(`x`²) + `epsilon`) · `weight` over the last axis (Zhang & Sennrich 2019), in f32 and rounded before the product
/// with the weight, as the reference library does. `x` `[.., W]`, `weight` `[W]`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let shape = x.dims();
    let rows: Tensor<2> = x.reshape([-1, shape[D - 1] as i64]);
    let value: Tensor<2> = call(RmsNorm { epsilon }, rows, weight.clone(), weight);
    value.reshape(shape)
}

#[derive(Debug)]
struct RmsNorm {
    epsilon: f64,
}

impl RmsNorm {
    /// x in f32, and what it is multiplied by `[rows, 1]`.
    fn scales(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let x = x.cast(DType::F32);
        let scales = (x.clone().square().mean_dim(1) + self.epsilon).sqrt().recip();
        (x, scales)
    }
}

impl Function for RmsNorm {
    fn forward(&self, [x, weight, _]: Inputs, keep: bool) -> (DispatchTensor, Vec<DispatchTensor>) {
        let mut kept = if keep { vec![x.clone(), weight.clone()] } else { Vec::new() };
        let (x, weight) = (Tensor::<2>::from_dispatch(x), Tensor::<1>::from_dispatch(weight));
        let (dtype, device, rows) = (x.dtype(), x.device(), x.dims()[0]);
        let (value, scales) = if cpu::is_flex(&x) && weight.dtype() == dtype {
            let norm = |x: &mut [f32]| cpu::read(&weight, |w| cpu::rms_norm(x, w, self.epsilon as f32));
            let (value, scales) = cpu::update(x, norm);
            (value, Tensor::from_data(TensorData::new(scales, [rows, 1]), &device))
        } else {
            let (x, scales) = self.scales(x);
            ((x * scales.clone()).cast(dtype) * weight.unsqueeze(), scales)
        };
        if keep {
            kept.push(scales.into_dispatch());
        }
        (value.into_dispatch(), kept)
    }

    fn backward(&self, kept: Vec<DispatchTensor>, gradient: DispatchTensor, needed: [bool; 3]) -> InputGradients {
        let mut kept = kept.into_iter();
        let (Some(x), Some(weight), Some(scales)) = (kept.next(), kept.next(), kept.next()) else {
            return [None, None, None];
        };
        let (x, weight) = (Tensor::<2>::from_dispatch(x), Tensor::<1>::from_dispatch(weight));
        let scales = Tensor::<2>::from_dispatch(scales);
        let gradient = Tensor::<2>::from_dispatch(gradient);
        let dtype = x.dtype();
        let d_weight = needed[1].then(|| {
            let normed = x.clone().cast(DType::F32) * scales.clone();
            let sum = (gradient.clone().cast(DType::F32) * normed).sum_dim(0);
            sum.reshape([-1]).cast(weight.dtype()).into_dispatch()
        });
        let d_x = needed[0].then(|| {
            let d_x = if cpu::is_flex(&x) && weight.dtype() == dtype {
                let fused = |g: &mut [f32]| {
                    cpu::read(&x, |x| {
                        cpu::read(&weight, |w| cpu::read(&scales, |scales| cpu::rms_norm_gradient(x, w, scales, g)))
                    });
                };
                cpu::update(gradient, fused).0
            } else {
                let x = x.clone().cast(DType::F32);
                let g = (gradient * weight.clone().unsqueeze()).cast(DType::F32);
                let along = (g.clone() * x.clone()).mean_dim(1) * scales.clone() * scales.clone();
                ((g - x * along) * scales.clone()).cast(dtype)
            };
            d_x.into_dispatch()
        });
        [d_x, d_weight, None]
    }
}

/// cos and sin of rotary angles, `[B, 1, L, C/2]` each, without autodiff.
#[derive(Debug, Clone)]
pub struct Angles {
    /// Cosines.
    pub cos: Tensor<4>,
    /// Sines.
    pub sin: Tensor<4>,
}

/// Turns the pairs (element i, element i + C/2) of `x` `[B, H, L, C]` by the angles of their batch and place
/// (Su et al. 2021 with the pairing of GPT-NeoX, Llama and Qwen).
pub fn rotate(x: Tensor<4>, angles: &Angles) -> Tensor<4> {
    call(Rotate(angles.clone()), x.clone(), x.clone(), x)
}

#[derive(Debug)]
struct Rotate(Angles);

impl Rotate {
    /// By the angles times `sign`.
    fn turn(&self, x: Tensor<4>, sign: f32) -> Tensor<4> {
        let [batch, heads, length, width] = x.dims();
        let half = width / 2;
        let Angles { cos, sin } = &self.0;
        let angles = cos.dims()[0];
        // A row of x is (batch, head, place), a row of the angles (batch, place).
        let row = |row: usize| (row / (heads * length)) % angles * length + row % length;
        if cpu::is_flex(&x) && (angles == batch || angles == 1) {
            let turn = |x: &mut [f32]| {
                cpu::read(cos, |cos| cpu::read(sin, |sin| cpu::rotate(x, cos, sin, half, sign, &row)));
            };
            return cpu::update(x, turn).0;
        }
        let (a, b) = (x.clone().slice_dim(3, 0..half), x.slice_dim(3, half..width));
        let sin = sin.clone() * sign;
        let first = a.clone() * cos.clone() - b.clone() * sin.clone();
        Tensor::cat(vec![first, b * cos.clone() + a * sin], 3)
    }
}

impl Function for Rotate {
    fn forward(&self, [x, _, _]: Inputs, _keep: bool) -> (DispatchTensor, Vec<DispatchTensor>) {
        (self.turn(Tensor::from_dispatch(x), 1.0).into_dispatch(), Vec::new())
    }

    fn backward(&self, _kept: Vec<DispatchTensor>, gradient: DispatchTensor, _needed: [bool; 3]) -> InputGradients {
        [Some(self.turn(Tensor::from_dispatch(gradient), -1.0).into_dispatch()), None, None]
    }
}
