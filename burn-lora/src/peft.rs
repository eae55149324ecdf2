//! PEFT's adapter files: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value, json};

use crate::attach::{Projections, attach};
use crate::config::kinds;
use crate::{Adapter, Error, LoraConfig, Result, Targets};

/// The file of the settings.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The file of the weights.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// The largest settings file accepted, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// Settings that change what an adapter computes and that this crate does not have. They must be absent or empty; other
/// unknown settings (version, provenance, initialisation that leaves the base alone) are ignored.
const UNSUPPORTED: [&str; 20] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "exclude_modules",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
    "ensure_weight_tying",
];

/// Reads the settings of the adapter in `dir`.
///
/// # Errors
/// When the file is absent or malformed, lacks a setting, or asks for something this crate does not do.
pub fn read_config(dir: &Path) -> Result<LoraConfig> {
    let path = dir.join(ADAPTER_CONFIG);
    let bad = |key: &str, problem: String| Error::AdapterConfig { path: path.clone(), key: key.into(), problem };
    let size = fs::metadata(&path).map_err(Error::io(&path))?.len();
    if size > MAX_CONFIG {
        return Err(bad("", format!("{size} bytes are too many")));
    }
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let map: Map<String, Value> = serde_json::from_str(&text).map_err(Error::json(&path))?;
    let need =
        |key: &str, what: &str| bad(key, format!("expected {what}, found {}", map.get(key).unwrap_or(&Value::Null)));

    if map.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err(need("peft_type", "\"LORA\""));
    }
    for key in UNSUPPORTED {
        if let Some(value) = map.get(key)
            && !empty(value)
        {
            return Err(bad(key, format!("{value} is not supported")));
        }
    }
    if !matches!(map.get("bias"), None | Some(Value::Null)) && map.get("bias").and_then(Value::as_str) != Some("none") {
        return Err(need("bias", "\"none\", the only supported value"));
    }
    // These change the base weights, so that the factors alone do not fit the original base.
    match map.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(Value::String(how)) if matches!(how.as_str(), "gaussian" | "eva" | "orthogonal") => {}
        Some(_) => return Err(need("init_lora_weights", "an initialisation that leaves the base weights as they are")),
    }
    let flag = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(need(key, "true or false")),
    };
    let targets = match map.get("target_modules") {
        Some(Value::String(all)) if all == "all-linear" => Targets::AllLinear,
        Some(Value::String(pattern)) => Targets::Regex(pattern.clone()),
        Some(Value::Array(names)) => {
            let names = names.iter().map(|name| name.as_str().map(str::to_string)).collect::<Option<Vec<_>>>();
            Targets::Names(names.ok_or_else(|| need("target_modules", "a list of names"))?)
        }
        _ => return Err(need("target_modules", "a list of names or a pattern")),
    };
    let rank = map.get("r").and_then(Value::as_u64).ok_or_else(|| need("r", "a rank"))?;
    let config = LoraConfig {
        rank: usize::try_from(rank).map_err(|e| bad("r", e.to_string()))?,
        alpha: map.get("lora_alpha").and_then(Value::as_f64).ok_or_else(|| need("lora_alpha", "a number"))?,
        dropout: map
            .get("lora_dropout")
            .map_or(Some(0.0), Value::as_f64)
            .ok_or_else(|| need("lora_dropout", "a number"))?,
        targets,
        rslora: flag("use_rslora")?,
        dora: flag("use_dora")?,
    };
    config.validate().map_err(|e| in_file(e, &path))?;
    Ok(config)
}

/// An error about a setting, by the key it has in PEFT's file.
fn in_file(error: Error, path: &Path) -> Error {
    let (key, problem) = match error {
        Error::Config { key, problem } => (
            match key {
                "rank" => "r",
                "alpha" => "lora_alpha",
                "dropout" => "lora_dropout",
                "targets" => "target_modules",
                other => other,
            },
            problem,
        ),
        error @ Error::NoTarget { .. } => ("target_modules", error.to_string()),
        other => return other,
    };
    Error::AdapterConfig { path: path.to_path_buf(), key: key.into(), problem }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Attaches the adapter in `dir` to `model`, which is frozen.
///
/// # Errors
/// As [`read_config`] and [`attach`]; when tensors are missing, unused, mis-shaped, of a type other than f32, f16
/// or bf16, or not finite: all of them are named.
pub fn read_adapter<M: Module + Projections>(model: M, dir: &Path) -> Result<(M, LoraConfig)> {
    let config = read_config(dir)?;
    let path = dir.join(ADAPTER_WEIGHTS);
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let bad = |problem: String| Error::AdapterWeights { path: path.clone(), problem };
    let broken = |e: safetensors::SafeTensorError| bad(format!("not a whole safetensors file ({e}): copy it again"));
    let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let mut tensors: BTreeMap<String, TensorView> = file.tensors().into_iter().collect();
    let settings = dir.join(ADAPTER_CONFIG);
    // Before anything of that rank is made.
    let factors = || tensors.iter().filter(|(name, _)| name.ends_with("lora_A.weight"));
    let ranks = || factors().filter_map(|(name, view)| Some((name, *view.shape().first()?)));
    if let Some((name, found)) = ranks().next()
        && ranks().all(|(_, rank)| rank != config.rank)
    {
        let problem = format!("{}, but `{name}` in {ADAPTER_WEIGHTS} has rank {found}", config.rank);
        return Err(Error::AdapterConfig { path: settings, key: "r".into(), problem });
    }

    // Factors are overwritten right away: the seed does not matter.
    let mut model = attach(model, &config, 0).map_err(|e| in_file(e, &settings))?;
    let mut problems = Vec::new();
    for (path, linear) in model.projections_mut() {
        let Some(adapter) = &mut linear.lora else { continue };
        for (suffix, place) in places(adapter) {
            let name = key(&path, suffix);
            let Some(view) = tensors.remove(&name) else {
                problems.push(format!("`{name}` is missing"));
                continue;
            };
            if let Err(problem) = place.fill(&view) {
                problems.push(format!("`{name}` {problem}"));
            }
        }
    }
    problems.extend(tensors.keys().map(|name| format!("`{name}` is not used by this network")));
    if problems.is_empty() {
        return Ok((model, config));
    }
    let more = problems.len().saturating_sub(8);
    problems.truncate(8);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(bad(problems.join("; ") + &tail))
}

fn key(path: &str, suffix: &str) -> String {
    format!("base_model.model.{path}.{suffix}")
}

/// A parameter of an adapter. Matrices are transposed in the file.
enum Place<'a> {
    Matrix(&'a mut Param<Tensor<2>>),
    Vector(&'a mut Param<Tensor<1>>),
}

fn places(adapter: &mut Adapter) -> Vec<(&'static str, Place<'_>)> {
    let mut places = vec![
        ("lora_A.weight", Place::Matrix(&mut adapter.lora_a)),
        ("lora_B.weight", Place::Matrix(&mut adapter.lora_b)),
    ];
    places.extend(adapter.magnitude.as_mut().map(|m| ("lora_magnitude_vector", Place::Vector(m))));
    places
}

impl Place<'_> {
    fn fill(self, view: &TensorView) -> std::result::Result<(), String> {
        let expected = match &self {
            Self::Matrix(param) => param.lazy_shape().as_slice().iter().rev().copied().collect::<Vec<_>>(),
            Self::Vector(param) => param.lazy_shape().as_slice().to_vec(),
        };
        if view.shape() != expected {
            return Err(format!("is {:?}, expected {expected:?}", view.shape()));
        }
        let data = TensorData::new(floats(view)?, expected);
        match self {
            Self::Matrix(param) => set(param, data, |t| t.swap_dims(0, 1)),
            Self::Vector(param) => set(param, data, |t| t),
        }
        Ok(())
    }

    fn values(self) -> std::result::Result<(Vec<usize>, Vec<f32>), String> {
        let data = match self {
            Self::Matrix(param) => param.val().without_autodiff().swap_dims(0, 1).try_into_data(),
            Self::Vector(param) => param.val().without_autodiff().try_into_data(),
        };
        let data = data.map_err(|e| e.to_string())?;
        let shape = data.shape().as_slice().to_vec();
        Ok((shape, data.try_into_vec_as::<f32>().map_err(|e| e.to_string())?))
    }
}

fn set<const D: usize>(param: &mut Param<Tensor<D>>, data: TensorData, layout: impl Fn(Tensor<D>) -> Tensor<D>) {
    let tensor = layout(Tensor::from_data(data, (&param.lazy_device(), DType::F32)));
    *param = param.clone().transform_for_load(tensor, param.id);
}

fn floats(view: &TensorView) -> std::result::Result<Vec<f32>, String> {
    let bytes = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        other => return Err(format!("is {other:?}, expected a float type")),
    };
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(format!("has a NaN or infinite value at element {at}")),
        None => Ok(values),
    }
}

/// Writes the adapters of `model` as PEFT would: f32, names `base_model.model.<path>.lora_A.weight`. `config` is what
/// they were attached with, `base` what PEFT shall call the base model. Files are replaced atomically, the settings last.
///
/// # Errors
/// When there is no adapter, when a tensor cannot be read from the device, or when the disk refuses.
pub fn write_adapter<M: Projections>(model: &M, config: &LoraConfig, base: Option<&str>, dir: &Path) -> Result<()> {
    let paths: Vec<String> = model.projections().into_iter().map(|(path, _)| path).collect();
    let mut tensors = BTreeMap::new();
    for (path, linear) in model.projections() {
        // A clone shares the tensors.
        let Some(mut adapter) = linear.lora.clone() else { continue };
        for (suffix, place) in places(&mut adapter) {
            tensors.insert(key(&path, suffix), place.values().map_err(Error::Device)?);
        }
    }
    if tensors.is_empty() {
        return Err(Error::State("there is no adapter to save"));
    }
    let file = dir.join(ADAPTER_WEIGHTS);
    let bad = |e: safetensors::SafeTensorError| Error::AdapterWeights { path: file.clone(), problem: e.to_string() };
    let views = (tensors.iter())
        .map(|(name, (shape, values))| {
            Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).map_err(bad)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(bad)?;

    let settings = json!({
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": number(config.alpha),
        "lora_dropout": config.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": match &config.targets {
            Targets::AllLinear => json!(kinds(&paths)),
            Targets::Names(names) => json!(names),
            Targets::Regex(pattern) => json!(pattern),
        },
        "task_type": "CAUSAL_LM",
        "use_dora": config.dora,
        "use_rslora": config.rslora,
    });
    let text = serde_json::to_string_pretty(&settings).map_err(Error::json(dir.join(ADAPTER_CONFIG)))? + "\n";
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    replace(dir, ADAPTER_WEIGHTS, &bytes)?;
    replace(dir, ADAPTER_CONFIG, text.as_bytes())
}

/// A whole number as an integer, as PEFT writes it.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// Writes a file under a temporary name, flushes it to disk and renames it.
fn replace(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let mut scratch = tempfile::NamedTempFile::new_in(dir).map_err(Error::io(dir))?;
    scratch.write_all(content).and_then(|()| scratch.as_file().sync_all()).map_err(Error::io(&path))?;
    #[cfg(unix)]
    {
        // Temporary files are private to their owner; an adapter is an ordinary file.
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o644);
        scratch.as_file().set_permissions(mode).map_err(Error::io(&path))?;
    }
    scratch.persist(&path).map_err(|e| Error::io(&path)(e.error))?;
    Ok(())
}
