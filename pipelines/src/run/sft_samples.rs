//! Answers that a model in training gives to held-out chats.

use super::context::say;
use super::error::Error;
use crate::recipe::Samples;
use crate::train::{self, Measured, MetricSpec, is_dashboard};
use burn_models::decoder::Decoder;
use burn_models::generate::{GenerateConfig, SamplingConfig, generate};
use burn_models::text::Tokenizer;
use datasets::sft::SftDataset;
use datasets::table::RowWriter;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// The score of the answers.
pub(super) const SCORE: &[MetricSpec] = &[MetricSpec::new("sample_score", "Answers", true)];

/// Held-out chats, cut before their last learned part.
pub(super) struct SampleAnswers {
    settings: Samples,
    tokenizer: Arc<Tokenizer>,
    /// Where the answers of a step go: `step-00000100.jsonl`.
    folder: PathBuf,
    prompts: Vec<Vec<u32>>,
    /// The line of each chat, and the text that is expected.
    expected: Vec<(u32, String)>,
}

/// The beginning of a text, for a line.
fn start(text: &str) -> String {
    let mut signs = text.chars();
    let start: String = signs.by_ref().take(80).collect();
    if signs.next().is_some() { start + " …" } else { start }
}

impl SampleAnswers {
    pub(super) fn new(
        settings: &Samples,
        data: &SftDataset,
        tokenizer: &Arc<Tokenizer>,
        folder: PathBuf,
    ) -> Result<Self, Error> {
        let (mut prompts, mut expected) = (Vec::new(), Vec::new());
        for sample in 0..data.len().min(settings.count) {
            let Some((learned, _)) = data.learned(sample).last() else { continue };
            let ids = data.ids(sample);
            prompts.push(ids[..learned.start].to_vec());
            expected.push((data.line(sample), tokenizer.decode(&ids[learned], true)?));
        }
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        Ok(Self { settings: settings.clone(), tokenizer: tokenizer.clone(), folder, prompts, expected })
    }

    /// Writes the answers of a model and gives their mean score, and the first of them.
    pub(super) fn score(&self, model: &Decoder, step: usize) -> Result<Measured, train::Error> {
        self.answer(model, step).map_err(|error| train::Error::Keep(Box::new(error)))
    }

    fn answer(&self, model: &Decoder, step: usize) -> Result<Measured, Error> {
        let config = GenerateConfig {
            sampling: SamplingConfig { temperature: 0.0, ..SamplingConfig::default() },
            max_new_tokens: self.settings.max_new_tokens,
            ..GenerateConfig::default()
        };
        let answers = generate(model, &self.prompts, &config)?;
        let mut writer = RowWriter::create(&self.folder.join(format!("step-{step:08}.jsonl")))?;
        let (mut sum, mut note) = (0.0, None);
        for (at, (answer, (line, expected))) in answers.iter().zip(&self.expected).enumerate() {
            let text = self.tokenizer.decode(&answer.ids, true)?;
            let score = self.settings.metric.score(&text, expected);
            sum += score;
            let prompt = self.tokenizer.decode(&self.prompts[at], false)?;
            let row = json!({
                "line": line, "prompt": prompt, "expected": expected, "answer": text,
                "finish_reason": answer.finish_reason, "score": score,
            });
            if let Some(row) = row.as_object() {
                writer.write(row)?;
            }
            if at == 0 {
                let line = format!("step {step}: {:?}, expected {:?}", start(&text), start(expected));
                if !is_dashboard() {
                    say(&format!("answer of {line}"));
                }
                note = Some(line);
            }
        }
        writer.finish()?;
        Ok(Measured { values: vec![sum / answers.len().max(1) as f64], note })
    }
}
