//! From an adapted network to a plain one.

use crate::{Error, Projections, Result};

/// Adds every adapter to its matrix, in f32 with one rounding to the matrix's type, and removes it. The matrices stay frozen
/// until they are unfrozen.
///
/// # Errors
/// [`Error::State`] when there is no adapter.
pub fn merge<M: Projections>(mut model: M) -> Result<M> {
    if model.projections().iter().all(|(_, linear)| linear.lora.is_none()) {
        return Err(Error::State("there is no adapter to merge"));
    }
    for (_, linear) in model.projections_mut() {
        linear.merge();
    }
    Ok(model)
}
