//! Fine-tuning and embedding: how a step or a batch is cut into pieces changes nothing.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor};
use burn::train::TrainStep;
use burn_lora::{LoraConfig, Projections};
use burn_models::decoder::{Decoder, DecoderConfig};
use burn_models::text::{Message, SuperviseOptions, Tokenizer, builtin::Builtin};
use datasets::sft::{PlanConfig, SftDataset, SftOptions, StepPlan};
use hearth::embedding::{LlmPooling, embed_tokens};
use hearth::learners::{CausalLm, LmBatches};
use hearth::train::Batches;
use hearth_tests::{assert_l2, relative_l2, values};
use std::path::Path;
use std::sync::Arc;

fn tokenizer() -> Tokenizer {
    Tokenizer::builtin(Builtin::Decoder).unwrap()
}

fn decoder(device: &Device) -> Decoder {
    let config = DecoderConfig {
        vocab_size: tokenizer().vocab_size(),
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        ..DecoderConfig::default()
    };
    config.init(5, FloatDType::F32, device).unwrap()
}

/// Chats of very different lengths.
fn chats() -> Arc<SftDataset> {
    let mut data = SftDataset::default();
    for i in 0..7usize {
        let messages =
            [Message::user("which steps follow? ".repeat(1 + i * i)), Message::assistant(format!("[{i}, {}]", i + 1))];
        let sample = tokenizer().supervised_chat(&messages, None, &SuperviseOptions::default()).unwrap();
        data.push(Path::new("chats"), i as u64 + 1, &sample, &SftOptions::default()).unwrap();
    }
    Arc::new(data)
}

fn batches(micro_tokens: usize, sequences_per_step: usize) -> LmBatches {
    let data = chats();
    let plan = StepPlan::new(data.lengths(), PlanConfig { sequences_per_step, micro_tokens }, 3).unwrap();
    let steps = plan.steps_per_epoch();
    LmBatches::new(data, plan, 0, tokenizer().vocab_size(), steps)
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
    vec![("full", CausalLm { decoder: decoder(device) }), ("lora", CausalLm { decoder: adapted })]
}

#[test]
fn accumulated_is_one_big_batch() {
    for (name, device) in hearth_tests::devices() {
        let device = device.autodiff();
        for (kind, task) in tasks(&device) {
            let whole = batches(1 << 20, 7).batch(0, &device).unwrap();
            let cut = batches(64, 7).batch(0, &device).unwrap();
            assert_eq!((whole.micro.len(), whole.supervised, whole.tokens), (1, cut.supervised, cut.tokens));
            assert!(cut.micro.len() > 4, "{} micro-batches", cut.micro.len());
            let [whole, cut] = [whole, cut].map(|step| gradients(&task, &TrainStep::step(&task, step).grads));
            assert_eq!(whole.len(), cut.len());
            // Full: the table, the last norm, seven projections and four norms in two layers. Adapters: A and B.
            assert_eq!(whole.len(), if kind == "lora" { 28 } else { 24 });
            for (whole, cut) in whole.iter().zip(&cut) {
                assert_l2(&format!("{name} {kind}"), cut, whole, 1e-5);
            }
        }
    }
}

#[test]
fn an_epoch_of_steps_has_the_gradient_of_all_chats() {
    let (_, device) = hearth_tests::devices().swap_remove(0);
    let device = device.autodiff();
    let (_, task) = tasks(&device).swap_remove(1);
    let whole = batches(1 << 20, 7).batch(0, &device).unwrap();
    let total = whole.supervised as f64;
    let whole = gradients(&task, &TrainStep::step(&task, whole).grads);
    let steps = batches(128, 3);
    let mut sum: Vec<Vec<f32>> = whole.iter().map(|g| vec![0.0; g.len()]).collect();
    for index in 0..steps.len() {
        let step = steps.batch(index, &device).unwrap();
        let share = (step.supervised as f64 / total) as f32;
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
