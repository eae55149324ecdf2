//! Recipes: what is refused, where the error points and what it says; `--set`; round trips; the program around them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hearth::diagnostics::{SourceText, render};
use hearth::recipe::{Document, Recipe};
use tempfile::TempDir;

const HEARTH: &str = env!("CARGO_BIN_EXE_hearth-under-test");

/// A recipe without a fault. Every case breaks it in one place; lines and columns below count in this text.
const BASE: &str = r#"Recipe(
    name: "base",
    device: Flex,
    models: {
        "llm": Init(Decoder(hidden_size: 32)),
        "text": Init(Encoder(hidden_size: 32)),
    },
    data: { "flora": Synthetic(workflows: 12, tasks: 12, train: 96, val: 24, test: 24) },
    stages: [
        GraphQuestions(data: [Data("flora")], test_workflows: 2),
        Sft(
            model: Model("llm"),
            data: Stage("graph-questions"),
            lora: (rank: 2),
            epochs: 2,
            sequences_per_step: 4,
            optim: AdamW(lr: 1e-3),
        ),
        MergeLora(base: Model("llm"), adapter: Stage("sft")),
        Embed(data: Data("flora"), llm: Stage("merge-lora"), text: Model("text")),
        GlowTrain(
            embeddings: Stage("embed"),
            model: (hidden_dim: 16),
            warmup: (batch_size: 8),
            batch_size: 32,
        ),
        GlowEval(weights: Stage("glow-train"), embeddings: Stage("embed")),
    ],
)
"#;

/// A fault: what of [`BASE`] is replaced by what, the place of the error, and words that it says.
struct Fault {
    from: &'static str,
    to: &'static str,
    place: &'static str,
    words: &'static [&'static str],
}

const fn fault(from: &'static str, to: &'static str, place: &'static str, words: &'static [&'static str]) -> Fault {
    Fault { from, to, place, words }
}

const SYNTAX: &[Fault] = &[
    // Unknown names: the accepted ones and the nearest.
    fault(
        "device: Flex",
        "deivce: Flex",
        "3:5",
        &["unknown field `deivce` in `Recipe`", "did you mean `device`?", "accepted: name, seed, device"],
    ),
    fault("epochs: 2", "epohcs: 2", "15:13", &["unknown field `epohcs` in `Sft`", "did you mean `epochs`?"]),
    fault(
        "lr: 1e-3",
        "learning_rate: 1e-3",
        "17:26",
        &["unknown field `learning_rate`", "accepted: lr, weight_decay, betas, eps"],
    ),
    fault("(rank: 2)", "(rang: 2)", "14:20", &["unknown field `rang`", "did you mean `rank`?"]),
    fault(
        "hidden_size: 32)),\n        \"text\"",
        "hiden_size: 32)),\n        \"text\"",
        "5:29",
        &["did you mean `hidden_size`?"],
    ),
    fault("train: 96", "trian: 96", "8:58", &["did you mean `train`?"]),
    fault("Sft(", "Stf(", "11:9", &["unknown value `Stf`", "did you mean `Sft`?", "GraphQuestions, Sft, MergeLora"]),
    fault("Flex", "Gpu", "3:13", &["unknown value `Gpu`", "accepted: Auto, Flex, Ndarray, Cuda"]),
    fault(
        "Model(\"llm\"),\n            data",
        "Modle(\"llm\"),\n            data",
        "12:20",
        &["did you mean `Model`?"],
    ),
    fault(
        "Model(\"llm\"),\n            data",
        "\"llm\",\n            data",
        "12:20",
        &["found `\"llm\"`", "accepted: Model, Data, Stage, Path"],
    ),
    fault("optim: AdamW(lr: 1e-3)", "optim: (lr: 1e-3)", "17:20", &["has to begin with its kind", "accepted: AdamW"]),
    fault(
        "Sft(\n            model",
        "Sft((\n            model",
        "11:13",
        &["expected a field, found `(`", "accepted: name, model"],
    ),
    fault("device: Flex", "device: Flex(0)", "3:17", &["`Flex` has no fields"]),
    fault("device: Flex", "device: Cuda", "3:13", &["`Cuda` needs parentheses"]),
    // Missing and repeated fields.
    fault("            model: Model(\"llm\"),\n", "", "11:9", &["field `model` is missing in `Sft`"]),
    fault("    name: \"base\",\n", "", "1:1", &["field `name` is missing in `Recipe`"]),
    fault("lr: 1e-3", "", "17:20", &["field `lr` is missing"]),
    fault("epochs: 2", "epochs: 2, epochs: 3", "15:24", &["field `epochs` stands here twice"]),
    // Values of the wrong type.
    fault("epochs: 2", "epochs: \"two\"", "15:21", &["expected an integer, found `\"two\"`"]),
    fault("epochs: 2", "epochs: 2.5", "15:21", &["expected an integer, found `2.5`"]),
    fault("epochs: 2", "epochs: 1e3", "15:21", &["expected an integer, found `1e3`"]),
    fault("epochs: 2", "epochs: -1", "15:21", &["`-1` is out of range"]),
    fault("epochs: 2", "epochs: 99999999999999999999", "15:21", &["out of range"]),
    fault("lr: 1e-3", "lr: fast", "17:30", &["expected a number, found `fast`"]),
    fault("name: \"base\"", "name: base", "2:11", &["expected a string in quotes, found `base`"]),
    fault("[Data(\"flora\")]", "Data(\"flora\")", "10:30", &["expected a list", "found `Data`"]),
    fault("data: { ", "data: [ ", "8:11", &["expected a map"]),
    fault("batch_size: 32", "drop_last: 1", "25:24", &["expected true or false, found `1`"]),
    // Brackets, quotes, separators.
    fault("    ],\n)", "    ]", "1:7", &["`(` is never closed"]),
    fault(
        "Stage(\"embed\")),\n    ],",
        "Stage(\"embed\"),\n    ],",
        "28:5",
        &["`]` cannot close `(`", "the `(` at 27:17"],
    ),
    fault("name: \"base\"", "name: \"base", "2:11", &["only ends at 5:10", "closing quote missing"]),
    fault("\n)\n", "\n)\n\"", "30:1", &["the string is never closed"]),
    fault("epochs: 2,", "epochs: 2", "16:13", &["expected a comma, found `sequences_per_step`"]),
    fault("name: \"base\"", "name \"base\"", "2:10", &["expected `:`"]),
    fault("\n)\n", "\n)\nRecipe()\n", "30:1", &["the recipe ends before this"]),
    fault("\"base\"", "\"ba\\qse\"", "2:11", &["wrong escape"]),
];

const RULES: &[Fault] = &[
    // Names.
    fault("\"base\"", "\"../base\"", "2:11", &["contains '/'", "it becomes a folder"]),
    fault("\"base\"", "\"\"", "2:11", &["is empty"]),
    fault("weights: Stage", "name: \"sft\", weights: Stage", "27:24", &["two stages are called `sft`", "stage 2"]),
    fault("weights: Stage", "name: \"s f t\", weights: Stage", "27:24", &["contains ' '"]),
    fault(
        "\"text\": ",
        "\"flora\": Init(Decoder()), \"text\": ",
        "8:22",
        &["`models` has an entry called `flora` too"],
    ),
    fault("\"text\": ", "\"a/b\": Init(Decoder()), \"text\": ", "6:16", &["contains '/'"]),
    fault("\"text\": ", "\"llm\": Init(Decoder()), \"text\": ", "6:9", &["two entries called `llm`"]),
    // References.
    fault(
        "Model(\"llm\"),\n            data",
        "Model(\"lmm\"),\n            data",
        "12:20",
        &["no entry of `models` called `lmm`", "did you mean `llm`?"],
    ),
    fault(
        "Stage(\"graph-questions\")",
        "Stage(\"graph-question\")",
        "13:19",
        &["no earlier stage called `graph-question`", "did you mean `graph-questions`?"],
    ),
    fault("Stage(\"graph-questions\")", "Stage(\"flora\")", "13:19", &["did you mean Data(\"flora\")?"]),
    fault(
        "Stage(\"graph-questions\")",
        "Stage(\"embed\")",
        "13:19",
        &["no earlier stage called `embed`", "comes later"],
    ),
    fault("Stage(\"graph-questions\")", "Stage(\"sft\")", "13:19", &["the stage itself"]),
    // Sorts.
    fault(
        "weights: Stage(\"glow-train\")",
        "weights: Stage(\"embed\")",
        "27:27",
        &["Stage(\"embed\") is embeddings, but a GLOW predictor is needed"],
    ),
    fault(
        "Stage(\"merge-lora\")",
        "Stage(\"sft\")",
        "20:41",
        &["an adapter without its base", "MergeLora(base: …, adapter: Stage(\"sft\"))"],
    ),
    fault("            lora: (rank: 2),\n", "", "18:48", &["is a decoder, but a LoRA adapter is needed", "`lora`"]),
    fault(
        "text: Model(\"text\")",
        "text: Model(\"llm\")",
        "20:68",
        &["is a decoder, but a sentence encoder is needed"],
    ),
    fault(
        "Model(\"llm\"),\n            data",
        "Data(\"flora\"),\n            data",
        "12:20",
        &["Data(\"flora\") is FLORA data, but a decoder is needed"],
    ),
    fault(
        "Embed(data: Data(\"flora\")",
        "Embed(data: Model(\"llm\")",
        "20:21",
        &["is a decoder, but FLORA data is needed"],
    ),
    // Ranges.
    fault("lr: 1e-3", "lr: 0", "17:30", &["`lr` is 0", "above 0"]),
    fault("lr: 1e-3", "lr: NaN", "17:30", &["`lr` is NaN"]),
    fault("lr: 1e-3", "lr: 1e-3, betas: (0.9, 1.0)", "17:49", &["`betas` holds 1", "[0, 1)"]),
    fault("lr: 1e-3", "lr: 1e-3, eps: 0", "17:41", &["`eps` is 0"]),
    fault("epochs: 2", "epochs: 0", "15:21", &["`epochs` is 0", "at least 1"]),
    fault("epochs: 2", "clip: 0", "15:19", &["`clip` is 0"]),
    fault("epochs: 2", "schedule: WarmupCosine(warmup: 1.5)", "15:44", &["`warmup` is 1.5", "in [0, 1)"]),
    fault("epochs: 2", "schedule: StepLr(every: 0, gamma: 0.9)", "15:37", &["`every` is 0"]),
    fault("epochs: 2", "micro_tokens: 512", "15:27", &["`micro_tokens` is 512", "`max_length`, 10240"]),
    fault("epochs: 2", "early_stopping: (patience: 3)", "15:29", &["early stopping needs `eval`"]),
    fault("lr: 1e-3", "lr: 1e-3, lora_plus: 0", "17:47", &["`lora_plus` is 0"]),
    fault("warmup: (", "optim: AdamW(lr: 1e-3, lora_plus: 2), warmup: (", "24:47", &["`lora_plus` needs an adapter"]),
    fault("epochs: 2", "schedule: WarmupLinear(warmup: 2.5)", "15:44", &["`warmup` is 2.5", "whole number of steps"]),
    fault(
        "epochs: 2",
        "schedule: WarmupStableDecay(warmup: 0.5, decay: 0.6)",
        "15:61",
        &["warm-up and decay together are 1.1 of all steps"],
    ),
    fault("epochs: 2", "ema: 1.0", "15:18", &["`ema` is 1", "[0, 1)"]),
    fault("epochs: 2", "neftune: 0", "15:22", &["`neftune` is 0"]),
    fault("epochs: 2", "tokens_per_step: 0", "15:30", &["`tokens_per_step` is 0"]),
    fault("epochs: 2", "samples: (count: 4)", "15:22", &["`samples` needs `eval`"]),
    fault("epochs: 2", "quantize: Q8", "15:23", &["all restored weights are kept", "recompute: Layers"]),
    fault(
        "test_workflows: 2",
        "test_workflows: 2), Sft(name: \"x\", model: Model(\"llm\"), data: Stage(\"graph-questions\"), sequences_per_step: 1, quantize: Q8",
        "10:168",
        &["`quantize` needs an adapter"],
    ),
    fault("epochs: 2", "mask: Tags([])", "15:19", &["no tag in `mask`"]),
    fault("epochs: 2", "mask: Tags([\"<a>\"])", "15:19", &["no name of a tag", "without brackets"]),
    fault("epochs: 2", "learn: Roles({\"user\": 0.0})", "15:20", &["nothing would be learned"]),
    fault("epochs: 2", "learn: Roles({\"user\": -1.0})", "15:20", &["the weight of \"user\" is -1"]),
    fault("rank: 2", "rank: 0", "14:26", &["`rank`", "0"]),
    fault("rank: 2", "dropout: 1.0", "14:29", &["`dropout`"]),
    fault(
        "rank: 2",
        "targets: Names([\"q_proj\", \"v_prj\"])",
        "14:46",
        &["no linear layer is called `v_prj`", "did you mean `v_proj`?"],
    ),
    fault("rank: 2", "targets: Regex(\"(\")", "14:29", &["not a regular expression"]),
    fault("hidden_dim: 16", "hidden_dim: 18", "23:20", &["not a multiple"]),
    fault("hidden_dim: 16", "dropout: 1.0", "23:30", &["`dropout`"]),
    fault("hidden_dim: 16", "gnn: (heads: 0)", "23:34", &["`heads`", "at least 1"]),
    fault(
        "\"llm\": Init(Decoder(hidden_size: 32))",
        "\"llm\": Init(Decoder(hidden_size: 30))",
        "5:42",
        &["`hidden_size` is 30", "multiple of `num_attention_heads`"],
    ),
    fault(
        "\"llm\": Init(Decoder(hidden_size: 32))",
        "\"llm\": Init(Decoder(num_key_value_heads: 3))",
        "5:50",
        &["`num_key_value_heads`", "3 does not divide 4"],
    ),
    fault(
        "\"llm\": Init(Decoder(hidden_size: 32))",
        "\"llm\": Init(Decoder(num_hidden_layers: 0))",
        "5:48",
        &["`num_hidden_layers`"],
    ),
    fault(
        "Encoder(hidden_size: 32)",
        "Encoder(hidden_size: 33)",
        "6:17",
        &["`num_attention_heads`", "4 does not divide 33"],
    ),
    fault("text: Model(\"text\")", "text: Model(\"text\"), text_max_length: 600", "20:100", &["positions for 512"]),
    fault("weights: Stage", "threshold: 1.5, weights: Stage", "27:29", &["`threshold` is 1.5"]),
    fault("weights: Stage", "checkpoints: [Best, Best], weights: Stage", "27:38", &["twice"]),
    fault("weights: Stage", "utility: (points: 1), weights: Stage", "27:36", &["`points` is 1"]),
    fault(
        "test_workflows: 2",
        "test_workflows: 0), Sft(name: \"x\", model: Model(\"llm\"), data: Stage(\"graph-questions\"), sequences_per_step: 1, eval: (every_steps: 1)",
        "10:164",
        &["holds nothing out"],
    ),
    fault("[Data(\"flora\")]", "[Data(\"flora\"), Data(\"flora\")]", "10:46", &["twice"]),
    fault("test_workflows: 2", "rounds: 0", "10:55", &["`rounds` is 0"]),
    fault("test_workflows: 2", "tasks: []", "10:54", &["`tasks` is empty"]),
    fault("[Data(\"flora\")]", "[]", "10:30", &["`data` is empty"]),
    fault("test: 24", "test: 240", "8:65", &["144"]),
    fault("test: 24", "test: 24, label_noise: 0.9", "8:101", &["label_noise"]),
    // Batches and data.
    fault("batch_size: 32", "batch_size: 128", "25:25", &["`batch_size` is 128", "only 96 training records"]),
    // The predictor's objectives.
    fault("batch_size: 32", "batch_size: 32, min_delta: -1", "25:40", &["`min_delta` is -1, but has to be 0 or above"]),
    fault("batch_size: 32", "batch_size: 32, threshold: 2", "25:40", &["`threshold` is 2, but has to be in [0, 1]"]),
    fault("batch_size: 32", "batch_size: 32, pred_weight: -1", "25:42", &["`pred_weight` is -1"]),
    fault("batch_size: 32", "batch_size: 32, contrast: (margin: -1)", "25:48", &["`margin`: -1 is not 0 or above"]),
    fault("batch_size: 32", "batch_size: 32, contrast: (form: Random(0))", "25:46", &["Random(0) draws no triplet"]),
    fault("batch_size: 32", "batch_size: 32, contrast: (form: BatchHrad)", "25:46", &["did you mean `BatchHard`?"]),
    fault("batch_size: 32", "batch_size: 32, contrast: (on: [])", "25:44", &["`on` is empty", "contrast: None"]),
    fault("batch_size: 8", "batch_size: 8, node_weight: -1", "24:50", &["`node_weight` is -1"]),
    fault("hidden_dim: 16", "head: Both(reg_weight: -1)", "23:44", &["`reg_weight`: -1 is not 0 or above"]),
    fault("warmup: (batch_size: 8)", "warmup: (batch_size: 64)", "24:34", &["only 12 distinct workflows"]),
    fault("sequences_per_step: 4", "sequences_per_step: 999", "16:33", &["only 150 questions"]),
    fault("test_workflows: 2", "test_workflows: 12, strict_test_count: true", "10:63", &["no question remains"]),
    // The machine.
    fault("Init(Decoder(hidden_size: 32))", "Path(\"nowhere\")", "5:16", &["there is no folder nowhere"]),
    fault("Init(Decoder(hidden_size: 32))", "Path(\"qwem3\")", "5:16", &["did you mean qwen3?"]),
    fault("Init(Decoder(hidden_size: 32))", "Path(\"empty\")", "5:16", &["empty has no config.json"]),
    fault("Init(Decoder(hidden_size: 32))", "Path(\"gpt2\")", "5:16", &["`model_type`", "gpt2"]),
    fault("Init(Decoder(hidden_size: 32))", "Path(\"no-type\")", "5:16", &["missing field `model_type`"]),
    fault("Init(Decoder(hidden_size: 32))", "Path(\"qwen3\")", "5:16", &["`hidden_size`"]),
    fault(
        "Init(Encoder(hidden_size: 32))",
        "Init(Encoder(tokenizer: Path(\"empty\")))",
        "6:41",
        &["empty has no tokenizer.json"],
    ),
    fault(
        "Synthetic(workflows: 12, tasks: 12, train: 96, val: 24, test: 24)",
        "Flora(\"some\")",
        "8:22",
        &["some has no test.jsonl"],
    ),
    fault(
        "Synthetic(workflows: 12, tasks: 12, train: 96, val: 24, test: 24)",
        "Flora(\"a-file\")",
        "8:22",
        &["a-file is a file, but a folder is needed"],
    ),
    fault("Stage(\"graph-questions\")", "Path(\"chats.jsonl\")", "13:19", &["there is no file chats.jsonl"]),
    fault(
        "Stage(\"graph-questions\")",
        "Path(\"empty\")",
        "13:19",
        &["there are no chats to train on: no train.jsonl"],
    ),
    fault("adapter: Stage(\"sft\")", "adapter: Path(\"empty\")", "19:48", &["empty has no adapter_config.json"]),
    fault("weights: Stage(\"glow-train\")", "weights: Path(\"empty\")", "27:27", &["empty has no manifest.json"]),
];

const NO_CUDA: Fault =
    fault("device: Flex", "device: Cuda(0)", "3:13", &["not compiled into this build", "--features cuda"]);

/// A folder with what the faults need around them.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("a-file", "");
    write("empty/notes.txt", "");
    for (name, config) in
        [("gpt2", r#"{"model_type": "gpt2"}"#), ("no-type", "{}"), ("qwen3", r#"{"model_type": "qwen3"}"#)]
    {
        write(&format!("{name}/config.json"), config);
        write(&format!("{name}/tokenizer.json"), "{}");
        write(&format!("{name}/model.safetensors"), "");
    }
    write("some/train.jsonl", "");
    write("some/val.jsonl", "");
    folder
}

fn hearth(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(HEARTH).args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

/// Standard error with its line breaks and underlining taken out, because messages are wrapped.
fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn broken(fault: &Fault) -> String {
    assert_eq!(BASE.matches(fault.from).count(), 1, "{:?} has to stand in the recipe once", fault.from);
    BASE.replace(fault.from, fault.to)
}

/// Checks a recipe and expects one problem; what is different, with all that was said.
fn judge(folder: &Path, text: &[u8], place: &str, expected: &[&str]) -> Result<(), String> {
    std::fs::write(folder.join("recipe.ron"), text).unwrap();
    let output = hearth(folder, &["check", "recipe.ron"]);
    let shown = String::from_utf8_lossy(&output.stderr);
    let said = words(&output);
    let wrong = |what: String| Err(format!("{what}:\n{shown}"));
    if output.status.code() != Some(2) || !output.stdout.is_empty() {
        return wrong(format!("ended with {:?}", output.status.code()));
    }
    if !shown.contains(&format!("[recipe.ron:{place}]")) {
        return wrong(format!("not at {place}"));
    }
    if shown.matches(",-[").count() != 1 {
        return wrong("more than one problem".to_owned());
    }
    match expected.iter().find(|word| !said.contains(**word)) {
        Some(word) => wrong(format!("does not say {word:?}")),
        None => Ok(()),
    }
}

fn expect(folder: &Path, text: &[u8], place: &str, expected: &[&str]) {
    judge(folder, text, place, expected).unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// Every fault by itself; all that come out wrong are listed.
fn expect_all(faults: &[Fault]) {
    let folder = folder();
    let wrong: Vec<String> = faults
        .iter()
        .filter_map(|fault| judge(folder.path(), broken(fault).as_bytes(), fault.place, fault.words).err())
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), faults.len(), wrong.join("\n"));
}

#[test]
fn the_base_is_right() {
    let folder = folder();
    std::fs::write(folder.path().join("recipe.ron"), BASE).unwrap();
    let output = hearth(folder.path(), &["check", "recipe.ron"]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "recipe.ron: ok (graph-questions, sft, merge-lora, embed, glow-train, glow-eval)\n");
}

#[test]
fn broken_syntax_is_shown_with_its_place() {
    expect_all(SYNTAX);
}

#[test]
fn broken_rules_are_shown_with_their_place() {
    expect_all(RULES);
    if !cfg!(feature = "cuda") {
        expect_all(&[NO_CUDA]);
    }
}

#[test]
fn number_formats_that_a_device_lacks_are_refused() {
    let folder = folder();
    let text = BASE.replace("Flex", "Ndarray").replace("epochs: 2", "dtype: Bf16");
    std::fs::write(folder.path().join("recipe.ron"), text).unwrap();
    let output = hearth(folder.path(), &["check", "recipe.ron"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(words(&output).contains("device Ndarray cannot compute in Bf16"), "{}", words(&output));
    assert!(words(&output).contains("[recipe.ron:15:20]"), "{}", words(&output));
}

#[test]
fn an_adapter_only_fits_its_base() {
    let folder = folder();
    let text = BASE
        .replace("\"text\": ", "\"other\": Init(Decoder()), \"text\": ")
        .replace("MergeLora(base: Model(\"llm\")", "MergeLora(base: Model(\"other\")");
    let said = ["Stage(\"sft\") was trained on Model(\"llm\"), not on Model(\"other\")"];
    expect(folder.path(), text.as_bytes(), "19:25", &said);
}

#[test]
fn templates_are_checked_where_they_stand() {
    let folder = folder();
    let text = BASE.replace("test_workflows: 2", "test_workflows: 2, templates: \"words.ron\"");
    std::fs::write(folder.path().join("recipe.ron"), text).unwrap();
    for (words_file, place, expected) in [
        ("(closng: \"x\")", "words.ron:1:2", "did you mean `closing`?"),
        ("(\n  questions: (indeg: \"no placeholder\"),\n)", "words.ron:2:22", "{node}"),
        ("(", "words.ron:1:1", "never closed"),
    ] {
        std::fs::write(folder.path().join("words.ron"), words_file).unwrap();
        let output = hearth(folder.path(), &["check", "recipe.ron"]);
        assert_eq!(output.status.code(), Some(2));
        let said = words(&output);
        assert!(said.contains(&format!("[{place}]")) && said.contains(expected), "{said}");
    }
}

#[test]
fn everything_wrong_is_reported_at_once_in_the_order_of_the_file() {
    let folder = folder();
    let text = BASE
        .replace("Stage(\"embed\")),\n    ]", "Stage(\"embde\")),\n    ]")
        .replace("rank: 2", "rank: 0")
        .replace("lr: 1e-3", "lr: -1")
        .replace("name: \"base\"", "name: \"a b\"");
    std::fs::write(folder.path().join("recipe.ron"), text).unwrap();
    let output = hearth(folder.path(), &["check", "recipe.ron"]);
    assert_eq!(output.status.code(), Some(2));
    let said = words(&output);
    let places = ["[recipe.ron:2:11]", "[recipe.ron:14:26]", "[recipe.ron:17:30]", "[recipe.ron:27:60]"];
    let found: Vec<_> =
        places.iter().map(|place| said.find(place).unwrap_or_else(|| panic!("{place}: {said}"))).collect();
    assert!(found.is_sorted(), "{said}");
}

#[test]
fn files_that_are_no_recipes_are_refused() {
    let folder = folder();
    let path = folder.path();
    expect(path, b"Recipe(\n  name: \"\xff\"", "2:10", &["not UTF-8"]);
    expect(path, "Recipe(name: (".repeat(60).as_bytes(), "1:14", &["expected a string"]);
    expect(path, b"", "1:1", &["expected `(`, found the end"]);
    let deep = format!("Recipe(name: \"x\", stages: {}", "[".repeat(10_000));
    expect(path, deep.as_bytes(), "1:28", &["found `[`", "accepted: GraphQuestions"]);

    let refused = |argument: &str, word: &str| {
        let output = hearth(path, &["check", argument]);
        assert_eq!(output.status.code(), Some(2));
        assert!(words(&output).contains(word), "{}", words(&output));
    };
    std::fs::write(path.join("large.ron"), vec![b' '; (1 << 20) + 1]).unwrap();
    refused("large.ron", "larger than 1 MiB");
    refused("recpie.ron", "did you mean recipe.ron?");
    refused("empty", "directory");
}

#[test]
fn mutilated_recipes_are_refused_without_a_panic() {
    let refuse = |text: String| {
        if let Err(problem) = Document::parse(SourceText::new("base.ron", text.as_str())) {
            let mut shown = String::new();
            render(&[problem], false, &mut shown).unwrap_or_else(|_| panic!("cannot be shown:\n{text}"));
            assert!(shown.contains("[base.ron:"), "{shown}");
        }
    };
    for (at, _) in BASE.char_indices().step_by(7) {
        let (head, tail) = BASE.split_at(at);
        refuse(head.to_owned());
        refuse(tail.to_owned());
        for inserted in
            ["(", ")", "]", "{", "\"", "'", ",", ":", "/*", "//", "r#\"", "é", "\0", "-", "1.5", "Some(", "#![", "\\"]
        {
            refuse(format!("{head}{inserted}{tail}"));
            refuse(format!("{head}{inserted}{}", tail.get(1..).unwrap_or_default()));
        }
    }
}

#[test]
fn mutilated_arguments_are_refused_without_a_panic() {
    for argument in ["stages.sft.optim=AdamW(lr: 1e-3)", "models.llm=Path(\"é\")", "name=x"] {
        for (at, _) in argument.char_indices() {
            let (head, tail) = argument.split_at(at);
            for inserted in ["", "(", ")", "\"", "=", ".", "é", "/*", "//", "r#\"", ",", ":", "\n", "\\", "..", " "] {
                for argument in [format!("{head}{inserted}{tail}"), format!("{head}{inserted}")] {
                    let mut document = parse(BASE);
                    if let Err(hearth::Error::Recipe(problems)) =
                        document.set(&argument).and_then(|()| document.check())
                    {
                        let mut shown = String::new();
                        render(&problems, false, &mut shown).unwrap_or_else(|_| panic!("cannot be shown: {argument}"));
                    }
                }
            }
        }
    }
}

#[test]
fn nesting_has_a_limit() {
    let folder = folder();
    let deep = format!("{}{}", "Some(".repeat(5000), ")".repeat(5000));
    let text = BASE.replace("epochs: 2", &format!("max_steps: {deep}"));
    std::fs::write(folder.path().join("recipe.ron"), text).unwrap();
    let output = hearth(folder.path(), &["check", "recipe.ron"]);
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
}

fn parse(text: &str) -> Document {
    Document::parse(SourceText::new("base.ron", text)).unwrap()
}

fn with_set(arguments: &[&str]) -> Recipe {
    let mut document = parse(BASE);
    for argument in arguments {
        document.set(argument).unwrap_or_else(|error| panic!("{argument}: {error}"));
    }
    document.recipe().clone()
}

#[test]
fn set_does_what_editing_the_file_would() {
    for (argument, from, to) in [
        ("name=\"x\"", "\"base\"", "\"x\""),
        ("name=x-1.5", "\"base\"", "\"x-1.5\""),
        ("name=two words, and more", "\"base\"", "\"two words, and more\""),
        ("runs=/tmp/runs", "device: Flex", "device: Flex, runs: \"/tmp/runs\""),
        ("seed=7", "device: Flex", "device: Flex, seed: 7"),
        ("device=Cuda(1)", "device: Flex", "device: Cuda(1)"),
        ("stages.sft.optim.lr=1e-4", "lr: 1e-3", "lr: 1e-4"),
        ("stages.1.epochs=3", "epochs: 2", "epochs: 3"),
        ("stages.sft.epochs = 3", "epochs: 2", "epochs: 3"),
        ("stages.sft.lora.targets=Names([\"q_proj\"])", "rank: 2", "rank: 2, targets: Names([\"q_proj\"])"),
        ("stages.sft.lora=None", "            lora: (rank: 2),\n", ""),
        ("stages.sft.clip=None", "epochs: 2", "epochs: 2, clip: None"),
        ("stages.sft.max_steps=5", "epochs: 2", "epochs: 2, max_steps: 5"),
        ("stages.sft.eval=(every_steps: 10)", "epochs: 2", "epochs: 2, eval: (every_steps: 10)"),
        ("stages.sft.optim.betas.1=0.5", "lr: 1e-3", "lr: 1e-3, betas: (0.9, 0.5)"),
        ("stages.sft.schedule=Constant()", "epochs: 2", "epochs: 2, schedule: Constant()"),
        ("stages.sft.schedule.warmup=0.1", "epochs: 2", "epochs: 2, schedule: WarmupCosine(warmup: 0.1)"),
        ("stages.glow-train.model.gnn.layers=3", "hidden_dim: 16", "hidden_dim: 16, gnn: (layers: 3)"),
        ("stages.graph-questions.data.0=Path(\"d\")", "[Data(\"flora\")]", "[Path(\"d\")]"),
        ("models.llm=Path(\"x=y\")", "Init(Decoder(hidden_size: 32))", "Path(\"x=y\")"),
        (
            "models.llm.num_hidden_layers=3",
            "Decoder(hidden_size: 32)",
            "Decoder(hidden_size: 32, num_hidden_layers: 3)",
        ),
        (
            "data.flora=Flora(\"d\") // a comment",
            "Synthetic(workflows: 12, tasks: 12, train: 96, val: 24, test: 24)",
            "Flora(\"d\")",
        ),
        ("data.flora.label_noise=0.2", "test: 24", "test: 24, label_noise: 0.2"),
    ] {
        assert_eq!(BASE.matches(from).count(), 1, "{from}");
        assert_eq!(&with_set(&[argument]), parse(&BASE.replace(from, to)).recipe(), "{argument}");
    }
}

#[test]
fn later_arguments_see_earlier_ones_and_win() {
    let both = with_set(&["stages.1.name=tune", "stages.tune.epochs=5", "stages.tune.epochs=6"]);
    assert_eq!(&both, parse(&BASE.replace("epochs: 2", "epochs: 6, name: \"tune\"")).recipe());
}

#[test]
fn keys_and_names_with_dots_can_be_set() {
    let text = BASE
        .replace("epochs: 2", "name: \"sft.v1\", epochs: 2")
        .replace("\"text\": ", "\"all.mini.lm\": Init(Encoder()), \"text\": ");
    let mut document = parse(&text);
    document.set("stages.sft.v1.epochs=4").unwrap();
    document.set("models.all.mini.lm.hidden_size=8").unwrap();
    let expected = text.replace("epochs: 2", "epochs: 4").replace("Encoder()", "Encoder(hidden_size: 8)");
    assert_eq!(document.recipe(), parse(&expected).recipe());
}

#[test]
fn wrong_arguments_are_shown_with_their_place() {
    let folder = folder();
    std::fs::write(folder.path().join("recipe.ron"), BASE).unwrap();
    for (argument, column, expected) in [
        ("stages.sft.epohcs=3", 12, "did you mean `epochs`?"),
        ("stage.sft.epochs=3", 1, "did you mean `stages`?"),
        ("stages.stf.epochs=3", 8, "did you mean `sft`?"),
        ("stages.9.epochs=3", 8, "accepted: graph-questions, sft"),
        ("models.lmm=Path(\"x\")", 8, "did you mean `llm`?"),
        ("stages.sft.optim.learning_rate=1", 18, "accepted: lr, weight_decay, betas, eps"),
        ("stages.sft.eval.every_steps=1", 17, "`stages.sft.eval` is None: set it as a whole"),
        ("stages.sft.epochs.x=1", 19, "`stages.sft.epochs` is 2, which has no parts"),
        ("stages.sft.epochs=many", 19, "expected an integer, found `many`"),
        ("stages.sft.epochs=", 19, "expected one value"),
        ("stages.sft.epochs=3, clip: 1", 19, "expected one value"),
        ("stages.sft.epochs=3)", 19, "expected one value"),
        ("stages.sft.optim=AdamX(lr: 1)", 18, "did you mean `AdamW`?"),
        ("stages.sft.optim=AdamW(rl: 1)", 24, "did you mean `lr`?"),
        ("stages.sft.optim=AdamW()", 18, "field `lr` is missing"),
        ("stages.sft.model=\"llm\"", 18, "accepted: Model, Data, Stage, Path"),
        ("epochs 3", 1, "there is no `=`"),
        // Rules across fields point into the argument too.
        ("stages.sft.optim.lr=0", 21, "above 0"),
        ("stages.sft.lora=(rank: 0)", 24, "`rank`"),
        ("stages.embed.llm=Stage(\"sft\")", 18, "an adapter without its base"),
        ("stages.glow-train.batch_size=4096", 30, "only 96 training records"),
    ] {
        let output = hearth(folder.path(), &["check", "recipe.ron", "--set", argument]);
        let said = words(&output);
        assert_eq!(output.status.code(), Some(2), "{argument}: {said}");
        assert!(said.contains(&format!("[--set:1:{column}]")), "{argument}: expected column {column}: {said}");
        assert!(said.contains(expected), "{argument}: expected {expected:?}: {said}");
        assert!(said.contains(argument), "{argument}: {said}");
    }
}

#[test]
fn the_device_can_be_named_on_the_command_line() {
    let folder = folder();
    std::fs::write(folder.path().join("recipe.ron"), BASE).unwrap();
    let printed = hearth(folder.path(), &["check", "recipe.ron", "--device", "auto", "--print"]);
    assert!(String::from_utf8(printed.stdout).unwrap().contains("device: Auto"));
    let output = hearth(folder.path(), &["check", "recipe.ron", "--device", "gpu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(words(&output).contains("[--device:1:1]"), "{}", words(&output));
    assert!(words(&output).contains("accepted: Auto, Flex, Ndarray, Cuda(0)"), "{}", words(&output));
}

fn shipped() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for path in hearth_tests::list(folder) {
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "ron") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&hearth_tests::workspace().join("recipes"), &mut found);
    found
}

#[test]
fn every_shipped_recipe_parses_and_survives_a_round_trip() {
    let recipes = shipped();
    assert!(recipes.len() >= 3, "{recipes:?}");
    for path in recipes {
        let recipe = Document::open(&path).unwrap_or_else(|error| panic!("{error}")).recipe().clone();
        let text = recipe.to_ron().unwrap();
        let again = Document::parse(SourceText::new("resolved", text.as_str())).unwrap();
        assert_eq!(again.recipe(), &recipe, "{}:\n{text}", path.display());
        assert_eq!(again.recipe().to_ron().unwrap(), text);
    }
}

#[test]
fn recipes_that_need_nothing_pass_the_check() {
    let root = hearth_tests::workspace();
    let output = hearth(&root, &["check", "recipes/quickstart.ron", "recipes/tiny/glow.ron"]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
}

/// Those that need models, data or devices that are not here pass but for that.
#[test]
fn every_shipped_recipe_passes_the_check_for_elsewhere() {
    for path in shipped() {
        Document::open(&path).unwrap().check_elsewhere().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn check_prints_a_recipe_that_can_be_checked() {
    let folder = folder();
    std::fs::write(folder.path().join("recipe.ron"), BASE).unwrap();
    let arguments = ["check", "recipe.ron", "--print", "--set", "stages.sft.epochs=9"];
    let printed = String::from_utf8(hearth(folder.path(), &arguments).stdout).unwrap();
    assert_eq!(parse(&printed).recipe(), &with_set(&["stages.sft.epochs=9"]));
}

#[test]
fn the_text_of_a_document_gives_the_document() {
    assert_eq!(parse(BASE).text().unwrap(), BASE);
    let mut changed = parse(BASE);
    changed.set("stages.sft.epochs=9").unwrap();
    changed.set("name=two\nlines").unwrap();
    changed.set_device("auto").unwrap();
    let text = changed.text().unwrap();
    assert!(
        text.starts_with("// base.ron --set 'stages.sft.epochs=9' --set 'name=two lines' --device 'auto'\n"),
        "{text}"
    );
    assert_eq!(parse(&text).recipe(), changed.recipe());
}

#[test]
fn stages_that_are_not_there_cannot_be_chosen() {
    let folder = folder();
    std::fs::write(folder.path().join("recipe.ron"), BASE).unwrap();
    for flag in ["--only", "--from"] {
        let output = hearth(folder.path(), &["run", "recipe.ron", flag, "embd"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(words(&output).contains(&format!("[{flag}:1:1]")), "{}", words(&output));
        assert!(words(&output).contains("did you mean `embed`?"), "{}", words(&output));
        assert!(!folder.path().join("runs").exists());
    }
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    let folder = folder();
    assert_eq!(hearth(folder.path(), &["--help"]).status.code(), Some(0));
    assert_eq!(hearth(folder.path(), &["--version"]).status.code(), Some(0));
    assert_eq!(hearth(folder.path(), &[]).status.code(), Some(2));
    assert_eq!(hearth(folder.path(), &["chekc", "x"]).status.code(), Some(2));
    assert_eq!(hearth(folder.path(), &["check"]).status.code(), Some(2));
    assert_eq!(hearth(folder.path(), &["check", "x", "--sett", "y"]).status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_failure() {
    use std::io::Read;
    let folder = folder();
    std::fs::write(folder.path().join("recipe.ron"), BASE).unwrap();
    // Many recipes, so that the pipe is full before the last is printed.
    let mut arguments = vec!["check", "--print"];
    arguments.extend(std::iter::repeat_n("recipe.ron", 400));
    let mut child = Command::new(HEARTH)
        .args(arguments)
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", words(&output));
}
