//! Data in several files, compressed or not: the same as in one.

use std::fs;
use std::path::Path;

use burn_models::text::{Builtin, Tokenizer};
use datasets::FloraIndex;
use datasets::flora::ReadOptions;
use datasets::sft::{SftDataset, SftOptions};
use datasets::synthetic::{Synthetic, SyntheticConfig};
use hearth_tests::program::Program;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// Writes the lines of a file as shards, every second one compressed.
fn shard(from: &Path, folder: &Path, split: &str, count: usize) {
    let text = fs::read_to_string(from).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (number, part) in lines.chunks(lines.len().div_ceil(count)).enumerate() {
        let path = folder.join(format!("{split}-{number:05}-of-{count:05}.jsonl"));
        let text = part.concat();
        if number % 2 == 0 {
            fs::write(path, text).unwrap();
        } else {
            fs::write(path.with_extension("jsonl.zst"), zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
        }
    }
}

#[test]
fn flora_in_shards_is_flora_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, shards) = (folder.path().join("whole"), folder.path().join("shards"));
    let config =
        SyntheticConfig { workflows: 12, tasks: 12, train: 96, val: 24, test: 24, ..SyntheticConfig::default() };
    Synthetic::generate(&config, 7).unwrap().write(&whole).unwrap();
    fs::create_dir(&shards).unwrap();
    for split in ["train", "val", "test"] {
        shard(&whole.join(format!("{split}.jsonl")), &shards, split, 3);
    }
    let read = |folder: &Path| FloraIndex::read(folder, &ReadOptions::default());
    let (one, many) = (read(&whole).unwrap(), read(&shards).unwrap());
    assert_eq!((one.texts(), one.workflows()), (many.texts(), many.workflows()));
    // Line numbers count on.
    assert!(one.splits().eq(many.splits()));

    let bad = shards.join("val-00001-of-00003.jsonl.zst");
    fs::write(&bad, zstd::encode_all(&b"\n{\"nodes\": 1}\n"[..], 3).unwrap()).unwrap();
    let error = read(&shards).unwrap_err().to_string();
    assert!(error.contains("val-00001-of-00003.jsonl.zst:2:11: `nodes`"), "{error}");
    fs::remove_file(&bad).unwrap();
    let error = read(&shards).unwrap_err().to_string();
    assert!(error.contains("val-00001-of-00003.jsonl is missing"), "{error}");
}

#[test]
fn chats_in_shards_are_chats_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let chat = |n: usize| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "q{n}"}}, {{"role": "assistant", "content": "a{n}"}}]}}"#
        )
    };
    fs::write(&path, (0..30).map(|n| chat(n) + "\n").collect::<String>()).unwrap();
    shard(&path, folder.path(), "part", 4);
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let options = SftOptions::default();
    let pattern = folder.path().join("part-*");
    let files = datasets::matching(&pattern).unwrap();
    assert_eq!(files.len(), 4);
    let one = SftDataset::from_chat(&path, &tokenizer, &options).unwrap();
    let many = SftDataset::from_chats(&files, &tokenizer, &options).unwrap();
    assert_eq!(many.counts(), one.counts());
    for sample in 0..30 {
        assert_eq!((many.ids(sample), many.line(sample)), (one.ids(sample), one.line(sample)));
    }
    assert_eq!(one.line(29), 30);

    // A recipe takes the pattern, and says where in which file something is wrong.
    let recipe = folder.path().join("r.ron");
    let runs = folder.path().join("runs");
    let text = format!(
        "Recipe(name: \"shards\", runs: {runs:?}, models: {{\"llm\": Init(Decoder(hidden_size: 16, num_hidden_layers: 1))}}, \
         data: {{\"chats\": Chat({pattern:?})}}, stages: [Sft(model: Model(\"llm\"), data: Data(\"chats\"), epochs: 1, \
         sequences_per_step: 16)])"
    );
    fs::write(&recipe, &text).unwrap();
    let run =
        || HEARTH.run(["run".as_ref(), recipe.as_os_str(), "--device".as_ref(), "Flex".as_ref(), "--json".as_ref()]);
    let done = run().expect_code(0);
    assert_eq!(done.json()["sft"]["records"], 30.0);
    // Another file makes other data.
    let packed = zstd::encode_all(format!("{}\n\n{}\n{{}}\n", chat(1), chat(2)).as_bytes(), 3).unwrap();
    fs::write(folder.path().join("part-00003-of-00004.jsonl.zst"), packed).unwrap();
    let failed = run().expect_code(1);
    assert!(failed.words().contains("part-00003-of-00004.jsonl.zst:4: `messages`"), "{}", failed.stderr);
    fs::remove_file(folder.path().join("part-00001-of-00004.jsonl.zst")).unwrap();
    let failed = run().expect_code(2);
    assert!(failed.words().contains("part-00001-of-00004.jsonl is missing"), "{}", failed.stderr);
    fs::write(&recipe, text.replace("part-*", "none-*")).unwrap();
    assert!(run().expect_code(2).words().contains("no file of such a name"));
}
