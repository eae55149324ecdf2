//! Adapters on whole networks.

use burn::module::Module;

use crate::{Error, LoraConfig, LoraLinear, Result};

/// A network that can be adapted: it lists its linear layers, the output head excluded, by their dotted paths.
/// The paths are those of its checkpoint, such as `model.layers.0.self_attn.q_proj`.
pub trait Projections {
    /// Every projection with its path, in a fixed order.
    fn projections(&self) -> Vec<(String, &LoraLinear)>;

    /// The same, mutable.
    fn projections_mut(&mut self) -> Vec<(String, &mut LoraLinear)>;
}

/// Freezes `model` and attaches fresh, trainable adapters to the targets. The output does not change.
///
/// The same seed gives the same adapters on every device.
///
/// # Errors
/// When a setting is out of range, when a target matches nothing, or when there are adapters already.
pub fn attach<M: Module + Projections>(model: M, config: &LoraConfig, seed: u64) -> Result<M> {
    config.validate()?;
    if model.projections().iter().any(|(_, linear)| linear.lora.is_some()) {
        return Err(Error::State("the network has adapters already; merge them first"));
    }
    let paths: Vec<String> = model.projections().into_iter().map(|(path, _)| path).collect();
    let selected = config.targets.select(&paths)?;
    let mut model = model.no_grad();
    for ((path, linear), selected) in model.projections_mut().into_iter().zip(selected) {
        if selected {
            linear.attach(config, seed, &path);
        }
    }
    Ok(model)
}

/// How many numbers adapters with these settings have on linear layers with these paths and `[in, out]` sizes.
///
/// # Errors
/// As [`attach`].
pub fn parameters(config: &LoraConfig, layers: &[(String, [usize; 2])]) -> Result<u64> {
    config.validate()?;
    let paths: Vec<String> = layers.iter().map(|(path, _)| path.clone()).collect();
    let selected = config.targets.select(&paths)?;
    Ok((layers.iter().zip(selected))
        .filter(|(_, selected)| *selected)
        .map(|((_, [input, output]), _)| {
            (config.rank as u64) * (*input as u64 + *output as u64) + if config.dora { *output as u64 } else { 0 }
        })
        .sum())
}
