//! Data sets: workflow records and conversations that a stage cannot read.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use hearth_tests::program::cpu;

use super::bench::{Bench, Case, arguments, cut, refused};

/// A record without a fault, on line 2 of the file.
const RECORD: &str = r#"{"nodes": {"0": "plan", "1": "solve"}, "edge_index": [[0, 1]], "task": "t", "label": 1, "workflow_id": 3, "task_id": 4}"#;

/// Embeds the data set in the folder `flora`.
fn embed(bench: &Bench, flora: &Path) -> Vec<OsString> {
    let recipe = format!(
        "Recipe(name: \"data\", runs: {:?}, models: {{\"llm\": Path({:?}), \"text\": Path({:?})}},\n\
         data: {{\"flora\": Flora({flora:?})}},\n\
         stages: [Embed(data: Data(\"flora\"), llm: Model(\"llm\"), text: Model(\"text\"), max_length: 64, batch_tokens: 64)])",
        bench.output("runs"),
        bench.world.decoder(),
        bench.world.encoder(),
    );
    arguments!["run", &bench.write("r.ron", recipe), "--device", &cpu()]
}

/// A data set with a broken file.
fn file(name: &str, words: &[&str], spoil: impl Fn(&Path) + Sync + 'static) -> Case {
    Case::new(name, 1, words, move |bench| {
        let flora = bench.copy(&bench.world.flora(), "flora");
        spoil(&flora.join("train.jsonl"));
        embed(bench, &flora)
    })
}

/// A data set whose second training record has a part replaced.
fn record(from: &'static str, to: &'static str, words: &[&str]) -> Case {
    let mut all = vec!["flora/train.jsonl:2"];
    all.extend(words);
    file(&format!("{from} → {}", to.chars().take(60).collect::<String>()), &all, move |train| {
        assert!(RECORD.contains(from));
        fs::write(train, format!("{RECORD}\n{}\n", RECORD.replacen(from, to, 1))).unwrap();
    })
}

#[test]
fn workflow_records() {
    refused(vec![
        record(r#""label": 1"#, r#""label": NaN"#, &["`label`", "expected valid JSON"]),
        record(r#""label": 1"#, r#""label": 2"#, &["`label`: expected 0 or 1, found 2"]),
        record(r#""label": 1"#, r#""label": 1e999"#, &["`label`", "number out of range"]),
        record(r#""label": 1"#, r#""label": "1""#, &["`label`: expected 0 or 1, found string"]),
        record(r#", "label": 1"#, "", &["`label`: expected this key in every record"]),
        record("[[0, 1]]", "[[0, 2]]", &["`edge_index[0]`", "there is no node 2", "on_bad_edge: Drop"]),
        record("[[0, 1]]", "[[0, -1]]", &["`edge_index[0]`", "there is no node -1"]),
        record("[[0, 1]]", "[[0, 1], [1]]", &["`edge_index[1]`", "a list of 1", "not two rows of ids"]),
        record("[[0, 1]]", "[[0, 99999999999999999999]]", &["`edge_index[0]`", "a whole number of 64 bits"]),
        record("[[0, 1]]", "{}", &["`edge_index`: expected a list of pairs"]),
        record(r#""task": "t""#, r#""task": "t", "task": "u""#, &["`task`: expected each key once"]),
        record(
            r#"{"0": "plan", "1": "solve"}"#,
            r#"{"0": "plan", "0": "solve"}"#,
            &["`nodes.0`: expected each key once"],
        ),
        record(
            r#"{"0": "plan", "1": "solve"}"#,
            r#"["plan", "solve"]"#,
            &["`nodes`: expected an object from node ids"],
        ),
        record(r#""1": "solve""#, r#""-1": "solve""#, &["`nodes.-1`: expected a node id", "number the nodes from 0"]),
        record(r#""1": "solve""#, r#""1": null"#, &["`nodes.1`", "expected a string"]),
        record(r#""workflow_id": 3"#, r#""workflow_id": 3.5"#, &["`workflow_id`: expected a whole number"]),
        record("{\"nodes\"", "[{\"nodes\"", &["expected one JSON object a line"]),
        record("4}", "4} {}", &["trailing characters"]),
        file("deep", &["flora/train.jsonl:1", "`edge_index[0]`", "expected a whole number"], |train| {
            let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
            fs::write(train, RECORD.replacen("[[0, 1]]", &deep, 1)).unwrap();
        }),
        file("cut off", &["flora/train.jsonl:96:", "the line is cut off"], |train| {
            cut(train, fs::metadata(train).unwrap().len() as usize - 40);
        }),
        file("a huge line", &["flora/train.jsonl:2", "at most 16777216 bytes"], |train| {
            fs::write(train, format!("{RECORD}\n{}", " x".repeat(9 << 20))).unwrap();
        }),
        file("not UTF-8", &["flora/train.jsonl:1", "0xFF", "save the file as UTF-8"], |train| {
            fs::write(train, [RECORD.as_bytes(), b"\xff"].concat()).unwrap();
        }),
        file("another format", &["flora/train.jsonl:1", "expected valid JSON"], |train| {
            fs::write(train, "PK\u{3}\u{4}\0\0\0\0\n").unwrap();
        }),
        file("empty", &["/flora", "no usable record", "`train`"], |train| fs::write(train, "").unwrap()),
        file("no nodes anywhere", &["/flora", "no usable record", "`train`"], |train| {
            let bare = RECORD.replacen(r#"{"0": "plan", "1": "solve"}"#, "{}", 1).replacen("[[0, 1]]", "[]", 1);
            fs::write(train, bare).unwrap();
        }),
        // Without `train.jsonl`, its shards are read.
        file("a damaged shard", &["flora/train_10.jsonl:1", "expected valid JSON"], |train| {
            fs::rename(train, train.with_file_name("train_2.jsonl")).unwrap();
            fs::write(train.with_file_name("train_10.jsonl"), "x").unwrap();
        }),
    ]);
}

/// A conversation without a fault.
const CHAT: &str = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;

/// Fine-tunes on a file of conversations.
fn tune(bench: &Bench, chats: &Path, model: &Path, more: &str) -> Vec<OsString> {
    let recipe = format!(
        "Recipe(name: \"data\", runs: {:?}, models: {{\"llm\": Path({model:?})}}, data: {{\"chats\": Chat({chats:?})}},\n\
         stages: [Sft(model: Model(\"llm\"), data: Data(\"chats\"), epochs: 1, sequences_per_step: 1, {more} optim: AdamW(lr: 1e-3))])",
        bench.output("runs"),
    );
    arguments!["run", &bench.write("r.ron", recipe), "--device", &cpu()]
}

/// A file of conversations that cannot be learned from.
fn chats(name: &str, words: &[&str], content: impl AsRef<[u8]> + Sync + 'static) -> Case {
    Case::new(name, 1, words, move |bench| tune(bench, &bench.write("c.jsonl", &content), &bench.world.decoder(), ""))
}

/// A file whose second conversation has a part replaced.
fn chat(from: &str, to: &str, words: &[&str]) -> Case {
    let mut all = vec!["c.jsonl:2"];
    all.extend(words);
    assert!(CHAT.contains(from));
    chats(&format!("{from} → {to}"), &all, format!("{CHAT}\n{}\n", CHAT.replacen(from, to, 1)))
}

#[test]
fn conversations() {
    refused(vec![
        chat("\"user\"", "\"robot\"", &["`messages[0].role`", "system, developer, user, assistant, tool", "\"robot\""]),
        chat("\"role\": \"user\", ", "", &["`messages[0].role`", "found none"]),
        chat("\"content\": \"a\"", "\"content\": 5", &["`messages[1].content`: expected a string, found the number 5"]),
        chat("\"content\": \"a\"", "\"content\": null", &["`messages[1].content`", "found null"]),
        chat(", {\"role\": \"assistant\", \"content\": \"a\"}", "", &["no message is the assistant's"]),
        chat(
            "\"content\": \"q\"",
            "\"content\": \"q\", \"tool_calls\": [{}]",
            &["tool_calls", "only the assistant calls"],
        ),
        chat("\"content\": \"q\"", "\"content\": \"q\", \"content\": \"r\"", &["expected each key once"]),
        chats("no messages", &["c.jsonl:1", "at least one message"], r#"{"messages": []}"#),
        chats("not a list", &["c.jsonl:1", "expected a list of messages"], r#"{"messages": {"role": "user"}}"#),
        // The keys of the first record are looked at before anything starts.
        Case::new("another key", 2, &["c.jsonl:1", "`messages`", "a line looks like"], |bench| {
            tune(bench, &bench.write("c.jsonl", r#"{"prompt": "q"}"#), &bench.world.decoder(), "")
        }),
        chats("cut off", &["c.jsonl:1:", "the line is cut off"], &CHAT[..50]),
        chats("not UTF-8", &["c.jsonl:1", "0xC3"], b"{\"messages\": \"\xc3\x28\"}"),
        chats("empty", &["c.jsonl", "no usable record"], ""),
        Case::new("all too long", 1, &["c.jsonl", "1 of them longer than 4 tokens"], |bench| {
            tune(bench, &bench.write("c.jsonl", CHAT), &bench.world.decoder(), "max_length: 4,")
        }),
        Case::new("a template that refuses", 1, &["c.jsonl:1", "rejects this conversation", "never"], |bench| {
            let model = bench.copy(&bench.world.decoder(), "llm");
            fs::write(model.join("chat_template.jinja"), "{{ raise_exception('never') }}").unwrap();
            tune(bench, &bench.write("c.jsonl", CHAT), &model, "framing: Template,")
        }),
    ]);
}
