//! Files of decoders and adapters: what is written is read again, and broken files are refused with an error that names
//! file and key or tensor.

use std::fs;
use std::path::Path;

use burn::tensor::FloatDType;
use burn_lora::LoraConfig;
use burn_models::checkpoint::weights_hash;
use burn_models::decoder::{Decoder, DecoderConfig, SaveModel};
use hearth_tests::{Tensors, devices};
use serde_json::{Value, json};

use super::decoder_properties::{configs, decoder, each};
use super::parity_decoder::Named;

#[test]
fn files_round_trip() {
    each(|config, device, what| {
        let model = decoder(config, device);
        let (single, sharded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        model.save(single.path(), &SaveModel::default()).unwrap();
        let limit = SaveModel { shard_bytes: Some(10_000), ..SaveModel::default() };
        // An old checkpoint in the way disappears.
        model.save(sharded.path(), &SaveModel::default()).unwrap();
        model.save(sharded.path(), &limit).unwrap();
        assert!(!sharded.path().join("model.safetensors").exists());
        assert!(fs::read_dir(sharded.path()).unwrap().count() > 3, "{what}: one shard only");
        for dir in [single.path(), sharded.path()] {
            let again = Decoder::from_folder(dir, FloatDType::F32, device).unwrap();
            assert_eq!(again.config(), config, "{what}");
            assert!(Named::of(&again, None) == Named::of(&model, None), "{what}: {}", dir.display());
        }
        assert_eq!(weights_hash(single.path()).unwrap(), weights_hash(sharded.path()).unwrap());
        // An independent reader agrees.
        let file = single.path().join("model.safetensors");
        assert_eq!(read_tensors(&file).0["__metadata__"], json!({ "format": "pt" }));
        let (file, parameters) = (Tensors::open(&file), Named::of(&model, None));
        assert_eq!(file.names(), parameters.keys().cloned().collect::<Vec<_>>());
        for (name, want) in parameters {
            assert_eq!(file.f32(&name).1, want, "{what}: {name}");
        }

        let narrow = tempfile::tempdir().unwrap();
        model.save(narrow.path(), &SaveModel { dtype: Some(FloatDType::BF16), shard_bytes: None }).unwrap();
        assert_ne!(weights_hash(narrow.path()).unwrap(), weights_hash(single.path()).unwrap());
        let again = Decoder::from_folder(narrow.path(), FloatDType::F32, device).unwrap();
        for (name, want) in Named::of(&model, None) {
            let want: Vec<f32> = want.into_iter().map(|v| half::bf16::from_f32(v).to_f32()).collect();
            assert_eq!(Named::of(&again, None)[&name], want, "{what}: {name}");
        }
    });
}

/// Writes safetensors with any header and data.
fn write_tensors(path: &Path, header: &Value, data: &[u8]) {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

/// Header and data of a safetensors file.
fn read_tensors(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

#[test]
fn broken_weights_are_refused_by_name() {
    let (_, device) = devices().remove(0);
    let config = configs().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let name = "model.layers.1.mlp.up_proj.weight";
    type Break = fn(&mut Value, &mut Vec<u8>, &str);
    let table: [(&str, Break); 9] = [
        ("truncated", |_, data, _| data.truncate(100)),
        ("after the last tensor", |_, data, _| data.push(0)),
        ("not used by this network: `extra`", |header, data, _| {
            header["extra"] = json!({ "dtype": "F32", "shape": [1], "data_offsets": [data.len(), data.len() + 4] });
            data.extend([0; 4]);
        }),
        ("missing `model.layers.1.mlp.up_proj.weight`", |header, _, name| {
            let tensor = header.as_object_mut().unwrap().shift_remove(name).unwrap();
            header["rotary_emb.inv_freq"] = tensor;
        }),
        ("is [24, 40], expected [40, 24]", |header, _, name| header[name]["shape"] = json!([24, 40])),
        ("a NaN or infinite value at element 2", |header, data, name| {
            let at = header[name]["data_offsets"][0].as_u64().unwrap() as usize + 8;
            data[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        ("unknown dtype \"F31\"", |header, _, name| header[name]["dtype"] = json!("F31")),
        ("cannot be read as F32: it is I32", |header, _, name| header[name]["dtype"] = json!("I32")),
        ("does not fit offsets", |header, _, name| header[name]["shape"] = json!([u64::MAX, u64::MAX])),
    ];
    for (expected, spoil) in table {
        decoder(&config, &device).save(dir.path(), &SaveModel::default()).unwrap();
        let (mut header, mut data) = read_tensors(&file);
        spoil(&mut header, &mut data, name);
        write_tensors(&file, &header, &data);
        let message = Decoder::from_folder(dir.path(), FloatDType::F32, &device).unwrap_err().to_string();
        assert!(message.contains(expected), "expected {expected:?} in {message:?}");
        assert!(message.contains(dir.path().to_str().unwrap()), "the path is not in {message:?}");
    }
    fs::write(&file, "").unwrap();
    assert!(Decoder::from_folder(dir.path(), FloatDType::F32, &device).is_err());
    fs::remove_file(&file).unwrap();
    let message = Decoder::from_folder(dir.path(), FloatDType::F32, &device).unwrap_err().to_string();
    assert!(message.contains("no model.safetensors"), "{message}");
}

#[test]
fn broken_shards_are_refused() {
    let (_, device) = devices().remove(0);
    let model = decoder(&configs().remove(0), &device);
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    let first = dir.path().join("model-00001-of-00002.safetensors");
    let total = model.config().num_parameters() * 4;
    type Break = fn(&Path, &mut Value);
    let table: [(&str, Break); 4] = [
        ("is not there", |first, _| fs::remove_file(first).unwrap()),
        ("the index says it is here, but it is not", |_, index| {
            index["weight_map"]["ghost"] = json!("model-00001-of-00002.safetensors");
        }),
        ("is not the name of a file", |_, index| index["weight_map"]["model.norm.weight"] = json!("../x.safetensors")),
        ("the index does not say so", |_, index| {
            index["weight_map"].as_object_mut().unwrap().shift_remove("model.layers.0.input_layernorm.weight");
        }),
    ];
    for (expected, spoil) in table {
        let shards = SaveModel { shard_bytes: Some(total - 1), ..SaveModel::default() };
        model.save(dir.path(), &shards).unwrap();
        let mut value: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
        spoil(&first, &mut value);
        fs::write(&index, value.to_string()).unwrap();
        let message = Decoder::from_folder(dir.path(), FloatDType::F32, &device).unwrap_err().to_string();
        assert!(message.contains(expected), "expected {expected:?} in {message:?}");
    }
}

#[test]
fn unsupported_configurations_are_refused_by_key() {
    let (_, device) = devices().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let table = [
        ("model_type", json!("mamba")),
        ("model_type", Value::Null),
        ("use_sliding_window", json!(true)),
        ("attention_bias", json!(true)),
        ("hidden_act", json!("gelu")),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 })),
        ("rope_scaling", json!({ "factor": 4.0 })),
        ("layer_types", json!(["sliding_attention", "full_attention"])),
        ("quantization_config", json!({ "quant_method": "awq" })),
        ("partial_rotary_factor", json!(0.5)),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(9)),
        ("hidden_size", json!(-24)),
        ("hidden_size", json!(0)),
        ("vocab_size", json!(1u64 << 40)),
        ("num_hidden_layers", json!("two")),
        ("rms_norm_eps", json!(0.0)),
        ("eos_token_id", json!([1, 97])),
        ("tie_word_embeddings", json!("yes")),
    ];
    for (key, value) in table {
        decoder(&configs().remove(0), &device).save(dir.path(), &SaveModel::default()).unwrap();
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config[key] = value.clone();
        fs::write(&file, config.to_string()).unwrap();
        let message = DecoderConfig::from_folder(dir.path()).unwrap_err().to_string();
        assert!(message.contains("config.json") && message.contains(&format!("`{key}`")), "{key} = {value}: {message}");
    }
    fs::write(&file, "{").unwrap();
    assert!(DecoderConfig::from_folder(dir.path()).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn broken_adapters_are_refused() {
    let (_, device) = devices().remove(0);
    let config = configs().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("adapter_config.json");
    let weights = dir.path().join("adapter_model.safetensors");
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let lora = LoraConfig { rank: 3, ..LoraConfig::default() };
    let save = || decoder(&config, &device).attach_lora(&lora, 0).unwrap().save_adapter(dir.path(), None).unwrap();
    let load = || decoder(&config, &device).load_adapter(dir.path()).unwrap_err().to_string();

    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({ "q_proj": 4 })),
        ("alpha_pattern", json!({ "q_proj": 4 })),
        ("layers_to_transform", json!([0])),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("r", Value::Null),
        ("r", json!(0)),
        ("lora_alpha", json!("8")),
        ("lora_dropout", json!(1.0)),
        ("use_dora", json!("no")),
        ("target_modules", Value::Null),
    ] {
        save();
        let mut map: Value = serde_json::from_slice(&fs::read(&settings).unwrap()).unwrap();
        map[key] = value.clone();
        fs::write(&settings, map.to_string()).unwrap();
        let message = load();
        assert!(message.contains("adapter_config.json") && message.contains(key), "{key} = {value}: {message}");
    }
    // Settings of other versions that change nothing.
    save();
    let mut map: Value = serde_json::from_slice(&fs::read(&settings).unwrap()).unwrap();
    map["peft_version"] = json!("99.0");
    map["qalora_group_size"] = json!(16);
    map["rank_pattern"] = json!({});
    fs::write(&settings, map.to_string()).unwrap();
    assert!(decoder(&config, &device).load_adapter(dir.path()).is_ok());

    type Break = fn(&mut Value, &mut Vec<u8>, &str);
    let table: [(&str, Break); 5] = [
        ("is missing", |header, _, name| {
            let tensor = header.as_object_mut().unwrap().shift_remove(name).unwrap();
            header[name.replace("q_proj", "x_proj")] = tensor;
        }),
        ("is not used by this network", |header, data, _| {
            header["extra"] = json!({ "dtype": "F32", "shape": [1], "data_offsets": [data.len(), data.len() + 4] });
            data.extend([0; 4]);
        }),
        ("is [24, 3], expected [3, 24]", |header, _, name| header[name]["shape"] = json!([24, 3])),
        ("NaN or infinite value at element 1", |header, data, name| {
            let at = header[name]["data_offsets"][0].as_u64().unwrap() as usize + 4;
            data[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        }),
        ("adapter_model.safetensors", |_, data, _| data.truncate(10)),
    ];
    for (expected, spoil) in table {
        save();
        let (mut header, mut data) = read_tensors(&weights);
        spoil(&mut header, &mut data, name);
        write_tensors(&weights, &header, &data);
        let message = load();
        assert!(message.contains(expected), "expected {expected:?} in {message:?}");
    }
}
