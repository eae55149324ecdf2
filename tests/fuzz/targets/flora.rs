//! FLORA-Bench records.
#![no_main]

mod file;

use datasets::flora::{ReadOptions, read_records};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = file::File::new("train.jsonl", bytes) else { return };
    let _ = read_records(file.path(), &ReadOptions::default(), |_| Ok(()));
});
