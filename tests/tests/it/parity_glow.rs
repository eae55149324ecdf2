//! The GLOW predictor against the reference implementation: `fixtures/glow`.
//!
//! Tolerance: logits, states and losses 1e-5 absolute, gradients 1e-4 relative in L2 norm, training trajectories 1e-4
//! absolute.

use burn::module::Module;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, FloatDType, Gradients, Tensor};
use burn_gnn::{Graph, adjacency_loss};
use burn_models::checkpoint::{LoadOptions, SaveOptions, Weights, load, save};
use burn_models::glow::{
    ContrastConfig, Dedup, GlowBatch, GlowConfig, GlowPredictor, GlowRecord, GlowTables, GlowWorkflow, WarmupBatch,
    original_name,
};
use hearth_tests::{Tensors, assert_close, devices, fixture_folders, json, max_abs, values};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use super::torch_layout::{Values, assert_gradient, collected, filled};

const VALUE: f32 = 1e-5;
const TRAJECTORY: f32 = 1e-4;

struct Reference {
    dir: PathBuf,
    meta: serde_json::Value,
    weights: Tensors,
    inputs: Tensors,
    expected: Tensors,
}

/// The reference batch on one device.
struct Setup {
    model: GlowPredictor,
    tables: GlowTables,
    workflows: Vec<GlowWorkflow>,
    batch: GlowBatch,
}

impl Reference {
    /// One per folder that holds a predictor.
    fn all() -> Vec<Self> {
        let folders = fixture_folders("glow", |dir| dir.join("predictor_weights.safetensors").is_file());
        let open = |dir: PathBuf| Self {
            meta: json(&dir.join("meta.json")),
            weights: Tensors::open(dir.join("predictor_weights.safetensors")),
            inputs: Tensors::open(dir.join("inputs.safetensors")),
            expected: Tensors::open(dir.join("expected.safetensors")),
            dir,
        };
        folders.into_iter().map(open).collect()
    }

    fn want(&self, name: &str) -> Vec<f32> {
        self.expected.f32(name).1
    }

    fn config(&self) -> GlowConfig {
        let meta = |path: &[&str]| path.iter().fold(&self.meta, |at, key| &at[key]).clone();
        let size = |path: &[&str]| meta(path).as_u64().unwrap() as usize;
        let layers = size(&["config", "n_mlplayers"]);
        let mut config = GlowConfig {
            hidden_dim: size(&["config", "hidden_dim"]),
            mlp_layers: layers,
            dropout: meta(&["config", "dropout"]).as_f64().unwrap(),
            ..GlowConfig::default()
        };
        config.gnn.layers = size(&["config", "n_gnn_layers"]);
        config.gnn.heads = size(&["gat_heads"]);
        config.gnn.attn_slope = meta(&["leaky_relu_slope_gat"]).as_f64().unwrap();
        config.fusion.layers = layers;
        config.fusion.heads = size(&["nhead"]);
        config.fusion.ff_width = size(&["ffn_dim"]);
        config
    }

    fn workflows(&self) -> Vec<GlowWorkflow> {
        let (shape, edges) = self.inputs.i64("edge_index");
        let (_, batch) = self.inputs.i64("batch");
        let mut workflows = Vec::new();
        let mut first = 0;
        for (number, nodes) in self.inputs.i64("num_nodes").1.into_iter().enumerate() {
            let inside = (0..shape[1]).filter(|e| batch[edges[*e] as usize] == number as i64);
            let edges = inside.map(|e| [edges[e] as u32 - first, edges[shape[1] + e] as u32 - first]).collect();
            let graph = Graph::new(nodes as usize, edges).unwrap();
            workflows.push(GlowWorkflow { graph, node_texts: (first..first + nodes as u32).collect() });
            first += nodes as u32;
        }
        workflows
    }

    fn setup(&self, device: &Device, weights: bool) -> Setup {
        let tables = GlowTables {
            llm: self.inputs.tensor("llm_embedding", device),
            text: Tensor::cat(
                vec![self.inputs.tensor("nodes_embedding", device), self.inputs.tensor("task_embedding", device)],
                0,
            ),
        };
        let workflows = self.workflows();
        let first_task = self.inputs.shape("nodes_embedding")[0] as u32;
        let labels = self.inputs.i64("label").1;
        let tasks = self.inputs.f32("task_id").1;
        let records: Vec<GlowRecord> = (0..labels.len())
            .map(|r| GlowRecord {
                workflow: r as u32,
                llm: r as u32,
                task: first_task + r as u32,
                label: labels[r] as f32,
                task_id: tasks[r] as i64,
            })
            .collect();
        let batch = GlowBatch::new(&records, &workflows, &tables, Dedup::Share, device).unwrap();
        let mut model = self.config().init(tables.llm.dims()[1], tables.text.dims()[1], device).unwrap();
        if weights {
            model = filled(model, &self.weights, &|path| original_name(path).unwrap());
        }
        model.check_tables(&tables).unwrap();
        let number = |key: &str| self.meta["config"][key].as_f64().unwrap();
        let contrast = ContrastConfig {
            weight: number("contrastive_weight"),
            margin: number("margin"),
            ..ContrastConfig::default()
        };
        let batch = batch.with_contrast(&contrast, 0).unwrap();
        Setup { model, tables, workflows, batch }
    }

    fn learning_rate(&self) -> f64 {
        self.meta["optimizer"]["lr"].as_f64().unwrap()
    }

    fn adamw(&self) -> ModuleOptimizer {
        let o = &self.meta["optimizer"];
        AdamWConfig::new()
            .with_beta_1(o["betas"][0].as_f64().unwrap() as f32)
            .with_beta_2(o["betas"][1].as_f64().unwrap() as f32)
            .with_epsilon(o["eps"].as_f64().unwrap() as f32)
            .with_weight_decay(o["weight_decay"].as_f64().unwrap() as f32)
            .init()
    }

    /// Adam whose decay is a gradient of ½λ‖w‖².
    fn adam_l2(&self) -> ModuleOptimizer {
        let o = &self.meta["optimizer"];
        AdamConfig::new()
            .with_beta_1(o["betas"][0].as_f64().unwrap() as f32)
            .with_beta_2(o["betas"][1].as_f64().unwrap() as f32)
            .with_epsilon(o["eps"].as_f64().unwrap() as f32)
            .with_weight_decay(Some(WeightDecayConfig::new(o["weight_decay"].as_f64().unwrap() as f32)))
            .init()
    }
}

/// Every reference on every device.
fn setups() -> Vec<(Rc<Reference>, String, Device)> {
    let references: Vec<_> = Reference::all().into_iter().map(Rc::new).collect();
    let on =
        |(name, device): (String, Device)| references.iter().map(move |r| (r.clone(), name.clone(), device.clone()));
    devices().into_iter().flat_map(on).collect()
}

/// Compares and remembers the largest difference.
struct Check<'a> {
    device: &'a str,
    reference: &'a Reference,
    worst: f32,
}

impl<'a> Check<'a> {
    fn new(device: &'a str, reference: &'a Reference) -> Self {
        Self { device, reference, worst: 0.0 }
    }

    fn close(&mut self, name: &str, got: &[f32], tolerance: f32) {
        let want = self.reference.want(name);
        assert_close(&format!("{}: {name}", self.device), got, &want, tolerance);
        self.worst = self.worst.max(max_abs(got, &want));
    }

    /// All gradients the reference has under `prefix`; parameters it has none for must have none here either.
    fn gradients(&mut self, prefix: &str, model: &GlowPredictor, grads: &Gradients) {
        let got: BTreeMap<String, Vec<f32>> =
            collected(model, grads).into_iter().map(|(path, g)| (original_name(&path).unwrap(), g)).collect();
        let mut expected = 0;
        for key in self.reference.expected.names() {
            let Some(name) = key.strip_prefix(prefix) else { continue };
            expected += 1;
            let want = self.reference.want(&key);
            assert_gradient(&format!("{}: {key}", self.device), got.get(name).map(Vec::as_slice), &want);
            self.worst = self.worst.max(got.get(name).map_or(0.0, |got| max_abs(got, &want)));
        }
        assert!(expected > 0, "no reference gradients `{prefix}*`");
        let extra: Vec<_> = got.keys().filter(|n| !self.reference.expected.has(&format!("{prefix}{n}"))).collect();
        assert!(extra.is_empty(), "{}: gradients that the reference does not have: {extra:?}", self.device);
    }

    fn report(self, what: &str) {
        println!("{}: glow {what}: largest difference {:e}", self.device, self.worst);
    }
}

#[test]
fn every_weight_has_its_original_name() {
    let _turn = hearth_tests::random_turn();
    for (reference, _, device) in setups() {
        let model = reference.setup(&device, false).model;
        let mut ours: Vec<String> = collected(&model, Values).keys().map(|path| original_name(path).unwrap()).collect();
        ours.sort();
        assert_eq!(ours, reference.weights.names());
        let size = |n: &String| reference.weights.shape(n).iter().product::<usize>();
        assert_eq!(model.num_params(), reference.weights.names().iter().map(size).sum::<usize>());
    }
}

#[test]
fn files_convert_to_the_original_and_back() {
    let _turn = hearth_tests::random_turn();
    for (reference, name, device) in setups() {
        let file = Weights::open(reference.dir.join("predictor_weights.safetensors")).unwrap();
        let options = LoadOptions { names: &original_name, dtype: FloatDType::F32, allow_unused: &[] };
        let model = load(reference.setup(&device, false).model, &file, &options).unwrap();
        let filled = reference.setup(&device, true).model;
        assert_eq!(collected(&model, Values), collected(&filled, Values), "{name}");

        let dir = tempfile::tempdir().unwrap();
        save(&model, dir.path(), &SaveOptions { names: &original_name, dtype: None, shard_bytes: None }).unwrap();
        let saved = Tensors::open(dir.path().join("model.safetensors"));
        assert_eq!(saved.names(), reference.weights.names(), "{name}");
        for tensor in saved.names() {
            assert_eq!(saved.f32(&tensor), reference.weights.f32(&tensor), "{name}: {tensor}");
        }
    }
}

#[test]
fn evaluation_matches() {
    let _turn = hearth_tests::random_turn();
    for (reference, name, device) in setups() {
        // Without dropout, training mode gives the same numbers.
        for device in [device.clone(), device.autodiff()] {
            let s = reference.setup(&device, true);
            let mut check = Check::new(&name, &reference);
            let output = s.model.forward(&s.batch, &s.tables);
            let loss = s.model.loss(&output, &s.batch, 1.0);

            let gnn = s.model.gnn_encoder.as_ref().unwrap();
            let nodes = s.tables.text.clone().select(0, s.batch.node_text_index.clone());
            let encoded = gnn.forward(nodes, &s.batch.graphs);
            check.close("eval.node_emb", &values(encoded.nodes), VALUE);
            check.close("eval.graph_emb", &values(encoded.graphs), VALUE);
            for (key, token) in [
                ("eval.llm_emb_norm", &output.tokens.llm),
                ("eval.graph_emb_norm", &output.tokens.graph),
                ("eval.task_emb_norm", &output.tokens.task),
            ] {
                check.close(key, &values(token.clone().unwrap()), VALUE);
            }
            check.close("eval.fused", &values(s.model.fuse(&output.tokens, s.batch.len())), VALUE);
            check.close("eval.logits", &values(output.logits.clone()), VALUE);
            check.close("eval.score", &values(s.model.scores(output.logits.clone())), VALUE);
            check.close("eval.loss_bce", &values(loss.prediction), VALUE);
            check.close("eval.loss_contrastive", &values(loss.contrast), VALUE);
            check.close("eval.loss_total", &values(loss.total.clone()), VALUE);
            contrast_parts(&mut check, &s, &output);
            if device.is_autodiff() {
                // Frees the graph.
                drop(loss.total.backward());
            }
            check.report("evaluation");
        }
    }
}

/// The contrastive loss task by task.
fn contrast_parts(check: &mut Check, s: &Setup, output: &burn_models::glow::GlowOutput) {
    let groups = s.batch.contrast.as_ref().unwrap();
    let (_, counted) = check.reference.expected.i64("eval.contrastive.task_ids");
    assert_eq!(groups.counted_tasks, counted.len());
    for (key, token) in [("llm", &output.tokens.llm), ("graph", &output.tokens.graph)] {
        let losses = values(groups.task_losses(token.clone().unwrap()));
        let place = |id: &i64| s.batch.task_ids.iter().position(|t| t == id).unwrap();
        let got: Vec<f32> = counted.iter().map(|id| losses[place(id)]).collect();
        check.close(&format!("eval.contrastive.{key}"), &got, VALUE);
    }
}

#[test]
fn gradients_match() {
    let _turn = hearth_tests::random_turn();
    for (reference, name, device) in setups() {
        let s = reference.setup(&device.autodiff(), true);
        let output = s.model.forward(&s.batch, &s.tables);
        let grads = s.model.loss(&output, &s.batch, 1.0).total.backward();
        let mut check = Check::new(&name, &reference);
        check.gradients("grad.", &s.model, &grads);
        check.report("gradients");
    }
}

fn warmup_batch(s: &Setup, device: &Device) -> WarmupBatch {
    WarmupBatch::new(&s.workflows.iter().collect::<Vec<_>>(), &s.tables, device).unwrap()
}

#[test]
fn warmup_matches() {
    let _turn = hearth_tests::random_turn();
    for (reference, name, device) in setups() {
        let device = device.autodiff();
        let s = reference.setup(&device, true);
        let batch = warmup_batch(&s, &device);
        let mut check = Check::new(&name, &reference);

        let valid = s.model.valid();
        let gnn = valid.gnn_encoder.as_ref().unwrap();
        let x = s.tables.text.clone().without_autodiff().select(0, batch.node_text_index.clone());
        let logits = gnn.adj_decoder.forward(gnn.nodes(x, &batch.graphs), &batch.target);
        check.close("pretrain.loss_adj_per_graph", &values(adjacency_loss(logits, &batch.target)), VALUE);

        let loss = s.model.warmup_loss(&batch, &s.tables).unwrap();
        check.close("pretrain.loss_node", &values(loss.node.clone()), VALUE);
        check.close("pretrain.loss_adj", &values(loss.adjacency.clone()), VALUE);
        let grads = (loss.node + loss.adjacency).backward();
        check.gradients("pretrain_grad.", &s.model, &grads);
        check.report("warm-up");
    }
}

/// Trains for as many steps as the reference did; returns the model and the loss before each step.
fn train(
    mut model: GlowPredictor,
    mut optimizer: ModuleOptimizer,
    lr: f64,
    steps: usize,
    loss: impl Fn(&GlowPredictor) -> Tensor<1>,
) -> (GlowPredictor, Vec<f32>) {
    let mut losses = Vec::new();
    for _ in 0..steps {
        let loss = loss(&model);
        losses.extend(values(loss.clone()));
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(lr, model, grads);
    }
    (model, losses)
}

#[test]
fn training_follows_the_reference() {
    let _turn = hearth_tests::random_turn();
    for (reference, name, device) in setups() {
        for (run, optimizer) in [("adamw", reference.adamw()), ("adam_l2", reference.adam_l2())] {
            let s = reference.setup(&device.clone().autodiff(), true);
            let mut check = Check::new(&name, &reference);
            let key = |part: &str| format!("train.{run}.{part}");
            let steps = reference.want(&key("losses")).len();
            let before = collected(&s.model, Values);
            let (model, losses) = train(s.model, optimizer, reference.learning_rate(), steps, |model| {
                model.loss(&model.forward(&s.batch, &s.tables), &s.batch, 1.0).total
            });
            check.close(&key("losses"), &losses, TRAJECTORY);

            let valid = model.valid();
            let scores = valid.scores(valid.forward(&s.batch, &s.tables).logits);
            check.close(&key("final_score"), &values(scores), TRAJECTORY);
            let after = collected(&valid, Values);
            let prefix = key("final.");
            let by_name: BTreeMap<String, &Vec<f32>> =
                after.iter().map(|(path, v)| (original_name(path).unwrap(), v)).collect();
            for parameter in reference.expected.names().iter().filter_map(|n| n.strip_prefix(&prefix)) {
                check.close(&key(&format!("final.{parameter}")), by_name[parameter], TRAJECTORY);
            }
            // Parameters that get no gradient are left alone: no decay either.
            for path in reference.meta["parameters_without_gradient_in_training"].as_array().unwrap() {
                let path = path.as_str().unwrap();
                assert_eq!(after[path], before[path], "{path}");
            }
            check.report(run);
        }
    }
}

#[test]
fn warmup_training_follows_the_reference() {
    let _turn = hearth_tests::random_turn();
    for (reference, name, device) in setups() {
        let device = device.autodiff();
        let s = reference.setup(&device, true);
        let batch = warmup_batch(&s, &device);
        let mut check = Check::new(&name, &reference);
        let steps = reference.want("pretrain.adamw.losses").len();
        let before = collected(&s.model, Values);
        let (model, losses) = train(s.model, reference.adamw(), reference.learning_rate(), steps, |model| {
            let loss = model.warmup_loss(&batch, &s.tables).unwrap();
            loss.node + loss.adjacency
        });
        check.close("pretrain.adamw.losses", &losses, TRAJECTORY);
        let after = collected(&model, Values);
        for path in reference.meta["parameters_without_gradient_in_pretraining"].as_array().unwrap() {
            let path = format!("gnn_encoder.{}", path.as_str().unwrap());
            assert_eq!(after[&path], before[&path], "{path}");
        }
        check.report("warm-up training");
    }
}
