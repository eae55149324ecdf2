//! Tokenizer files and chat templates.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use hearth_tests::program::cpu;
use serde_json::{Value, json};

use super::bench::{Bench, Case, arguments, change_json, cut, refused};

const TOKENIZER: &str = "tokenizer.json";

/// Scores a chat with a model.
fn score(bench: &Bench, model: &Path) -> Vec<OsString> {
    let chat = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;
    let rows = bench.write("rows.jsonl", chat);
    arguments!["score", "--model", model, "--input", &rows, "--output", &bench.output("o.jsonl"), "--device", &cpu()]
}

/// A copy of the decoder with a fault.
fn decoder(name: &str, words: &[&str], spoil: impl Fn(&Path) + Sync + 'static) -> Case {
    Case::new(name, 1, words, move |bench| {
        let model = bench.copy(&bench.world.decoder(), "llm");
        spoil(&model);
        score(bench, &model)
    })
}

/// Another content of `tokenizer.json`.
fn text(name: &str, words: &[&str], content: impl AsRef<[u8]> + Sync + 'static) -> Case {
    let mut all = vec!["llm/tokenizer.json"];
    all.extend(words);
    decoder(name, &all, move |model| fs::write(model.join(TOKENIZER), &content).unwrap())
}

/// A change to `tokenizer.json`.
fn tokenizer(name: &str, words: &[&str], change: impl Fn(&mut Value) + Sync + 'static) -> Case {
    let mut all = vec!["llm/tokenizer.json"];
    all.extend(words);
    decoder(name, &all, move |model| change_json(&model.join(TOKENIZER), &change))
}

#[test]
fn tokenizers() {
    refused(vec![
        decoder("none", &["llm/tokenizer.json", "there is no such file", "save_pretrained"], |model| {
            fs::remove_file(model.join(TOKENIZER)).unwrap();
        }),
        decoder("cut off", &["llm/tokenizer.json", "EOF while parsing"], |model| cut(&model.join(TOKENIZER), 2000)),
        text("not JSON", &["line 1 column"], "hello"),
        text("empty", &["EOF while parsing"], ""),
        text("not UTF-8", &["line 1 column"], b"{\"version\": \"\xff\"}"),
        text("an empty object", &["Model missing"], "{}"),
        text("too large", &["larger than 67108864 bytes"], vec![b' '; (64 << 20) + 1]),
        text("too deep", &["line 1 column"], "{\"model\": ".repeat(100_000)),
        // The library panics here.
        decoder(
            "cut off in its decoder",
            &["llm/tokenizer.json", "damaged, or has a form that cannot be read"],
            |model| {
                let path = model.join(TOKENIZER);
                let decoder = fs::read_to_string(&path).unwrap().rfind("\"decoder\"").unwrap();
                cut(&path, decoder + 14);
            },
        ),
        tokenizer("an unknown decoder", &["line 1 column"], |t| t["decoder"] = json!({ "type": "Unheard" })),
        tokenizer("a merge of nothing", &["`zzzz`", "out of vocabulary"], |t| {
            t["model"]["merges"][0] = json!(["q", "zzzz"])
        }),
        tokenizer("a broken expression", &["parenthesis"], |t| {
            t["pre_tokenizer"] =
                json!({ "type": "Split", "pattern": { "Regex": "((" }, "behavior": "Isolated", "invert": false });
        }),
        tokenizer("more words than the model", &["ids up to 9999", "embeddings for 2048", "another model's?"], |t| {
            t["model"]["vocab"]["zzzz"] = json!(9999);
        }),
        tokenizer("the largest id", &["ids up to 4294967295", "another model's?"], |t| {
            t["model"]["vocab"]["zzzz"] = json!(u32::MAX);
        }),
        decoder("settings cut off", &["llm/tokenizer_config.json", "EOF while parsing"], |model| {
            fs::write(model.join("tokenizer_config.json"), "{\"eos_token\": ").unwrap();
        }),
        decoder(
            "an unknown token",
            &["llm/tokenizer_config.json", "`eos_token`", "`<none>` is not in the vocabulary"],
            |model| {
                change_json(&model.join("tokenizer_config.json"), |config| config["eos_token"] = json!("<none>"));
            },
        ),
        decoder(
            "an id that is none",
            &["llm/generation_config.json", "`eos_token_id`", "is not a token id"],
            |model| {
                fs::write(model.join("generation_config.json"), "{\"eos_token_id\": \"x\"}").unwrap();
            },
        ),
        Case::new(
            "more words than the encoder",
            1,
            &["text/config.json", "`vocab_size`", "the tokenizer has"],
            |bench| {
                let model = bench.copy(&bench.world.encoder(), "text");
                change_json(&model.join(TOKENIZER), |t| t["model"]["vocab"]["zzzz"] = json!(99_999));
                let rows = bench.write("rows.jsonl", "{\"text\": \"a\"}\n");
                let output = bench.output("o.jsonl");
                arguments!["embed", "--model", &model, "--input", &rows, "--output", &output, "--device", &cpu()]
            },
        ),
    ]);
}

/// A decoder with this chat template.
fn template(name: &str, words: &[&str], source: &'static str) -> Case {
    decoder(name, words, move |model| fs::write(model.join("chat_template.jinja"), source).unwrap())
}

#[test]
fn chat_templates() {
    refused(vec![
        decoder("none", &["rows.jsonl:1", "has no chat template", "chat_template.jinja"], |model| {
            fs::remove_file(model.join("chat_template.jinja")).unwrap();
        }),
        decoder("not UTF-8", &["llm/chat_template.jinja", "not UTF-8"], |model| {
            fs::write(model.join("chat_template.jinja"), b"\xff\xfe").unwrap();
        }),
        decoder("too large", &["llm/chat_template.jinja", "larger than 1048576 bytes"], |model| {
            fs::write(model.join("chat_template.jinja"), " ".repeat((1 << 20) + 1)).unwrap();
        }),
        template(
            "one that raises",
            &["rows.jsonl:1", "rejects this conversation: only robots"],
            "{{ raise_exception('only robots') }}",
        ),
        template("malformed", &["rows.jsonl:1", "chat template, line 2", "syntax error"], "a\n{{ messages }"),
        template("undefined", &["rows.jsonl:1", "chat template, line 1", "undefined"], "{{ messages[0].a.b }}"),
        template("never ends", &["rows.jsonl:1", "did not end within"], {
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
        }),
        template("recursion", &["rows.jsonl:1", "recursion limit"], "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"),
        template("a huge text", &["rows.jsonl:1", "too large"], "{{ 'x' * 100000000000 }}"),
        template("another file", &["rows.jsonl:1", "/etc/passwd"], "{% include '/etc/passwd' %}"),
        template("says nothing", &["rows.jsonl:1", "chat template"], ""),
    ]);
}
