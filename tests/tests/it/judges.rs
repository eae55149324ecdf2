//! Language models as judges of workflows: prompts, probabilities, the value head, and the tiny recipe from start to end.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use burn::train::{InferenceStep, TrainStep};
use burn_lora::{LoraConfig, Projections};
use burn_models::decoder::{Decoder, DecoderConfig, Padded};
use burn_models::glow::{Head, Regression, RegressionLoss, RegressionOutput, RegressionTarget};
use burn_models::text::{ChatOptions, Framing, Message, SuperviseOptions, Tokenizer, builtin::Builtin};
use burn_models::value_head::ValueHeadConfig;
use datasets::judge::{NO, YES, answer};
use datasets::sampler::Sampler;
use datasets::templates::{GraphPrompt, JudgeStyle, JudgeTemplates, SectionOrder};
use hearth::embedding::{LlmPooling, embed_tokens};
use hearth::judge::{JudgeEncoder, PromptRow, last_states, score, word_probabilities};
use hearth::learners::{Epochs, JudgedPrompts, Recompute, ValueBatches, ValueTask};
use hearth::recipe::{JudgePrompt, Truncation};
use hearth::train::Batches;
use hearth_tests::program::{Program, TinyRun, cpu, device_names, files};
use hearth_tests::{assert_l2, json, json_lines, values};
use serde_json::Value;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

fn tokenizer() -> Tokenizer {
    Tokenizer::builtin(Builtin::Decoder).unwrap()
}

fn decoder(device: &Device, initializer_range: f64) -> Decoder {
    let config = DecoderConfig { initializer_range, ..hearth_tests::small_decoder(tokenizer().vocab_size()) };
    config.init(5, FloatDType::F32, device).unwrap()
}

fn encoder(prompt: JudgePrompt) -> JudgeEncoder {
    JudgeEncoder::new(tokenizer(), &JudgeTemplates::default(), &prompt, 32_768).unwrap()
}

fn prompt(nodes: &str) -> GraphPrompt {
    JudgeTemplates::default().prompt(JudgeStyle::Direct, SectionOrder::TaskFirst, "Add 1 and 1.", nodes, "[[0, 1]]")
}

/// A model is asked with exactly the ids that stood before the answer when it was trained, and the answer's first id is the one
/// it is read by. What is learned is the answer and its end, nothing else.
#[test]
fn a_prompt_is_what_stands_before_the_answer_in_training() {
    let prompt = prompt("{'0': 'Solve <|im_end|> it.'}");
    for (framing, prefix) in [("ChatMl", ""), ("ChatMl", "<think>\n\n</think>\n\n"), ("Template", "")] {
        let settings: JudgePrompt = serde_json::from_value(serde_json::json!({
            "framing": framing, "assistant_prefix": prefix,
        }))
        .unwrap();
        let encoder = encoder(settings);
        let found = encoder.encode(&prompt, Truncation::KeepSuffix).unwrap();
        assert_eq!((found.cut, found.too_long, found.text.as_str()), (false, false, prompt.text.as_str()));
        let chat = ChatOptions {
            framing: if framing == "ChatMl" { Framing::ChatMl } else { Framing::Template },
            ..ChatOptions::default()
        };
        for (word, first) in [YES, NO].into_iter().zip(encoder.words()) {
            let mut messages = encoder.messages(&prompt.text);
            assert_eq!(messages.iter().map(Message::role).collect::<Vec<_>>(), ["system", "user"]);
            messages.push(Message::assistant(word));
            let options =
                SuperviseOptions { chat: chat.clone(), assistant_prefix: prefix.into(), ..SuperviseOptions::default() };
            let sample = tokenizer().supervised_chat(&messages, None, &options).unwrap();
            let start = sample.prompt_len();
            let length = sample.mask().iter().filter(|learned| **learned).count();
            assert_eq!(found.ids, sample.ids[..start]);
            assert_eq!(sample.ids[start], first);
            let learned = tokenizer().decode_exact(&sample.ids[start..start + length], false).unwrap();
            assert!(learned.starts_with(word) && learned.len() > word.len(), "{learned:?}");
            assert_eq!(tokenizer().decode_exact(&sample.ids[start..start + length - 1], false).unwrap(), word);
        }
        let text = tokenizer().decode_exact(&found.ids, false).unwrap();
        assert!(text.ends_with(prefix) && text.contains("assistant"), "{text}");
    }
}

#[test]
fn long_prompts_lose_nodes_first() {
    let nodes = format!("{{'0': '{}'}}", "Solve it step by step. ".repeat(60));
    let (long, none) = (prompt(&nodes), prompt(""));
    let whole = encoder(JudgePrompt::default());
    let without = whole.encode(&none, Truncation::KeepSuffix).unwrap().ids.len();
    let all = whole.encode(&long, Truncation::KeepSuffix).unwrap().ids;
    // An answer takes its words and its end.
    let reserve = [YES, NO].map(|word| tokenizer().encode(word, burn_models::text::Specials::Plain).unwrap().len());
    let reserve = reserve.into_iter().max().unwrap();
    assert!(all.len() > without + 100);
    let limited = |max_length| encoder(JudgePrompt { max_length, ..JudgePrompt::default() });
    let tail = "assistant\n";
    for max_length in [all.len() + reserve, without + 60, without + 20] {
        let found = limited(max_length).encode(&long, Truncation::KeepSuffix).unwrap();
        assert!(found.cut && !found.too_long, "{max_length}");
        assert!(found.ids.len() < max_length && found.ids.len() + 12 > max_length, "{} {max_length}", found.ids.len());
        let text = tokenizer().decode_exact(&found.ids, false).unwrap();
        assert!(text.ends_with(tail) && text.contains("[[0, 1]]") && text.contains("Yes or No"), "{text}");
    }
    // Where the rest is too long by itself, what stands first goes.
    let tiny = limited(30).encode(&long, Truncation::KeepSuffix).unwrap();
    assert!(tiny.too_long && tiny.ids.len() < 30);
    assert!(tokenizer().decode_exact(&tiny.ids, false).unwrap().ends_with(tail));
    // The published way loses the end.
    let right = limited(without).encode(&long, Truncation::Right).unwrap();
    assert!(right.cut && right.ids == all[..without]);
    assert!(!tokenizer().decode_exact(&right.ids, false).unwrap().contains("assistant"));
}

/// The probabilities are those of a softmax over the whole vocabulary at the last position, and do not depend on the batch.
#[test]
fn probabilities_are_those_of_the_whole_vocabulary() {
    let _turn = hearth_tests::random_turn();
    let words = encoder(JudgePrompt::default()).words();
    let sequences: Vec<Vec<u32>> =
        (1..14u32).map(|n| (0..n * n % 23 + 1).map(|i| (i * 31 + n) % 900).collect()).collect();
    for (name, device) in hearth_tests::devices() {
        // Wide enough for probabilities that differ.
        let model = decoder(&device, 0.3);
        let states = embed_tokens(&model, &sequences, LlmPooling::LastToken, 64, |_| ()).unwrap();
        let found = word_probabilities(&model, states, words);
        assert_eq!(found.len(), sequences.len());
        for (ids, pair) in sequences.iter().zip(found) {
            let input = Padded::right(&[ids], 0).unwrap().input(model.config().vocab_size, &device).unwrap();
            let logits = model.logits(model.forward_hidden(&input)).slice_dim(1, ids.len() - 1..ids.len());
            let all = values(softmax(logits.flatten::<1>(0, 2), 0));
            let want = words.map(|word| f64::from(all[word as usize]));
            for (got, want) in pair.iter().zip(want) {
                assert!((got - want).abs() < 1e-6 + 1e-4 * want, "{name}: {got} {want}");
            }
            assert_eq!(score(pair) > 0.5, pair[0] > pair[1]);
        }
        assert!(word_probabilities(&model, Vec::new(), words).is_empty());
    }
    assert_eq!((score([0.3, 0.1]), score([0.0, 0.0]), score([0.0, 1e-9])), (0.3 / 0.4, 0.5, 0.0));
}

/// Prompts of very different lengths; the label follows from the first id.
fn judged() -> Arc<JudgedPrompts> {
    let mut data = JudgedPrompts::default();
    for n in 0..9u32 {
        let ids: Vec<u32> = [500 + n % 2].into_iter().chain((0..3 + n * n).map(|i| 40 + (i * 7 + n) % 50)).collect();
        data.push(&ids, (n % 2) as f32, (n + 1, i64::from(n), 0));
    }
    Arc::new(data)
}

fn batches(micro_tokens: usize, sequences_per_step: usize, len: usize) -> ValueBatches {
    let data = judged();
    let epochs = Epochs::new(vec![0; data.len()], sequences_per_step, false, Sampler::Shuffle, 3).unwrap();
    ValueBatches { data, epochs, micro_tokens, vocab_size: tokenizer().vocab_size(), seed: 11, len }
}

/// A decoder with adapters (B not at its start of zero, so that A has a gradient too) and a head.
fn task(device: &Device, lora: bool, inner_size: Option<usize>, loss: Head, recompute: Recompute) -> ValueTask {
    let decoder = decoder(device, 0.05);
    let decoder = if lora {
        let config = LoraConfig { rank: 4, dropout: 0.0, ..LoraConfig::default() };
        let mut adapted = decoder.attach_lora(&config, 9).unwrap();
        for (_, linear) in adapted.projections_mut() {
            let adapter = linear.lora.as_mut().unwrap();
            let [rank, width] = adapter.lora_b.val().dims();
            // Not all alike: the head's layer norm takes away what all components share.
            let b: Vec<f32> = (0..rank * width).map(|i| 0.03 * (i as f32 * 1.7).sin()).collect();
            adapter.lora_b = Param::from_tensor(Tensor::from_data(TensorData::new(b, [rank, width]), device));
        }
        adapted
    } else {
        decoder.no_grad()
    };
    device.seed(4);
    let head = ValueHeadConfig { hidden_size: decoder.config().hidden_size, inner_size }.init(device);
    ValueTask::new(decoder, head, loss, recompute)
}

struct Collect<'a>(&'a GradientsParams, Vec<Vec<f32>>);

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.0.get::<D>(param.id) {
            self.1.push(values(grad));
        }
    }
}

fn gradients(task: &ValueTask, grads: &GradientsParams) -> Vec<Vec<f32>> {
    let mut collect = Collect(grads, Vec::new());
    task.visit(&mut collect);
    collect.1
}

const REGRESSION: Head = Head::Regression(Regression {
    loss: RegressionLoss::Mse,
    output: RegressionOutput::Sigmoid,
    target: RegressionTarget::RecordLabel,
});

#[test]
fn an_accumulated_step_is_one_big_batch() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in hearth_tests::devices() {
        let device = device.autodiff();
        // Norm: 2; head: 2 a layer; adapters: 2 for each of 7 projections in 2 layers; the frozen base: none.
        for (lora, inner, loss, count) in [
            (true, Some(8), Head::Classification, 2 + 4 + 28),
            (true, None, REGRESSION, 2 + 2 + 28),
            (false, Some(8), Head::Classification, 2 + 4),
        ] {
            let task = task(&device, lora, inner, loss, Recompute::None);
            let whole = batches(1 << 20, 9, 1).batch(0, &device).unwrap();
            let cut = batches(70, 9, 1).batch(0, &device).unwrap();
            assert_eq!((whole.micro.len(), whole.records, whole.tokens), (1, cut.records, cut.tokens));
            assert!(cut.micro.len() > 3, "{} micro-batches", cut.micro.len());
            let [whole, cut] = [whole, cut].map(|step| gradients(&task, &TrainStep::step(&task, step).grads));
            assert_eq!((whole.len(), cut.len()), (count, count), "{name}");
            for (nth, (whole, cut)) in whole.iter().zip(&cut).enumerate() {
                assert!(whole.iter().any(|g| *g != 0.0), "{name}: no gradient");
                assert_l2(&format!("{name}, gradient {nth} of {count}"), cut, whole, 1e-5);
            }
        }
    }
}

/// Gradients layer by layer are the gradients, those of the head among them.
#[test]
fn recomputed_gradients_are_the_same() {
    let _turn = hearth_tests::random_turn();
    for (name, device) in hearth_tests::devices() {
        let device = device.autodiff();
        // One network: the generator behind a fresh one belongs to all tests that run at the same time.
        let ValueTask { decoder, head, .. } = task(&device, true, Some(8), Head::Classification, Recompute::None);
        let of = |recompute: Recompute| {
            let task = ValueTask::new(decoder.clone(), head.clone(), Head::Classification, recompute);
            let output = TrainStep::step(&task, batches(70, 9, 1).batch(0, &device).unwrap());
            gradients(&task, &output.grads)
        };
        let (plain, again) = (of(Recompute::None), of(Recompute::Layers));
        assert_eq!((plain.len(), again.len()), (34, 34), "{name}");
        for (nth, (plain, again)) in plain.iter().zip(&again).enumerate() {
            assert_l2(&format!("{name}, gradient {nth}"), again, plain, 1e-5);
        }
    }
}

/// What prompts begin with alike is written once, equal ones are one, and no state depends on what else is in a row.
#[test]
fn packed_prompts_are_prompts_alone() {
    let prompts: Vec<Vec<u32>> =
        [&[5, 6, 7, 8, 9][..], &[5, 6, 7], &[5, 6, 9, 9], &[4], &[5, 6, 7], &[5, 6, 7, 8, 1, 2]]
            .iter()
            .map(|ids| ids.to_vec())
            .collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let (row, inside) = PromptRow::rows(&prompts, 10).swap_remove(0);
    let mut numbers = inside.clone();
    numbers.sort_unstable();
    let numbers: Vec<usize> = numbers.into_iter().map(|(_, number)| number).collect();
    assert_eq!(row.packed.ids, [4, 5, 6, 7, 8, 1, 2, 9, 9, 9]);
    assert_eq!((row.places.as_slice(), numbers.as_slice()), (&[0, 3, 6, 7, 9][..], &[3, 1, 4, 0, 1, 2][..]));
    // One token less, and the last prompt goes alone; a prompt that is too long does, too.
    let lengths = |row_tokens| -> Vec<usize> {
        PromptRow::rows(&prompts, row_tokens).iter().map(|(row, _)| row.packed.ids.len()).collect()
    };
    assert_eq!((lengths(9), lengths(1)), (vec![8, 4], vec![1, 3, 6, 5, 4]));
    for (name, device) in hearth_tests::devices() {
        let model = decoder(&device, 0.3);
        for row_tokens in [1, 6, 100] {
            let together = last_states(&model, &prompts, row_tokens).unwrap();
            for (nth, ids) in prompts.iter().enumerate() {
                let alone = embed_tokens(&model, &[ids.to_vec()], LlmPooling::LastToken, 1, |_| ()).unwrap();
                assert_l2(&format!("{name} {row_tokens} {nth}"), &together[nth * 32..(nth + 1) * 32], &alone, 1e-5);
            }
        }
        assert!(last_states(&model, &[], 9).unwrap().is_empty());
        assert!(last_states(&model, &[&[1], &[]], 9).is_err() && last_states(&model, &[&[1 << 20]], 9).is_err());
    }
}

/// What the head and its adapters can learn: labels that follow from one id at the other end of the prompt.
#[test]
fn a_value_head_learns() {
    let _turn = hearth_tests::random_turn();
    let device = Device::flex().autodiff();
    for (recompute, loss) in [(Recompute::None, Head::Classification), (Recompute::Layers, REGRESSION)] {
        let mut task = task(&device, true, Some(8), loss, recompute);
        let mut optimizer = AdamWConfig::new().init();
        let steps = batches(1 << 20, 9, 80);
        for index in 0..steps.len() {
            let output = TrainStep::step(&task, steps.batch(index, &device).unwrap());
            task = optimizer.step(ModuleLearningRate::from(1e-2), task, output.grads);
        }
        let plain = device.clone().inner();
        let valid = task.valid();
        let step = batches(1 << 20, 9, 1).batch(0, &plain).unwrap();
        let logits = values(valid.logits(&step.micro[0]));
        let labels = values(step.micro[0].labels.clone());
        for (logit, label) in logits.iter().zip(&labels) {
            assert!((*logit > 0.0) == (*label == 1.0), "{logits:?} {labels:?}");
        }
        let _ = InferenceStep::step(&valid, step);
    }
}

const STAGES: [&str; 5] = ["judge-chats", "sft", "eval-words", "value-head", "eval-value-head"];

fn tiny(runs: &Path, device: &str) -> TinyRun {
    TinyRun::new(HEARTH, runs, device)
        .of(&hearth_tests::workspace().join("recipes/tiny/llm-judge.ron"))
        .named("tiny-llm-judge")
}

fn stage(name: &str) -> String {
    let number = STAGES.iter().position(|stage| *stage == name).unwrap() + 1;
    format!("stages/{number:02}-{name}")
}

/// What comes out: chats, adapters, head, scores.
const RESULTS: [&str; 7] = [
    "stages/01-judge-chats/train.jsonl",
    "stages/02-sft/adapter/adapter_model.safetensors",
    "stages/03-eval-words/scores-judge.jsonl",
    "stages/04-value-head/best/model.safetensors",
    "stages/04-value-head/best/value_head.json",
    "stages/04-value-head/best/adapter/adapter_model.safetensors",
    "stages/05-eval-value-head/scores-judge.jsonl",
];

#[test]
fn the_tiny_recipe_leaves_its_results() {
    let dir = tempfile::tempdir().unwrap();
    let mut scores = Vec::new();
    for device in device_names() {
        let run = tiny(&dir.path().join(&device), &device);
        let report = run.ok(&["--json"]).json();
        assert_eq!(report.as_object().unwrap().keys().collect::<Vec<_>>(), STAGES);

        // The chats are the records.
        for (split, count) in [("train", 40), ("val", 12), ("test", 24)] {
            let records = json_lines(&run.path(&format!("sources/flora/{split}.jsonl")));
            let chats = json_lines(&run.path(&format!("{}/{split}.jsonl", stage("judge-chats"))));
            assert_eq!(records.len(), count);
            for (nth, (record, chat)) in records.iter().zip(&chats).enumerate() {
                assert_eq!((&record["workflow_id"], &record["task_id"]), (&chat["workflow_id"], &chat["task_id"]));
                assert_eq!(chat["id"], (nth + 1).to_string());
                let messages = chat["messages"].as_array().unwrap();
                let text = |at: usize| messages[at]["content"].as_str().unwrap();
                assert_eq!(messages.iter().map(|m| &m["role"]).collect::<Vec<_>>(), ["system", "user", "assistant"]);
                assert!(text(1).contains(record["task"].as_str().unwrap()), "{}", text(1));
                assert_eq!(text(2), answer(record["label"].as_f64().unwrap() as f32));
            }
            // The rarer answer is repeated in training until it has half.
            let yes = |rows: &[Value]| rows.iter().filter(|row| row["label"] == 1.0).count();
            if split == "train" {
                assert_eq!((yes(&chats) * 2, yes(&chats) > yes(&records)), (chats.len(), yes(&records) < 20));
            } else {
                assert_eq!(chats.len(), count);
            }
        }

        for eval in ["eval-words", "eval-value-head"] {
            let rows = json_lines(&run.path(&format!("{}/scores-judge.jsonl", stage(eval))));
            let right =
                rows.iter().filter(|row| (row["score"].as_f64().unwrap() > 0.5) == (row["label"] == 1.0)).count();
            let metrics = &report[eval];
            assert_eq!((rows.len(), metrics["n_records"].as_f64()), (24, Some(24.0)));
            assert!((metrics["accuracy"].as_f64().unwrap() - right as f64 / 24.0).abs() < 1e-12);
            assert_eq!(metrics["yes_no_share"].is_number(), eval == "eval-words", "{metrics}");
            for file in ["precision-at-k-judge.csv", "precision-at-k-judge.svg"] {
                assert!(run.path("report").join(stage(eval).trim_start_matches("stages/")).join(file).exists());
            }
            scores.push(rows.iter().map(|row| row["score"].as_f64().unwrap()).collect::<Vec<_>>());
        }
        assert!(report["sft"]["best_val_accuracy"].is_number() && report["value-head"]["best_val_loss"].is_number());

        for file in files(&run.folder()) {
            assert!(!file.split('/').any(|name| name.starts_with('.')), "{file}");
        }
        let before: Vec<Vec<u8>> = RESULTS.iter().map(|file| run.read(file)).collect();
        let second = run.ok(&[]);
        assert_eq!(second.stderr.matches("finished before").count(), STAGES.len(), "{}", second.stderr);
        // From the seed alone.
        run.ok(&["--fresh"]);
        for (file, before) in RESULTS.iter().zip(&before) {
            assert!(run.read(file) == *before, "{device}: {file} differs");
        }
        let other = run.clone().named("other").set("seed=43");
        other.ok(&[]);
        for (file, before) in RESULTS.iter().zip(&before).filter(|(file, _)| !file.ends_with(".json")) {
            assert!(other.read(file) != *before, "{file} does not depend on the seed");
        }
    }
    let cpus = device_names().iter().all(|name| name != "cuda");
    if cpus && scores.len() == 4 {
        for (one, two) in [(0, 2), (1, 3)] {
            assert!(scores[one].iter().zip(&scores[two]).all(|(a, b)| (a - b).abs() < 1e-3));
        }
    }
}

/// A rate instead of a class, a linear head, and no adapter: what is left behind and what comes out of it.
#[test]
fn heads_of_other_kinds_train_and_judge() {
    let dir = tempfile::tempdir().unwrap();
    let graded = tiny(dir.path(), &cpu())
        .set("stages.value-head.labels=Unit")
        .set("stages.eval-value-head.labels=Unit")
        .set("stages.value-head.head=Regression(loss: Mse, output: Identity)")
        .set("stages.value-head.hidden=None")
        .set("stages.value-head.lora=None")
        .set("stages.value-head.target_ratio=0.6");
    let report = graded.ok(&["--json"]).json();
    let best = graded.path(&stage("value-head")).join("best");
    assert_eq!(files(&best), ["model.safetensors", "value_head.json"]);
    let settings = json(&best.join("value_head.json"));
    assert_eq!((&settings["head"]["inner_size"], &settings["adapter"]), (&Value::Null, &Value::Bool(false)));
    let records = json_lines(&graded.path("sources/flora/train.jsonl"));
    let yes = records.iter().filter(|record| record["label"] == 1.0).count();
    let (rare, rest) = (yes.min(40 - yes), yes.max(40 - yes));
    assert!(rare < rest * 3 / 2);
    assert_eq!(report["value-head"]["records"], ((rest * 3).div_ceil(2) + rest) as f64);
    let rows = json_lines(&graded.path(RESULTS[6]));
    assert!(rows.iter().all(|row| (0.0..=1.0).contains(&row["score"].as_f64().unwrap())));
}

/// A run that is killed in the middle of a training or of an evaluation ends as one that nobody disturbs.
#[test]
fn a_killed_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let longer = |name: &str| {
        tiny(dir.path(), &cpu())
            .named(name)
            .set("stages.value-head.max_steps=30")
            .set("stages.value-head.recompute=Layers")
            .set("stages.value-head.eval=(every_steps: 3, select_by: ValAccuracy)")
    };
    let calm = longer("calm");
    calm.ok(&[]);
    let killed = longer("killed");
    for file in ["checkpoints/step-00000004", "best/value_head.json", "checkpoints/step-00000016"] {
        let mut running = killed.start();
        running.wait_for(&killed.path(&stage("value-head")).join(file));
        running.kill();
    }
    killed.ok(&[]);
    for file in RESULTS.iter().filter(|file| !file.ends_with(".json")) {
        assert!(calm.read(file) == killed.read(file), "{file} differs");
    }
    let metrics = |run: &TinyRun| json(&run.path(&stage("value-head")).join("manifest.json"))["metrics"].clone();
    assert_eq!(metrics(&calm), metrics(&killed));

    // What an evaluation has kept is not computed again, and a line that was cut off is.
    let folder = killed.path(&stage("eval-words"));
    let scores = killed.read(RESULTS[2]);
    fs::remove_file(folder.join("manifest.json")).unwrap();
    let kept: Vec<String> =
        (0..24).map(|record| format!("{{\"key\": \"{record}\", \"value\": [0.25, 0.5, false]}}\n")).collect();
    fs::write(folder.join("so-far.jsonl"), kept.concat()).unwrap();
    killed.ok(&["--only", "eval-words"]);
    assert!(json_lines(&folder.join("scores-judge.jsonl")).iter().all(|row| row["score"] == 0.25));
    fs::remove_file(folder.join("manifest.json")).unwrap();
    fs::write(folder.join("so-far.jsonl"), &kept.concat()[..kept.concat().len() - 9]).unwrap();
    killed.ok(&["--only", "eval-words"]);
    assert_eq!(killed.read(RESULTS[2]), scores);
}

/// `Sft` chooses by `val.jsonl` where there is one, and never looks into `test.jsonl` then.
#[test]
fn the_best_is_chosen_by_the_validation_split() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny(dir.path(), &cpu());
    run.ok(&["--only", "judge-chats"]);
    let chats = dir.path().join("chats");
    hearth_tests::program::copy_folder(&run.path(&stage("judge-chats")), &chats);
    fs::write(chats.join("test.jsonl"), "no chat\n").unwrap();
    let recipe = dir.path().join("tune.ron");
    let text = format!(
        r#"Recipe(name: "tune", runs: {:?}, models: {{ "llm": Path({:?}) }}, stages: [
            Sft(model: Model("llm"), data: Path({chats:?}), lora: (rank: 2), max_steps: 2, sequences_per_step: 4,
                micro_tokens: 4096, max_length: 1024, eval: (every_steps: 1, max_records: 4)),
        ])"#,
        dir.path(),
        run.path("sources/llm"),
    );
    fs::write(&recipe, text).unwrap();
    let device = cpu();
    let arguments = ["run".as_ref(), recipe.as_os_str(), "--device".as_ref(), device.as_ref(), "--fresh".as_ref()];
    HEARTH.ok(arguments);
    fs::remove_file(chats.join("val.jsonl")).unwrap();
    let refused = HEARTH.run(arguments).expect_code(1);
    assert!(refused.words().contains("test.jsonl:1"), "{}", refused.stderr);
}
