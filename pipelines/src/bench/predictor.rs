//! An epoch of GLOW's training with the embeddings at hand, and the questions about workflow graphs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::tensor::{Device, Distribution, Tensor};
use burn::train::{InferenceStep, TrainStep};
use burn_gnn::Graph;
use burn_models::checkpoint::{SaveOptions, save};
use burn_models::glow::{
    ContrastConfig, Dedup, GlowConfig, GlowRecord, GlowTables, GlowWorkflow, RegressionTarget, original_name,
};
use datasets::Workflow;
use datasets::graph_questions::{Collection, GraphQuestions, GraphQuestionsConfig, SourceWorkflow};
use datasets::rng::stream;
use datasets::sampler::Sampler;
use datasets::templates::Templates;
use rand::RngExt;
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};

use super::{Figures, Size};
use crate::Result;
use crate::cli::args::BenchArgs;
use crate::learners::{Contrast, Epochs, GlowBatches, GlowData, GlowTask, GlowTaskSettings};
use crate::recipe::{AdamW, Optim};
use crate::run::Error;
use crate::train::{Batches, gradient_norm};

/// How many of what.
struct Amount {
    workflows: usize,
    tasks: usize,
    records: usize,
    batch: usize,
    llm: usize,
    text: usize,
    model: GlowConfig,
}

impl Amount {
    fn of(size: Size) -> Self {
        let model = GlowConfig::default();
        match size {
            Size::Tiny => Self {
                workflows: 12,
                tasks: 5,
                records: 50,
                batch: 16,
                llm: 24,
                text: 16,
                model: GlowConfig { hidden_dim: 16, ..model },
            },
            _ => Self { workflows: 500, tasks: 233, records: 5000, batch: 512, llm: 2048, text: 384, model },
        }
    }
}

/// A path through 4 to 9 nodes and some more edges, each node with a text of its own.
fn workflow(number: usize) -> (Graph, Vec<u32>) {
    let mut rng = stream(1, "bench workflow", &[&number.to_le_bytes()]);
    let nodes = rng.random_range(4..10u32);
    let mut edges: Vec<[u32; 2]> = (1..nodes).map(|node| [node - 1, node]).collect();
    for _ in 0..nodes / 2 {
        let to = rng.random_range(1..nodes);
        edges.push([rng.random_range(0..to), to]);
    }
    edges.dedup();
    (Graph { num_nodes: nodes as usize, edges }, (0..nodes).map(|node| number as u32 * 10 + node).collect())
}

/// Trains for an epoch that is not timed and two that are, with a step's reports as the stage has them.
pub(super) fn train(args: &BenchArgs, folder: &Path) -> Result<Figures> {
    let amount = Amount::of(args.size);
    let device = args.compute.init()?.autodiff();
    device.seed(7);
    let workflows: Vec<GlowWorkflow> =
        (0..amount.workflows).map(workflow).map(|(graph, node_texts)| GlowWorkflow { graph, node_texts }).collect();
    let first_task = (amount.workflows * 10) as u32;
    let mut rng = stream(1, "bench records", &[]);
    let records: Vec<GlowRecord> = (0..amount.records)
        .map(|_| {
            let (workflow, task) = (rng.random_range(0..amount.workflows), rng.random_range(0..amount.tasks));
            GlowRecord {
                workflow: workflow as u32,
                llm: workflow as u32,
                task: first_task + task as u32,
                label: f32::from(u8::from(rng.random_bool(0.5))),
                task_id: task as i64,
            }
        })
        .collect();
    let plain = device.clone().without_autodiff();
    let table = |rows: usize, width: usize| Tensor::<2>::random([rows, width], Distribution::Normal(0.0, 1.0), &plain);
    let tables = GlowTables {
        llm: table(amount.workflows, amount.llm),
        text: table(first_task as usize + amount.tasks, amount.text),
    };
    let predictor = amount.model.init(amount.llm, amount.text, &device).map_err(Error::from)?;
    if args.twin.is_some() {
        let model = folder.join("model");
        let options = SaveOptions { names: &original_name, dtype: None, shard_bytes: None };
        save(&predictor, &model, &options).map_err(Error::from)?;
        let host = |table: &Tensor<2>| -> Vec<u8> {
            table.to_data().iter::<f32>().flat_map(|value| value.to_le_bytes()).collect()
        };
        let (llm, text) = (host(&tables.llm), host(&tables.text));
        let view = |shape, bytes| TensorView::new(Dtype::F32, shape, bytes).map_err(std::io::Error::other);
        let views = [
            ("llm", view(tables.llm.dims().to_vec(), llm.as_slice())?),
            ("text", view(tables.text.dims().to_vec(), text.as_slice())?),
        ];
        serialize_to_file(views, None, &folder.join("tables.safetensors")).map_err(std::io::Error::other)?;
        lines(
            &folder.join("workflows.jsonl"),
            &workflows,
            |w| serde_json::json!({ "edges": w.graph.edges, "nodes": w.node_texts }),
        )?;
        lines(
            &folder.join("data.jsonl"),
            &records,
            |r| serde_json::json!({ "workflow": r.workflow, "task": r.task, "label": r.label, "task_id": r.task_id }),
        )?;
        let (model, contrast) = (&amount.model, ContrastConfig::default());
        let spec = serde_json::json!({
            "batch": amount.batch, "records": amount.records, "hidden": model.hidden_dim, "layers": model.gnn.layers,
            "heads": model.gnn.heads, "mlp_layers": model.mlp_layers, "fusion_layers": model.fusion.layers,
            "fusion_heads": model.fusion.heads, "ff": model.fusion.ff_width, "dropout": model.dropout,
            "margin": contrast.margin, "weight": contrast.weight, "min_group": contrast.min_group,
        });
        std::fs::write(folder.join("spec.json"), spec.to_string())?;
    }

    let task_ids = records.iter().map(|record| record.task_id).collect();
    let places = records.iter().enumerate().map(|(i, r)| (i as u32 + 1, i64::from(r.workflow))).collect();
    let targets = records.iter().map(|record| record.label).collect();
    let data = GlowData {
        records: Arc::new(records),
        targets: Arc::new(targets),
        workflows: Arc::new(workflows),
        tables,
        prompts: None,
        places: Arc::new(places),
    };
    let data = data.clone().with_targets(RegressionTarget::RecordLabel, &data);
    let settings = GlowTaskSettings { pred_weight: 1.0, threshold: 0.5, valid: Arc::new(Vec::new()) };
    let mut task = GlowTask::new(predictor, settings);
    let contrast = Contrast { config: ContrastConfig::default(), seed: 1 };
    let first: Vec<u32> = (0..amount.batch as u32).collect();
    let loss = first_loss(&task, &data, &contrast, &first, &plain)?;

    let epochs = Epochs::new(task_ids, amount.batch, true, Sampler::Shuffle, 1).map_err(Error::from)?;
    let per_epoch = epochs.per_epoch();
    let batches = GlowBatches::new(data, Some(contrast), epochs, 3);
    let mut optimizer = Optim::AdamW(AdamW::new(1e-4)).init();
    let (mut seconds, mut count) = (0.0, 0);
    for index in 0..batches.len() {
        let started = Instant::now();
        let item = batches.batch(index, &device).map_err(|e| crate::Error::from(std::io::Error::other(e)))?;
        let mut output = TrainStep::step(&task, item);
        let norm = gradient_norm(&task, &output.grads);
        output.item.read::<GlowTask>(norm);
        task = optimizer.step(ModuleLearningRate::from(1e-4), task, output.grads);
        if index >= per_epoch {
            seconds += started.elapsed().as_secs_f64();
            count += amount.batch;
        }
    }
    Ok(Figures { loss, ..Figures::new(count as f64, seconds) })
}

/// The loss of the fresh predictor on some records, without dropout.
fn first_loss(
    task: &GlowTask,
    data: &GlowData,
    contrast: &Contrast,
    records: &[u32],
    device: &Device,
) -> Result<Option<f64>> {
    let mut item = data.collate(records, Dedup::Share, device).map_err(Error::from)?;
    item.batch = item.batch.with_contrast(&contrast.config, contrast.seed).map_err(Error::from)?;
    let mut scores = InferenceStep::step(&task.valid(), item);
    scores.outputs = None;
    scores.read::<GlowTask>(None);
    Ok(scores.get("loss"))
}

/// Fifteen questions about each workflow, with prompts and answers.
pub(super) fn questions(args: &BenchArgs, folder: &Path) -> Result<Figures> {
    let count = if args.size == Size::Tiny { 10 } else { 2000 };
    let words = ["plan", "check", "the", "answer", "write", "code", "that", "returns", "a", "list", "of", "numbers"];
    let source = |number: usize| {
        let (graph, texts) = workflow(number);
        let mut rng = stream(2, "bench texts", &[&number.to_le_bytes()]);
        let mut text = || {
            let words: Vec<&str> = (0..60).map(|_| words[rng.random_range(0..words.len())]).collect();
            words.join(" ")
        };
        let nodes = (0..texts.len() as u32).map(|node| (node, text())).collect();
        SourceWorkflow {
            sub_dataset: "bench".into(),
            workflow_id: number as i64,
            workflow: Workflow { nodes, edges: graph.edges },
        }
    };
    let collection = Collection { workflows: (0..count).map(source).collect(), files: Vec::new(), conflicting_ids: 0 };
    if args.twin.is_some() {
        lines(
            &folder.join("data.jsonl"),
            &collection.workflows,
            |w| serde_json::json!({ "nodes": w.workflow.nodes, "edges": w.workflow.edges }),
        )?;
        std::fs::write(folder.join("spec.json"), serde_json::json!({ "records": count }).to_string())?;
    }
    let maker = GraphQuestions::new(GraphQuestionsConfig::default(), Templates::default(), 1).map_err(Error::from)?;
    let started = Instant::now();
    let made: Vec<_> = collection.workflows.par_iter().map(|workflow| maker.records(workflow)).collect();
    let seconds = started.elapsed().as_secs_f64();
    Ok(Figures::new(made.iter().map(Vec::len).sum::<usize>() as f64, seconds))
}

/// One JSON line for each.
pub(super) fn lines<T>(path: &PathBuf, rows: &[T], line: impl Fn(&T) -> serde_json::Value) -> Result<()> {
    Ok(std::fs::write(path, rows.iter().map(|row| line(row).to_string() + "\n").collect::<String>())?)
}
