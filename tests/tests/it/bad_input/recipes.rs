//! Recipes: what cannot be read, what does not mean anything, and what is out of all proportion.

use std::ffi::OsString;
use std::fs;

use hearth_tests::program::cpu;

use super::bench::{Bench, Case, arguments, refused};

/// The tiny recipe.
fn tiny() -> String {
    fs::read_to_string(hearth_tests::workspace().join("recipes/tiny/glow.ron")).unwrap()
}

/// The tiny recipe with its runs among a case's outputs.
fn recipe(bench: &Bench) -> String {
    let (text, name) = (tiny(), "name: \"tiny-glow\",");
    assert!(text.contains(name));
    text.replace(name, &format!("name: \"tiny-glow\", runs: {:?},", bench.output("runs")))
}

fn run(bench: &Bench, text: impl AsRef<[u8]>) -> Vec<OsString> {
    arguments!["run", &bench.write("r.ron", text), "--device", &cpu()]
}

/// The tiny recipe with a part replaced; the fault is where `at` stands then.
fn changed(from: &'static str, to: &'static str, at: &str, words: &[&str]) -> Case {
    assert!(tiny().contains(from), "{from}");
    let text = tiny().replacen(from, to, 1);
    let (above, _) = text.split_once(at).unwrap();
    let column = above.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let place = format!("r.ron:{}:{column}", above.matches('\n').count() + 1);
    let words: Vec<&str> = [place.as_str()].into_iter().chain(words.iter().copied()).collect();
    Case::new(&format!("{from} → {to}"), 2, &words, move |bench| run(bench, recipe(bench).replacen(from, to, 1)))
}

/// The tiny recipe with further arguments.
fn given(more: &'static [&'static str], words: &[&str]) -> Case {
    Case::new(&more.join(" "), 2, words, move |bench| {
        let mut all = run(bench, recipe(bench));
        all.extend(more.iter().map(OsString::from));
        all
    })
}

/// Any bytes as a recipe.
fn bytes(name: &str, words: &[&str], content: impl Fn(&Bench) -> Vec<u8> + Sync + 'static) -> Case {
    Case::new(name, 2, words, move |bench| run(bench, content(bench)))
}

#[test]
fn recipes_that_cannot_be_read() {
    refused(vec![
        bytes("empty", &["r.ron:1:1"], |_| Vec::new()),
        bytes("NUL bytes", &["r.ron:1:1"], |_| vec![0; 4096]),
        bytes("not UTF-8", &["r.ron:1:11", "not UTF-8", "save the file as UTF-8"], |_| {
            b"Recipe(// \xff\xfe\n)".to_vec()
        }),
        bytes("cut off", &["r.ron:", "never closed"], |bench| {
            let text = recipe(bench);
            text.as_bytes()[..text.len() * 2 / 3].to_vec()
        }),
        bytes("too large", &["r.ron", "larger than 1 MiB"], |bench| {
            format!("{}//{}", recipe(bench), "x".repeat(1 << 20)).into_bytes()
        }),
        bytes("deep and wrong", &["r.ron:1:14", "expected a string in quotes"], |_| {
            format!("Recipe(name: {}{})", "(".repeat(100_000), ")".repeat(100_000)).into_bytes()
        }),
        bytes("deep and open", &["r.ron:1:1"], |_| "[".repeat(200_000).into_bytes()),
        bytes("one long word", &["r.ron:1:8", "unknown field `xxx", "…"], |_| {
            format!("Recipe({}: 1)", "x".repeat(500_000)).into_bytes()
        }),
        Case::new("absent", 2, &["no.ron", "no such file"], |bench| arguments!["run", &bench.input("no.ron")]),
        Case::new("a near name", 2, &["did you mean", "r.ron"], |bench| {
            bench.write("r.ron", "");
            arguments!["check", &bench.input("rr.ron")]
        }),
        Case::new("a folder", 2, &["/in", "Is a directory"], |bench| arguments!["run", &bench.input("")]),
    ]);
}

#[test]
fn recipes_that_mean_nothing() {
    refused(vec![
        changed("rank: 2", "rang: 2", "rang: 2", &["unknown field `rang`", "did you mean `rank`?"]),
        changed("MergeLora(", "MergeLoRA(", "MergeLoRA(", &["unknown value `MergeLoRA`", "did you mean `MergeLora`?"]),
        changed("epochs: 1,", "epochs: \"one\",", "\"one\"", &["expected an integer", "found `\"one\"`"]),
        changed("base: Model(\"llm\"),", "", "MergeLora(", &["field `base` is missing", "add `base: …`"]),
        changed("lr: 1e-3", "lr: NaN", "NaN", &["`lr` is NaN", "above 0"]),
        changed(
            "adapter: Stage(\"sft\")",
            "adapter: Stage(\"stf\")",
            "Stage(\"stf\")",
            &["called `stf`", "accepted: "],
        ),
        changed(
            "llm: Stage(\"merge-lora\")",
            "llm: /**/Stage(\"sft\")",
            "Stage(\"sft\"),\n            text",
            &["an adapter without its base", "MergeLora"],
        ),
        changed("batch_size: 32,", "batch_size: 97,", "97", &["only 96 training records", "use at most 96"]),
        given(&["--set", "stages.sft.epochs"], &["--set:1:1", "there is no `=`", "write path=value"]),
        given(&["--set", "stages.sft.epohcs=1"], &["--set:1:12", "has no `epohcs`", "did you mean `epochs`?"]),
        given(&["--set", "stages.sft.epochs=many"], &["--set:1:19", "expected an integer"]),
        given(&["--set", "models.llm=Path("], &["--set:1:"]),
        given(&["--only", "sftt"], &["--only:1:1", "there is no stage `sftt`", "did you mean `sft`?"]),
        Case::new("no device", 2, &["--device:1:1", "no device is called `Gpu(0)`", "accepted: Auto, Flex"], |bench| {
            arguments!["check", &bench.write("r.ron", recipe(bench)), "--device", "Gpu(0)"]
        }),
        given(&["--only", "sft", "--from", "sft"], &["--only <STAGE>", "cannot be used with", "--from <STAGE>"]),
    ]);
    // A GPU is either not compiled in, which the recipe's check sees, or not there.
    let (code, words) = if cfg!(feature = "cuda") { (1, "no such GPU") } else { (2, "`--features cuda`") };
    refused(vec![Case::new("no such GPU", code, &["Cuda(99)", words], |bench| {
        arguments!["run", &bench.write("r.ron", recipe(bench)), "--device", "Cuda(99)"]
    })]);
}

#[test]
fn recipes_out_of_proportion() {
    refused(vec![
        given(&["--set", "models.llm.hidden_size=1000000000000"], &["`hidden_size`", "1000000000000", "between 1 and"]),
        given(
            &[
                "--set",
                "models.llm=Init(Decoder(hidden_size: 65536, intermediate_size: 1048576, num_hidden_layers: 999, head_dim: 1024))",
            ],
            &["--set:1:12", "billion parameters", "at most 20 billion"],
        ),
        given(&["--set", "models.text.num_hidden_layers=0"], &["`num_hidden_layers`", "0", "between 1 and"]),
        given(
            &["--set", "data.flora.workflows=100000000000"],
            &["data.flora.workflows", "at most 4,294,967,295 pairs"],
        ),
        given(&["--set", "stages.graph-questions.rounds=4000000000"], &["`rounds` is 4000000000", "at most"]),
        given(
            &["--set", "stages.glow-train.epochs=18446744073709551615"],
            &["`epochs` is 18446744073709551615", "at most"],
        ),
        given(&["--set", "stages.sft.lora.rank=70000"], &["rank", "70000", "65536"]),
        given(&["--set", "stages.glow-train.model.hidden_dim=10000000"], &["`hidden_dim`", "10000000 is above"]),
        given(&["--set", "stages.glow-train.model.fusion.layers=1000000"], &["`layers`", "1000000 is above"]),
        given(&["--set", "stages.sft.optim.lr=-1"], &["`lr` is -1", "above 0"]),
        given(&["--set", "data.flora.val=0"], &["--set:1:16", "`val` is 0, but stage `embed` reads all three splits"]),
        given(&["--set", "models.text.max_position_embeddings=2"], &["--set:1:", "has to be at least 3"]),
        given(&["--set", "stages.sft.epochs=0"], &["`epochs` is 0", "at least 1"]),
        given(&["--set", "name=../../outside"], &["../../outside", "contains '/'", "it becomes a folder"]),
    ]);
}

#[test]
fn recipes_whose_files_are_not_right() {
    const LLM: &str = "Init(Decoder(hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1))";
    refused(vec![
        Case::new("runs is a file", 2, &["--set:1:6", "not a folder"], |bench| {
            let mut all = run(bench, recipe(bench));
            all.extend(arguments!["--set", &format!("runs={:?}", bench.write("file", "x"))]);
            all
        }),
        Case::new("cache is a file", 2, &["--set:1:7", "not a folder"], |bench| {
            let mut all = run(bench, recipe(bench));
            all.extend(arguments!["--set", &format!("cache={:?}", bench.write("file", "x"))]);
            all
        }),
        Case::new("no model folder", 2, &["r.ron:8:", "there is no folder", "no-model"], |bench| {
            run(bench, recipe(bench).replacen(LLM, &format!("Path({:?})", bench.input("no-model")), 1))
        }),
        Case::new("no tokenizer", 2, &["r.ron:8:", "has no tokenizer.json"], |bench| {
            let model = bench.copy(&bench.world.decoder(), "llm");
            fs::remove_file(model.join("tokenizer.json")).unwrap();
            run(bench, recipe(bench).replacen(LLM, &format!("Path({model:?})"), 1))
        }),
        Case::new("an encoder for a decoder", 2, &["r.ron:", "a decoder is needed here"], |bench| {
            run(bench, recipe(bench).replacen(LLM, &format!("Path({:?})", bench.world.encoder()), 1))
        }),
        Case::new("a broken config.json", 2, &["r.ron:8:", "config.json", "EOF while parsing"], |bench| {
            let model = bench.copy(&bench.world.decoder(), "llm");
            fs::write(model.join("config.json"), "{\"model_type\": \"qwen3\",").unwrap();
            run(bench, recipe(bench).replacen(LLM, &format!("Path({model:?})"), 1))
        }),
        Case::new("a missing split", 2, &["r.ron:", "has no val.jsonl"], |bench| {
            let flora = bench.copy(&bench.world.flora(), "flora");
            fs::remove_file(flora.join("val.jsonl")).unwrap();
            let made = "Synthetic(workflows: 12, tasks: 12, train: 96, val: 24, test: 24)";
            run(bench, recipe(bench).replacen(made, &format!("Flora({flora:?})"), 1))
        }),
        Case::new("templates with a mistake", 2, &["t.ron:1:", "unknown field `intor`"], |bench| {
            let templates = bench.write("t.ron", "(intor: \"x\")");
            let text = recipe(bench).replacen("rounds: 1,", &format!("rounds: 1, templates: {templates:?},"), 1);
            run(bench, text)
        }),
    ]);
}
