//! The command line.

mod generation;

pub(crate) use generation::MOST_ANSWERS;
pub use generation::{ChatArgs, Filters, GenerateArgs};

use std::path::PathBuf;

use burn::tensor::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::{Case, Size};
use crate::device::DeviceSpec;
use crate::recipe::{Dtype, MergeDtype};
use crate::{Error, Result};

/// Trains and evaluates models of agentic workflows, one recipe per experiment.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// More about what goes on; HEARTH_LOG takes a filter such as `hearth=trace`
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a recipe: finished stages are skipped, an interrupted one goes on where it stopped
    Run(RunArgs),
    /// Check recipes: syntax, names, ranges, files. Changes nothing
    Check(CheckArgs),
    /// Show what a recipe will take: records, tokens, steps, parameters, memory, disk, time. Starts nothing
    Plan(PlanArgs),
    /// Show what a stage will train on: the text with what is learned of it, token counts, packing. Starts nothing
    Preview(PreviewArgs),
    /// Show the recipes in a folder, and how far runs are
    List(ListArgs),
    /// The reference of the recipe language: stages, their settings and defaults
    Docs(DocsArgs),
    /// Show what runs gave, and draw their plots
    Report(ReportArgs),
    /// Look into data, make some, change its form
    #[command(subcommand)]
    Data(DataCommand),
    /// Turn texts into vectors
    Embed(EmbedArgs),
    /// Log-probabilities of given tokens
    Score(ScoreArgs),
    /// Answer prompts
    Generate(GenerateArgs),
    /// Write a trained decoder as a folder that transformers or peft loads, with a model card
    Export(ExportArgs),
    /// Talk to a model
    Chat(ChatArgs),
    /// Work with LoRA adapters
    #[command(subcommand)]
    Lora(LoraCommand),
    /// Use a trained GLOW predictor
    #[command(subcommand)]
    Glow(GlowCommand),
    /// Let trainings on other hosts compute on a device of this one
    ///
    /// Only for a network on which everybody is trusted: the connection is not encrypted. HEARTH_DEVICE_TOKEN, 16 characters at least,
    /// has to be the same in the environment of both sides.
    #[cfg(feature = "remote")]
    Lend(LendArgs),
    /// Measure speed and memory, beside the usual way in Python if there is one at hand
    Bench(BenchArgs),
}

/// A recipe with the changes that the command line makes to it.
#[derive(Debug, Args)]
pub struct RecipeChanges {
    /// Change a value, as in stages.sft.optim.lr=1e-4 or models.llm=Path("qwen"); may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub sets: Vec<String>,
    /// Auto, Flex, Ndarray or Cuda(0), instead of the recipe's device
    #[arg(long)]
    pub device: Option<String>,
}

/// `hearth lend`.
#[cfg(feature = "remote")]
#[derive(Debug, Args)]
pub struct LendArgs {
    /// Address and port to listen at
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7000")]
    pub listen: std::net::SocketAddr,
    /// What to lend: Auto, Flex or Cuda(0)
    #[arg(long, default_value_t)]
    pub device: DeviceSpec,
}

/// `hearth run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The recipe's file
    pub recipe: PathBuf,
    /// What to change in it.
    #[command(flatten)]
    pub changes: RecipeChanges,
    /// Run this stage alone; what it reads has to be finished
    #[arg(long, value_name = "STAGE", conflicts_with = "from")]
    pub only: Option<String>,
    /// Run this stage and those after it; what they read has to be finished
    #[arg(long, value_name = "STAGE")]
    pub from: Option<String>,
    /// Start the chosen stages again, even finished ones
    #[arg(long)]
    pub fresh: bool,
    /// Print the results as one JSON object: stage → metric → number
    #[arg(long)]
    pub json: bool,
}

/// `hearth check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The recipes' files
    #[arg(required = true, value_name = "RECIPE")]
    pub recipes: Vec<PathBuf>,
    /// What to change in them.
    #[command(flatten)]
    pub changes: RecipeChanges,
    /// The recipe is for another machine: do not look for its device, models and data here
    #[arg(long)]
    pub elsewhere: bool,
    /// Print the resolved recipe, every default in its place
    #[arg(long)]
    pub print: bool,
}

/// `hearth plan`. Counts are exact; memory, disk and time are estimated. Data that stages make is made in a temporary place,
/// and what the recipe names on a hub is fetched.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The recipe's file
    pub recipe: PathBuf,
    /// What to change in it.
    #[command(flatten)]
    pub changes: RecipeChanges,
    /// Do not run a few steps of every training to estimate its time
    #[arg(long)]
    pub no_probe: bool,
    /// Print one JSON object: bytes and seconds
    #[arg(long)]
    pub json: bool,
}

/// `hearth preview`. The stages that make the data are done in a temporary place, and what the recipe names on a hub is
/// fetched.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// The recipe's file
    pub recipe: PathBuf,
    /// An Sft stage by its name [default: the first one]
    pub stage: Option<String>,
    /// What to change in the recipe.
    #[command(flatten)]
    pub changes: RecipeChanges,
    /// How many samples to show, in the order of training
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub samples: usize,
    /// Put ⟦ ⟧ around what is learned instead of colour; so it is too where there is no terminal or NO_COLOR is set
    #[arg(long)]
    pub plain: bool,
    /// Put │ between tokens; what of a character falls into several of them shows as �
    #[arg(long)]
    pub tokens: bool,
    /// Write one page with everything, to look at in a browser, instead
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `hearth list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Where to look for recipes, folders below it included
    #[arg(default_value = "recipes", value_name = "DIR")]
    pub folder: PathBuf,
    /// The folder of all runs
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub runs: PathBuf,
    /// Print one JSON object: `recipes` and `runs`
    #[arg(long)]
    pub json: bool,
}

/// `hearth docs`.
#[derive(Debug, Args)]
pub struct DocsArgs {
    /// A stage or a type, such as Sft, glow-train or LoraConfig; without, all of them by name
    #[arg(value_name = "STAGE|TYPE")]
    pub name: Option<String>,
}

/// `hearth report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folders of runs; several are put side by side
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Print one JSON object instead of tables: stage → metric → number, for several runs by their names
    #[arg(long)]
    pub json: bool,
}

/// `hearth data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Count what is in a folder of FLORA records, or in chats
    Stats(StatsArgs),
    /// Write questions about the workflows of FLORA folders: train.jsonl, test.jsonl and questions.json
    GraphQuestions(QuestionsArgs),
    /// Write generated FLORA records with a planted rule: train.jsonl, val.jsonl and test.jsonl
    Synthesize(SynthesizeArgs),
    /// Change records between JSON lines, compressed ones (.jsonl.zst) and Parquet
    Convert(ConvertArgs),
}

/// `hearth data stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Folder with train.jsonl, val.jsonl or test.jsonl, or shards of them; .zst is read too. Of chats also a file, or a pattern
    /// in quotes, of JSON lines, a JSON array or Parquet
    #[arg(value_name = "PATH")]
    pub folder: PathBuf,
    /// Folder of a tokenizer: counts tokens, and texts of more than 256 and 512 of them
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `hearth data graph-questions`.
#[derive(Debug, Args)]
pub struct QuestionsArgs {
    /// Folders with train.jsonl, or shards of it
    #[arg(required = true, value_name = "DIR")]
    pub data: Vec<PathBuf>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Rounds of questions per workflow
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: u32,
    /// Workflows held out for test.jsonl, at most a fifth of all
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub test_workflows: usize,
    /// A RON file with prompt templates of your own
    #[arg(long, value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Where all draws come from
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
}

/// `hearth data synthesize`.
#[derive(Debug, Args)]
pub struct SynthesizeArgs {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Distinct workflows
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub workflows: usize,
    /// Distinct tasks
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub tasks: usize,
    /// Records for training
    #[arg(long, value_name = "N", default_value_t = 1600)]
    pub train: usize,
    /// Records for validation
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub val: usize,
    /// Records for testing
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub test: usize,
    /// The fewest nodes of a workflow
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub min_nodes: usize,
    /// The most nodes of a workflow
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub max_nodes: usize,
    /// The share of labels that are turned over
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub label_noise: f64,
    /// Where all draws come from
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
}

/// `hearth data convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// JSON lines, plain or compressed, or Parquet; - for standard input
    #[arg(value_name = "INPUT")]
    pub input: PathBuf,
    /// File to write: .parquet, .zst for compressed JSON lines, else JSON lines; - for standard output
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// What the records are, each of which is checked [default: what the first one looks like]
    #[arg(long, value_enum)]
    pub format: Option<RecordFormat>,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecordFormat {
    /// Records of FLORA-Bench
    Flora,
    /// Chats
    Chat,
    /// Any rows
    Rows,
}

impl RecordFormat {
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Flora => "FLORA records",
            Self::Chat => "chats",
            Self::Rows => "rows",
        }
    }
}

/// Where a command reads and writes: JSON lines, or Parquet if the name ends in `.parquet`.
#[derive(Debug, Args)]
pub struct InOut {
    /// Input file, or - for standard input (JSON lines)
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Output file, or - for standard output (JSON lines)
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
}

/// What a command computes with.
#[derive(Debug, Args)]
pub struct Compute {
    /// Auto, Flex, Ndarray or Cuda(0)
    #[arg(long, default_value_t = DeviceSpec::Auto)]
    pub device: DeviceSpec,
    /// Number format of weights and computation
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
}

impl Compute {
    /// The device.
    ///
    /// # Errors
    /// [`Error::Device`] if it cannot be used, or not with this number format.
    pub fn init(&self) -> Result<Device> {
        if !self.device.supports(self.dtype) {
            let reason = format!("it cannot compute in {:?}", self.dtype);
            return Err(Error::Device { device: self.device, reason });
        }
        self.device.init()
    }
}

/// `hearth embed`: `{"text": …}` in, `text` and `embedding` (list of 32-bit floats) out.
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// Folder of a sentence encoder or a decoder
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Where to read and write.
    #[command(flatten)]
    pub files: InOut,
    /// Which token states make the vector [default: what the model's folder says, else mean for encoders, last for decoders]
    #[arg(long, value_enum)]
    pub pooling: Option<Pooling>,
    /// Scale every vector to length 1
    #[arg(long)]
    pub normalize: bool,
    /// What to compute with.
    #[command(flatten)]
    pub compute: Compute,
}

/// How token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pooling {
    /// The mean over all tokens
    Mean,
    /// The last token's
    Last,
}

/// `hearth score`: `{"messages": […]}` or `{"input_ids": […], "mask": […]}` in; `input_ids`, `mask`, `logprobs`, `loss` out.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Folder of a decoder
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Folder of a LoRA adapter for it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Where to read and write.
    #[command(flatten)]
    pub files: InOut,
    /// What to compute with.
    #[command(flatten)]
    pub compute: Compute,
}

/// `hearth export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Folder of a run (its last suitable stage counts), of a finished Sft or MergeLora stage, of an adapter, or of a decoder
    #[arg(value_name = "RUN|STAGE|MODEL")]
    pub source: PathBuf,
    /// Folder of a LoRA adapter for the decoder, or of the stage that trained it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = ExportKind::Merged)]
    pub kind: ExportKind,
    /// Number format of merged weights
    #[arg(long, value_enum, ignore_case = true, default_value_t = MergeDtype::Keep)]
    pub dtype: MergeDtype,
    /// Largest file of merged weights, as 5GB, 500MB, 2GiB or a number of bytes
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = bytes)]
    pub max_shard_size: u64,
    /// Replace the model that is in the folder
    #[arg(long)]
    pub force: bool,
    /// Auto, Flex, Ndarray or Cuda(0)
    #[arg(long, default_value_t = DeviceSpec::Auto)]
    pub device: DeviceSpec,
}

/// What an exported folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportKind {
    /// A whole model, adapters added to its weights
    Merged,
    /// A LoRA adapter alone
    Adapter,
}

fn bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1_000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "kib" => Some(1 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        _ => None,
    };
    let size = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    size.filter(|size| *size > 0)
        .ok_or_else(|| "expected a size such as 5GB, 500MB, 2GiB or a number of bytes".to_owned())
}

/// `hearth bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure; without, everything
    #[arg(value_enum, value_name = "CASE")]
    pub cases: Vec<Case>,
    /// How large the work is
    #[arg(long, value_enum, default_value_t = Size::default())]
    pub size: Size,
    /// A Python with torch, transformers and peft, to do the same work the usual way
    #[arg(long, value_name = "PYTHON")]
    pub twin: Option<PathBuf>,
    /// The script that the Python runs
    #[arg(long, value_name = "FILE", default_value = "tests/reference/bench.py")]
    pub reference: PathBuf,
    /// What the device can do at most, in TFLOP/s, to show the share that is used
    #[arg(long, value_name = "N")]
    pub peak_tflops: Option<f64>,
    /// Print a list of JSON objects
    #[arg(long)]
    pub json: bool,
    /// What to compute with.
    #[command(flatten)]
    pub compute: Compute,
    /// Run one case in this process and leave its figures in a folder.
    #[arg(long, hide = true)]
    pub child: Option<PathBuf>,
}

/// `hearth lora`.
#[derive(Debug, Subcommand)]
pub enum LoraCommand {
    /// Add an adapter to its base and write a model folder
    Merge(MergeArgs),
}

/// `hearth lora merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Folder of the decoder that the adapter was trained on
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Folder of the adapter, in PEFT's layout
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Number format of the weights that are written
    #[arg(long, value_enum, default_value_t = MergeDtype::Keep)]
    pub dtype: MergeDtype,
    /// Auto, Flex, Ndarray or Cuda(0)
    #[arg(long, default_value_t = DeviceSpec::Auto)]
    pub device: DeviceSpec,
}

/// `hearth glow`.
#[derive(Debug, Subcommand)]
pub enum GlowCommand {
    /// Score workflows without running them
    Predict(PredictArgs),
}

/// `hearth glow predict`: FLORA records in, labels not needed; adds `score`, or ranks the workflows.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Folder of a run with a finished GlowTrain stage
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Where to read and write.
    #[command(flatten)]
    pub files: InOut,
    /// Write a line per workflow instead of one per record, best first: mean score, then share of scores above 0.5, then
    /// workflow_id
    #[arg(long)]
    pub rank: bool,
    /// Score every workflow of the input on every `task` of this file (JSON lines) instead of on its own records' tasks: a
    /// line per workflow, with all scores
    #[arg(long, value_name = "FILE")]
    pub tasks: Option<PathBuf>,
    /// Auto, Flex, Ndarray or Cuda(0)
    #[arg(long, default_value_t = DeviceSpec::Auto)]
    pub device: DeviceSpec,
}
