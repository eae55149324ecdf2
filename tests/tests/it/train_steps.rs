//! The step loop: a continued stage repeats the uninterrupted one bit for bit, whatever stopped it; what clipping, early
//! stopping and bad numbers do.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::optim::AdamWConfig;
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use hearth::report::{MetricsLog, Row, Split};
use hearth::train::{
    Batches, Direction, EarlyStopping, Error, FitData, FitOptions, FitOutcome, Fitted, Hooks, MetricSpec, Schedule,
    Scores, Task, TrainState, fit,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::Arc;

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    dropout: Dropout,
    second: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        let weight = |rows: usize, columns: usize, seed: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let values: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-0.5..0.5)).collect();
            Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), device)
        };
        let linear = |rows: usize, columns: usize, seed: u64| {
            let mut linear = LinearConfig::new(rows, columns).with_bias(false).init(device);
            linear.weight = linear.weight.map(|_| weight(rows, columns, seed).require_grad());
            linear
        };
        Self { first: linear(4, 16, 1), dropout: DropoutConfig::new(0.3).init(), second: linear(16, 1, 2) }
    }

    fn errors(&self, (x, y): (Tensor<2>, Tensor<2>)) -> Tensor<1> {
        let hidden = self.dropout.forward(burn::tensor::activation::tanh(self.first.forward(x)));
        (self.second.forward(hidden) - y).square().reshape([8])
    }

    fn loss(&self, item: (Tensor<2>, Tensor<2>)) -> Tensor<1> {
        self.errors(item).mean()
    }
}

impl Task for Net {
    const SCORES: &'static [MetricSpec] = &[MetricSpec::new("loss", "Loss", false)];
    const SUMMARY: &'static [MetricSpec] =
        &[MetricSpec::new("worst", "Worst", false), MetricSpec::new("records", "Records", true)];

    fn summarize(&self, outputs: &[f64]) -> Vec<f64> {
        vec![outputs.iter().copied().fold(0.0, f64::max), outputs.len() as f64]
    }
}

impl TrainStep for Net {
    type Input = (Tensor<2>, Tensor<2>);
    type Output = Scores;
    fn step(&self, item: Self::Input) -> TrainOutput<Scores> {
        let loss = self.loss(item);
        let scores = Scores::on_device(loss.clone().without_autodiff(), 1.0, 8);
        TrainOutput::new(self, loss.backward(), scores)
    }
}

impl InferenceStep for Net {
    type Input = (Tensor<2>, Tensor<2>);
    type Output = Scores;
    fn step(&self, item: Self::Input) -> Scores {
        let errors = self.errors(item);
        Scores::on_device(errors.clone().mean(), 8.0, 0).with_outputs(errors)
    }
}

/// Batches of `y = sum of x`; `fail_at` cannot be read, `poison_at` holds an infinite target.
#[derive(Clone, Default)]
struct Sums {
    len: usize,
    fail_at: Option<usize>,
    poison_at: Option<usize>,
}

impl Batches<(Tensor<2>, Tensor<2>)> for Sums {
    fn len(&self) -> usize {
        self.len
    }
    fn batch(&self, index: usize, device: &Device) -> Result<(Tensor<2>, Tensor<2>), String> {
        if self.fail_at == Some(index) {
            return Err("the disk is gone".into());
        }
        let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
        let x: Vec<f32> = (0..32).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut y: Vec<f32> = x.chunks(4).map(|row| row.iter().sum()).collect();
        if self.poison_at == Some(index) {
            y[3] = f32::INFINITY;
        }
        Ok((
            Tensor::from_data(TensorData::new(x, [8, 4]), device),
            Tensor::from_data(TensorData::new(y, [8, 1]), device),
        ))
    }
    fn records(&self, index: usize) -> Vec<String> {
        (0..8).map(|i| format!("{index}-{i}")).collect()
    }
}

fn options() -> FitOptions {
    FitOptions {
        label: "test".into(),
        seed: 7,
        steps_per_epoch: 5,
        lr: 0.01,
        schedule: Schedule::WarmupCosine { warmup: 0.1, min_lr: 0.0 },
        schedule_unit: 1,
        clip: Some(0.5),
        ema: None,
        further_devices: Vec::new(),
        compute_dtype: None,
        planned_memory: None,
        eval_every: Some(6),
        checkpoint_every: Some(4),
        keep: 2,
        select_by: "loss",
        tie_break_by_loss: false,
        early_stopping: EarlyStopping::new(Direction::Lowest, None),
    }
}

fn run(device: &Device, folder: &Path, train: Sums, options: FitOptions) -> Result<Fitted<Net>, Error> {
    let autodiff = device.clone().autodiff();
    let optimizer = AdamWConfig::new().with_epsilon(1e-8).init();
    let data = FitData { train: Arc::new(train), valid: Arc::new(Sums { len: 2, ..Sums::default() }) };
    let best = folder.join("best-step");
    fit(
        Net::new(&autodiff),
        optimizer,
        data,
        &autodiff,
        folder,
        options,
        Hooks::new(move |_, state: &TrainState| {
            std::fs::write(&best, state.step.to_string()).unwrap();
            Ok(())
        }),
    )
}

/// Everything but the times.
fn values(folder: &Path) -> Vec<(u64, Split, String, Option<u64>)> {
    let keep = |row: &Row| !["tokens_per_second", "memory_mib"].contains(&row.name.as_str());
    let rows = MetricsLog::read(folder).unwrap();
    rows.into_iter().filter(keep).map(|r| (r.step, r.split, r.name, r.value.map(f64::to_bits))).collect()
}

fn weights(net: &Net) -> Vec<u32> {
    let [a, b] = [&net.first, &net.second].map(|l| hearth_tests::values(l.weight.val()));
    a.into_iter().chain(b).map(f32::to_bits).collect()
}

#[test]
fn continued_is_uninterrupted() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in hearth_tests::devices() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
        let full = Sums { len: 25, ..Sums::default() };
        let want = run(&device, &whole, full.clone(), options()).unwrap();
        assert_eq!((want.outcome, want.state.step), (FitOutcome::Finished, 25));

        // Stops after 3 steps (nothing saved yet), after 11 (saved at 8) and after 22.
        for fail_at in [3, 11, 22] {
            let broken = Sums { fail_at: Some(fail_at), ..full.clone() };
            let error = run(&device, &parts, broken, options()).err().unwrap();
            assert!(error.to_string().contains("the disk is gone"), "{error}");
        }
        // The newest checkpoint is damaged: the one before it is used.
        let newest = parts.join("checkpoints/step-00000020/model.bpk");
        let mut bytes = std::fs::read(&newest).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&newest, bytes).unwrap();
        let got = run(&device, &parts, full.clone(), options()).unwrap();
        assert_eq!(got.outcome, FitOutcome::Finished);
        assert_eq!(weights(&got.model), weights(&want.model), "{name}");
        assert_eq!(values(&parts), values(&whole), "{name}");
        assert_eq!(got.state.early_stopping, want.state.early_stopping);
        let best = |folder: &Path| std::fs::read_to_string(folder.join("best-step")).unwrap();
        assert_eq!(best(&parts), best(&whole));

        // A finished stage does nothing more.
        let again = run(&device, &parts, full, options()).unwrap();
        assert_eq!((again.outcome, weights(&again.model)), (FitOutcome::Finished, weights(&want.model)));
        assert_eq!(values(&parts), values(&whole), "{name}");
    }
}

#[test]
fn the_whole_gradient_is_clipped() {
    let _turn = hearth_tests::random_turn();
    for (_, device) in hearth_tests::devices() {
        let autodiff = device.clone().autodiff();
        let net = Net::new(&autodiff);
        let batch = Sums { len: 1, ..Sums::default() }.batch(0, &autodiff).unwrap();
        let mut grads = TrainStep::step(&net, batch).grads;
        let norm = |grads: &_| hearth_tests::values(hearth::train::gradient_norm(&net, grads).unwrap())[0];
        let before = norm(&grads);
        let by_hand: f32 = [&net.first, &net.second]
            .map(|l| hearth_tests::values(grads.get::<2>(l.weight.id).unwrap()).iter().map(|g| g * g).sum::<f32>())
            .iter()
            .sum::<f32>()
            .sqrt();
        assert!((before - by_hand).abs() < 1e-5 * by_hand);
        hearth::train::scale_gradients(&net, &mut grads, 0.25);
        assert!((norm(&grads) - 0.25 * before).abs() < 1e-5 * before);
    }
}

#[test]
fn a_bad_number_stops_before_the_weights() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = hearth_tests::devices().swap_remove(0);
    let dir = tempfile::tempdir().unwrap();
    let poisoned = Sums { len: 25, poison_at: Some(9), ..Sums::default() };
    let error = run(&device, dir.path(), poisoned, options()).err().unwrap();
    let Error::NotFinite { step: 10, what: "loss", records, .. } = &error else { panic!("{error}") };
    let listed = hearth_tests::json(records);
    assert_eq!(listed["step"], 10);
    assert_eq!(listed["records"][3], "9-3");
    // Mended, the stage goes on from the last checkpoint and ends as if nothing had been.
    let whole = tempfile::tempdir().unwrap();
    let full = Sums { len: 25, ..Sums::default() };
    let want = run(&device, whole.path(), full.clone(), options()).unwrap();
    let got = run(&device, dir.path(), full, options()).unwrap();
    assert_eq!(weights(&got.model), weights(&want.model));
}

#[test]
fn early_stopping_ends_a_stage_for_good() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = hearth_tests::devices().swap_remove(0);
    let dir = tempfile::tempdir().unwrap();
    let rule = EarlyStopping { min_delta: 1e9, ..EarlyStopping::new(Direction::Lowest, Some(2)) };
    let options = FitOptions { early_stopping: rule, ..options() };
    let full = Sums { len: 60, ..Sums::default() };
    let ended = run(&device, dir.path(), full.clone(), options.clone()).unwrap();
    // Evaluations at 6 (the first is the best), 12 and 18.
    assert_eq!((ended.outcome, ended.state.step, ended.state.early_stopping.best_step), (FitOutcome::Finished, 18, 6));
    let again = run(&device, dir.path(), full, options).unwrap();
    assert_eq!((again.outcome, again.state.step), (FitOutcome::Finished, 18));
}

/// The published rule counts epochs, evaluated or not: it ends a stage between two evaluations.
#[test]
fn the_published_rule_ends_a_stage_between_evaluations() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = hearth_tests::devices().swap_remove(0);
    let dir = tempfile::tempdir().unwrap();
    let rule =
        EarlyStopping { min_delta: 1e9, past_patience: Some(5), ..EarlyStopping::new(Direction::Lowest, Some(1)) };
    let options = FitOptions { early_stopping: rule, ..options() };
    let full = Sums { len: 60, ..Sums::default() };
    // The first evaluation, at 6, is the best; two epochs of 5 steps later it is over.
    for _ in 0..2 {
        let ended = run(&device, dir.path(), full.clone(), options.clone()).unwrap();
        assert_eq!((ended.outcome, ended.state.step), (FitOutcome::Finished, 16));
    }
}

/// An evaluation sees the outputs of all its batches together.
#[test]
fn an_evaluation_is_summed_up() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in hearth_tests::devices() {
        let dir = tempfile::tempdir().unwrap();
        let options = FitOptions { eval_every: Some(25), select_by: "worst", ..options() };
        let fitted = run(&device, dir.path(), Sums { len: 25, ..Sums::default() }, options).unwrap();
        let valid = Sums { len: 2, ..Sums::default() };
        let errors: Vec<f32> =
            (0..2).flat_map(|i| hearth_tests::values(fitted.model.errors(valid.batch(i, &device).unwrap()))).collect();
        let worst = f64::from(errors.iter().copied().fold(0.0, f32::max));
        let rows = MetricsLog::read(dir.path()).unwrap();
        let logged = |of: &str| {
            let mut found = rows.iter().filter(|r| r.split == Split::Valid && r.name == of).map(|r| r.value.unwrap());
            (found.next().unwrap(), found.next())
        };
        assert_eq!(logged("records"), (16.0, None), "{name}");
        assert!((logged("worst").0 - worst).abs() < 1e-6, "{name}");
        let mean = errors.iter().sum::<f32>() / 16.0;
        assert!((logged("loss").0 - f64::from(mean)).abs() < 1e-6, "{name}");
        assert!((fitted.state.early_stopping.best.unwrap().0 - worst).abs() < 1e-6, "{name}");
    }
}

#[test]
fn no_batches_is_an_error() {
    let (_, device) = hearth_tests::devices().swap_remove(0);
    let dir = tempfile::tempdir().unwrap();
    let error = run(&device, dir.path(), Sums::default(), options()).err().unwrap();
    assert!(matches!(error, Error::Empty(_)), "{error}");
}
