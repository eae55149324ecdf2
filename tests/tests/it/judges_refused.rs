//! Language models as judges: recipes, adapters and heads that do not fit.

use std::fs;
use std::path::{Path, PathBuf};

use hearth_tests::json;
use hearth_tests::program::{Finished, Program, TinyRun, cpu};
use serde_json::Value;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// A recipe without a fault.
const BASE: &str = r#"Recipe(
    name: "base",
    device: Flex,
    models: { "llm": Init(Decoder(hidden_size: 32)), "other": Init(Decoder()), "text": Init(Encoder()) },
    data: { "flora": Synthetic(workflows: 12, tasks: 12, train: 96, val: 24, test: 24) },
    stages: [
        JudgeChats(data: Data("flora"), model: Model("llm")),
        Sft(model: Model("llm"), data: Stage("judge-chats"), lora: (rank: 2), sequences_per_step: 4, eval: (every_steps: 2)),
        ValueHeadTrain(data: Data("flora"), model: Model("llm"), sequences_per_step: 4, eval: (every_steps: 2)),
        JudgeEval(name: "words", data: Data("flora"), model: Model("llm"), adapter: Stage("sft")),
        JudgeEval(name: "head", data: Data("flora"), model: Model("llm"), value_head: Stage("value-head")),
        JudgePrompted(data: Data("flora"), url: "http://localhost:1/v1", model: "m", client: (concurrency: 4)),
    ],
)
"#;

/// What is replaced by what, and words of the refusal.
const FAULTS: &[(&str, &str, &[&str])] = &[
    ("adapter: Stage(\"sft\")", "adapter: Stage(\"value-head\")", &["is a value head, but a LoRA adapter is needed"]),
    (
        "value_head: Stage(\"value-head\")",
        "value_head: Stage(\"sft\")",
        &["is a LoRA adapter, but a value head is needed"],
    ),
    ("lora: (rank: 2), ", "", &["Stage(\"sft\") is a decoder, but a LoRA adapter is needed"]),
    (
        "adapter: Stage(\"sft\")",
        "adapter: Stage(\"sft\"), value_head: Stage(\"value-head\")",
        &["brings its own adapter"],
    ),
    (
        "model: Model(\"llm\"), adapter",
        "model: Model(\"other\"), adapter",
        &["was trained on Model(\"llm\")", "expected Model"],
    ),
    ("model: Model(\"llm\"), value_head", "model: Model(\"other\"), value_head", &["was trained on Model(\"llm\")"]),
    (
        "JudgeChats(data: Data(\"flora\"), model: Model(\"llm\")",
        "JudgeChats(data: Data(\"flora\"), model: Model(\"text\")",
        &["is a sentence encoder, but a decoder is needed"],
    ),
    (
        "JudgeChats(data: Data(\"flora\")",
        "JudgeChats(data: Model(\"llm\")",
        &["is a decoder, but FLORA data is needed"],
    ),
    ("data: Stage(\"judge-chats\")", "data: Data(\"flora\")", &["is FLORA data, but chats is needed"]),
    ("JudgeChats(", "JudgeChats(target_ratio: 1.5, ", &["`target_ratio` is 1.5", "above 0 and below 1"]),
    ("JudgeChats(", "JudgeChats(target_ratio: -1, ", &["`target_ratio` is -1"]),
    ("JudgeChats(", "JudgeChats(prompt: (max_length: 0), ", &["`max_length` is 0"]),
    ("JudgeChats(", "JudgeChats(templates: \"no.ron\", ", &["no.ron"]),
    ("ValueHeadTrain(", "ValueHeadTrain(hidden: 0, ", &["`hidden` is 0"]),
    ("ValueHeadTrain(", "ValueHeadTrain(micro_tokens: 100, ", &["`micro_tokens` is 100", "`prompt.max_length`, 4096"]),
    ("ValueHeadTrain(", "ValueHeadTrain(head: Regression(loss: Huber(0)), ", &["`head.loss`", "not above 0"]),
    ("ValueHeadTrain(", "ValueHeadTrain(lora: (targets: Names([\"q_prj\"])), ", &["q_prj", "did you mean `q_proj`?"]),
    ("ValueHeadTrain(", "ValueHeadTrain(schedule: WarmupPolynomial(power: 0), ", &["`power` is 0", "above 0"]),
    (
        "ValueHeadTrain(",
        "ValueHeadTrain(schedule: WarmupPolynomial(min_lr: 1), ",
        &["`min_lr` is 1", "between 0 and `lr`"],
    ),
    (
        "sequences_per_step: 4, eval: (every_steps: 2)),\n        JudgeEval(name: \"words\"",
        "sequences_per_step: 97, eval: (every_steps: 0)),\n        JudgeEval(name: \"words\"",
        &["only 96 training records", "`every_steps` is 0"],
    ),
    ("val: 24", "val: 0", &["`val` is 0", "reads all three splits", "reads this split"]),
    ("test: 24", "test: 0", &["`test` is 0", "stage `words` reads this split"]),
    ("name: \"words\",", "name: \"words\", batch_tokens: 9,", &["`batch_tokens` is 9"]),
    (
        "name: \"words\",",
        "name: \"words\", prompt: (framing: Template, order: WorkflowFirst, max_length: 512),",
        &["`framing` is Template, but Stage(\"sft\") was trained with ChatMl", "`order` is WorkflowFirst"],
    ),
    (
        "lora: (rank: 2), ",
        "lora: (rank: 2), assistant_prefix: \" \", ",
        &["`assistant_prefix` is \"\", but Stage(\"sft\")"],
    ),
    ("name: \"head\",", "name: \"head\", prompt: (max_length: 512),", &["was trained with 4096"]),
    ("name: \"words\",", "name: \"words\", threshold: 2,", &["`threshold` is 2"]),
    ("name: \"words\",", "name: \"words\", dtpye: Bf16,", &["did you mean `dtype`?"]),
    ("http://localhost:1/v1", "localhost:1/v1", &["`url` has to begin with http", "http://localhost:7999/v1"]),
    ("http://localhost:1/v1", "http://me:word@localhost/v1", &["holds a user or password"]),
    ("model: \"m\"", "model: \"\"", &["`model` is empty"]),
    ("concurrency: 4", "concurrency: 0", &["`concurrency` is 0"]),
    ("concurrency: 4", "concurrency: 100000", &["at most 1024"]),
    ("concurrency: 4", "timeout_seconds: 0", &["`timeout_seconds` is 0"]),
    ("concurrency: 4", "wait_seconds: inf", &["`wait_seconds` is inf"]),
    ("model: \"m\",", "model: \"m\", temperature: -1,", &["`temperature` is -1"]),
    ("model: \"m\",", "model: \"m\", max_tokens: 0,", &["`max_tokens` is 0"]),
];

fn check(folder: &Path, text: &str) -> Finished {
    let path = folder.join("recipe.ron");
    fs::write(&path, text).unwrap();
    HEARTH.run(["check".as_ref(), path.as_os_str()])
}

#[test]
fn recipes_that_mean_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path(), BASE).expect_code(0);
    for (from, to, words) in FAULTS {
        assert!(BASE.contains(from), "{from}");
        let refused = check(dir.path(), &BASE.replacen(from, to, 1)).expect_code(2);
        for word in *words {
            assert!(refused.words().contains(word), "{from} → {to}: {word}\n{}", refused.stderr);
        }
    }
}

/// The resolved recipe says every default, and the published ones are these.
#[test]
fn defaults_are_the_published_ones() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("recipe.ron"), BASE).unwrap();
    let printed = HEARTH.ok(["check".as_ref(), dir.path().join("recipe.ron").as_os_str(), "--print".as_ref()]).stdout;
    let squeezed: String = printed.split_whitespace().collect();
    for part in [
        "node_render:PyReprStr,order:TaskFirst,framing:ChatMl,assistant_prefix:\"\",max_length:4096",
        "lora:(rank:8,alpha:16.0,dropout:0.05,targets:AllLinear",
        "epochs:10,max_steps:None,sequences_per_step:32",
        "WarmupPolynomial(warmup:0.03,power:1.0,min_lr:0.0000001",
        "temperature:1.0,max_tokens:2048,answer:Words",
        "utility:(min_records:1,",
        "utility:(min_records:3,",
    ] {
        let part = part.replace("sequences_per_step:32", "sequences_per_step:4");
        assert!(squeezed.contains(&part) || squeezed.contains(&part.replace("0.0000001", "1e-7")), "{part}\n{printed}");
    }
}

/// A finished run of the tiny recipe.
struct Judged {
    run: TinyRun,
    dir: tempfile::TempDir,
}

impl Judged {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run = TinyRun::new(HEARTH, dir.path(), &cpu())
            .of(&hearth_tests::workspace().join("recipes/tiny/llm-judge.ron"))
            .named("tiny-llm-judge");
        run.ok(&[]);
        Self { run, dir }
    }

    /// Evaluates the head in `folder`, with more fields.
    fn eval(&self, folder: &Path, more: &str) -> Finished {
        let recipe = self.dir.path().join("eval.ron");
        let text = format!(
            r#"Recipe(name: "eval", runs: {:?}, models: {{ "llm": Path({:?}) }}, data: {{ "flora": Flora({:?}) }}, stages: [
                JudgeEval(data: Data("flora"), model: Model("llm"), value_head: Path({folder:?}), {more}),
            ])"#,
            self.dir.path().join("out"),
            self.run.path("sources/llm"),
            self.run.path("sources/flora"),
        );
        fs::write(&recipe, text).unwrap();
        HEARTH.run(["run".as_ref(), recipe.as_os_str(), "--device".as_ref(), cpu().as_ref(), "--fresh".as_ref()])
    }
}

const TRAINED: &str = "prompt: (max_length: 1024)";

#[test]
fn heads_that_are_damaged_or_of_another_kind_are_refused() {
    let judged = Judged::new();
    let stage = judged.run.path("stages/04-value-head");
    // The folder of the stage and the folder in it.
    judged.eval(&stage, TRAINED).expect_code(0);
    judged.eval(&stage.join("best"), TRAINED).expect_code(0);
    let copy = || -> PathBuf {
        let copy = judged.dir.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        hearth_tests::program::copy_folder(&stage.join("best"), &copy);
        copy
    };
    let settings = |change: &dyn Fn(&mut Value)| {
        let copy = copy();
        let path = copy.join("value_head.json");
        let mut value = json(&path);
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        copy
    };
    let refused = |folder: &Path, more: &str, code: i32, words: &[&str]| {
        let finished = judged.eval(folder, more).expect_code(code);
        for word in words {
            assert!(finished.words().contains(word), "{word}\n{}", finished.stderr);
        }
    };
    for more in ["", "prompt: (max_length: 1024, order: WorkflowFirst)"] {
        refused(&copy(), more, 1, &["trained on prompts of another form", "`prompt` and `templates`"]);
    }
    let words = judged.dir.path().join("words.ron");
    fs::write(&words, "(judge: (request: \" Well?\"))").unwrap();
    refused(&copy(), &format!("templates: {words:?}, {TRAINED}"), 1, &["other words"]);
    fs::write(&words, "(judge: (task: \"no place\"))").unwrap();
    refused(&copy(), &format!("templates: {words:?}, {TRAINED}"), 2, &["words.ron:1:", "{task} once"]);

    refused(&judged.dir.path().join("nowhere"), TRAINED, 2, &["nowhere"]);
    refused(&judged.run.path("stages/02-sft"), TRAINED, 2, &["value_head.json"]);
    let wide = settings(&|value| value["head"]["hidden_size"] = 64.into());
    refused(&wide, TRAINED, 1, &["`head.hidden_size`", "64", "32 numbers"]);
    let huge = settings(&|value| value["head"]["inner_size"] = 1_000_000_000_000_u64.into());
    refused(&huge, TRAINED, 1, &["`inner_size`", "has 16"]);
    let linear = settings(&|value| value["head"]["inner_size"] = Value::Null);
    refused(&linear, TRAINED, 1, &["`inner_size`"]);
    let unknown = settings(&|value| value["more"] = 1.into());
    refused(&unknown, TRAINED, 1, &["value_head.json", "unknown field `more`"]);
    let cut = copy();
    let weights = fs::read(cut.join("model.safetensors")).unwrap();
    fs::write(cut.join("model.safetensors"), &weights[..weights.len() - 5]).unwrap();
    refused(&cut, TRAINED, 1, &["model.safetensors"]);
    let mut nan = weights;
    let last = nan.len() - 4;
    nan[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(cut.join("model.safetensors"), &nan).unwrap();
    refused(&cut, TRAINED, 1, &["model.safetensors"]);
    let bare = copy();
    fs::remove_dir_all(bare.join("adapter")).unwrap();
    refused(&bare, TRAINED, 1, &["adapter"]);
}
