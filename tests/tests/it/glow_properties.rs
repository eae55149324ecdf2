//! What must not change the predictor's numbers.

use burn::tensor::Device;
use burn_gnn::Graph;
use burn_models::glow::{ContrastConfig, Dedup, GlowBatch, GlowConfig, GlowRecord, GlowTables, GlowWorkflow, Head};
use hearth_tests::{assert_close, devices, values};
use proptest::collection::vec;
use proptest::prelude::*;

use super::gnn_properties::{eighths, graph, shuffled, tensor};

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
