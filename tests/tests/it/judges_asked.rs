//! A served model as a judge, against a server on the loopback device: what is asked, when it is asked again, what is kept,
//! and what never leaves the process.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_tests::program::{Finished, Program, Running, files};
use hearth_tests::server::{Asked, Reply, Server};
use hearth_tests::{json, json_lines};
use serde_json::Value;
use tempfile::TempDir;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));
/// A key, and the variable it is in.
const KEY: (&str, &str) = ("HEARTH_TEST_KEY", "sk-very-secret-0123456789");
const RECORDS: usize = 20;

struct Asking {
    dir: TempDir,
    recipe: PathBuf,
}

impl Asking {
    /// A recipe that asks the server at `url`, quickly; `more` are further fields of the stage.
    fn new(url: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let recipe = dir.path().join("recipe.ron");
        let text = format!(
            r#"Recipe(
                name: "asking",
                device: Flex,
                runs: {:?},
                data: {{ "flora": Synthetic(workflows: 5, tasks: 6, train: 5, val: 5, test: {RECORDS}) }},
                stages: [
                    JudgePrompted(
                        data: Data("flora"),
                        url: {url:?},
                        model: "org/some model",
                        client: (key: "env:{}", concurrency: 4, retries: 3, wait_seconds: 0.01, timeout_seconds: 2),
                        {more}
                    ),
                ],
            )"#,
            dir.path().join("runs"),
            KEY.0,
        );
        fs::write(&recipe, text).unwrap();
        Self { dir, recipe }
    }

    fn run(&self, more: &[&str]) -> Finished {
        let mut command = HEARTH.command(["run".as_ref(), self.recipe.as_os_str()]);
        command.args(more).env(KEY.0, KEY.1).env("HEARTH_LOG", "debug");
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        Running::of(&mut command).finish()
    }

    fn stage(&self, run: &str) -> PathBuf {
        self.dir.path().join("runs").join(run).join("stages/01-judge-prompted")
    }

    fn metrics(&self, run: &str) -> Value {
        json(&self.stage(run).join("manifest.json"))["metrics"].clone()
    }

    /// The key is in no file and was not printed.
    fn assert_secret(&self, finished: &Finished) {
        assert!(!finished.stderr.contains(KEY.1) && !finished.stdout.contains(KEY.1), "{}", finished.stderr);
        for file in files(self.dir.path()) {
            let bytes = fs::read(self.dir.path().join(&file)).unwrap();
            assert!(!bytes.windows(KEY.1.len()).any(|window| window == KEY.1.as_bytes()), "{file}");
        }
    }
}

fn user(asked: &Asked) -> &str {
    asked.body["messages"][1]["content"].as_str().unwrap()
}

/// A verdict that depends on the question.
fn is_yes(asked: &Asked) -> bool {
    user(asked).len().is_multiple_of(2)
}

fn verdict(asked: &Asked) -> String {
    let word = if is_yes(asked) { "Yes" } else { "No" };
    format!("There is no doubt. <Answer>{word}.</answer>")
}

#[test]
fn failures_that_pass_are_passed_over_and_no_question_is_asked_twice() {
    let server = Server::start(|asked| {
        let text = verdict(asked);
        match (user(asked).len() % 7, asked.before) {
            (0, 0) => Reply::Raw(429, "retry-after: 0\r\n", "slow down".into()),
            (1, 0) => Reply::Raw(500, "", "<html>".into()),
            (1, 1) => Reply::Raw(503, "", String::new()),
            (2, 0) => Reply::Raw(200, "", "{\"choices\": []}".into()),
            (2, 1) => Reply::Raw(200, "", "not JSON \u{fffd}".into()),
            (3, 0) => Reply::Nothing,
            (4, 0) => Reply::Torn,
            (5, 0) => Reply::Late(Duration::from_secs(3), text),
            _ => Reply::Late(Duration::from_millis(20), text),
        }
    });
    let asking = Asking::new(&server.url, "");
    let first = asking.run(&[]).expect_code(0);
    asking.assert_secret(&first);

    let asked = server.asked();
    let distinct: BTreeSet<String> = asked.iter().map(|asked| asked.body.to_string()).collect();
    assert_eq!(distinct.len(), RECORDS);
    assert!(asked.len() > RECORDS, "nothing was asked again");
    assert!((2..=4).contains(&server.most()), "{} at one time", server.most());
    for asked in &asked {
        assert_eq!(asked.path, "/v1/chat/completions");
        assert_eq!(asked.authorization.as_deref(), Some(format!("Bearer {}", KEY.1).as_str()));
        let Value::Object(body) = &asked.body else { panic!("{}", asked.body) };
        assert_eq!(body.keys().collect::<Vec<_>>(), ["model", "messages", "temperature", "max_tokens"]);
        assert_eq!((&body["model"], &body["temperature"]), (&Value::from("org/some model"), &Value::from(1.0)));
        assert_eq!(body["max_tokens"], 2048);
        let roles: Vec<_> = body["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user"]);
        assert!(user(asked).contains("{'0': ") && user(asked).contains("<answer>"), "{}", user(asked));
    }

    // The scores are those of the answers.
    let rows = json_lines(&asking.stage("asking").join("answers.jsonl"));
    let scores = json_lines(&asking.stage("asking").join("scores-prompted.jsonl"));
    assert_eq!((rows.len(), scores.len()), (RECORDS, RECORDS));
    let mut right = 0;
    for (row, score) in rows.iter().zip(&scores) {
        let yes = row["text"].as_str().unwrap().contains("Yes");
        assert_eq!(score["score"], f64::from(u8::from(yes)));
        assert_eq!((&row["workflow_id"], &row["task_id"]), (&score["workflow_id"], &score["task_id"]));
        right += usize::from((score["label"] == 1.0) == yes);
    }
    let yes = asked.iter().filter(|asked| asked.before == 0 && is_yes(asked)).count();
    assert_eq!(scores.iter().filter(|score| score["score"] == 1.0).count(), yes);
    assert!(yes > 0 && yes < RECORDS);
    let metrics = asking.metrics("asking");
    assert_eq!((metrics["asked"].as_f64(), metrics["accuracy"].as_f64()), (Some(20.0), Some(right as f64 / 20.0)));
    assert_eq!((metrics["completion_tokens"].as_f64(), metrics["answers_unclear"].as_f64()), (Some(40.0), Some(0.0)));
    // Published for this baseline: no workflow is left out.
    assert_eq!(metrics["n_ranked_workflows"], metrics["n_workflows"]);

    // Another run with the same cache, another way to ask, another way to read: no question.
    let other = asking
        .run(
            &["--set", "name=other", "--set", "stages.judge-prompted.client.concurrency=2", "--set"]
                .iter()
                .copied()
                .chain(["stages.judge-prompted.answer=LowerCaseLetters"])
                .collect::<Vec<_>>(),
        )
        .expect_code(0);
    asking.assert_secret(&other);
    assert_eq!(server.asked().len(), asked.len());
    let metrics = asking.metrics("other");
    // "Yes" is none in lower case, and "No" neither: all of them unclear, which is a No.
    assert_eq!((metrics["asked"].as_f64(), metrics["answers_unclear"].as_f64()), (Some(0.0), Some(20.0)));
    assert_eq!(metrics["recall_1"], 0.0);

    // How it is asked changes nothing about a finished stage.
    let again = asking.run(&["--set", "stages.judge-prompted.client=(retries: 1)"]).expect_code(0);
    assert!(again.stderr.contains("finished before"), "{}", again.stderr);
    // What is asked does.
    asking.run(&["--set", "stages.judge-prompted.max_tokens=9"]).expect_code(0);
    let more = server.asked();
    assert!(more.len() > asked.len() && more[asked.len()..].iter().all(|asked| asked.body["max_tokens"] == 9));
}

#[test]
fn what_will_not_pass_ends_the_stage_at_once_and_says_why() {
    // Servers quote what they were sent.
    let server = Server::start(|asked| {
        let quoted = asked.authorization.clone().unwrap_or_default();
        Reply::Raw(401, "", format!("{{\"error\": \"Incorrect key provided:\n {quoted}\"}}"))
    });
    let asking = Asking::new(&server.url, "");
    let refused = asking.run(&[]).expect_code(1);
    asking.assert_secret(&refused);
    let words = refused.words();
    assert!(words.contains("the server answers 401") && words.contains("Incorrect key provided: Bearer …"), "{words}");
    assert!(server.asked().len() <= 4, "{}", server.asked().len());
    assert!(server.asked().iter().all(|asked| asked.before == 0));
}

#[test]
fn a_redirect_does_not_carry_the_key_away() {
    let other = Server::start(|asked| Reply::Text(verdict(asked)));
    let target: &'static str = format!("location: {}/chat/completions\r\n", other.url).leak();
    let server = Server::start(move |_| Reply::Raw(302, target, String::new()));
    let asking = Asking::new(&server.url, "");
    let words = asking.run(&[]).expect_code(1).words();
    assert!(words.contains("the server answers 302"), "{words}");
    assert!(other.asked().is_empty());
}

#[test]
fn answers_outlive_a_server_that_fails() {
    let server = Server::start(|asked| match user(asked).len() % 5 {
        0 => Reply::Raw(502, "", "bad gateway".into()),
        _ => Reply::Text(verdict(asked)),
    });
    let asking = Asking::new(&server.url, "");
    let failed = asking.run(&[]).expect_code(1);
    let words = failed.words();
    assert!(words.contains("no answer after 4 tries") && words.contains("502"), "{words}");
    assert!(words.contains("answers so far are kept"), "{words}");
    let answered: BTreeSet<String> = server
        .asked()
        .iter()
        .filter(|asked| !user(asked).len().is_multiple_of(5))
        .map(|asked| asked.body.to_string())
        .collect();
    drop(server);

    // Another process is killed while it writes.
    let log = fs::read_dir(asking.dir.path().join("runs/cache/responses")).unwrap().next().unwrap().unwrap().path();
    let kept = fs::read_to_string(&log).unwrap();
    assert_eq!(kept.lines().count(), answered.len());
    fs::write(&log, format!("{kept}{{\"key\": \"torn")).unwrap();

    let healthy = Server::start(|asked| Reply::Text(verdict(asked)));
    let url = format!("stages.judge-prompted.url={:?}", healthy.url);
    asking.run(&["--set", &url]).expect_code(0);
    let now: BTreeSet<String> = healthy.asked().iter().map(|asked| asked.body.to_string()).collect();
    assert_eq!(now.len() + answered.len(), RECORDS);
    assert!(now.is_disjoint(&answered));
    asking.run(&["--set", &url, "--fresh"]).expect_code(0);
    assert_eq!(healthy.asked().len(), now.len());
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/v1");
    let asking = Asking::new(&url, "");
    let words = asking.run(&[]).expect_code(1).words();
    assert!(words.contains(&url) && words.contains("no answer after 4 tries"), "{words}");
}

#[test]
fn long_prompts_lose_nodes_and_keep_the_request() {
    let server = Server::start(|asked| Reply::Text(verdict(asked)));
    let asking = Asking::new(&server.url, "max_chars: 1000, order: WorkflowFirst,");
    asking.run(&[]).expect_code(0);
    assert_eq!(asking.metrics("asking")["prompts_cut"], RECORDS as f64);
    for asked in server.asked() {
        assert!(user(&asked).chars().count() <= 1000);
        assert!(user(&asked).ends_with("between <answer> and </answer>."), "{}", user(&asked));
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_stage_goes_on() {
    let server = Server::start(|asked| Reply::Late(Duration::from_millis(150), verdict(asked)));
    let asking = Asking::new(&server.url, "");
    let mut command = HEARTH.command(["run".as_ref(), asking.recipe.as_os_str()]);
    command.env(KEY.0, KEY.1).env("NO_PROXY", "127.0.0.1");
    let running = Running::of(&mut command);
    let clock = std::time::Instant::now();
    while server.asked().len() <= 5 {
        assert!(clock.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    running.signal(rustix::process::Signal::INT);
    let stopped = running.finish().expect_code(130);
    assert!(stopped.stderr.contains("interrupted; everything is saved"), "{}", stopped.stderr);
    assert!(!asking.stage("asking").join("manifest.json").exists());
    assert!(server.asked().len() < RECORDS);
    asking.run(&[]).expect_code(0);
    assert_eq!(server.asked().len(), RECORDS);
    assert!(server.asked().iter().all(|asked| asked.before == 0));
}

/// A key in a recipe is refused, and not shown.
#[test]
fn keys_are_not_taken_from_recipes() {
    let asking = Asking::new("http://127.0.0.1:9/v1", "");
    let text = fs::read_to_string(&asking.recipe).unwrap();
    let check = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let path: &Path = &asking.dir.path().join("changed.ron");
        fs::write(path, text.replace(from, to)).unwrap();
        HEARTH.run(["check".as_ref(), path.as_os_str()]).expect_code(2)
    };
    let own = format!("env:{}", KEY.0);
    for wrong in [KEY.1, "env:", "env:A B", "ENV:KEY"] {
        let refused = check(&own, wrong);
        assert!(refused.words().contains("`client.key` has to be \"env:NAME\""), "{}", refused.stderr);
        assert!(!refused.stderr.contains(KEY.1), "{}", refused.stderr);
    }
    let unset = check(&own, "env:HEARTH_NO_SUCH_KEY");
    assert!(unset.words().contains("HEARTH_NO_SUCH_KEY is not set"), "{}", unset.stderr);
}
