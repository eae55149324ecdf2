//! Tokenizers and chat templates against the `transformers` and `tokenizers` libraries.
//!
//! Cases are found by listing the reference folders: a file of encodings (`encodings.jsonl`, `tokenizer_encodings.jsonl`
//! or `sentences.jsonl` with `ids`), of chat renderings (`chat_templates.jsonl`), or of a padded batch (`batch.json`)
//! beside a tokenizer, which is in the folder itself or in a folder of it. Everything must be equal.

use burn_models::text::{ChatOptions, ChatTemplate, Message, RenderContext, Specials, Tokenizer};
use hearth_tests::{fixture_folders, json, json_lines, list};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The tokenizer folders that belong to a reference folder.
fn tokenizers(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        list(folder).into_iter().filter(|path| path.join("tokenizer.json").exists()).collect();
    if folder.join("tokenizer.json").exists() {
        found.push(folder.to_path_buf());
    }
    found
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn encodings() {
    const FILES: [&str; 3] = ["encodings.jsonl", "tokenizer_encodings.jsonl", "sentences.jsonl"];
    let folders =
        fixture_folders("encodings", |f| FILES.iter().any(|name| f.join(name).exists()) && !tokenizers(f).is_empty());
    for folder in folders {
        let rows: Vec<Value> =
            FILES.iter().filter(|n| folder.join(n).exists()).flat_map(|n| json_lines(&folder.join(n))).collect();
        for dir in tokenizers(&folder) {
            let tokenizer = Tokenizer::from_folder(&dir).unwrap();
            let limit = dir.join("sentence_bert_config.json");
            let limit = limit.exists().then(|| json(&limit)["max_seq_length"].as_u64().unwrap() as usize);
            for row in &rows {
                compare_encoding(&tokenizer, row, limit, &dir);
            }
        }
    }
}

/// One text: ids with and without automatically added tokens, places in the text, and the text that comes back.
fn compare_encoding(tokenizer: &Tokenizer, row: &Value, limit: Option<usize>, dir: &Path) {
    let text = row["text"].as_str().unwrap();
    let context = format!("{}: {text:?}", dir.display());
    let (added, _) = tokenizer.encode_within(text, Specials::Parse, limit.unwrap_or(usize::MAX)).unwrap();
    let plain = tokenizer.encode(text, Specials::Parse).unwrap();
    assert_eq!(added, ids(&row["ids"]), "{context}");
    if let Some(expected) = row.get("ids_no_special") {
        assert_eq!(plain, ids(expected), "{context}");
    }
    if let Some(expected) = row.get("offsets_chars") {
        let (with_offsets, ranges) = tokenizer.encode_offsets(text, Specials::Parse).unwrap();
        assert_eq!(with_offsets, plain, "{context}");
        let characters = |bytes: usize| text[..bytes].chars().count() as u64;
        let got: Vec<Value> = ranges.iter().map(|r| [characters(r.start), characters(r.end)].to_vec().into()).collect();
        assert_eq!(&Value::from(got), expected, "{context}");
    }
    // References made without special tokens decode what they encoded without them.
    if let Some(expected) = row.get("decoded") {
        assert_eq!(tokenizer.decode(&plain, false).unwrap(), expected.as_str().unwrap(), "{context}");
    }
    if let Some(expected) = row.get("decoded_skip_special") {
        assert_eq!(tokenizer.decode(&added, true).unwrap(), expected.as_str().unwrap(), "{context}");
    }
}

#[test]
fn batches() {
    for folder in fixture_folders("padded batches", |f| f.join("batch.json").exists() && !tokenizers(f).is_empty()) {
        let batch = json(&folder.join("batch.json"));
        let max = batch["max_length"].as_u64().unwrap() as usize;
        for dir in tokenizers(&folder) {
            let tokenizer = Tokenizer::from_folder(&dir).unwrap();
            let rows: Vec<Vec<u32>> = strings(&batch["texts"])
                .into_iter()
                .map(|text| tokenizer.encode_within(text, Specials::Parse, max).unwrap().0)
                .collect();
            let pad = tokenizer.pad_id().unwrap();
            for side in ["left", "right"] {
                for (i, row) in rows.iter().enumerate() {
                    let filler = vec![pad; max - row.len()];
                    let zeros = vec![0; filler.len()];
                    let ones = vec![1; row.len()];
                    let (got, mask) = match side {
                        "left" => ([filler, row.clone()].concat(), [zeros, ones].concat()),
                        _ => ([row.clone(), filler].concat(), [ones, zeros].concat()),
                    };
                    assert_eq!(got, ids(&batch[side]["input_ids"][i]), "{}: {side}, row {i}", folder.display());
                    assert_eq!(mask, ids(&batch[side]["attention_mask"][i]), "{}: {side}, row {i}", folder.display());
                }
            }
        }
    }
}

/// What a row of `chat_templates.jsonl` passes to the template beside messages and tools; `null` means not passed.
fn variables(row: &Value) -> Map<String, Value> {
    const OTHERS: [&str; 6] = ["template", "messages", "tools", "add_generation_prompt", "rendered", "ids"];
    let row = row.as_object().unwrap();
    row.iter()
        .filter(|(k, v)| !OTHERS.contains(&k.as_str()) && !v.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

#[test]
fn chat_renderings() {
    let folders =
        fixture_folders("chat templates", |f| f.join("chat_templates.jsonl").exists() && !tokenizers(f).is_empty());
    for folder in folders {
        let rows = json_lines(&folder.join("chat_templates.jsonl"));
        assert!(!rows.is_empty());
        for dir in tokenizers(&folder) {
            let mut tokenizer = Tokenizer::from_folder(&dir).unwrap();
            let mut current = None;
            for row in &rows {
                let name = row["template"].as_str();
                if name != current {
                    let name = name.expect("rows with and without a template's name in one file");
                    let source = std::fs::read_to_string(folder.join(format!("chat_template_{name}.jinja"))).unwrap();
                    tokenizer = tokenizer.with_chat_template(ChatTemplate::new(&source).unwrap());
                    current = Some(name);
                }
                compare_chat(&tokenizer, row, &dir);
            }
        }
    }
}

fn compare_chat(tokenizer: &Tokenizer, row: &Value, dir: &Path) {
    let rendered = row["rendered"].as_str().unwrap();
    let messages: Vec<Message> = serde_json::from_value(row["messages"].clone()).unwrap();
    let tools = row["tools"].as_array().map(Vec::as_slice);
    let options = ChatOptions {
        add_generation_prompt: row["add_generation_prompt"].as_bool().unwrap(),
        variables: variables(row),
        ..ChatOptions::default()
    };
    let context = format!("{}: {}", dir.display(), row["messages"]);
    assert_eq!(tokenizer.render_chat(&messages, tools, &options).unwrap(), rendered, "{context}");
    assert_eq!(tokenizer.encode_chat(&messages, tools, &options).unwrap(), ids(&row["ids"]), "{context}");
    assert_eq!(tokenizer.encode(rendered, Specials::Parse).unwrap(), ids(&row["ids"]), "{context}");
}

/// The engine by itself, without a tokenizer's guard and variables.
#[test]
fn templates_alone() {
    let folders = fixture_folders("chat templates by name", |f| {
        f.join("chat_templates.jsonl").exists() && list(f).iter().any(|p| p.extension().is_some_and(|e| e == "jinja"))
    });
    for folder in folders {
        for row in json_lines(&folder.join("chat_templates.jsonl")) {
            let Some(name) = row["template"].as_str() else { continue };
            let source = std::fs::read_to_string(folder.join(format!("chat_template_{name}.jinja"))).unwrap();
            let messages: Vec<Map<String, Value>> = serde_json::from_value(row["messages"].clone()).unwrap();
            let context = RenderContext {
                add_generation_prompt: row["add_generation_prompt"].as_bool().unwrap(),
                variables: variables(&row),
                tools: row["tools"].as_array().map(Vec::as_slice),
                now: None,
            };
            let text = ChatTemplate::new(&source).unwrap().render(&messages, &context).unwrap();
            assert_eq!(text, row["rendered"].as_str().unwrap());
        }
    }
}

/// Saved and read again, a tokenizer gives the same ids and the same chats.
#[test]
fn folders_survive_saving() {
    let folders = fixture_folders("tokenizers", |f| !tokenizers(f).is_empty());
    for dir in folders.iter().flat_map(|f| tokenizers(f)) {
        let original = Tokenizer::from_folder(&dir).unwrap();
        let copy = tempfile::tempdir().unwrap();
        original.save(copy.path()).unwrap();
        let again = Tokenizer::from_folder(copy.path()).unwrap();
        let text = "The in-degree of node 12 is 3; l'été 你好 🚀\n\n<|im_end|> [SEP] <think>";
        for specials in [Specials::Parse, Specials::Plain] {
            assert_eq!(
                again.encode(text, specials).unwrap(),
                original.encode(text, specials).unwrap(),
                "{}",
                dir.display()
            );
        }
        assert_eq!(again.hash(), original.hash());
        assert_eq!(again.eos_ids(), original.eos_ids());
        assert_eq!(again.pad_id(), original.pad_id());
        if original.chat_template().is_ok() {
            let messages = [Message::user("a"), Message::assistant("b"), Message::user("c")];
            let options = ChatOptions { now: Some(0), ..ChatOptions::prompt() };
            let render = |t: &Tokenizer| t.render_chat(&messages, None, &options).unwrap();
            assert_eq!(render(&again), render(&original), "{}", dir.display());
        }
    }
}
