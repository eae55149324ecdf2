//! A tokenizer, and a text through it.
#![no_main]

mod file;

use burn_models::text::{Specials, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = file::File::new("tokenizer.json", bytes) else { return };
    if let Ok(tokenizer) = Tokenizer::from_folder(file.folder())
        && let Ok(ids) = tokenizer.encode("A workflow of 3 nodes.", Specials::Parse)
    {
        let _ = tokenizer.decode(&ids, false);
    }
});
