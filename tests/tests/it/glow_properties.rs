//! What must not change the predictor's numbers.

use burn::tensor::Device;
use burn_gnn::{AdjacencyTarget, Graph, adjacency_loss};
use burn_models::glow::{
    ContrastConfig, Dedup, GlowBatch, GlowConfig, GlowRecord, GlowTables, GlowWorkflow, Head, Regression,
    RegressionLoss, RegressionOutput, classification_loss, regression_loss,
};
use hearth_tests::{assert_close, devices, values};
use proptest::collection::vec;
use proptest::prelude::*;

use super::gnn_properties::{eighths, f32s, graph, shuffled, tensor};

/// Random tables, workflows and records for a whole predictor.
#[derive(Debug, Clone)]
struct Data {
    llm: Vec<f32>,
    text: Vec<f32>,
    workflows: Vec<GlowWorkflow>,
    records: Vec<GlowRecord>,
}

const WIDTH: usize = 4;

prop_compose! {
    fn data()(llm in eighths(3 * WIDTH), text in eighths(7 * WIDTH), graphs in vec(graph(0..=5), 3),
              rows in vec((0..3u32, 0..7u32, any::<bool>(), 0..3i64), 2..9)) -> Data {
        let workflow = |(i, graph): (usize, Graph)| {
            let node_texts = (0..graph.num_nodes).map(|n| ((3 * i + 2 * n) % 7) as u32).collect();
            GlowWorkflow { graph, node_texts }
        };
        let record = |(workflow, task, solved, task_id): (u32, u32, bool, i64)| {
            GlowRecord { workflow, llm: workflow, task, label: solved as u8 as f32, task_id }
        };
        Data {
            llm,
            text,
            workflows: graphs.into_iter().enumerate().map(workflow).collect(),
            records: rows.into_iter().map(record).collect(),
        }
    }
}

impl Data {
    fn tables(&self, device: &Device) -> GlowTables {
        GlowTables { llm: tensor(&self.llm, [3, WIDTH], device), text: tensor(&self.text, [7, WIDTH], device) }
    }

    fn batch(&self, dedup: Dedup, device: &Device) -> GlowBatch {
        let batch = GlowBatch::new(&self.records, &self.workflows, &self.tables(device), dedup, device).unwrap();
        // Targets of a rate that go with the record.
        let target = |r: &GlowRecord| (r.workflow + 2 * r.task) as f32 / 16.0;
        let batch = batch.with_targets(&self.records.iter().map(target).collect::<Vec<_>>()).unwrap();
        batch.with_contrast(&ContrastConfig::default(), 0).unwrap()
    }
}

fn small() -> GlowConfig {
    let mut config = GlowConfig { hidden_dim: 8, ..GlowConfig::default() };
    config.fusion.ff_width = 16;
    config
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_and_sharing_of_records_do_not_matter(data in data(), seed in any::<u64>()) {
        let _turn = hearth_tests::random_turn();
        for (name, device) in devices() {
            let head = Head::Both { reg_weight: 0.5, rate: Default::default() };
            let model = GlowConfig { head, ..small() }.init(WIDTH, WIDTH, &device).unwrap();
            let tables = data.tables(&device);
            let run = |batch: &GlowBatch| {
                let output = model.forward(batch, &tables);
                let loss = model.loss(&output, batch, 1.0);
                let mut losses = [loss.prediction, loss.contrast].map(values).concat();
                losses.push(loss.active_tasks as f32);
                (values(output.logits), losses)
            };
            let (logits, losses) = run(&data.batch(Dedup::Share, &device));
            let repeated = run(&data.batch(Dedup::Repeat, &device));
            assert_close(&name, &repeated.0, &logits, 1e-5);
            assert_close(&name, &repeated.1, &losses, 1e-5);

            let order = shuffled(data.records.len(), seed);
            let mut other = data.clone();
            other.records = order.iter().map(|i| data.records[*i]).collect();
            let moved = run(&other.batch(Dedup::Share, &device));
            let expected: Vec<f32> = order.iter().map(|i| logits[*i]).collect();
            assert_close(&name, &moved.0, &expected, 1e-5);
            assert_close(&name, &moved.1, &losses, 1e-5);

            // One record at a time.
            for (i, record) in data.records.iter().enumerate() {
                let alone = Data { records: vec![*record], ..data.clone() };
                assert_close(&name, &run(&alone.batch(Dedup::Share, &device)).0, &logits[i..=i], 1e-5);
            }
        }
    }
}

/// A number's derivative by finite differences of a function of all of them, in f64; `None` at a kink.
fn slopes(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Option<Vec<f64>> {
    let h = 1e-6;
    let here = f(x);
    (0..x.len())
        .map(|i| {
            let step = |h: f64| {
                let mut x = x.to_vec();
                x[i] += h;
                f(&x)
            };
            let (right, left) = ((step(h) - here) / h, (here - step(-h)) / h);
            ((right - left).abs() < 1e-4).then_some((right + left) / 2.0)
        })
        .collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn cross_entropy(x: f64, y: f64) -> f64 {
    -y * sigmoid(x).ln() - (1.0 - y) * (1.0 - sigmoid(x)).ln()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gradients_of_prediction_losses_match_differences(
        rows in vec((-3.0..3.0f64, 0.0..1.0f64), 1..8), limit in 0.1..1.0f64, kind in 0..4u8, identity in any::<bool>(),
    ) {
        let _turn = hearth_tests::random_turn();
        let (x, y): (Vec<f64>, Vec<f64>) = rows.into_iter().unzip();
        let loss = [RegressionLoss::Mse, RegressionLoss::Huber(limit), RegressionLoss::SmoothL1(limit)];
        let loss = loss.get(kind as usize).copied();
        let output = if identity { RegressionOutput::Identity } else { RegressionOutput::Sigmoid };
        let cost = |x: f64, y: f64| {
            let e = if identity { x - y } else { sigmoid(x) - y };
            let huber = if e.abs() <= limit { 0.5 * e * e } else { limit * (e.abs() - 0.5 * limit) };
            match loss {
                None => cross_entropy(x, y),
                Some(RegressionLoss::Mse) => e * e,
                Some(RegressionLoss::Huber(_)) => huber,
                Some(RegressionLoss::SmoothL1(_)) => huber / limit,
            }
        };
        let mean = |x: &[f64]| x.iter().zip(&y).map(|(x, y)| cost(*x, *y)).sum::<f64>() / x.len() as f64;
        let want = slopes(&x, mean);
        prop_assume!(want.is_some());
        for (name, device) in devices() {
            let device = device.autodiff();
            let column = |v: &[f64]| tensor(&f32s(v), [v.len()], &device);
            let (input, truth) = (column(&x).require_grad(), column(&y));
            let got = match loss {
                None => classification_loss(input.clone(), truth),
                Some(loss) => regression_loss(input.clone(), truth, &Regression { loss, output, ..Regression::default() }),
            };
            assert_close(&name, &values(got.clone()), &[mean(&x) as f32], 1e-5);
            let grads = got.backward();
            assert_close(&name, &values(input.grad(&grads).unwrap()), &f32s(want.as_ref().unwrap()), 1e-4);
        }
    }

    #[test]
    fn gradient_of_adjacency_matches_differences(
        graphs in vec(graph(1..=4), 1..4), noise in vec(-3.0..3.0f64, 3 * 16),
    ) {
        let _turn = hearth_tests::random_turn();
        let size = graphs.iter().map(|g| g.num_nodes).max().unwrap();
        let x = &noise[..graphs.len() * size * size];
        let loss = |x: &[f64]| {
            let of_graph = |(g, graph): (usize, &Graph)| {
                let n = graph.num_nodes;
                let pair = |i: usize, j: usize| {
                    let edge = graph.edges.contains(&[i as u32, j as u32]);
                    cross_entropy(x[(g * size + i) * size + j], f64::from(u8::from(edge)))
                };
                (0..n * n).map(|p| pair(p / n, p % n)).sum::<f64>() / (n * n) as f64
            };
            graphs.iter().enumerate().map(of_graph).sum::<f64>() / graphs.len() as f64
        };
        let want = slopes(x, loss).unwrap();
        for (name, device) in devices() {
            let device = device.autodiff();
            let target = AdjacencyTarget::new(&graphs.iter().collect::<Vec<_>>(), &device).unwrap();
            let logits = tensor(&f32s(x), [graphs.len(), size, size], &device).require_grad();
            let got = adjacency_loss(logits.clone(), &target).mean();
            assert_close(&name, &values(got.clone()), &[loss(x) as f32], 1e-5);
            let grads = got.backward();
            assert_close(&name, &values(logits.grad(&grads).unwrap()), &f32s(&want), 1e-4);
        }
    }
}
