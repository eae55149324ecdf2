//! What `models` and `data` entries are made into, where they have to be made: once, into the run's folder.

use super::context::StageContext;
use super::error::Error;
use super::folder::write_json;
use crate::hub::Repo;
use crate::recipe::{DecoderInit, EncoderInit, InitModel, TokenizerSource};
use crate::train::stream;
use burn::tensor::FloatDType;
use burn_models::decoder::{DecoderConfig, SaveModel};
use burn_models::encoder::{BertConfig, SentenceEncoder, SentenceOptions};
use burn_models::text::{Builtin, Tokenizer};
use datasets::synthetic::{Synthetic, SyntheticConfig};
use datasets::synthetic_chats::SyntheticChatsConfig;
use std::path::{Path, PathBuf};

/// Written last: says what the folder was made from.
const MADE: &str = "made.json";

/// The folder of a fresh model.
pub(super) fn model(context: &StageContext, key: &str, init: &InitModel) -> Result<PathBuf, Error> {
    let folder = context.run.path().join("sources").join(key);
    let mut settings = serde_json::json!({ "init": init, "seed": context.recipe.seed });
    if let Some(hub) = init.hub_tokenizer() {
        // A branch may stand for another commit by now; the folder's name has it.
        settings["tokenizer"] = context.fetched(&Repo::tokenizer(hub))?.to_string_lossy().into();
    }
    make(context, &folder, &settings, |folder| {
        let seed = stream(context.recipe.seed, &format!("model {key}"), &[]);
        match init {
            InitModel::Decoder(init) => decoder(context, init, seed, folder),
            InitModel::Encoder(init) => encoder(context, init, seed, folder),
        }
    })?;
    Ok(folder)
}

/// The folder of generated records.
pub(super) fn synthetic(context: &StageContext, key: &str, config: &SyntheticConfig) -> Result<PathBuf, Error> {
    let folder = context.run.path().join("sources").join(key);
    let seed = context.recipe.seed;
    let settings = serde_json::json!({ "synthetic": config, "seed": seed });
    make(context, &folder, &settings, |folder| Ok(Synthetic::generate(config, seed)?.write(folder)?))?;
    Ok(folder)
}

/// The folder of generated chats.
pub(super) fn chats(context: &StageContext, key: &str, config: &SyntheticChatsConfig) -> Result<PathBuf, Error> {
    let folder = context.run.path().join("sources").join(key);
    let seed = context.recipe.seed;
    let settings = serde_json::json!({ "synthetic chats": config, "seed": seed });
    make(context, &folder, &settings, |folder| Ok(config.write(folder, seed)?))?;
    Ok(folder)
}

/// Runs `build` unless the folder was made from the same settings before.
fn make(
    context: &StageContext,
    folder: &Path,
    settings: &serde_json::Value,
    build: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let made = folder.join(MADE);
    let known: Option<serde_json::Value> =
        std::fs::read(&made).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if known.as_ref() == Some(settings) {
        return Ok(());
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(Error::io(folder))?;
    }
    context.say(&format!("making {}", folder.display()));
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    build(folder)?;
    write_json(&made, settings)
}

fn tokenizer(context: &StageContext, source: &TokenizerSource, builtin: Builtin) -> Result<Tokenizer, Error> {
    Ok(match source {
        TokenizerSource::Builtin => Tokenizer::builtin(builtin)?,
        TokenizerSource::Path(path) => Tokenizer::from_folder(path)?,
        TokenizerSource::Hub(hub) => Tokenizer::from_folder(&context.fetched(&Repo::tokenizer(hub))?)?,
    })
}

fn decoder(context: &StageContext, init: &DecoderInit, seed: u64, folder: &Path) -> Result<(), Error> {
    let tokenizer = tokenizer(context, &init.tokenizer, Builtin::Decoder)?;
    let config = DecoderConfig {
        bos_token_id: tokenizer.bos_id(),
        eos_token_id: tokenizer.eos_ids().to_vec(),
        pad_token_id: tokenizer.pad_id(),
        ..init.config(tokenizer.vocab_size())
    };
    let model = config.init(seed, FloatDType::F32, &context.device)?;
    model.save(folder, &SaveModel::default())?;
    Ok(tokenizer.save(folder)?)
}

fn encoder(context: &StageContext, init: &EncoderInit, seed: u64, folder: &Path) -> Result<(), Error> {
    let tokenizer = tokenizer(context, &init.tokenizer, Builtin::Encoder)?;
    let config = BertConfig { pad_token_id: tokenizer.fill_id(), ..init.config(tokenizer.vocab_size()) };
    let options = SentenceOptions::default();
    Ok(SentenceEncoder::init(&config, tokenizer, &options, seed, &context.device)?.save(folder)?)
}
