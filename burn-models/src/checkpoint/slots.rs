//! What a module's parameters are called in a file, and how they lie there.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

/// The name of a parameter with Hugging Face's names for norms: `gamma` → `weight`, `beta` → `bias`.
pub fn hf_path(path: &[String]) -> String {
    let mut path = path.join(".");
    for (ours, theirs) in [(".gamma", ".weight"), (".beta", ".bias")] {
        if let Some(head) = path.strip_suffix(ours) {
            path = format!("{head}{theirs}");
        }
    }
    path
}

/// The position of a walk through a module.
#[derive(Default)]
pub(super) struct Walk {
    path: Vec<String>,
    owners: Vec<String>,
}

impl Walk {
    pub(super) fn enter(&mut self, name: &str, owner: &str) {
        self.path.push(name.to_string());
        self.owners.push(owner.to_string());
    }

    pub(super) fn exit(&mut self) {
        self.path.pop();
        self.owners.pop();
    }

    /// Which kind of layer an enum holds is not part of a name.
    pub(super) fn hf_path(&self) -> String {
        let named = self.path.iter().zip(&self.owners).filter(|(_, owner)| !owner.starts_with("Enum:"));
        hf_path(&named.map(|(name, _)| name.clone()).collect::<Vec<_>>())
    }

    /// Whether the parameter here is a linear layer's matrix, which files hold as `[out, in]`.
    pub(super) fn transposed(&self) -> bool {
        let linear = matches!(self.owners.last().map(String::as_str), Some("Struct:Linear" | "Struct:LoraLinear"));
        linear && self.path.last().is_some_and(|name| name == "weight")
    }
}

/// One parameter: its name in the file and its shape there.
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

/// The values of a parameter, laid out as in the file.
pub(super) struct Source {
    pub(super) dtype: DType,
    pub(super) read: Box<dyn Fn() -> std::result::Result<TensorData, String>>,
}

/// The parameters of `module` that `names` gives a name, in field order; lazy ones stay uninitialised.
pub(super) fn slots<M: Module>(module: &M, names: &dyn Fn(&str) -> Option<String>) -> Vec<Slot> {
    let mut collect = Collect { walk: Walk::default(), names, slots: Vec::new(), sources: None };
    module.visit(&mut collect);
    collect.slots
}

/// The same with a handle on each tensor's values. Handles share storage with the module.
pub(super) fn sources<M: Module>(module: &M, names: &dyn Fn(&str) -> Option<String>) -> Vec<(Slot, Source)> {
    let mut collect = Collect { walk: Walk::default(), names, slots: Vec::new(), sources: Some(Vec::new()) };
    module.visit(&mut collect);
    collect.slots.into_iter().zip(collect.sources.unwrap_or_default()).collect()
}

struct Collect<'a> {
    walk: Walk,
    names: &'a dyn Fn(&str) -> Option<String>,
    slots: Vec<Slot>,
    sources: Option<Vec<Source>>,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.walk.enter(name, owner);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.walk.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(name) = (self.names)(&self.walk.hf_path()) else { return };
        let transposed = self.walk.transposed();
        let mut shape: Vec<usize> = param.lazy_shape().as_slice().to_vec();
        if transposed {
            shape.reverse();
        }
        self.slots.push(Slot { name, shape });
        if let Some(sources) = &mut self.sources {
            let tensor = param.val().without_autodiff();
            let dtype = tensor.dtype();
            let read = move || {
                let tensor = tensor.clone();
                let tensor = if transposed { tensor.swap_dims(0, 1) } else { tensor };
                tensor.try_into_data().map_err(|e| e.to_string())
            };
            sources.push(Source { dtype, read: Box::new(read) });
        }
    }
}
