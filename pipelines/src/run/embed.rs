//! The stage that turns workflows and texts into vectors.

use super::context::{StageContext, StageEnd};
use super::embedded::{EmbedInfo, EmbeddedData, Keys, Table};
use super::error::Error;
use super::graph_questions::templates;
use super::sentences::{PromptTexts, Reader};
use crate::embedding::embed_tokens;
use crate::progress::bar;
use crate::recipe::{Embed, Sentences, Truncation};
use crate::train::stop_requested;
use burn::tensor::Device;
use burn_models::checkpoint::weights_hash;
use burn_models::decoder::Decoder;
use burn_models::text::{ChatOptions, Message, Tokenizer};
use datasets::cache::{CacheKey, EmbeddingCache, EmbeddingSpace};
use datasets::flora::ReadOptions;
use datasets::index::FloraIndex;
use datasets::templates::GraphPrompt;
use indicatif::ProgressBar;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) fn run(context: &StageContext, stage: &Embed) -> Result<StageEnd, Error> {
    let folder = context.path("data", &stage.data)?;
    let options = ReadOptions { labels: stage.labels.into(), on_bad_edge: stage.on_bad_edge, ..ReadOptions::default() };
    let mut index = FloraIndex::read(&folder, &options)?;
    index.resplit(stage.split)?;
    let summary = index.summary();
    context.say(&format!(
        "{} records, {} workflows, {} texts",
        summary.records.values().sum::<usize>(),
        summary.workflows,
        summary.texts
    ));
    let info = EmbedInfo {
        llm: absolute(context.model_folder("llm", &stage.llm)?)?,
        text: absolute(context.model_folder("text", &stage.text)?)?,
        settings: stage.clone(),
    };
    let embedder = Embedder {
        info: &info,
        cache: context.recipe.cache_dir(),
        device: context.device.clone(),
        label: context.label(),
    };
    let Some(llm) = embedder.workflows(&index)? else { return Ok(StageEnd::Interrupted) };
    let Some(text) = embedder.texts(&index)? else { return Ok(StageEnd::Interrupted) };
    let mut metrics = BTreeMap::new();
    for (name, found) in [("llm", &llm), ("text", &text)] {
        metrics.insert(format!("{name}_rows"), Some(found.table.rows() as f64));
        metrics.insert(format!("{name}_computed"), Some(found.computed as f64));
        metrics.insert(format!("{name}_truncated"), Some(found.truncated as f64));
    }
    if text.truncated > 0 {
        context.say(&format!(
            "{} texts were longer than the sentence encoder reads; their ends were left out",
            text.truncated
        ));
    }
    if llm.truncated > 0 {
        context.say(&format!("{} workflow prompts were longer than `max_length`", llm.truncated));
    }
    EmbeddedData { index, keys: Keys { llm: llm.key, text: text.key }, llm: llm.table, text: text.table }
        .save(&context.folder, &info)?;
    Ok(StageEnd::done(metrics, &["index", "embeddings.safetensors", "embed.json"]))
}

fn absolute(path: PathBuf) -> Result<PathBuf, Error> {
    std::fs::canonicalize(&path).map_err(Error::io(path))
}

/// Makes the vectors of an index, from the cache where they are known.
pub(crate) struct Embedder<'a> {
    pub(crate) info: &'a EmbedInfo,
    pub(crate) cache: PathBuf,
    pub(crate) device: Device,
    pub(crate) label: String,
}

/// What an index gives to embed.
pub(crate) struct Work {
    /// The tokens of every workflow's prompt.
    pub(crate) prompts: Vec<Vec<u32>>,
    /// The number of tokens of every text.
    pub(crate) text_tokens: Vec<usize>,
    /// Numbers of a sentence vector.
    pub(crate) text_width: usize,
}

/// A table, and what it took.
pub(crate) struct Embeddings {
    pub(crate) table: Table,
    /// [`EmbeddingSpace::model_key`]: equal for equal weights, words and settings.
    pub(crate) key: String,
    /// Rows that were not in the cache.
    pub(crate) computed: usize,
    /// Rows whose text was cut, among those computed.
    pub(crate) truncated: usize,
}

impl Embedder<'_> {
    /// What there is to embed.
    pub(crate) fn work(&self, index: &FloraIndex) -> Result<Work, Error> {
        let settings = &self.info.settings;
        let prompts = match self.reader()? {
            Reader::Encoder(encoder) => {
                let ids = |text: &Arc<str>| Ok(encoder.tokenize(text)?.0);
                self.workflow_texts(index).par_iter().map(ids).collect::<Result<_, Error>>()?
            }
            Reader::Decoder(config) => {
                let tokenizer = Tokenizer::from_folder(&self.info.llm)?;
                let templates = templates(settings.templates.as_deref())?;
                let limit = settings.max_length.min(config.max_position_embeddings);
                let encode = |workflow: u32| {
                    let workflow = index.workflow(workflow);
                    let prompt = templates.embed_prompt(&workflow.nodes, &workflow.edges, settings.node_render);
                    encode_prompt(&tokenizer, &prompt, limit, settings.truncation).map(|(ids, _)| ids)
                };
                (0..index.workflows().len() as u32).into_par_iter().map(encode).collect::<Result<_, Error>>()?
            }
        };
        let encoder = self.sentence_encoder(&self.info.text)?;
        let mut texts = index.texts().to_vec();
        if settings.sentences == Sentences::OneForAll {
            texts.extend(PromptTexts::new(index).texts);
        }
        let length = |text: &Arc<str>| encoder.tokenize(text).map(|(ids, _)| ids.len());
        let text_tokens = texts.par_iter().map(length).collect::<burn_models::Result<_>>()?;
        Ok(Work { prompts, text_tokens, text_width: encoder.dim() })
    }

    /// The vectors of all workflows of an index.
    pub(crate) fn workflows(&self, index: &FloraIndex) -> Result<Option<Embeddings>, Error> {
        let settings = &self.info.settings;
        let folder = &self.info.llm;
        let config = match self.reader()? {
            Reader::Decoder(config) => config,
            Reader::Encoder(encoder) => return self.sentences(folder, &encoder, &self.workflow_texts(index), ""),
        };
        let tokenizer = Tokenizer::from_folder(folder)?;
        tokenizer.fits(config.vocab_size)?;
        let templates = templates(settings.templates.as_deref())?;
        let limit = settings.max_length.min(config.max_position_embeddings);
        let space = EmbeddingSpace {
            space: "graph".into(),
            weights: weights_hash(folder)?,
            tokenizer: tokenizer.hash(),
            template: templates.embed_hash(),
            pooling: format!("{:?}", settings.llm_pooling),
            layer: "final".into(),
            dtype: format!("{:?}", settings.dtype),
            max_length: limit,
            truncation: format!("{:?}", settings.truncation),
            normalize: false,
        };
        let prompts: Vec<GraphPrompt> = (0..index.workflows().len() as u32)
            .map(|w| {
                let workflow = index.workflow(w);
                templates.embed_prompt(&workflow.nodes, &workflow.edges, settings.node_render)
            })
            .collect();
        let inputs: Vec<&[u8]> = prompts.iter().map(|p| p.text.as_bytes()).collect();
        let mut loaded = None;
        self.cached(&space, &inputs, config.hidden_size, |missing, bar| {
            let model = match &loaded {
                Some(model) => model,
                None => loaded.insert(Decoder::from_folder(folder, settings.dtype.into(), &self.device)?),
            };
            let encode = |i: &usize| encode_prompt(&tokenizer, &prompts[*i], limit, settings.truncation);
            let encoded: Vec<(Vec<u32>, bool)> = missing.par_iter().map(encode).collect::<Result<_, Error>>()?;
            let (sequences, cut): (Vec<_>, Vec<_>) = encoded.into_iter().unzip();
            let before = bar.position();
            let progress = |done: usize| bar.set_position(before + done as u64);
            let rows = embed_tokens(model, &sequences, settings.llm_pooling, settings.batch_tokens, progress)?;
            Error::unless_finite(folder, &rows)?;
            Ok((rows, cut.into_iter().filter(|cut| *cut).count()))
        })
    }

    /// Looks the inputs up, computes what is missing and keeps it, group by group: what is done is not lost when the process
    /// ends. `None` where it was asked to stop.
    pub(super) fn cached(
        &self,
        space: &EmbeddingSpace,
        inputs: &[&[u8]],
        dim: usize,
        mut compute: impl FnMut(&[usize], &ProgressBar) -> Result<(Vec<f32>, usize), Error>,
    ) -> Result<Option<Embeddings>, Error> {
        let root = self.cache.join("embeddings");
        let mut cache = EmbeddingCache::open(&root, &space.space, &space.model_key(), dim)?;
        let keys: Vec<CacheKey> = inputs.iter().map(|input| space.key(input)).collect();
        let mut found = cache.get_many(&keys)?;
        let bar = bar(&self.label, found.misses.len());
        let mut truncated = 0;
        for group in found.misses.chunks(GROUP) {
            if stop_requested() {
                return Ok(None);
            }
            let (rows, cut) = compute(group, &bar)?;
            truncated += cut;
            for (row, place) in rows.chunks_exact(dim).zip(group) {
                found.rows[place * dim..(place + 1) * dim].copy_from_slice(row);
            }
            let computed: Vec<CacheKey> = group.iter().map(|i| keys[*i]).collect();
            cache.append(&computed, &rows)?;
        }
        bar.finish_and_clear();
        let computed = found.misses.len();
        let table = Table { values: found.rows, width: dim };
        Ok(Some(Embeddings { table, key: space.model_key(), computed, truncated }))
    }
}

/// Inputs that are computed before they are kept: enough to sort by length, few enough to lose.
const GROUP: usize = 512;

/// The tokens of a prompt, at most `limit`, and whether something had to be left out.
///
/// `KeepSuffix` shortens the node section by whole characters, as few as possible, so that the request and the words that
/// begin the answer stay.
fn encode_prompt(
    tokenizer: &Tokenizer,
    prompt: &GraphPrompt,
    limit: usize,
    truncation: Truncation,
) -> Result<(Vec<u32>, bool), Error> {
    let encode = |text: &str| tokenizer.encode_chat(&[Message::user(text)], None, &ChatOptions::prompt());
    if truncation == Truncation::Right {
        let mut ids = encode(&prompt.text)?;
        let cut = ids.len() > limit;
        ids.truncate(limit);
        return Ok((ids, cut));
    }
    let fitted = prompt.fit(limit, |text| {
        let ids = encode(text)?;
        let size = ids.len();
        Ok::<_, Error>((ids, size))
    })?;
    let mut ids = fitted.value;
    ids.truncate(limit);
    Ok((ids, fitted.cut))
}
