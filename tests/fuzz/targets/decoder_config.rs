//! config.json of a decoder.
#![no_main]

mod file;

use burn_models::decoder::DecoderConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = file::File::new("config.json", bytes) else { return };
    let _ = DecoderConfig::from_folder(file.folder());
});
