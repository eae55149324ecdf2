//! The GLOW predictor's settings, parts and batches: what each switch does, and what is refused.

use burn::module::{Module, ParamId, list_param_ids};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use burn_gnn::{AdjacencyTarget, ConvKind, Graph, GraphBatch, SelfLoops};
use burn_models::checkpoint::{LoadOptions, SaveOptions, Weights, load, save};
use burn_models::glow::{
    ContrastConfig, ContrastForm, ContrastToken, Dedup, FusionKind, GlowBatch, GlowConfig, GlowPredictor, GlowRecord,
    GlowTables, GlowWorkflow, Head, Regression, RegressionLoss, WarmupBatch, original_name,
};
use hearth_tests::{assert_close, devices, values};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

use super::torch_layout::{Values, collected};

/// A batch of eight records on random tables: three workflows (one without edges, one of a single node), two tasks.
pub(super) struct Toy {
    pub(super) tables: GlowTables,
    pub(super) workflows: Vec<GlowWorkflow>,
    pub(super) records: Vec<GlowRecord>,
}

pub(super) fn toy(llm_dim: usize, text_dim: usize, device: &Device) -> Toy {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut table = |rows: usize, width: usize| {
        let data: Vec<f32> = (0..rows * width).map(|_| random.random_range(-1.0..1.0)).collect();
        Tensor::from_data(TensorData::new(data, [rows, width]), device)
    };
    let workflow = |nodes: usize, edges: Vec<[u32; 2]>, first: u32| GlowWorkflow {
        graph: Graph::new(nodes, edges).unwrap(),
        node_texts: (0..nodes as u32).map(|i| (first + i) % 6).collect(),
    };
    let workflows = vec![
        workflow(4, vec![[0, 1], [1, 2], [0, 2], [2, 3], [3, 3]], 0),
        workflow(3, vec![], 2),
        workflow(1, vec![[0, 0]], 5),
    ];
    let record = |i: u32| GlowRecord {
        workflow: i % 3,
        llm: i % 3,
        task: 6 + i / 4,
        label: if [0, 2, 5, 6].contains(&i) { 1.0 } else { 0.0 },
        task_id: [-5, 1 << 40][i as usize / 4],
    };
    Toy {
        tables: GlowTables { llm: table(3, llm_dim), text: table(8, text_dim) },
        workflows,
        records: (0..8).map(record).collect(),
    }
}

impl Toy {
    pub(super) fn batch(&self, dedup: Dedup, device: &Device) -> GlowBatch {
        let batch = GlowBatch::new(&self.records, &self.workflows, &self.tables, dedup, device).unwrap();
        batch.with_contrast(&ContrastConfig::default(), 0).unwrap()
    }
}

pub(super) fn small() -> GlowConfig {
    let mut config = GlowConfig { hidden_dim: 8, dropout: 0.0, ..GlowConfig::default() };
    config.fusion.ff_width = 16;
    config
}

#[test]
fn supervised_training_and_warm_up_touch_their_own_parameters() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let device = device.autodiff();
        let toy = toy(24, 16, &device);
        let model = GlowConfig { dropout: 0.2, ..small() }.init(24, 16, &device).unwrap();
        let sizes: BTreeMap<String, usize> = collected(&model, Values).into_iter().map(|(n, v)| (n, v.len())).collect();
        let batch = toy.batch(Dedup::Repeat, &device);
        let output = model.forward(&batch, &toy.tables);
        let grads = model.loss(&output, &batch, 1.0).total.backward();
        let missing: Vec<_> = sizes.keys().filter(|n| !collected(&model, &grads).contains_key(*n)).cloned().collect();
        let decoders = ["adj_decoder.bias", "adj_decoder.weight", "node_decoder.bias", "node_decoder.weight"];
        assert_eq!(missing, decoders.map(|n| format!("gnn_encoder.{n}")), "{name}");

        let workflows: Vec<_> = toy.workflows.iter().collect();
        let batch = WarmupBatch::new(&workflows, &toy.tables, &device).unwrap();
        let loss = model.warmup_loss(&batch, &toy.tables).unwrap();
        let touched = collected(&model, &(loss.node + loss.adjacency).backward());
        let expected: Vec<_> =
            sizes.keys().filter(|n| n.starts_with("gnn_encoder.") && !n.starts_with("gnn_encoder.lin.")).collect();
        assert_eq!(touched.keys().collect::<Vec<_>>(), expected, "{name}");
    }
}

/// Every convolution and every fusion: all that should learn gets a gradient, in training and in the warm-up; what is saved and
/// read again computes the same; and settings are told apart by what is in the file.
#[test]
fn every_kind_of_encoder_and_fusion_learns_and_is_saved() {
    let _turn = hearth_tests::random_turn();
    let kinds = [
        ConvKind::Gat,
        ConvKind::GatV2,
        ConvKind::Gcn,
        ConvKind::Gcn2 { alpha: 0.1 },
        ConvKind::Sage,
        ConvKind::Gin,
        ConvKind::Transformer { beta: true },
        ConvKind::Transformer { beta: false },
    ];
    let configs = kinds.map(|kind| (kind, FusionKind::Transformer)).into_iter();
    let fusions =
        [FusionKind::ConcatMlp, FusionKind::MeanMlp, FusionKind::Concat].map(|fusion| (ConvKind::Gat, fusion));
    for ((kind, fusion), (name, device)) in
        configs.chain(fusions).flat_map(|config| devices().into_iter().map(move |device| (config, device)))
    {
        let what = format!("{kind:?} {fusion:?} on {name}");
        let device = device.autodiff();
        let toy = toy(24, 16, &device);
        let mut config = GlowConfig { dropout: 0.2, ..small() };
        (config.gnn.kind, config.fusion.kind) = (kind, fusion);
        let model = config.init(24, 16, &device).unwrap();
        model.check_tables(&toy.tables).unwrap();
        let names = collected(&model, Values);
        let batch = toy.batch(Dedup::Repeat, &device);
        let output = model.forward(&batch, &toy.tables);
        let grads = collected(&model, &model.loss(&output, &batch, 1.0).total.backward());
        assert!(grads.values().flatten().all(|g| g.is_finite()), "{what}");
        let unused = |name: &str| {
            let decoder = name.contains("_decoder.");
            let fixed = name.ends_with(".eps");
            let token = fusion != FusionKind::Transformer && ["pred_token", "type_embedding.weight"].contains(&name);
            decoder || fixed || token
        };
        for name in names.keys() {
            assert_eq!(grads.contains_key(name), !unused(name), "{what}: {name}");
        }
        let warmup = WarmupBatch::new(&toy.workflows.iter().collect::<Vec<_>>(), &toy.tables, &device).unwrap();
        let loss = model.warmup_loss(&warmup, &toy.tables).unwrap();
        let touched = collected(&model, &(loss.node + loss.adjacency).backward());
        for name in names.keys().filter(|name| name.contains("gnn_layers")) {
            assert_eq!(touched.contains_key(name), !name.ends_with(".eps"), "{what}: {name} in the warm-up");
        }

        let folder = tempfile::tempdir().unwrap();
        let model = model.valid();
        save(&model, folder.path(), &SaveOptions { names: &original_name, dtype: None, shard_bytes: None }).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        let plain = device.without_autodiff();
        plain.seed(99);
        let other = config.init(24, 16, &plain).unwrap();
        let options = LoadOptions { names: &original_name, dtype: FloatDType::F32, allow_unused: &[] };
        let other = load(other, &weights, &options).unwrap();
        let tables = GlowTables { llm: toy.tables.llm.clone().inner(), text: toy.tables.text.clone().inner() };
        let batch = GlowBatch::new(&toy.records, &toy.workflows, &tables, Dedup::Share, &plain).unwrap();
        let logits = |model: &GlowPredictor| values(model.forward(&batch, &tables).logits);
        assert_eq!(logits(&model), logits(&other), "{what}");
    }
}

#[test]
fn every_view_can_be_switched_off() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let device = device.autodiff();
        let toy = toy(5, 6, &device);
        for views in 1..8 {
            let [use_llm, use_graph, use_task] = [views & 1 > 0, views & 2 > 0, views & 4 > 0];
            let config = GlowConfig { use_llm, use_graph, use_task, ..small() };
            let model = config.init(5, 6, &device).unwrap();
            model.check_tables(&toy.tables).unwrap();
            let names = collected(&model, Values);
            let has = |part: &str| names.keys().any(|n| n.starts_with(part));
            assert_eq!(
                [has("llm_projector."), has("gnn_encoder."), has("task_projector.")],
                [use_llm, use_graph, use_task]
            );
            let batch = toy.batch(Dedup::Share, &device);
            let output = model.forward(&batch, &toy.tables);
            let tokens = &output.tokens;
            let present = [tokens.llm.is_some(), tokens.graph.is_some(), tokens.task.is_some()];
            assert_eq!(present, [use_llm, use_graph, use_task]);
            let fused = model.fuse(tokens, batch.len());
            assert_eq!(fused.dims(), [8, 1 + present.iter().filter(|p| **p).count(), 8]);
            // The short way to the logits is the long one.
            let first: Tensor<2> = fused.narrow(1, 0, 1).reshape([8, 8]);
            let long = values(model.final_mlp.forward(first));
            assert_close(&name, &values(output.logits.clone()), &long, 1e-6);
            // Distances are at most 2: with this margin every anchor costs something.
            let far = ContrastConfig { margin: 2.5, ..ContrastConfig::default() };
            let loss = model.loss(&output, &batch.with_contrast(&far, 0).unwrap(), 1.0);
            let contrasted = values(loss.contrast.clone())[0];
            assert!((contrasted > 0.0) == (use_llm || use_graph), "{name}: views {views}: contrast {contrasted}");
            assert!(values(loss.total.clone())[0].is_finite());
            drop(loss.total.backward());
            let warmup = WarmupBatch::new(&[&toy.workflows[0]], &toy.tables, &device).unwrap();
            assert_eq!(model.valid().warmup_loss(&warmup, &toy.tables).is_ok(), use_graph);
            let nothing = GlowWorkflow::default();
            assert!(WarmupBatch::new(&[&nothing], &toy.tables, &device).is_err());
        }
    }
}

#[test]
fn dropout_acts_in_training_only() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let device = device.autodiff();
        let toy = toy(5, 6, &device);
        let model = GlowConfig { dropout: 0.5, ..small() }.init(5, 6, &device).unwrap();
        let batch = toy.batch(Dedup::Share, &device);
        let train = || {
            let loss = model.forward(&batch, &toy.tables).logits;
            drop(loss.clone().sum().backward());
            values(loss)
        };
        assert_ne!(train(), train(), "{name}");
        let valid = model.valid();
        let evaluate = || values(valid.forward(&batch, &toy.tables).logits);
        assert_eq!(evaluate(), evaluate(), "{name}");
    }
}

/// Tables stay on the plain device, whichever of the two a batch was made on.
#[test]
fn batches_serve_models_with_and_without_autodiff() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let autodiff = device.clone().autodiff();
        let toy = toy(5, 6, &device);
        let model = small().init(5, 6, &autodiff).unwrap();
        let valid = model.valid();
        let logits = [&device, &autodiff].map(|device| {
            let batch = toy.batch(Dedup::Share, device);
            let output = model.forward(&batch, &toy.tables);
            let grads = model.loss(&output, &batch, 1.0).total.backward();
            assert!(collected(&model, &grads).contains_key("gnn_encoder.gnn_layers.0.lin.weight"), "{name}");
            let trained = values(output.logits);
            assert_close(&name, &values(valid.forward(&batch, &toy.tables).logits), &trained, 1e-5);
            trained
        });
        assert_eq!(logits[0], logits[1], "{name}");
    }
}

#[test]
fn loss_settings() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let toy = toy(5, 6, &device);
        let model = small().init(5, 6, &device).unwrap();
        let batch = toy.batch(Dedup::Share, &device);
        let output = model.forward(&batch, &toy.tables);
        let contrasted = |config: &ContrastConfig| batch.clone().with_contrast(config, 0).unwrap();
        let part = |config: ContrastConfig| values(model.loss(&output, &contrasted(&config), 1.0).contrast)[0];
        let both = part(ContrastConfig::default());
        let one = |token| part(ContrastConfig { on: vec![token], ..ContrastConfig::default() });
        let mean = (one(ContrastToken::Llm) + one(ContrastToken::Graph)) / 2.0;
        assert_close(&name, &[both], &[mean], 1e-6);

        let half = ContrastConfig { weight: 0.5, ..ContrastConfig::default() };
        let weighted = model.loss(&output, &contrasted(&half), 3.0);
        let want = 3.0 * values(weighted.prediction)[0] + 0.5 * both;
        assert_close(&name, &values(weighted.total), &[want], 1e-5);
        assert_eq!(weighted.active_tasks, 2, "{name}");

        let mut alone = batch.clone();
        alone.contrast = None;
        let plain = model.loss(&output, &alone, 1.0);
        assert_eq!(values(plain.total), values(plain.prediction), "{name}");
        assert_eq!((values(plain.contrast), plain.active_tasks), (vec![0.0], 0), "{name}");

        // A rate counts as solved from `positive_at` on: from 2 on none does, and nothing is left to contrast.
        assert_eq!(part(ContrastConfig { positive_at: 2.0, ..ContrastConfig::default() }), 0.0, "{name}");
    }
}

#[test]
fn copied_layers_start_equal_and_part() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let device = device.autodiff();
        let toy = toy(5, 6, &device);
        for identical in [false, true] {
            let mut config = small();
            config.fusion.identical_layer_init = identical;
            let model = config.init(5, 6, &device).unwrap();
            let ids: Vec<ParamId> = list_param_ids(&model);
            let distinct: std::collections::HashSet<_> = ids.iter().collect();
            assert_eq!(ids.len(), distinct.len(), "{name}: two parameters share an id");
            let layer =
                |model: &GlowPredictor, i: usize| collected(&model.fusion_encoder.as_ref().unwrap().layers[i], Values);
            assert_eq!(layer(&model, 0) == layer(&model, 1), identical, "{name}");

            let batch = toy.batch(Dedup::Share, &device);
            let loss = model.loss(&model.forward(&batch, &toy.tables), &batch, 1.0);
            let grads = GradientsParams::from_grads(loss.total.backward(), &model);
            let model = AdamWConfig::new().init().step(1e-2, model, grads);
            assert_ne!(layer(&model, 0), layer(&model, 1), "{name}");
        }
    }
}

#[test]
fn parameters_are_drawn_from_the_published_distributions() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let model = GlowConfig::default().init(2048, 384, &device).unwrap();
        let drawn = collected(&model, Values);
        let (h, text, ff) = (256.0f32, 384.0f32, 2048.0f32);
        for (path, bound) in [
            ("gnn_encoder.gnn_layers.0.lin.weight", (6.0 / (text + h)).sqrt()),
            ("gnn_encoder.gnn_layers.1.lin.weight", (6.0 / (2.0 * h)).sqrt()),
            ("gnn_encoder.gnn_layers.0.att_src", (6.0f32 / (4.0 + 64.0)).sqrt()),
            ("gnn_encoder.gnn_layers.1.att_dst", (6.0f32 / (4.0 + 64.0)).sqrt()),
            ("gnn_encoder.lin.weight", 1.0 / h.sqrt()),
            ("gnn_encoder.lin.bias", 1.0 / h.sqrt()),
            ("gnn_encoder.node_decoder.weight", 1.0 / h.sqrt()),
            ("gnn_encoder.adj_decoder.weight", 1.0 / h.sqrt()),
            ("llm_projector.layers.0.weight", 1.0 / 2048.0f32.sqrt()),
            ("task_projector.layers.0.weight", 1.0 / text.sqrt()),
            ("task_projector.layers.0.bias", 1.0 / text.sqrt()),
            ("final_mlp.layers.1.weight", 1.0 / h.sqrt()),
            ("fusion_encoder.layers.0.self_attn.in_proj_weight", (6.0 / (4.0 * h)).sqrt()),
            ("fusion_encoder.layers.1.self_attn.out_proj.weight", 1.0 / h.sqrt()),
            ("fusion_encoder.layers.1.linear1.weight", 1.0 / h.sqrt()),
            ("fusion_encoder.layers.1.linear2.weight", 1.0 / ff.sqrt()),
        ] {
            // The largest of n uniform numbers is close to the bound, the mean square close to a third of its square.
            let data = &drawn[path];
            let largest = data.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(largest <= bound * 1.000001, "{name}: {path}: {largest} > {bound}");
            assert!(largest > bound * 0.9, "{name}: {path}: {largest} is far from {bound}");
            let square = data.iter().map(|v| v * v).sum::<f32>() / data.len() as f32;
            let spread = square / (bound * bound / 3.0);
            assert!((spread - 1.0).abs() < 6.0 / (data.len() as f32).sqrt(), "{name}: {path}: spread {spread}");
        }
        for (path, value) in [
            ("gnn_encoder.gnn_layers.0.bias", 0.0),
            ("fusion_encoder.layers.0.self_attn.in_proj_bias", 0.0),
            ("fusion_encoder.layers.0.self_attn.out_proj.bias", 0.0),
            ("fusion_encoder.layers.0.norm1.weight", 1.0),
            ("llm_embedding_batch_norm.weight", 1.0),
            ("graph_embedding_batch_norm.bias", 0.0),
        ] {
            assert!(drawn[path].iter().all(|v| *v == value), "{name}: {path} is not {value}");
        }
        for (path, sigma) in [("pred_token", 0.2), ("type_embedding.weight", 1.0)] {
            let data = &drawn[path];
            let spread = (data.iter().map(|v| v * v).sum::<f32>() / data.len() as f32).sqrt() / sigma;
            assert!((spread - 1.0).abs() < 4.0 / (data.len() as f32).sqrt(), "{name}: {path}: spread {spread}");
        }
    }
}

/// Devices have one generator for all threads, so this runs in a process of its own.
#[test]
fn seeded_models_are_equal() {
    let _turn = hearth_tests::random_turn();
    const CHILD: &str = "HEARTH_TEST_SEEDED_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let exe = std::env::current_exe().unwrap();
        let name = format!("{}::seeded_models_are_equal", module_path!().split_once("::").unwrap().1);
        let child = std::process::Command::new(exe).args(["--exact", &name, "--nocapture"]).env(CHILD, "1").output();
        let child = child.unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&child.stderr)
        );
        return;
    }
    for (name, device) in devices() {
        let draw = |seed| {
            device.seed(seed);
            collected(&small().init(5, 6, &device).unwrap(), Values)
        };
        let first = draw(3);
        assert_eq!(first, draw(3), "{name}");
        assert_ne!(first, draw(4), "{name}");
    }
}

#[test]
fn bad_settings_and_records_are_refused() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = devices().swap_remove(0);
    let refused = |config: GlowConfig, word: &str| {
        let error = config.init(5, 6, &device).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(GlowConfig { hidden_dim: 10, ..small() }, "multiple");
    refused(GlowConfig { mlp_layers: 0, ..small() }, "mlp_layers");
    refused(GlowConfig { dropout: 1.0, ..small() }, "dropout");
    refused(GlowConfig { use_llm: false, use_graph: false, use_task: false, ..small() }, "nothing to predict");
    let head = Head::Regression(Regression { loss: RegressionLoss::Huber(0.0), ..Regression::default() });
    refused(GlowConfig { head, ..small() }, "head.loss");
    let error = serde_json::from_str::<GlowConfig>(r#"{"hidden_dims": 3}"#).unwrap_err().to_string();
    assert!(error.contains("hidden_dims") && error.contains("hidden_dim"), "{error}");
    assert_eq!(serde_json::from_str::<GlowConfig>("{}").unwrap(), GlowConfig::default());

    for (bad, key) in [
        (ContrastConfig { margin: f64::NAN, ..ContrastConfig::default() }, "margin"),
        (ContrastConfig { weight: -1.0, ..ContrastConfig::default() }, "weight"),
        (ContrastConfig { positive_at: 1.5, ..ContrastConfig::default() }, "positive_at"),
        (ContrastConfig { min_group: 0, ..ContrastConfig::default() }, "min_group"),
        (ContrastConfig { form: ContrastForm::Random(0), ..ContrastConfig::default() }, "form"),
    ] {
        assert!(bad.validate().unwrap_err().to_string().contains(key), "{key}");
    }
    assert!(ContrastConfig::default().validate().is_ok());

    let toy = toy(5, 6, &device);
    let refused = |change: &dyn Fn(&mut Toy), word: &str| {
        let mut bad =
            Toy { tables: toy.tables.clone(), workflows: toy.workflows.clone(), records: toy.records.clone() };
        change(&mut bad);
        let error = GlowBatch::new(&bad.records, &bad.workflows, &bad.tables, Dedup::Share, &device).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(&|t| t.records[1].workflow = 3, "record 1: workflow 3");
    refused(&|t| t.records[2].llm = 3, "language embedding 3");
    refused(&|t| t.records[2].task = 8, "text embedding 8");
    refused(&|t| t.records[0].label = f32::NAN, "not finite");
    refused(&|t| t.records.clear(), "at least one record");
    refused(&|t| t.workflows[0].node_texts[1] = 99, "text embedding 99");
    refused(&|t| t.workflows[1].node_texts.truncate(1), "3 nodes, but 1 texts");
    refused(&|t| t.workflows[0].graph.edges.push([0, 4]), "0 -> 4");
    let model = small().init(7, 6, &device).unwrap();
    assert!(model.check_tables(&toy.tables).unwrap_err().to_string().contains("width 5"));

    // Sizes are refused before anything is allocated.
    let huge = Graph::new(usize::MAX, vec![]).unwrap();
    let too_large = GraphBatch::new(&[&huge, &huge], SelfLoops::Keep, &device).unwrap_err();
    assert!(matches!(too_large, burn_gnn::Error::TooLarge { what: "nodes", .. }), "{too_large}");
    let large = Graph::new(20_000, vec![]).unwrap();
    assert!(AdjacencyTarget::new(&[&large], &device).is_err());
    assert!(Graph::new(2, vec![[0, 1], [1, 2]]).unwrap_err().to_string().contains("edge 1 is 1 -> 2"));
}
