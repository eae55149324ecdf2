//! The contrastive loss against its definition, and what must not change the predictor's numbers.

use burn::tensor::Device;
use burn_gnn::Graph;
use burn_models::glow::{
    ContrastConfig, ContrastGroups, Dedup, GlowBatch, GlowConfig, GlowLossConfig, GlowRecord, GlowTables, GlowWorkflow,
    TaskNorm, contrast,
};
use hearth_tests::{assert_close, devices, values};
use proptest::collection::vec;
use proptest::prelude::*;

use super::gnn_properties::{eighths, f32s, graph, ints, shuffled, tensor};

/// Contrastive losses of one token by task, pair by pair, as the definition reads; and which tasks are counted.
fn pairwise(
    x: &[f64],
    width: usize,
    labels: &[f32],
    tasks: &[usize],
    num_tasks: usize,
    margin: f64,
) -> Vec<Option<f64>> {
    let row = |i: usize| &x[i * width..(i + 1) * width];
    let unit = |i: usize| {
        let norm = row(i).iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        row(i).iter().map(|v| v / norm).collect::<Vec<_>>()
    };
    let distance = |i: usize, j: usize| 1.0 - unit(i).iter().zip(unit(j)).map(|(a, b)| a * b).sum::<f64>();
    let mean = |d: Vec<f64>| d.iter().sum::<f64>() / d.len() as f64;
    let of_task = |task: usize| {
        let members: Vec<usize> = (0..labels.len()).filter(|i| tasks[*i] == task).collect();
        if members.len() < 3 {
            return None;
        }
        let (positives, negatives): (Vec<usize>, Vec<usize>) = members.iter().partition(|i| labels[**i] == 1.0);
        if positives.len() < 2 || negatives.is_empty() {
            return Some(0.0);
        }
        let anchor = |&a: &usize| {
            let to_positives = mean(positives.iter().filter(|p| **p != a).map(|p| distance(a, *p)).collect());
            let to_negatives = mean(negatives.iter().map(|n| distance(a, *n)).collect());
            (to_positives - to_negatives + margin).max(0.0)
        };
        Some(mean(positives.iter().map(anchor).collect()))
    };
    (0..num_tasks).map(of_task).collect()
}

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
        GlowBatch::new(&self.records, &self.workflows, &self.tables(device), dedup, device).unwrap()
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
        for (name, device) in devices() {
            let model = small().init(WIDTH, WIDTH, &device).unwrap();
            let tables = data.tables(&device);
            let run = |batch: &GlowBatch| {
                let output = model.forward(batch, &tables);
                let loss = model.loss(&output, batch, &GlowLossConfig::default());
                let losses = [loss.prediction, loss.contrast, loss.active_tasks].map(values).concat();
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn contrast_matches_its_definition(
        rows in vec((eighths(3), any::<bool>(), 0..3usize), 1..12), margin in 0.0..1.0f64, active in any::<bool>(),
    ) {
        // Rows of zeros are common enough to be met: one in some hundred is one by itself, and here one in eight.
        let row = |(i, r): (usize, &(Vec<f32>, bool, usize))| if i % 8 == 5 { vec![0.0; 3] } else { r.0.clone() };
        let x: Vec<f32> = rows.iter().enumerate().flat_map(row).collect();
        let labels: Vec<f32> = rows.iter().map(|r| r.1 as u8 as f32).collect();
        let tasks: Vec<usize> = rows.iter().map(|r| r.2).collect();
        let x64: Vec<f64> = x.iter().map(|v| *v as f64).collect();
        let want = pairwise(&x64, 3, &labels, &tasks, 3, margin);
        let has_anchor = |task: usize| {
            let of = |label: f32| (0..rows.len()).filter(|i| tasks[*i] == task && labels[*i] == label).count();
            of(1.0) >= 2 && of(0.0) >= 1
        };
        let counted = (0..3).filter(|t| want[*t].is_some() && (!active || has_anchor(*t))).count();
        let total = want.iter().flatten().sum::<f64>() / counted.max(1) as f64;
        let task_norm = if active { TaskNorm::CountActive } else { TaskNorm::CountAll };
        let config = ContrastConfig { margin, task_norm, ..ContrastConfig::default() };
        for (name, device) in devices() {
            let groups = ContrastGroups::new(tensor(&labels, [rows.len()], &device), ints(&tasks, &device), 3, &config);
            let x = tensor(&x, [rows.len(), 3], &device);
            let want: Vec<f64> = want.iter().map(|loss| loss.unwrap_or(0.0)).collect();
            assert_close(&name, &values(groups.task_losses(x.clone(), margin)), &f32s(&want), 1e-6);
            assert_close(&name, &values(contrast(vec![x], &groups, &config)), &[total as f32], 1e-6);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gradient_of_contrast_matches_differences(
        rows in vec((vec(-1.0..1.0f32, 3), any::<bool>(), 0..2usize), 3..10), margin in 0.0..1.0f64,
    ) {
        let x: Vec<f32> = rows.iter().flat_map(|r| r.0.clone()).collect();
        let labels: Vec<f32> = rows.iter().map(|r| r.1 as u8 as f32).collect();
        let tasks: Vec<usize> = rows.iter().map(|r| r.2).collect();
        // Short vectors turn fast: differences would not follow.
        prop_assume!(rows.iter().all(|r| r.0.iter().map(|v| v * v).sum::<f32>() > 0.1));
        let loss = |x: &[f64]| {
            let losses = pairwise(x, 3, &labels, &tasks, 2, margin);
            losses.iter().flatten().sum::<f64>() / losses.iter().flatten().count().max(1) as f64
        };
        let x64: Vec<f64> = x.iter().map(|v| *v as f64).collect();
        let step = |i: usize, h: f64| {
            let mut x = x64.clone();
            x[i] += h;
            loss(&x)
        };
        let (h, here) = (1e-6, loss(&x64));
        let sides = |i: usize| ((step(i, h) - here) / h, (here - step(i, -h)) / h);
        let slopes: Vec<(f64, f64)> = (0..x.len()).map(sides).collect();
        // At the kink of a hinge the two differ, and there is no gradient.
        prop_assume!(slopes.iter().all(|(right, left)| (right - left).abs() < 1e-4));
        let want: Vec<f64> = slopes.iter().map(|(right, left)| (right + left) / 2.0).collect();
        let config = ContrastConfig { margin, ..ContrastConfig::default() };
        for (name, device) in devices() {
            let device = device.autodiff();
            let groups = ContrastGroups::new(tensor(&labels, [rows.len()], &device), ints(&tasks, &device), 2, &config);
            let x = tensor(&x, [rows.len(), 3], &device).require_grad();
            let grads = contrast(vec![x.clone()], &groups, &config).backward();
            assert_close(&name, &values(x.grad(&grads).unwrap()), &f32s(&want), 1e-4);
        }
    }
}
