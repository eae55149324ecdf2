//! LoRA adapters in PEFT's files.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use burn::tensor::FloatDType;
use burn_models::decoder::{DecoderConfig, SaveModel};
use hearth_tests::devices;
use hearth_tests::program::cpu;
use serde_json::{Value, json};

use super::bench::{Bench, Case, arguments, change_json, cut, refused};
use super::checkpoints::{read_tensors, write_tensors};

const SETTINGS: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const A: &str = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight";
const B: &str = "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight";

fn merge(bench: &Bench, base: &Path, adapter: &Path) -> Vec<OsString> {
    let output = bench.output("merged");
    arguments!["lora", "merge", "--base", base, "--adapter", adapter, "--output", &output, "--device", &cpu()]
}

/// A copy of the adapter with a fault.
fn adapter(name: &str, words: &[&str], spoil: impl Fn(&Path) + Sync + 'static) -> Case {
    Case::new(name, 1, words, move |bench| {
        let adapter = bench.copy(&bench.world.adapter(), "lora");
        spoil(&adapter);
        merge(bench, &bench.world.decoder(), &adapter)
    })
}

/// A change to the adapter's settings.
fn settings(key: &'static str, value: Value, words: &[&str]) -> Case {
    let mut all = vec!["lora/adapter_config.json"];
    all.extend(words);
    adapter(&format!("{key}: {value}"), &all, move |adapter| {
        change_json(&adapter.join(SETTINGS), |s| s[key] = value.clone())
    })
}

/// A change to the adapter's weights.
fn tensors(name: &str, words: &[&str], change: impl Fn(&mut Value, &mut Vec<u8>) + Sync + 'static) -> Case {
    let mut all = vec!["lora/adapter_model.safetensors"];
    all.extend(words);
    adapter(name, &all, move |adapter| {
        let path = adapter.join(WEIGHTS);
        let (mut header, mut data) = read_tensors(&path);
        change(&mut header, &mut data);
        write_tensors(&path, &header, &data);
    })
}

#[test]
fn adapters() {
    refused(vec![
        Case::new("no folder", 1, &["nowhere/adapter_config.json", "No such file"], |bench| {
            merge(bench, &bench.world.decoder(), &bench.input("nowhere"))
        }),
        adapter("no settings", &["lora/adapter_config.json", "No such file"], |lora| {
            fs::remove_file(lora.join(SETTINGS)).unwrap();
        }),
        adapter("no weights", &["lora/adapter_model.safetensors", "No such file"], |lora| {
            fs::remove_file(lora.join(WEIGHTS)).unwrap();
        }),
        adapter("not JSON", &["lora/adapter_config.json", "line 1 column"], |lora| {
            fs::write(lora.join(SETTINGS), "r: 8").unwrap()
        }),
        settings("r", json!(3), &["`r`: 3, but", "has rank 2"]),
        settings("r", json!(65_536), &["`r`: 65536, but", "has rank 2"]),
        settings("r", json!(0), &["`r`: is 0, expected 1 to 65536"]),
        settings("r", Value::Null, &["`r`: expected a rank, found null"]),
        settings("lora_alpha", json!(0), &["`lora_alpha`: is 0, expected a positive number"]),
        settings("lora_alpha", json!("4"), &["`lora_alpha`: expected a number, found \"4\""]),
        settings("lora_dropout", json!(1.5), &["`lora_dropout`: is 1.5"]),
        settings(
            "target_modules",
            json!(["q_proj", "x_proj"]),
            &["`target_modules`", "\"x_proj\"", "there are q_proj, k_proj"],
        ),
        settings("target_modules", json!("((proj"), &["`target_modules`", "regex parse error"]),
        settings("target_modules", json!([]), &["`target_modules`", "empty list"]),
        settings("peft_type", json!("IA3"), &["`peft_type`: expected \"LORA\", found \"IA3\""]),
        settings("bias", json!("all"), &["`bias`: expected \"none\""]),
        settings("rank_pattern", json!({"q_proj": 4}), &["`rank_pattern`", "is not supported"]),
        tensors("NaN", &[A, "NaN or infinite value at element 1"], |header, data| {
            let at = header[A]["data_offsets"][0].as_u64().unwrap() as usize + 4;
            data[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        tensors("no lora_B", &[B, "is missing"], |header, _| {
            let tensor = header.as_object_mut().unwrap().shift_remove(B).unwrap();
            header[B.replace("lora_B", "lora_C")] = tensor;
        }),
        tensors("wrong shape", &[B, "is [2, 16], expected [16, 2]"], |header, _| header[B]["shape"] = json!([2, 16])),
        tensors("wrong type", &[A, "is I32, expected a float type"], |header, _| header[A]["dtype"] = json!("I32")),
        tensors("no data", &["not a whole safetensors file", "copy it again"], |_, data| data.clear()),
        adapter("cut off", &["lora/adapter_model.safetensors", "copy it again"], |lora| cut(&lora.join(WEIGHTS), 20)),
        Case::new(
            "of another base",
            1,
            &["adapter/adapter_model.safetensors", "is [2, 32], expected [2, 48]"],
            |bench| {
                let other = bench.input("other");
                let config =
                    DecoderConfig { vocab_size: 64, hidden_size: 48, num_hidden_layers: 1, ..Default::default() };
                let model = config.init(1, FloatDType::F32, &devices().remove(0).1).unwrap();
                model.save(&other, &SaveModel::default()).unwrap();
                merge(bench, &other, &bench.world.adapter())
            },
        ),
        Case::new("of no base", 1, &["nowhere/config.json", "there is no such file"], |bench| {
            merge(bench, &bench.input("nowhere"), &bench.world.adapter())
        }),
        Case::new("into the base", 1, &["in/llm", "is the base itself"], |bench| {
            let base = bench.copy(&bench.world.decoder(), "llm");
            arguments!["lora", "merge", "--base", &base, "--adapter", &bench.world.adapter(), "--output", &base]
        }),
        Case::new("into a file", 1, &["in/file"], |bench| {
            let (base, output) = (bench.world.decoder(), bench.write("file", "x"));
            arguments!["lora", "merge", "--base", &base, "--adapter", &bench.world.adapter(), "--output", &output]
        }),
        Case::new("with a base cut off", 1, &["llm/model.safetensors", "truncated"], |bench| {
            let base = bench.copy(&bench.world.decoder(), "llm");
            cut(&base.join("model.safetensors"), 5000);
            merge(bench, &base, &bench.world.adapter())
        }),
        Case::new("to score with", 1, &["lora/adapter_config.json", "`r`"], |bench| {
            let adapter = bench.copy(&bench.world.adapter(), "lora");
            change_json(&adapter.join(SETTINGS), |settings| settings["r"] = json!(5));
            let (rows, output) = (bench.write("rows.jsonl", "{\"input_ids\": [1]}"), bench.output("o.jsonl"));
            let model = bench.world.decoder();
            arguments!["score", "--model", &model, "--adapter", &adapter, "--input", &rows, "--output", &output]
        }),
    ]);
}
