//! What a recipe will take, before it runs.
//!
//! **Exact** are counts: records, tokens, optimizer steps (unless a stage stops early) and parameters. The data is made and
//! tokenised in a temporary place for that, as the stages themselves do it, and what a recipe names on a hub is fetched.
//! **Estimated** are memory, disk and time: memory by the formula in [`memory`], disk by the sizes of what is written, and time
//! from a few steps of the stage's own learner on this machine (`probe`), which says nothing about another one.
//!
//! A stage that reads what an earlier one trains is planned with the model that the training begins with: it has the same
//! sizes.

pub mod memory;
mod probe;
mod show;
mod stages;

pub use memory::Memory;
pub use show::table;
pub(crate) use stages::sft_memory;

use crate::recipe::{Recipe, Stage};
use crate::run::{Error, Scout};
use serde::Serialize;

/// What a stage will take. What is not known, or makes no sense for the stage, is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StagePlan {
    /// Its name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Records, chats or questions that it works on, those left out not counted. Exact.
    pub records: Option<u64>,
    /// Their tokens, in one pass over them; what records share is counted for each. Exact.
    pub tokens: Option<u64>,
    /// Tokens that the model computes in the first pass over them: with padding, and what records share once. Exact.
    pub computed: Option<u64>,
    /// Optimizer steps, if it does not stop early. Exact.
    pub steps: Option<u64>,
    /// Parameters of all that is loaded to be trained, adapters included. Exact.
    pub parameters: Option<u64>,
    /// Those of them that training changes. Exact.
    pub trainable: Option<u64>,
    /// Bytes that it leaves on the disk, checkpoints included. Estimated.
    pub disk: Option<u64>,
    /// Bytes of memory at the peak, by what they are for. Estimated.
    pub memory: Option<Memory>,
    /// Seconds on this machine. Estimated.
    pub seconds: Option<f64>,
    /// What is to be known about these numbers.
    pub notes: Vec<String>,
}

/// The plan of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The recipe's name.
    pub recipe: String,
    /// Its stages.
    pub stages: Vec<StagePlan>,
    /// All estimated seconds; `None` where a stage that takes time has no estimate.
    pub seconds: Option<f64>,
    /// All estimated bytes on disk.
    pub disk: u64,
    /// The largest estimated memory of a stage, in bytes.
    pub memory: Option<u64>,
}

/// Plans a checked recipe; `probe` measures how long a few steps take.
///
/// # Errors
/// Data or models that cannot be read.
pub(crate) fn plan(recipe: &Recipe, scout: &Scout, probe: bool) -> Result<Plan, Error> {
    let mut stages = Vec::new();
    for (index, stage) in scout.recipe().stages.iter().enumerate() {
        let mut found = stages::plan(scout, index, stage)?;
        found.stage = stage.name().to_owned();
        found.kind = stage.kind().to_string();
        if probe && found.seconds.is_none() {
            probe::measure(scout, index, stage, &mut found)?;
        }
        if found.seconds.is_none() && !matches!(stage, Stage::GraphQuestions(_) | Stage::JudgeChats(_)) {
            let why = if probe { "its time is not estimated" } else { "no probe: its time is not estimated" };
            found.notes.push(why.into());
        }
        stages.push(found);
    }
    Ok(Plan {
        recipe: recipe.name.clone(),
        seconds: stages.iter().map(|stage| stage.seconds).sum(),
        disk: stages.iter().filter_map(|stage| stage.disk).sum(),
        memory: stages.iter().filter_map(|stage| stage.memory.as_ref().map(Memory::total)).max(),
        stages,
    })
}
