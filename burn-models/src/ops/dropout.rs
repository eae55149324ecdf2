//! Dropout whose numbers cost next to nothing.
//!
//! Burn draws them one after the other, which took a quarter of the time of GLOW's training on a CPU. On CPU devices every
//! element's fate is a hash of its place and of a key here, and only the key is drawn from the device's generator: seeding the
//! device repeats it, and equal seeds drop the same elements on all of them.

use burn::backend::DispatchTensor;
use burn::nn::Dropout;
use burn::tensor::activation::leaky_relu;
use burn::tensor::{Distribution, Tensor, TensorData};

use super::cpu;
use super::function::{Function, InputGradients, Inputs, call};

/// `module.forward(x)`: sets elements to zero with the module's probability p and divides the others by 1 − p, while training.
pub fn dropout<const D: usize>(module: &Dropout, x: Tensor<D>) -> Tensor<D> {
    match Mask::draw(module, &x) {
        Some(mask) if cpu::on_flex(&x) => flat(mask, x),
        Some(mask) => mask.apply(x),
        None => module.forward(x),
    }
}

/// `dropout(module, leaky_relu(x, slope))`, for a slope from 0 (ReLU) on.
pub fn leaky_relu_dropout<const D: usize>(module: &Dropout, x: Tensor<D>, slope: f64) -> Tensor<D> {
    match Mask::draw(module, &x) {
        Some(mask) if cpu::on_flex(&x) => flat(LeakyReluDropout { mask, slope: slope as f32 }, x),
        Some(mask) => mask.apply(leaky_relu(x, slope)),
        None => module.forward(leaky_relu(x, slope)),
    }
}

/// The function of all elements, whatever their shape.
fn flat<const D: usize>(function: impl Function + 'static, x: Tensor<D>) -> Tensor<D> {
    let shape = x.dims();
    let unused = Tensor::<1>::zeros([1], &x.device());
    let value: Tensor<1> = call(function, x.reshape([-1]), unused.clone(), unused);
    value.reshape(shape)
}

/// Which elements stay, and what they are multiplied by.
#[derive(Debug, Clone, Copy)]
struct Mask(cpu::Dropout);

impl Mask {
    /// A new mask, where there is something to drop on a CPU device.
    fn draw<const D: usize>(module: &Dropout, x: &Tensor<D>) -> Option<Self> {
        let device = x.device();
        if !module.training.is_enabled() || !device.is_autodiff() || module.prob == 0.0 || !cpu::is_cpu(&device) {
            return None;
        }
        let plain = device.without_autodiff();
        // Twice 24 random bits.
        let drawn = Tensor::<1>::random([2], Distribution::Default, &plain).into_data();
        let mut key = drawn.iter::<f32>().map(|x| (x * 16_777_216.0) as u32);
        let key = [key.next().unwrap_or_default(), key.next().unwrap_or_default()];
        let threshold = (module.prob * 4_294_967_296.0) as u32;
        Some(Self(cpu::Dropout { key, threshold, scale: (1.0 / (1.0 - module.prob)) as f32 }))
    }

    /// The same by Burn's operations.
    fn apply<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut factors = vec![1.0; x.shape().num_elements()];
        cpu::dropout(&mut factors, self.0);
        let factors = Tensor::from_data(TensorData::new(factors, x.shape()), (&x.device(), x.dtype()));
        x * factors
    }
}

impl Function for Mask {
    fn forward(&self, [x, _, _]: Inputs, _keep: bool) -> (DispatchTensor, Vec<DispatchTensor>) {
        let x = Tensor::<1>::from_dispatch(x);
        (cpu::update(x, |x| cpu::dropout(x, self.0)).0.into_dispatch(), Vec::new())
    }

    fn backward(&self, _kept: Vec<DispatchTensor>, gradient: DispatchTensor, _needed: [bool; 3]) -> InputGradients {
        [Some(self.forward([gradient.clone(), gradient.clone(), gradient], false).0), None, None]
    }
}

#[derive(Debug)]
struct LeakyReluDropout {
    mask: Mask,
    slope: f32,
}

impl Function for LeakyReluDropout {
    fn forward(&self, [x, _, _]: Inputs, keep: bool) -> (DispatchTensor, Vec<DispatchTensor>) {
        let x = Tensor::<1>::from_dispatch(x);
        let value = cpu::update(x, |x| cpu::leaky_relu_dropout(x, self.slope, self.mask.0)).0.into_dispatch();
        (value.clone(), if keep { vec![value] } else { Vec::new() })
    }

    fn backward(&self, kept: Vec<DispatchTensor>, gradient: DispatchTensor, _needed: [bool; 3]) -> InputGradients {
        let Some(value) = kept.into_iter().next().map(Tensor::<1>::from_dispatch) else { return [None, None, None] };
        let gradient = Tensor::<1>::from_dispatch(gradient);
        // The value's sign is the input's, or 0 where it was dropped.
        let slopes = [self.mask.0.scale, self.mask.0.scale * self.slope];
        let (gradient, ()) = cpu::update(gradient, |g| cpu::read(&value, |value| cpu::slope_by_sign(g, value, slopes)));
        [Some(gradient.into_dispatch()), None, None]
    }
}
