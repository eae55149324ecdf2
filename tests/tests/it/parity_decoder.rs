//! Decoders against the reference library's numbers: every folder with `expected.safetensors` and checkpoints of a causal
//! language model. Reference: transformers, eager attention, float32; tolerances of the folders' READMEs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device, FloatDType, Gradients, Int, Tensor, TensorData};
use burn_models::checkpoint::{hf_path, weights_hash};
use burn_models::decoder::{Decoder, DecoderConfig, DecoderInput, Padded, SaveModel};
use burn_models::generate::{FinishReason, GenerateConfig, SamplingConfig, generate};
use hearth_tests::{Tensors, assert_close, assert_l2, devices, fixture_folders, json, list, values};

/// Logits, hidden states, log-probabilities: absolute.
const ABSOLUTE: f32 = 2e-4;
/// Gradients: relative, L2 norm per tensor.
const GRADIENT: f64 = 1e-4;
/// Losses of a training run: absolute.
const TRAJECTORY: f32 = 1e-3;

/// A folder of reference values.
struct Case {
    name: String,
    dir: PathBuf,
    expected: Tensors,
    /// Checkpoints in float32, sorted by name, and those in another type.
    f32: Vec<PathBuf>,
    narrow: Vec<PathBuf>,
}

impl Case {
    fn model(&self, device: &Device) -> Decoder {
        Decoder::from_folder(&self.f32[0], FloatDType::F32, device).unwrap()
    }
}

/// Whether a folder is a checkpoint of a causal language model.
fn is_decoder(dir: &Path) -> bool {
    let causal = |config: serde_json::Value| {
        let classes = config["architectures"].as_array().cloned().unwrap_or_default();
        classes.iter().any(|class| class.as_str().is_some_and(|class| class.ends_with("ForCausalLM")))
    };
    dir.join("config.json").exists() && causal(json(&dir.join("config.json")))
}

fn cases() -> Vec<Case> {
    let holds = |dir: &Path| dir.join("expected.safetensors").exists() && list(dir).iter().any(|sub| is_decoder(sub));
    let cases: Vec<Case> = fixture_folders("decoders", holds)
        .into_iter()
        .map(|dir| {
            let models = list(&dir).into_iter().filter(|sub| is_decoder(sub));
            let (f32, narrow) = models.partition(|model| {
                let config = json(&model.join("config.json"));
                let dtype =
                    config.get("torch_dtype").or(config.get("dtype")).and_then(|v| v.as_str().map(str::to_string));
                dtype.as_deref() == Some("float32")
            });
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            Case { name, expected: Tensors::open(dir.join("expected.safetensors")), dir, f32, narrow }
        })
        .collect();
    assert!(cases.iter().all(|case| !case.f32.is_empty()), "every folder needs a float32 checkpoint");
    cases
}

/// Runs a check for every folder on every device.
fn each(check: impl Fn(&Case, &Device, &str)) {
    for case in cases() {
        for (name, device) in devices() {
            check(&case, &device, &format!("{} on {name}", case.name));
        }
    }
}

/// Ids `[B, L]` without padding as an input.
pub(crate) fn input(ids: &[i64], shape: &[usize], device: &Device) -> DecoderInput {
    let rows: Vec<Vec<u32>> = ids.chunks(shape[1]).map(|row| row.iter().map(|&id| id as u32).collect()).collect();
    Padded::right(&rows, 0).unwrap().input(usize::MAX, device).unwrap()
}

fn inputs(case: &Case, name: &str, device: &Device) -> DecoderInput {
    let (shape, ids) = case.expected.i64(name);
    input(&ids, &shape, device)
}

#[test]
fn forward() {
    each(|case, device, what| {
        let expected = &case.expected;
        let input = inputs(case, "input_ids", device);
        for dir in &case.f32 {
            let model = Decoder::from_folder(dir, FloatDType::F32, device).unwrap();
            let what = format!("{what}, {}", dir.file_name().unwrap().to_string_lossy());
            let states = model.hidden_states(&input);
            let last = states.states.len() - 1;
            let reference: Vec<usize> =
                expected.names().iter().filter_map(|n| n.strip_prefix("hidden_states.")?.parse().ok()).collect();
            assert_eq!(reference.len(), last + 1, "{what}: number of hidden states");
            for i in reference {
                let got = if i == last { &states.normed } else { &states.states[i] };
                let name = format!("hidden_states.{i}");
                assert_close(&format!("{what}: {name}"), &values(got.clone()), &expected.f32(&name).1, ABSOLUTE);
            }
            let raw = values(states.states[last].clone());
            assert_close(&format!("{what}: raw"), &raw, &expected.f32("last_hidden_before_norm").1, ABSOLUTE);
            let logits = values(model.logits(model.forward_hidden(&input)));
            assert_close(&format!("{what}: logits"), &logits, &expected.f32("logits").1, ABSOLUTE);
        }
    });
}

#[test]
fn saved_again() {
    each(|case, device, what| {
        for dir in case.f32.iter().chain(&case.narrow) {
            let dtype = if case.f32.contains(dir) { FloatDType::F32 } else { FloatDType::BF16 };
            if !device.supports_dtype(dtype) {
                continue;
            }
            let model = Decoder::from_folder(dir, dtype, device).unwrap();
            let scratch = tempfile::tempdir().unwrap();
            model.save(scratch.path(), &SaveModel::default()).unwrap();
            assert_eq!(weights_hash(scratch.path()).unwrap(), weights_hash(dir).unwrap(), "{what}: weights");
            assert_eq!(DecoderConfig::from_folder(scratch.path()).unwrap(), *model.config(), "{what}: configuration");
            let (ours, theirs) = (json(&scratch.path().join("config.json")), json(&dir.join("config.json")));
            for key in ["architectures", "model_type", "torch_dtype", "rope_scaling", "eos_token_id", "head_dim"] {
                // What the reference leaves out has a default there.
                assert!(theirs.get(key).is_none_or(|value| *value == ours[key]), "{what}: {key}");
            }
        }
    });
}

#[test]
fn attention_weights() {
    each(|case, device, what| {
        let (model, input) = (case.model(device), inputs(case, "input_ids", device));
        for name in case.expected.names() {
            let Some(layer) = name.strip_prefix("attentions.").and_then(|i| i.parse().ok()) else { continue };
            let got = values(model.attention_weights(&input, layer).unwrap());
            assert_close(&format!("{what}: {name}"), &got, &case.expected.f32(&name).1, ABSOLUTE);
        }
    });
}

/// Hidden states of all but the last position as rows, and the next tokens.
fn next_token_rows(hidden: Tensor<3>, ids: &Tensor<2, Int>) -> (Tensor<2>, Tensor<1, Int>) {
    let [batch, length, width] = hidden.dims();
    let count = batch * (length - 1);
    (hidden.slice_dim(1, 0..length - 1).reshape([count, width]), ids.clone().slice_dim(1, 1..length).reshape([count]))
}

#[test]
fn logprobs_and_entropy() {
    each(|case, device, what| {
        let (model, input) = (case.model(device), inputs(case, "input_ids", device));
        let hidden = model.forward_hidden(&input);
        let (rows, targets) = next_token_rows(hidden, &input.ids);
        let got = values(model.token_logprobs(rows.clone(), targets));
        assert_close(&format!("{what}: logprobs"), &got, &case.expected.f32("logprobs").1, ABSOLUTE);
        let logits = values(model.logits(rows));
        let entropy: Vec<f32> = logits.chunks(model.config().vocab_size).map(entropy).collect();
        assert_close(&format!("{what}: entropy"), &entropy, &case.expected.f32("entropy").1, ABSOLUTE);
    });
}

/// −Σ p log p of softmax(logits), in f64.
fn entropy(logits: &[f32]) -> f32 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|&l| (f64::from(l) - top).exp()).sum();
    let log = |l: f32| f64::from(l) - top - total.ln();
    -logits.iter().map(|&l| log(l).exp() * log(l)).sum::<f64>() as f32
}

/// The sequences of a padded batch and its padding id.
fn unpad(file: &Tensors, prefix: &str) -> (Vec<Vec<u32>>, u32) {
    let (shape, ids) = file.i64(&format!("{prefix}ids"));
    let mask = file.i64(&format!("{}attention_mask", prefix.trim_end_matches(|c| c != '.'))).1;
    let token = |&(_, &m): &(&i64, &i64)| m == 1;
    let rows = ids.chunks(shape[1]).zip(mask.chunks(shape[1]));
    let sequences = rows.map(|(ids, mask)| ids.iter().zip(mask).filter(token).map(|(&id, _)| id as u32).collect());
    let pad = ids.iter().zip(&mask).find(|(_, m)| **m == 0).map_or(0, |(&id, _)| id as u32);
    (sequences.collect(), pad)
}

/// The rows of `[B, L, V]` at tokens.
fn valid_rows(values: &[f32], mask: &[bool], width: usize) -> Vec<f32> {
    values.chunks(width).zip(mask).filter(|(_, token)| **token).flat_map(|(row, _)| row.to_vec()).collect()
}

#[test]
fn padding() {
    each(|case, device, what| {
        let model = case.model(device);
        let mut reference = BTreeMap::new();
        for side in ["pad_left", "pad_right"] {
            let (sequences, pad) = unpad(&case.expected, &format!("{side}.input_"));
            let pad_batch = if side == "pad_left" { Padded::left } else { Padded::right };
            let batch = pad_batch(&sequences, pad).unwrap();
            let stored: Vec<u32> =
                case.expected.i64(&format!("{side}.input_ids")).1.iter().map(|&id| id as u32).collect();
            assert_eq!(batch.ids, stored, "{what}: {side} ids");
            let positions = case.expected.i64(&format!("{side}.position_ids")).1;
            for (i, (&ours, &theirs)) in batch.positions().iter().zip(&positions).enumerate() {
                assert!(!batch.mask[i] || i64::from(ours) == theirs, "{what}: {side} position {i}");
            }
            let logits = model.logits(model.forward_hidden(&batch.input(model.config().vocab_size, device).unwrap()));
            let got = valid_rows(&values(logits), &batch.mask, model.config().vocab_size);
            let name = format!("{side}.logits_valid");
            if case.expected.has(&name) {
                reference.insert(sequences.clone(), case.expected.f32(&name).1);
            }
            // Where only one side has reference values, they hold for the other if the sequences are the same.
            let Some(want) = reference.get(&sequences) else { continue };
            assert_close(&format!("{what}: {name}"), &got, want, ABSOLUTE);
        }
        assert!(!reference.is_empty(), "{what}: no reference for padded batches");
    });
}

#[test]
fn long() {
    each(|case, device, what| {
        let (model, input) = (case.model(device), inputs(case, "long.input_ids", device));
        for name in case.expected.names() {
            let Some(last) = name.strip_prefix("long.logits_last").and_then(|n| n.parse::<usize>().ok()) else {
                continue;
            };
            let length = input.dims()[1];
            let hidden = model.forward_hidden(&input).slice_dim(1, length - last..length);
            assert_close(
                &format!("{what}: {name}"),
                &values(model.logits(hidden)),
                &case.expected.f32(&name).1,
                ABSOLUTE,
            );
        }
    });
}

fn greedy_ids(model: &Decoder, prompts: &[Vec<u32>], count: usize, stop: Option<u32>) -> Vec<Vec<u32>> {
    let config = GenerateConfig {
        sampling: SamplingConfig::greedy(),
        max_new_tokens: count,
        stop_ids: Some(stop.into_iter().collect()),
        ..GenerateConfig::default()
    };
    let answers = generate(model, prompts, &config).unwrap();
    answers
        .into_iter()
        .map(|answer| {
            assert_eq!(answer.ids.len(), answer.logprobs.len());
            let stopped = answer.ids.last().copied() == stop && stop.is_some();
            assert_eq!(answer.finish_reason == FinishReason::Stop, stopped);
            answer.ids
        })
        .collect()
}

#[test]
fn greedy() {
    each(|case, device, what| {
        let model = case.model(device);
        let rows = |name: &str| {
            let (shape, ids) = case.expected.i64(name);
            ids.chunks(shape[1]).map(|row| row.iter().map(|&id| id as u32).collect()).collect::<Vec<Vec<u32>>>()
        };
        let (prompts, outputs) = (rows("greedy.prompt_ids"), rows("greedy.output_ids"));
        let start = prompts[0].len();
        let answers: Vec<_> = outputs.iter().map(|row| row[start..].to_vec()).collect();
        let count = answers[0].len();
        assert_eq!(greedy_ids(&model, &prompts, count, None), answers, "{what}: greedy");

        let (cut, _) = unpad(&case.expected, "greedy_leftpad.prompt_");
        let want: Vec<_> = rows("greedy_leftpad.output_ids").iter().map(|row| row[start..].to_vec()).collect();
        assert_eq!(greedy_ids(&model, &cut, count, None), want, "{what}: left-padded");

        let eos = case.expected.i64("greedy_eos.eos_id").1[0] as u32;
        let want: Vec<Vec<u32>> = rows("greedy_eos.output_ids")
            .iter()
            .map(|row| {
                let answer = &row[start..];
                let end = answer.iter().position(|&id| id == eos).map_or(answer.len(), |at| at + 1);
                answer[..end].to_vec()
            })
            .collect();
        assert!(want.iter().any(|answer| answer.len() < count), "{what}: no row ends early");
        assert_eq!(greedy_ids(&model, &prompts, count, Some(eos)), want, "{what}: stopped");
    });
}

/// Σ of next-token cross entropies and their number; labels −100 do not count.
pub(crate) fn loss_sum(model: &Decoder, input: &DecoderInput, labels: &[i64], length: usize) -> (Tensor<1>, usize) {
    let hidden = model.forward_hidden(input);
    let [batch, _, width] = hidden.dims();
    // The label at t + 1 is what position t predicts.
    let scored: Vec<usize> = (0..batch * length).filter(|i| i % length + 1 < length && labels[i + 1] >= 0).collect();
    let count = scored.len();
    let targets: Vec<i64> = scored.iter().map(|i| labels[i + 1]).collect();
    let device = hidden.device();
    let rows: Vec<i64> = scored.iter().map(|&i| i as i64).collect();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &device);
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [count]), &device);
    let hidden = hidden.reshape([batch * length, width]).select(0, rows);
    (model.token_logprobs(hidden, targets).sum().neg(), count)
}

/// Gradients, or parameters, by their names in a checkpoint, laid out as there.
pub(crate) struct Named<'a> {
    pub(crate) gradients: Option<&'a Gradients>,
    pub(crate) found: BTreeMap<String, Vec<f32>>,
    path: Vec<String>,
}

impl<'a> Named<'a> {
    pub(crate) fn of<M: Module>(module: &M, gradients: Option<&'a Gradients>) -> BTreeMap<String, Vec<f32>> {
        let mut named = Self { gradients, found: BTreeMap::new(), path: Vec::new() };
        module.visit(&mut named);
        named.found
    }
}

impl ModuleVisitor for Named<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = hf_path(&self.path);
        let tensor = match self.gradients {
            Some(gradients) => match param.val().grad(gradients) {
                Some(gradient) => gradient,
                None => return,
            },
            None => param.val().without_autodiff(),
        };
        // Every matrix but the embedding table is stored transposed.
        let tensor = if D == 2 && !path.contains("embed_tokens") { tensor.swap_dims(0, 1) } else { tensor };
        self.found.insert(peft_name(path), values(tensor));
    }
}

/// Adapters have PEFT's names.
fn peft_name(path: String) -> String {
    for (ours, theirs) in [
        (".lora.lora_a", ".lora_A.weight"),
        (".lora.lora_b", ".lora_B.weight"),
        (".lora.magnitude", ".lora_magnitude_vector.weight"),
    ] {
        if let Some(module) = path.strip_suffix(ours) {
            return format!("base_model.model.{module}{theirs}");
        }
    }
    path
}

pub(crate) fn norm<'a>(all: impl Iterator<Item = &'a Vec<f32>>) -> f64 {
    all.flatten().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn loss_and_gradients() {
    each(|case, device, what| {
        let expected = &case.expected;
        let model = case.model(&device.clone().autodiff());
        let input = inputs(case, "input_ids", device);
        let (shape, labels) = expected.i64("loss.labels");
        let (sum, count) = loss_sum(&model, &input, &labels, shape[1]);
        assert_eq!(count as i64, expected.i64("loss.count").1[0], "{what}: count");
        let mean = sum.clone() / count as f64;
        for (name, got) in [("loss.sum", sum), ("loss.mean", mean.clone())] {
            assert_l2(&format!("{what}: {name}"), &values(got.without_autodiff()), &expected.f32(name).1, 1e-5);
        }
        let gradients = Named::of(&model, Some(&mean.backward()));

        let mut compared = 0;
        for name in expected.names() {
            let Some(parameter) = name.strip_prefix("grad.") else { continue };
            let got = gradients.get(parameter).unwrap_or_else(|| panic!("{what}: no gradient for {parameter}"));
            assert_l2(&format!("{what}: {name}"), got, &expected.f32(&name).1, GRADIENT);
            compared += 1;
        }
        assert!(compared > 0, "{what}: no reference gradients");

        let width = model.config().hidden_size;
        let table = &gradients["model.embed_tokens.weight"];
        let ids = expected.i64("grad_rows.embed.ids").1;
        let rows: Vec<f32> = ids.iter().flat_map(|&id| table[id as usize * width..][..width].to_vec()).collect();
        assert_l2(&format!("{what}: grad_rows.embed"), &rows, &expected.f32("grad_rows.embed").1, GRADIENT);

        let order = json(&case.dir.join("expected_meta.json"))["param_order_of_grad_norms"].as_array().unwrap().clone();
        let norms = expected.f32("grad_norms").1;
        assert_eq!(order.len(), gradients.len(), "{what}: number of parameters");
        for (name, want) in order.iter().map(|name| name.as_str().unwrap()).zip(norms) {
            let got = norm(std::iter::once(&gradients[name])) as f32;
            assert_l2(&format!("{what}: norm of {name}"), &[got], &[want], GRADIENT);
        }
        let total = norm(gradients.values()) as f32;
        assert_l2(&format!("{what}: total norm"), &[total], &expected.f32("grad_norm_total").1, GRADIENT);
    });
}

/// Scales all gradients so that their common norm is at most `limit`; gives the norm before.
pub(crate) fn clip<M: Module>(model: &M, gradients: &mut GradientsParams, limit: f64) -> f64 {
    struct Norm<'a>(&'a GradientsParams, f64);
    impl ModuleVisitor for Norm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                self.1 += f64::from(values(gradient.square().sum())[0]);
            }
        }
    }
    struct Scale<'a>(&'a mut GradientsParams, f64);
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                self.0.register(param.id, gradient.mul_scalar(self.1));
            }
        }
    }
    let mut sum = Norm(gradients, 0.0);
    model.visit(&mut sum);
    let norm = sum.1.sqrt();
    if norm > limit {
        model.visit(&mut Scale(gradients, limit / (norm + 1e-6)));
    }
    norm
}

#[test]
fn full_fine_tuning() {
    each(|case, device, what| {
        let expected = &case.expected;
        let mut model = case.model(&device.clone().autodiff());
        let input = inputs(case, "input_ids", device);
        let (shape, labels) = expected.i64("loss.labels");
        // The settings are given in words in the folders' READMEs.
        let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init();
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        let reference = expected.f32("sft.losses").1;
        for _ in 0..reference.len() {
            let (sum, count) = loss_sum(&model, &input, &labels, shape[1]);
            let loss = sum / count as f64;
            let mut gradients = GradientsParams::from_grads(loss.backward(), &model);
            losses.push(values(loss.without_autodiff())[0]);
            norms.push(clip(&model, &mut gradients, 1.0) as f32);
            model = optimizer.step(1e-3, model, gradients);
        }
        assert_close(&format!("{what}: losses"), &losses, &reference, TRAJECTORY);
        assert_l2(&format!("{what}: gradient norms"), &norms, &expected.f32("sft.grad_norms").1, 1e-3);
        let parameters = Named::of(&model, None);
        for name in expected.names() {
            let Some(parameter) = name.strip_prefix("sft.final.") else { continue };
            assert_l2(&format!("{what}: {name}"), &parameters[parameter], &expected.f32(&name).1, 1e-3);
        }
    });
}

/// Mean over rows of the cosine between two tables.
fn least_cosine(got: &[f32], want: &[f32], width: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let cosine = |(a, b): (&[f32], &[f32])| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    got.chunks(width).zip(want.chunks(width)).map(cosine).fold(1.0, f64::min)
}

#[test]
fn narrow_weights() {
    each(|case, device, what| {
        for dir in &case.narrow {
            let folder = dir.file_name().unwrap().to_string_lossy().into_owned();
            let expected = Tensors::open(case.dir.join(format!("expected_{folder}.safetensors")));
            let (shape, ids) = expected.i64("input_ids");
            let input = input(&ids, &shape, device);
            let model = Decoder::from_folder(dir, FloatDType::F32, device).unwrap();
            let hidden = model.forward_hidden(&input);
            let logits = values(model.logits(hidden.clone()));
            let what = format!("{what}: {folder}");
            assert_close(&what, &logits, &expected.f32("logits_upcast_f32").1, ABSOLUTE);
            let (rows, targets) = next_token_rows(hidden, &input.ids);
            let got = values(model.token_logprobs(rows, targets));
            assert_close(&what, &got, &expected.f32("logprobs_upcast_f32").1, ABSOLUTE);

            let dtype = FloatDType::BF16;
            if !device.supports_dtype(dtype) {
                assert!(Decoder::from_folder(dir, dtype, device).unwrap_err().to_string().contains("does not support"));
                continue;
            }
            // Two roundings of every product apart, so by direction: more than 0.999 per position.
            let model = Decoder::from_folder(dir, dtype, device).unwrap();
            assert_eq!(model.dtype(), DType::BF16);
            let logits = values(model.logits(model.forward_hidden(&input)));
            let least = least_cosine(&logits, &expected.f32("logits_bf16_compute").1, model.config().vocab_size);
            assert!(least > 0.999, "{what}: least cosine {least}");
        }
    });
}
