//! Drawing of parameters.
//!
//! Burn draws a parameter when it is first read, so that the numbers of a seeded device depend on the order of use. A
//! model that must come out the same each time is drawn at once, in the order of its fields.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Draws every parameter of `module` that has not been drawn yet, in the order of its fields.
pub fn draw<M: Module>(module: M) -> M {
    module.visit(&mut Draw);
    module
}

struct Draw;

impl ModuleVisitor for Draw {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        param.val();
    }
}
