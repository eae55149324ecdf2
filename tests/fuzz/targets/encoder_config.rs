//! config.json of an encoder.
#![no_main]

mod file;

use burn_models::encoder::BertConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = file::File::new("config.json", bytes) else { return };
    let _ = BertConfig::from_folder(file.folder());
});
