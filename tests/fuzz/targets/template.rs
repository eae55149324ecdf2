//! A chat template, and a chat through it.
#![no_main]

use burn_models::text::{ChatTemplate, RenderContext};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source) else { return };
    let message = serde_json::json!({ "role": "user", "content": "hello" });
    if let Some(message) = message.as_object() {
        let _ = template.render(&[message.clone()], &RenderContext::default());
    }
});
