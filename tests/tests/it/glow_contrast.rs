//! The contrastive loss, in all its forms, against its definition triplet by triplet; its gradients; and what must not
//! change it.

use burn::tensor::Tensor;
use burn_models::glow::{
    Anchors, ContrastConfig, ContrastForm, ContrastGroups, Distance, Grouping, Reduce, TaskNorm, contrast,
};
use hearth_tests::{assert_close, devices, values};
use proptest::collection::vec;
use proptest::prelude::*;

use super::gnn_properties::{eighths, f32s, shuffled, tensor};

const WIDTH: usize = 3;
const TASKS: usize = 3;

/// Vectors of [`WIDTH`], labels and tasks.
#[derive(Debug, Clone)]
struct Rows {
    x: Vec<f64>,
    labels: Vec<f32>,
    tasks: Vec<usize>,
}

impl Rows {
    fn new(rows: Vec<(Vec<f32>, bool, usize)>) -> Self {
        Self {
            x: rows.iter().flat_map(|r| r.0.iter().map(|v| f64::from(*v))).collect(),
            labels: rows.iter().map(|r| f32::from(u8::from(r.1))).collect(),
            tasks: rows.iter().map(|r| r.2).collect(),
        }
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.x[i * WIDTH..][..WIDTH]
    }

    fn distance(&self, i: usize, j: usize, distance: Distance) -> f64 {
        let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (a, b) = (self.row(i), self.row(j));
        let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        match distance {
            Distance::Cosine => {
                1.0 - a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (norm(a).max(1e-12) * norm(b).max(1e-12))
            }
            Distance::SquaredEuclidean => norm(&difference).powi(2),
            Distance::Euclidean => norm(&difference),
        }
    }

    /// The rows in another order.
    fn permuted(&self, order: &[usize]) -> Self {
        Self {
            x: order.iter().flat_map(|i| self.row(*i).to_vec()).collect(),
            labels: order.iter().map(|i| self.labels[*i]).collect(),
            tasks: order.iter().map(|i| self.tasks[*i]).collect(),
        }
    }
}

/// What the definition says of rows.
struct Twin {
    /// The loss of every group, `None` where it has too few records.
    losses: Vec<Option<f64>>,
    /// Groups with an anchor.
    active: usize,
    /// A comparison that decides about a term is so close that rounding may turn it.
    fragile: bool,
    largest: f64,
}

impl Twin {
    fn new(rows: &Rows, config: &ContrastConfig) -> Self {
        let mut twin = Self { losses: Vec::new(), active: 0, fragile: false, largest: 1.0 };
        let global = config.group == Grouping::Global;
        for group in 0..if global { 1 } else { TASKS } {
            let members: Vec<usize> = (0..rows.len()).filter(|i| global || rows.tasks[*i] == group).collect();
            let loss = (members.len() >= config.min_group).then(|| twin.group(rows, &members, config));
            twin.losses.push(loss);
        }
        twin
    }

    fn group(&mut self, rows: &Rows, members: &[usize], config: &ContrastConfig) -> f64 {
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let largest = |v: &[f64]| v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let smallest = |v: &[f64]| v.iter().copied().fold(f64::INFINITY, f64::min);
        let mut gaps = Vec::new();
        for &a in members.iter().filter(|a| config.anchors == Anchors::All || rows.labels[**a] == 1.0) {
            let to = |like: bool| -> Vec<f64> {
                let others = members.iter().filter(|i| **i != a && (rows.labels[**i] == rows.labels[a]) == like);
                others.map(|i| rows.distance(a, *i, config.distance)).collect()
            };
            let (positive, negative) = (to(true), to(false));
            if positive.is_empty() || negative.is_empty() {
                continue;
            }
            self.largest = self.largest.max(largest(&positive)).max(largest(&negative));
            match config.form {
                ContrastForm::BatchMean => gaps.push(mean(&positive) - mean(&negative)),
                ContrastForm::BatchHard => gaps.push(largest(&positive) - smallest(&negative)),
                ContrastForm::BatchAll { .. } => {
                    gaps.extend(positive.iter().flat_map(|p| negative.iter().map(move |n| p - n)));
                }
                ContrastForm::SemiHard => {
                    for p in positive {
                        let beyond: Vec<f64> = negative.iter().copied().filter(|n| *n > p).collect();
                        let n = if beyond.is_empty() { largest(&negative) } else { smallest(&beyond) };
                        gaps.push(p - n);
                        // Squares of eighths are exact, and roots of equal squares equal.
                        let exact = config.distance != Distance::Cosine;
                        self.fragile |= !exact && negative.iter().any(|n| (n - p).abs() < 1e-5);
                    }
                }
                ContrastForm::Random(_) => unreachable!("drawn triplets are compared otherwise"),
            }
        }
        self.active += usize::from(!gaps.is_empty());
        let cost = |gap: &f64| match config.soft_margin {
            true => gap.exp().ln_1p(),
            false => (gap + config.margin).max(0.0),
        };
        let mut losses: Vec<f64> = gaps.iter().map(cost).collect();
        if config.form == (ContrastForm::BatchAll { reduce: Reduce::Active }) {
            self.fragile |= gaps.iter().any(|gap| !config.soft_margin && (gap + config.margin).abs() < 1e-5);
            losses.retain(|loss| *loss > 0.0);
        }
        if losses.is_empty() { 0.0 } else { mean(&losses) }
    }

    fn total(&self, config: &ContrastConfig) -> f64 {
        let counted = match config.task_norm {
            TaskNorm::CountAll => self.losses.iter().flatten().count(),
            TaskNorm::CountActive => self.active,
        };
        self.losses.iter().flatten().sum::<f64>() / counted.max(1) as f64
    }
}

fn form() -> impl Strategy<Value = ContrastForm> {
    prop_oneof![
        2 => Just(ContrastForm::BatchMean),
        1 => Just(ContrastForm::BatchHard),
        1 => Just(ContrastForm::BatchAll { reduce: Reduce::Valid }),
        1 => Just(ContrastForm::BatchAll { reduce: Reduce::Active }),
        1 => Just(ContrastForm::SemiHard),
    ]
}

prop_compose! {
    fn config()(
        form in form(), margin in 0.0..1.0f64, soft_margin in any::<bool>(), all in any::<bool>(), global in 0..4u8,
        min_group in 1..5usize, active in any::<bool>(),
        distance in prop_oneof![2 => Just(Distance::Cosine), 1 => Just(Distance::SquaredEuclidean), 1 => Just(Distance::Euclidean)],
    ) -> ContrastConfig {
        ContrastConfig {
            form,
            margin,
            soft_margin,
            distance,
            anchors: if all { Anchors::All } else { Anchors::PositivesOnly },
            group: if global == 0 { Grouping::Global } else { Grouping::Task },
            min_group,
            task_norm: if active { TaskNorm::CountActive } else { TaskNorm::CountAll },
            ..ContrastConfig::default()
        }
    }
}

fn groups(rows: &Rows, config: &ContrastConfig, seed: u64, device: &burn::tensor::Device) -> ContrastGroups {
    ContrastGroups::new(&rows.labels, &rows.tasks, TASKS, config, seed, device).unwrap()
}

fn vectors(rows: &Rows, device: &burn::tensor::Device) -> Tensor<2> {
    tensor(&f32s(&rows.x), [rows.len(), WIDTH], device)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn contrast_matches_its_definition(
        rows in vec((eighths(WIDTH), any::<bool>(), 0..TASKS), 1..12), config in config(), seed in any::<u64>(),
    ) {
        // Vectors of zeros are to be common.
        let zeros = |(i, r): (usize, (Vec<f32>, bool, usize))| if i % 8 == 5 { (vec![0.0; WIDTH], r.1, r.2) } else { r };
        let rows = Rows::new(rows.into_iter().enumerate().map(zeros).collect());
        let twin = Twin::new(&rows, &config);
        prop_assume!(!twin.fragile);
        let want: Vec<f64> = twin.losses.iter().map(|loss| loss.unwrap_or(0.0)).collect();
        let tolerance = 1e-6 * twin.largest as f32;
        for (name, device) in devices() {
            let groups = groups(&rows, &config, 0, &device);
            assert_eq!(groups.counted_tasks, twin.losses.iter().flatten().count());
            assert_eq!(groups.active_tasks, twin.active);
            let x = vectors(&rows, &device);
            assert_close(&name, &values(groups.task_losses(x.clone())), &f32s(&want), tolerance);
            let total = values(contrast(vec![x], &groups).unwrap());
            assert_close(&name, &total, &[twin.total(&config) as f32], tolerance);
            // The order of records does not matter.
            let moved = rows.permuted(&shuffled(rows.len(), seed));
            let again = contrast(vec![vectors(&moved, &device)], &self::groups(&moved, &config, 0, &device)).unwrap();
            assert_close(&name, &values(again), &total, tolerance);
        }
    }

    /// Vectors of zeros, equal vectors and groups without anchors: nothing is divided by zero, forward or backward.
    #[test]
    fn contrast_is_always_a_number(
        rows in vec((prop_oneof![Just(vec![0.0; WIDTH]), Just(vec![1.0; WIDTH]), eighths(WIDTH)], any::<bool>(), 0..TASKS),
                    1..10),
        config in config(), random in any::<bool>(), seed in any::<u64>(),
    ) {
        let rows = Rows::new(rows);
        let config = if random { ContrastConfig { form: ContrastForm::Random(3), ..config } } else { config };
        for (name, device) in devices() {
            let device = device.autodiff();
            let x = vectors(&rows, &device).require_grad();
            let loss = contrast(vec![x.clone()], &groups(&rows, &config, seed, &device)).unwrap();
            let grads = loss.backward();
            let all = [values(loss), values(x.grad(&grads).unwrap())].concat();
            assert!(all.iter().all(|v| v.is_finite()), "{name}: {config:?}: {all:?}");
        }
    }

    /// Drawn triplets are triplets: where an anchor has only one they are that one, and else their mean lies among all.
    #[test]
    fn drawn_triplets_are_valid(
        rows in vec((eighths(WIDTH), any::<bool>(), 0..TASKS), 3..12), config in config(), count in 1..4usize,
        seed in any::<u64>(),
    ) {
        let rows = Rows::new(rows);
        let drawn = ContrastConfig { form: ContrastForm::Random(count), ..config.clone() };
        let all = ContrastConfig { form: ContrastForm::BatchAll { reduce: Reduce::Valid }, ..config };
        let (_, device) = devices().swap_remove(0);
        let losses = |config: &ContrastConfig, seed: u64| {
            values(groups(&rows, config, seed, &device).task_losses(vectors(&rows, &device)))
        };
        let (some, every) = (losses(&drawn, seed), losses(&all, 0));
        assert_eq!(losses(&drawn, seed), some, "equal seeds draw equal triplets");
        for task in 0..some.len() {
            let of = |label: f32| {
                let here = |i: &usize| drawn.group == Grouping::Global || rows.tasks[*i] == task;
                (0..rows.len()).filter(here).filter(|i| rows.labels[*i] == label).count()
            };
            if (of(1.0), of(0.0)) == (2, 1) && drawn.anchors == Anchors::PositivesOnly {
                assert_close("the only triplet", &some[task..=task], &every[task..=task], 1e-5);
            }
            assert!(some[task] >= 0.0 && (every[task] > 0.0 || some[task] == 0.0));
        }
    }
}

/// In the mean over many draws, drawn triplets cost what all cost; and other seeds draw others.
#[test]
fn drawn_triplets_are_fair() {
    let _turn = hearth_tests::random_turn();
    let rows = Rows::new((0..9).map(|i| (vec![(i * i % 7) as f32, i as f32, 1.0], i % 3 != 0, 0)).collect());
    for (name, device) in devices() {
        let loss = |form, seed| {
            let config = ContrastConfig { form, anchors: Anchors::All, margin: 1.0, ..ContrastConfig::default() };
            values(contrast(vec![vectors(&rows, &device)], &groups(&rows, &config, seed, &device)).unwrap())[0]
        };
        let every = loss(ContrastForm::BatchAll { reduce: Reduce::Valid }, 0);
        // Weighted by anchors, as each draws as many: the valid triplets of an anchor are 5 · 3 or 2 · 6.
        let many = loss(ContrastForm::Random(4000), 1);
        assert!((many - every).abs() < 0.05, "{name}: {many} is not near {every}");
        assert_ne!(loss(ContrastForm::Random(1), 1), loss(ContrastForm::Random(1), 2), "{name}");
    }
}

#[test]
fn too_many_triplets_are_refused() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = devices().swap_remove(0);
    let labels: Vec<f32> = (0..800).map(|i| (i % 2) as f32).collect();
    let make = |form, group| {
        let config = ContrastConfig { form, group, ..ContrastConfig::default() };
        let tasks: Vec<usize> = (0..800).map(|i| i / 8).collect();
        ContrastGroups::new(&labels, &tasks, 100, &config, 0, &device)
    };
    let error = make(ContrastForm::SemiHard, Grouping::Global).unwrap_err().to_string();
    assert!(error.contains("63840000") && error.contains("group: Task"), "{error}");
    assert!(make(ContrastForm::SemiHard, Grouping::Task).is_ok());
    assert!(make(ContrastForm::BatchMean, Grouping::Global).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gradient_of_contrast_matches_differences(
        rows in vec((vec(-1.0..1.0f32, WIDTH), any::<bool>(), 0..TASKS - 1), 3..10), config in config(),
    ) {
        let rows = Rows::new(rows);
        // Short vectors turn fast, and so do short differences: finite differences would not follow.
        let far = |i: usize, j: usize| rows.distance(i, j, Distance::SquaredEuclidean) > 0.05;
        prop_assume!((0..rows.len()).all(|i| rows.row(i).iter().map(|v| v * v).sum::<f64>() > 0.1));
        prop_assume!((0..rows.len()).all(|i| (0..i).all(|j| far(i, j))));
        prop_assume!(!Twin::new(&rows, &config).fragile);
        let loss = |x: Vec<f64>| Twin::new(&Rows { x, ..rows.clone() }, &config).total(&config);
        let step = |i: usize, h: f64| {
            let mut x = rows.x.clone();
            x[i] += h;
            loss(x)
        };
        let (h, here) = (1e-6, loss(rows.x.clone()));
        let sides = |i: usize| ((step(i, h) - here) / h, (here - step(i, -h)) / h);
        let slopes: Vec<(f64, f64)> = (0..rows.x.len()).map(sides).collect();
        // At the kink of a hinge the two differ, and there is no gradient.
        prop_assume!(slopes.iter().all(|(right, left)| (right - left).abs() < 1e-4));
        let want: Vec<f64> = slopes.iter().map(|(right, left)| (right + left) / 2.0).collect();
        for (name, device) in devices() {
            let device = device.autodiff();
            let x = vectors(&rows, &device).require_grad();
            let grads = contrast(vec![x.clone()], &groups(&rows, &config, 0, &device)).unwrap().backward();
            assert_close(&name, &values(x.grad(&grads).unwrap()), &f32s(&want), 2e-4);
        }
    }
}
