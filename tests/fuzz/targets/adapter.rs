//! The configuration of an adapter.
#![no_main]

mod file;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = file::File::new("adapter_config.json", bytes) else { return };
    let _ = burn_lora::read_config(file.folder());
});
