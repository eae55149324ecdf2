//! Names of parameters in files of the reference implementation.

/// The name in a state dict of the reference implementation of the parameter at `path` (dotted fields, with `weight`
/// and `bias` for the parts of a norm, as [`checkpoint`](crate::checkpoint) passes them).
///
/// The fields of [`GlowPredictor`](super::GlowPredictor) are named after that state dict. Only the layers of an MLP
/// differ: there they stand in one sequence with an activation and a dropout after each, so that linear layer `k` has
/// number `3k`; `final_mlp.layers.1.weight` is `final_mlp.3.weight`. Every parameter is in the file.
pub fn original_name(path: &str) -> Option<String> {
    let Some((mlp, rest)) =
        path.split_once(".layers.").filter(|(owner, _)| owner.ends_with("_mlp") || owner.ends_with("_projector"))
    else {
        return Some(path.to_string());
    };
    let (layer, parameter) = rest.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    Some(format!("{mlp}.{}.{parameter}", 3 * layer))
}

#[cfg(test)]
mod tests {
    use super::original_name;

    #[test]
    fn only_layers_of_mlps_are_renumbered() {
        for (path, name) in [
            ("final_mlp.layers.1.weight", "final_mlp.3.weight"),
            ("llm_projector.layers.0.bias", "llm_projector.0.bias"),
            ("fusion_encoder.layers.1.linear1.weight", "fusion_encoder.layers.1.linear1.weight"),
            ("gnn_encoder.gnn_layers.0.att_src", "gnn_encoder.gnn_layers.0.att_src"),
        ] {
            assert_eq!(original_name(path).as_deref(), Some(name));
        }
    }
}
