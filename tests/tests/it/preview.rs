//! `hearth preview`: the text is the chats', the marks are where the loss is, and the counts are those of the run.

use std::fs;
use std::path::{Path, PathBuf};

use hearth_tests::program::{Finished, Program, Running, TinyRun, cpu};

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

fn preview(recipe: &Path, more: &[&str], environment: &[(&str, &str)]) -> Finished {
    let mut command = HEARTH.command(["preview"]);
    command
        .arg(recipe)
        .args(more)
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .envs(environment.iter().copied());
    Running::of(&mut command).finish()
}

/// A recipe that trains on two chats, one with something for terminals and browsers in it.
fn recipe(folder: &Path, more: &str) -> PathBuf {
    let chats = folder.join("chats.jsonl");
    let chat = |question: &str, answer: &str| serde_json::json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]});
    let lines = [chat("What is <b> & \u{1b}[2Jü?", "A <i>tag</i>."), chat("What is <b> & so on?", "Another.\nLine.")];
    fs::write(&chats, lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let recipe = folder.join("r.ron");
    let text = format!(
        "Recipe(name: \"look\", runs: {:?}, models: {{\"llm\": Init(Decoder(hidden_size: 16))}}, data: {{\"chats\": Chat({chats:?})}}, \
         stages: [Sft(model: Model(\"llm\"), data: Data(\"chats\"), epochs: 3, sequences_per_step: 2{more})])",
        folder.join("runs")
    );
    fs::write(&recipe, text).unwrap();
    recipe
}

#[test]
fn what_is_learned_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), "");
    let shown = preview(&recipe, &[], &[]).expect_code(0).stdout;
    assert!(
        shown.contains("<|im_start|>user\nWhat is <b> & \\u{1b}[2Jü?<|im_end|>\n<|im_start|>assistant\n"),
        "{shown}"
    );
    assert!(shown.contains("assistant\n⟦A <i>tag</i>.<|im_end|>⟧"), "{shown}");
    assert!(shown.contains("assistant\n⟦Another.\nLine.<|im_end|>⟧"), "{shown}");
    assert!(
        shown.contains("1 optimizer steps an epoch, 3 in all") && shown.contains("2 chats, 0 of 2 left out"),
        "{shown}"
    );
    assert!(shown.contains("1 pass ──") && shown.contains("shared)"), "{shown}");
    assert!(!shown.contains('\u{1b}') && !folder.path().join("runs").exists());

    let coloured = preview(&recipe, &[], &[("CLICOLOR_FORCE", "1")]).expect_code(0).stdout;
    assert!(coloured.contains("\u{1b}[30;42mAnother.\u{1b}[0m\n\u{1b}[30;42mLine.<|im_end|>\u{1b}[0m"), "{coloured}");
    assert!(!coloured.contains("[2J\u{1b}") && !coloured.contains("\u{1b}[2J"));
    for (more, environment) in [(vec!["--plain"], ("CLICOLOR_FORCE", "1")), (vec![], ("NO_COLOR", "1"))] {
        assert_eq!(preview(&recipe, &more, &[environment]).expect_code(0).stdout, shown);
    }
    let tokens = preview(&recipe, &["--tokens"], &[]).expect_code(0).stdout;
    assert!(tokens.contains("⟦A│ <│i│>│") && tokens.contains("│<|im_end|>⟧"), "{tokens}");
    let one = preview(&recipe, &["--samples", "1"], &[]).expect_code(0).stdout;
    assert!(one.contains("sample 1") && !one.contains("sample 2"));
    assert!(!preview(&recipe, &["--samples", "0"], &[]).expect_code(0).stdout.contains("── sample"));

    let page = folder.path().join("page.html");
    preview(&recipe, &["--html", page.to_str().unwrap()], &[]).expect_code(0);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains(">A &lt;i&gt;tag&lt;/i&gt;.&lt;|im_end|&gt;</mark>"), "{page}");
    assert!(page.contains("What is &lt;b&gt; &amp; \\u{1b}[2Jü?"), "{page}");
    assert_eq!((page.matches("<mark title").count(), page.matches("<pre>").count()), (2, 3));
    assert!(
        !page.contains("http://") && !page.contains("https://") && !page.contains("<script") && !page.contains("src=")
    );

    let settings = "--set=stages.sft.assistant_prefix=\"<think>\\n\\n</think>\\n\\n\"";
    let prefixed = preview(&recipe, &[settings], &[]).expect_code(0).stdout;
    assert!(prefixed.contains("assistant\n<think>\n\n</think>\n\n⟦A <i>"), "{prefixed}");
}

#[test]
fn packing_is_shown_as_it_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let number = |shown: &str, before: &str, after: &str| -> usize {
        let line = shown.lines().find(|line| line.contains(after)).unwrap_or_else(|| panic!("{after}\n{shown}"));
        let rest = line.split(after).next().unwrap();
        rest.rsplit(before).next().unwrap().trim().parse().unwrap_or_else(|_| panic!("{line}"))
    };
    let shown = |packing: &str| {
        let recipe = recipe(folder.path(), &format!(", packing: {packing}"));
        preview(&recipe, &["--samples", "0"], &[]).expect_code(0).stdout
    };
    let [shared, packed, padded] = ["SharedPrefix", "Packed", "Padded"].map(shown);
    let tokens = number(&shared, " ", " tokens an epoch");
    let computed = |shown: &str| number(shown, " ", " computed an epoch");
    assert_eq!(computed(&packed), tokens);
    assert!(computed(&shared) < tokens && computed(&padded) > tokens, "{shared}{padded}");
    // What is shared is what is not computed.
    let own = shared.split(", ").filter_map(|part| part.strip_suffix(" shared)")).count();
    let left_out: usize = shared
        .split(' ')
        .collect::<Vec<_>>()
        .windows(2)
        .filter(|w| w[1].starts_with("shared)"))
        .map(|w| w[0].parse::<usize>().unwrap())
        .sum();
    assert!(own <= 1);
    assert_eq!(tokens - left_out, computed(&shared), "{shared}");
}

#[test]
fn data_that_a_stage_makes_is_made_in_a_temporary_place() {
    let folder = tempfile::tempdir().unwrap();
    let run = TinyRun::new(HEARTH, folder.path(), &cpu());
    let recipe = hearth_tests::workspace().join("recipes/tiny/glow.ron");
    let runs = format!("--set=runs={:?}", folder.path());
    let shown = preview(&recipe, &["sft", &runs], &[]).expect_code(0).stdout;
    assert!(!run.folder().exists());
    run.ok(&["--only", "graph-questions"]);
    run.ok(&["--only", "sft"]);
    let manifest = hearth_tests::json(&run.path("stages/02-sft/manifest.json"));
    let metrics = |name: &str| manifest["metrics"][name].as_f64().unwrap() as u64;
    let words = |text: String| assert!(shown.contains(&text), "{text}\n{shown}");
    words(format!("{} chats, ", metrics("records")));
    words(format!(
        "{} tokens an epoch, {} of them learned",
        metrics("tokens_per_epoch"),
        metrics("learned_tokens_per_epoch")
    ));
    words(format!(", {} in all", metrics("steps")));

    let judge = hearth_tests::workspace().join("recipes/tiny/llm-judge.ron");
    let shown = preview(&judge, &[&runs], &[]).expect_code(0).stdout;
    assert!(shown.contains("⟦Yes<|im_end|>⟧") || shown.contains("⟦No<|im_end|>⟧"), "{shown}");

    let refused = preview(&recipe, &["merge-lora", &runs], &[]).expect_code(2);
    assert!(refused.words().contains("has no text to show; these have: sft"), "{}", refused.stderr);
    let refused = preview(&recipe, &["sfd", &runs], &[]).expect_code(2);
    assert!(refused.words().contains("did you mean `sft`"), "{}", refused.stderr);
}
