//! From a file into a module.

use std::collections::{BTreeMap, HashSet};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, FloatDType, Tensor};
use regex::Regex;

use super::slots::{Walk, slots};
use super::weights::Weights;
use crate::{Error, Result, ShapeMismatch};

/// How the tensors of a checkpoint and the parameters of a module correspond.
pub struct LoadOptions<'a> {
    /// A parameter's dotted path → its name in the file; `None` for a parameter that is not in the file, which stays
    /// as it is.
    pub names: &'a dyn Fn(&str) -> Option<String>,
    /// The type to load as: F32, F16 or BF16.
    pub dtype: FloatDType,
    /// Regular expressions for names in the file that may go unused.
    pub allow_unused: &'a [&'a str],
}

/// Gives every parameter of `module` that has a name the values of that name.
///
/// # Errors
/// [`Error::Weights`] with all missing, unused and mis-shaped tensors, before anything is changed; [`Error::DType`]
/// when the device cannot compute in the type; [`Error::Tensor`] for values that are not finite or not floats.
pub fn load<M: Module>(module: M, weights: &Weights, options: &LoadOptions) -> Result<M> {
    check(&module, weights, options)?;
    let mut fill = Fill { walk: Walk::default(), weights, options, error: None };
    let module = module.map(&mut fill);
    match fill.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

fn check<M: Module>(module: &M, weights: &Weights, options: &LoadOptions) -> Result<()> {
    for device in module.devices() {
        supports(&device, options.dtype)?;
    }
    let allowed: Vec<Regex> = (options.allow_unused.iter())
        .map(|pattern| Regex::new(pattern).map_err(|e| Error::Input(format!("allow_unused: {e}"))))
        .collect::<Result<_>>()?;
    let (mut missing, mut shapes, mut used) = (Vec::new(), BTreeMap::new(), HashSet::new());
    for slot in slots(module, options.names) {
        match weights.get(&slot.name) {
            None => missing.push(slot.name.clone()),
            Some(info) if info.shape != slot.shape => {
                let mismatch =
                    ShapeMismatch { name: slot.name.clone(), expected: slot.shape, found: info.shape.clone() };
                shapes.insert(slot.name.clone(), mismatch);
            }
            Some(_) => {}
        }
        used.insert(slot.name);
    }
    let unused: Vec<String> = (weights.names())
        .filter(|name| !used.contains(*name) && !allowed.iter().any(|pattern| pattern.is_match(name)))
        .map(str::to_string)
        .collect();
    let shapes: Vec<_> = shapes.into_values().collect();
    if missing.is_empty() && unused.is_empty() && shapes.is_empty() {
        return Ok(());
    }
    Err(Error::Weights { path: weights.path().to_path_buf(), missing, unused, shapes })
}

/// Refuses a number format the device cannot compute in.
pub(crate) fn supports(device: &burn::tensor::Device, dtype: FloatDType) -> Result<()> {
    let known = matches!(dtype, FloatDType::F32 | FloatDType::F16 | FloatDType::BF16);
    if known && device.supports_dtype(dtype) {
        return Ok(());
    }
    Err(Error::DType { device: format!("{device:?}"), dtype: format!("{dtype:?}") })
}

struct Fill<'a> {
    walk: Walk,
    weights: &'a Weights,
    options: &'a LoadOptions<'a>,
    error: Option<Error>,
}

impl ModuleMapper for Fill<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.walk.enter(name, owner);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.walk.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(name) = (self.options.names)(&self.walk.hf_path()) else { return param };
        // A mapper cannot stop the walk: after the first error the remaining parameters pass through.
        if self.error.is_some() {
            return param;
        }
        match self.weights.data(&name, self.options.dtype, self.walk.transposed()) {
            Err(error) => {
                self.error = Some(error);
                param
            }
            Ok(data) => {
                let device = param.lazy_device();
                let dtype = DType::from(self.options.dtype);
                let tensor =
                    device.memory_persistent_allocations(data, |data| Tensor::from_data(data, (&device, dtype)));
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
        }
    }
}
