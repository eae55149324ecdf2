//! Differentiable functions with a backward pass of our own.
//!
//! Burn differentiates what is composed of its operations, and keeps what each of them needs. A [`Function`] is one node
//! instead: it decides what is kept, and computes its gradient by the formula that suits it. It is written on plain tensors
//! (without autodiff), once for all devices.

// `NdArray`, on which the tests run too.
#![allow(deprecated)]

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, backend_extension,
};
use burn::tensor::Tensor;

/// The inputs of a function; one of two inputs gets the second one again as the third.
pub(super) type Inputs = [DispatchTensor; 3];
/// Gradients of the inputs; `None` where none is needed, and for a repeated input.
pub(super) type InputGradients = [Option<DispatchTensor>; 3];

/// A function of up to three tensors and its gradient. All tensors are without autodiff.
pub(super) trait Function: Debug + Send + Sync {
    /// The value, and what the backward pass will need: nothing unless `keep`.
    fn forward(&self, inputs: Inputs, keep: bool) -> (DispatchTensor, Vec<DispatchTensor>);

    /// The gradients of those inputs that are `needed`, from what [`Function::forward`] kept and the value's gradient.
    fn backward(&self, kept: Vec<DispatchTensor>, gradient: DispatchTensor, needed: [bool; 3]) -> InputGradients;
}

/// `function(a, b, c)`.
pub(super) fn call<const A: usize, const B: usize, const C: usize, const D: usize>(
    function: impl Function + 'static,
    a: Tensor<A>,
    b: Tensor<B>,
    c: Tensor<C>,
) -> Tensor<D> {
    let (a, b, c) = (a.into_dispatch(), b.into_dispatch(), c.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Functions>::call(a, b, c, Arc::new(function)))
}

/// Calls of functions on every backend.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cuda"),
    Remote: cfg(feature = "remote"),
    Autodiff,
)]
pub(super) trait Functions: Backend {
    /// The function's value.
    fn call(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        function: Arc<dyn Function>,
    ) -> FloatTensor<Self>;
}

/// A primitive of a backend as a tensor of any.
fn lower<B: Backend>(primitive: FloatTensor<B>) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(primitive))
}

/// The other way round.
fn lift<B: Backend>(tensor: DispatchTensor) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let tensor = <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(tensor);
    tensor.unwrap_or_else(|e| unreachable!("a function leaves its device: {e}")).float()
}

macro_rules! plain {
    ($backend:ident, $feature:literal) => {
        #[cfg(feature = $feature)]
        impl Functions for burn::backend::$backend {
            fn call(
                a: FloatTensor<Self>,
                b: FloatTensor<Self>,
                c: FloatTensor<Self>,
                function: Arc<dyn Function>,
            ) -> FloatTensor<Self> {
                let inputs = [lower::<Self>(a), lower::<Self>(b), lower::<Self>(c)];
                lift::<Self>(function.forward(inputs, false).0)
            }
        }
    };
}
plain!(Flex, "flex");
plain!(NdArray, "ndarray");
plain!(Cube, "cuda");
plain!(Remote, "remote");

/// The node of a call.
#[derive(Debug)]
struct Call;

impl<B: Backend> Backward<B, 3> for Call
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = (Arc<dyn Function>, Vec<DispatchTensor>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = lower::<B>(grads.consume::<B>(&ops.node));
        let (function, kept) = ops.state;
        let needed = ops.parents.each_ref().map(Option::is_some);
        for (parent, gradient) in ops.parents.into_iter().zip(function.backward(kept, gradient, needed)) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, lift::<B>(gradient));
            }
        }
    }
}

impl<B: Functions, C: CheckpointStrategy> Functions for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn call(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        function: Arc<dyn Function>,
    ) -> FloatTensor<Self> {
        let ((a, a_node), (b, b_node), (c, c_node)) = (a.into_parts(), b.into_parts(), c.into_parts());
        let inputs = [lower::<B>(a), lower::<B>(b), lower::<B>(c)];
        match Call.prepare::<C>([a_node, b_node, c_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (value, kept) = function.forward(inputs, true);
                prep.finish((function, kept), lift::<B>(value))
            }
            OpsKind::UnTracked(prep) => prep.finish(lift::<B>(function.forward(inputs, false).0)),
        }
    }
}
