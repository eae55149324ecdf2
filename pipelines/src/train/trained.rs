//! The values of what is trained, apart from the module.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

/// The values of a module's trained parameters, without autodiff.
#[derive(Default)]
pub(crate) struct Trained(GradientsParams);

impl Trained {
    /// Those of a module.
    pub(crate) fn of<M: Module>(module: &M) -> Self {
        let mut values = Self::default();
        values.mix(module, 0.0);
        values
    }

    /// `keep·value + (1 − keep)·parameter` of each.
    pub(crate) fn mix<M: Module>(&mut self, module: &M, keep: f64) {
        module.visit(&mut Mix { values: &mut self.0, keep });
    }

    /// The same on another device; `module` is where they come from.
    pub(crate) fn onto<M: Module>(self, device: &Device, module: &M) -> Self {
        Self(self.0.to_device(device, module))
    }

    /// A module with these values in place of its own, in its own number format.
    pub(crate) fn put_into<M: Module>(&self, module: M) -> M {
        module.map(&mut Put(&self.0))
    }
}

struct Mix<'a> {
    values: &'a mut GradientsParams,
    keep: f64,
}

impl ModuleVisitor for Mix<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let new = param.val().without_autodiff();
        let value = match self.values.remove::<D>(param.id) {
            Some(old) => old * self.keep + new * (1.0 - self.keep),
            None => new,
        };
        self.values.register::<D>(param.id, value);
    }
}

struct Put<'a>(&'a GradientsParams);

impl ModuleMapper for Put<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.get::<D>(param.id) {
            Some(value) => param.map(|old| match old.device().is_autodiff() {
                true => Tensor::from_inner(value.cast(old.dtype())).set_require_grad(old.is_require_grad()),
                false => value.cast(old.dtype()),
            }),
            None => param,
        }
    }
}
