//! `hearth generate` and `hearth chat`, through the program.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use burn::module::Param;
use burn_lora::{LoraConfig, Projections};
use burn_models::text::{ChatOptions, Message, Tokenizer};
use hearth_tests::program::{Finished, Program, cpu};
use hearth_tests::{json_lines, max_abs};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::commands::decoder;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// A model that says next to anything, in a folder of its own.
struct World {
    folder: TempDir,
    tokenizer: Tokenizer,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (_, tokenizer) = decoder(&folder.path().join("model"), 3);
        Self { folder, tokenizer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn generate(&self, rows: &[Value], more: &[&str]) -> Finished {
        let (model, output) = (self.path("model"), self.path("out.jsonl"));
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let device = cpu();
        let pairs = [
            ("--model", model.to_str().unwrap()),
            ("--input", "-"),
            ("--output", output.to_str().unwrap()),
            ("--device", &device),
            ("--max-new-tokens", "12"),
        ];
        let pairs = pairs.iter().filter(|(name, _)| !more.contains(name)).flat_map(|(name, value)| [*name, *value]);
        let all = std::iter::once("generate").chain(pairs).map(OsString::from);
        HEARTH.feed(all.chain(more.iter().map(Into::into)), &lines)
    }

    fn answers(&self, rows: &[Value], more: &[&str]) -> Vec<Value> {
        self.generate(rows, more).expect_code(0);
        json_lines(&self.path("out.jsonl"))
    }

    fn chat(&self, model: &Path, more: &[&str]) -> Vec<OsString> {
        let words = ["chat".into(), model.into(), "--device".into(), cpu().into()];
        words.into_iter().chain(more.iter().map(OsString::from)).collect()
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

#[test]
fn rows_have_settings_of_their_own() {
    let world = World::new();
    let row = |more: Value| {
        let mut row = json!({ "prompt": "Plan the steps" });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let rows = [
        row(json!({})),
        row(json!({ "n": 3, "temperature": 1.5 })),
        row(json!({ "temperature": 1.5, "seed": 9, "max_new_tokens": 4 })),
        row(json!({ "temperature": 1.5, "seed": 9, "max_new_tokens": 8, "n": null })),
        row(json!({ "choices": ["Yes", "No", "a step"] })),
    ];
    let found = world.answers(&rows, &["--batch-size", "2", "--ignore-eos"]);
    // A row for each answer, in order, and all of them with the same columns.
    let samples: Vec<&Value> = found.iter().map(|row| &row["sample"]).collect();
    assert_eq!(samples, [&json!(0), &json!(0), &json!(1), &json!(2), &json!(0), &json!(0), &json!(0)]);
    let keys: Vec<&String> = found[1].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["prompt", "n", "temperature", "sample", "output_ids", "text", "logprobs", "finish_reason"]);
    let ids = |at: usize| found[at]["output_ids"].as_array().unwrap().clone();
    assert!(ids(1) != ids(2) && ids(2) != ids(3) && ids(1) != ids(3), "samples are the same");
    // The seed of a row decides, and nothing else: the shorter answer is the beginning of the longer one.
    assert_eq!((ids(4).len(), &ids(5)[..4]), (4, &ids(4)[..]));
    let (choice, text) = (found[6]["choice"].as_str().unwrap(), found[6]["text"].as_str().unwrap());
    assert_eq!((choice, found[6]["finish_reason"].as_str()), (text, Some("stop")));
    assert!(["Yes", "No", "a step"].contains(&choice));

    // By itself, a row gets the same answers, and the first of many is the only one.
    let alone = world.answers(&rows[..1], &["--batch-size", "1", "--ignore-eos"]);
    assert!(alone[0].get("sample").is_none());
    assert_eq!(alone[0]["output_ids"], found[0]["output_ids"]);
    let one = [rows[0].clone(), row(json!({ "temperature": 1.5 }))];
    assert_eq!(world.answers(&one, &["--ignore-eos"])[1]["output_ids"], found[1]["output_ids"]);
    assert_eq!(world.answers(&one, &["--ignore-eos", "--n", "2"])[3]["output_ids"], found[2]["output_ids"]);
}

#[test]
fn arguments_hold_for_all_rows() {
    let world = World::new();
    let rows: Vec<Value> = (0..5).map(|i| json!({ "prompt": format!("Step {i} of the plan") })).collect();
    let free = world.answers(&rows, &["--ignore-eos"]);
    let said: Vec<&str> = free.iter().map(|row| row["text"].as_str().unwrap()).collect();
    // Two characters of the first answer, wherever they stand in the others.
    let places: Vec<usize> = said[0].char_indices().map(|(place, _)| place).collect();
    let stop = &said[0][places[places.len() / 2]..places[places.len() / 2 + 2]];
    let stopped = world.answers(&rows, &["--ignore-eos", "--stop", "never said", "--stop", stop]);
    for (row, said) in stopped.iter().zip(&said) {
        let reason = if said.contains(stop) { "stop" } else { "length" };
        assert_eq!((row["text"].as_str(), &row["finish_reason"]), (said.split(stop).next(), &json!(reason)));
    }
    assert!(stopped[0]["output_ids"].as_array().unwrap().len() < 12);

    let chosen = world.answers(&rows, &["--choices", "Yes,No", "--n", "2", "--temperature", "2"]);
    for row in &chosen {
        let choice = row["choice"].as_str().unwrap();
        assert!(["Yes", "No"].contains(&choice) && row["text"] == choice, "{row}");
        assert_eq!(row["choice_logprobs"].as_array().unwrap().len(), 2);
    }
    // What is likelier than the likeliest is nothing: as without temperature.
    let narrow = world.answers(&rows, &["--ignore-eos", "--temperature", "3", "--min-p", "1"]);
    for (narrow, free) in narrow.iter().zip(&free) {
        assert_eq!(narrow["output_ids"], free["output_ids"]);
        assert!(max_abs(&numbers(&narrow["logprobs"]), &numbers(&free["logprobs"])) < 1e-4);
    }
    let other = world.answers(&rows, &["--ignore-eos", "--repetition-penalty", "4"]);
    let repeats = |rows: &[Value]| -> usize {
        rows.iter()
            .map(|row| {
                let ids = row["output_ids"].as_array().unwrap();
                ids.len() - ids.iter().map(Value::to_string).collect::<std::collections::BTreeSet<_>>().len()
            })
            .sum()
    };
    assert!(repeats(&other) <= repeats(&free), "the penalty makes answers repeat themselves");
}

#[test]
fn answers_are_shown_while_they_are_written() {
    let world = World::new();
    let rows: Vec<Value> = (0..3).map(|i| json!({ "prompt": format!("Step {i}"), "temperature": 1.2 })).collect();
    let shown = world.generate(&rows, &["--stream", "--n", "2", "--batch-size", "4"]).expect_code(0);
    let found = json_lines(&world.path("out.jsonl"));
    assert_eq!(found.len(), 6);
    let mut rest = shown.stdout.as_str();
    for (i, row) in found.iter().enumerate() {
        let head = format!("── row {}, answer {} ──\n", i / 2 + 1, i % 2 + 1);
        rest = rest.strip_prefix(&head).unwrap_or_else(|| panic!("{head:?} is not the beginning of {rest:?}"));
        let text = row["text"].as_str().unwrap();
        // Control characters are shown as escapes.
        let plain = |c: char| c == '\n' || c == '\t' || !c.is_control();
        if text.chars().all(plain) {
            rest = rest.strip_prefix(&format!("{text}\n")).unwrap_or_else(|| panic!("{text:?} is not shown: {rest:?}"));
        } else {
            rest = &rest[rest.find("── row").unwrap_or(rest.len())..];
        }
    }
    assert_eq!(rest, "");
    assert!(shown.words().contains("6 answers:") && shown.words().contains("new tokens/s"), "{}", shown.stderr);
    let refused = world.generate(&rows, &["--stream", "--output", "-"]);
    assert!(refused.expect_code(2).words().contains("give --output the name of a file"));
}

#[test]
fn settings_that_cannot_be() {
    let world = World::new();
    let rows = [json!({ "prompt": "a" })];
    for (words, expected) in [
        (&["--min-p", "2"][..], "a number from 0 to 1"),
        (&["--repetition-penalty", "0"], "a positive number"),
        (&["--n", "0"], "a number from 1 to 65536"),
        (&["--batch-size", "0"], "a number from 1 on"),
        (&["--stop", ""], "a text that is not empty"),
        (&["--stop", "a", "--choices", "b"], "cannot be used with"),
        (&["--top-p", "0"], "a number above 0 and up to 1"),
    ] {
        let said = world.generate(&rows, words).expect_code(2).words();
        assert!(said.contains(expected), "{words:?}: {said}");
    }
    let said = world.generate(&rows, &["--choices", "Yes,Yes"]).expect_code(1).words();
    assert!(said.contains("`choices`") && said.contains("choices 0 and 1 are the same"), "{said}");
}

#[test]
fn a_conversation_through_a_pipe() {
    let world = World::new();
    let saved = world.path("saved.jsonl");
    let input = format!("How many steps?\nAnd the first one?\n/save {}\n", saved.display());
    let arguments =
        world.chat(&world.path("model"), &["--system", "Plan.", "--max-new-tokens", "9", "--temperature", "0"]);
    let first = HEARTH.feed(&arguments, &input).expect_code(0);
    let rows = json_lines(&saved);
    assert_eq!(rows.len(), 1);
    let messages: Vec<Message> = serde_json::from_value(rows[0]["messages"].clone()).unwrap();
    let roles: Vec<&str> = messages.iter().map(Message::role).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(messages[3].text(), Some("And the first one?"));
    let shown = |text: &str| -> String {
        text.chars()
            .map(
                |c| if c.is_control() && c != '\n' && c != '\t' { c.escape_unicode().collect() } else { c.to_string() },
            )
            .collect()
    };
    let replies: String = [2, 4].map(|i| shown(messages[i].text().unwrap()) + "\n").concat();
    assert_eq!(first.stdout, replies);

    // What `generate` answers to the same chat.
    let chat = json!({ "messages": messages[..4] });
    let other = world.answers(&[chat], &["--max-new-tokens", "9"]);
    assert_eq!(other[0]["text"].as_str(), messages[4].text());

    // Of the second prompt only what is new was computed.
    let verbose: Vec<OsString> = arguments.iter().cloned().chain(["--verbose".into()]).collect();
    let told = HEARTH.feed(verbose, &input).expect_code(0);
    let counts: Vec<(usize, usize)> = told
        .stderr
        .lines()
        .filter_map(|line| line.split_once(" prompt tokens computed")?.0.split_once(" of "))
        .map(|(computed, all)| (computed.rsplit(' ').next().unwrap().parse().unwrap(), all.parse().unwrap()))
        .collect();
    let length =
        |messages: &[Message]| world.tokenizer.encode_chat(messages, None, &ChatOptions::prompt()).unwrap().len();
    assert_eq!(counts.len(), 2, "{}", told.stderr);
    assert_eq!(counts[0], (length(&messages[..2]), length(&messages[..2])));
    assert_eq!(counts[1].1, length(&messages[..4]));
    assert!(counts[1].0 + length(&messages[..2]) - 1 <= counts[1].1, "nothing was kept: {counts:?}");

    // Taken back, the same question gets the same reply; a new conversation knows nothing of the old one.
    let again = format!(
        "How many steps?\nSomething else\n/undo\nAnd the first one?\n/save {0}\n/reset\n/system\nHow many steps?\n/save {0}.2\n/quit\nnever\n",
        saved.display()
    );
    HEARTH.feed(&arguments, &again).expect_code(0);
    assert_eq!(json_lines(&saved), rows);
    let fresh = json_lines(&world.path("saved.jsonl.2"));
    assert_eq!(fresh[0]["messages"].as_array().unwrap().len(), 2);
    let alone = world.answers(&[json!({ "messages": [fresh[0]["messages"][0]] })], &["--max-new-tokens", "9"]);
    assert_eq!(alone[0]["text"], fresh[0]["messages"][1]["content"]);
}

#[test]
fn what_a_conversation_refuses() {
    let world = World::new();
    let model = world.path("model");
    for (input, expected) in [
        ("/unknown\n", "there is no command /unknown"),
        ("/save\n", "/save needs the name of a file"),
        ("/save /\n", "/"),
    ] {
        let said = HEARTH.feed(world.chat(&model, &[]), input).expect_code(1).words();
        assert!(said.contains(expected), "{input:?}: {said}");
    }
    let long = "step ".repeat(40_000);
    let said = HEARTH.feed(world.chat(&model, &[]), &long).expect_code(1).words();
    assert!(said.contains("8192 positions: /reset or /undo"), "{said}");
    let said = HEARTH.feed(world.chat(&world.path("nothing"), &[]), "").expect_code(1).words();
    assert!(said.contains("there is no model here"), "{said}");
    let help = HEARTH.feed(world.chat(&model, &[]), "/help\n\n").expect_code(0);
    assert!(["/reset", "/system", "/undo", "/save", "/quit"].iter().all(|name| help.stdout.contains(name)));
}

#[test]
fn models_are_found_in_runs() {
    let world = World::new();
    let said = |model: &Path, more: &[&str]| {
        let all: Vec<&str> = ["--max-new-tokens", "6", "--temperature", "0"].iter().chain(more).copied().collect();
        HEARTH.feed(world.chat(model, &all), "How many?\n")
    };
    let base = world.path("model");
    let plain = said(&base, &[]).expect_code(0).stdout;
    // A run whose last finished stage has an adapter of this base.
    let stages = world.path("run/stages");
    let adapter = stages.join("02-sft/adapter");
    fs::create_dir_all(&adapter).unwrap();
    let (model, _) = decoder(&world.path("same"), 3);
    let mut model = model.attach_lora(&LoraConfig::default(), 5).unwrap();
    for (_, linear) in model.projections_mut() {
        // One that says something else.
        let adapter = linear.lora.as_mut().unwrap();
        adapter.lora_b = Param::from_tensor(adapter.lora_b.val().add_scalar(0.5));
    }
    model.save_adapter(&adapter, Some(base.to_str().unwrap())).unwrap();
    for stage in ["01-questions", "02-sft", "10-later"] {
        fs::create_dir_all(stages.join(stage)).unwrap();
        fs::write(stages.join(stage).join("manifest.json"), "{}").unwrap();
    }
    let adapted = said(&base, &["--adapter", adapter.to_str().unwrap()]).expect_code(0).stdout;
    assert_ne!(adapted, plain);
    for folder in [world.path("run"), stages.join("02-sft"), adapter.clone()] {
        assert_eq!(said(&folder, &[]).expect_code(0).stdout, adapted, "{}", folder.display());
    }
    fs::create_dir_all(stages.join("03-merge")).unwrap();
    fs::rename(world.path("same"), stages.join("03-merge/model")).unwrap();
    // Not finished: passed over. Then it is the last one.
    assert_eq!(said(&world.path("run"), &[]).expect_code(0).stdout, adapted);
    fs::write(stages.join("03-merge/manifest.json"), "{}").unwrap();
    assert_eq!(said(&world.path("run"), &[]).expect_code(0).stdout, plain);
    // A base that is gone.
    fs::rename(&base, world.path("moved")).unwrap();
    let words = said(&adapter, &[]).expect_code(1).words();
    assert!(words.contains("base_model_name_or_path") && words.contains("give the base, and --adapter"), "{words}");
    let given = said(&world.path("moved"), &["--adapter", adapter.to_str().unwrap()]);
    assert_eq!(given.expect_code(0).stdout, adapted);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_reply_and_then_the_program() {
    let world = World::new();
    let model = world.path("model");
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    // A model that never ends by itself.
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["eos_token_id"] = json!([]);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    for name in ["generation_config.json", "tokenizer_config.json"] {
        let _ = fs::remove_file(model.join(name));
    }
    let saved = world.path("saved.jsonl");
    let shown = world.path("shown");
    let mut command = HEARTH.command(world.chat(&model, &["--max-new-tokens", "30000"]));
    // Both streams of the running program go to files; this one says when a reply has begun.
    command.stdin(Stdio::piped());
    let mut child = command.stdout(fs::File::create(&shown).unwrap()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let clock = Instant::now();
    let wait = |what: &dyn Fn() -> bool| {
        while !what() {
            assert!(clock.elapsed() < Duration::from_secs(60), "nothing happens");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let signal = |child: &std::process::Child| {
        rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::INT).unwrap();
    };
    stdin.write_all(b"Begin\n").unwrap();
    // Thousands of tokens are to come.
    wait(&|| fs::metadata(&shown).is_ok_and(|meta| meta.len() > 20));
    signal(&child);
    stdin.write_all(format!("/save {}\n", saved.display()).as_bytes()).unwrap();
    wait(&|| saved.exists());
    let messages = json_lines(&saved)[0]["messages"].clone();
    assert_eq!(messages.as_array().unwrap().len(), 2);
    assert!(!messages[1]["content"].as_str().unwrap().is_empty());
    // It waits for a message: now the same key ends it.
    signal(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
