//! Fine-tuning and embedding: how a step or a batch is cut into pieces changes nothing.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use burn::train::TrainStep;
use burn_lora::{LoraConfig, Projections};
use burn_models::decoder::Decoder;
use burn_models::text::{Learn, Message, SuperviseOptions, Tokenizer, builtin::Builtin};
use datasets::sft::{Packing, PlanConfig, SftDataset, SftOptions, StepPlan};
use hearth::embedding::{LlmPooling, embed_tokens};
use hearth::learners::{CausalLm, LmBatches, Recompute};
use hearth::train::Batches;
use hearth_tests::{assert_l2, relative_l2, values};
use std::path::Path;
use std::sync::Arc;

fn tokenizer() -> Tokenizer {
    Tokenizer::builtin(Builtin::Decoder).unwrap()
}

fn decoder(device: &Device) -> Decoder {
    hearth_tests::small_decoder(tokenizer().vocab_size()).init(5, FloatDType::F32, device).unwrap()
}

/// Chats of very different lengths.
fn chats() -> Arc<SftDataset> {
    let mut data = SftDataset::default();
    for i in 0..7usize {
        let messages =
            [Message::user("which steps follow? ".repeat(1 + i * i)), Message::assistant(format!("[{i}, {}]", i + 1))];
        // Every other chat also teaches its question, a little.
        let learn = match i % 2 {
            0 => Learn::Replies,
            _ => Learn::Roles([("assistant".to_string(), 1.0), ("user".to_string(), 0.25)].into()),
        };
        let options = SuperviseOptions { learn, ..SuperviseOptions::default() };
        let sample = tokenizer().supervised_chat(&messages, None, &options).unwrap();
        data.push(Path::new("chats"), i as u64 + 1, &sample, &SftOptions::default()).unwrap();
    }
    Arc::new(data)
}

fn batches(packing: Packing, micro_tokens: usize, sequences_per_step: usize) -> LmBatches {
    let data = chats();
    let plan =
        StepPlan::new(&data, PlanConfig { sequences_per_step, micro_tokens, packing, ..PlanConfig::default() }, 3)
            .unwrap();
    let len = plan.steps_per_epoch();
    LmBatches { data, plan, pad_id: 0, vocab_size: tokenizer().vocab_size(), seed: 5, noise: None, len }
}

struct Collect<'a>(&'a GradientsParams, Vec<Vec<f32>>);

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.0.get::<D>(param.id) {
            self.1.push(values(grad));
        }
    }
}

fn gradients(task: &CausalLm, grads: &GradientsParams) -> Vec<Vec<f32>> {
    let mut collect = Collect(grads, Vec::new());
    task.visit(&mut collect);
    collect.1
}

/// All weights trained, and adapters only (with B not at its start of zero, so that A has a gradient too).
fn tasks(device: &Device) -> Vec<(&'static str, CausalLm)> {
    let lora = LoraConfig { rank: 4, dropout: 0.0, ..LoraConfig::default() };
    let mut adapted = decoder(device).attach_lora(&lora, 9).unwrap();
    for (_, linear) in adapted.projections_mut() {
        let adapter = linear.lora.as_mut().unwrap();
        let b = adapter.lora_b.val().without_autodiff() + 0.02;
        adapter.lora_b = Param::from_tensor(Tensor::from_data(b.into_data(), device));
    }
    let recompute = Recompute::None;
    vec![("full", CausalLm { decoder: decoder(device), recompute }), ("lora", CausalLm { decoder: adapted, recompute })]
}

#[test]
fn packed_shared_cut_and_recomputed_are_one_padded_batch() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in hearth_tests::devices() {
        let device = device.autodiff();
        for (kind, mut task) in tasks(&device) {
            let whole = batches(Packing::Padded, 1 << 20, 7).batch(0, &device).unwrap();
            assert_eq!(whole.micro.len(), 1);
            let (learned, tokens) = (whole.weight, whole.tokens);
            let whole = gradients(&task, &TrainStep::step(&task, whole).grads);
            // Full: the table, the last norm, seven projections and four norms in two layers. Adapters: A and B.
            assert_eq!(whole.len(), if kind == "lora" { 28 } else { 24 });
            for packing in [Packing::Padded, Packing::Packed, Packing::SharedPrefix] {
                for (micro_tokens, recompute) in [
                    (64, Recompute::None),
                    (1 << 20, Recompute::None),
                    (64, Recompute::Layers),
                    (1 << 20, Recompute::Layers),
                ] {
                    let what = format!("{name} {kind} {packing:?} {micro_tokens} {recompute:?}");
                    let step = batches(packing, micro_tokens, 7).batch(0, &device).unwrap();
                    assert_eq!((step.weight, step.tokens), (learned, tokens), "{what}");
                    assert_eq!(step.micro.len() > 1, micro_tokens == 64, "{what}: {} parts", step.micro.len());
                    task.recompute = recompute;
                    let got = gradients(&task, &TrainStep::step(&task, step).grads);
                    assert_eq!(whole.len(), got.len(), "{what}");
                    for (whole, got) in whole.iter().zip(&got) {
                        assert_l2(&what, got, whole, 1e-5);
                    }
                }
            }
        }
    }
}

/// Weights are relative: the loss of a step is Σ w·(−log p) / Σ w over all its tokens.
#[test]
fn tokens_count_by_their_weights() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = hearth_tests::devices().swap_remove(0);
    let device = device.autodiff();
    let (_, task) = tasks(&device).swap_remove(0);
    let chat = [Message::user("which steps follow?"), Message::assistant("[0, 1]")];
    let loss = |question: f32, answer: f32| {
        let learn = Learn::Roles([("assistant".to_string(), answer), ("user".to_string(), question)].into());
        let options = SuperviseOptions { learn, ..SuperviseOptions::default() };
        let sample = tokenizer().supervised_chat(&chat, None, &options).unwrap();
        let learned = sample.weights.iter().skip(1).filter(|weight| **weight > 0.0).count() as f64;
        let mut data = SftDataset::default();
        data.push(Path::new("chats"), 1, &sample, &SftOptions::default()).unwrap();
        let plan = StepPlan::new(&data, PlanConfig::default(), 3).unwrap();
        let data = Arc::new(data);
        let step =
            LmBatches { data, plan, pad_id: 0, vocab_size: tokenizer().vocab_size(), seed: 5, noise: None, len: 1 };
        let mut scores = TrainStep::step(&task, step.batch(0, &device).unwrap()).item;
        scores.read::<CausalLm>(None);
        (scores.get("loss").unwrap(), learned)
    };
    let ((question, asked), (answer, answered)) = (loss(1.0, 0.0), loss(0.0, 1.0));
    assert!((loss(0.0, 0.125).0 - answer).abs() < 1e-5, "one weight for all is none");
    let (got, both) = loss(0.5, 2.0);
    assert_eq!(both, asked + answered);
    let want = (0.5 * asked * question + 2.0 * answered * answer) / (0.5 * asked + 2.0 * answered);
    assert!((got - want).abs() < 1e-5 && (got - answer).abs() > 1e-3, "{got} {want} {question} {answer}");
}

/// With dropout, a recomputed layer must draw the same numbers as in the first pass: then the gradient is that of the loss that
/// was reported, which finite differences show.
#[test]
fn recomputed_layers_drop_the_same_elements() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = hearth_tests::devices().swap_remove(0);
    let device = device.autodiff();
    let lora = LoraConfig { rank: 4, dropout: 0.5, ..LoraConfig::default() };
    let mut task = tasks(&device).swap_remove(1).1;
    let fresh = decoder(&device).attach_lora(&lora, 9).unwrap();
    for ((_, old), (_, new)) in task.decoder.projections_mut().into_iter().zip(fresh.projections()) {
        old.lora.as_mut().unwrap().dropout = new.lora.as_ref().unwrap().dropout.clone();
    }
    task.recompute = Recompute::Layers;
    let run = |task: &CausalLm| {
        let step = batches(Packing::SharedPrefix, 1 << 20, 7).batch(0, &device).unwrap();
        let mut output = TrainStep::step(task, step);
        output.item.read::<CausalLm>(None);
        (output.item.get("loss").unwrap(), gradients(task, &output.grads))
    };
    let (loss, gradient) = run(&task);
    assert_eq!(loss, run(&task).0, "the same step, the same numbers");
    // B of the first layer's first projection, the second of a layer's two gradients, along its signs: there the loss changes most,
    // so that rounding shows least.
    let gradient = &gradient[1];
    let shift = |task: &mut CausalLm, by: f32| {
        let adapter = task.decoder.projections_mut().swap_remove(0).1.lora.as_mut().unwrap();
        let b = adapter.lora_b.val().without_autodiff();
        let along: Vec<f32> = gradient.iter().map(|g| by * g.signum()).collect();
        let b = b.clone() + Tensor::from_data(TensorData::new(along, b.dims()), &b.device());
        adapter.lora_b = Param::from_tensor(Tensor::from_data(b.into_data(), &device));
    };
    // The loss bends within a few of these steps.
    let step = 5e-5;
    shift(&mut task, step);
    let up = run(&task).0;
    shift(&mut task, -2.0 * step);
    let down = run(&task).0;
    let difference = (up - down) / (2.0 * f64::from(step));
    let sum: f64 = gradient.iter().map(|g| f64::from(g.abs())).sum();
    assert!((difference - sum).abs() < 0.02 * sum, "{difference} {sum}");
}

#[test]
fn an_epoch_of_steps_has_the_gradient_of_all_chats() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = hearth_tests::devices().swap_remove(0);
    let device = device.autodiff();
    let (_, task) = tasks(&device).swap_remove(1);
    let whole = batches(Packing::Padded, 1 << 20, 7).batch(0, &device).unwrap();
    let total = whole.weight;
    let whole = gradients(&task, &TrainStep::step(&task, whole).grads);
    let steps = batches(Packing::SharedPrefix, 128, 3);
    let mut sum: Vec<Vec<f32>> = whole.iter().map(|g| vec![0.0; g.len()]).collect();
    for index in 0..steps.len() {
        let step = steps.batch(index, &device).unwrap();
        let share = (step.weight / total) as f32;
        for (sum, grad) in sum.iter_mut().zip(gradients(&task, &TrainStep::step(&task, step).grads)) {
            sum.iter_mut().zip(grad).for_each(|(s, g)| *s += share * g);
        }
    }
    for (whole, sum) in whole.iter().zip(&sum) {
        assert!(relative_l2(sum, whole) < 1e-5);
    }
}

#[test]
fn embeddings_do_not_depend_on_their_batch() {
    for (name, device) in hearth_tests::devices() {
        let model = decoder(&device);
        let sequences: Vec<Vec<u32>> =
            (1..20u32).map(|n| (0..n * n % 37 + 1).map(|i| (i * 31 + n) % 1000).collect()).collect();
        for pooling in [LlmPooling::LastToken, LlmPooling::MeanTokens] {
            let mut done = Vec::new();
            let together = embed_tokens(&model, &sequences, pooling, 200, |n| done.push(n)).unwrap();
            assert_eq!(done.last(), Some(&sequences.len()));
            for (sequence, row) in sequences.iter().zip(together.chunks(32)) {
                let alone = embed_tokens(&model, std::slice::from_ref(sequence), pooling, 1, |_| ()).unwrap();
                assert_l2(&format!("{name} {pooling:?}"), row, &alone, 1e-5);
            }
        }
    }
}
