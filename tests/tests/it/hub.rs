//! Models and data from a hub: a server on the loopback device plays it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn_models::decoder::{DecoderConfig, SaveModel};
use burn_models::text::{Builtin, Tokenizer};
use hearth_tests::hub::{HubServer, Repository, sha256};
use hearth_tests::program::{Finished, Program, Running, cpu, files};
use tempfile::TempDir;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const RECORD: &str = r#"{"nodes": {"0": "a", "1": "b", "2": "c"}, "edge_index": [[0, 1], [1, 2]], "task": "t", "label": 1, "workflow_id": W, "task_id": 1}"#;

fn records(count: usize) -> Vec<u8> {
    (0..count).map(|n| RECORD.replace('W', &n.to_string()) + "\n").collect::<String>().into_bytes()
}

/// A data set with one split.
fn dataset() -> Repository {
    Repository {
        id: "datasets/org/flora".into(),
        commit: COMMIT.into(),
        files: BTreeMap::from([("sub/train.jsonl".into(), records(40)), ("README.md".into(), b"hello".to_vec())]),
        ..Repository::default()
    }
}

/// A machine with a cache and a recipe that asks about workflows of a data set.
struct Machine {
    folder: TempDir,
    endpoint: String,
    recipe: PathBuf,
}

impl Machine {
    fn new(server: &HubServer) -> Self {
        Self::with(server, r#"Hub(repo: "org/flora", folder: "sub")"#)
    }

    fn with(server: &HubServer, source: &str) -> Self {
        let stage = r#"GraphQuestions(data: [Data("flora")], rounds: 1, test_workflows: 2)"#;
        Self::of(server, &format!("data: {{\"flora\": {source}}}, stages: [{stage}]"))
    }

    fn of(server: &HubServer, rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recipe = folder.path().join("r.ron");
        let runs = folder.path().join("runs");
        fs::write(&recipe, format!("Recipe(name: \"hub\", runs: {runs:?}, {rest})")).unwrap();
        Self { folder, endpoint: server.url.clone(), recipe }
    }

    fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
        let mut command = HEARTH.command(arguments);
        command.arg(&self.recipe).arg("--device").arg(cpu());
        for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"]
        {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.endpoint).env("HF_HOME", self.folder.path().join("hf"));
        command.envs(environment.iter().copied());
        Running::of(&mut command).finish()
    }

    fn run(&self, environment: &[(&str, &str)]) -> Finished {
        self.command(&["run"], environment)
    }

    fn hub(&self) -> PathBuf {
        self.folder.path().join("hf/hub")
    }

    fn repo(&self) -> PathBuf {
        self.hub().join("datasets--org--flora")
    }
}

#[test]
fn data_is_fetched_once_into_the_shared_layout() {
    let server = HubServer::start(dataset());
    let machine = Machine::new(&server);
    let checked = machine.command(&["check"], &[]).expect_code(0);
    assert!(checked.stdout.contains("datasets/org/flora@main would be fetched from http"), "{}", checked.stdout);
    assert!(server.requests().is_empty() && !machine.hub().exists());

    machine.run(&[]).expect_code(0);
    let asked: Vec<String> = server.requests().into_iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    let file = format!("/datasets/org/flora/resolve/{COMMIT}/sub/train.jsonl");
    let list = "GET /api/datasets/org/flora/revision/main".to_owned();
    assert_eq!(asked, [list.clone(), format!("HEAD {file}"), format!("GET {file}")]);
    let (repo, etag) = (machine.repo(), sha256(&records(40)));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read(repo.join("blobs").join(&etag)).unwrap(), records(40));
    let link = repo.join("snapshots").join(COMMIT).join("sub/train.jsonl");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../../../blobs").join(&etag));
    assert_eq!(fs::read(&link).unwrap(), records(40));

    // Again: only whether `main` is still the same commit.
    let again = machine.run(&[]).expect_code(0);
    assert!(again.stderr.contains("finished before"), "{}", again.stderr);
    let asked: Vec<String> = server.requests().into_iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    assert_eq!(asked, [list]);
    let checked = machine.command(&["check"], &[]).expect_code(0);
    assert!(checked.stdout.contains("is cached in"), "{}", checked.stdout);
    // Offline, and where the server is gone: as it is.
    machine.run(&[("HF_HUB_OFFLINE", "1")]).expect_code(0);
    assert!(server.requests().is_empty());
    let gone = machine.run(&[("HF_ENDPOINT", "http://127.0.0.1:9")]).expect_code(0);
    assert!(gone.words().contains("the cached files are used"), "{}", gone.stderr);

    // The branch moves on: only what is new is fetched, and the stage is done again.
    server.change(|repository| {
        repository.commit = COMMIT.replace('0', "f");
        repository.files.insert("sub/train.jsonl".into(), records(41));
    });
    let moved = machine.run(&[]).expect_code(0);
    assert!(moved.stderr.contains("inputs changed"), "{}", moved.stderr);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_snapshot_of_another_program_is_found_offline() {
    let server = HubServer::start(dataset());
    let machine = Machine::new(&server);
    let offline = [("HF_HUB_OFFLINE", "1")];
    for command in ["run", "check"] {
        let refused = machine.command(&[command], &offline).expect_code(2);
        assert!(refused.words().contains("datasets/org/flora@main is not in"), "{}", refused.stderr);
        assert!(refused.words().contains("HF_HUB_OFFLINE"), "{}", refused.stderr);
    }
    let repo = machine.repo();
    let snapshot = repo.join("snapshots").join(COMMIT).join("sub");
    for folder in ["blobs", "refs"].map(|name| repo.join(name)).iter().chain([&snapshot]) {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repo.join("blobs/abc"), records(40)).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    std::os::unix::fs::symlink("../../../blobs/abc", snapshot.join("train.jsonl")).unwrap();
    machine.run(&offline).expect_code(0);
    assert!(server.requests().is_empty());
    // HF_HUB_CACHE goes before HF_HOME.
    let elsewhere = machine.folder.path().join("moved");
    fs::rename(machine.hub(), &elsewhere).unwrap();
    machine.run(&offline).expect_code(2);
    machine.run(&[("HF_HUB_OFFLINE", "yes"), ("HF_HUB_CACHE", elsewhere.to_str().unwrap())]).expect_code(0);
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke_off() {
    let server = HubServer::start(Repository { torn: (1000, 2), ..dataset() });
    let machine = Machine::new(&server);
    machine.run(&[]).expect_code(0);
    let ranges: Vec<Option<String>> = server
        .requests()
        .into_iter()
        .filter(|r| r.path.ends_with(".jsonl") && r.method == "GET")
        .map(|r| r.range)
        .collect();
    assert_eq!(ranges, [None, Some("bytes=1000-".into()), Some("bytes=2000-".into())]);

    // What an earlier process left is used too; and a process that gives up leaves it.
    let server = HubServer::start(Repository { torn: (0, usize::MAX), ..dataset() });
    let machine = Machine::new(&server);
    let partial = machine.repo().join("blobs").join(sha256(&records(40)) + ".incomplete");
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::write(&partial, &records(40)[..500]).unwrap();
    let failed = machine.run(&[]).expect_code(1);
    assert!(
        failed.words().contains("the transfer broke off") || failed.words().contains("bytes arrived"),
        "{}",
        failed.stderr
    );
    assert_eq!(fs::read(&partial).unwrap(), &records(40)[..500]);
    assert!(!machine.repo().join("refs").exists());
    server.change(|repository| repository.torn = (0, 0));
    server.requests();
    machine.run(&[]).expect_code(0);
    assert!(server.requests().iter().any(|r| r.range.as_deref() == Some("bytes=500-")));
    assert!(!partial.exists());
}

#[test]
fn a_wrong_checksum_is_fetched_again_once() {
    let server = HubServer::start(Repository { damaged: 1, ..dataset() });
    let machine = Machine::new(&server);
    let fetched = machine.run(&[]).expect_code(0);
    assert!(fetched.words().contains("fetched again"), "{}", fetched.stderr);
    let server = HubServer::start(Repository { damaged: 2, ..dataset() });
    let machine = Machine::new(&server);
    let failed = machine.run(&[]).expect_code(1);
    assert!(failed.words().contains("its SHA-256 is"), "{}", failed.stderr);
    // Only the lock remains.
    let left = files(&machine.hub());
    assert!(left.iter().all(|name| name.ends_with(".lock")), "{left:?}");
}

#[test]
fn what_is_not_there_is_named() {
    let server = HubServer::start(dataset());
    let refused = |source: &str, words: &str| {
        let finished = Machine::with(&server, source).run(&[]);
        assert_ne!(finished.code, Some(0));
        assert!(finished.words().contains(words), "{source}: {words}\n{}", finished.stderr);
        finished
    };
    refused(r#"Hub(repo: "org/flora", revision: "v9")"#, "there is no revision \"v9\"");
    refused(r#"Hub("org/flora", "v9")"#, "there is no revision \"v9\"");
    refused(r#"Hub("org/other")"#, "no such repository, or it needs permission: put a token into HF_TOKEN");
    refused(r#"Hub("org/flora")"#, "no .jsonl or .jsonl.zst at its root");
    refused(r#"Hub(repo: "org/flora", folder: "x")"#, "in the folder \"x\"");
    refused(r#"Hub(repo: "org/flora", folder: "../x")"#, "is no folder of a repository");
    refused(r#"Hub("../flora")"#, "is no name of a repository").expect_code(2);
    refused(r#"Hub("a/b", "x/../y")"#, "is no branch, tag or commit").expect_code(2);
    refused(r#"Hub(repo: "a/b", revisoin: "x")"#, "did you mean `revision`").expect_code(2);
    let unset = Machine::new(&server).run(&[("HF_ENDPOINT", "nonsense")]).expect_code(1);
    assert!(unset.words().contains("HF_ENDPOINT"), "{}", unset.stderr);
    let gone = Machine::new(&server).run(&[("HF_ENDPOINT", "http://127.0.0.1:9")]).expect_code(1);
    assert!(gone.words().contains("cannot be reached"), "{}", gone.stderr);

    let server = HubServer::start(Repository { listed: vec!["../../evil.jsonl".into()], ..dataset() });
    let machine = Machine::new(&server);
    let refused = machine.run(&[]).expect_code(1);
    assert!(refused.words().contains("leads out of its folder"), "{}", refused.stderr);
    assert!(!machine.hub().exists());
}

#[test]
fn two_processes_fetch_a_content_once() {
    let server = HubServer::start(dataset());
    let machine = Machine::new(&server);
    let start = |runs: &str| {
        let mut command = HEARTH.command(["run"]);
        command
            .arg(&machine.recipe)
            .args(["--device", &cpu()])
            .arg(format!("--set=runs={:?}", machine.folder.path().join(runs)));
        command.env("HF_ENDPOINT", &server.url).env("HF_HOME", machine.folder.path().join("hf"));
        for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"] {
            command.env_remove(name);
        }
        Running::of(&mut command)
    };
    let both: Vec<Running> = ["a", "b", "c"].into_iter().map(start).collect();
    both.into_iter().for_each(|run| {
        run.finish().expect_code(0);
    });
    let contents = server.requests().into_iter().filter(|r| r.method == "GET" && r.path.ends_with(".jsonl")).count();
    assert_eq!(contents, 1);
}

#[test]
fn a_list_without_end_is_not_read() {
    let server = HubServer::start(Repository { listed: vec!["x".repeat(17 << 20)], ..dataset() });
    let refused = Machine::new(&server).run(&[]).expect_code(1);
    assert!(refused.words().contains("the list of files cannot be read"), "{}", refused.stderr);
}

#[test]
fn the_token_stays_with_the_endpoint() {
    const TOKEN: &str = "hf_verysecret";
    let contents = HubServer::start(dataset());
    let gated = Repository { token: Some(TOKEN.into()), contents_at: Some(contents.url.clone()), ..dataset() };
    let server = HubServer::start(gated);
    let machine = Machine::new(&server);
    let refused = machine.run(&[]).expect_code(1);
    assert!(refused.words().contains("put a token into HF_TOKEN"), "{}", refused.stderr);
    let wrong = machine.run(&[("HF_TOKEN", "hf_wrong")]).expect_code(1);
    assert!(wrong.words().contains("the token in HF_TOKEN does not have"), "{}", wrong.stderr);
    server.requests();
    let fetched = machine.command(&["-v", "run"], &[("HF_TOKEN", TOKEN)]).expect_code(0);
    let bearer = format!("Bearer {TOKEN}");
    let ours = server.requests();
    assert!(ours.len() == 3 && ours.iter().all(|r| r.authorization.as_deref() == Some(&bearer)), "{ours:?}");
    let theirs = contents.requests();
    assert_eq!(theirs.len(), 1);
    assert_eq!(theirs[0].authorization, None);
    for text in [&refused.stderr, &wrong.stderr, &fetched.stderr, &fetched.stdout] {
        assert!(!text.contains("hf_") && !text.contains("signature"), "{text}");
    }
}

#[test]
fn a_model_is_fetched_and_trained() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let config = DecoderConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        ..DecoderConfig::default()
    };
    let (_, device) = hearth_tests::devices().remove(0);
    let model = config.init(1, burn::tensor::FloatDType::F32, &device).unwrap();
    model.save(folder.path(), &SaveModel::default()).unwrap();
    tokenizer.save(folder.path()).unwrap();
    let mut contents: BTreeMap<String, Vec<u8>> = files(folder.path())
        .into_iter()
        .map(|name| (name.clone(), fs::read(folder.path().join(name)).unwrap()))
        .collect();
    contents.insert("pytorch_model.bin".into(), vec![0; 100]);
    let repository =
        Repository { id: "org/tiny".into(), commit: COMMIT.into(), files: contents, ..Repository::default() };
    let server = HubServer::start(repository);

    let chats = folder.path().join("chats.jsonl");
    let chat = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;
    fs::write(&chats, format!("{chat}\n{chat}\n")).unwrap();
    let stage = "Sft(model: Model(\"llm\"), data: Data(\"chats\"), epochs: 1, sequences_per_step: 2)";
    let rest =
        |model: &str| format!("models: {{\"llm\": {model}}}, data: {{\"chats\": Chat({chats:?})}}, stages: [{stage}]");
    let machine = Machine::of(&server, &rest("Hub(\"org/tiny\")"));
    machine.run(&[]).expect_code(0);
    let asked = server.requests();
    assert!(!asked.iter().any(|r| r.path.contains(".bin")), "{asked:?}");
    // By its commit nobody has to be asked.
    let text = fs::read_to_string(&machine.recipe).unwrap();
    fs::write(&machine.recipe, text.replace("\"org/tiny\"", &format!("\"org/tiny\", {COMMIT:?}"))).unwrap();
    machine.run(&[]).expect_code(0);
    assert!(server.requests().is_empty());
    // A model is no data, and the rules look into what was fetched.
    let machine = Machine::of(&server, &rest("Hub(\"org/tiny\")").replace("Data(\"chats\")", "Model(\"llm\")"));
    machine.run(&[]).expect_code(2);
    server.change(|repository| {
        repository.files.insert("config.json".into(), b"{\"model_type\": \"mamba\"}".to_vec());
    });
    let machine = Machine::of(&server, &rest("Hub(\"org/tiny\")"));
    let refused = machine.run(&[]).expect_code(2);
    assert!(refused.words().contains("mamba"), "{}", refused.stderr);
    // The tokenizer alone, for a fresh model.
    let fresh = "Init(Decoder(hidden_size: 16, tokenizer: Hub(\"org/tiny\")))";
    let machine = Machine::of(&server, &rest(fresh));
    server.requests();
    machine.run(&[]).expect_code(0);
    let asked = server.requests();
    assert!(!asked.iter().any(|r| r.path.contains("safetensors")), "{asked:?}");
}

#[test]
fn tables_of_chats_are_fetched_and_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let table = |name: &str, count: usize| {
        let path = folder.path().join(name);
        let mut writer = datasets::table::RowWriter::create(&path).unwrap();
        for n in 0..count {
            let turns = [("human", format!("{name} {n}")), ("gpt", "a".to_owned())];
            let turns = turns.map(|(from, value)| serde_json::json!({"from": from, "value": value}));
            writer.write(&serde_json::json!({"conversations": turns})).unwrap();
        }
        writer.finish().unwrap();
        fs::read(path).unwrap()
    };
    let files = BTreeMap::from([
        ("data/train-00000-of-00002.parquet".to_owned(), table("a.parquet", 5)),
        ("data/train-00001-of-00002.parquet".to_owned(), table("b.parquet", 4)),
        ("data/validation-00000-of-00001.parquet".to_owned(), table("c.parquet", 3)),
        ("README.md".to_owned(), b"hello".to_vec()),
    ]);
    let server = HubServer::start(Repository {
        id: "datasets/org/chats".into(),
        commit: COMMIT.into(),
        files,
        ..Repository::default()
    });
    for chats in [
        "Hub(repo: \"org/chats\", folder: \"data\", format: Chat)",
        "Chat(sources: [(data: Data(\"hub\"), weight: 2)], format: ShareGpt)",
    ] {
        let machine = Machine::of(
            &server,
            &format!(
                "models: {{\"llm\": Init(Decoder(hidden_size: 16, num_hidden_layers: 1))}}, \
                 data: {{\"hub\": Hub(repo: \"org/chats\", folder: \"data\", format: Chat), \"chats\": {chats}}}, \
                 stages: [Sft(model: Model(\"llm\"), data: Data(\"chats\"), epochs: 1, sequences_per_step: 4, eval: (every_steps: 1))]"
            ),
        );
        machine.run(&[]).expect_code(0);
        let written = fs::read(machine.folder.path().join("runs/hub/stages/01-sft/data.json")).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
        let per_epoch = if chats.starts_with("Chat") { 18 } else { 9 };
        assert_eq!(
            (&written["train"][0]["format"], &written["train"][0]["per_epoch"]),
            (&"ShareGpt".into(), &per_epoch.into())
        );
        assert_eq!((&written["train"][0]["files"], &written["held_out"][0]["counts"]["read"]), (&2.into(), &3.into()));
    }
}
