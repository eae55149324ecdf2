//! What a stage will train on: samples as the tokenizer gives them back, with what is learned of them, and how they are packed.
//!
//! | module | |
//! | --- | --- |
//! | [`text`] | for a terminal |
//! | [`html`] | one page for a browser, without anything from elsewhere |

mod html;
mod text;

pub use html::html;
pub(crate) use text::visible;
pub use text::{Style, text};

use crate::recipe::{Recipe, Sft, Stage};
use crate::run::{Chats, Error, Passes, Scout, chats_table, sample_options, sft_steps, step_plan};
use burn_models::decoder::DecoderConfig;
use burn_models::text::Tokenizer;
use datasets::sft::{SftCounts, SftDataset, SourceReport, StepPlan};
use std::path::PathBuf;

/// What stands between tokens, where they are told apart.
const BORDER: &str = "│";

/// A piece of a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// As the tokenizer gives it back.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// How much each of them counts in the loss; 0 where it is only read.
    pub weight: f32,
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The line of its file, counted through all files.
    pub line: u32,
    /// Its tokens.
    pub tokens: usize,
    /// Those that are learned.
    pub learned: usize,
    /// Its text.
    pub pieces: Vec<Piece>,
}

/// A sample's place in a forward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The line of its file.
    pub line: u32,
    /// Its tokens.
    pub tokens: usize,
    /// How many of them the sample before it has too, and are computed once.
    pub shared: usize,
}

/// Samples that go through the model together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// Tokens that are computed, padding included.
    pub computed: usize,
    /// The samples in their order.
    pub samples: Vec<Placed>,
}

/// Everything that is shown of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// The recipe's name.
    pub recipe: String,
    /// The stage's name.
    pub stage: String,
    /// The files with the chats.
    pub files: Vec<PathBuf>,
    /// What became of the chats.
    pub counts: SftCounts,
    /// The same by source.
    pub sources: Vec<SourceReport>,
    /// The tokens of every sample.
    pub lengths: Vec<u32>,
    /// Samples in the order of training.
    pub samples: Vec<Sample>,
    /// The passes of the first optimizer step.
    pub first_step: Vec<Pass>,
    /// How samples share a pass, as the recipe says.
    pub packing: String,
    /// Tokens of the chats of the first epoch, and those of them that are learned.
    pub tokens: (u64, u64),
    /// Tokens that are computed in the first epoch, padding included.
    pub computed: usize,
    /// Optimizer steps of an epoch.
    pub steps_per_epoch: usize,
    /// Optimizer steps of the stage.
    pub steps: usize,
}

/// The samples of an Sft stage with its tokenizer and plan.
pub(crate) struct Prepared {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) data: SftDataset,
    pub(crate) plan: StepPlan,
    pub(crate) passes: Passes,
}

impl Prepared {
    /// Makes and reads what the stage reads.
    pub(crate) fn new(scout: &Scout, index: usize, stage: &Sft) -> Result<Self, Error> {
        scout.look(index, |context| {
            let folder = context.model_folder("model", &stage.model)?;
            let chats = Chats::of(context, &stage.data)?;
            let tokenizer = Tokenizer::from_folder(&folder)?;
            let config = DecoderConfig::from_folder(&folder)?;
            tokenizer.fits(config.vocab_size)?;
            let options = sample_options(stage, config.max_position_embeddings);
            let data = chats.train_samples(context, &tokenizer, &options)?;
            let passes = Passes::choose(stage, &config, &data, context.recipe.device.free_memory())?;
            let plan = step_plan(stage, &data, passes.micro_tokens, context.recipe.seed)?;
            Ok(Self { files: chats.files(), tokenizer, data, plan, passes })
        })
    }

    /// The passes of a step of the first epoch.
    fn passes(&self, step: usize) -> Result<Vec<Pass>, Error> {
        let pass = |samples: &Vec<u32>| {
            let batch = self.data.batch(samples, self.plan.packing(), self.tokenizer.fill_id())?;
            let mut before: &[u32] = &[];
            let placed = batch.samples.iter().map(|sample| {
                let ids = self.data.ids(*sample as usize);
                let shared = match self.plan.packing() {
                    datasets::sft::Packing::SharedPrefix => before.iter().zip(ids).take_while(|(a, b)| a == b).count(),
                    _ => 0,
                };
                before = ids;
                Placed { line: self.data.line(*sample as usize), tokens: ids.len(), shared }
            });
            let samples = placed.collect();
            Ok(Pass { computed: batch.computed(), samples })
        };
        self.plan.epoch(0).step(step).iter().map(pass).collect()
    }

    /// Tokens computed in the first epoch, padding included, and the samples of its largest pass.
    pub(crate) fn computed(&self) -> Result<(usize, Vec<u32>), Error> {
        let (mut all, mut most, mut largest) = (0, 0, Vec::new());
        let epoch = self.plan.epoch(0);
        for step in 0..epoch.len() {
            for samples in epoch.step(step) {
                let computed = self.data.batch(&samples, self.plan.packing(), self.tokenizer.fill_id())?.computed();
                all += computed;
                if computed > most {
                    (most, largest) = (computed, samples);
                }
            }
        }
        Ok((all, largest))
    }

    /// Tokens computed in step `step` of the whole stage, padding included.
    pub(crate) fn computed_in(&self, step: usize) -> Result<usize, Error> {
        let (epoch, step) = self.plan.position(step);
        let passes = self.plan.epoch(epoch).step(step);
        let batch = |samples: &Vec<u32>| self.data.batch(samples, self.plan.packing(), self.tokenizer.fill_id());
        Ok(passes.iter().map(|samples| batch(samples).map(|b| b.computed())).sum::<datasets::Result<usize>>()?)
    }

    fn sample(&self, number: u32, borders: bool) -> Result<Sample, Error> {
        let number = number as usize;
        let ids = self.data.ids(number);
        let mut pieces = Vec::new();
        let mut add = |range: std::ops::Range<usize>, weight: f32| -> Result<(), Error> {
            if let Some(part) = ids.get(range).filter(|part| !part.is_empty()) {
                // A character whose bytes fall into two pieces is shown as what is not one.
                let text = |ids: &[u32]| {
                    self.tokenizer.decode_exact(ids, false).or_else(|_| self.tokenizer.decode(ids, false))
                };
                let text = match borders {
                    false => text(part)?,
                    true => part.chunks(1).map(text).collect::<Result<Vec<_>, _>>()?.join(BORDER),
                };
                pieces.push(Piece { text, tokens: part.len(), weight });
            }
            Ok(())
        };
        let (mut at, mut learned) = (0, 0);
        for (span, weight) in self.data.learned(number) {
            add(at..span.start, 0.0)?;
            (at, learned) = (span.end, learned + span.len());
            add(span, weight)?;
        }
        add(at..ids.len(), 0.0)?;
        Ok(Sample { line: self.data.line(number), tokens: ids.len(), learned, pieces })
    }
}

/// What stage `index`, an Sft stage, will train on; `samples` of it in full, with `borders` between their tokens.
///
/// # Errors
/// Another sort of stage, or data that cannot be read.
pub(crate) fn preview(
    recipe: &Recipe,
    scout: &Scout,
    index: usize,
    samples: usize,
    borders: bool,
) -> Result<Preview, Error> {
    let Some(Stage::Sft(stage)) = scout.recipe().stages.get(index) else {
        return Err(Error::Stage { stage: recipe.name.clone(), reason: "this is no Sft stage".into() });
    };
    let prepared = Prepared::new(scout, index, stage)?;
    let epoch = prepared.plan.epoch(0);
    let order = (0..epoch.len()).flat_map(|step| epoch.samples(step).to_vec()).take(samples);
    let steps_per_epoch = prepared.plan.steps_per_epoch();
    Ok(Preview {
        recipe: recipe.name.clone(),
        stage: recipe.stages[index].name().to_owned(),
        files: prepared.files.clone(),
        counts: prepared.data.counts(),
        sources: prepared.data.sources().to_vec(),
        lengths: prepared.data.lengths(),
        samples: order.map(|number| prepared.sample(number, borders)).collect::<Result<_, _>>()?,
        first_step: prepared.passes(0)?,
        packing: format!("{:?}", stage.packing),
        tokens: prepared.data.tokens(epoch.all()),
        computed: prepared.computed()?.0,
        steps_per_epoch,
        steps: sft_steps(stage, steps_per_epoch),
    })
}

impl Preview {
    /// How many samples have which length, a line for each of at most ten classes of equal width: `  1–64 ████ 12`.
    fn histogram(&self) -> Vec<String> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        // The smallest of 1, 2, 4, … that gives so few classes.
        let width = longest.div_ceil(10).max(1).next_power_of_two();
        let mut classes = vec![0usize; longest.div_ceil(width) as usize];
        for length in &self.lengths {
            if let Some(count) = classes.get_mut((length.saturating_sub(1) / width) as usize) {
                *count += 1;
            }
        }
        let most = classes.iter().copied().max().unwrap_or(1).max(1);
        let digits = (classes.len() as u32 * width).to_string().len();
        let line = |(class, count): (usize, &usize)| {
            let (first, last) = (class as u32 * width + 1, (class as u32 + 1) * width);
            let bar = "█".repeat((40 * count).div_ceil(most));
            format!("{first:>digits$}–{last:<digits$} {bar:<40} {count}")
        };
        classes.iter().enumerate().map(line).collect()
    }

    /// What it comes to, in sentences.
    fn summary(&self) -> Vec<String> {
        let SftCounts { read, overlong, longest, .. } = self.counts;
        let (tokens, supervised) = self.tokens;
        let share = 100.0 * supervised as f64 / tokens.max(1) as f64;
        let saved = tokens as f64 / self.computed.max(1) as f64;
        let mut lines = vec![format!(
            "{} chats, {overlong} of {read} left out as too long; the longest has {longest} tokens",
            self.counts.kept()
        )];
        // One source of which everything was taken is told by that.
        let plain = self.counts.kept() + overlong == read && self.counts.truncated == 0;
        if self.sources.len() > 1 || !plain {
            lines.extend(chats_table(&self.sources));
            lines.extend(self.sources.iter().flat_map(|source| &source.examples).map(|e| format!("left out: {e}")));
        } else if let [source] = self.sources.as_slice() {
            lines.push(format!("{}, format {}", source.source, source.format));
        }
        lines.extend([
            format!("{tokens} tokens an epoch, {supervised} of them learned ({share:.1} %)"),
            format!("{} computed an epoch with packing {}: {saved:.2} tokens for each", self.computed, self.packing),
            format!("{} optimizer steps an epoch, {} in all", self.steps_per_epoch, self.steps),
        ]);
        lines
    }
}
