//! A linear layer that may carry an adapter.

use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{DType, Tensor, module::linear};

use crate::{LoraConfig, Stream};

/// y = x·W + b, and with an adapter y = x·W + b + s·(drop(x)·A)·B.
///
/// Adapters compute in f32 also when W is narrower; only their contribution is rounded, once.
#[derive(Module, Debug)]
pub struct LoraLinear {
    /// W `[in, out]`; in fewer bits after [`LoraLinear::quantize`].
    pub weight: Param<Tensor<2>>,
    /// b `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// The adapter.
    pub lora: Option<Adapter>,
}

/// The two factors of a low-rank update, with DoRA's magnitude if there is one.
#[derive(Module, Debug)]
pub struct Adapter {
    /// A `[in, R]`, f32.
    pub lora_a: Param<Tensor<2>>,
    /// B `[R, out]`, f32.
    pub lora_b: Param<Tensor<2>>,
    /// DoRA's magnitude m `[out]`, f32.
    pub magnitude: Option<Param<Tensor<1>>>,
    /// On the adapter's input.
    pub dropout: Dropout,
    /// s.
    pub scale: f64,
}

impl LoraLinear {
    /// A layer without adapter.
    pub fn new(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self { weight, bias, lora: None }
    }

    /// `x` `[.., in]` → `[.., out]`, in the type of `x` and W.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_with(x, Dropout::forward)
    }

    /// [`forward`](Self::forward) with another implementation of dropout than Burn's.
    pub fn forward_with<const D: usize>(
        &self,
        x: Tensor<D>,
        drop: impl Fn(&Dropout, Tensor<D>) -> Tensor<D>,
    ) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        let weight = self.restored(x.dtype());
        let Some(lora) = &self.lora else { return linear(x, weight, bias) };
        let y = lora.forward(x.clone(), drop(&lora.dropout, x), weight);
        match bias {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        }
    }

    /// Attaches a fresh adapter: A uniform in ±1/√in from the stream of (`seed`, "lora", `path`), B zero, so that the output
    /// does not change; DoRA's magnitude is the norm of each column of W.
    ///
    /// A is what PEFT calls Kaiming-uniform with a = √5.
    pub fn attach(&mut self, config: &LoraConfig, seed: u64, path: &str) {
        let weight = self.weight.val();
        let [input, output] = weight.dims();
        let device = weight.device();
        let values = Stream::new(seed, &["lora", path]).uniform(input * config.rank, 1.0 / (input as f64).sqrt());
        let a = burn::tensor::TensorData::new(values, [input, config.rank]);
        let float = (&device, DType::F32);
        let magnitude = config.dora.then(|| column_norms(f32(weight.without_autodiff())));
        let lift = |t: Tensor<1>| if device.is_autodiff() { t.autodiff() } else { t };
        self.lora = Some(Adapter {
            lora_a: Param::from_tensor(Tensor::from_data(a, float)),
            lora_b: Param::from_tensor(Tensor::zeros([config.rank, output], float)),
            magnitude: magnitude.map(|m| Param::from_tensor(lift(m))),
            dropout: DropoutConfig::new(config.dropout).init(),
            scale: config.scale(),
        });
    }

    /// Adds the adapter, if there is one, to W and drops it. Sums in f32 and rounds once to W's type.
    pub fn merge(&mut self) {
        let Some(lora) = self.lora.take() else { return };
        let weight = self.weight.val();
        let (dtype, autodiff, trainable) = (weight.dtype(), weight.is_autodiff(), weight.is_require_grad());
        let plain = weight.without_autodiff();
        let mut merged = f32(plain) + lora.delta();
        if let Some(magnitude) = &lora.magnitude {
            let norms = column_norms(merged.clone());
            merged = merged * (magnitude.val().without_autodiff() / norms).unsqueeze();
        }
        let merged = merged.cast(dtype);
        let merged = if autodiff { merged.autodiff().set_require_grad(trainable) } else { merged };
        self.weight = self.weight.clone().map(|_| merged);
    }
}

impl Adapter {
    /// x·W plus the adapter's part, for x and what dropout leaves of it; with DoRA, the whole rescaled by m / ‖W + s·A·B‖ per
    /// output.
    fn forward<const D: usize>(&self, x: Tensor<D>, dropped: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
        let dtype = x.dtype();
        // Scaled where it is narrowest.
        let low = linear(f32(dropped.clone()), self.lora_a.val(), None).mul_scalar(self.scale);
        let low = linear(low, self.lora_b.val(), None);
        let Some(magnitude) = &self.magnitude else {
            return linear(x, weight, None) + low.cast(dtype);
        };
        // The norm is a constant for the gradient (DoRA, section 4.3).
        let norms = column_norms(f32(weight.clone().without_autodiff()) + self.delta());
        let gain = (magnitude.val() / norms).unsqueeze::<D>();
        // While training with dropout, PEFT rescales the layer's dropped output but keeps the plain one beside it.
        let full = linear(x, weight.clone(), None);
        let seen = if self.drops() { linear(dropped, weight, None) } else { full.clone() };
        let change = f32(seen) * (gain.clone() - 1.0) + low * gain;
        full + change.cast(dtype)
    }

    fn drops(&self) -> bool {
        self.dropout.prob > 0.0 && self.dropout.training.is_enabled() && self.lora_a.val().is_autodiff()
    }

    /// s·A·B `[in, out]`, f32, outside automatic differentiation.
    fn delta(&self) -> Tensor<2> {
        let a = self.lora_a.val().without_autodiff();
        a.matmul(self.lora_b.val().without_autodiff()).mul_scalar(self.scale)
    }
}

fn f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(DType::F32)
}

/// ‖w‖₂ of each column of a matrix `[in, out]` → `[out]`.
fn column_norms(w: Tensor<2>) -> Tensor<1> {
    w.square().sum_dim(0).sqrt().squeeze_dim(0)
}
