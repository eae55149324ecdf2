//! Model folders: weights and configurations that are damaged, that do not belong together, or that ask for what no
//! machine has.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use hearth_tests::program::cpu;
use serde_json::{Value, json};

use super::bench::{Bench, Case, arguments, change_json, cut, refused};

const WEIGHTS: &str = "model.safetensors";
const SHARD: &str = "model-00001-of-00001.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The tensor that most faults are about.
const TENSOR: &str = "model.layers.0.mlp.up_proj.weight";

/// Scores one row with a model.
fn score(bench: &Bench, model: &Path) -> Vec<OsString> {
    let rows = bench.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n");
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

/// A copy of the sentence encoder with a fault.
fn encoder(name: &str, words: &[&str], spoil: impl Fn(&Path) + Sync + 'static) -> Case {
    Case::new(name, 1, words, move |bench| {
        let model = bench.copy(&bench.world.encoder(), "text");
        spoil(&model);
        let rows = bench.write("rows.jsonl", "{\"text\": \"a\"}\n");
        arguments![
            "embed",
            "--model",
            &model,
            "--input",
            &rows,
            "--output",
            &bench.output("o.parquet"),
            "--device",
            &cpu()
        ]
    })
}

/// Header and data of a safetensors file.
pub(super) fn read_tensors(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

pub(super) fn write_tensors(path: &Path, header: &Value, data: &[u8]) {
    let text = header.to_string();
    fs::write(path, [&(text.len() as u64).to_le_bytes(), text.as_bytes(), data].concat()).unwrap();
}

/// The decoder with a change to the header and the data of its weights.
fn tensors(name: &str, words: &[&str], change: impl Fn(&mut Value, &mut Vec<u8>) + Sync + 'static) -> Case {
    decoder(name, words, move |model| {
        let path = model.join(WEIGHTS);
        let (mut header, mut data) = read_tensors(&path);
        change(&mut header, &mut data);
        write_tensors(&path, &header, &data);
    })
}

/// The name of the tensor whose bytes come last.
fn last(header: &Value) -> String {
    let end = |value: &Value| value["data_offsets"][1].as_u64().unwrap_or(0);
    header.as_object().unwrap().iter().max_by_key(|(_, value)| end(value)).unwrap().0.clone()
}

#[test]
fn weights() {
    let file = format!("llm/{WEIGHTS}");
    refused(vec![
        decoder("none", &["/llm: no model.safetensors"], |model| fs::remove_file(model.join(WEIGHTS)).unwrap()),
        decoder("no byte", &[&file, "0 bytes are too few", "copy it again"], |model| {
            fs::write(model.join(WEIGHTS), "").unwrap();
        }),
        decoder("header cut off", &[&file, "truncated", "copy it again"], |model| cut(&model.join(WEIGHTS), 100)),
        decoder("data cut off", &[&file, "truncated", "copy it again"], |model| cut(&model.join(WEIGHTS), 200_000)),
        decoder("header length", &[&file, "is this a safetensors file?"], |model| {
            let mut bytes = fs::read(model.join(WEIGHTS)).unwrap();
            bytes[..8].copy_from_slice(&(1u64 << 62).to_le_bytes());
            fs::write(model.join(WEIGHTS), bytes).unwrap();
        }),
        decoder("a page of a web site", &[&file, "is this a safetensors file?"], |model| {
            fs::write(model.join(WEIGHTS), "<!DOCTYPE html><html>Not found</html>").unwrap();
        }),
        decoder("a Git LFS pointer", &[&file, "`git lfs pull`"], |model| {
            fs::write(model.join(WEIGHTS), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
                .unwrap();
        }),
        decoder("a folder", &["llm/model.safetensors"], |model| {
            fs::remove_file(model.join(WEIGHTS)).unwrap();
            fs::create_dir(model.join(WEIGHTS)).unwrap();
        }),
        tensors("overlapping tensors", &[&file, "its bytes begin at"], |header, _| {
            let first = header[TENSOR]["data_offsets"][0].as_u64().unwrap();
            let (from, to) = (first - 4, header[TENSOR]["data_offsets"][1].as_u64().unwrap() - 4);
            header[TENSOR]["data_offsets"] = json!([from, to]);
        }),
        tensors("a shape that overflows", &[&file, TENSOR, "does not fit offsets"], |header, _| {
            header[TENSOR]["shape"] = json!([u64::MAX, u64::MAX]);
        }),
        tensors("a negative offset", &[&file, "header: invalid value"], |header, _| {
            header[TENSOR]["data_offsets"][0] = json!(-4);
        }),
        tensors(
            "wrong shape",
            &["/llm", "wrong shape", TENSOR, "[32, 64], expected [64, 32]", "of one model?"],
            |h, _| {
                h[TENSOR]["shape"] = json!([32, 64]);
            },
        ),
        tensors("NaN", &[&file, TENSOR, "a NaN or infinite value at element 5"], |header, data| {
            let at = header[TENSOR]["data_offsets"][0].as_u64().unwrap() as usize + 20;
            data[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        tensors("numbers that overflow", &["in/llm: it computes", "are its weights damaged"], |header, data| {
            let range = &header["model.norm.weight"]["data_offsets"];
            let (from, to) = (range[0].as_u64().unwrap() as usize, range[1].as_u64().unwrap() as usize);
            data[from..to].as_chunks_mut::<4>().0.iter_mut().for_each(|value| *value = f32::MAX.to_le_bytes());
        }),
        tensors("missing tensor", &["/llm", "missing `model.norm.weight`", "of one model?"], |header, data| {
            assert_eq!(last(header), "model.norm.weight");
            let entry = header.as_object_mut().unwrap().shift_remove("model.norm.weight").unwrap();
            data.truncate(entry["data_offsets"][0].as_u64().unwrap() as usize);
        }),
        tensors("unused tensor", &["/llm", "not used by this network: `extra`"], |header, data| {
            header["extra"] = json!({ "dtype": "F32", "shape": [1], "data_offsets": [data.len(), data.len() + 4] });
            data.extend([0; 4]);
        }),
        tensors("wrong type", &[&file, TENSOR, "cannot be read as F32: it is I32"], |header, _| {
            header[TENSOR]["dtype"] = json!("I32");
        }),
        tensors("unknown type", &[&file, TENSOR, "unknown dtype \"F31\""], |header, _| {
            header[TENSOR]["dtype"] = json!("F31")
        }),
    ]);
}

/// The decoder with its weights in one shard and an index over it.
fn index(name: &str, words: &[&str], change: impl Fn(&mut Value, &Path) + Sync + 'static) -> Case {
    decoder(name, words, move |model| {
        let (header, _) = read_tensors(&model.join(WEIGHTS));
        fs::rename(model.join(WEIGHTS), model.join(SHARD)).unwrap();
        let names = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
        let mut index =
            json!({ "weight_map": names.map(|name| (name.clone(), json!(SHARD))).collect::<serde_json::Map<_, _>>() });
        change(&mut index, model);
        fs::write(model.join(INDEX), index.to_string()).unwrap();
    })
}

#[test]
fn shards() {
    let file = format!("llm/{INDEX}");
    refused(vec![
        index("missing shard", &[&file, SHARD, "is not there"], |_, model| fs::remove_file(model.join(SHARD)).unwrap()),
        index(
            "a shard elsewhere",
            &[&file, "../../../etc/passwd", "not the name of a file in this folder"],
            |index, _| {
                index["weight_map"][TENSOR] = json!("../../../etc/passwd");
            },
        ),
        index("an absolute path", &[&file, "/etc/passwd", "not the name of a file in this folder"], |index, _| {
            index["weight_map"][TENSOR] = json!("/etc/passwd");
        }),
        index("the folder itself", &[&file, "\".\" is not the name"], |index, _| {
            index["weight_map"][TENSOR] = json!(".")
        }),
        index("a promise", &[SHARD, "`ghost`", "the index says it is here"], |index, _| {
            index["weight_map"]["ghost"] = json!(SHARD);
        }),
        index("wrong type", &[&file, "invalid type"], |index, _| index["weight_map"] = json!([1])),
        index("a damaged shard", &[SHARD, "truncated"], |_, model| cut(&model.join(SHARD), 5000)),
    ]);
}

/// The decoder with a change to its configuration.
fn config(name: &str, words: &[&str], change: impl Fn(&mut Value) + Sync + 'static) -> Case {
    let mut all = vec!["llm/config.json"];
    all.extend(words);
    decoder(name, &all, move |model| change_json(&model.join("config.json"), &change))
}

fn text(name: &str, words: &[&str], content: String) -> Case {
    let mut all = vec!["llm/config.json"];
    all.extend(words);
    decoder(name, &all, move |model| fs::write(model.join("config.json"), &content).unwrap())
}

#[test]
fn configurations() {
    refused(vec![
        Case::new("no folder", 1, &["nowhere/config.json", "there is no such file", "tokenizer.json"], |bench| {
            score(bench, &bench.input("nowhere"))
        }),
        text("not JSON", &["expected value at line 1 column 1"], "hello".into()),
        text("cut off", &["EOF while parsing"], "{\"model_type\": \"qwen3\", ".into()),
        text("a list", &["expected a map"], "[1]".into()),
        text("too deep", &["recursion limit"], format!("{{\"a\": {}", "[".repeat(100_000))),
        text("too large", &["bytes are too many"], format!("{{\"a\": \"{}\"}}", "x".repeat(17 << 20))),
        config("unknown model", &["`model_type`", "\"mamba\" is not supported", "\"qwen3\""], |c| {
            c["model_type"] = json!("mamba")
        }),
        config("width 0", &["`hidden_size`: 0 is not between 1 and 65536"], |c| c["hidden_size"] = json!(0)),
        config("absurd width", &["`hidden_size`: 1000000000000 is not between"], |c| {
            c["hidden_size"] = json!(1e12 as u64)
        }),
        config("wrong type", &["`hidden_size`: \"32\" is not a size"], |c| c["hidden_size"] = json!("32")),
        config("half a layer", &["`num_hidden_layers`: 1.5 is not a size"], |c| c["num_hidden_layers"] = json!(1.5)),
        config("heads", &["`num_key_value_heads`: 3 does not divide 4 heads"], |c| c["num_key_value_heads"] = json!(3)),
        config("no heads", &["`num_attention_heads`: 0"], |c| c["num_attention_heads"] = json!(0)),
        config("epsilon", &["`rms_norm_eps`: 0 is not a positive number"], |c| c["rms_norm_eps"] = json!(0)),
        config("an id", &["`eos_token_id`: 5000 is outside the vocabulary of 2048"], |c| {
            c["eos_token_id"] = json!(5000)
        }),
        decoder("largest of everything", &["/llm", "wrong shape", "of one model?"], |model| {
            change_json(&model.join("config.json"), |config| {
                for (key, size) in [("vocab_size", 1 << 24), ("hidden_size", 1 << 16), ("intermediate_size", 1 << 20)] {
                    config[key] = json!(size);
                }
            });
        }),
        encoder("encoder: absurd width", &["text/config.json", "`hidden_size`: 1000000000000"], |model| {
            change_json(&model.join("config.json"), |config| config["hidden_size"] = json!(1e12 as u64));
        }),
        encoder("encoder: largest of everything", &["/text", "wrong shape"], |model| {
            change_json(&model.join("config.json"), |config| {
                for (key, size) in [("vocab_size", 1 << 24), ("hidden_size", 1 << 16), ("intermediate_size", 1 << 20)] {
                    config[key] = json!(size);
                }
            });
        }),
        encoder("encoder: pooling", &["1_Pooling/config.json", "max"], |model| {
            change_json(&model.join("1_Pooling/config.json"), |config| {
                config["pooling_mode_mean_tokens"] = json!(false);
                config["pooling_mode_max_tokens"] = json!(true);
            });
        }),
        encoder("encoder: a module outside", &["modules.json", "inside this folder"], |model| {
            change_json(&model.join("modules.json"), |modules| modules[1]["path"] = json!("../../etc"));
        }),
        encoder("encoder: length", &["sentence_bert_config.json", "max_seq_length", "100000"], |model| {
            change_json(&model.join("sentence_bert_config.json"), |config| config["max_seq_length"] = json!(100_000));
        }),
        encoder("encoder: weights cut off", &["text/model.safetensors", "truncated"], |model| {
            cut(&model.join(WEIGHTS), 9000)
        }),
        Case::new(
            "an encoder that is to score",
            1,
            &["text/config.json", "`model_type`", "\"bert\" is not supported"],
            |bench| score(bench, &bench.world.encoder()),
        ),
    ]);
}
