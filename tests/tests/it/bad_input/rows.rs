//! Rows that commands read, as JSON lines and as Parquet.

use std::ffi::OsString;
use std::fs;

use hearth_tests::program::cpu;

use super::bench::{Bench, Case, arguments, cut, refused};

/// Gives a file to a command of the decoder's.
fn command(bench: &Bench, command: &str, name: &str, content: impl AsRef<[u8]>) -> Vec<OsString> {
    let (model, rows) = (bench.world.decoder(), bench.write(name, content));
    arguments![command, "--model", &model, "--input", &rows, "--output", &bench.output("o.jsonl"), "--device", &cpu()]
}

/// A row, on line 2, that `score` refuses.
fn score(row: &'static str, words: &[&str]) -> Case {
    let mut all = vec!["rows.jsonl:2"];
    all.extend(words);
    Case::new(&format!("score {row}"), 1, &all, move |bench| {
        command(bench, "score", "rows.jsonl", format!("{{\"input_ids\": [1, 2]}}\n{row}\n"))
    })
}

/// A row, on line 2, that `generate` refuses.
fn generate(row: &'static str, words: &[&str]) -> Case {
    let mut all = vec!["rows.jsonl:2"];
    all.extend(words);
    Case::new(&format!("generate {row}"), 1, &all, move |bench| {
        command(bench, "generate", "rows.jsonl", format!("{{\"prompt\": \"a\"}}\n{row}\n"))
    })
}

/// Any bytes for `score`.
fn bytes(name: &str, words: &[&str], content: impl Fn() -> Vec<u8> + Sync + 'static) -> Case {
    Case::new(name, 1, words, move |bench| command(bench, "score", "rows.jsonl", content()))
}

#[test]
fn rows_of_tokens_and_chats() {
    refused(vec![
        score(
            r#"{"input_ids": [1, 2048]}"#,
            &["`input_ids`", "token ids below 2048", "found 2048", "the tokenizer's model?"],
        ),
        score(r#"{"input_ids": [-1]}"#, &["`input_ids`", "found -1"]),
        score(r#"{"input_ids": [99999999999999999999]}"#, &["`input_ids`"]),
        score(r#"{"input_ids": [1.5]}"#, &["`input_ids`", "found 1.5"]),
        score(r#"{"input_ids": "1, 2"}"#, &["`input_ids`", "found a text"]),
        score(r#"{"input_ids": []}"#, &["1 to 32768 tokens, found 0", "nothing to begin with"]),
        score(r#"{"input_ids": [1, 2], "mask": [1]}"#, &["`mask`", "a list of 2 zeros and ones", "1 values"]),
        score(r#"{"input_ids": [1, 2], "mask": [1, 2]}"#, &["`mask`", "found 2"]),
        score(r#"{"text": "a"}"#, &["`messages` or `input_ids`", "neither"]),
        score(r#"{"messages": [{"role": "user", "content": "q"}]}"#, &["`messages`", "no message is the assistant's"]),
        score("[1, 2]", &["one JSON object a line", "a list of 2"]),
        score("null", &["one JSON object a line", "null"]),
        score(r#"{"input_ids": [1, 2"#, &["the line is cut off"]),
        score(r#"{"input_ids": [1], "input_ids": [2]}"#, &["`input_ids`: expected each key once"]),
        generate(r#"{"prompt": ""}"#, &["1 to 32767 tokens, found 0", "nothing to begin with"]),
        generate(r#"{"prompt": ["a"]}"#, &["`prompt`: expected a text, found a list"]),
        generate(r#"{"input_ids": [5000]}"#, &["`input_ids`", "token ids below 2048", "found 5000"]),
        generate(r#"{"messages": []}"#, &["`messages`: expected at least one message"]),
        generate(r#"{"messages": [{"role": "user", "content": 1}]}"#, &["`messages[0].content`: expected a string"]),
        generate("{}", &["`prompt`, `messages` or `input_ids`", "none of them"]),
        generate(
            r#"{"prompt": "a", "temperature": -1}"#,
            &["`temperature`: expected 0 or a positive number, found -1"],
        ),
        generate(r#"{"prompt": "a", "top_p": 0}"#, &["`top_p`", "above 0 and up to 1", "found 0"]),
        generate(r#"{"prompt": "a", "n": 0}"#, &["`n`: expected a whole number from 1 to 65536, found 0"]),
        generate(r#"{"prompt": "a", "max_new_tokens": "8"}"#, &["`max_new_tokens`", "found a text"]),
        generate(r#"{"prompt": "a", "stop": ["b", ""]}"#, &["`stop`", "none of them empty", "found a list"]),
        generate(r#"{"prompt": "a", "seed": 1.5}"#, &["`seed`", "found 1.5"]),
        generate(r#"{"prompt": "a", "choices": ["b", "b"]}"#, &["`choices`", "choices 0 and 1 are the same"]),
        generate(r#"{"prompt": "a", "choices": {"b": 1}}"#, &["`choices`", "found an object"]),
        bytes("not UTF-8", &["rows.jsonl:1", "0xFF", "save the file as UTF-8"], || b"{\"text\": \"\xff\"}".to_vec()),
        bytes("NUL bytes", &["rows.jsonl:1", "expected valid JSON"], || vec![0; 5000]),
        bytes("too deep", &["rows.jsonl:1", "recursion limit", "…"], || {
            format!("{{\"messages\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes()
        }),
        Case::new("a prompt that is too long", 1, &["rows.jsonl:1", "1 to 32767 tokens", "shorten it"], |bench| {
            command(bench, "generate", "rows.jsonl", format!("{{\"prompt\": \"{}\"}}", "a b ".repeat(50_000)))
        }),
        Case::new("no tokenizer for a prompt", 1, &["rows.jsonl:1", "give `input_ids`"], |bench| {
            let model = bench.copy(&bench.world.decoder(), "llm");
            fs::remove_file(model.join("tokenizer.json")).unwrap();
            let (rows, output) = (bench.write("rows.jsonl", "{\"prompt\": \"a\"}"), bench.output("o.jsonl"));
            arguments!["generate", "--model", &model, "--input", &rows, "--output", &output, "--device", &cpu()]
        }),
        Case::new("no tokenizer for choices", 1, &["rows.jsonl:1", "a tokenizer in the model's folder"], |bench| {
            let model = bench.copy(&bench.world.decoder(), "llm");
            fs::remove_file(model.join("tokenizer.json")).unwrap();
            let rows = bench.write("rows.jsonl", "{\"input_ids\": [5], \"choices\": [\"a\"]}");
            let output = bench.output("o.jsonl");
            arguments!["generate", "--model", &model, "--input", &rows, "--output", &output, "--device", &cpu()]
        }),
        Case::new("no input", 1, &["in/no.jsonl", "No such file"], |bench| {
            let (model, output) = (bench.world.decoder(), bench.output("o.jsonl"));
            arguments!["score", "--model", &model, "--input", &bench.input("no.jsonl"), "--output", &output]
        }),
        Case::new("a folder as input", 1, &["/in", "Is a directory"], |bench| {
            let (model, output) = (bench.world.decoder(), bench.output("o.jsonl"));
            arguments!["score", "--model", &model, "--input", &bench.input(""), "--output", &output]
        }),
    ]);
}

fn embed(bench: &Bench, name: &str, content: impl AsRef<[u8]>, output: &str) -> Vec<OsString> {
    let (model, rows) = (bench.world.encoder(), bench.write(name, content));
    arguments!["embed", "--model", &model, "--input", &rows, "--output", &bench.output(output), "--device", &cpu()]
}

/// A Parquet file of the program's own making, with a fault.
fn parquet(name: &str, spoil: impl Fn(&mut Vec<u8>) + Sync + 'static) -> Case {
    Case::new(name, 1, &["in/rows.parquet"], move |bench| {
        let texts: String = (0..200).map(|i| format!("{{\"text\": \"text number {i}\"}}\n")).collect();
        let made = bench.input("rows.parquet");
        let mut all = embed(bench, "texts.jsonl", texts, "o.jsonl");
        let output = all.iter().position(|argument| argument == "--output").unwrap() + 1;
        all[output] = made.clone().into();
        assert_eq!(bench.run(&all).code, Some(0));
        let mut bytes = fs::read(&made).unwrap();
        spoil(&mut bytes);
        embed(bench, "rows.parquet", bytes, "o.jsonl")
    })
}

#[test]
fn rows_of_texts() {
    refused(vec![
        Case::new("not a text", 1, &["rows.jsonl:2", "`text`: expected a text, found a number"], |bench| {
            embed(bench, "rows.jsonl", "{\"text\": \"a\"}\n{\"text\": 1}\n", "o.parquet")
        }),
        Case::new("no text", 1, &["rows.jsonl:1", "`text`: expected a text, found nothing"], |bench| {
            embed(bench, "rows.jsonl", "{\"task\": \"a\"}\n", "o.jsonl")
        }),
        Case::new("an empty text for a decoder", 1, &["rows.jsonl:1", "`text`", "found 0"], |bench| {
            command(bench, "embed", "rows.jsonl", "{\"text\": \"\"}\n")
        }),
        Case::new("hardly Parquet", 1, &["rows.parquet"], |bench| embed(bench, "rows.parquet", "PAR1PAR1", "o.jsonl")),
        Case::new("an absurd footer", 1, &["rows.parquet"], |bench| {
            embed(
                bench,
                "rows.parquet",
                [b"PAR1".as_slice(), &[7; 300], &u32::MAX.to_le_bytes(), b"PAR1"].concat(),
                "o.jsonl",
            )
        }),
        parquet("cut off", |bytes| bytes.truncate(300)),
        parquet("damaged pages", |bytes| bytes[4..400].iter_mut().for_each(|byte| *byte ^= 0x55)),
        parquet("a damaged footer", |bytes| {
            let end = bytes.len();
            bytes[end - 300..end - 20].iter_mut().for_each(|byte| *byte ^= 0x55);
        }),
        Case::new("no column of texts", 1, &["rows.parquet:1", "`text`"], |bench| {
            let ids = "{\"input_ids\": [1, 2]}\n";
            let mut all = command(bench, "score", "ids.jsonl", ids);
            let made = bench.input("rows.parquet");
            let output = all.iter().position(|argument| argument == "--output").unwrap() + 1;
            all[output] = made.clone().into();
            assert_eq!(bench.run(&all).code, Some(0));
            let bytes = fs::read(&made).unwrap();
            embed(bench, "rows.parquet", bytes, "o.jsonl")
        }),
        Case::new("a bad temperature", 2, &["--temperature", "expected 0 or a positive number"], |bench| {
            let mut all = command(bench, "generate", "rows.jsonl", "{\"prompt\": \"a\"}");
            all.extend(arguments!["--temperature", "nan"]);
            all
        }),
        Case::new("a bad probability", 2, &["--top-p", "above 0 and up to 1"], |bench| {
            let mut all = command(bench, "generate", "rows.jsonl", "{\"prompt\": \"a\"}");
            all.extend(arguments!["--top-p", "1.5"]);
            all
        }),
        Case::new("a bad pooling", 2, &["--pooling", "mean, last"], |bench| {
            let mut all = embed(bench, "rows.jsonl", "{\"text\": \"a\"}", "o.jsonl");
            all.extend(arguments!["--pooling", "max"]);
            all
        }),
    ]);
}

/// A file that ends in the middle of its last row is refused as a whole, whatever the rows before it gave.
#[test]
fn a_cut_file_gives_no_output() {
    let rows: String = (0..600).map(|i| format!("{{\"input_ids\": [{}, 2, 3]}}\n", i + 1)).collect();
    refused(vec![Case::new("cut off", 1, &["rows.jsonl:600", "the line is cut off"], move |bench| {
        let all = command(bench, "score", "rows.jsonl", &rows);
        cut(&bench.input("rows.jsonl"), rows.len() - 8);
        all
    })]);
}
