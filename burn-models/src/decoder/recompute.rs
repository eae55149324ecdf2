//! Gradients layer by layer, so that the intermediate results of one layer exist at one time.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::input::DecoderInput;
use super::model::Decoder;

impl Decoder {
    /// The gradient of `loss`, a function of the residual stream `[P, D]` that [`Decoder::forward_places`] gives, with respect to
    /// everything that is trained: equal to what a backward pass gives, in the memory of one layer and the inputs of all.
    ///
    /// The layers run once without a graph. Then, from the last to the first, each runs again with one, and the sum of its
    /// output times the incoming gradient is differentiated (Chen et al. 2016). Everything random in layer i is drawn after the
    /// device was seeded from `seed` and i, both times.
    pub fn gradients_by_layer(
        &self,
        input: &DecoderInput,
        places: &[u32],
        seed: u64,
        loss: impl FnOnce(Tensor<2>) -> Tensor<1>,
    ) -> GradientsParams {
        let [batch, length] = input.dims();
        let context = self.context_of(input, (batch == 1).then_some(places));
        let (device, layers) = (self.device(), &self.model.layers);
        let draw = |layer: usize| device.seed(seed.wrapping_add(layer as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let queries = |layer: usize| context.queries(layer + 1 == layers.len());

        let embedded = self.embedded(input);
        let mut inputs = vec![embedded.clone().detach()];
        for (i, layer) in layers.iter().enumerate() {
            draw(i);
            let x = inputs[i].clone();
            inputs.push(layer.clone().no_grad().forward_at(x, &context, queries(i), None).detach());
        }

        let mut total = GradientsParams::new();
        let Some(last) = inputs.pop() else { return total };
        let (shape, width) = (last.dims(), self.config().hidden_size);
        let top = last.require_grad();
        let flat = top.clone().reshape([shape[0] * shape[1], width]);
        let wanted = if batch == 1 { flat } else { flat.select(0, super::model::index(places, &input.ids.device())) };
        debug_assert_eq!(shape[1], if batch == 1 { places.len() } else { length });
        let mut gradients = loss(wanted).backward();
        let mut above = top.grad_remove(&mut gradients);
        merge(&mut total, GradientsParams::from_grads(gradients, self), self);

        // The lowest layer's input needs a gradient only where the embeddings are trained.
        let embeds = self.model.embed_tokens.weight.is_require_grad();
        for (i, layer) in layers.iter().enumerate().rev() {
            let (Some(x), Some(gradient)) = (inputs.pop(), above.take()) else { break };
            let x = if i > 0 || embeds { x.require_grad() } else { x };
            draw(i);
            let y = layer.forward_at(x.clone(), &context, queries(i), None);
            let mut gradients = (y * Tensor::from_inner(gradient)).sum().backward();
            above = x.grad_remove(&mut gradients);
            merge(&mut total, GradientsParams::from_grads(gradients, layer), layer);
        }
        if let (true, Some(gradient)) = (embeds, above) {
            let gradients = (embedded * Tensor::from_inner(gradient)).sum().backward();
            merge(
                &mut total,
                GradientsParams::from_grads(gradients, &self.model.embed_tokens),
                &self.model.embed_tokens,
            );
        }
        total
    }
}

/// Adds the gradients of a module's parameters.
fn merge<M: Module>(total: &mut GradientsParams, part: GradientsParams, module: &M) {
    struct Merge<'a> {
        total: &'a mut GradientsParams,
        part: GradientsParams,
    }
    impl ModuleVisitor for Merge<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.part.remove::<D>(param.id) {
                let gradient = match self.total.remove::<D>(param.id) {
                    Some(sum) => sum + gradient,
                    None => gradient,
                };
                self.total.register::<D>(param.id, gradient);
            }
        }
    }
    module.visit(&mut Merge { total, part });
}
