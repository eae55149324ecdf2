//! The stage that adds an adapter to its base.

use super::context::{StageContext, StageEnd};
use super::error::Error;
use super::folder::write_json;
use super::scratch::Scratch;
use crate::recipe::{MergeDtype, MergeLora};
use burn::tensor::{Device, FloatDType};
use burn_models::checkpoint::{Dtype, Weights};
use burn_models::decoder::{Decoder, Padded, SaveModel};
use burn_models::text::{Specials, Tokenizer};
use datasets::atomic::write_file;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The merged model, in the stage's folder.
const MODEL: &str = "model";

pub(super) fn run(context: &StageContext, stage: &MergeLora) -> Result<StageEnd, Error> {
    let base = context.model_folder("base", &stage.base)?;
    let adapter = super::sft::adapter_folder(&context.path("adapter", &stage.adapter)?);
    let target = context.folder.join(MODEL);
    let report = merge(&base, &adapter, &target, stage.dtype, stage.verify_prompts, &context.device)?;
    context.say(&format!(
        "merged; largest difference of a logit {:.2e} over {} prompts (relative {:.2e})",
        report.max_logit_difference, report.prompts, report.relative_difference
    ));
    let metrics = BTreeMap::from([
        ("max_logit_difference".to_string(), Some(report.max_logit_difference)),
        ("relative_difference".to_string(), Some(report.relative_difference)),
    ]);
    Ok(StageEnd::done(metrics, &[MODEL]))
}

/// What a merge did (`merge.json`).
#[derive(Clone, Debug, Serialize)]
pub struct MergeReport {
    /// The base's folder.
    pub base: String,
    /// The adapter's folder, where one was added.
    pub adapter: Option<String>,
    /// Number format of the merged weights.
    pub dtype: &'static str,
    /// Texts compared.
    pub prompts: usize,
    /// Largest absolute difference of a logit between base with adapter and the merged model as it was written.
    pub max_logit_difference: f64,
    /// The same over the largest absolute logit.
    pub relative_difference: f64,
}

/// Texts to compare both models on; any text does.
const PROMPTS: [&str; 4] = [
    "A workflow is a graph of steps.",
    "def solve(task):\n    return plan(task)\n",
    "Which steps have no arrow into them? [0, 2]",
    "1 + 1 = 2; the answer is Yes.",
];

/// Merged weights may differ from base plus adapter by this share of the largest logit: f32 rounding, and one rounding to
/// bfloat16.
const TOLERANCE: [(FloatDType, f64); 2] = [(FloatDType::F32, 1e-3), (FloatDType::BF16, 0.1)];

/// How a model's folder is written.
pub(crate) struct WriteModel {
    /// Number format of the weights.
    pub(crate) dtype: MergeDtype,
    /// The weights are split into files of at most so many bytes.
    pub(crate) shard_bytes: u64,
    /// Texts on which the result is compared with what it was made of.
    pub(crate) prompts: usize,
}

/// Adds the adapter to the base and writes the result as a folder in Hugging Face layout, tokenizer included. Computes in f32
/// whatever the base holds, and rounds once at the end.
///
/// # Errors
/// Files that cannot be read or do not fit together, and a merged model that does not compute what base plus adapter do. The
/// target is then as it was.
pub fn merge(
    base: &Path,
    adapter: &Path,
    target: &Path,
    dtype: MergeDtype,
    prompts: usize,
    device: &Device,
) -> Result<MergeReport, Error> {
    if let (Ok(base), Ok(target)) = (base.canonicalize(), target.canonicalize())
        && base == target
    {
        let reason = format!("{} is the base itself: write the merged model somewhere else", target.display());
        return Err(Error::Stage { stage: "merge".into(), reason });
    }
    let scratch = Scratch::new(target)?;
    let options = WriteModel { dtype, shard_bytes: 4 << 30, prompts };
    let report = write_model(base, Some(adapter), scratch.path(), &options, device)?;
    write_json(&scratch.path().join("merge.json"), &report)?;
    scratch.publish("config.json")?;
    Ok(report)
}

/// Writes the base, with the adapter added to its weights where there is one, into a folder that is there and empty: weights,
/// configuration, tokenizer. Reads it again, and compares.
///
/// # Errors
/// Files that cannot be read or do not fit together, and weights that do not compute what they were made of.
pub(crate) fn write_model(
    base: &Path,
    adapter: Option<&Path>,
    folder: &Path,
    options: &WriteModel,
    device: &Device,
) -> Result<MergeReport, Error> {
    let dtype = match options.dtype {
        MergeDtype::F32 => FloatDType::F32,
        MergeDtype::Bf16 => FloatDType::BF16,
        MergeDtype::F16 => FloatDType::F16,
        MergeDtype::Keep => stored_dtype(base)?,
    };
    let model = Decoder::from_folder(base, FloatDType::F32, device)?;
    let model = match adapter {
        Some(adapter) => model.load_adapter(adapter)?,
        None => model,
    };
    let inputs = probes(base, model.config().vocab_size, options.prompts)?;
    let before = logits(&model, &inputs, device)?;
    let model = if adapter.is_some() { model.merge_lora()? } else { model };
    model.save(folder, &SaveModel { dtype: Some(dtype), shard_bytes: Some(options.shard_bytes) })?;
    drop(model);
    copy_tokenizer(base, folder)?;

    let written = Decoder::from_folder(folder, FloatDType::F32, device)?;
    let after = logits(&written, &inputs, device)?;
    // A maximum that a NaN does not get lost in.
    let larger = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
    let (mut difference, mut largest) = (0.0, 0.0);
    for (a, b) in before.iter().flatten().zip(after.iter().flatten()) {
        difference = larger(difference, f64::from((a - b).abs()));
        largest = larger(largest, f64::from(a.abs()));
    }
    let report = MergeReport {
        base: base.display().to_string(),
        adapter: adapter.map(|adapter| adapter.display().to_string()),
        dtype: if dtype == FloatDType::F32 {
            "float32"
        } else if dtype == FloatDType::F16 {
            "float16"
        } else {
            "bfloat16"
        },
        prompts: inputs.len(),
        max_logit_difference: difference,
        relative_difference: difference / largest.max(f64::MIN_POSITIVE),
    };
    let tolerance = TOLERANCE.iter().find(|(d, _)| *d == dtype).map_or(0.02, |(_, t)| *t);
    let close = report.relative_difference.is_finite() && report.relative_difference <= tolerance;
    if !inputs.is_empty() && !close {
        let of = if adapter.is_some() { "base plus adapter" } else { "what it was made of" };
        return Err(Error::Stage {
            stage: "merge".into(),
            reason: format!(
                "the merged model is not {of}: logits differ by {:.2e}, {:.2e} of the largest; try `dtype: F32`",
                report.max_logit_difference, report.relative_difference
            ),
        });
    }
    Ok(report)
}

/// The format of the base's first matrix.
fn stored_dtype(base: &Path) -> Result<FloatDType, Error> {
    let weights = Weights::open(base)?;
    let first = weights.names().find_map(|name| weights.get(name)).map(|info| info.dtype);
    Ok(match first {
        Some(Dtype::BF16) => FloatDType::BF16,
        Some(Dtype::F16) => FloatDType::F16,
        _ => FloatDType::F32,
    })
}

/// The probe texts as token ids; made-up ids where the folder has no tokenizer.
fn probes(base: &Path, vocab: usize, count: usize) -> Result<Vec<Vec<u32>>, Error> {
    let texts = PROMPTS.iter().take(count);
    if !base.join("tokenizer.json").exists() {
        let made_up = |text: &&str| text.bytes().map(|b| u32::from(b) % vocab as u32).collect();
        return Ok(texts.map(made_up).collect());
    }
    let tokenizer = Tokenizer::from_folder(base)?;
    texts.map(|text| Ok(tokenizer.encode(text, Specials::Plain)?)).collect()
}

fn logits(model: &Decoder, inputs: &[Vec<u32>], device: &Device) -> Result<Vec<Vec<f32>>, Error> {
    let run = |ids: &Vec<u32>| {
        let input = Padded::right(&[ids], 0)?.input(model.config().vocab_size, device)?;
        let last = model.last_token_state(&input);
        Ok(model.logits(last).into_data().iter::<f32>().collect())
    };
    inputs.iter().map(run).collect()
}

/// Everything in a model's folder that is neither weights nor configuration: tokenizer, templates, generation settings.
pub(super) fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), Error> {
    const FILES: [&str; 9] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "chat_template.jinja",
        "generation_config.json",
    ];
    for file in FILES.map(|f| from.join(f)).iter().filter(|f| f.is_file()) {
        // Not a copy: that would be read-only where the original is, and could not be written again.
        write_file(to.join(file.file_name().unwrap_or_default()), &std::fs::read(file).map_err(Error::io(file))?)?;
    }
    Ok(())
}
