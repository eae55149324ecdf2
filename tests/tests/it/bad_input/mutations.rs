//! Files with bytes flipped, cut out or doubled at random places: whatever the readers of the library make of them, they do
//! not panic.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::tensor::FloatDType;
use burn_models::checkpoint::Weights;
use burn_models::decoder::{Decoder, DecoderConfig};
use burn_models::encoder::{BertConfig, SentenceEncoder};
use burn_models::text::{Message, Specials, SuperviseOptions, Tokenizer};
use datasets::Split;
use datasets::chat::ChatReader;
use datasets::flora::ReadOptions;
use datasets::index::FloraIndex;
use datasets::table::read_rows;
use hearth::diagnostics::{SourceText, render};
use hearth::recipe::Document;
use hearth::run::{EmbeddedData, PredictorFile};
use hearth_tests::program::{copy_folder, files};
use hearth_tests::{devices, workspace};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::bench::Bench;

/// Changes some bytes.
fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1));
        let end = (at + rng.random_range(1..40)).min(bytes.len());
        match rng.random_range(0..6) {
            _ if bytes.is_empty() => return,
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            // What formats are made of.
            _ => {
                let pieces = [
                    &b"\""[..],
                    b"{",
                    b"[",
                    b"}",
                    b"]",
                    b",",
                    b":",
                    b"-1",
                    b"1e999",
                    b"99999999999999999999",
                    b"\\u",
                    b"\n",
                    b"(",
                    b")",
                ];
                let piece = pieces[rng.random_range(0..pieces.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// Gives changed versions of a file to `read`, `HEARTH_MUTATIONS` (default 300) divided by `share`. Some of them have to be
/// refused, or nothing was tested.
fn mutations(path: &Path, share: u64, mut read: impl FnMut(&Path) -> bool) {
    let count = std::env::var("HEARTH_MUTATIONS").map_or(300, |count| count.parse().unwrap()) / share;
    let good = fs::read(path).unwrap();
    assert!(read(path), "{} is not good to begin with", path.display());
    let mut refused = 0;
    for seed in 0..count {
        let mut bytes = good.clone();
        mutate(&mut bytes, &mut ChaCha8Rng::seed_from_u64(seed));
        fs::write(path, &bytes).unwrap();
        match catch_unwind(AssertUnwindSafe(|| read(path))) {
            Ok(accepted) => refused += u64::from(!accepted),
            Err(_) => panic!("{}: seed {seed} panics", path.display()),
        }
    }
    fs::write(path, good).unwrap();
    assert!(refused > 0, "{}: everything was accepted", path.display());
}

#[test]
fn data_files() {
    let bench = Bench::new();
    let flora = bench.copy(&bench.world.flora(), "flora");
    let options = ReadOptions::default();
    mutations(&flora.join("test.jsonl"), 1, |path| FloraIndex::read_file(path, Split::Test, &options).is_ok());
    let chats = bench.copy(&bench.world.run.path("stages/01-graph-questions"), "questions").join("test.jsonl");
    mutations(&chats, 1, |path| ChatReader::open(path).unwrap().all(|record| record.is_ok()));
    mutations(&chats, 1, |path| read_rows(path).is_ok_and(|mut rows| rows.all(|row| row.is_ok())));
}

#[test]
fn recipes() {
    let bench = Bench::new();
    let recipe = bench.write("r.ron", fs::read(workspace().join("recipes/tiny/glow.ron")).unwrap());
    mutations(&recipe, 1, |path| match Document::load(path, &[], None) {
        Ok(document) => document.recipe().to_ron().is_ok(),
        Err(hearth::Error::Recipe(problems)) => {
            let mut drawn = String::new();
            render(&problems, true, &mut drawn).unwrap();
            assert!(drawn.contains("r.ron"), "{drawn}");
            false
        }
        Err(_) => false,
    });
    // `--set` arguments are a language too.
    let text = SourceText::new("r.ron", fs::read_to_string(&recipe).unwrap());
    let document = Document::parse(text).unwrap();
    let argument = bench.write("argument", "stages.sft.optim=AdamW(lr: 1e-4, betas: (0.9, 0.95))");
    mutations(&argument, 1, |path| {
        let argument = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        document.clone().set(&argument).is_ok()
    });
}

/// Whether a tokenizer can be read and does its work.
fn works(folder: &Path) -> bool {
    let Ok(tokenizer) = Tokenizer::from_folder(folder) else { return false };
    let text = "Draft <|im_end|> a plan:\n\t\u{e9}\u{4e2d}\u{1f600} 12,345 don't\0";
    let chat = [Message::user(text), Message::assistant("done")];
    let ids = tokenizer.encode_added(text, Specials::Parse).and_then(|ids| {
        tokenizer.encode_offsets(text, Specials::Plain)?;
        tokenizer.encode_within(text, Specials::Plain, 3)?;
        tokenizer.supervised_chat(&chat, None, &SuperviseOptions::default())?;
        Ok(ids)
    });
    ids.is_ok_and(|ids| tokenizer.decode(&ids, false).is_ok() && tokenizer.decode(&[0, 5, u32::MAX], true).is_ok())
}

#[test]
fn model_files() {
    let bench = Bench::new();
    let model = bench.copy(&bench.world.decoder(), "llm");
    mutations(&model.join("tokenizer.json"), 1, |_| works(&model));
    mutations(&model.join("tokenizer_config.json"), 1, |_| works(&model));
    mutations(&model.join("generation_config.json"), 1, |_| works(&model));
    mutations(&model.join("chat_template.jinja"), 1, |_| works(&model));
    mutations(&model.join("config.json"), 1, |_| DecoderConfig::from_folder(&model).is_ok());
    let encoder = bench.copy(&bench.world.encoder(), "text");
    mutations(&encoder.join("config.json"), 1, |_| BertConfig::from_folder(&encoder).is_ok());
    let device = devices().remove(0).1;
    for name in ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json"] {
        mutations(&encoder.join(name), 10, |_| {
            SentenceEncoder::from_folder(&encoder, FloatDType::F32, &device).is_ok()
        });
    }
}

#[test]
fn adapter_files() {
    let bench = Bench::new();
    let adapter = bench.copy(&bench.world.adapter(), "lora");
    mutations(&adapter.join("adapter_config.json"), 1, |_| burn_lora::read_config(&adapter).is_ok());
    // A small file: half of it is header.
    let weights = adapter.join("adapter_model.safetensors");
    mutations(&weights, 1, |path| Weights::open(path).is_ok());
    let model = Decoder::from_folder(&bench.world.decoder(), FloatDType::F32, &devices().remove(0).1).unwrap();
    mutations(&weights, 3, |_| model.clone().load_adapter(&adapter).is_ok());
}

/// What stages leave for others.
#[test]
fn stage_files() {
    let bench = Bench::new();
    let device = devices().remove(0).1;
    let embedded = bench.copy(&bench.world.run.path("stages/04-embed"), "embed");
    for name in ["embed.json", "embeddings.safetensors", "index/index.safetensors"] {
        mutations(&embedded.join(name), 1, |_| {
            let loaded = EmbeddedData::load(&embedded);
            EmbeddedData::info(&embedded).is_ok() && loaded.is_ok()
        });
    }
    let data = EmbeddedData::load(&embedded).unwrap();
    let predictor = bench.copy(&bench.world.run.path("stages/05-glow-train/best"), "best");
    for name in ["predictor.json", "model.safetensors"] {
        mutations(&predictor.join(name), 6, |_| {
            let loaded = PredictorFile::load(&predictor, &device);
            loaded.is_ok_and(|stored| stored.score(data.clone(), Split::Test, 64, &device).is_ok())
        });
    }
}

/// The Parquet library may panic on damaged files; ours says so as an error.
#[test]
fn tables() {
    let bench = Bench::new();
    let texts: Vec<String> = (0..50).map(|i| format!("text number {i}")).collect();
    let table = bench.input("t.parquet");
    let mut writer = datasets::table::EmbeddingWriter::create(&table, 2).unwrap();
    writer.write(&texts, &vec![0.5; 2 * texts.len()]).unwrap();
    writer.finish().unwrap();
    mutations(&table, 1, |path| read_rows(path).is_ok_and(|mut rows| rows.all(|row| row.is_ok())));
}

/// A run folder with any one file changed can still be reported on or refused.
#[test]
fn run_folders() {
    let bench = Bench::new();
    let run = bench.input("run");
    copy_folder(&bench.world.run.folder(), &run);
    let read = |name: &str| {
        let options = hearth::report::Options { json: name.ends_with('l'), boxed: false };
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        hearth::report::report(std::slice::from_ref(&run), options, &mut out, &mut notes).is_ok()
            && !String::from_utf8(out).unwrap().contains("note: ")
            && notes.is_empty()
    };
    for file in files(&run)
        .into_iter()
        .filter(|file| ["manifest.json", "metrics.jsonl", "scores-best.jsonl"].iter().any(|name| file.ends_with(name)))
    {
        mutations(&run.join(&file), 30, |_| read(&file));
    }
}
