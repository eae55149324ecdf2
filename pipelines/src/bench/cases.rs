//! The cases, as Hearth does them; those of the decoder in full.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};
use burn::train::TrainStep;
use burn_models::decoder::{Decoder, SaveModel};
use burn_models::generate::{GenerateConfig, SamplingConfig, generate};
use datasets::sft::{Packing, PlanConfig, SftDataset, SftOptions, StepPlan};

use super::data::{self, QUESTIONS, Shape, Spec};
use super::{Case, Figures, Size, chats, predictor, sentences};
use crate::Result;
use crate::cli::args::BenchArgs;
use crate::embedding::{LlmPooling, embed_tokens};
use crate::learners::{CausalLm, LmBatches, Recompute};
use crate::recipe::{AdamW, Optim};
use crate::run::Error;
use crate::train::Batches;

/// Runs a case; leaves what a twin needs in `folder`.
pub(super) fn run(case: Case, args: &BenchArgs, folder: &Path) -> Result<Figures> {
    let figures = match case {
        Case::Glow => predictor::train(args, folder),
        Case::Questions => predictor::questions(args, folder),
        Case::Minilm => sentences::embed(args, folder),
        Case::Tokenize => chats::tokenize(args, folder),
        _ => language(case, args, folder),
    };
    Ok(Figures { peak_mib: peak_mib(), ..figures? })
}

fn language(case: Case, args: &BenchArgs, folder: &Path) -> Result<Figures> {
    let shape = Shape::of(case, args.size);
    let device = args.compute.init()?;
    let decoding = matches!(case, Case::Decode | Case::DecodeBatch | Case::SampleBatch);
    let training = !decoding && case != Case::Embed;
    let device = if training { device.autodiff() } else { device };
    let dtype: FloatDType = args.compute.dtype.into();
    let decoder = shape.decoder.init(7, dtype, &device).map_err(Error::from)?;
    // Billions of numbers are drawn where they are needed.
    let decoder =
        if args.compute.device.is_compiled() { decoder.map(&mut OnDevice(&device, dtype.into())) } else { decoder };
    // Weights are drawn when they are first asked for: not while the clock runs.
    decoder.visit(&mut Drawn);
    if args.twin.is_some() {
        let save = SaveModel::default();
        decoder.save(&folder.join("model"), &save).map_err(Error::from)?;
        let lora = data::adapter();
        let (batch, records) = match case {
            Case::Long => (1, 1),
            Case::Embed => (1, 12),
            Case::Decode => (1, 1),
            Case::DecodeBatch | Case::SampleBatch => (64, 64),
            Case::Chats => (8, shape.groups),
            Case::ChatsPacked => (2048, shape.groups),
            Case::Curve => (PER_STEP, shape.groups),
            _ => (4, QUESTIONS + 1),
        };
        let new_tokens = new_tokens(args.size);
        let spec = Spec { rank: lora.rank, alpha: lora.alpha, batch, new_tokens, lr: rate(case), records };
        let spec = serde_json::to_vec(&spec).map_err(std::io::Error::other)?;
        std::fs::write(folder.join("spec.json"), spec)?;
    }
    match case {
        Case::Embed => embed(&decoder, &shape, args, folder),
        _ if decoding => decode(case, &decoder, &shape, args, folder),
        _ => train(case, decoder, &shape, args, folder, &device),
    }
}

/// What goes through the model at once: on a CPU more would only cost memory.
fn micro_tokens(args: &BenchArgs) -> usize {
    if args.compute.device.is_compiled() { 16_384 } else { 4096 }
}

/// Draws what has not been drawn yet.
struct Drawn;

impl ModuleVisitor for Drawn {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        param.val();
    }
}

/// Draws matrices that have not been drawn yet on the device.
struct OnDevice<'a>(&'a Device, DType);

impl ModuleMapper for OnDevice<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D != 2 {
            return param;
        }
        let dtype = self.1;
        let values = Tensor::<D>::random(param.lazy_shape(), Distribution::Normal(0.0, 0.02), self.0).cast(dtype);
        Param::from_tensor(values)
    }
}

/// Chats of a step of the curve.
const PER_STEP: usize = 4;

/// The learning rate of a training.
fn rate(case: Case) -> f64 {
    if case == Case::Curve { 1e-3 } else { 1e-4 }
}

fn new_tokens(size: Size) -> usize {
    if size == Size::Tiny { 8 } else { 128 }
}

/// Training steps of up to 60 records. The first is not timed where devices compile for it.
fn train(
    case: Case,
    decoder: Decoder,
    shape: &Shape,
    args: &BenchArgs,
    folder: &Path,
    device: &Device,
) -> Result<Figures> {
    let samples = data::samples(case, shape);
    let mut dataset = SftDataset::default();
    for (line, sample) in samples.iter().enumerate() {
        let options = SftOptions::default();
        dataset.push(Path::new("bench"), line as u64 + 1, sample, &options).map_err(Error::from)?;
    }
    let dataset = Arc::new(dataset);
    let config = PlanConfig {
        sequences_per_step: match case {
            Case::Curve => PER_STEP,
            Case::Chats | Case::ChatsPacked => 8,
            _ => 4 * QUESTIONS,
        },
        micro_tokens: micro_tokens(args),
        packing: match case {
            Case::Curve | Case::Chats | Case::ChatsPacked => Packing::Packed,
            _ => Packing::SharedPrefix,
        },
        ..PlanConfig::default()
    };
    let plan = StepPlan::new(&dataset, config, 1).map_err(Error::from)?;
    if args.twin.is_some() {
        // In the order of the steps.
        let order = plan.epoch(0);
        let sorted: Vec<_> = match case {
            Case::Curve => order.all().iter().map(|sample| samples[*sample as usize].clone()).collect(),
            _ => samples,
        };
        data::save(&folder.join("data.jsonl"), &sorted)?;
    }
    let per_epoch = plan.steps_per_epoch();
    let warm = if args.compute.device.is_compiled() { 2 } else { 0 };
    let batches = LmBatches {
        data: dataset,
        plan,
        pad_id: 0,
        vocab_size: shape.decoder.vocab_size,
        seed: 1,
        noise: None,
        len: (warm + 1) * per_epoch,
    };
    let decoder = decoder.attach_lora(&data::adapter(), 3).map_err(Error::from)?;
    if args.twin.is_some() {
        decoder.save_adapter(&folder.join("adapter"), None).map_err(Error::from)?;
    }
    let recompute = if case == Case::Long { Recompute::Layers } else { Recompute::None };
    let mut task = CausalLm { decoder, recompute };
    let mut optimizer = Optim::AdamW(AdamW { weight_decay: 0.0, ..AdamW::new(rate(case)) }).init();
    let (mut first, mut losses) = (None, Vec::new());
    let mut figures = Figures { tokens: Some(0.0), computed: Some(0.0), flops: Some(0.0), ..Figures::new(0.0, 0.0) };
    for index in 0..batches.len() {
        let started = Instant::now();
        let step = batches.batch(index, device).map_err(|e| crate::Error::from(std::io::Error::other(e)))?;
        let (tokens, learned) = (step.tokens, step.weight as usize);
        let places: usize = step.micro.iter().map(|micro| micro.input.dims().iter().product::<usize>()).sum();
        let scores: usize = step.micro.iter().map(|micro| task.decoder.scores(&micro.input)).sum();
        let mut output = TrainStep::step(&task, step);
        task = optimizer.step(ModuleLearningRate::from(rate(case)), task, output.grads);
        // The one synchronisation of a step.
        output.item.read::<CausalLm>(None);
        first = first.or(output.item.get("loss"));
        losses.extend(output.item.get("loss"));
        if index < warm * per_epoch {
            continue;
        }
        figures.seconds += started.elapsed().as_secs_f64();
        figures.count += batches.records(index).len() as f64;
        figures.tokens = figures.tokens.map(|sum| sum + tokens as f64);
        figures.computed = figures.computed.map(|sum| sum + places as f64);
        let flops = data::flops(&shape.decoder, places, learned, scores);
        figures.flops = figures.flops.map(|sum| sum + flops);
    }
    // All records weigh alike in the loss that both sides report: that of the whole data before any step is the first
    // step's only where there is one step.
    figures.loss = first.filter(|_| per_epoch == 1);
    figures.losses = (case == Case::Curve).then_some(losses);
    Ok(figures)
}

fn embed(decoder: &Decoder, shape: &Shape, args: &BenchArgs, folder: &Path) -> Result<Figures> {
    let texts = data::texts(shape);
    if args.twin.is_some() {
        save_ids(&folder.join("data.jsonl"), &texts)?;
    }
    let run = || embed_tokens(decoder, &texts, LlmPooling::LastToken, 8192, |_| {});
    if args.compute.device.is_compiled() {
        run().map_err(Error::from)?;
    }
    let started = Instant::now();
    run().map_err(Error::from)?;
    let tokens = texts.iter().map(Vec::len).sum::<usize>() as f64;
    Ok(Figures { tokens: Some(tokens), computed: Some(tokens), ..timed(texts.len(), started) })
}

fn decode(case: Case, decoder: &Decoder, shape: &Shape, args: &BenchArgs, folder: &Path) -> Result<Figures> {
    let prompts: Vec<Vec<u32>> =
        (0..shape.groups).map(|i| data::ids(shape.decoder.vocab_size, i, shape.length)).collect();
    if args.twin.is_some() {
        save_ids(&folder.join("data.jsonl"), &prompts)?;
    }
    let config = GenerateConfig {
        max_new_tokens: new_tokens(args.size),
        ignore_eos: true,
        batch_size: 64,
        sampling: match case {
            Case::SampleBatch => {
                SamplingConfig { temperature: 0.8, top_k: 50, top_p: 0.95, ..SamplingConfig::default() }
            }
            _ => SamplingConfig::greedy(),
        },
        ..GenerateConfig::default()
    };
    if args.compute.device.is_compiled() {
        generate(decoder, &prompts, &config).map_err(Error::from)?;
    }
    let started = Instant::now();
    let answers = generate(decoder, &prompts, &config).map_err(Error::from)?;
    Ok(timed(answers.iter().map(|answer| answer.ids.len()).sum(), started))
}

fn timed(count: usize, started: Instant) -> Figures {
    Figures::new(count as f64, started.elapsed().as_secs_f64())
}

fn save_ids(path: &Path, sequences: &[Vec<u32>]) -> Result<()> {
    let lines = sequences.iter().map(|ids| serde_json::json!({ "input_ids": ids }).to_string() + "\n");
    Ok(std::fs::write(path, lines.collect::<String>())?)
}

/// The most memory that this process ever had, in MiB; 0 where the system does not say.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
