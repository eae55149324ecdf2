//! The commands that work on files of rows, through the program: against reference values where there are some, and their
//! rules about files everywhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use burn::tensor::{Device, FloatDType};
use burn_lora::LoraConfig;
use burn_models::decoder::{Decoder, DecoderConfig, Padded, SaveModel};
use burn_models::encoder::{BertConfig, SentenceEncoder, SentenceOptions};
use burn_models::text::{Builtin, Message, Specials, SuperviseOptions, Tokenizer};
use datasets::table::{RowWriter, read_rows};
use hearth_tests::program::{Finished, Program, Running, TinyRun, copy_folder, cpu, device_names, files};
use hearth_tests::{Tensors, assert_close, assert_l2, fixture_folders, fixtures, json, json_lines, list, values};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// Log-probabilities and logits: absolute.
const ABSOLUTE: f32 = 2e-4;
/// Losses: relative.
const LOSS: f64 = 1e-5;
/// Sentence vectors: absolute.
const EMBEDDING: f32 = 1e-5;

/// Arguments in pieces of several kinds.
macro_rules! arguments {
    ($($piece:expr),* $(,)?) => {
        [$(AsRef::<std::ffi::OsStr>::as_ref($piece).to_os_string()),*]
    };
}

/// A folder for a test's files.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes rows as JSON lines.
    fn rows(&self, name: &str, rows: &[Value]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, lines(rows)).unwrap();
        path
    }

    /// The names in the folder.
    fn names(&self) -> Vec<String> {
        files(self.0.path())
    }
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn parse(finished: &Finished) -> Vec<Value> {
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The numbers of a list; null stands for NaN.
fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap_or(f64::NAN) as f32).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// The rows of an integer matrix.
fn matrix(file: &Tensors, name: &str) -> Vec<Vec<i64>> {
    let (shape, values) = file.i64(name);
    values.chunks(shape[1]).map(<[i64]>::to_vec).collect()
}

/// The tokens of a padded batch without its padding.
fn unpadded(file: &Tensors, ids: &str, mask: &str) -> Vec<Vec<i64>> {
    let rows = matrix(file, ids).into_iter().zip(matrix(file, mask));
    rows.map(|(ids, mask)| ids.into_iter().zip(mask).filter(|(_, m)| *m == 1).map(|(id, _)| id).collect()).collect()
}

/// ln softmax(logits)[target] for rows of logits.
fn logprobs(logits: &[f32], targets: &[i64], vocabulary: usize) -> Vec<f32> {
    let one = |(logits, target): (&[f32], &i64)| {
        let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total: f64 = logits.iter().map(|l| (f64::from(*l) - top).exp()).sum();
        (f64::from(logits[*target as usize]) - top - total.ln()) as f32
    };
    logits.chunks(vocabulary).zip(targets).map(one).collect()
}

/// Folders with reference values of a decoder, and its float32 checkpoint.
fn decoders() -> Vec<(PathBuf, PathBuf, Tensors)> {
    let is_float32 = |dir: &PathBuf| {
        let config = dir.join("config.json");
        config.exists() && {
            let config = json(&config);
            let causal = config["architectures"][0].as_str().is_some_and(|class| class.ends_with("ForCausalLM"));
            let dtype = config.get("torch_dtype").or(config.get("dtype"));
            causal && dtype.is_some_and(|dtype| dtype == "float32")
        }
    };
    let checkpoint = |dir: &Path| list(dir).into_iter().find(is_float32);
    let keep = |dir: &Path| dir.join("expected.safetensors").exists() && checkpoint(dir).is_some();
    let case = |dir: PathBuf| {
        let (model, expected) = (checkpoint(&dir).unwrap(), Tensors::open(dir.join("expected.safetensors")));
        (dir, model, expected)
    };
    fixture_folders("decoders", keep).into_iter().map(case).collect()
}

/// Adapters with reference values, and the folders of their bases.
fn adapters() -> Vec<(PathBuf, PathBuf, Tensors)> {
    let Some(root) = fixtures("lora") else { return Vec::new() };
    let found = list(&root).into_iter().filter(|dir| dir.join("adapter_config.json").exists());
    found
        .map(|dir| {
            let base = json(&dir.join("adapter_config.json"))["base_model_name_or_path"].as_str().unwrap().to_string();
            let expected = Tensors::open(dir.join("expected.safetensors"));
            (dir, root.parent().unwrap().join(base), expected)
        })
        .collect()
}

/// A small decoder with the built-in tokenizer.
pub(crate) fn decoder(dir: &Path, seed: u64) -> (Decoder, Tokenizer) {
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let config = DecoderConfig {
        eos_token_id: tokenizer.eos_ids().to_vec(),
        pad_token_id: tokenizer.pad_id(),
        // Far from uniform, so that a wrong token shows.
        initializer_range: 0.3,
        ..hearth_tests::small_decoder(tokenizer.vocab_size())
    };
    let model = config.init(seed, FloatDType::F32, &Device::flex()).unwrap();
    model.save(dir, &SaveModel::default()).unwrap();
    tokenizer.save(dir).unwrap();
    (model, tokenizer)
}

#[test]
fn score_gives_the_reference_logprobs() {
    for (dir, model, expected) in decoders() {
        let vocabulary = *expected.shape("logits").last().unwrap();
        let (input, labels) = (matrix(&expected, "input_ids"), matrix(&expected, "loss.labels"));
        let side =
            ["pad_left", "pad_right"].into_iter().find(|side| expected.has(&format!("{side}.logits_valid"))).unwrap();
        let short = unpadded(&expected, &format!("{side}.input_ids"), &format!("{side}.attention_mask"));
        let long = matrix(&expected, "long.input_ids").remove(0);
        // Rows of many lengths in no order; what comes out is in the order of what went in.
        let mut rows = vec![json!({ "input_ids": long }), json!({ "input_ids": [1] })];
        let masks: Vec<Vec<u8>> = labels.iter().map(|row| row.iter().map(|l| u8::from(*l >= 0)).collect()).collect();
        rows.extend(input.iter().zip(&masks).map(|(ids, mask)| json!({ "input_ids": ids, "mask": mask })));
        rows.extend(short.iter().map(|ids| json!({ "input_ids": ids })));
        let scratch = Scratch::new();
        let file = scratch.rows("in.jsonl", &rows);
        for device in device_names() {
            let what = format!("{} on {device}", dir.display());
            let output = scratch.path("out.jsonl");
            HEARTH
                .ok(arguments!["score", "--model", &model, "--input", &file, "--output", &output, "--device", &device]);
            let found = json_lines(&output);
            assert_eq!(found.len(), rows.len(), "{what}");
            for (row, found) in rows.iter().zip(&found) {
                assert_eq!(
                    found.as_object().unwrap().keys().collect::<Vec<_>>(),
                    ["input_ids", "mask", "logprobs", "loss"]
                );
                assert_eq!(found["input_ids"], row["input_ids"], "{what}");
                let every = json!(vec![1; row["input_ids"].as_array().unwrap().len()]);
                assert_eq!(&found["mask"], row.get("mask").unwrap_or(&every), "{what}");
                assert_eq!(found["logprobs"][0], Value::Null, "{what}");
            }
            assert_eq!((&found[1]["logprobs"], &found[1]["loss"]), (&json!([null]), &Value::Null));

            // With labels: log-probabilities, and the loss over all rows from those of each.
            let got: Vec<f32> =
                found[2..][..input.len()].iter().flat_map(|row| numbers(&row["logprobs"])[1..].to_vec()).collect();
            assert_close(&format!("{what}: logprobs"), &got, &expected.f32("logprobs").1, ABSOLUTE);
            let counts = masks.iter().map(|mask| mask[1..].iter().map(|m| u32::from(*m)).sum::<u32>());
            let sum: f64 =
                found[2..].iter().zip(counts).map(|(row, n)| row["loss"].as_f64().unwrap() * f64::from(n)).sum();
            assert_l2(&format!("{what}: loss"), &[sum as f32], &expected.f32("loss.sum").1, LOSS);

            // Without padding, whatever stands beside them in a batch.
            let (mut logits, width) = (expected.f32(&format!("{side}.logits_valid")).1, vocabulary);
            for (ids, found) in short.iter().zip(&found[2 + input.len()..]) {
                let rest = logits.split_off(ids.len() * width);
                let want = logprobs(&logits, &ids[1..], width);
                let got = numbers(&found["logprobs"]);
                assert_close(&format!("{what}: padded"), &got[1..], &want, ABSOLUTE);
                let mean = -want.iter().map(|p| f64::from(*p)).sum::<f64>() / want.len() as f64;
                assert_l2(&what, &[found["loss"].as_f64().unwrap() as f32], &[mean as f32], 1e-4);
                logits = rest;
            }

            // Far from the start.
            let names = expected.names();
            let name = names.iter().find(|name| name.starts_with("long.logits_last")).unwrap();
            let (shape, logits) = expected.f32(name);
            let last = shape[1] - 1;
            let want = logprobs(&logits[..last * width], &long[long.len() - last..], width);
            let got = numbers(&found[0]["logprobs"]);
            assert_close(&format!("{what}: long"), &got[long.len() - last..], &want, ABSOLUTE);
        }
    }
}

#[test]
fn score_and_merge_with_the_reference_adapters() {
    for (adapter, base, expected) in adapters() {
        let vocabulary = *expected.shape("logits_adapter").last().unwrap();
        let (input, labels) = (matrix(&expected, "input_ids"), matrix(&expected, "labels"));
        let row = |(ids, labels): (&Vec<i64>, &Vec<i64>)| {
            let mask: Vec<bool> = labels.iter().map(|l| *l >= 0).collect();
            json!({ "input_ids": ids, "mask": mask })
        };
        let rows: Vec<Value> = input.iter().zip(&labels).map(row).collect();
        let logits = expected.f32("logits_adapter").1;
        let want: Vec<f32> = (input.iter().zip(logits.chunks(input[0].len() * vocabulary)))
            .flat_map(|(ids, logits)| logprobs(logits, &ids[1..], vocabulary))
            .collect();
        let scratch = Scratch::new();
        let file = scratch.rows("in.jsonl", &rows);
        for device in device_names() {
            let what = format!("{} on {device}", adapter.display());
            let score = |model: &Path, more: &[&Path]| {
                let mut all =
                    arguments!["score", "--model", model, "--input", &file, "--output", "-", "--device", &device]
                        .to_vec();
                if let [adapter] = more {
                    all.extend(arguments!["--adapter", *adapter]);
                }
                parse(&HEARTH.ok(all))
            };
            let all = |rows: &[Value]| {
                rows.iter().flat_map(|row| numbers(&row["logprobs"])[1..].to_vec()).collect::<Vec<_>>()
            };
            let adapted = score(&base, &[&adapter]);
            assert_close(&format!("{what}: logprobs"), &all(&adapted), &want, ABSOLUTE);
            let counts: Vec<f64> = labels.iter().map(|l| l[1..].iter().filter(|l| **l >= 0).count() as f64).collect();
            let sum: f64 = adapted.iter().zip(&counts).map(|(row, n)| row["loss"].as_f64().unwrap() * n).sum();
            let loss = sum / counts.iter().sum::<f64>();
            assert_l2(&format!("{what}: loss"), &[loss as f32], &expected.f32("loss").1, LOSS);
            let plain = all(&score(&base, &[]));
            assert!(hearth_tests::max_abs(&plain, &want) > 0.1, "{what}: the adapter makes no difference");

            // Merged: the same without the adapter, and a folder that stands alone.
            let merged = scratch.path(&format!("merged-{device}"));
            let said = HEARTH.ok(arguments![
                "lora",
                "merge",
                "--base",
                &base,
                "--adapter",
                &adapter,
                "--output",
                &merged,
                "--device",
                &device
            ]);
            assert!(said.stderr.contains("largest difference of a logit"), "{}", said.stderr);
            assert_close(&format!("{what}: merged"), &all(&score(&merged, &[])), &all(&adapted), ABSOLUTE);
            let names =
                |dir: &Path| list(dir).iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_string()).collect();
            let (has, base_has): (BTreeSet<String>, BTreeSet<String>) = (names(&merged), names(&base));
            let missing: Vec<_> = base_has.difference(&has).collect();
            assert!(missing.is_empty(), "{what}: {missing:?} of the base are not there");
            assert!(has.iter().all(|name| !name.starts_with('.')), "{what}: {has:?}");
            for name in base_has.iter().filter(|name| name.contains("token") || name.contains("merges")) {
                assert_eq!(fs::read(merged.join(name)).unwrap(), fs::read(base.join(name)).unwrap(), "{what}: {name}");
            }
            let tensors = |dir: &Path| Tensors::open(dir.join("model.safetensors"));
            assert_eq!(tensors(&merged).names(), tensors(&base).names(), "{what}");
        }
    }
}

#[test]
fn score_writes_chats_as_they_are_trained_on() {
    let scratch = Scratch::new();
    let model = scratch.path("model");
    let (_, tokenizer) = decoder(&model, 1);
    let messages = [
        Message::user("How many steps?"),
        Message::assistant("Three <|im_end|> of them."),
        Message::user("And now?"),
        Message::assistant("None."),
    ];
    let chat = tokenizer.supervised_chat(&messages, None, &SuperviseOptions::default()).unwrap();
    let mask: Vec<u8> = chat.mask().iter().map(|on| u8::from(*on)).collect();
    assert!(mask.contains(&0) && mask.contains(&1));
    let rows = [json!({ "messages": messages }), json!({ "input_ids": chat.ids, "mask": mask })];
    let file = scratch.rows("in.jsonl", &rows);
    let found = parse(&HEARTH.ok(arguments!["score", "--model", &model, "--input", &file, "--output", "-"]));
    assert_eq!((&found[0]["input_ids"], &found[0]["mask"]), (&json!(chat.ids), &json!(mask)));
    assert_eq!(found[0], found[1]);
    let logprobs = numbers(&found[0]["logprobs"]);
    let learned: Vec<f64> =
        logprobs.iter().zip(chat.mask()).skip(1).filter(|(_, on)| *on).map(|(p, _)| f64::from(*p)).collect();
    let mean = -learned.iter().sum::<f64>() / learned.len() as f64;
    assert!((found[0]["loss"].as_f64().unwrap() - mean).abs() < 1e-6);
}

#[test]
fn generate_gives_the_reference_tokens() {
    for (dir, model, expected) in decoders() {
        let prompts = matrix(&expected, "greedy.prompt_ids");
        let cut = unpadded(&expected, "greedy_leftpad.prompt_ids", "greedy_leftpad.attention_mask");
        let start = prompts[0].len();
        let answers =
            |name: &str| matrix(&expected, name).into_iter().map(|row| row[start..].to_vec()).collect::<Vec<_>>();
        let all = prompts.iter().chain(&cut);
        let rows: Vec<Value> =
            all.enumerate().map(|(i, ids)| json!({ "id": i, "input_ids": ids, "note": "kept" })).collect();
        let want = [answers("greedy.output_ids"), answers("greedy_leftpad.output_ids")].concat();
        let count = want[0].len();
        let has_tokenizer = model.join("tokenizer.json").exists();

        // The same model with another end-of-turn token.
        let eos = expected.i64("greedy_eos.eos_id").1[0];
        let scratch = Scratch::new();
        let ending = scratch.path("ending");
        copy_folder(&model, &ending);
        for name in ["config.json", "generation_config.json"] {
            let path = ending.join(name);
            if path.exists() {
                let mut config = json(&path);
                config["eos_token_id"] = json!(eos);
                fs::write(&path, config.to_string()).unwrap();
            }
        }
        let until = |row: Vec<i64>| {
            let end = row.iter().position(|id| *id == eos).map_or(row.len(), |at| at + 1);
            row[..end].to_vec()
        };
        let ended: Vec<Vec<i64>> = answers("greedy_eos.output_ids").into_iter().map(until).collect();

        for device in device_names() {
            let what = format!("{} on {device}", dir.display());
            let count = count.to_string();
            let generate = |model: &Path, more: &[&str], rows: &[Value]| {
                let mut all =
                    arguments!["generate", "--model", model, "--input", "-", "--output", "-", "--device", &device]
                        .to_vec();
                all.extend(arguments!["--max-new-tokens", &count]);
                all.extend(more.iter().map(Into::into));
                parse(&HEARTH.feed(all, &lines(rows)).expect_code(0))
            };
            let found = generate(&model, &["--ignore-eos"], &rows);
            assert_eq!(found.len(), rows.len(), "{what}");
            for ((row, found), want) in rows.iter().zip(&found).zip(&want) {
                let keys = ["id", "input_ids", "note", "output_ids", "text", "logprobs", "finish_reason"];
                assert_eq!(found.as_object().unwrap().keys().collect::<Vec<_>>(), keys, "{what}");
                assert_eq!((&found["id"], &found["input_ids"]), (&row["id"], &row["input_ids"]), "{what}");
                assert_eq!(found["output_ids"], json!(want), "{what}");
                assert_eq!(found["finish_reason"], "length", "{what}");
                assert_eq!(found["text"].is_string(), has_tokenizer, "{what}: {}", found["text"]);
            }

            // What was recorded while generating is what scoring finds.
            let whole = |row: &Value| {
                let all = [ids(&row["input_ids"]), ids(&row["output_ids"])].concat();
                json!({ "input_ids": all })
            };
            let file = scratch.rows("whole.jsonl", &found.iter().map(whole).collect::<Vec<_>>());
            let scored =
                parse(&HEARTH.ok(arguments![
                    "score", "--model", &model, "--input", &file, "--output", "-", "--device", &device
                ]));
            for (found, scored) in found.iter().zip(&scored) {
                let (recorded, scored) = (numbers(&found["logprobs"]), numbers(&scored["logprobs"]));
                assert_close(&what, &recorded, &scored[scored.len() - recorded.len()..], ABSOLUTE);
            }

            // With an end: the answer stops with that token, and says so.
            let found = generate(&ending, &[], &rows[..prompts.len()]);
            for (found, want) in found.iter().zip(&ended) {
                assert_eq!(found["output_ids"], json!(want), "{what}");
                let reason = if want.last() == Some(&eos) { "stop" } else { "length" };
                assert_eq!(found["finish_reason"], reason, "{what}");
            }
            assert!(found.iter().any(|row| row["finish_reason"] == "stop"), "{what}: no answer ends early");
            let ignoring = generate(&ending, &["--ignore-eos"], &rows[..prompts.len()]);
            assert!(ignoring.iter().all(|row| row["finish_reason"] == "length"), "{what}");
        }
    }
}

#[test]
fn sampled_answers_depend_on_seed_and_line_only() {
    let scratch = Scratch::new();
    let model = scratch.path("model");
    let (_, tokenizer) = decoder(&model, 2);
    // More lines than one batch takes, of many lengths.
    let prompt = |i: usize| json!({ "prompt": format!("Step {i}:{}", " plan".repeat(i * 7 % 23)) });
    let rows: Vec<Value> = (0..40).map(prompt).collect();
    let generate = |rows: &[Value], seed: &str| {
        let settings = arguments!["--temperature", "1.3", "--top-p", "0.95", "--top-k", "200", "--seed", seed];
        let files =
            arguments!["generate", "--model", &model, "--input", "-", "--output", "-", "--max-new-tokens", "12"];
        parse(&HEARTH.feed(files.iter().chain(&settings), &lines(rows)).expect_code(0))
    };
    let answers = |found: &[Value]| found.iter().map(|row| ids(&row["output_ids"])).collect::<Vec<_>>();
    let found = generate(&rows, "7");
    let all = answers(&found);
    assert_eq!(generate(&rows, "7"), found);
    let other = answers(&generate(&rows, "8"));
    assert!(all.iter().zip(&other).filter(|(a, b)| a != b).count() > 30, "the seed makes no difference");
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 40, "lines share a random stream");
    // The first lines alone, and the same lines with others behind them: other batches, the same answers.
    assert_eq!(answers(&generate(&rows[..5], "7")), all[..5]);
    let replaced: Vec<Value> = (0..40).map(|i| if i < 20 { prompt(i) } else { json!({ "prompt": "x" }) }).collect();
    assert_eq!(answers(&generate(&replaced, "7"))[..20], all[..20]);

    for row in &found {
        let output = ids(&row["output_ids"]);
        assert_eq!(row["text"], tokenizer.decode(&output, true).unwrap());
        let stopped = tokenizer.eos_ids().contains(output.last().unwrap());
        assert_eq!(row["finish_reason"], if stopped { "stop" } else { "length" });
        assert!(stopped || output.len() == 12);
        assert!(numbers(&row["logprobs"]).iter().all(|p| *p < 0.0));
    }
}

#[test]
fn embed_gives_the_reference_vectors() {
    let keep = |dir: &Path| {
        ["expected.safetensors", "sentences.json", "model/tokenizer.json"].iter().all(|f| dir.join(f).exists())
    };
    for dir in fixture_folders("sentence encoders with a tokenizer", keep) {
        let texts = json(&dir.join("sentences.json"));
        let texts: Vec<&str> = texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        let (shape, want) = Tensors::open(dir.join("expected.safetensors")).f32("embeddings");
        let scratch = Scratch::new();
        let rows: Vec<Value> = texts.iter().map(|text| json!({ "text": text })).collect();
        let input = scratch.rows("in.jsonl", &rows);
        for device in device_names() {
            let what = format!("{} on {device}", dir.display());
            for output in ["out.jsonl", "out.parquet"] {
                let output = scratch.path(output);
                let model = dir.join("model");
                HEARTH.ok(arguments![
                    "embed", "--model", &model, "--input", &input, "--output", &output, "--device", &device
                ]);
                let found = embeddings(&output);
                assert_eq!(found.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), texts, "{what}");
                assert!(found.iter().all(|(_, vector)| vector.len() == shape[1]), "{what}");
                let got: Vec<f32> = found.into_iter().flat_map(|(_, vector)| vector).collect();
                assert_close(&what, &got, &want, EMBEDDING);
            }
        }
    }
}

/// The rows of a file that `embed` wrote.
fn embeddings(path: &Path) -> Vec<(String, Vec<f32>)> {
    let row = |map: Map<String, Value>| {
        assert_eq!(map.keys().collect::<Vec<_>>(), ["text", "embedding"]);
        (map["text"].as_str().unwrap().to_string(), numbers(&map["embedding"]))
    };
    read_rows(path).unwrap().map(|found| row(found.unwrap().map)).collect()
}

#[test]
fn embed_with_an_encoder_and_with_a_decoder() {
    let scratch = Scratch::new();
    let (decoder_dir, encoder_dir) = (scratch.path("decoder"), scratch.path("encoder"));
    let (decoder, tokenizer) = decoder(&decoder_dir, 3);
    let encoder_tokenizer = Tokenizer::builtin(Builtin::Encoder).unwrap();
    let config = BertConfig {
        vocab_size: encoder_tokenizer.vocab_size(),
        hidden_size: 24,
        intermediate_size: 48,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        pad_token_id: encoder_tokenizer.fill_id(),
        ..BertConfig::default()
    };
    let options = SentenceOptions { normalize: false, ..SentenceOptions::default() };
    let encoder = SentenceEncoder::init(&config, encoder_tokenizer, &options, 4, &Device::flex()).unwrap();
    encoder.save(&encoder_dir).unwrap();

    let texts =
        ["Plan the steps.", "a", "Plan the steps.", "Größe: 3 < 4 <|im_end|>", "one two three four five six seven"];
    let input = scratch.rows("in.jsonl", &texts.map(|text| json!({ "text": text, "more": 1 })));
    let table = scratch.path("in.parquet");
    let mut writer = RowWriter::create(&table).unwrap();
    texts.iter().for_each(|text| writer.write(&json!({ "text": text })).unwrap());
    writer.finish().unwrap();

    // The vectors one by one, by the library.
    let state = |text: &&str, mean: bool| -> Vec<f32> {
        let ids = tokenizer.encode_added(text, Specials::Plain).unwrap();
        let input = Padded::right(&[&ids], 0).unwrap().input(usize::MAX, &Device::flex()).unwrap();
        let hidden = values(decoder.forward_hidden(&input));
        let rows: Vec<&[f32]> = hidden.chunks(decoder.config().hidden_size).collect();
        if !mean {
            return rows.last().unwrap().to_vec();
        }
        (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i]).sum::<f32>() / rows.len() as f32).collect()
    };
    let unit = |vector: Vec<f32>| {
        let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        vector.into_iter().map(|v| (f64::from(v) / norm) as f32).collect::<Vec<f32>>()
    };
    let plain = |text: &&str| encoder.embed(&[text], 1000).unwrap().values;
    let last = |text: &&str| state(text, false);
    let mean = |text: &&str| state(text, true);
    type Vectors<'a> = &'a dyn Fn(&&str) -> Vec<f32>;
    let cases: [(&Path, &[&str], Vectors); 5] = [
        (&encoder_dir, &["--pooling", "mean"], &plain),
        (&encoder_dir, &["--normalize"], &|text| unit(plain(text))),
        (&decoder_dir, &[], &last),
        (&decoder_dir, &["--pooling", "mean"], &mean),
        (&decoder_dir, &["--normalize"], &|text| unit(last(text))),
    ];
    for (model, more, want) in cases {
        let mut outputs = Vec::new();
        for (input, output) in [(&input, "out.jsonl"), (&input, "out.parquet"), (&table, "table.jsonl")] {
            let output = scratch.path(output);
            let mut all = arguments!["embed", "--model", model, "--input", input, "--output", &output].to_vec();
            all.extend(more.iter().map(Into::into));
            HEARTH.ok(all);
            outputs.push(embeddings(&output));
        }
        assert_eq!(outputs[0], outputs[1], "JSON lines and Parquet hold the same");
        assert_eq!(outputs[0], outputs[2], "JSON lines and Parquet say the same");
        for (text, (found, vector)) in texts.iter().zip(&outputs[0]) {
            assert_eq!(found, text);
            assert_close(&format!("{} {more:?}: {text}", model.display()), vector, &want(text), EMBEDDING);
            let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            assert!(!more.contains(&"--normalize") || (norm - 1.0).abs() < 1e-5, "{norm}");
        }
    }
}

#[test]
fn predict_scores_as_the_evaluation_does() {
    let scratch = Scratch::new();
    let run = TinyRun::new(HEARTH, &scratch.path("runs"), &cpu());
    let test = run.path("sources/flora/test.jsonl");
    let predict = |more: &[&Path], input: &str| {
        let mut all = arguments!["glow", "predict", "--run", &run.folder(), "--device", &cpu()].to_vec();
        all.extend(arguments!["--input", more[0], "--output", more[1]]);
        HEARTH.feed(all, input)
    };
    let (stdin, stdout) = (Path::new("-"), Path::new("-"));

    // Before there is a predictor.
    run.ok(&["--only", "graph-questions"]);
    let refused = predict(&[&test, &scratch.path("none.jsonl")], "").expect_code(1);
    assert!(refused.words().contains("glow-train"), "{}", refused.stderr);
    assert!(!scratch.path("none.jsonl").exists());
    run.ok(&[]);

    let scored = json_lines(&run.path("stages/06-glow-eval/scores-best.jsonl"));
    let check = |found: &[Value], records: &[Value], want: &[Option<f64>]| {
        assert_eq!(found.len(), records.len());
        for ((found, record), want) in found.iter().zip(records).zip(want) {
            let mut rest = found.as_object().unwrap().clone();
            // What is added stands last; everything else is as it was given, in the same order.
            assert_eq!(rest.keys().next_back().unwrap(), "score");
            let score = rest.shift_remove("score").unwrap();
            assert_eq!(Value::Object(rest).to_string(), record.to_string());
            match want {
                Some(want) => assert!((score.as_f64().unwrap() - want).abs() < 1e-6, "{score} is not {want}"),
                None => assert_eq!(score, Value::Null),
            }
        }
    };
    let records = json_lines(&test);
    let want: Vec<Option<f64>> = scored.iter().map(|row| row["score"].as_f64()).collect();
    assert!(want.iter().collect::<Vec<_>>().len() == records.len() && want.iter().all(Option::is_some));
    let output = scratch.path("scores.jsonl");
    predict(&[&test, &output], "").expect_code(0);
    check(&json_lines(&output), &records, &want);

    // From the standard input: other keys, another order, no labels and ids, and workflows without nodes in between.
    let mut strange = Vec::new();
    let mut strange_want = Vec::new();
    for (i, record) in records.iter().enumerate().rev() {
        let mut map = Map::new();
        map.insert("z".into(), json!({ "b": [1.0, 1e300], "a": null }));
        for key in ["task", "edge_index", "nodes"] {
            map.insert(key.into(), record[key].clone());
        }
        map.insert("a".into(), json!("é\u{2028}"));
        strange.push(Value::Object(map.clone()));
        strange_want.push(want[i]);
        if i % 5 == 0 {
            map.insert("nodes".into(), json!({}));
            map.insert("edge_index".into(), json!([]));
            strange.push(Value::Object(map));
            strange_want.push(None);
        }
    }
    let found = predict(&[stdin, stdout], &lines(&strange)).expect_code(0);
    check(&parse(&found), &strange, &strange_want);
    // Nothing but such workflows, and nothing at all.
    let empty: Vec<Value> =
        strange.iter().filter(|row| row["nodes"].as_object().unwrap().is_empty()).cloned().collect();
    let found = predict(&[stdin, stdout], &lines(&empty)).expect_code(0);
    check(&parse(&found), &empty, &vec![None; empty.len()]);
    let refused = predict(&[stdin, stdout], "").expect_code(1);
    assert!(refused.stdout.is_empty() && refused.words().contains("no usable record"), "{}", refused.stderr);

    // Workflows and tasks that the run has never seen have a score too.
    let new =
        json!({ "nodes": { "7": "Guess.", "3": "Look it up." }, "edge_index": [[3, 7]], "task": "Something else." });
    let found = parse(&predict(&[stdin, stdout], &lines(&[new])).expect_code(0));
    assert!((0.0..=1.0).contains(&found[0]["score"].as_f64().unwrap()), "{}", found[0]);

    // The vectors come from the run's cache: its models are not even opened for what is known.
    let known = predict(&[&test, &output], "").expect_code(0);
    assert!(known.stderr.is_empty(), "{}", known.stderr);
    let wrong = lines(&[json!({ "nodes": { "0": "a" }, "edge_index": [], "task": "t", "score": 1 })]);
    let refused = predict(&[stdin, &scratch.path("none.jsonl")], &wrong).expect_code(1);
    assert!(refused.words().contains("`score`"), "{}", refused.stderr);
    assert!(!scratch.path("none.jsonl").exists());
}

/// A run whose cache lies elsewhere: predicting uses it, and makes no other.
#[test]
fn predict_uses_the_cache_of_the_run() {
    let scratch = Scratch::new();
    let cache = scratch.path("elsewhere/cache");
    let run = TinyRun::new(HEARTH, &scratch.path("runs"), &cpu()).set(&format!("cache={cache:?}"));
    run.ok(&[]);
    assert!(!files(&cache).is_empty());
    let (folder, test, output) = (run.folder(), run.path("sources/flora/test.jsonl"), scratch.path("scores.jsonl"));
    HEARTH.ok(arguments![
        "glow",
        "predict",
        "--run",
        &folder,
        "--input",
        &test,
        "--output",
        &output,
        "--device",
        &cpu()
    ]);
    assert!(!scratch.path("runs/cache").exists(), "{:?}", scratch.names());
}

#[test]
fn outputs_appear_only_when_they_are_complete() {
    let scratch = Scratch::new();
    let model = scratch.path("model");
    decoder(&model, 5);
    let good = |i: usize| json!({ "input_ids": [i, i + 1, i + 2], "text": "a", "prompt": "b" });
    let mut rows: Vec<Value> = (0..300).map(good).collect();
    // What is wrong stands in the last line.
    rows.push(json!({ "input_ids": [1, 1 << 30], "text": 5, "prompt": 5 }));
    let bad = scratch.rows("bad.jsonl", &rows);
    let fine = scratch.rows("fine.jsonl", &rows[..1]);
    for (command, more, key) in [
        ("score", vec![], "`input_ids`"),
        ("generate", vec!["--max-new-tokens", "1"], "`prompt`"),
        ("embed", vec![], "`text`"),
    ] {
        for name in ["out.jsonl", "out.parquet"] {
            let output = scratch.path(name);
            let go = |input: &Path| {
                let mut all = arguments![command, "--model", &model, "--input", input, "--output", &output].to_vec();
                all.extend(more.iter().map(Into::into));
                HEARTH.run(all)
            };
            let before = scratch.names();
            let refused = go(&bad).expect_code(1);
            let words = refused.words();
            assert!(words.contains("bad.jsonl:301") && words.contains(key), "{command}: {words}");
            assert_eq!(scratch.names(), before, "{command}");
            // One that is there already stays as it is.
            go(&fine).expect_code(0);
            let whole = fs::read(&output).unwrap();
            go(&bad).expect_code(1);
            assert!(fs::read(&output).unwrap() == whole, "{command}");
            fs::remove_file(&output).unwrap();
            assert_eq!(scratch.names(), before, "{command}");
        }
        let words = HEARTH.run(arguments![command, "--model", &scratch.path("no"), "--input", &fine, "--output", "-"]);
        assert_eq!(words.code, Some(1), "{command}");
        assert!(words.words().contains("no/config.json"), "{command}: {}", words.stderr);
    }

    // Killed while it is at work: it has read its first rows and waits for more.
    let output = scratch.path("out.jsonl");
    let arguments = arguments!["score", "--model", &model, "--input", "-", "--output", &output];
    let mut command = HEARTH.command(arguments);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut running = Running::of(command.stdin(Stdio::from(reader)));
    drop(command);
    std::io::Write::write_all(&mut writer, lines(&rows[..280]).as_bytes()).unwrap();
    while !scratch.names().iter().any(|name| name.contains("partial")) {
        assert!(running.is_running());
        std::thread::yield_now();
    }
    assert!(running.kill());
    assert!(!output.exists());
}

/// A merge that cannot be right is refused, and nothing is left of it.
#[test]
fn merge_leaves_nothing_that_is_wrong() {
    let scratch = Scratch::new();
    let (base, adapter, output) = (scratch.path("base"), scratch.path("adapter"), scratch.path("out"));
    let (model, _) = decoder(&base, 6);
    // Stored in 16 bits, whose largest number is 65504.
    model.save(&base, &SaveModel { dtype: Some(FloatDType::F16), shard_bytes: None }).unwrap();
    let weights = adapter.join("adapter_model.safetensors");
    let adapt = |seed, value: f32| {
        let config = LoraConfig { rank: 2, alpha: 2.0, ..LoraConfig::default() };
        let adapted = decoder(&scratch.path("unused"), 6).0.attach_lora(&config, seed).unwrap();
        adapted.save_adapter(&adapter, None).unwrap();
        // All numbers the same: the product of the factors is their square, twice.
        let mut bytes = fs::read(&weights).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[header..].chunks_exact_mut(4).for_each(|four| four.copy_from_slice(&value.to_le_bytes()));
        fs::write(&weights, bytes).unwrap();
    };
    let merge = |base: &Path| {
        HEARTH.run(arguments!["lora", "merge", "--base", base, "--adapter", &adapter, "--output", &output])
    };
    let refused = |base: &Path, word: &str| {
        let before = scratch.names();
        let words = merge(base).expect_code(1).words();
        assert!(words.contains(word), "{word}: {words}");
        assert!(!output.exists() && scratch.names() == before, "{word}: {:?}", scratch.names());
    };
    adapt(1, 300.0);
    refused(&base, "infinite");
    adapt(1, f32::NAN);
    refused(&base, "NaN");
    // For a model of another shape.
    for (dir, ..) in adapters() {
        fs::remove_dir_all(&adapter).unwrap();
        copy_folder(&dir, &adapter);
        refused(&base, "adapter_model.safetensors");
    }
    // The same folders with numbers that are fine.
    adapt(1, 0.01);
    merge(&base).expect_code(0);
    assert!(output.join("config.json").exists() && output.join("tokenizer.json").exists());
    let before = files(&output);
    // Again into the same folder; a failure leaves the model that is there alone.
    merge(&base).expect_code(0);
    assert_eq!(files(&output), before);
    let whole = fs::read(output.join("model.safetensors")).unwrap();
    adapt(1, 300.0);
    merge(&base).expect_code(1);
    assert!(fs::read(output.join("model.safetensors")).unwrap() == whole, "the model before is gone");
    assert_eq!(files(&output), before);
}

/// Whoever reads the output may stop at any time: no failure, and nothing to say.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::io::Read;
    let scratch = Scratch::new();
    let model = scratch.path("model");
    decoder(&model, 7);
    // More than a pipe holds.
    let rows: Vec<Value> = (0..600).map(|i| json!({ "input_ids": vec![i % 50; 40], "text": format!("{i}") })).collect();
    let input = scratch.rows("in.jsonl", &rows);
    for command in ["score", "embed"] {
        let mut child = HEARTH
            .command(arguments![command, "--model", &model, "--input", &input, "--output", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{command}");
    }
}
