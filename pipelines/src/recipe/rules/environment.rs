//! What the machine has to offer: devices, number formats, files and folders. Names and small files only: nothing here
//! reads weights or data.

use std::fs;
use std::path::{Path, PathBuf};

use burn_models::decoder::DecoderConfig;
use burn_models::encoder::BertConfig;
use datasets::Split;
use serde::Deserialize;

use super::sources::inputs;
use super::{Place, Report, chats};
use crate::Error;
use crate::device::DeviceSpec;
use crate::hub::{Hub, Repo};
use crate::recipe::document::{load_templates, read_small, similar};
use crate::recipe::{Artifact, DataFormat, DataSource, Dtype, InitModel, ModelSource, Source, Stage, TokenizerSource};

pub(super) fn check(report: &mut Report, hub: &Hub) {
    let recipe = report.recipe();
    device(report);
    if recipe.runs.exists() && !recipe.runs.is_dir() {
        report.add(&Place::of("runs"), format!("{} is not a folder", recipe.runs.display()));
    }
    if let Some(cache) = recipe.cache.as_ref().filter(|cache| cache.exists() && !cache.is_dir()) {
        report.add(&Place::of("cache"), format!("{} is not a folder", cache.display()));
    }
    for (key, model) in &recipe.models {
        let place = Place::of("models").key(key);
        match model {
            ModelSource::Path(path) => model_folder(report, &place, path, None),
            ModelSource::Hub(model) => {
                if let Some(path) = fetched(report, &place, hub, &Repo::model(model)) {
                    model_folder(report, &place, &path, None);
                }
            }
            ModelSource::Init(InitModel::Decoder(init)) => tokenizer(report, &place, hub, &init.tokenizer),
            ModelSource::Init(InitModel::Encoder(init)) => tokenizer(report, &place, hub, &init.tokenizer),
        }
    }
    for (key, data) in &recipe.data {
        data_entry(report, hub, key, data, &[]);
    }
    for (index, stage) in recipe.stages.iter().enumerate() {
        for (place, field, source) in inputs(index, stage) {
            input(report, hub, &place, source, stage, field);
        }
        if let Stage::JudgePrompted(prompted) = stage
            && let Some(name) = prompted.client.key.as_deref().and_then(|key| key.strip_prefix("env:"))
            && std::env::var_os(name).is_none_or(|key| key.is_empty())
        {
            let problem = report.at(&Place::stage(index).at("client.key"), format!("{name} is not set"));
            report.push(problem.help(format!("put the key into the environment: export {name}=…")));
        }
        if let Some(path) = stage.templates() {
            let place = Place::stage(index).at("templates");
            match load_templates(path) {
                Ok(_) => {}
                Err(Error::Recipe(problems)) => problems.into_iter().for_each(|problem| report.push(problem)),
                Err(error) => report.add(&place, error.to_string()),
            }
        }
    }
}

fn device(report: &mut Report) {
    let recipe = report.recipe();
    let device = recipe.device;
    let further = recipe.further_devices.iter().enumerate();
    let places = further.map(|(nth, device)| (Place::of("further_devices").key(nth), *device));
    let named: Vec<(Place, DeviceSpec)> = std::iter::once((Place::of("device"), device)).chain(places).collect();
    for (nth, (place, device)) in named.iter().enumerate() {
        if let Some(feature) = device.missing_feature() {
            let problem = report.at(place, format!("device {device} is not compiled into this build"));
            report.push(problem.help(format!("build with `--features {feature}`")));
        }
        #[cfg(feature = "remote")]
        if matches!(device, DeviceSpec::Remote(_))
            && let Err(problem) = crate::lend::token()
        {
            report.add(place, problem);
        }
        if nth == 0 && matches!(device, DeviceSpec::Remote(_)) {
            let problem = report.at(place, format!("device {device} shares the work of another one"));
            report.push(
                problem.help("name it under `further_devices`: alone, every operation would wait for the network"),
            );
        }
        if matches!(device, DeviceSpec::Cuda(_) | DeviceSpec::Remote(_))
            && named[..nth].iter().any(|(_, before)| before == device)
        {
            report.add(place, format!("device {device} is named twice"));
        }
        if nth > 0 && *device == DeviceSpec::Auto {
            report.add(place, "a further device is named, not chosen: Cuda(1), or Flex");
        }
    }
    for (index, stage) in recipe.stages.iter().enumerate() {
        let dtype = match stage {
            Stage::Sft(stage) => stage.dtype,
            Stage::Embed(stage) => stage.dtype,
            Stage::ValueHeadTrain(stage) => stage.dtype,
            Stage::JudgeEval(stage) => stage.dtype,
            Stage::GraphQuestionEval(stage) => stage.dtype,
            _ => Dtype::F32,
        };
        if let Some((_, device)) = named.iter().find(|(_, device)| !device.supports(dtype)) {
            let message = format!("device {device} cannot compute in {dtype:?}");
            let problem = report.at(&Place::stage(index).at("dtype"), message);
            report.push(problem.help("use F32, or another device"));
        }
    }
}

/// What a stage reads from disk.
fn input(report: &mut Report, hub: &Hub, place: &Place, source: &Source, stage: &Stage, field: &str) {
    let recipe = report.recipe();
    let needed = stage.kind().needs(field);
    let splits: &[Split] = match stage {
        Stage::Embed(_) | Stage::JudgeChats(_) => &Split::ALL,
        Stage::ValueHeadTrain(stage) if stage.eval.is_some() => &[Split::Train, Split::Val],
        Stage::JudgeEval(stage) => std::slice::from_ref(&stage.split),
        Stage::GlowEval(stage) => std::slice::from_ref(&stage.split),
        Stage::JudgePrompted(stage) => std::slice::from_ref(&stage.split),
        _ => &[Split::Train],
    };
    match source {
        Source::Model(key) => {
            let path = match recipe.models.get(key) {
                Some(ModelSource::Path(path)) => Some(path.clone()),
                Some(ModelSource::Hub(model)) => hub.cached(&Repo::model(model)).map(|(path, _)| path),
                _ => None,
            };
            if let Some(path) = path {
                model_of_sort(report, place, &path, needed);
            }
        }
        Source::Data(key) => {
            if let Some(data) = recipe.data.get(key) {
                data_entry(report, hub, key, data, splits);
            }
        }
        // Of chats it is those that were held out that are asked.
        Source::Path(path) if matches!(stage, Stage::GraphQuestionEval(_)) && needed == Artifact::Chats => {
            match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => {
                    folder_with(report, place, path, &["test.jsonl"]);
                }
                Ok(_) => {}
                Err(_) => missing(report, place, path, "file"),
            }
        }
        Source::Stage(_) => {}
        Source::Hub(model) => {
            if let Some(path) = fetched(report, place, hub, &Repo::model(model)) {
                model_folder(report, place, &path, Some(needed));
            }
        }
        Source::Path(path) => match needed {
            Artifact::Flora => flora(report, place, path, splits),
            Artifact::Chats => chats::path(report, place, path),
            Artifact::Decoder | Artifact::Encoder | Artifact::Reader => model_folder(report, place, path, Some(needed)),
            Artifact::Adapter => {
                let path = within(path, "adapter", "adapter_config.json");
                folder_with(report, place, &path, &["adapter_config.json", "adapter_model.safetensors"]);
            }
            Artifact::ValueHead => {
                let path = within(path, "best", "value_head.json");
                folder_with(report, place, &path, &["value_head.json", "model.safetensors"]);
            }
            Artifact::Embeddings | Artifact::Predictor => {
                folder_with(report, place, path, &["manifest.json"]);
            }
        },
    }
}

fn data_entry(report: &mut Report, hub: &Hub, key: &str, data: &DataSource, splits: &[Split]) {
    let place = Place::of("data").key(key);
    match data {
        DataSource::Flora(path) => flora(report, &place, path, splits),
        DataSource::Chat(data) => chats::files(report, hub, &place, data),
        DataSource::Synthetic(_) | DataSource::SyntheticChats(_) => {}
        DataSource::Hub(data) => {
            // A copy that may be older than what is on the hub says nothing about that.
            let repo = Repo::data(data);
            let path = fetched(report, &place, hub, &repo).filter(|_| hub.is_offline());
            match (path, data.format) {
                (Some(path), DataFormat::Flora) => flora(report, &place, &path, splits),
                (Some(path), DataFormat::Chat) => chats::path(report, &place, &path),
                (None, _) => {}
            }
        }
    }
}

/// The folder of what was fetched from a hub, unless there is more to fetch; reports what is not there and cannot be.
pub(super) fn fetched(report: &mut Report, place: &Place, hub: &Hub, repo: &Repo) -> Option<PathBuf> {
    let cached = hub.cached(repo);
    if cached.is_none() && hub.is_offline() {
        let message = format!("{repo} is not in {}, and HF_HUB_OFFLINE forbids to fetch it", hub.cache().display());
        let problem = report.at(place, message);
        report.push(problem.help("fetch it once without, or copy the cache here"));
    }
    cached.filter(|(_, complete)| *complete || hub.is_offline()).map(|(path, _)| path)
}

/// The folder itself, or, of a stage's folder, the part with the model or adapter: the one with the file `name`.
fn within(path: &Path, part: &str, name: &str) -> PathBuf {
    let inner = path.join(part);
    if !path.join(name).exists() && inner.join(name).exists() { inner } else { path.to_owned() }
}

fn flora(report: &mut Report, place: &Place, path: &Path, splits: &[Split]) {
    if !folder(report, place, path) {
        return;
    }
    for split in splits {
        match split.files(path) {
            Ok(files) if files.is_empty() => {
                report.add(place, format!("{} has no {}.jsonl", path.display(), split.name()));
            }
            Ok(_) => {}
            Err(error) => report.add(place, error.to_string()),
        }
    }
}

/// A model in Hugging Face layout; `needed` if the place says of which sort.
fn model_folder(report: &mut Report, place: &Place, path: &Path, needed: Option<Artifact>) {
    let path = &within(path, "model", "config.json");
    if !nested(path) {
        if !folder_with(report, place, path, &["config.json", "tokenizer.json"]) {
            return;
        }
        let weights = ["model.safetensors", "model.safetensors.index.json"];
        if !weights.iter().any(|name| path.join(name).is_file()) {
            report.add(place, format!("{} has neither {} nor {}", path.display(), weights[0], weights[1]));
        }
    }
    match model_sort(path) {
        Ok(_) => {
            if let Some(needed) = needed {
                model_of_sort(report, place, path, needed);
            }
        }
        Err(reason) => report.add(place, reason),
    }
}

/// Whether a folder is one of sentence-transformers with the encoder in a folder of its own, as older versions wrote them.
fn nested(path: &Path) -> bool {
    path.join("modules.json").is_file() && !path.join("config.json").is_file()
}

/// Whether a folder's model is of the sort that a stage needs.
fn model_of_sort(report: &mut Report, place: &Place, path: &Path, needed: Artifact) {
    let path = &within(path, "model", "config.json");
    // What cannot be read is reported where the folder is named.
    if let Ok(found) = model_sort(path)
        && needed.is_model()
        && !needed.takes(found)
    {
        report.add(place, format!("{} is {found}, but {needed} is needed here", path.display()));
    }
}

/// The sort of model that a folder holds, by its `config.json`; if it is one that cannot be loaded, why.
fn model_sort(folder: &Path) -> Result<Artifact, String> {
    #[derive(Deserialize)]
    struct Config {
        model_type: String,
    }
    if nested(folder) {
        return Ok(Artifact::Encoder);
    }
    let path = folder.join("config.json");
    let bytes = read_small(&path).map_err(|error| error.to_string())?;
    let config: Config = serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    let read = match config.model_type.as_str() {
        "bert" => BertConfig::from_folder(folder).map(|_| Artifact::Encoder),
        // Anything else is a decoder or not supported, and the decoder's reader knows which.
        _ => DecoderConfig::from_folder(folder).map(|_| Artifact::Decoder),
    };
    read.map_err(|error| error.to_string())
}

fn tokenizer(report: &mut Report, place: &Place, hub: &Hub, tokenizer: &TokenizerSource) {
    let place = place.at("tokenizer");
    let path = match tokenizer {
        TokenizerSource::Path(path) => Some(path.clone()),
        TokenizerSource::Hub(model) => fetched(report, &place, hub, &Repo::tokenizer(model)),
        TokenizerSource::Builtin => None,
    };
    if let Some(path) = path {
        folder_with(report, &place, &path, &["tokenizer.json"]);
    }
}

/// Whether `path` is a folder with these files; reports what is missing.
fn folder_with(report: &mut Report, place: &Place, path: &Path, names: &[&str]) -> bool {
    if !folder(report, place, path) {
        return false;
    }
    let missing: Vec<&str> = names.iter().copied().filter(|name| !path.join(name).is_file()).collect();
    if !missing.is_empty() {
        report.add(place, format!("{} has no {}", path.display(), missing.join(" and no ")));
    }
    missing.is_empty()
}

/// Whether `path` is a folder; reports it if not.
fn folder(report: &mut Report, place: &Place, path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return true,
        Ok(_) => report.add(place, format!("{} is a file, but a folder is needed here", path.display())),
        Err(_) => missing(report, place, path, "folder"),
    }
    false
}

pub(super) fn missing(report: &mut Report, place: &Place, path: &Path, what: &str) {
    let problem = report.at(place, format!("there is no {what} {}", path.display()));
    report.push(match similar(path) {
        Some(near) => problem.label(format!("did you mean {near}?")),
        None => problem.help("relative paths count from the working directory"),
    });
}
