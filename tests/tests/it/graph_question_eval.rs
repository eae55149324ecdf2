//! Asking a decoder the questions about graphs that were held out.

use std::fs;

use hearth::eval::graph_questions::extract_answer;
use hearth_tests::program::{Program, TinyRun, cpu};
use hearth_tests::{json, json_lines};
use serde_json::{Value, json};

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));
const STAGE: &str = "stages/07-graph-question-eval";

/// The metrics follow from the answers that are written; a draw of the questions gets the answers that all of them get.
#[test]
fn answers_are_written_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let run = TinyRun::new(HEARTH, dir.path(), &cpu());
    run.ok(&["--from", "graph-questions"]);
    let metrics = json(&run.path(STAGE).join("manifest.json"))["metrics"].clone();
    let drawn = json_lines(&run.path(STAGE).join("answers.jsonl"));
    assert_eq!((drawn.len(), metrics["n_records"].as_f64()), (6, Some(6.0)));
    assert!(!run.path(STAGE).join("so-far.jsonl").exists());

    let all = run.clone().set("stages.graph-question-eval.limit=None").set("stages.graph-question-eval.batch_size=5");
    all.ok(&[]);
    let metrics = json(&run.path(STAGE).join("manifest.json"))["metrics"].clone();
    let rows = json_lines(&run.path(STAGE).join("answers.jsonl"));
    let questions = json_lines(&run.path("stages/01-graph-questions/test.jsonl"));
    assert_eq!(rows.len(), questions.len());
    for (row, question) in rows.iter().zip(&questions) {
        for key in ["id", "task_type", "variant", "sub_dataset", "workflow_id"] {
            assert_eq!(row[key], question[key]);
        }
        assert_eq!(
            row["answer"].as_str().unwrap(),
            extract_answer(question["messages"][1]["content"].as_str().unwrap())
        );
        assert!((1..=8).contains(&row["tokens"].as_u64().unwrap()), "{row}");
    }
    // In other batches a sum is rounded otherwise, and an untrained model may then choose another token.
    let same = drawn.iter().filter(|row| rows.contains(row)).count();
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
    assert!(same >= 5 && ids(&drawn).iter().all(|id| ids(&rows).contains(id)), "{same} of {drawn:?}");
    let share = |code: &str| {
        let mine: Vec<&Value> = rows.iter().filter(|row| row["task_type"] == code).collect();
        mine.iter().filter(|row| row["exact"] == true).count() as f64 / mine.len() as f64
    };
    let codes = ["DBP", "DNE", "NFP", "REACH", "KNI", "TSORT"];
    for code in codes {
        assert_eq!(metrics[format!("exact_{}", code.to_lowercase())].as_f64(), Some(share(code)), "{code}");
    }
    let mean = codes.map(share).iter().sum::<f64>() / 6.0;
    assert!((metrics["exact_macro"].as_f64().unwrap() - mean).abs() < 1e-12, "{metrics}");

    // The base with its adapter instead of both in one; and questions that are too long to be asked are wrong.
    let apart = all.set("stages.graph-question-eval.model=Model(\"llm\")");
    apart.clone().set("stages.graph-question-eval.adapter=Stage(\"sft\")").ok(&["--only", "graph-question-eval"]);
    let adapted = json_lines(&run.path(STAGE).join("answers.jsonl"));
    let same = adapted.iter().zip(&rows).filter(|(a, b)| a["text"] == b["text"]).count();
    assert!(same * 10 >= rows.len() * 9, "{same} of {}", rows.len());
    apart.set("stages.graph-question-eval.max_length=10").ok(&["--only", "graph-question-eval"]);
    let metrics = json(&run.path(STAGE).join("manifest.json"))["metrics"].clone();
    assert_eq!(metrics["prompts_too_long"].as_f64(), Some(rows.len() as f64));
    assert_eq!((metrics["exact_macro"].as_f64(), metrics["completion_tokens"].as_f64()), (Some(0.0), Some(0.0)));
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = TinyRun::new(HEARTH, dir.path(), &cpu());
    for (change, words) in [
        ("stages.graph-questions.test_workflows=0", "holds no questions out"),
        ("stages.graph-question-eval.framing=Template", "the model was trained with ChatMl"),
        ("stages.graph-question-eval.assistant_prefix=\"x\"", "the model was trained with \"\""),
        ("stages.graph-question-eval.limit=0", "has to be at least 1"),
        ("stages.graph-question-eval.data=Stage(\"embed\")", "chats is needed here"),
        ("stages.graph-question-eval.data=Path(\"nowhere\")", "there is no file nowhere"),
        ("stages.graph-question-eval.adapter=Stage(\"sft\")", "was trained on Model(\"llm\")"),
        ("stages.graph-question-eval.limmit=1", "did you mean `limit`?"),
    ] {
        let refused = run.clone().set(change).run(&[]).expect_code(2).words();
        assert!(refused.contains(words), "{change}: {refused}");
    }
    // A file of other chats.
    let file = dir.path().join("chats.jsonl");
    fs::write(&file, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n").unwrap();
    let refused = run
        .set(&format!("stages.graph-question-eval.data=Path({file:?})"))
        .set("stages.graph-question-eval.model=Model(\"llm\")");
    let words = refused.run(&["--only", "graph-question-eval"]).expect_code(1).words();
    assert!(words.contains("chats.jsonl") && words.contains("a question about a graph"), "{words}");
}

/// A batch of which every answer was kept is not asked again; of one that was cut off, all are.
#[test]
fn kept_answers_are_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let run = TinyRun::new(HEARTH, dir.path(), &cpu()).set("stages.graph-question-eval.batch_size=3");
    run.ok(&[]);
    let stage = run.path(STAGE);
    let texts = || -> Vec<String> {
        let rows = json_lines(&stage.join("answers.jsonl"));
        rows.iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect()
    };
    let before = texts();
    fs::remove_file(stage.join("manifest.json")).unwrap();
    fs::remove_file(stage.join("answers.jsonl")).unwrap();
    let line = |key: usize| {
        json!({"key": key.to_string(), "value": {"text": "kept", "tokens": 1, "finish_reason": "stop"}}).to_string()
            + "\n"
    };
    // All answers but one: whichever batch lacks it is asked again, the other one is not.
    fs::write(stage.join("so-far.jsonl"), (1..6).map(line).collect::<String>() + "{\"key\": \"0\", \"va").unwrap();
    let again = run.ok(&[]);
    assert!(again.stderr.contains("graph-question-eval] continuing"), "{}", again.stderr);
    let after = texts();
    let kept = after.iter().filter(|text| *text == "kept").count();
    assert_eq!(kept, 3, "{after:?}");
    assert!(after[0] == before[0] && after.iter().zip(&before).all(|(a, b)| a == "kept" || a == b), "{after:?}");
    assert!(!stage.join("so-far.jsonl").exists());
}
