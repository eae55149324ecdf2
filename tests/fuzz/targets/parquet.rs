//! Rows of a table in parquet.
#![no_main]

mod file;

use datasets::table::read_rows;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = file::File::new("rows.parquet", bytes) else { return };
    if let Ok(rows) = read_rows(file.path()) {
        rows.for_each(drop);
    }
});
