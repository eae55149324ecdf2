//! Adapters against PEFT's numbers: every folder below `lora/` with an `adapter_config.json`. Reference: peft, float32;
//! tolerances of the README there.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, FloatDType};
use burn_lora::Projections;
use burn_models::decoder::{Decoder, SaveModel};
use hearth_tests::{Tensors, assert_close, assert_l2, devices, fixtures, json, list, values};

use super::parity_decoder::{Named, clip, input, loss_sum};

const ABSOLUTE: f32 = 2e-4;
const GRADIENT: f64 = 1e-4;
const TRAJECTORY: f32 = 1e-3;

struct Case {
    name: String,
    dir: PathBuf,
    base: PathBuf,
    expected: Tensors,
}

impl Case {
    fn base(&self, device: &Device) -> Decoder {
        Decoder::from_folder(&self.base, FloatDType::F32, device).unwrap()
    }

    fn adapted(&self, device: &Device) -> Decoder {
        self.base(device).load_adapter(&self.dir).unwrap()
    }

    /// Ids, labels and their common length.
    fn batch(&self, device: &Device) -> (burn_models::decoder::DecoderInput, Vec<i64>, usize) {
        let (shape, ids) = self.expected.i64("input_ids");
        (input(&ids, &shape, device), self.expected.i64("labels").1, shape[1])
    }
}

fn cases() -> Vec<Case> {
    let Some(root) = fixtures("lora") else { return Vec::new() };
    let adapters = list(&root).into_iter().filter(|dir| dir.join("adapter_config.json").exists());
    let cases: Vec<Case> = adapters
        .map(|dir| {
            // The base is noted relative to the folder that holds all reference folders.
            let base = json(&dir.join("adapter_config.json"))["base_model_name_or_path"].as_str().unwrap().to_string();
            Case {
                name: dir.file_name().unwrap().to_string_lossy().into_owned(),
                base: root.parent().unwrap().join(base),
                expected: Tensors::open(dir.join("expected.safetensors")),
                dir,
            }
        })
        .collect();
    assert!(!cases.is_empty(), "{}: no adapters", root.display());
    cases
}

fn each(check: impl Fn(&Case, &Device, &str)) {
    for case in cases() {
        for (name, device) in devices() {
            check(&case, &device, &format!("{} on {name}", case.name));
        }
    }
}

fn logits(model: &Decoder, input: &burn_models::decoder::DecoderInput) -> Vec<f32> {
    values(model.logits(model.forward_hidden(input)))
}

#[test]
fn adapter_and_merge() {
    each(|case, device, what| {
        let model = case.adapted(device);
        let scaling = json(&case.dir.join("meta.json"))["scaling"].as_f64().unwrap();
        assert!((model.adapters().unwrap().scale() - scaling).abs() < 1e-12, "{what}: scale");
        let (input, _, _) = case.batch(device);
        let adapted = logits(&model, &input);
        assert_close(&format!("{what}: logits_adapter"), &adapted, &case.expected.f32("logits_adapter").1, ABSOLUTE);

        let merged = model.merge_lora().unwrap();
        let want = case.expected.f32("logits_merged").1;
        let got = logits(&merged, &input);
        assert_close(&format!("{what}: logits_merged"), &got[..want.len()], &want, ABSOLUTE);
        let folder = case.dir.join("merged");
        if folder.exists() {
            let reference = Decoder::from_folder(&folder, FloatDType::F32, device).unwrap();
            let (ours, theirs) = (Named::of(&merged, None), Named::of(&reference, None));
            assert_eq!(ours.len(), theirs.len());
            for (name, want) in theirs {
                assert_close(&format!("{what}: merged {name}"), &ours[&name], &want, 1e-6);
            }
        }
    });
}

#[test]
fn gradients() {
    each(|case, device, what| {
        let model = case.adapted(&device.clone().autodiff());
        let (input, labels, length) = case.batch(device);
        let (sum, count) = loss_sum(&model, &input, &labels, length);
        let loss = sum / count as f64;
        let got = values(loss.clone().without_autodiff());
        assert_l2(&format!("{what}: loss"), &got, &case.expected.f32("loss").1, 1e-5);
        let gradients = Named::of(&model, Some(&loss.backward()));
        assert!(gradients.keys().all(|name| name.contains(".lora_")), "{what}: a frozen parameter has a gradient");
        let names = case.expected.names();
        let reference: Vec<_> = names.iter().filter_map(|name| name.strip_prefix("grad.")).collect();
        assert!(!reference.is_empty(), "{what}: no reference gradients");
        for name in reference {
            let want = case.expected.f32(&format!("grad.{name}")).1;
            assert_l2(&format!("{what}: {name}"), &gradients[name], &want, GRADIENT);
        }
    });
}

/// Losses and gradient norms of a run with one rate per step, and the adapted decoder at its end.
fn train(case: &Case, device: &Device, rates: &[f64], clip_to: f64) -> (Vec<f32>, Vec<f32>, Decoder) {
    let meta = json(&case.dir.join("meta.json"));
    let decay = meta["sft"]["wd"].as_f64().unwrap() as f32;
    let mut model = case.adapted(&device.clone().autodiff());
    let (input, labels, length) = case.batch(device);
    let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(decay).init();
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for &rate in rates {
        let (sum, count) = loss_sum(&model, &input, &labels, length);
        let loss = sum / count as f64;
        let mut gradients = GradientsParams::from_grads(loss.backward(), &model);
        losses.push(values(loss.without_autodiff())[0]);
        norms.push(clip(&model, &mut gradients, clip_to) as f32);
        model = optimizer.step(rate, model, gradients);
    }
    (losses, norms, model)
}

#[test]
fn fine_tuning() {
    each(|case, device, what| {
        let reference = case.expected.f32("sft.losses").1;
        let rate = json(&case.dir.join("meta.json"))["sft"]["lr"].as_f64().unwrap();
        let (losses, _, _) = train(case, device, &vec![rate; reference.len()], f64::INFINITY);
        assert_close(&format!("{what}: sft.losses"), &losses, &reference, TRAJECTORY);

        let rates = case.expected.f64("sft_cosine.lrs").1;
        let (losses, norms, model) = train(case, device, &rates, 1.0);
        assert_close(
            &format!("{what}: sft_cosine.losses"),
            &losses,
            &case.expected.f32("sft_cosine.losses").1,
            TRAJECTORY,
        );
        assert_l2(&format!("{what}: norms"), &norms, &case.expected.f32("sft_cosine.grad_norms").1, 1e-3);
        let parameters = Named::of(&model, None);
        for name in case.expected.names() {
            let Some(parameter) = name.strip_prefix("sft_cosine.final.") else { continue };
            assert_l2(&format!("{what}: {name}"), &parameters[parameter], &case.expected.f32(&name).1, 1e-3);
        }
    });
}

#[test]
fn files_round_trip() {
    each(|case, device, what| {
        let model = case.adapted(device);
        let scratch = tempfile::tempdir().unwrap();
        model.save_adapter(scratch.path(), Some("base")).unwrap();
        let file = |dir: &Path| std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
        assert!(file(scratch.path()) == file(&case.dir), "{what}: the weights file is not PEFT's, byte for byte");
        let (ours, theirs) =
            (json(&scratch.path().join("adapter_config.json")), json(&case.dir.join("adapter_config.json")));
        for key in ["peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "bias"]
        {
            assert_eq!(ours[key], theirs[key], "{what}: {key}");
        }
        let again = case.base(device).load_adapter(scratch.path()).unwrap();
        assert_eq!(again.adapters(), model.adapters());
        let (before, after) = (Named::of(&model, None), Named::of(&again, None));
        assert!(before == after, "{what}: parameters changed");
        // A checkpoint is of the base alone.
        assert!(model.save(scratch.path(), &SaveModel::default()).is_err());
        assert!(again.attach_lora(&model.adapters().unwrap().clone(), 0).is_err());
    });
}

#[test]
fn narrow_base() {
    each(|case, device, what| {
        let bf16 = FloatDType::BF16;
        if !device.supports_dtype(bf16) {
            return;
        }
        let device = device.clone().autodiff();
        let model = Decoder::from_folder(&case.base, bf16, &device).unwrap().load_adapter(&case.dir).unwrap();
        let (input, labels, length) = case.batch(&device);
        let (sum, count) = loss_sum(&model, &input, &labels, length);
        let loss = sum / count as f64;
        let got = values(loss.clone().without_autodiff())[0];
        let want = case.expected.f32("loss").1[0];
        assert!((got - want).abs() < 0.02 * want, "{what}: loss {got}, in float32 {want}");
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let projections = model.projections();
        let adapter = projections.iter().find_map(|(_, linear)| linear.lora.as_ref()).unwrap();
        let gradient = gradients.get::<2>(adapter.lora_b.id).unwrap();
        assert_eq!(gradient.dtype(), burn::tensor::DType::F32, "{what}: adapters train in f32");
        let merged = model.valid().merge_lora().unwrap();
        assert_eq!(merged.dtype(), burn::tensor::DType::BF16);
    });
}
