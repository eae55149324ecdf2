//! The header and the tensors of a safetensors file.
#![no_main]

mod file;

use burn_models::checkpoint::Weights;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = file::File::new("model.safetensors", bytes) else { return };
    if let Ok(weights) = Weights::open(file.path()) {
        for name in weights.names().map(str::to_owned).collect::<Vec<_>>() {
            let _ = weights.bytes(&name);
        }
    }
});
