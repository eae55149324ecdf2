//! Chats for fine-tuning.
#![no_main]

mod file;

use datasets::chat::ChatReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = file::File::new("chats.jsonl", bytes) else { return };
    if let Ok(chats) = ChatReader::open(file.path()) {
        chats.for_each(drop);
    }
});
