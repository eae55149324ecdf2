//! Small cases of the GLOW predictor and of graph layers that were worked out by hand.

use burn::module::{Module, Param};
use burn::nn::LayerNormConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_gnn::{AdjacencyTarget, BilinearConfig, GatConvConfig, Graph, GraphBatch, Pool, SelfLoops, adjacency_loss};
use burn_lora::{LoraConfig, LoraLinear};
use burn_models::encoder::{Pooling, normalize};
use burn_models::glow::{
    Anchors, ContrastConfig, ContrastForm, ContrastGroups, GlowConfig, Reduce, Regression, RegressionLoss,
    RegressionOutput, TaskNorm, classification_loss, contrast, regression_loss,
};
use hearth_tests::{assert_close, devices, values};

/// The five vectors that most examples share.
const V: [[f32; 2]; 5] = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8], [0.6, -0.8]];

fn matrix(rows: &[[f32; 2]], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), 2]), device)
}

fn vector(data: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(data.to_vec(), [data.len()]), device)
}

fn margin(margin: f64) -> ContrastConfig {
    ContrastConfig { margin, ..ContrastConfig::default() }
}

/// The contrastive loss of one token of one task.
fn one_task(x: Tensor<2>, labels: &[f32], config: &ContrastConfig) -> Tensor<1> {
    let device = x.device();
    let groups = ContrastGroups::new(labels, &vec![0; labels.len()], 1, config, 0, &device).unwrap();
    contrast(vec![x], &groups).unwrap()
}

#[test]
fn contrast_of_one_task() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let loss = |rows: &[[f32; 2]], labels: &[f32], m| values(one_task(matrix(rows, &device), labels, &margin(m)));
        assert_close(&name, &loss(&V, &[1.0, 0.0, 1.0, 1.0, 0.0], 0.2), &[0.4], 1e-5);
        assert_close(&name, &loss(&V, &[1.0, 1.0, 1.0, 0.0, 0.0], 0.2), &[0.0], 1e-5);
        assert_close(&name, &loss(&V, &[1.0, 1.0, 1.0, 0.0, 0.0], 0.5), &[0.1], 1e-5);
        // Only directions matter.
        let mut scaled = V;
        for (row, factor) in scaled.iter_mut().zip([3.0, 1.0, 0.5, 10.0, 7.0]) {
            row.iter_mut().for_each(|v| *v *= factor);
        }
        assert_close(&name, &loss(&scaled, &[1.0, 1.0, 1.0, 0.0, 0.0], 0.5), &[0.1], 1e-5);
    }
}

#[test]
fn gradient_of_contrast() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let x = matrix(&V, &device.autodiff()).require_grad();
        let grads = one_task(x.clone(), &[1.0, 1.0, 1.0, 0.0, 0.0], &margin(0.5)).backward();
        let want = [0.0, -0.433333, 0.02, -0.026667, -0.466667, 0.0, 0.186667, 0.14, 0.186667, 0.14];
        assert_close(&name, &values(x.grad(&grads).unwrap()), &want, 1e-4);
    }
}

#[test]
fn contrast_without_pairs_is_zero() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        for labels in [[1.0, 0.0, 0.0, 0.0, 0.0], [1.0; 5], [0.0; 5]] {
            let x = matrix(&V, &device.clone().autodiff()).require_grad();
            let loss = one_task(x.clone(), &labels, &margin(0.2));
            let grads = loss.backward();
            assert_eq!(values(loss), [0.0], "{name}");
            assert_eq!(values(x.grad(&grads).unwrap()), [0.0; 10], "{name}");
        }
    }
}

/// Every other form on the same vectors: anchors with the first label set, then with the second.
#[test]
fn triplets_of_one_task() {
    let _turn = hearth_tests::random_turn();
    let all = |reduce| ContrastForm::BatchAll { reduce };
    let (first, second) = ([1.0, 0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0]);
    for (form, anchors, want) in [
        (ContrastForm::BatchHard, Anchors::PositivesOnly, [1.0666667, 0.6]),
        (ContrastForm::BatchHard, Anchors::All, [1.0, 1.12]),
        (all(Reduce::Valid), Anchors::PositivesOnly, [0.5333333, 0.1833333]),
        (all(Reduce::Active), Anchors::PositivesOnly, [1.0666667, 0.7333333]),
        (all(Reduce::Valid), Anchors::All, [0.5111111, 0.5222222]),
        (all(Reduce::Active), Anchors::All, [0.92, 1.0444444]),
    ] {
        for (name, device) in devices() {
            let config = ContrastConfig { form, anchors, ..margin(0.2) };
            let loss = [first, second].map(|labels| values(one_task(matrix(&V, &device), &labels, &config))[0]);
            assert_close(&format!("{name}: {form:?} {anchors:?}"), &loss, &want, 1e-5);
        }
    }
}

/// Ten records of three tasks: one too small, one with an active loss, one without a negative record.
struct ThreeTasks {
    groups: ContrastGroups,
    tokens: Vec<Tensor<2>>,
}

impl ThreeTasks {
    fn loss(self) -> Vec<f32> {
        values(contrast(self.tokens, &self.groups).unwrap())
    }
}

fn three_tasks(device: &Device, config: &ContrastConfig) -> ThreeTasks {
    let labels = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0];
    // Task ids 7, 3 and 9 in order of appearance.
    let tasks = [0, 0, 0, 0, 0, 1, 1, 2, 2, 2];
    let mut llm = V.to_vec();
    llm.extend([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]);
    let graph = [
        [1.0, 0.0],
        [0.0, 1.0],
        [1.0, 1.0],
        [1.0, 0.0],
        [0.0, -1.0],
        [0.0, 1.0],
        [1.0, 0.0],
        [0.0, 1.0],
        [1.0, 0.0],
        [0.0, 1.0],
    ];
    ThreeTasks {
        groups: ContrastGroups::new(&labels, &tasks, 3, config, 0, device).unwrap(),
        tokens: vec![matrix(&llm, device), matrix(&graph, device)],
    }
}

#[test]
fn contrast_of_several_tasks() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let all = margin(0.2);
        let ThreeTasks { groups, tokens } = three_tasks(&device, &all);
        assert_close(&name, &values(groups.task_losses(tokens[0].clone())), &[0.0; 3], 1e-5);
        assert_close(&name, &values(groups.task_losses(tokens[1].clone())), &[0.1154822, 0.0, 0.0], 1e-5);
        assert_eq!((groups.counted_tasks, groups.active_tasks), (2, 1));
        assert_close(&name, &values(contrast(tokens.clone(), &groups).unwrap()), &[0.0288706], 1e-5);
        assert_close(&name, &values(contrast(tokens[1..].to_vec(), &groups).unwrap()), &[0.0577411], 1e-5);
        assert!(contrast(vec![], &groups).is_none());
        let active = ContrastConfig { task_norm: TaskNorm::CountActive, ..all.clone() };
        assert_close(&name, &three_tasks(&device, &active).loss(), &[0.0577411], 1e-5);
        // No task is large enough.
        let large = ContrastConfig { min_group: 6, ..all };
        assert_eq!(three_tasks(&device, &large).loss(), [0.0]);
    }
}

#[test]
fn classification_by_hand() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let logits = vector(&[2.0, -1.0, 0.5, -3.0], &device);
        let labels = vector(&[1.0, 0.0, 0.0, 1.0], &device);
        let loss = classification_loss(logits.clone(), labels);
        assert_close(&name, &values(loss.clone()), &[1.1157135], 1e-5);
        let all = margin(0.2);
        let ThreeTasks { groups, tokens } = three_tasks(&device, &all);
        assert_close(&name, &values(loss + contrast(tokens, &groups).unwrap()), &[1.1445841], 1e-5);
        let config = GlowConfig { hidden_dim: 4, ..GlowConfig::default() };
        let scores = values(config.init(2, 2, &device).unwrap().scores(logits));
        assert_close(&name, &scores, &[0.880797, 0.268941, 0.622459, 0.047426], 1e-5);
        assert_eq!(scores.iter().map(|s| *s > 0.5).collect::<Vec<_>>(), [true, false, true, false]);
        // Far out the loss is the distance, not infinite.
        let far = classification_loss(vector(&[200.0, -200.0], &device), vector(&[0.0, 1.0], &device));
        assert_close(&name, &values(far), &[200.0], 1e-3);
    }
}

#[test]
fn regression_by_hand() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let rate = |loss, output| Regression { loss, output, ..Regression::default() };
        let labels = [0.9, 0.2, 0.5, 0.6];
        for (loss, want) in [
            (RegressionLoss::Mse, 0.0813640),
            (RegressionLoss::Huber(1.0), 0.0406820),
            (RegressionLoss::Huber(0.1), 0.0150160),
            (RegressionLoss::SmoothL1(0.1), 0.1501605),
        ] {
            let logits = vector(&[2.0, -1.0, 0.5, -3.0], &device);
            let got = regression_loss(logits, vector(&labels, &device), &rate(loss, RegressionOutput::Sigmoid));
            assert_close(&format!("{name}: {loss:?}"), &values(got), &[want], 1e-6);
            let rates = vector(&[0.880797, 0.268941, 0.622459, 0.047426], &device);
            let got = regression_loss(rates, vector(&labels, &device), &rate(loss, RegressionOutput::Identity));
            assert_close(&format!("{name}: {loss:?} of rates"), &values(got), &[want], 1e-6);
        }
    }
}

#[test]
fn gradients_of_prediction_losses() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let device = device.autodiff();
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let logits = [-2.0, -0.2, 0.1, 0.9];
        let x = vector(&logits, &device).require_grad();
        let labels = [0.0, 1.0, 0.25, 1.0];
        let grads = classification_loss(x.clone(), vector(&labels, &device)).backward();
        let want: Vec<f32> = logits.iter().zip(labels).map(|(x, y)| (sigmoid(*x) - y) / 4.0).collect();
        assert_close(&name, &values(x.grad(&grads).unwrap()), &want, 1e-6);
        for (loss, slope) in [
            (RegressionLoss::Mse, (|e| 2.0 * e) as fn(f32) -> f32),
            (RegressionLoss::Huber(0.3), |e: f32| e.clamp(-0.3, 0.3)),
            (RegressionLoss::SmoothL1(0.3), |e: f32| (e / 0.3).clamp(-1.0, 1.0)),
        ] {
            let errors = [-2.0, -0.2, 0.1, 0.9];
            let x = vector(&errors, &device).require_grad();
            let rate = Regression { loss, output: RegressionOutput::Identity, ..Regression::default() };
            let grads = regression_loss(x.clone(), vector(&[0.0; 4], &device), &rate).backward();
            let want = errors.map(|e| slope(e) / 4.0);
            assert_close(&format!("{name}: {loss:?}"), &values(x.grad(&grads).unwrap()), &want, 1e-6);
        }
    }
}

#[test]
fn attention_by_hand() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let graph = Graph::new(3, vec![[0, 1], [0, 2], [1, 2]]).unwrap();
        let graphs = GraphBatch::new(&[&graph], SelfLoops::ReplaceOnce, &device).unwrap();
        let mut gat = GatConvConfig::new(2, 2).init(&device);
        gat.lin.weight = Param::from_tensor(matrix(&[[1.0, 0.0], [0.0, 2.0]], &device));
        gat.att_src = Param::from_tensor(vector(&[0.5, -0.5], &device).reshape([1, 1, 2]));
        gat.att_dst = Param::from_tensor(vector(&[1.0, 0.0], &device).reshape([1, 1, 2]));
        gat.bias = Some(Param::from_tensor(vector(&[0.1, -0.1], &device)));
        let x = matrix(&[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], &device);
        let (out, attention) = gat.forward_with_attention(x, &graphs);
        // Edges by target, then source: 0-0, 0-1, 1-1, 0-2, 1-2, 2-2.
        let want = [1.0, 0.668188, 0.331812, 0.628532, 0.140244, 0.231224];
        assert_close(&name, &values(attention), &want, 1e-5);
        assert_close(&name, &values(out.clone()), &[1.1, -0.1, 0.768188, 0.563624, 0.959756, 0.642937], 1e-5);
        assert_close(&name, &values(Pool::Mean.forward(out, &graphs)), &[0.942648, 0.368854], 1e-5);
    }
}

#[test]
fn layer_norm_by_hand() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let norm = LayerNormConfig::new(4).init(&device);
        let out = norm.forward(vector(&[1.0, 2.0, 3.0, 6.0], &device).reshape([1, 4]));
        assert_close(&name, &values(out), &[-1.069043, -0.534522, 0.0, 1.603565], 1e-5);
    }
}

#[test]
fn adjacency_by_hand() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let mut bilinear = BilinearConfig::new(2).init(&device);
        bilinear.weight = Param::from_tensor(vector(&[0.5, 2.0, -1.0, 0.0], &device).reshape([1, 2, 2]));
        bilinear.bias = Param::from_tensor(vector(&[0.1], &device));
        let graphs = [Graph::new(2, vec![[0, 1]]).unwrap(), Graph::new(1, vec![]).unwrap()];
        let target = AdjacencyTarget::new(&[&graphs[0], &graphs[1]], &device).unwrap();
        let logits = bilinear.forward(matrix(&[[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]], &device), &target);
        let all = values(logits.clone());
        assert_close(&name, &all[..4], &[0.6, 2.1, -0.9, 0.1], 1e-5);
        assert_close(&name, &all[4..5], &[4.1], 1e-5);
        let loss = adjacency_loss(logits, &target);
        assert_close(&name, &values(loss.clone()), &[0.5596395, 4.116437], 1e-5);
        assert_close(&name, &values(loss.mean()), &[2.3380382], 1e-5);
    }
}

#[test]
fn merge_by_hand() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        // Our matrices are [in, out]: those of the example transposed.
        let mut linear = LoraLinear::new(Param::from_tensor(matrix(&[[1.0, 3.0], [2.0, 4.0]], &device)), None);
        let config = LoraConfig { rank: 1, alpha: 4.0, dropout: 0.0, ..LoraConfig::default() };
        linear.attach(&config, 0, "example");
        let adapter = linear.lora.as_mut().unwrap();
        adapter.lora_a = Param::from_tensor(vector(&[1.0, -1.0], &device).reshape([2, 1]));
        adapter.lora_b = Param::from_tensor(vector(&[0.5, 2.0], &device).reshape([1, 2]));
        linear.merge();
        assert_eq!(values(linear.weight.val()), [3.0, 11.0, 0.0, -4.0], "{name}");
    }
}

#[test]
fn pooling_by_hand() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in devices() {
        let hidden = matrix(&[[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]], &device).reshape([1, 3, 2]);
        let mask = vector(&[1.0, 1.0, 0.0], &device).reshape([1, 3]).bool();
        let mean = Pooling::Mean.apply(hidden, Some(mask));
        assert_close(&name, &values(mean.clone()), &[2.0, 1.0], 1e-6);
        assert_close(&name, &values(normalize(mean)), &[0.894427, 0.447214], 1e-6);
    }
}

#[test]
fn collation_by_hand() {
    let _turn = hearth_tests::random_turn();
    let a = Graph::new(3, vec![[0, 1], [1, 2]]).unwrap();
    let b = Graph::new(1, vec![]).unwrap();
    let c = Graph::new(2, vec![[1, 0]]).unwrap();
    for (_, device) in devices() {
        let batch = GraphBatch::new(&[&a, &b, &c], SelfLoops::Keep, &device).unwrap();
        let read = |t: Tensor<1, Int>| t.try_into_vec_as::<i64>().unwrap();
        assert_eq!(read(batch.graph_of_node()), [0, 0, 0, 1, 2, 2]);
        assert_eq!(read(batch.source()), [0, 1, 5]);
        assert_eq!(read(batch.target()), [1, 2, 4]);
        assert_eq!(read(batch.node_counts()), [3, 1, 2]);
        assert_eq!(batch.node_offsets(), [0, 3, 4, 6]);
        assert_eq!(batch.edge_offsets(), [0, 0, 1, 2, 2, 3, 3]);
        // Self-loops are replaced: the one there was keeps its place in the input, the others have none.
        let looped = Graph::new(2, vec![[0, 1], [1, 1], [0, 1], [1, 1]]).unwrap();
        let batch = GraphBatch::new(&[&looped], SelfLoops::ReplaceOnce, &device).unwrap();
        assert_eq!(read(batch.source()), [0, 0, 0, 1]);
        assert_eq!(read(batch.target()), [0, 1, 1, 1]);
        assert_eq!(batch.edge_origins(), [None, Some(0), Some(2), Some(3)]);
        let weights = batch.edge_values(&[2.0, 3.0, 4.0, 5.0], 1.0, &device).unwrap();
        assert_eq!(values(weights), [1.0, 2.0, 4.0, 5.0]);
    }
}

#[test]
fn parameter_counts() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = devices().swap_remove(0);
    let count = |config: &GlowConfig, llm_dim| config.init(llm_dim, 384, &device).unwrap().num_params();
    let default = GlowConfig::default();
    for (llm_dim, want) in [(2048, 3_850_114), (1024, 3_587_970), (2560, 3_981_186), (4096, 4_374_402)] {
        assert_eq!(count(&default, llm_dim), want, "language embeddings of width {llm_dim}");
    }
    let mut large = GlowConfig { hidden_dim: 512, ..default.clone() };
    large.gnn.layers = 3;
    assert_eq!(count(&large, 2048), 9_795_458);

    let model = default.init(2048, 384, &device).unwrap();
    let gnn = model.gnn_encoder.as_ref().unwrap();
    assert_eq!(gnn.num_params(), 396_417);
    assert_eq!(model.fusion_encoder.as_ref().unwrap().num_params(), 2_630_144);
    assert_eq!(model.llm_projector.as_ref().unwrap().num_params(), 590_336);
    assert_eq!(model.task_projector.as_ref().unwrap().num_params(), 164_352);
    assert_eq!(model.final_mlp.num_params(), 66_049);
}
