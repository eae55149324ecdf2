//! `hearth bench`: how fast Hearth does what it is for, beside the usual way in Python.
//!
//! Every case runs in a process of its own, so that its peak memory is its own. With `--twin PYTHON` the script
//! `tests/reference/bench.py` then does the same work, on the same weights and token ids and as many threads, and the table
//! shows the ratio.

mod cases;
mod chats;
mod data;
mod predictor;
mod sentences;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cli::args::BenchArgs;
use crate::{Error, Result};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// LoRA training on questions about workflows with descriptions of 900 tokens
    Prefinetune,
    /// The same with descriptions of 185 tokens
    PrefinetuneShort,
    /// The same with a vocabulary of 4,096
    PrefinetuneVocab,
    /// LoRA training on one sequence of 4,096 tokens, layers recomputed
    Long,
    /// LoRA training on 64 chats of 64 to 1,448 tokens, beside batches of 8 padded on the right
    Chats,
    /// The same beside rows of 2,048 tokens, packed by best fit, with a mask for each chat
    ChatsPacked,
    /// 100 LoRA steps of 4 chats of 16 to 64 tokens: the largest difference between the losses of both sides
    Curve,
    /// Reading, rendering, tokenising and packing 100,000 chats, beside `datasets` with two processes
    Tokenize,
    /// Vectors of workflows of 200 to 900 tokens
    Embed,
    /// Greedy decoding, one prompt
    Decode,
    /// Greedy decoding, 64 prompts
    DecodeBatch,
    /// The same with tokens drawn at temperature 0.8 from the 50 most probable, and of those from 95 % of the probability
    SampleBatch,
    /// GLOW's training on 5,000 records in batches of 512, the embeddings at hand
    Glow,
    /// Fifteen questions about each of 2,000 workflow graphs
    Questions,
    /// Vectors of 2,000 sentences by an encoder of the shape of all-MiniLM-L6-v2
    Minilm,
}

/// How large the work is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Size {
    /// Seconds on any machine; the figures mean nothing
    Tiny,
    /// A decoder of 25 million parameters beside its vocabulary of 151,936: minutes on a CPU
    #[default]
    Full,
    /// The shape of Qwen3-1.7B: for a GPU
    Large,
}

/// One side's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Records, vectors or tokens.
    pub count: f64,
    /// The time they took.
    pub seconds: f64,
    /// The loss of the fresh model on the data, or another number on which both sides must agree, where there is one.
    pub loss: Option<f64>,
    /// The losses of all steps, where they are compared.
    #[serde(default)]
    pub losses: Option<Vec<f64>>,
    /// Peak memory of the process, MiB.
    pub peak_mib: f64,
    /// Tokens of all records, those they share counted for each.
    #[serde(default)]
    pub tokens: Option<f64>,
    /// Tokens that were computed.
    #[serde(default)]
    pub computed: Option<f64>,
    /// Floating-point operations that the work needs at least: forward pass, gradients of activations, head and attention.
    #[serde(default)]
    pub flops: Option<f64>,
}

impl Figures {
    fn new(count: f64, seconds: f64) -> Self {
        Self { count, seconds, loss: None, losses: None, peak_mib: 0.0, tokens: None, computed: None, flops: None }
    }
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// What was measured.
    pub case: Case,
    /// Hearth's figures.
    pub hearth: Figures,
    /// The twin's.
    pub twin: Option<Figures>,
}

impl Case {
    /// Its name on the command line.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What is counted.
    fn unit(self) -> &'static str {
        match self {
            Self::Prefinetune | Self::PrefinetuneShort | Self::PrefinetuneVocab | Self::Long | Self::Glow => {
                "records/s"
            }
            Self::Chats | Self::ChatsPacked | Self::Curve | Self::Tokenize => "chats/s",
            Self::Embed | Self::Minilm => "texts/s",
            Self::Questions => "questions/s",
            Self::Decode | Self::DecodeBatch | Self::SampleBatch => "tokens/s",
        }
    }
}

/// Runs the cases and prints a table or, with `--json`, a list of [`Line`]s.
///
/// # Errors
/// A device that is not there, a twin that fails (its message is passed on), a disk that is full.
pub fn bench(args: &BenchArgs) -> Result<()> {
    if let Some(folder) = &args.child {
        let case = args.cases.first().copied().unwrap_or(Case::Prefinetune);
        let figures = cases::run(case, args, folder)?;
        return write(&folder.join("hearth.json"), &figures);
    }
    args.compute.init()?;
    let cases = if args.cases.is_empty() { Case::value_variants().to_vec() } else { args.cases.clone() };
    let mut lines = Vec::new();
    for case in cases {
        crate::run::say(&format!("{} ...", case.name()));
        let folder = tempfile::tempdir()?;
        let hearth = hearth(case, args, folder.path())?;
        let twin = args.twin.as_ref().map(|python| twin(case, args, python, folder.path())).transpose()?;
        lines.push(Line { case, hearth, twin });
    }
    let text = match args.json {
        true => serde_json::to_string_pretty(&lines).map_err(|e| Error::from(std::io::Error::other(e)))? + "\n",
        false => table(&lines, args.peak_tflops),
    };
    crate::cli::print(&text)
}

fn hearth(case: Case, args: &BenchArgs, folder: &Path) -> Result<Figures> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("bench").arg(case.name()).arg("--child").arg(folder);
    let word = |value: Option<clap::builder::PossibleValue>| value.map(|v| v.get_name().to_owned()).unwrap_or_default();
    command.arg("--size").arg(word(args.size.to_possible_value()));
    command.arg("--dtype").arg(word(args.compute.dtype.to_possible_value()));
    command.arg("--device").arg(args.compute.device.to_string());
    if let Some(python) = &args.twin {
        command.arg("--twin").arg(python);
    }
    if !command.status()?.success() {
        return Err(Error::from(std::io::Error::other(format!("the case {} failed, see above", case.name()))));
    }
    read(&folder.join("hearth.json"))
}

fn twin(case: Case, args: &BenchArgs, python: &Path, folder: &Path) -> Result<Figures> {
    let threads = rayon::current_num_threads().to_string();
    let status = Command::new(python).arg(&args.reference).arg(case.name()).arg(folder).arg(threads).status()?;
    if !status.success() {
        let problem = format!("{} {} failed on {}", python.display(), args.reference.display(), case.name());
        return Err(Error::from(std::io::Error::other(problem)));
    }
    read(&folder.join("twin.json"))
}

fn write(path: &Path, figures: &Figures) -> Result<()> {
    let text = serde_json::to_vec(figures).map_err(std::io::Error::other)?;
    Ok(std::fs::write(path, text)?)
}

fn read(path: &PathBuf) -> Result<Figures> {
    let text = std::fs::read(path)?;
    Ok(serde_json::from_slice(&text).map_err(std::io::Error::other)?)
}

/// Rates, peaks and, where there is a twin, ratios.
fn table(lines: &[Line], peak_tflops: Option<f64>) -> String {
    let mut text = format!("{:<18} {:>10} {:<11} {:>9}", "case", "hearth", "", "MiB");
    if lines.iter().any(|line| line.twin.is_some()) {
        text += &format!(" {:>10} {:>9} {:>7} {:>7}", "twin", "MiB", "speed", "memory");
    }
    text.push('\n');
    for Line { case, hearth, twin } in lines {
        let rate = |figures: &Figures| figures.count / figures.seconds;
        // Writing to a string cannot fail.
        let _ = write!(text, "{:<18} {:>10.2} {:<11} {:>9.0}", case.name(), rate(hearth), case.unit(), hearth.peak_mib);
        if let Some(twin) = twin {
            let (speed, memory) = (rate(hearth) / rate(twin), hearth.peak_mib / twin.peak_mib);
            let _ = write!(text, " {:>10.2} {:>9.0} {speed:>6.1}x {memory:>6.2}x", rate(twin), twin.peak_mib);
        }
        if let Some(loss) = hearth.loss {
            let _ = write!(text, "  loss {loss:.5}");
            if let Some(loss) = twin.as_ref().and_then(|twin| twin.loss) {
                let _ = write!(text, " and {loss:.5}");
            }
        }
        if let (Some(ours), Some(theirs)) = (&hearth.losses, twin.as_ref().and_then(|twin| twin.losses.as_ref())) {
            let furthest = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let _ = write!(text, "  {} losses within {furthest:.1e}", ours.len().min(theirs.len()));
        }
        if let (Some(tokens), Some(computed)) = (hearth.tokens, hearth.computed) {
            let (tokens, computed) = (tokens / hearth.seconds, computed / hearth.seconds);
            let _ = write!(text, "  {tokens:.0} tokens/s, {computed:.0} computed/s");
        }
        if let Some(flops) = hearth.flops {
            let _ = write!(text, "  {:.2} TFLOP/s", flops / hearth.seconds / 1e12);
            if let Some(peak) = peak_tflops {
                let _ = write!(text, " ({:.1} % of peak)", flops / hearth.seconds / 1e10 / peak);
            }
        }
        text.push('\n');
    }
    text
}
