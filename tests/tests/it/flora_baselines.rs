//! The baselines of FLORA-Bench as settings of the GLOW predictor, and what graphs go through before the encoder sees them.

use std::fs;

use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use burn_gnn::{ConvKind, GnnConv, GnnEncoderConfig, Graph, GraphBatch, Pool, SelfLoops};
use burn_models::glow::{
    Dedup, FusionKind, GlowBatch, GlowConfig, GlowPredictor, GlowTables, GlowWorkflow, GraphConfig, PromptRows,
    TokenNorm,
};
use burn_models::mlp::Mlp;
use hearth_tests::program::{Program, TinyRun, cpu};
use hearth_tests::{assert_close, devices, json, json_lines, values, workspace};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::glow_settings::{small, toy};
use super::gnn_properties::graph;
use super::torch_layout::collected;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// Linear layers with ReLU between them.
fn layers(mlp: &Mlp, x: Tensor<2>) -> Tensor<2> {
    mlp.layers.iter().enumerate().fold(x, |x, (i, layer)| layer.forward(if i == 0 { x } else { relu(x) }))
}

/// The settings of the FLORA-Bench baselines are those of their description: convolutions with ReLU between them, the mean of the
/// nodes and an MLP of the task, both scaled to length 1, side by side through three linear layers.
#[test]
fn baselines_with_graphs_are_their_description() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let toy = toy(5, 6, &device);
        let mut config = GlowConfig { mlp_layers: 3, slope: 0.0, use_llm: false, ..small() };
        config.token_norm = TokenNorm::L2;
        config.fusion.kind = FusionKind::Concat;
        (config.gnn.norm, config.gnn.output, config.gnn.kind) = (false, false, ConvKind::Gcn);
        let model = config.init(5, 6, &device).unwrap();
        let batch = toy.batch(Dedup::Share, &device);
        let gnn = model.gnn_encoder.as_ref().unwrap();
        let [GnnConv::Gcn(one), GnnConv::Gcn(two)] = gnn.gnn_layers.as_slice() else { panic!("two convolutions") };
        let x = toy.tables.text.clone().select(0, batch.node_text_index.clone());
        let x = relu(one.forward(x, &batch.graphs, None));
        let nodes = values(two.forward(x, &batch.graphs, None));
        let unit = |x: Vec<f32>| {
            let length = x.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
            x.into_iter().map(|v| v / length).collect::<Vec<f32>>()
        };
        let offsets = batch.graphs.node_offsets();
        let mean = |graph: usize| {
            let rows = &nodes[offsets[graph] * 8..offsets[graph + 1] * 8];
            let count = (rows.len() / 8) as f32;
            unit((0..8).map(|column| rows.iter().skip(column).step_by(8).sum::<f32>() / count).collect())
        };
        let tasks = toy.tables.text.clone().select(0, batch.task_index.clone());
        let tasks = values(layers(model.task_projector.as_ref().unwrap(), tasks));
        let graph_of_record = batch.graph_of_record.clone().into_data().iter::<i64>().collect::<Vec<_>>();
        let rows: Vec<f32> = graph_of_record
            .iter()
            .zip(tasks.chunks(8))
            .flat_map(|(graph, task)| [mean(*graph as usize), unit(task.to_vec())].concat())
            .collect();
        let joined = Tensor::from_data(TensorData::new(rows, [8, 16]), &device);
        let want = values(layers(&model.final_mlp, joined));
        assert_close(&name, &values(model.forward(&batch, &toy.tables).logits), &want, 1e-5);
    }
}

/// The MLP baseline: the vectors of workflow and task as they are, side by side through two linear layers.
#[test]
fn the_mlp_baseline_is_its_description() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let toy = toy(6, 6, &device);
        let mut config = GlowConfig { slope: 0.0, projectors: false, use_graph: false, ..small() };
        (config.token_norm, config.fusion.kind) = (TokenNorm::None, FusionKind::Concat);
        let model = config.init(6, 6, &device).unwrap();
        model.check_tables(&toy.tables).unwrap();
        let shapes: Vec<_> = model.final_mlp.layers.iter().map(|layer| layer.weight.dims()).collect();
        assert_eq!(shapes, [[12, 8], [8, 1]], "{name}");
        assert!(model.llm_projector.is_none() && model.task_projector.is_none() && model.gnn_encoder.is_none());
        let batch = toy.batch(Dedup::Share, &device);
        let rows = [
            toy.tables.llm.clone().select(0, batch.llm_index.clone()),
            toy.tables.text.clone().select(0, batch.task_index.clone()),
        ];
        let want = values(layers(&model.final_mlp, Tensor::cat(rows.to_vec(), 1)));
        assert_close(&name, &values(model.forward(&batch, &toy.tables).logits), &want, 1e-6);
        // Vectors of another width are told.
        let other = super::glow_settings::toy(5, 6, &device);
        assert!(model.check_tables(&other.tables).unwrap_err().to_string().contains("width 5"), "{name}");
        let refused = GlowConfig { projectors: false, ..small() }.validate().unwrap_err().to_string();
        assert!(refused.contains("projectors") && refused.contains("Concat"), "{refused}");
    }
}

/// One-For-All: three nodes more, the second of which is read.
#[test]
fn the_one_for_all_baseline_is_its_description() {
    let _turn = hearth_tests::random_turn();
    let workflow = GlowWorkflow { graph: Graph::new(2, vec![[0, 1]]).unwrap(), node_texts: vec![1, 0] };
    let rows = PromptRows { feature: 3, success: 6, failure: 9, purpose: 12 };
    let prompted = workflow.with_prompt_nodes(2, &rows);
    assert_eq!(prompted.graph.num_nodes, 5);
    assert_eq!(prompted.graph.edges, [[0, 1], [0, 2], [1, 2], [2, 3], [2, 4]]);
    assert_eq!(prompted.node_texts, [4, 3, 12, 8, 11]);

    for (name, device) in devices() {
        let toy = toy(5, 6, &device);
        // Rows of the toy's table stand for the vectors of prompts.
        let rows = PromptRows { feature: 0, success: 0, failure: 0, purpose: 3 };
        let workflows: Vec<GlowWorkflow> =
            toy.records.iter().map(|r| toy.workflows[r.workflow as usize].with_prompt_nodes(r.task, &rows)).collect();
        let mut records = toy.records.clone();
        records.iter_mut().enumerate().for_each(|(i, record)| record.workflow = i as u32);
        let mut config = GlowConfig { slope: 0.0, use_llm: false, use_task: false, ..small() };
        (config.token_norm, config.fusion.kind) = (TokenNorm::None, FusionKind::Concat);
        config.gnn = GraphConfig { norm: false, output: false, prompt_nodes: true, ..config.gnn };
        let model = config.init(5, 6, &device).unwrap();
        let batch = GlowBatch::new(&records, &workflows, &toy.tables, Dedup::Repeat, &device).unwrap();
        let x = toy.tables.text.clone().select(0, batch.node_text_index.clone());
        let nodes = values(model.gnn_encoder.as_ref().unwrap().nodes(x, &batch.graphs));
        let read: Vec<f32> = batch.graphs.node_offsets()[1..]
            .iter()
            .flat_map(|end| nodes[(end - 2) * 8..(end - 1) * 8].to_vec())
            .collect();
        let read = Tensor::from_data(TensorData::new(read, [records.len(), 8]), &device);
        let want = values(layers(&model.final_mlp, read));
        assert_close(&name, &values(model.forward(&batch, &toy.tables).logits), &want, 1e-6);
    }
}

/// All stages of the recipe; and a predictor with prompt nodes scores all workflows on all tasks as it scores records.
#[test]
fn tiny_baselines_run_and_predict() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = workspace().join("recipes/tiny/flora.ron");
    let run = TinyRun::new(HEARTH, &dir.path().join("runs"), &cpu()).of(&recipe).named("tiny-flora");
    run.ok(&[]);
    for stage in ["08-mlp-eval", "10-ofa-eval"] {
        let manifest = json(&run.path(&format!("stages/{stage}/manifest.json")));
        assert!(manifest["metrics"].as_object().unwrap().keys().any(|key| key.contains("accuracy")), "{manifest}");
    }
    let records = json_lines(&run.path("sources/flora/test.jsonl"));
    let file = |name: &str, rows: &[Value]| {
        let path = dir.path().join(name);
        fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        path
    };
    let (input, tasks) = (file("in.jsonl", &records), file("tasks.jsonl", &[json!({ "task": records[0]["task"] })]));
    let folder = run.folder();
    let predict = |more: &[&str]| -> Vec<Value> {
        let mut all = vec!["glow", "predict", "--run", folder.to_str().unwrap(), "--output", "-"];
        all.extend(["--input", input.to_str().unwrap()]);
        all.extend(more);
        let said = HEARTH.ok(all);
        said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let scores = predict(&[]);
    let matrix = predict(&["--tasks", tasks.to_str().unwrap()]);
    let same = |row: &&Value| row["workflow_id"] == records[0]["workflow_id"];
    let (one, all) = (&scores[0]["score"], matrix.iter().find(same).unwrap());
    let found = all["scores"][0].as_f64().unwrap();
    assert!((one.as_f64().unwrap() - found).abs() < 1e-5, "{one} {all}");

    // A predictor that wants what was not embedded is refused: by the recipe, or when the vectors are read.
    let plain = run.clone().set("stages.sentences.sentences=Plain").run(&[]).expect_code(2).words();
    assert!(plain.contains("makes no vectors for prompt nodes") && plain.contains("sentences: OneForAll"), "{plain}");
    let path = format!("stages.ofa.embeddings=Path({:?})", run.path("stages/01-embed"));
    let read = run.clone().set(&path).run(&["--only", "ofa"]).expect_code(1).words();
    assert!(read.contains("embed with sentences: OneForAll"), "{read}");
}

#[test]
fn reversed_edges() {
    let _turn = hearth_tests::random_turn();
    let given = Graph::new(4, vec![[0, 1], [1, 2], [2, 1], [0, 3], [0, 3], [2, 2]]).unwrap();
    let by_hand = vec![[0, 1], [1, 2], [2, 1], [0, 3], [0, 3], [2, 2], [1, 0], [3, 0]];
    assert_eq!(given.bidirectional(), Graph::new(4, by_hand).unwrap());
    assert_eq!(given.bidirectional().bidirectional(), given.bidirectional());
}

/// The setting is that of the graphs with their edges reversed by hand; and a stage is done again when it changes.
#[test]
fn bidirectional_edges_are_a_setting() {
    let dir = tempfile::tempdir().unwrap();
    let run = TinyRun::new(HEARTH, &dir.path().join("runs"), &cpu());
    run.ok(&[]);
    let scores = |run: &TinyRun| run.read("stages/06-glow-eval/scores-best.jsonl");
    let directed = scores(&run);
    let both = run.clone().set("stages.glow-train.model.gnn.bidirectional_edges=true");
    let said = both.ok(&[]).stderr;
    assert!(said.contains("[5/7 glow-train] settings or inputs changed"), "{said}");
    assert!(said.contains("[4/7 embed] finished before"), "{said}");
    let settings = json(&run.path("stages/05-glow-train/manifest.json"))["settings"]["model"]["gnn"].clone();
    assert_eq!(settings["bidirectional_edges"], true);
    let reversed = scores(&run);
    assert_ne!(directed, reversed);

    // The same data with the edges reversed in the files. Embeddings of whole workflows change with them: without those.
    let off = ["stages.glow-train.model.use_llm=false", "stages.glow-train.contrast.on=[Graph]"];
    let train = |run: &TinyRun| {
        off.iter().fold(run.clone(), |run, set| run.set(set)).ok(&[]);
        scores(run)
    };
    let flora = dir.path().join("flora");
    fs::create_dir(&flora).unwrap();
    for split in ["train", "val", "test"] {
        let mut rows = json_lines(&run.path(&format!("sources/flora/{split}.jsonl")));
        for row in &mut rows {
            let edges: Vec<[u32; 2]> = serde_json::from_value(row["edge_index"].clone()).unwrap();
            let graph = Graph { num_nodes: row["nodes"].as_object().unwrap().len(), edges };
            row["edge_index"] = json!(graph.bidirectional().edges);
        }
        fs::write(flora.join(format!("{split}.jsonl")), rows.iter().map(|r| format!("{r}\n")).collect::<String>())
            .unwrap();
    }
    let by_setting = train(&both);
    let by_hand = train(&run.clone().set(&format!("data.flora=Flora({flora:?})")));
    let of = |bytes: &[u8]| -> Vec<f64> {
        let text = std::str::from_utf8(bytes).unwrap();
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["score"].as_f64().unwrap()).collect()
    };
    let (by_setting, by_hand) = (of(&by_setting), of(&by_hand));
    assert!(by_setting.iter().zip(&by_hand).all(|(a, b)| (a - b).abs() < 1e-6), "{by_setting:?}\n{by_hand:?}");
}

/// Logits and gradients of a batch.
fn computed(
    model: &GlowPredictor,
    batch: &GlowBatch,
    tables: &GlowTables,
    device: &Device,
) -> (Vec<f32>, std::collections::BTreeMap<String, Vec<f32>>) {
    device.seed(11);
    let logits = model.forward(batch, tables).logits;
    let weights: Vec<f32> = (0..batch.len()).map(|i| 0.3 + i as f32).collect();
    let weights = Tensor::<1>::from_data(TensorData::new(weights, [batch.len()]), device);
    let found = values(logits.clone());
    (found, collected(model, &(logits * weights).sum().backward()))
}

/// What precedes the first dropout is computed once per distinct workflow: as if it were computed for every record, dropout
/// included, for every convolution and any number of them.
#[test]
fn distinct_workflows_are_encoded_once() {
    let _turn = hearth_tests::random_turn();
    let kinds = [
        ConvKind::Gat,
        ConvKind::Gcn,
        ConvKind::Gcn2 { alpha: 0.1 },
        ConvKind::Sage,
        ConvKind::Gin,
        ConvKind::Transformer { beta: true },
    ];
    for (name, device) in devices() {
        let device = device.autodiff();
        let toy = toy(5, 6, &device);
        for (kind, layers, dropout) in
            kinds.into_iter().flat_map(|kind| [(kind, 1, 0.0), (kind, 2, 0.0), (kind, 3, 0.4)])
        {
            let what = format!("{kind:?}, {layers} layers, dropout {dropout} on {name}");
            let mut config = GlowConfig { dropout, ..small() };
            (config.gnn.kind, config.gnn.layers) = (kind, layers);
            let model = config.init(5, 6, &device).unwrap();
            let shared = toy.batch(Dedup::Repeat, &device);
            assert_eq!(shared.distinct.as_ref().unwrap().graphs.num_graphs(), 3);
            assert_eq!(shared.graphs.num_graphs(), 8);
            let mut every = shared.clone();
            every.distinct = None;
            let (got, gradients) = computed(&model, &shared, &toy.tables, &device);
            let (want, wanted) = computed(&model, &every, &toy.tables, &device);
            assert_close(&what, &got, &want, 1e-5);
            assert_eq!(gradients.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{what}");
            for (parameter, want) in &wanted {
                let size = want.iter().fold(1.0f32, |most, v| most.max(v.abs()));
                assert_close(&format!("{what}: {parameter}"), &gradients[parameter], want, 1e-5 * size);
            }
        }
        assert!(toy.batch(Dedup::Share, &device).distinct.is_none(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Both parts of the encoder, with equal graphs between them taken once, are the whole.
    #[test]
    fn encoder_in_two_parts(graphs in proptest::collection::vec(graph(0..=5), 1..4), picks in proptest::collection::vec(0..64usize, 1..8)) {
        let (_, device) = devices().swap_remove(0);
        let picks: Vec<usize> = picks.into_iter().map(|pick| pick % graphs.len()).collect();
        let encoder = GnnEncoderConfig::new(3, 8).with_dropout(0.0).init(&device).unwrap();
        let features = |graph: usize| (0..graphs[graph].num_nodes * 3).map(|i| ((i * 7 + graph * 5) % 11) as f32 / 11.0 - 0.4).collect::<Vec<f32>>();
        let joined = |chosen: &[usize]| {
            let x: Vec<f32> = chosen.iter().flat_map(|graph| features(*graph)).collect();
            let rows = x.len() / 3;
            let batch = GraphBatch::new(&chosen.iter().map(|g| &graphs[*g]).collect::<Vec<_>>(), SelfLoops::ReplaceOnce, &device).unwrap();
            (Tensor::<2>::from_data(TensorData::new(x, [rows, 3]), &device), batch)
        };
        let (x, repeated) = joined(&picks);
        let want = encoder.forward(x, &repeated);
        let (x, distinct) = joined(&(0..graphs.len()).collect::<Vec<_>>());
        let first = distinct.node_offsets();
        let place: Vec<usize> = picks.iter().flat_map(|graph| first[*graph]..first[graph + 1]).collect();
        let place = super::gnn_properties::ints(&place, &device);
        let nodes = encoder.after_dropout(encoder.before_dropout(x, &distinct).select(0, place), &repeated);
        let got = encoder.output(nodes, &repeated);
        assert_close("nodes", &values(got.nodes), &values(want.nodes), 1e-5);
        assert_close("graphs", &values(got.graphs), &values(want.graphs), 1e-5);
    }

    /// The node that so many others follow.
    #[test]
    fn pooling_from_the_end(graphs in proptest::collection::vec(graph(0..=4), 1..5), after in 0..3usize) {
        let (_, device) = devices().swap_remove(0);
        let batch = GraphBatch::new(&graphs.iter().collect::<Vec<_>>(), SelfLoops::Keep, &device).unwrap();
        let count = batch.num_nodes();
        let x: Vec<f32> = (0..2 * count).map(|i| i as f32 + 1.0).collect();
        let x = Tensor::<2>::from_data(TensorData::new(x, [count, 2]), &device);
        let offsets = batch.node_offsets().to_vec();
        let want: Vec<f32> = offsets.windows(2).flat_map(|range| {
            let there = range[1] - range[0] > after;
            let node = range[1].wrapping_sub(after + 1);
            if there { [2.0 * node as f32 + 1.0, 2.0 * node as f32 + 2.0] } else { [0.0, 0.0] }
        }).collect();
        prop_assert_eq!(values(Pool::FromEnd(after).forward(x, &batch)), want);
    }
}
