//! Each operation with a gradient of its own, beside its definition composed of Burn's operations: values and gradients.

use std::collections::BTreeMap;

use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_models::decoder::{DecoderConfig, Packed, Padded};
use burn_models::ops::{Angles, Table, Tile, View, attention, rms_norm, rotate, swiglu, token_scores};
use hearth_tests::{assert_close, devices, values};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers from a seed, on an autodiff device, with a gradient.
fn numbers<const D: usize>(rng: &mut ChaCha8Rng, shape: [usize; D], scale: f32, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| (rng.random::<f32>() - 0.5) * 2.0 * scale).collect();
    Tensor::from_data(TensorData::new(values, shape), device).require_grad()
}

/// Compares `ours` with `theirs` in value and, for a random linear function of the value, in the gradient of every input.
fn compare<const A: usize, const B: usize, const C: usize, const D: usize>(
    what: &str,
    inputs: (Tensor<A>, Tensor<B>, Tensor<C>),
    ours: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<D>,
    theirs: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<D>,
) {
    let (a, b, c) = inputs;
    let (got, want) = (ours(a.clone(), b.clone(), c.clone()), theirs(a.clone(), b.clone(), c.clone()));
    assert_close(what, &values(got.clone().inner()), &values(want.clone().inner()), 2e-5);
    let direction = numbers(&mut ChaCha8Rng::seed_from_u64(1), want.dims(), 1.0, &want.device()).detach();
    let [got, want] = [got, want].map(|value| {
        let gradients = (value * direction.clone()).sum().backward();
        [a.grad(&gradients).map(values), b.grad(&gradients).map(values), c.grad(&gradients).map(values)]
    });
    for (i, (got, want)) in got.into_iter().zip(want).enumerate() {
        assert_eq!(got.is_some(), want.is_some(), "{what}: gradient {i}");
        if let (Some(got), Some(want)) = (got, want) {
            // Some gradients are zero, up to rounding.
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let (difference, size) =
                (norm(&mut got.iter().zip(&want).map(|(a, b)| a - b)), norm(&mut want.iter().copied()));
            assert!(difference <= 2e-5 * size.max(1.0), "{what}: gradient {i}: {difference} beside {size}");
        }
    }
}

/// What a query at column i sees of the key j.
fn sees(until: Option<&[i32]>, at: i32, key: usize) -> bool {
    key as i32 <= at && until.is_none_or(|until| until[key] > at)
}

/// Attention by its definition: all scores at once.
fn definition(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, at: &[i32], until: Option<&(Vec<i32>, usize)>) -> Tensor<4> {
    let ([batch, heads, queries, _], [_, groups, keys, width]) = (q.dims(), k.dims());
    let repeat = |x: Tensor<4>| {
        let x = x.reshape([batch, groups, 1, keys, width]).expand([batch, groups, heads / groups, keys, width]);
        x.reshape([batch, heads, keys, width])
    };
    let rows = until.map_or(1, |(_, rows)| *rows);
    let mut mask = Vec::new();
    for row in 0..rows {
        let until = until.map(|(until, _)| &until[row * keys..(row + 1) * keys]);
        mask.extend(
            at.iter().flat_map(|at| (0..keys).map(move |key| if sees(until, *at, key) { 0.0 } else { -1e30f32 })),
        );
    }
    let mask = Tensor::<4>::from_data(TensorData::new(mask, [rows, 1, queries, keys]), &q.device());
    softmax(q.matmul(repeat(k).swap_dims(2, 3)) + mask, 3).matmul(repeat(v))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attention_in_tiles(seed in any::<u64>(), length in 1usize..70, tile in 1usize..40, batch in 1usize..3, kind in 0usize..4) {
        for (name, device) in devices() {
            let device = device.autodiff();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            // Plain causal; padding on the left; packed documents; a prefix with branches.
            let until = match kind {
                0 => None,
                1 => {
                    let pads: Vec<usize> = (0..batch).map(|_| rng.random_range(0..length)).collect();
                    let until = pads.iter().flat_map(|pad| (0..length).map(move |j| if j < *pad { 0 } else { i32::MAX }));
                    Some((until.collect::<Vec<_>>(), batch))
                }
                2 => Some(((0..length).map(|j| ((j / 7 + 1) * 7).min(length) as i32).collect(), 1)),
                _ => {
                    let prefix = length / 3;
                    let branch = |j: usize| if j < prefix { length } else { (prefix + ((j - prefix) / 5 + 1) * 5).min(length) };
                    Some(((0..length).map(|j| branch(j) as i32).collect(), 1))
                }
            };
            // All places, or every third.
            let at: Vec<i32> = (0..length as i32).step_by(if seed % 2 == 0 { 1 } else { 3 }).collect();
            let tiles = (0..at.len()).step_by(tile).map(|first| {
                let end = at.len().min(first + tile);
                // The whole past, looked at one by one: the decoder's own tiles are compared below.
                Tile { queries: first..end, full: Vec::new(), partial: std::iter::once(0..at[end - 1] as usize + 1).collect() }
            });
            let view = View::new(at.clone(), until.clone(), tiles.collect());
            let inputs = (
                numbers(&mut rng, [batch, 4, at.len(), 6], 2.0, &device),
                numbers(&mut rng, [batch, 2, length, 6], 1.0, &device),
                numbers(&mut rng, [batch, 2, length, 6], 1.0, &device),
            );
            // A place that sees nothing is padding: what comes out has no meaning, and no gradient flows from it.
            let seen: Vec<f32> = (0..batch).flat_map(|row| {
                let until = until.as_ref().map(|(until, rows)| &until[row % rows * length..][..length]);
                at.iter().map(move |at| f32::from((0..length).any(|key| sees(until, *at, key)))).collect::<Vec<_>>()
            }).collect();
            let seen = Tensor::<4>::from_data(TensorData::new(seen, [batch, 1, at.len(), 1]), &device);
            compare(
                &format!("{name} kind {kind}"),
                inputs,
                |q, k, v| attention(q, k, v, &view) * seen.clone(),
                |q, k, v| definition(q, k, v, &at, until.as_ref()) * seen.clone(),
            );
        }
    }
}

#[test]
fn pointwise_operations() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let three = |rng: &mut ChaCha8Rng| numbers::<3>(rng, [3, 5, 37], 9.0, &device);
        let (a, b) = (three(&mut rng), three(&mut rng));
        compare(
            &format!("{name} swiglu"),
            (a.clone(), b, numbers(&mut rng, [1], 1.0, &device)),
            |a, b, _: Tensor<1>| swiglu(a, b),
            |a, b, _| silu(a) * b,
        );
        let weight = numbers::<1>(&mut rng, [37], 1.0, &device);
        let norm = |x: Tensor<3>, w: Tensor<1>| {
            let scale = (x.clone().square().mean_dim(2) + 1e-6).sqrt().recip();
            x * scale * w.unsqueeze()
        };
        let unused = numbers::<1>(&mut rng, [1], 1.0, &device);
        compare(
            &format!("{name} norm"),
            (a, weight, unused.clone()),
            |x, w, _| rms_norm(x, w, 1e-6),
            |x, w, _| norm(x, w),
        );
        let turned = numbers::<4>(&mut rng, [2, 1, 6, 4], 3.0, &device).detach();
        let angles =
            Angles { cos: turned.clone().cos().without_autodiff(), sin: turned.clone().sin().without_autodiff() };
        let x = numbers::<4>(&mut rng, [2, 3, 6, 8], 1.0, &device);
        compare(
            &format!("{name} rotate"),
            (x, unused.clone(), unused),
            |x, _, _| rotate(x, &angles),
            |x, _, _| {
                let (a, b) = (x.clone().slice_dim(3, 0..4), x.slice_dim(3, 4..8));
                let (cos, sin) = (turned.clone().cos(), turned.clone().sin());
                Tensor::cat(vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin], 3)
            },
        );
    }
}

#[test]
fn cross_entropy_in_chunks() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let targets: Vec<i32> = (0..9).map(|_| rng.random_range(0..53)).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [9]), &device);
        let hidden = numbers::<2>(&mut rng, [9, 6], 3.0, &device);
        let unused = numbers::<1>(&mut rng, [1], 1.0, &device);
        for (table, shape) in [(Table::Rows, [53, 6]), (Table::Columns, [6, 53])] {
            let weight = numbers::<2>(&mut rng, shape, 2.0, &device);
            for chunk in [1, 4, 100] {
                compare(
                    &format!("{name} {table:?} chunk {chunk}"),
                    (hidden.clone(), weight.clone(), unused.clone()),
                    |h, w, _| token_scores(h, w, table, targets.clone(), chunk).logprobs,
                    |h, w, _| {
                        let w = if table == Table::Rows { w.transpose() } else { w };
                        log_softmax(h.matmul(w), 1).gather(1, targets.clone().reshape([9, 1])).reshape([9])
                    },
                );
            }
            let logits = hidden.clone().inner().matmul(if table == Table::Rows {
                weight.clone().inner().transpose()
            } else {
                weight.clone().inner()
            });
            let best = logits.argmax(1).reshape([9]).equal(targets.clone().inner()).float().cast(DType::F32);
            let hits = token_scores(hidden.clone(), weight, table, targets.clone(), 2).hits;
            assert_eq!(values(hits.without_autodiff()), values(best));
        }
    }
}

/// Numbers that are not finite must come out as such: a stage stops on them.
#[test]
fn gelu_is_exact() {
    use burn_models::ops::gelu;
    for (name, device) in devices() {
        let device = device.autodiff();
        let x = numbers::<2>(&mut ChaCha8Rng::seed_from_u64(3), [67, 331], 6.0, &device);
        let definition =
            |x: Tensor<2>| x.clone() * (x / std::f64::consts::SQRT_2).erf().add_scalar(1.0).mul_scalar(0.5);
        compare(&name, (x.clone(), x.clone(), x), |x, _, _| gelu(x), |x, _, _| definition(x));
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    for (_, device) in devices() {
        let bad = Tensor::<2>::from_data([[1.0, f32::NAN, 2.0], [0.5, 1.0, -1.0]], &device);
        assert!(values(swiglu(bad.clone(), bad.clone()))[1].is_nan());
        let normed = values(rms_norm(bad.clone(), Tensor::ones([3], &device), 1e-6));
        assert!(normed[0].is_nan() && normed[3].is_finite());
        let targets = Tensor::<1, Int>::from_data([0, 1], &device);
        let weight = Tensor::<2>::ones([4, 3], &device);
        let scores = values(token_scores(bad, weight, Table::Rows, targets, 8).logprobs);
        assert!(scores[0].is_nan() && scores[1].is_finite());
    }
}

/// A sequence's hidden states do not depend on what it is packed with, nor on what it shares.
#[test]
fn packed_rows_are_their_sequences_alone() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let prefix: Vec<u32> = (0..150).map(|_| rng.random_range(0..90)).collect();
    // Long enough for several tiles.
    let mut sequences: Vec<Vec<u32>> = (0..40)
        .map(|i| {
            let own = (0..1 + i * 7 % 30).map(|_| rng.random_range(0..90));
            prefix[..[0, 150, 150, 80][i % 4]].iter().copied().chain(own).collect()
        })
        .collect();
    sequences.sort();
    let config = DecoderConfig { vocab_size: 90, initializer_range: 0.3, ..DecoderConfig::default() };
    for (name, device) in devices() {
        let model = config.init(1, burn::tensor::FloatDType::F32, &device).unwrap();
        let (mut packed, mut path, mut paths) = (Packed::default(), Vec::new(), Vec::new());
        for (i, sequence) in sequences.iter().enumerate() {
            let before = if i == 0 { &[][..] } else { &sequences[i - 1] };
            let shared = before.iter().zip(sequence).take_while(|(a, b)| a == b).count();
            packed.push(sequence, shared, &mut path);
            paths.push(path.clone());
        }
        assert!(packed.ids.len() * 3 < sequences.iter().map(Vec::len).sum::<usize>() * 2);
        let input = packed.input(90, &device).unwrap();
        let whole = values(model.forward_hidden(&input).reshape([-1, 128]));
        // Only the ends of the sequences, which is what the last layer then computes.
        let mut ends: Vec<u32> = paths.iter().map(|path| path[path.len() - 1]).collect();
        ends.sort_unstable();
        ends.dedup();
        let some = values(model.model.norm.forward(model.forward_places(&input, &ends)));
        for (sequence, path) in sequences.iter().zip(&paths) {
            let alone = Padded::right(&[sequence], 0).unwrap().input(90, &device).unwrap();
            let alone = values(model.forward_hidden(&alone).reshape([-1, 128]));
            let row = |values: &[f32], at: usize| values[at * 128..(at + 1) * 128].to_vec();
            let together: Vec<f32> = path.iter().flat_map(|place| row(&whole, *place as usize)).collect();
            assert_close(&format!("{name} packed"), &together, &alone, 2e-4);
            let last = path[path.len() - 1];
            let end = ends.binary_search(&last).unwrap();
            assert_close(&format!("{name} places"), &row(&some, end), &row(&alone, sequence.len() - 1), 2e-4);
        }
    }
}

/// Adam in one pass beside Burn's, over steps with and without decay, for a parameter of several tasks' size.
#[test]
fn adam_in_one_pass_is_burns() {
    use burn::optim::decay::WeightDecayConfig;
    use burn::optim::{AdamConfig, AdamWConfig, Optimizer};
    use hearth::train::FusedAdamW;
    for (_, device) in devices() {
        let plain = |rng: &mut ChaCha8Rng, scale| {
            numbers::<2>(rng, [173, 211], scale, &device.clone().autodiff()).detach().inner()
        };
        for decay in [0.0, 0.1] {
            let rng = &mut ChaCha8Rng::seed_from_u64(9);
            let theirs = AdamWConfig::new().with_epsilon(1e-8).with_beta_2(0.95).with_weight_decay(decay).build();
            let ours = FusedAdamW {
                betas: [0.9, 0.95],
                epsilon: 1e-8,
                weight_decay: f64::from(decay),
                decoupled: true,
                spare_vectors: false,
                rate_factor: 1.0,
            };
            let penalty = AdamConfig::new()
                .with_epsilon(1e-8)
                .with_beta_2(0.95)
                .with_weight_decay((decay > 0.0).then(|| WeightDecayConfig::new(decay)))
                .build();
            let start = plain(rng, 1.0);
            let (mut want, mut got) = ((start.clone(), None), (start.clone(), None));
            let (mut l2, mut l2_want) = ((start.clone(), None), (start.clone(), None));
            for step in 0..5 {
                let grad = plain(rng, 0.1);
                let rate = 1e-2 / (step + 1) as f64;
                want = theirs.step(rate, want.0, grad.clone(), want.1);
                got = ours.step(rate, got.0, grad.clone(), got.1);
                let coupled = FusedAdamW { decoupled: false, ..ours.clone() };
                l2 = coupled.step(rate, l2.0, grad.clone(), l2.1);
                l2_want = penalty.step(rate, l2_want.0, grad, l2_want.1);
            }
            assert_close("weights", &values(got.0), &values(want.0), 2e-6);
            assert_close("weights with a penalty", &values(l2.0), &values(l2_want.0), 2e-6);
            let (got, want) = (got.1.unwrap().momentum, want.1.unwrap().momentum);
            assert_eq!(got.time, want.time);
            assert_close("first moment", &values(got.moment_1), &values(want.moment_1), 1e-6);
            assert_close("second moment", &values(got.moment_2), &values(want.moment_2), 1e-6);
            // What was given is left as it was.
            assert!(values(start) == values(plain(&mut ChaCha8Rng::seed_from_u64(9), 1.0)));
        }
    }
}

/// Dropout keeps the share it should, scales what it keeps, is repeated by its seed, and its gradient is that of what was kept;
/// with a leaky ReLU before it, likewise.
#[test]
fn dropout_and_its_gradient_agree_on_what_is_kept() {
    let _turn = hearth_tests::random_turn();
    use burn::nn::DropoutConfig;
    use burn_models::ops::{dropout, leaky_relu_dropout};
    let mut masks: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for (name, device) in devices() {
        let device = device.autodiff();
        let module = DropoutConfig::new(0.2).init();
        let x = numbers::<3>(&mut ChaCha8Rng::seed_from_u64(3), [7, 61, 113], 1.0, &device);
        let input = values(x.clone().inner());
        for slope in [None, Some(0.0), Some(0.01)] {
            let run = || {
                let y = match slope {
                    None => dropout(&module, x.clone()),
                    Some(slope) => leaky_relu_dropout(&module, x.clone(), slope),
                };
                // The gradient of the sum of squares is 2·y·dy/dx.
                let gradients = (y.clone() * y.clone()).sum().backward();
                (values(y.inner()), values(x.grad(&gradients).unwrap()))
            };
            device.seed(5);
            let (y, gradient) = run();
            let (other, _) = run();
            if name != "cuda" {
                let mask: Vec<bool> = y.iter().map(|y| *y == 0.0).collect();
                let same = masks.entry(format!("{slope:?}")).or_insert_with(|| mask.clone()) == &mask;
                assert!(same, "{name}: CPU devices drop the same elements");
            }
            device.seed(5);
            assert_eq!((y.clone(), gradient.clone()), run(), "{name}: a seed repeats the mask");
            assert_ne!(y, other, "{name}: the next mask is another");
            let active = |x: f32| if x < 0.0 { slope.map_or(x, |slope| x * slope as f32) } else { x };
            let mut kept = 0;
            for ((x, y), dy) in input.iter().zip(&y).zip(&gradient) {
                let slope = if *x < 0.0 { slope.map_or(1.0, |slope| slope as f32) } else { 1.0 };
                if *y != 0.0 {
                    kept += 1;
                    assert!((y - active(*x) * 1.25).abs() < 1e-6, "{name}: {x} became {y}");
                }
                assert!((dy - 2.0 * y * slope * 1.25).abs() < 1e-5, "{name}: gradient {dy} at {y}");
            }
            let candidates = input.iter().filter(|x| active(**x) != 0.0).count() as f64;
            let share = f64::from(kept) / candidates;
            // Five standard deviations.
            assert!((share - 0.8).abs() < 5.0 * (0.16 / candidates).sqrt(), "{name}: {share} kept");
        }
    }
}

/// Products of a few rows beside matrix products, for weights of both widths; none where a gradient may be asked for.
#[test]
fn products_of_a_few_rows() {
    use burn_models::ops::{few_rows, few_rows_of_table};
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    for (name, device) in devices() {
        let tracked = device.clone().autodiff();
        for (rows, depth, width) in [(1, 3, 5), (4, 130, 700), (2, 1537, 96), (3, 64, 4099), (5, 8, 8)] {
            let x = numbers::<2>(rng, [rows, depth], 1.0, &tracked);
            let matrix = numbers::<2>(rng, [depth, width], 1.0, &tracked);
            assert!(few_rows(&x, &matrix).is_none());
            let (x, matrix) = (x.detach().inner(), matrix.detach().inner());
            let dtypes: &[DType] = if name == "ndarray" { &[DType::F32] } else { &[DType::F32, DType::BF16] };
            for dtype in dtypes {
                let matrix = matrix.clone().cast(*dtype);
                let table = Tensor::<2>::from_data(matrix.clone().transpose().into_data(), (&device, *dtype));
                let want = values(x.clone().matmul(matrix.clone().cast(DType::F32)));
                let found = [few_rows(&x, &matrix), few_rows_of_table(&x, &table)];
                for found in found {
                    assert_eq!(found.is_some(), name == "flex" && rows <= 4, "{name} {rows}");
                    if let Some(found) = found {
                        assert_eq!(found.dims(), [rows, width]);
                        assert_close(&format!("{dtype:?} {rows} {depth} {width}"), &values(found), &want, 2e-4);
                    }
                }
            }
        }
    }
}
