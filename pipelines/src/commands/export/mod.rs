//! `hearth export`: a folder that transformers or PEFT loads.

mod card;
mod origin;

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use burn_lora::ADAPTER_CONFIG;
use burn_models::decoder::{Decoder, DecoderConfig};
use datasets::atomic::{AtomicFolder, write_file};
use serde_json::{Map, json};

use crate::cli::args::{ExportArgs, ExportKind};
use crate::recipe::MergeDtype;
use crate::run::folder::write_json;
use crate::run::{Error, MergeReport, WriteModel, say, write_model};
use card::Card;
use origin::{Origin, refused};

/// Texts that the exported model and what it was made of are compared on.
const PROBES: usize = 4;

/// Writes the decoder of a run, of a stage or of a folder: merged (`config.json`, `generation_config.json`, safetensors,
/// tokenizer, chat template) or as an adapter alone (`adapter_config.json`, `adapter_model.safetensors`), with a model card.
///
/// The folder is made beside its place and renamed when it is complete.
///
/// # Errors
/// A source without a finished decoder, an adapter that does not fit its base, a target that is there already, and weights that
/// do not compute what they were made of. The target is then as it was.
pub fn export(args: &ExportArgs) -> crate::Result<()> {
    let device = args.device.init()?;
    let origin = Origin::find(&args.source, args.adapter.as_deref(), args.kind)?;
    check_target(args, &origin)?;
    let folder = AtomicFolder::create(&args.to).map_err(Error::from)?;
    let said = match args.kind {
        ExportKind::Merged => merged(args, &origin, folder.path(), &device)?,
        ExportKind::Adapter => adapter(args, &origin, folder.path(), &device)?,
    };
    folder.commit().map_err(Error::from)?;
    say(&format!("{}: {said}", args.to.display()));
    Ok(())
}

/// Refuses a target that is there, unless it is to be replaced and is a model's folder that nothing is read from.
fn check_target(args: &ExportArgs, origin: &Origin) -> crate::Result<()> {
    let target = &args.to;
    if !target.exists() {
        return Ok(());
    }
    let taken = |reason: &str| Err(refused(target, reason));
    let is_empty = target.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        return Ok(());
    }
    if !args.force {
        return taken("it is there already: choose another folder, or replace it with --force");
    }
    if !["config.json", ADAPTER_CONFIG].iter().any(|file| target.join(file).is_file()) {
        return taken("it is no model's folder: --force replaces only those");
    }
    let inside = |read: &Path| match (read.canonicalize(), target.canonicalize()) {
        (Ok(read), Ok(target)) => read.starts_with(target),
        _ => false,
    };
    if inside(&origin.base) || origin.adapter.as_deref().is_some_and(inside) {
        return taken("what is exported is read from it: choose another folder");
    }
    Ok(())
}

/// Weights with the adapter added, if there is one; what was done, in words.
fn merged(args: &ExportArgs, origin: &Origin, folder: &Path, device: &Device) -> Result<String, Error> {
    let options = WriteModel { dtype: args.dtype, shard_bytes: args.max_shard_size, prompts: PROBES };
    let report = write_model(&origin.base, origin.adapter.as_deref(), folder, &options, device)?;
    let config = DecoderConfig::from_folder(folder)?;
    complete_generation_config(folder, &config)?;
    let card = Card { origin, config: &config, dtype: report.dtype, kind: ExportKind::Merged };
    write_card(folder, &card)?;
    let MergeReport { dtype, prompts, max_logit_difference, relative_difference, .. } = report;
    Ok(format!(
        "exported as {dtype}; largest difference of a logit {max_logit_difference:.2e} over {prompts} prompts (relative \
         {relative_difference:.2e})"
    ))
}

/// The adapter alone, after it has been attached to its base: names and shapes fit.
fn adapter(args: &ExportArgs, origin: &Origin, folder: &Path, device: &Device) -> crate::Result<String> {
    let Some(adapter) = &origin.adapter else {
        let reason =
            "there is no adapter in it: name one with --adapter, the Sft stage that trained it, or use --kind merged";
        return Err(refused(&args.source, reason));
    };
    if args.dtype != MergeDtype::Keep {
        return Err(refused(&args.source, "an adapter is exported in 32-bit floats: --dtype is for --kind merged"));
    }
    let model = Decoder::from_folder(&origin.base, FloatDType::F32, device).map_err(Error::from)?;
    let model = model.load_adapter(adapter).map_err(Error::from)?;
    let base = origin.base_name();
    let base = base.as_ref().map(|hub| hub.repo.as_str());
    model.save_adapter(folder, base).map_err(Error::from)?;
    let card = Card { origin, config: model.config(), dtype: "float32", kind: ExportKind::Adapter };
    write_card(folder, &card)?;
    Ok("exported the adapter".into())
}

fn write_card(folder: &Path, card: &Card) -> Result<(), Error> {
    Ok(write_file(folder.join("README.md"), card.to_string().as_bytes())?)
}

/// Where the base has no `generation_config.json`: one with the special tokens of its configuration.
fn complete_generation_config(folder: &Path, config: &DecoderConfig) -> Result<(), Error> {
    let path = folder.join("generation_config.json");
    if path.exists() {
        return Ok(());
    }
    let mut settings = Map::from_iter([("_from_model_config".to_string(), json!(true))]);
    settings.extend(config.bos_token_id.map(|id| ("bos_token_id".to_string(), json!(id))));
    match config.eos_token_id[..] {
        [] => {}
        [one] => drop(settings.insert("eos_token_id".into(), json!(one))),
        ref many => drop(settings.insert("eos_token_id".into(), json!(many))),
    }
    settings.extend(config.pad_token_id.map(|id| ("pad_token_id".to_string(), json!(id))));
    write_json(&path, &settings)
}
