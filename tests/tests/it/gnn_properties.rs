//! Graph operations against slow, obvious twins in f64, and their invariances.

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_gnn::segment::{segment_max, segment_mean, segment_softmax, segment_sum};
use burn_gnn::{
    AdjacencyTarget, ConvKind, GatConvConfig, GnnEncoderConfig, Graph, GraphBatch, SelfLoops, adjacency_loss,
};
use hearth_tests::{assert_close, devices, values};
use proptest::collection::vec;
use proptest::prelude::*;

pub(crate) fn tensor<const D: usize>(data: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data.to_vec(), shape), device)
}

pub(crate) fn ints(data: &[usize], device: &Device) -> Tensor<1, Int> {
    let data: Vec<i64> = data.iter().map(|v| *v as i64).collect();
    let shape = [data.len()];
    Tensor::from_data(TensorData::new(data, shape), device)
}

pub(crate) fn f32s(data: &[f64]) -> Vec<f32> {
    data.iter().map(|v| *v as f32).collect()
}

/// Multiples of 1/8, so that equal values and exact sums are common.
pub(crate) fn eighths(count: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<f32>> {
    vec((-16i32..=16).prop_map(|v| v as f32 / 8.0), count)
}

/// A graph of up to `nodes` nodes with parallel edges, self-loops and isolated nodes.
pub(crate) fn graph(nodes: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Graph> {
    nodes.prop_flat_map(|n| {
        let edges = vec((0..n.max(1) as u32, 0..n.max(1) as u32), if n == 0 { 0..=0 } else { 0..=3 * n });
        edges.prop_map(move |edges| Graph::new(n, edges.into_iter().map(|(s, t)| [s, t]).collect()).unwrap())
    })
}

struct Segments {
    values: Vec<f32>,
    cotangent: Vec<f32>,
    segments: Vec<usize>,
    width: usize,
    count: usize,
}

prop_compose! {
    fn segments()(count in 1..5usize, width in 1..4usize, rows in 0..12usize)
        (values in eighths(rows * width), cotangent in eighths(rows.max(count) * width),
         segments in vec(0..count, rows), width in Just(width), count in Just(count)) -> Segments {
        Segments { values, cotangent, segments, width, count }
    }
}

impl std::fmt::Debug for Segments {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?} in {:?} of {}, {:?}", self.values, self.segments, self.count, self.cotangent)
    }
}

impl Segments {
    /// Result `[count, width]` (or `[rows, width]` for softmax) and gradient `[rows, width]`, column by column and
    /// segment by segment; `reduce` gets the values of one segment and the cotangents of its result and returns the
    /// result and the gradient of each value.
    fn slow(&self, softmax: bool, reduce: impl Fn(&[f64], &[f64]) -> (Vec<f64>, Vec<f64>)) -> (Vec<f32>, Vec<f32>) {
        let rows = self.segments.len();
        let mut out = vec![0.0; if softmax { rows } else { self.count } * self.width];
        let mut grad = vec![0.0; rows * self.width];
        for column in 0..self.width {
            for segment in 0..self.count {
                let members: Vec<usize> = (0..rows).filter(|r| self.segments[*r] == segment).collect();
                let places = if softmax { members.clone() } else { vec![segment] };
                let at = |row: &usize| row * self.width + column;
                let values: Vec<f64> = members.iter().map(|r| self.values[at(r)] as f64).collect();
                let cotangents: Vec<f64> = places.iter().map(|r| self.cotangent[at(r)] as f64).collect();
                let (results, grads) = reduce(&values, &cotangents);
                places.iter().zip(results).for_each(|(r, v)| out[at(r)] = v);
                members.iter().zip(grads).for_each(|(r, v)| grad[at(r)] = v);
            }
        }
        (f32s(&out), f32s(&grad))
    }

    fn check(&self, name: &str, fast: Reduction, slow: (Vec<f32>, Vec<f32>)) {
        for (device_name, device) in devices() {
            let device = device.autodiff();
            let rows = self.segments.len();
            let x = tensor(&self.values, [rows, self.width], &device).require_grad();
            let out = fast(x.clone(), ints(&self.segments, &device), self.count);
            let shape = out.dims();
            let what = format!("{device_name}: {name}");
            assert_close(&what, &values(out.clone()), &slow.0, 1e-6);
            if rows > 0 {
                let cotangent = tensor(&self.cotangent[..shape[0] * shape[1]], shape, &device);
                let grads = (out * cotangent).sum().backward();
                assert_close(&format!("gradient of {what}"), &values(x.grad(&grads).unwrap()), &slow.1, 2e-6);
            }
        }
    }
}

type Reduction = fn(Tensor<2>, Tensor<1, Int>, usize) -> Tensor<2>;

/// A graph batch's edges as pairs, in its order.
fn edges_of(graphs: &GraphBatch) -> Vec<(usize, usize)> {
    let read = |t: Tensor<1, Int>| t.try_into_vec_as::<i64>().unwrap();
    read(graphs.source()).into_iter().zip(read(graphs.target())).map(|(s, t)| (s as usize, t as usize)).collect()
}

/// Attention convolution over an adjacency matrix that counts parallel edges, in f64.
struct DenseGat<'a> {
    heads: usize,
    width: usize,
    theta: &'a [f64],
    att_src: &'a [f64],
    att_dst: &'a [f64],
}

impl DenseGat<'_> {
    fn run(&self, x: &[f64], graph: &Graph) -> Vec<f64> {
        let (n, out) = (graph.num_nodes, self.heads * self.width);
        let d = x.len() / n;
        let mut count = vec![vec![0.0; n]; n];
        for &[source, target] in graph.edges.iter().filter(|e| e[0] != e[1]) {
            count[target as usize][source as usize] += 1.0;
        }
        (0..n).for_each(|i| count[i][i] = 1.0);
        let h = |i: usize, c: usize| (0..d).map(|k| x[i * d + k] * self.theta[k * out + c]).sum::<f64>();
        let mut result = vec![0.0; n * out];
        for head in 0..self.heads {
            let columns = head * self.width..(head + 1) * self.width;
            let dot = |i: usize, a: &[f64]| columns.clone().map(|c| h(i, c) * a[c]).sum::<f64>();
            for i in 0..n {
                let score = |j: usize| dot(j, self.att_src) + dot(i, self.att_dst);
                let weight = |j: usize| {
                    let score = score(j);
                    count[i][j] * (if score > 0.0 { score } else { 0.2 * score }).exp()
                };
                let total: f64 = (0..n).map(weight).sum();
                for c in columns.clone() {
                    result[i * out + c] = (0..n).map(|j| weight(j) / total * h(j, c)).sum();
                }
            }
        }
        result
    }
}

/// A permutation of `0..n` that depends on `seed`.
pub(crate) fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(seed | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
    order
}

/// Width of node features.
const WIDTH: usize = 4;

/// The same graph with node `i` called `names[i]`, its edges in reverse order.
fn relabelled(graph: &Graph, names: &[usize]) -> Graph {
    let edge = |e: &[u32; 2]| e.map(|node| names[node as usize] as u32);
    Graph::new(graph.num_nodes, graph.edges.iter().rev().map(edge).collect()).unwrap()
}

/// Every convolution on every device.
fn kinds() -> Vec<(String, Device, ConvKind)> {
    let kinds = [
        ConvKind::Gat,
        ConvKind::GatV2,
        ConvKind::Gcn,
        ConvKind::Gcn2 { alpha: 0.3 },
        ConvKind::Sage,
        ConvKind::Gin,
        ConvKind::Transformer { beta: true },
    ];
    let on = |(name, device): (String, Device)| kinds.map(|kind| (format!("{kind:?} on {name}"), device.clone(), kind));
    devices().into_iter().flat_map(on).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reductions_match_their_slow_twins(s in segments()) {
        let _turn = hearth_tests::random_turn();
        s.check("sum", segment_sum, s.slow(false, |v, g| (vec![v.iter().sum()], vec![g[0]; v.len()])));
        s.check("mean", segment_mean, s.slow(false, |v, g| {
            let size = v.len().max(1) as f64;
            (vec![v.iter().sum::<f64>() / size], vec![g[0] / size; v.len()])
        }));
        s.check("max", segment_max, s.slow(false, |v, g| {
            let largest = v.iter().copied().reduce(f64::max).unwrap_or(0.0);
            let ties = v.iter().filter(|x| **x == largest).count() as f64;
            (vec![largest], v.iter().map(|x| if *x == largest { g[0] / ties } else { 0.0 }).collect())
        }));
        s.check("softmax", segment_softmax, s.slow(true, |v, g| {
            let sum: f64 = v.iter().map(|x| x.exp()).sum();
            let y: Vec<f64> = v.iter().map(|x| x.exp() / sum).collect();
            let mean: f64 = y.iter().zip(g).map(|(y, g)| y * g).sum();
            let grads = y.iter().zip(g).map(|(y, g)| y * (g - mean)).collect();
            (y, grads)
        }));
    }

    #[test]
    fn softmax_survives_large_values(shift in -80f32..80.0) {
        let _turn = hearth_tests::random_turn();
        for (name, device) in devices() {
            let x = tensor(&[shift * 100.0, shift * 100.0 + 1.0, -1e30], [3, 1], &device);
            let out = values(segment_softmax(x, ints(&[0, 0, 1], &device), 2));
            prop_assert!((out[0] + out[1] - 1.0).abs() < 1e-6 && out[2] == 1.0, "{}: {:?}", name, out);
        }
    }

    #[test]
    fn batches_keep_every_edge(graphs in vec(graph(0..=6), 0..4)) {
        let _turn = hearth_tests::random_turn();
        let (_, device) = devices().swap_remove(0);
        let all: Vec<&Graph> = graphs.iter().collect();
        for loops in [SelfLoops::Keep, SelfLoops::ReplaceOnce] {
            let batch = GraphBatch::new(&all, loops, &device).unwrap();
            let edges = edges_of(&batch);
            prop_assert!(edges.is_sorted_by_key(|(s, t)| (*t, *s)));
            let mut expected = Vec::new();
            let mut given = Vec::new();
            for (graph, first) in graphs.iter().zip(batch.node_offsets()) {
                let shifted = graph.edges.iter().map(|e| (e[0] as usize + first, e[1] as usize + first));
                given.extend(shifted.clone());
                match loops {
                    SelfLoops::Keep => expected.extend(shifted),
                    SelfLoops::ReplaceOnce => {
                        expected.extend(shifted.filter(|(s, t)| s != t));
                        expected.extend((*first..first + graph.num_nodes).map(|i| (i, i)));
                    }
                }
            }
            expected.sort_by_key(|(s, t)| (*t, *s));
            prop_assert_eq!(&edges, &expected);
            for (edge, origin) in edges.iter().zip(batch.edge_origins()) {
                match origin {
                    Some(position) => prop_assert_eq!(*edge, given[*position]),
                    None => prop_assert!(edge.0 == edge.1 && !given.contains(edge)),
                }
            }
            for node in 0..batch.num_nodes() {
                let range = batch.edge_offsets()[node]..batch.edge_offsets()[node + 1];
                prop_assert!(edges[range.clone()].iter().all(|(_, t)| *t == node));
                prop_assert_eq!(range.len(), expected.iter().filter(|(_, t)| *t == node).count());
            }
        }
    }

    #[test]
    fn adjacency_loss_matches_its_definition(graphs in vec(graph(0..=4), 1..4), logits in eighths(3 * 16)) {
        let _turn = hearth_tests::random_turn();
        let all: Vec<&Graph> = graphs.iter().collect();
        let size = graphs.iter().map(|g| g.num_nodes).max().unwrap();
        let shape = [graphs.len(), size, size];
        let at = |g: usize, i: usize, j: usize| (g * size + i) * size + j;
        let (mut want, mut grads) = (vec![0.0f64; graphs.len()], vec![0.0f64; graphs.len() * size * size]);
        for (g, graph) in graphs.iter().enumerate() {
            let pairs = (graph.num_nodes * graph.num_nodes) as f64;
            for (i, j) in (0..graph.num_nodes).flat_map(|i| (0..graph.num_nodes).map(move |j| (i, j))) {
                let edge = graph.edges.contains(&[i as u32, j as u32]) as u8 as f64;
                let p = 1.0 / (1.0 + (-logits[at(g, i, j)] as f64).exp());
                want[g] -= (edge * p.ln() + (1.0 - edge) * (1.0 - p).ln()) / pairs;
                grads[at(g, i, j)] = (p - edge) / pairs;
            }
        }
        for (name, device) in devices() {
            let device = device.autodiff();
            let target = AdjacencyTarget::new(&all, &device).unwrap();
            let x = tensor(&logits[..shape.iter().product()], shape, &device).require_grad();
            let loss = adjacency_loss(x.clone(), &target);
            let grad = x.grad(&loss.clone().sum().backward()).map_or(vec![], values);
            assert_close(&name, &values(loss), &f32s(&want), 1e-5);
            assert_close(&name, &grad, &f32s(&grads), 1e-6);
        }
    }

    #[test]
    fn a_batch_is_its_graphs_one_by_one(graphs in vec(graph(0..=5), 1..4), x in eighths(15 * WIDTH)) {
        let _turn = hearth_tests::random_turn();
        for (name, device, kind) in kinds() {
            let encoder = GnnEncoderConfig::new(WIDTH, 8).with_kind(kind).init(&device).unwrap();
            let run = |graphs: &[&Graph], first: usize| {
                let nodes: usize = graphs.iter().map(|g| g.num_nodes).sum();
                let batch = GraphBatch::new(graphs, SelfLoops::ReplaceOnce, &device).unwrap();
                let x = tensor(&x[first * WIDTH..][..nodes * WIDTH], [nodes, WIDTH], &device);
                let out = encoder.forward(x, &batch);
                (values(out.nodes), values(out.graphs))
            };
            let (nodes, vectors) = run(&graphs.iter().collect::<Vec<_>>(), 0);
            let (mut one_nodes, mut one_vectors, mut first) = (vec![], vec![], 0);
            for graph in &graphs {
                let (nodes, vector) = run(&[graph], first);
                one_nodes.extend(nodes);
                one_vectors.extend(vector);
                first += graph.num_nodes;
            }
            assert_close(&name, &nodes, &one_nodes, 1e-5);
            assert_close(&name, &vectors, &one_vectors, 1e-5);
        }
    }

    #[test]
    fn names_of_nodes_do_not_matter(graph in graph(1..=6), x in eighths(6 * WIDTH), seed in any::<u64>()) {
        let _turn = hearth_tests::random_turn();
        let n = graph.num_nodes;
        let names = shuffled(n, seed);
        let other = relabelled(&graph, &names);
        let mut moved = vec![0.0; n * WIDTH];
        for (i, name) in names.iter().enumerate() {
            moved[name * WIDTH..][..WIDTH].copy_from_slice(&x[i * WIDTH..][..WIDTH]);
        }
        for (name, device, kind) in kinds() {
            let encoder = GnnEncoderConfig::new(WIDTH, 8).with_kind(kind).init(&device).unwrap();
            let run = |graph: &Graph, x: &[f32]| {
                let batch = GraphBatch::new(&[graph], SelfLoops::ReplaceOnce, &device).unwrap();
                let target = AdjacencyTarget::new(&[graph], &device).unwrap();
                let x = tensor(&x[..n * WIDTH], [n, WIDTH], &device);
                let (out, loss) = (encoder.forward(x.clone(), &batch), encoder.warmup(x, &batch, &target));
                (values(out.nodes), values(out.graphs), [values(loss.node), values(loss.adjacency)].concat())
            };
            let (first, second) = (run(&graph, &x), run(&other, &moved));
            assert_close(&name, &second.1, &first.1, 1e-5);
            assert_close(&name, &second.2, &first.2, 1e-5);
            for (i, new) in names.iter().enumerate() {
                assert_close(&name, &second.0[new * 8..][..8], &first.0[i * 8..][..8], 1e-5);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attention_matches_a_dense_reference(
        graph in graph(1..=7), heads in 1..4usize, width in 1..4usize, concat in any::<bool>(),
        x in eighths(7 * 3), weights in eighths(3 * 9), vectors in eighths(2 * 9),
    ) {
        let _turn = hearth_tests::random_turn();
        let n = graph.num_nodes;
        let out = heads * width;
        let f64s = |data: &[f32]| data.iter().map(|v| *v as f64).collect::<Vec<_>>();
        let (theta, src, dst) = (f64s(&weights[..3 * out]), f64s(&vectors[..out]), f64s(&vectors[9..][..out]));
        let dense = DenseGat { heads, width, theta: &theta, att_src: &src, att_dst: &dst };
        let mut want = dense.run(&f64s(&x[..3 * n]), &graph);
        if !concat {
            let sum = |i: usize, c: usize| (0..heads).map(|h| want[i * out + h * width + c]).sum::<f64>();
            want = (0..n * width).map(|k| sum(k / width, k % width) / heads as f64).collect();
        }
        for (name, device) in devices() {
            let config = GatConvConfig::new(3, width).with_heads(heads).with_concat(concat).with_bias(false);
            let mut gat = config.init(&device);
            gat.lin.weight = burn::module::Param::from_tensor(tensor(&weights[..3 * out], [3, out], &device));
            gat.att_src = burn::module::Param::from_tensor(tensor(&vectors[..out], [1, heads, width], &device));
            gat.att_dst = burn::module::Param::from_tensor(tensor(&vectors[9..][..out], [1, heads, width], &device));
            let batch = GraphBatch::new(&[&graph], SelfLoops::ReplaceOnce, &device).unwrap();
            let got = values(gat.forward(tensor(&x[..3 * n], [n, 3], &device), &batch));
            // States reach about 10: a millionth of that.
            let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs())) as f32;
            assert_close(&name, &got, &f32s(&want), 1e-6 * scale);
        }
    }
}
