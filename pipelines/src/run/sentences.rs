//! What a sentence encoder makes of an index: vectors of node texts, of tasks, of whole workflows, of One-For-All's nodes.

use super::embed::{Embedder, Embeddings};
use super::error::Error;
use crate::recipe::Sentences;
use burn::tensor::FloatDType;
use burn_models::checkpoint::weights_hash;
use burn_models::decoder::DecoderConfig;
use burn_models::encoder::SentenceEncoder;
use burn_models::glow::PromptRows;
use datasets::cache::EmbeddingSpace;
use datasets::index::FloraIndex;
use datasets::templates::one_for_all;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Who reads whole workflows.
// One at a time.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Reader {
    /// A decoder of this shape.
    Decoder(DecoderConfig),
    /// A sentence encoder.
    Encoder(SentenceEncoder),
}

impl Reader {
    /// Numbers of a workflow's vector.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Decoder(config) => config.hidden_size,
            Self::Encoder(encoder) => encoder.dim(),
        }
    }
}

/// The texts of One-For-All's nodes, and their rows behind those of the index's T texts: for every text one as that of a node, one
/// as that of a task that is solved, and one as that of a task that is not; at the end, what is asked. Texts that are only ever
/// tasks, or only nodes, have no vector for the other part.
pub(crate) struct PromptTexts {
    /// The texts.
    pub(crate) texts: Vec<Arc<str>>,
    /// The row of each.
    pub(super) rows: Vec<usize>,
}

/// Rows of the table of sentence vectors with One-For-All's, for so many texts.
pub(crate) fn prompted_rows(texts: usize) -> usize {
    4 * texts + 1
}

/// Where they are.
pub(super) fn prompt_rows(texts: usize) -> PromptRows {
    let texts = texts as u32;
    PromptRows { feature: texts, success: 2 * texts, failure: 3 * texts, purpose: 4 * texts }
}

impl PromptTexts {
    pub(crate) fn new(index: &FloraIndex) -> Self {
        let count = index.texts().len();
        let nodes: HashSet<u32> =
            index.workflows().iter().flat_map(|workflow| workflow.texts.iter().copied()).collect();
        let tasks: HashSet<u32> = index.splits().flat_map(|(_, records)| records.task.iter().copied()).collect();
        let (mut texts, mut rows) = (Vec::new(), Vec::new());
        let mut add = |row: usize, text: String| {
            texts.push(text.into());
            rows.push(row);
        };
        for (number, text) in index.texts().iter().enumerate() {
            if nodes.contains(&(number as u32)) {
                add(count + number, one_for_all::feature(text));
            }
            if tasks.contains(&(number as u32)) {
                add(2 * count + number, one_for_all::success(text));
                add(3 * count + number, one_for_all::failure(text));
            }
        }
        add(4 * count, one_for_all::PURPOSE.to_string());
        Self { texts, rows }
    }
}

impl Embedder<'_> {
    /// Who reads whole workflows, by the folder's `config.json`.
    pub(crate) fn reader(&self) -> Result<Reader, Error> {
        let folder = &self.info.llm;
        let config = std::fs::read(folder.join("config.json")).ok();
        let config: Value = config.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        if folder.join("modules.json").is_file() || config["model_type"] == "bert" {
            return Ok(Reader::Encoder(self.sentence_encoder(folder)?));
        }
        Ok(Reader::Decoder(DecoderConfig::from_folder(folder)?))
    }

    /// A model of sentence vectors.
    pub(crate) fn sentence_encoder(&self, folder: &Path) -> Result<SentenceEncoder, Error> {
        let encoder = SentenceEncoder::from_folder(folder, FloatDType::F32, &self.device)?;
        Ok(match self.info.settings.text_max_length {
            Some(limit) => encoder.with_max_seq_length(limit)?,
            None => encoder,
        })
    }

    /// The workflows of an index as texts: the nodes, a line break, the edges.
    pub(crate) fn workflow_texts(&self, index: &FloraIndex) -> Vec<Arc<str>> {
        let render = self.info.settings.node_render;
        let text = |workflow: u32| {
            let workflow = index.workflow(workflow);
            format!("{}\n{}", render.nodes(&workflow.nodes), render.edges(&workflow.edges)).into()
        };
        (0..index.workflows().len() as u32).map(text).collect()
    }

    /// The vectors of all texts of an index, node texts and tasks, and behind them those that the settings ask for beside.
    pub(crate) fn texts(&self, index: &FloraIndex) -> Result<Option<Embeddings>, Error> {
        let folder = &self.info.text;
        let encoder = self.sentence_encoder(folder)?;
        let Some(mut plain) = self.sentences(folder, &encoder, index.texts(), "")? else { return Ok(None) };
        if self.info.settings.sentences == Sentences::Plain {
            return Ok(Some(plain));
        }
        let PromptTexts { texts, rows } = PromptTexts::new(index);
        let Some(found) = self.sentences(folder, &encoder, &texts, &one_for_all::hash())? else { return Ok(None) };
        let width = plain.table.width;
        plain.table.values.resize(prompted_rows(index.texts().len()) * width, 0.0);
        for (row, vector) in rows.into_iter().zip(found.table.values.chunks_exact(width)) {
            plain.table.values[row * width..(row + 1) * width].copy_from_slice(vector);
        }
        plain.key = found.key;
        plain.computed += found.computed;
        plain.truncated += found.truncated;
        Ok(Some(plain))
    }

    /// The vectors of texts; `template` names the words that they were made with.
    pub(super) fn sentences(
        &self,
        folder: &Path,
        encoder: &SentenceEncoder,
        texts: &[Arc<str>],
        template: &str,
    ) -> Result<Option<Embeddings>, Error> {
        let space = EmbeddingSpace {
            space: "sentence".into(),
            weights: weights_hash(folder)?,
            tokenizer: encoder.tokenizer().hash(),
            template: template.into(),
            pooling: format!("{:?}", encoder.pooling()),
            layer: "final".into(),
            dtype: "F32".into(),
            max_length: encoder.max_seq_length(),
            truncation: "Right".into(),
            normalize: encoder.normalizes(),
        };
        let inputs: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
        self.cached(&space, &inputs, encoder.dim(), |missing, bar| {
            let chosen: Vec<&str> = missing.iter().map(|i| &*texts[*i]).collect();
            let found = encoder.embed(&chosen, self.info.settings.batch_tokens)?;
            Error::unless_finite(folder, &found.values)?;
            bar.inc(missing.len() as u64);
            Ok((found.values, found.truncated))
        })
    }
}
