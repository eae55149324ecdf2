//! Sentence encoders against the transformers and sentence-transformers libraries.
//!
//! Cases are found by listing the reference folders: `expected.safetensors` beside texts (`sentences.json` or
//! `sentences.jsonl`) and a BERT in `model/`, or, for a folder called `minilm`, in `HEARTH_MINILM`. Tolerances are those
//! of the folders' READMEs: hidden states 1e-4 and embeddings 1e-5 absolute, gradients 1e-4 in relative L2 norm.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Gradients, Tensor, activation};
use burn_models::checkpoint::hf_path;
use burn_models::encoder::{
    BertConfig, BertEncoder, Pooling, SentenceEncoder, SentenceOptions, checkpoint_name, normalize,
};
use burn_models::text::{Builtin, Tokenizer};
use hearth_tests::{Tensors, assert_close, devices, fixture_folders, json, json_lines, max_abs, values};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const HIDDEN: f32 = 1e-4;
const EMBEDDING: f32 = 1e-5;
const GRADIENT: f64 = 1e-4;

/// A reference folder and the model it was made with.
struct Case {
    name: String,
    model: PathBuf,
    texts: Vec<String>,
    expected: Tensors,
    meta: serde_json::Value,
}

/// The folder with the model of a reference folder, where it is there.
fn model_of(folder: &Path) -> Option<PathBuf> {
    let inside = folder.join("model");
    let elsewhere = match folder.file_name()?.to_str()? {
        "minilm" => std::env::var_os("HEARTH_MINILM").map(PathBuf::from),
        _ => None,
    };
    let dir = elsewhere.unwrap_or(inside);
    if !dir.join("model.safetensors").exists() {
        println!("skipped: {} (its model is not there; for minilm set HEARTH_MINILM)", folder.display());
        return None;
    }
    (json(&dir.join("config.json"))["model_type"] == "bert").then_some(dir)
}

fn cases() -> Vec<Case> {
    let texts = |folder: &Path| -> Option<Vec<String>> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
        if folder.join("sentences.json").exists() {
            return Some(json(&folder.join("sentences.json")).as_array()?.iter().map(text).collect());
        }
        let lines = folder.join("sentences.jsonl");
        lines.exists().then(|| json_lines(&lines).iter().map(|row| text(&row["text"])).collect())
    };
    // Without texts and tokenizer, the numbers alone can still be compared.
    let is_encoder = |f: &Path| texts(f).is_some() || f.join("model/1_Pooling").is_dir();
    fixture_folders("sentence encoders", |f| f.join("expected.safetensors").exists() && is_encoder(f))
        .into_iter()
        .filter_map(|folder| {
            let meta = folder.join("meta.json");
            Some(Case {
                name: folder.file_name().unwrap().to_string_lossy().into_owned(),
                model: model_of(&folder)?,
                texts: texts(&folder).unwrap_or_default(),
                expected: Tensors::open(folder.join("expected.safetensors")),
                meta: if meta.exists() { json(&meta) } else { serde_json::Value::Null },
            })
        })
        .collect()
}

fn each(check: impl Fn(&Case, &Device, &str)) {
    for case in cases() {
        for (name, device) in devices() {
            check(&case, &device, &format!("{} on {name}", case.name));
        }
    }
}

fn tokens(case: &Case, name: &str) -> Vec<Vec<i64>> {
    let (shape, values) = case.expected.i64(name);
    values.chunks(shape[1]).map(<[i64]>::to_vec).collect()
}

#[test]
fn embeddings() {
    let _turn = hearth_tests::random_turn();
    each(|case, device, what| {
        if case.texts.is_empty() {
            println!("skipped: embeddings of {} (its texts are not there)", case.name);
            return;
        }
        let encoder = SentenceEncoder::from_folder(&case.model, FloatDType::F32, device).unwrap();
        let (shape, expected) = case.expected.f32("embeddings");
        for budget in [2048, 1] {
            // One text at a time gives the same, but takes long with a large model on a slow device.
            if budget == 1 && encoder.dim() > 100 {
                continue;
            }
            let got = encoder.embed(&case.texts, budget).unwrap();
            assert_eq!([got.values.len() / got.dim, got.dim].to_vec(), shape, "{what}");
            assert_close(&format!("{what}, budget {budget}: embeddings"), &got.values, &expected, EMBEDDING);
        }
        if case.expected.has("pooled_before_normalize") {
            let rows: Vec<Vec<u32>> = case.texts.iter().map(|text| encoder.tokenize(text).unwrap().0).collect();
            let mut got = Vec::new();
            for part in rows.chunks(8) {
                let batch = encoder.encoder().batch(part).unwrap();
                got.extend(values(encoder.encoder().pooled(&batch, encoder.pooling())));
            }
            let name = "pooled_before_normalize";
            assert_close(&format!("{what}: {name}"), &got, &case.expected.f32(name).1, EMBEDDING);
        }
    });
}

#[test]
fn token_ids() {
    let _turn = hearth_tests::random_turn();
    for case in cases().iter().filter(|case| case.expected.has("input_ids") && !case.texts.is_empty()) {
        let encoder = SentenceEncoder::from_folder(&case.model, FloatDType::F32, &Device::flex()).unwrap();
        if let Some(max) = case.meta["max_seq_length"].as_u64() {
            assert_eq!(encoder.max_seq_length() as u64, max, "{}", case.name);
        }
        let (ids, mask) = (tokens(case, "input_ids"), tokens(case, "attention_mask"));
        for ((text, ids), mask) in case.texts.iter().zip(ids).zip(mask) {
            let expected: Vec<u32> =
                ids.iter().zip(mask).filter(|(_, attended)| *attended == 1).map(|(id, _)| *id as u32).collect();
            assert_eq!(encoder.tokenize(text).unwrap().0, expected, "{}: {text:?}", case.name);
        }
    }
}

/// `[B, L, D]` values with zeros at padding, as the reference has them.
fn zero_padding(mut values: Vec<f32>, mask: &[i64], width: usize) -> Vec<f32> {
    for (row, attended) in values.chunks_mut(width).zip(mask) {
        assert!(row.iter().all(|v| v.is_finite()), "padding must stay finite");
        if *attended == 0 {
            row.fill(0.0);
        }
    }
    values
}

#[test]
fn hidden_states() {
    let _turn = hearth_tests::random_turn();
    each(|case, device, what| {
        let file = &case.expected;
        if !file.has("input_ids") {
            return;
        }
        let encoder = BertEncoder::from_folder(&case.model, FloatDType::F32, device).unwrap();
        let ids = file.int::<2>("input_ids", device);
        let attended = file.int::<2>("attention_mask", device).equal_elem(1);
        let (shape, mask) = file.i64("attention_mask");
        let states = encoder.hidden_states(ids.clone(), Some(attended.clone()));
        let names: Vec<String> = file.names().into_iter().filter(|n| n.starts_with("hidden_states.")).collect();
        assert_eq!(names.len(), states.len(), "{what}");
        for (i, state) in states.iter().enumerate() {
            let name = format!("hidden_states.{i}");
            let got = zero_padding(values(state.clone()), &mask, encoder.config().hidden_size);
            assert_close(&format!("{what}: {name}"), &got, &file.f32(&name).1, HIDDEN);
        }
        let last = encoder.forward(ids, Some(attended.clone()));
        let pooled = Pooling::Mean.apply(last.clone(), Some(attended));
        assert_close(&format!("{what}: pooled"), &values(pooled.clone()), &file.f32("pooled").1, EMBEDDING);
        let embeddings = values(normalize(pooled));
        assert_close(&format!("{what}: embeddings"), &embeddings, &file.f32("embeddings").1, EMBEDDING);
        if file.has("pooler_output") {
            let got = values(encoder.pooler_output(last).unwrap());
            assert_close(&format!("{what}: pooler_output"), &got, &file.f32("pooler_output").1, EMBEDDING);
        }
        assert!(case.texts.is_empty() || shape[0] == case.texts.len());
    });
}

/// Gradients by checkpoint name, linear matrices as in the checkpoint.
struct ByName<'a> {
    gradients: &'a Gradients,
    path: Vec<String>,
    owners: Vec<String>,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for ByName<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.path.push(name.into());
        self.owners.push(owner.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.owners.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = param.val().grad(self.gradients) else { return };
        let linear = self.owners.last().is_some_and(|owner| owner == "Struct:Linear") && D == 2;
        let gradient = if linear { gradient.swap_dims(0, 1) } else { gradient };
        self.found.insert(checkpoint_name(&hf_path(&self.path)).unwrap(), values(gradient));
    }
}

#[test]
fn contrastive_gradients() {
    let _turn = hearth_tests::random_turn();
    each(|case, device, what| {
        let file = &case.expected;
        if !file.has("in_batch_contrastive.loss") {
            return;
        }
        let device = device.clone().autodiff();
        let encoder = BertEncoder::from_folder(&case.model, FloatDType::F32, &device).unwrap();
        let ids = file.int::<2>("input_ids", &device);
        let attended = file.int::<2>("attention_mask", &device).equal_elem(1);
        let settings = case.meta["contrastive"].as_str().unwrap();
        let scale = settings.split("scale ").nth(1).unwrap();
        let scale: f32 = scale.split(|c: char| !(c.is_ascii_digit() || c == '.')).next().unwrap().parse().unwrap();

        let vectors = normalize(Pooling::Mean.apply(encoder.forward(ids, Some(attended.clone())), Some(attended)));
        let [batch, _] = vectors.dims();
        let half = batch / 2;
        let anchors = vectors.clone().slice_dim(0, 0..half);
        let positives = vectors.slice_dim(0, half..2 * half);
        let logits = anchors.matmul(positives.transpose()).mul_scalar(scale);
        let own = Tensor::<2>::eye(half, &device);
        let loss = (activation::log_softmax(logits, 1) * own).sum().neg() / half as f32;
        let gradients = loss.backward();
        assert_close(&format!("{what}: loss"), &values(loss), &file.f32("in_batch_contrastive.loss").1, 1e-5);

        let mut found = ByName { gradients: &gradients, path: vec![], owners: vec![], found: BTreeMap::new() };
        encoder.visit(&mut found);
        let names: Vec<String> = file.names().into_iter().filter(|name| name.starts_with("grad.")).collect();
        assert!(!names.is_empty());
        let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let largest = names.iter().map(|name| norm(&file.f32(name).1)).fold(0.0, f64::max);
        for name in names {
            let want = file.f32(&name).1;
            let got = &found.found[name.strip_prefix("grad.").unwrap()];
            let difference: Vec<f32> = got.iter().zip(&want).map(|(g, w)| g - w).collect();
            // The softmax does not see the keys' biases: their gradient is rounding, to be measured by the others.
            let bound = GRADIENT * norm(&want).max(1e-3 * largest);
            assert!(norm(&difference) <= bound, "{what}: {name}: {:e} > {bound:e}", norm(&difference));
        }
    });
}

/// bf16 weights on devices that have them: the same sentences stay close.
#[test]
fn narrow_weights() {
    let _turn = hearth_tests::random_turn();
    each(|case, device, what| {
        if case.texts.is_empty() || !device.supports_dtype(FloatDType::BF16) || !case.expected.has("input_ids") {
            return;
        }
        let wide = SentenceEncoder::from_folder(&case.model, FloatDType::F32, device).unwrap();
        let narrow = SentenceEncoder::from_folder(&case.model, FloatDType::BF16, device).unwrap();
        let (a, b) = (wide.embed(&case.texts, 1024).unwrap(), narrow.embed(&case.texts, 1024).unwrap());
        for i in 0..case.texts.len() {
            let cosine: f32 = a.row(i).iter().zip(b.row(i)).map(|(x, y)| x * y).sum();
            assert!(cosine > 0.999, "{what}: text {i}: cosine {cosine}");
        }
    });
}

#[test]
fn saved_and_read_again() {
    let _turn = hearth_tests::random_turn();
    each(|case, device, what| {
        if case.texts.is_empty() {
            return;
        }
        let encoder = SentenceEncoder::from_folder(&case.model, FloatDType::F32, device).unwrap();
        let dir = tempfile::tempdir().unwrap();
        encoder.save(dir.path()).unwrap();
        let again = SentenceEncoder::from_folder(dir.path(), FloatDType::F32, device).unwrap();
        assert_eq!(again.max_seq_length(), encoder.max_seq_length());
        let texts = &case.texts[..case.texts.len().min(20)];
        assert_eq!(again.embed(texts, 512).unwrap(), encoder.embed(texts, 512).unwrap(), "{what}");
    });
}

fn fresh(pooling: Pooling, device: &Device) -> SentenceEncoder {
    let tokenizer = Tokenizer::builtin(Builtin::Encoder).unwrap();
    let options = SentenceOptions { pooling, normalize: true, max_seq_length: Some(40) };
    SentenceEncoder::init(&BertConfig::default(), tokenizer, &options, 7, device).unwrap()
}

fn texts() -> Vec<String> {
    let mut texts: Vec<String> =
        (0..60).map(|i| format!("Node {i}: {}", "check the result and write a plan ".repeat(i % 9))).collect();
    texts.extend([String::new(), "Node 3".into(), texts[5].clone(), "é 你好 🚀".into()]);
    texts
}

/// Batches, their order and repeated texts do not change a vector.
#[test]
fn vectors_do_not_depend_on_batches() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
            let (encoder, texts) = (fresh(pooling, &device), texts());
            let whole = encoder.embed(&texts, 4096).unwrap();
            assert_eq!(whole.work.distinct, texts.len() - 1, "one text occurs twice");
            assert!(whole.truncated > 0);
            assert!(whole.work.batches < whole.work.distinct);
            for (i, text) in texts.iter().enumerate() {
                let single = encoder.embed(&[text], 1).unwrap();
                let difference = max_abs(&single.values, whole.row(i));
                assert!(difference < 2e-6, "{name}, {pooling:?}: {text:?}: {difference:e}");
                let norm: f32 = whole.row(i).iter().map(|v| v * v).sum::<f32>().sqrt();
                assert!((norm - 1.0).abs() < 1e-5, "{name}, {pooling:?}: norm {norm}");
            }
            let reversed: Vec<&String> = texts.iter().rev().collect();
            let reversed = encoder.embed(&reversed, 200).unwrap();
            for i in 0..texts.len() {
                let difference = max_abs(reversed.row(texts.len() - 1 - i), whole.row(i));
                assert!(difference < 2e-6, "{name}, {pooling:?}: text {i}: {difference:e}");
            }
        }
    }
}

/// A seed gives the same fresh network on every device, and a folder that can be read.
#[test]
fn fresh_networks_are_the_same_everywhere() {
    let _turn = hearth_tests::random_turn();
    let texts = texts();
    let mut first: Option<Vec<f32>> = None;
    for (name, device) in devices() {
        let encoder = fresh(Pooling::Mean, &device);
        let got = encoder.embed(&texts, 1024).unwrap().values;
        let reference = first.get_or_insert_with(|| got.clone());
        assert!(max_abs(&got, reference) < 1e-5, "{name}");
        let dir = tempfile::tempdir().unwrap();
        encoder.save(dir.path()).unwrap();
        let again = SentenceEncoder::from_folder(dir.path(), FloatDType::F32, &device).unwrap();
        assert_eq!(again.embed(&texts, 1024).unwrap().values, got, "{name}");
    }
}

#[test]
fn what_the_encoder_cannot_take_is_an_error() {
    let _turn = hearth_tests::random_turn();
    let encoder = BertConfig::default().init(false, 1, &Device::flex()).unwrap();
    assert!(encoder.batch(&[vec![1; 257]]).is_err(), "longer than the position table");
    assert!(encoder.batch(&[vec![2000]]).is_err(), "outside the vocabulary");
    assert!(encoder.batch(&[Vec::<u32>::new()]).is_err(), "empty");
    let config = BertConfig { vocab_size: 100, ..BertConfig::default() };
    let tokenizer = Tokenizer::builtin(Builtin::Encoder).unwrap();
    let options = SentenceOptions::default();
    assert!(SentenceEncoder::init(&config, tokenizer, &options, 1, &Device::flex()).is_err(), "vocabulary too small");
}
