//! Parameters and gradients of modules under PyTorch's names and in PyTorch's layout.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Gradients, Tensor, TensorData};
use hearth_tests::{Tensors, max_abs, relative_l2, values};
use std::collections::BTreeMap;

/// Where a walk through a module stands, in PyTorch's terms.
#[derive(Default)]
struct Place {
    path: Vec<String>,
    owners: Vec<String>,
}

impl Place {
    fn enter(&mut self, name: &str, owner: &str) {
        self.path.push(name.into());
        self.owners.push(owner.into());
    }

    fn exit(&mut self) {
        self.path.pop();
        self.owners.pop();
    }

    fn name(&self) -> String {
        // Which kind of layer an enum holds is not part of a name.
        let named = self.path.iter().zip(&self.owners).filter(|(_, owner)| !owner.starts_with("Enum:"));
        let path = named.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".");
        path.strip_suffix("gamma")
            .map(|p| format!("{p}weight"))
            .or(path.strip_suffix("beta").map(|p| format!("{p}bias")))
            .unwrap_or(path)
    }

    /// PyTorch stores the matrices of linear layers the other way round.
    fn transposed(&self) -> bool {
        self.owners.last().is_some_and(|o| o == "Struct:Linear") && self.path.last().is_some_and(|p| p == "weight")
    }
}

/// Gives every parameter of `module` the values of the tensor that `name` finds for its PyTorch name.
pub(crate) fn filled<M: Module>(module: M, tensors: &Tensors, name: &dyn Fn(&str) -> String) -> M {
    struct Fill<'a> {
        place: Place,
        tensors: &'a Tensors,
        name: &'a dyn Fn(&str) -> String,
    }
    impl ModuleMapper for Fill<'_> {
        fn enter_module(&mut self, name: &str, owner: &str) {
            self.place.enter(name, owner);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.place.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = (self.name)(&self.place.name());
            let (mut shape, mut data) = self.tensors.f32(&name);
            if self.place.transposed() {
                data = transpose(&data, shape[0], shape[1]);
                shape.reverse();
            }
            assert_eq!(shape, param.shape().as_slice(), "shape of `{name}`");
            let device = param.lazy_device();
            Param::from_tensor(Tensor::from_data(TensorData::new(data, shape), (&device, DType::F32)))
        }
    }
    module.map(&mut Fill { place: Place::default(), tensors, name })
}

/// Something for every parameter, by PyTorch name and in PyTorch's layout; parameters for which `read` gives nothing
/// are left out.
pub(crate) fn collected<M: Module>(module: &M, read: impl Reader) -> BTreeMap<String, Vec<f32>> {
    struct Collect<R> {
        place: Place,
        read: R,
        found: BTreeMap<String, Vec<f32>>,
    }
    impl<R: Reader> ModuleVisitor for Collect<R> {
        fn enter_module(&mut self, name: &str, owner: &str) {
            self.place.enter(name, owner);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.place.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(tensor) = self.read.read(&param.val()) {
                let shape = tensor.dims();
                let data = values(tensor);
                let data = if self.place.transposed() { transpose(&data, shape[0], shape[1]) } else { data };
                self.found.insert(self.place.name(), data);
            }
        }
    }
    let mut collect = Collect { place: Place::default(), read, found: BTreeMap::new() };
    module.visit(&mut collect);
    collect.found
}

pub(crate) trait Reader {
    fn read<const D: usize>(&self, parameter: &Tensor<D>) -> Option<Tensor<D>>;
}

/// The parameters themselves.
pub(crate) struct Values;
impl Reader for Values {
    fn read<const D: usize>(&self, parameter: &Tensor<D>) -> Option<Tensor<D>> {
        Some(parameter.clone().without_autodiff())
    }
}

impl Reader for &Gradients {
    fn read<const D: usize>(&self, parameter: &Tensor<D>) -> Option<Tensor<D>> {
        parameter.grad(self)
    }
}

fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| data[r * columns + c])).collect()
}

/// Compares a gradient: 1e-4 relative in L2 norm. One that is missing counts as zero, and gradients that are zero in
/// exact arithmetic are rounding noise on both sides: 1e-6 absolute will do as well.
pub(crate) fn assert_gradient(name: &str, got: Option<&[f32]>, want: &[f32]) {
    let zeros = vec![0.0; want.len()];
    let got = got.unwrap_or(&zeros);
    let (relative, absolute) = (relative_l2(got, want), max_abs(got, want));
    assert!(
        relative <= 1e-4 || absolute <= 1e-6,
        "{name}: gradient differs by {relative:e} relative in L2 norm, {absolute:e} absolute"
    );
}
