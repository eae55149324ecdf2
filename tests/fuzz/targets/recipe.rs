//! A recipe, and what is wrong with it, rendered.
#![no_main]

use hearth::diagnostics::{SourceText, render};
use hearth::recipe::Document;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Document::parse(SourceText::new("fuzz.ron", text)) {
        Ok(mut document) => {
            let _ = document.set("seed=1");
            let _ = document.check_elsewhere();
        }
        Err(problem) => {
            let mut out = String::new();
            let _ = render(&[problem], false, &mut out);
        }
    }
});
