//! Graph convolutions and pooling against PyTorch Geometric: `fixtures/gnn`, one safetensors file per layer.
//!
//! Tolerance: outputs 1e-5 absolute, gradients as [`assert_gradient`] has it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_gnn::{
    GatConv, GatConvConfig, GatV2Conv, GatV2ConvConfig, Gcn2Conv, Gcn2ConvConfig, GcnConv, GcnConvConfig, GinConv,
    GinConvConfig, Graph, GraphBatch, Pool, SageAggregation, SageConv, SageConvConfig, SelfLoops, TransformerConv,
    TransformerConvConfig,
};
use hearth_tests::{Tensors, assert_close, devices, fixture_folders, json, list, max_abs, values};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::torch_layout::{assert_gradient, collected, filled};

const OUTPUT: f32 = 1e-5;

/// The largest differences seen, printed at the end of a test.
#[derive(Default)]
struct Worst {
    output: f32,
    gradient: f32,
}

/// A layer as the tests see it: inputs to output, on the batch it wants.
trait Layer: Module {
    const LOOPS: SelfLoops = SelfLoops::Keep;

    fn run(&self, case: &Case) -> Tensor<2>;

    /// The name in the file of the parameter at `path`.
    fn name(path: &str) -> String {
        path.to_string()
    }
}

/// One case of one file on one device.
struct Case<'a> {
    tensors: &'a Tensors,
    name: &'a str,
    x: Tensor<2>,
    /// The initial node vectors, of layers that want them.
    x0: Option<Tensor<2>>,
    graphs: GraphBatch,
}

impl Case<'_> {
    fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    fn edge_weights(&self) -> Option<Tensor<1>> {
        let key = self.key("edge_weight");
        let weights = self.tensors.has(&key).then(|| self.tensors.f32(&key).1)?;
        Some(self.graphs.edge_values(&weights, 1.0, &self.x.device()).unwrap())
    }

    /// Compares attention weights where the file has them. Its edges stand in another order, and all edges of a pair of
    /// nodes have the same weights.
    fn check_attention(&self, attention: Tensor<2>) {
        let key = self.key("attention");
        if !self.tensors.has(&key) {
            return;
        }
        let heads = attention.dims()[1];
        let got = by_edge(&edges_of(&self.graphs), &values(attention), heads);
        let edges = edge_list(self.tensors, &self.key("attention_edge_index"));
        let want = by_edge(&edges, &self.tensors.f32(&key).1, heads);
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "edges with attention");
        for (edge, want) in want {
            assert_close(&format!("attention of {edge:?}"), &got[&edge], &want, OUTPUT);
        }
    }
}

impl Layer for GatConv {
    const LOOPS: SelfLoops = SelfLoops::ReplaceOnce;
    fn run(&self, case: &Case) -> Tensor<2> {
        let (out, attention) = self.forward_with_attention(case.x.clone(), &case.graphs);
        case.check_attention(attention);
        out
    }
}

impl Layer for GatV2Conv {
    const LOOPS: SelfLoops = SelfLoops::ReplaceOnce;
    fn run(&self, case: &Case) -> Tensor<2> {
        let (out, attention) = self.forward_with_attention(case.x.clone(), &case.graphs);
        case.check_attention(attention);
        out
    }
}

impl Layer for GcnConv {
    const LOOPS: SelfLoops = SelfLoops::ReplaceOnce;
    fn run(&self, case: &Case) -> Tensor<2> {
        self.forward(case.x.clone(), &case.graphs, case.edge_weights())
    }
}

impl Layer for Gcn2Conv {
    const LOOPS: SelfLoops = SelfLoops::ReplaceOnce;
    fn run(&self, case: &Case) -> Tensor<2> {
        self.forward(case.x.clone(), case.x0.clone().unwrap(), &case.graphs, case.edge_weights())
    }
}

impl Layer for SageConv {
    fn run(&self, case: &Case) -> Tensor<2> {
        self.forward(case.x.clone(), &case.graphs)
    }
}

impl Layer for GinConv {
    fn run(&self, case: &Case) -> Tensor<2> {
        self.forward(case.x.clone(), &case.graphs)
    }

    /// There the activations are numbered along with the linear layers.
    fn name(path: &str) -> String {
        match path.strip_prefix("nn.").and_then(|rest| rest.split_once('.')) {
            Some((layer, parameter)) => format!("nn.{}.{parameter}", 2 * layer.parse::<usize>().unwrap()),
            None => path.to_string(),
        }
    }
}

impl Layer for TransformerConv {
    fn run(&self, case: &Case) -> Tensor<2> {
        self.forward(case.x.clone(), &case.graphs)
    }
}

/// The attention of each pair of nodes; all edges of a pair have the same, so their number and one copy are kept.
fn by_edge(edges: &[[u32; 2]], attention: &[f32], heads: usize) -> BTreeMap<[u32; 2], Vec<f32>> {
    let mut of_pair: BTreeMap<[u32; 2], Vec<f32>> = BTreeMap::new();
    for (edge, row) in edges.iter().zip(attention.chunks(heads)) {
        let entry = of_pair.entry(*edge).or_insert_with(|| [row, &[0.0]].concat());
        assert_close("attention of parallel edges", &entry[..heads], row, OUTPUT);
        entry[heads] += 1.0;
    }
    of_pair
}

fn edges_of(graphs: &GraphBatch) -> Vec<[u32; 2]> {
    let read = |t: Tensor<1, burn::tensor::Int>| t.try_into_vec_as::<i64>().unwrap();
    read(graphs.source()).into_iter().zip(read(graphs.target())).map(|(s, t)| [s as u32, t as u32]).collect()
}

fn edge_list(tensors: &Tensors, name: &str) -> Vec<[u32; 2]> {
    let (shape, flat) = tensors.i64(name);
    (0..shape[1]).map(|e| [flat[e] as u32, flat[shape[1] + e] as u32]).collect()
}

/// Runs all cases of one file through one layer.
fn check_layer<L: Layer>(file: &str, tensors: &Tensors, layer: impl Fn(&Device) -> L) {
    let cases: Vec<String> = tensors.names().iter().filter_map(|n| n.strip_suffix(".x").map(str::to_string)).collect();
    assert!(!cases.is_empty(), "{file}: no cases");
    for (device_name, device) in devices() {
        let device = device.autodiff();
        let layer = filled(layer(&device), tensors, &|path| format!("weights.{}", L::name(path)));
        let mut worst = Worst::default();
        for name in &cases {
            let what = |part: &str| format!("{device_name}: {file}: {name}.{part}");
            let input = |part: &str| {
                let key = format!("{name}.{part}");
                tensors.has(&key).then(|| tensors.tensor::<2>(&key, &device).require_grad())
            };
            let (x, x0) = (input("x").unwrap(), input("x0"));
            let graph = Graph::new(x.dims()[0], edge_list(tensors, &format!("{name}.edge_index"))).unwrap();
            let graphs = GraphBatch::new(&[&graph], L::LOOPS, &device).unwrap();
            let out = layer.run(&Case { tensors, name, x: x.clone(), x0: x0.clone(), graphs });
            let want = tensors.f32(&format!("{name}.out")).1;
            let got = values(out.clone());
            assert_close(&what("out"), &got, &want, OUTPUT);
            worst.output = worst.output.max(max_abs(&got, &want));

            let grads = (out * tensors.tensor::<2>(&format!("{name}.cotangent"), &device)).sum().backward();
            let mut got: HashMap<String, Vec<f32>> =
                collected(&layer, &grads).into_iter().map(|(n, g)| (format!("grad_w.{}", L::name(&n)), g)).collect();
            for (part, input) in [("grad_x", Some(x)), ("grad_x0", x0)] {
                got.extend(input.and_then(|x| x.grad(&grads)).map(|g| (part.to_string(), values(g))));
            }
            let prefix = format!("{name}.");
            let names = tensors.names();
            for key in names.iter().filter_map(|n| n.strip_prefix(&prefix)).filter(|n| n.starts_with("grad_")) {
                let want = tensors.f32(&format!("{name}.{key}")).1;
                let got = got.get(key).map(Vec::as_slice);
                assert_gradient(&what(key), got, &want);
                worst.gradient = worst.gradient.max(got.map_or(0.0, |got| max_abs(got, &want)));
            }
        }
        println!(
            "{device_name}: {file}: {} cases, largest difference: outputs {:e}, gradients {:e}",
            cases.len(),
            worst.output,
            worst.gradient
        );
    }
}

/// The folders that hold layers: their meta.json describes convolutions.
fn folders() -> Vec<PathBuf> {
    fixture_folders("gnn", |dir| {
        let meta = dir.join("meta.json");
        meta.is_file() && json(&meta)["convs"].is_object()
    })
}

#[test]
fn convolutions_match_pytorch_geometric() {
    let _turn = hearth_tests::random_turn();
    for dir in folders() {
        let meta = json(&dir.join("meta.json"));
        for path in list(&dir).into_iter().filter(|p| p.extension().is_some_and(|e| e == "safetensors")) {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_string();
            // Pooling has no weights and no entry among the convolutions.
            let Some(repr) = meta["convs"][&stem]["repr"].as_str() else { continue };
            check_file(&stem, repr, &Tensors::open(&path));
        }
    }
}

/// Builds the layer that `repr` and the shapes of the weights describe, and checks it.
fn check_file(file: &str, repr: &str, tensors: &Tensors) {
    let shape = |name: &str| tensors.shape(&format!("weights.{name}"));
    let has = |name: &str| tensors.has(&format!("weights.{name}"));
    let out = tensors.names().into_iter().find(|n| n.ends_with(".out")).unwrap_or_else(|| panic!("{file}: no output"));
    let width = tensors.shape(&out)[1];
    match repr.split('(').next().unwrap() {
        "GATConv" => {
            let (lin, att) = (shape("lin.weight"), shape("att_src"));
            let config = GatConvConfig::new(lin[1], att[2]).with_heads(att[1]);
            let config = config.with_concat(width == lin[0]).with_bias(has("bias"));
            check_layer(file, tensors, |device| config.init(device));
        }
        "GATv2Conv" => {
            let (lin, att) = (shape("lin_l.weight"), shape("att"));
            let config = GatV2ConvConfig::new(lin[1], att[2]).with_heads(att[1]);
            let config = config.with_concat(width == lin[0]).with_bias(has("bias"));
            check_layer(file, tensors, |device| config.init(device));
        }
        "GCNConv" => {
            let config = GcnConvConfig::new(shape("lin.weight")[1], width).with_bias(has("bias"));
            check_layer(file, tensors, |device| config.init(device));
        }
        "GCN2Conv" => {
            // β stands in the description; layer 1 with θ = e^β − 1 has it.
            let number = |key: &str| setting(repr, key).and_then(|v| v.parse::<f64>().ok()).unwrap();
            let config = Gcn2ConvConfig::new(width, number("alpha"), number("beta").exp_m1(), 1);
            let config = config.with_shared_weights(!has("weight2"));
            check_layer(file, tensors, |device| config.init(device));
        }
        "SAGEConv" => {
            let aggregation = match setting(repr, "aggr") {
                Some("max") => SageAggregation::Max,
                Some("mean") | None => SageAggregation::Mean,
                Some(other) => return println!("skipped: gnn/{file} (aggregation {other} not implemented)"),
            };
            // The description does not say whether outputs are normalised; the outputs do.
            let rows = tensors.f32(&out).1;
            let unit = |row: &[f32]| (row.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-4;
            let config = SageConvConfig::new(shape("lin_l.weight")[1], width)
                .with_aggregation(aggregation)
                .with_normalize(rows.chunks(width).all(unit))
                .with_bias(has("lin_l.bias"));
            check_layer(file, tensors, |device| config.init(device));
        }
        "GINConv" => {
            let layers = (0..).step_by(2).map(|i| format!("nn.{i}.weight")).take_while(|n| has(n)).map(|n| shape(&n));
            let layers: Vec<_> = layers.collect();
            let widths = layers.iter().take(1).map(|s| s[1]).chain(layers.iter().map(|s| s[0])).collect();
            let config = GinConvConfig::new(widths).with_train_eps(true);
            check_layer(file, tensors, |device| config.init(device));
        }
        "TransformerConv" => {
            let lin = shape("lin_key.weight");
            let heads: usize = setting(repr, "heads").map_or(1, |v| v.parse().unwrap());
            let config = TransformerConvConfig::new(lin[1], lin[0] / heads)
                .with_heads(heads)
                .with_concat(width == lin[0])
                .with_beta(has("lin_beta.weight"))
                .with_bias(has("lin_key.bias"));
            check_layer(file, tensors, |device| config.init(device));
        }
        _ => println!("skipped: gnn/{file} (layer not implemented)"),
    }
}

/// The value of `key=…` in a description such as `GATConv(10, 6, heads=4)`.
fn setting<'a>(repr: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = repr.split_once(&format!("{key}="))?;
    Some(rest.split([',', ')']).next().unwrap_or(rest).trim())
}

#[test]
fn pooling_matches_pytorch_geometric() {
    let _turn = hearth_tests::random_turn();
    for path in folders().into_iter().map(|dir| dir.join("pool.safetensors")).filter(|path| path.is_file()) {
        let tensors = Tensors::open(&path);
        let (_, batch) = tensors.i64("batch");
        assert!(batch.is_sorted(), "nodes of one graph stand together");
        let sizes = (0..tensors.i64("size").1[0]).map(|g| batch.iter().filter(|b| **b == g).count());
        let graphs: Vec<Graph> = sizes.map(|n| Graph::new(n, vec![]).unwrap()).collect();
        for (device_name, device) in devices() {
            let device = device.autodiff();
            let graphs = GraphBatch::new(&graphs.iter().collect::<Vec<_>>(), SelfLoops::Keep, &device).unwrap();
            for (name, pool) in [("mean", Pool::Mean), ("add", Pool::Sum), ("max", Pool::Max)] {
                let what = format!("{device_name}: {name}");
                let want = |part: &str| tensors.f32(&format!("{name}.{part}")).1;
                let x = tensors.tensor::<2>("x", &device).require_grad();
                let out = pool.forward(x.clone(), &graphs);
                let grads = (out.clone() * tensors.tensor::<2>(&format!("{name}.cotangent"), &device)).sum().backward();
                assert_close(&what, &values(out), &want("out"), OUTPUT);
                assert_gradient(&what, x.grad(&grads).map(values).as_deref(), &want("grad_x"));
            }
        }
    }
}
