//! Fine-tuning on several devices, in bf16 beside f32, with moving averages, noise and groups of parameters.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor};
use burn::train::TrainStep;
use burn_lora::{LoraConfig, Projections};
use burn_models::decoder::Decoder;
use burn_models::text::{Message, SuperviseOptions, Tokenizer, builtin::Builtin};
use datasets::sft::{Packing, PlanConfig, SftDataset, SftOptions, StepPlan};
use hearth::learners::{CausalLm, LmBatches, Neftune, Recompute};
use hearth::recipe::{AdamW, Decay, Optim};
use hearth::report::MetricsLog;
use hearth::train::{Average, Batches, Direction, EarlyStopping, FitData, FitOptions, Fitted, Hooks, Schedule, fit};
use hearth_tests::program::{Program, TinyRun};
use hearth_tests::{assert_close, assert_l2, json_lines, relative_l2, values};
use std::path::Path;
use std::sync::Arc;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

fn tokenizer() -> Tokenizer {
    Tokenizer::builtin(Builtin::Decoder).unwrap()
}

fn decoder(device: &Device) -> Decoder {
    hearth_tests::small_decoder(tokenizer().vocab_size()).init(5, FloatDType::F32, device).unwrap()
}

fn batches(micro_tokens: usize, noise: Option<Neftune>) -> LmBatches {
    let mut data = SftDataset::default();
    for i in 0..12usize {
        let chat =
            [Message::user("which steps follow? ".repeat(1 + i % 5)), Message::assistant(format!("[{i}, {}]", i + 1))];
        let sample = tokenizer().supervised_chat(&chat, None, &SuperviseOptions::default()).unwrap();
        data.push(Path::new("chats"), i as u64 + 1, &sample, &SftOptions::default()).unwrap();
    }
    let config = PlanConfig { sequences_per_step: 4, micro_tokens, packing: Packing::Packed, ..PlanConfig::default() };
    let plan = StepPlan::new(&data, config, 3).unwrap();
    LmBatches { data: Arc::new(data), plan, pad_id: 0, vocab_size: tokenizer().vocab_size(), seed: 5, noise, len: 6 }
}

fn options() -> FitOptions {
    FitOptions {
        label: "test".into(),
        seed: 7,
        steps_per_epoch: 3,
        lr: 1e-3,
        schedule: Schedule::Constant { warmup: 0.0 },
        schedule_unit: 1,
        clip: Some(1.0),
        ema: None,
        further_devices: Vec::new(),
        compute_dtype: None,
        planned_memory: None,
        eval_every: None,
        checkpoint_every: None,
        keep: 1,
        select_by: "loss",
        tie_break_by_loss: false,
        early_stopping: EarlyStopping::new(Direction::Lowest, None),
    }
}

fn optim() -> AdamW {
    AdamW { weight_decay: 0.0, ..AdamW::new(1e-3) }
}

/// Six steps over three steps' worth of chats.
fn train(device: &Device, folder: &Path, decoder: Decoder, options: FitOptions) -> Fitted<CausalLm> {
    let task = CausalLm { decoder, recompute: Recompute::None };
    let train = Arc::new(batches(40, None));
    assert!(train.batch(0, device).unwrap().micro.len() > 2, "there is something to share");
    let data = FitData { train, valid: Arc::new(LmBatches { len: 0, ..batches(40, None) }) };
    fit(task, Optim::AdamW(optim()).init(), data, device, folder, options, Hooks::new(|_, _| Ok(()))).unwrap()
}

fn losses(folder: &Path) -> Vec<f64> {
    let rows = MetricsLog::read(folder).unwrap();
    rows.into_iter().filter(|row| row.name == "loss").map(|row| row.value.unwrap()).collect()
}

struct Weights(Vec<Vec<f32>>);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(values(param.val()));
    }
}

fn weights<M: Module>(module: &M) -> Vec<Vec<f32>> {
    let mut weights = Weights(Vec::new());
    module.visit(&mut weights);
    weights.0
}

#[test]
fn several_devices_are_one() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in hearth_tests::devices() {
        let device = device.autodiff();
        let lora = LoraConfig { rank: 4, dropout: 0.0, ..LoraConfig::default() };
        for (kind, model) in [("full", decoder(&device)), ("lora", decoder(&device).attach_lora(&lora, 9).unwrap())] {
            let folder = tempfile::tempdir().unwrap();
            let run = |further: usize| {
                let folder = folder.path().join(format!("{further}"));
                let options = FitOptions { further_devices: vec![device.clone(); further], ..options() };
                let fitted = train(&device, &folder, model.clone(), options);
                (losses(&folder), weights(&fitted.model))
            };
            let (want, trained) = run(0);
            assert_eq!(want.len(), 6);
            for further in [1, 2] {
                let (got, weights) = run(further);
                let what = format!("{kind} on {} of {name}", further + 1);
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() < 1e-5, "{what}: {got} {want}");
                }
                for (got, want) in weights.iter().zip(&trained) {
                    assert_close(&what, got, want, 1e-5);
                }
            }
        }
    }
}

/// Steps far below what bf16 can tell apart add up in the masters, and come out near those of f32.
#[test]
fn masters_keep_what_bf16_would_lose() {
    let _turn = hearth_tests::random_turn();
    let device = Device::flex().autodiff();
    let start = decoder(&device);
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, compute_dtype| {
        let options = FitOptions { compute_dtype, lr: 1e-6, ..options() };
        weights(&train(&device, &folder.path().join(name), start.clone(), options).model)
    };
    let (exact, mixed) = (run("f32", None), run("bf16", Some(FloatDType::BF16)));
    let before = weights(&start);
    for ((exact, mixed), before) in exact.iter().zip(&mixed).zip(&before) {
        let moved = |after: &[f32]| -> Vec<f32> { after.iter().zip(before).map(|(a, b)| a - b).collect() };
        let (exact, mixed) = (moved(exact), moved(mixed));
        assert!(exact.iter().any(|x| *x != 0.0) && mixed.iter().all(|x| x.abs() < 1e-5));
        // Adam divides by the gradient's size, so that small gradients' errors show.
        assert!(relative_l2(&mixed, &exact) < 0.35, "{}", relative_l2(&mixed, &exact));
    }
    // What was computed is bf16: the losses differ, a little.
    let (exact, mixed) = (losses(&folder.path().join("f32")), losses(&folder.path().join("bf16")));
    assert!(exact.iter().zip(&mixed).all(|(a, b)| a != b && (a - b).abs() < 0.02), "{exact:?} {mixed:?}");
}

#[test]
fn an_average_follows_the_weights() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in hearth_tests::devices() {
        let device = device.autodiff();
        let folder = tempfile::tempdir().unwrap();
        let start = decoder(&device);
        let mut average = Average::of(&start, 0.5);
        let before = weights(&start);
        assert_eq!(weights(&average.apply(&start)), before);
        let options = FitOptions { ema: Some(0.5), ..options() };
        let fitted = train(&device, folder.path(), start.clone(), options);
        // By hand: after every step d·average + (1 − d)·weights, with d = min(0.5, (1 + t) / (10 + t)).
        let mut expected = before;
        let mut model = start;
        let mut optimizer = Optim::AdamW(optim()).init();
        let data = batches(40, None);
        for step in 0..6usize {
            let task = CausalLm { decoder: model, recompute: Recompute::None };
            let mut grads = TrainStep::step(&task, data.batch(step, &device).unwrap()).grads;
            let norm = values(hearth::train::gradient_norm(&task, &grads).unwrap())[0];
            if norm > 1.0 {
                hearth::train::scale_gradients(&task, &mut grads, 1.0 / (f64::from(norm) + 1e-6));
            }
            model = optimizer.step(1e-3, task, grads).decoder;
            average.update(&model, step + 1);
            let keep = 0.5f64.min((2.0 + step as f64) / (11.0 + step as f64)) as f32;
            for (mean, now) in expected.iter_mut().zip(weights(&model)) {
                mean.iter_mut().zip(now).for_each(|(mean, now)| *mean = keep * *mean + (1.0 - keep) * now);
            }
        }
        let (kept, applied) = (weights(&fitted.model), weights(&average.apply(&model)));
        for ((kept, applied), expected) in kept.iter().zip(&applied).zip(&expected) {
            assert_close(&name, applied, expected, 1e-6);
            assert_close(&name, kept, expected, 1e-5);
        }
        assert_ne!(applied, weights(&model));
    }
}

/// Gradients of one number for all parameters.
fn constant<M: Module>(module: &M, value: f64) -> GradientsParams {
    struct Fill(GradientsParams, f64);
    impl ModuleVisitor for Fill {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.register::<D>(param.id, param.val().without_autodiff().zeros_like() + self.1);
            }
        }
    }
    let mut fill = Fill(GradientsParams::new(), value);
    module.visit(&mut fill);
    fill.0
}

#[test]
fn the_second_factor_has_its_own_rate() {
    let device = Device::flex().autodiff();
    let model = decoder(&device).attach_lora(&LoraConfig { rank: 4, ..LoraConfig::default() }, 9).unwrap();
    let mut optimizer = Optim::AdamW(AdamW { lora_plus: Some(16.0), ..optim() }).init();
    let before = model.clone();
    let after = optimizer.step(1e-3, model.clone(), constant(&model, 0.5));
    for ((_, before), (_, after)) in before.projections().into_iter().zip(after.projections()) {
        let (before, after) = (before.lora.as_ref().unwrap(), after.lora.as_ref().unwrap());
        // Adam's first step is the rate, whatever the gradient's size.
        for (rate, before, after) in
            [(1e-3, before.lora_a.val(), after.lora_a.val()), (1.6e-2, before.lora_b.val(), after.lora_b.val())]
        {
            values(before - after).iter().for_each(|step| assert!((step - rate).abs() < 1e-6, "{step} {rate}"));
        }
    }
}

#[test]
fn vectors_can_be_spared_weight_decay() {
    let device = Device::flex().autodiff();
    let model = decoder(&device);
    for (decay, spared) in [(Decay::All, 1.0 - 1e-3 * 0.1), (Decay::Matrices, 1.0)] {
        let mut optimizer = Optim::AdamW(AdamW { weight_decay: 0.1, decay, ..optim() }).init();
        // Without a gradient nothing but the decay moves a weight.
        let after = optimizer.step(1e-3, model.clone(), constant(&model, 0.0));
        let norm = |model: &Decoder| values(model.model.norm.weight.val());
        let table = |model: &Decoder| values(model.model.embed_tokens.weight.val());
        let scaled = |values: Vec<f32>, by: f32| -> Vec<f32> { values.into_iter().map(|x| x * by).collect() };
        assert_close("norm", &norm(&after), &scaled(norm(&model), spared), 1e-7);
        assert_close("table", &table(&after), &scaled(table(&model), 1.0 - 1e-3 * 0.1), 1e-7);
    }
}

/// NEFTune: noise of at most α / √(L·D) on the embeddings, drawn anew from the device's seed, the same in recomputed layers.
#[test]
fn embeddings_are_noisy_while_training() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in hearth_tests::devices() {
        let device = device.autodiff();
        let noisy = batches(1 << 20, Some(Neftune { alpha: 5.0, width: 32 }));
        let step = noisy.batch(0, &device).unwrap();
        let lengths: Vec<u32> =
            noisy.plan.epoch(0).step(0)[0].iter().map(|s| noisy.data.lengths()[*s as usize]).collect();
        let reach: Vec<f32> = lengths
            .iter()
            .flat_map(|length| std::iter::repeat_n(5.0 / (*length as f32 * 32.0).sqrt(), *length as usize))
            .collect();
        assert_close(&name, &values(step.micro[0].input.noise.clone().unwrap()), &reach, 1e-6);

        let mut task = CausalLm { decoder: decoder(&device), recompute: Recompute::None };
        let mut run = |noise: bool, seed: u64, recompute| {
            task.recompute = recompute;
            device.seed(seed);
            let data = if noise { &noisy } else { &batches(1 << 20, None) };
            let mut output = TrainStep::step(&task, data.batch(0, &device).unwrap());
            output.item.read::<CausalLm>(None);
            let table = output.grads.get::<2>(task.decoder.model.embed_tokens.weight.id).unwrap();
            (output.item.get("loss").unwrap(), values(table))
        };
        let (clean, noise, other) =
            (run(false, 1, Recompute::None), run(true, 1, Recompute::None), run(true, 2, Recompute::None));
        assert_eq!(noise, run(true, 1, Recompute::None), "{name}: same seed, same numbers");
        assert!(noise.0 != clean.0 && noise.0 != other.0, "{name}");
        let again = run(true, 1, Recompute::Layers);
        assert!((again.0 - noise.0).abs() < 1e-6, "{name}: {} {}", again.0, noise.0);
        assert_l2(&name, &again.1, &noise.1, 1e-5);
    }
}

/// The tiny twins of the published recipes, through the program.
#[test]
fn the_tiny_recipes_leave_their_results() {
    let folder = tempfile::tempdir().unwrap();
    for (recipe, stages) in [("gap-sft", vec!["sft"]), ("workflowllm-sft", vec!["sft", "merge-lora"])] {
        let run = TinyRun::new(HEARTH, folder.path(), "Flex")
            .of(&hearth_tests::workspace().join(format!("recipes/tiny/{recipe}.ron")))
            .named(&format!("tiny-{recipe}"));
        let report = run.ok(&["--json"]).json();
        assert_eq!(report.as_object().unwrap().keys().collect::<Vec<_>>(), stages);
        assert!(!run.path("stages/01-sft/tokens").exists(), "the samples of a stage that has ended are not kept");
        if recipe == "workflowllm-sft" {
            continue;
        }
        // Evaluations after steps 3 and 6 answer two chats each.
        for step in [3, 6] {
            let rows = json_lines(&run.path(&format!("stages/01-sft/samples/step-{step:08}.jsonl")));
            assert_eq!(rows.len(), 2);
            for row in rows {
                assert!(row["prompt"].as_str().unwrap().contains("<observation>\n"), "all that stands before is read");
                let expected = row["expected"].as_str().unwrap();
                assert!(expected.contains("<answer>") && !expected.contains("observation"), "{expected}");
                assert!(row["score"].as_f64().unwrap() < 1.0 && row["answer"].is_string());
            }
        }
        let rows = MetricsLog::read(&run.path("stages/01-sft")).unwrap();
        assert_eq!(rows.iter().filter(|row| row.name == "sample_score").count(), 2);
    }
}

/// QLoRA: the losses of a frozen base in few bits are near those of the exact one, through the program and across an interruption.
#[test]
fn adapters_train_on_a_base_in_few_bits() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, sets: &[&str]| {
        let run = TinyRun::new(HEARTH, &folder.path().join(name), "Flex")
            .of(&hearth_tests::workspace().join("recipes/tiny/workflowllm-sft.ron"))
            .named("tiny-workflowllm-sft");
        let all = ["stages.sft.recompute=Layers", "stages.sft.neftune=None"].iter().chain(sets);
        all.fold(run, |run, set| run.set(set))
    };
    let loss = |run: &TinyRun| losses(&run.path("stages/01-sft"));
    let exact = run("exact", &[]);
    exact.ok(&[]);
    for (bits, most) in [("Q8", 2e-3), ("Q4", 5e-2)] {
        let stored = run(bits, &[&format!("stages.sft.quantize={bits}")]);
        stored.ok(&[]);
        let (exact, stored) = (loss(&exact), loss(&stored));
        let furthest = exact.iter().zip(&stored).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(exact.len() == stored.len() && furthest > 1e-7 && furthest < most, "{bits}: {exact:?} {stored:?}");
    }
    let refused = run("refused", &["stages.sft.recompute=None", "stages.sft.quantize=Q8"]).run(&[]).expect_code(2);
    assert!(refused.words().contains("all restored weights are kept"), "{}", refused.stderr);
}
