//! Chats of every format, from every container, in mixtures: what is learned of them, and that nothing is lost unseen.

use std::fs;
use std::path::{Path, PathBuf};

use burn_models::text::{Builtin, EndOfTurn, Learn, Message, SuperviseOptions, Tokenizer};
use datasets::chat::{
    Amount, ChatColumns, ChatFormat, ChatReader, ChatRecord, ChatSource, ChatSplit, ChatTags, PlainText, Registry, Side,
};
use datasets::sft::{OnError, Overlong, Packing, Part, PlanConfig, SftDataset, SftOptions, SftSelection, StepPlan};
use datasets::table::RowWriter;
use hearth_tests::program::{Finished, Program};
use serde_json::{Value, json};
use tempfile::TempDir;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Records as lines.
    fn lines(&self, name: &str, records: &[Value]) -> PathBuf {
        self.write(name, records.iter().map(|record| format!("{record}\n")).collect::<String>())
    }
}

fn read(path: &Path) -> Result<Vec<ChatRecord>, String> {
    ChatReader::open(path).and_then(Iterator::collect).map_err(|error| error.to_string())
}

fn tokenizer() -> Tokenizer {
    Tokenizer::builtin(Builtin::Decoder).unwrap()
}

fn selection(sources: Vec<ChatSource>) -> SftSelection {
    SftSelection { sources, ..SftSelection::default() }
}

fn dataset(path: &Path, options: &SftOptions) -> Result<SftDataset, String> {
    SftDataset::from_chat(path, &tokenizer(), options).map_err(|error| error.to_string())
}

/// What is learned of a sample, piece by piece, and its whole text.
fn texts(data: &SftDataset, sample: usize) -> (Vec<String>, String) {
    let tokenizer = tokenizer();
    let ids = data.ids(sample);
    let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
    (data.learned(sample).map(|(span, _)| text(&ids[span])).collect(), text(ids))
}

fn chat(question: &str, answer: &str) -> Value {
    json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
}

#[test]
fn every_format_becomes_the_same_record() {
    let files = Files::new();
    let want = [Message::system("s"), Message::user("q"), Message::assistant("a")];
    let records = [
        json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 1}),
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s", "id": 1}),
        json!({"conversations": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 1}),
        json!({"instruction": "q", "input": "", "output": "a", "system": "s", "id": 1}),
        json!({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}], "id": 1}),
    ];
    for (number, record) in records.iter().enumerate() {
        let path = files.lines(&format!("{number}.jsonl"), std::slice::from_ref(record));
        let found = read(&path).unwrap();
        assert_eq!(found[0].messages, want, "{record}");
        assert_eq!((found[0].line, &found[0].extra["id"], found[0].extra.len()), (1, &json!(1), 1), "{record}");
    }
    let alpaca = json!({"instruction": "do", "input": "this", "output": "a", "history": [["q1", "a1"]]});
    let found = read(&files.lines("a.jsonl", &[alpaca])).unwrap();
    let turns: Vec<_> = found[0].messages.iter().map(|m| (m.role(), m.text().unwrap())).collect();
    assert_eq!(turns, [("user", "q1"), ("assistant", "a1"), ("user", "do\nthis"), ("assistant", "a")]);

    let found = read(&files.lines("t.jsonl", &[json!({"text": "all", "n": 1})])).unwrap();
    assert_eq!(found[0].plain, Some(PlainText { prompt: String::new(), learned: "all".into() }));
    let found = read(&files.lines("p.jsonl", &[json!({"prompt": "p", "completion": "c"})])).unwrap();
    assert_eq!(found[0].plain, Some(PlainText { prompt: "p".into(), learned: "c".into() }));
}

#[test]
fn calls_of_tools_come_out_of_sharegpt() {
    let files = Files::new();
    let record = json!({
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": r#"{"name": "f", "arguments": {"x": 1}}"#},
            {"from": "observation", "value": "1"},
            {"from": "function_call", "value": r#"[{"name": "g"}, {"name": "h", "arguments": {}}]"#},
            {"from": "tool", "value": "2"},
            {"from": "gpt", "value": "a"}],
        "tools": r#"[{"name": "f"}]"#,
    });
    let found = &read(&files.lines("c.jsonl", &[record])).unwrap()[0];
    let roles: Vec<_> = found.messages.iter().map(Message::role).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant", "tool", "assistant"]);
    assert_eq!(
        found.messages[1].get("tool_calls").unwrap()[0]["function"],
        json!({"name": "f", "arguments": {"x": 1}})
    );
    assert_eq!(found.messages[3].get("tool_calls").unwrap().as_array().unwrap().len(), 2);
    assert_eq!(found.tools.as_ref().unwrap()[0]["name"], "f");

    // Names of one's own take the place of the usual ones.
    let record = json!({"turns": [{"who": "me", "says": "q"}, {"who": "it", "says": "a"}]});
    let source = ChatSource {
        format: ChatFormat::ShareGpt,
        columns: ChatColumns { messages: Some("turns".into()), ..ChatColumns::default() },
        tags: ChatTags {
            role: Some("who".into()),
            content: Some("says".into()),
            user: Some("me".into()),
            assistant: Some("it".into()),
            ..ChatTags::default()
        },
        ..ChatSource::of(&[files.lines("t.jsonl", &[record])])
    };
    let read =
        |source: &ChatSource| SftDataset::read(&selection(vec![source.clone()]), &tokenizer(), &SftOptions::default());
    assert_eq!(texts(&read(&source).unwrap(), 0).0, ["a<|im_end|>"]);
    let other = ChatSource { tags: ChatTags { user: None, ..source.tags.clone() }, ..source };
    let error = read(&other).unwrap_err().to_string();
    assert!(error.contains("t.jsonl:1: `turns[0].who`: expected one of human, user, it, observation,"), "{error}");
}

#[test]
fn every_container_holds_the_same() {
    let files = Files::new();
    let records = [
        json!({"id": "x", "messages": [{"role": "user", "content": "q\n1", "name": "n"}, {"role": "assistant", "content": "ä"}]}),
        json!({"id": "y", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}),
    ];
    let lines = files.lines("l.jsonl", &records);
    let want = read(&lines).unwrap();
    let array = json!(records);
    let spaced = serde_json::to_string_pretty(&array).unwrap();
    let zst = |text: &str| zstd::encode_all(text.as_bytes(), 3).unwrap();
    let parquet = files.path("t.parquet");
    let mut writer = RowWriter::create(&parquet).unwrap();
    records.iter().for_each(|record| writer.write(record).unwrap());
    writer.finish().unwrap();
    let others = [
        files.write("a.json", array.to_string()),
        files.write("s.json", format!("\u{FEFF}\n{spaced}\n")),
        files.write("a.json.zst", zst(&spaced)),
        files.write("l.jsonl.zst", zst(&fs::read_to_string(&lines).unwrap())),
        parquet,
    ];
    for path in others {
        let found = read(&path).unwrap();
        let plain = |record: &ChatRecord| (record.messages.clone(), record.extra.clone(), record.tools.clone());
        assert!(found.iter().map(plain).eq(want.iter().map(plain)), "{}: {found:?}", path.display());
        // A missing key of a nested column is absent, not null.
        assert!(found[1].messages.iter().all(|m| m.get("name").is_none()), "{}", path.display());
    }
    // Line numbers of elements; rows of tables.
    assert_eq!(read(&files.path("s.json")).unwrap().iter().map(|r| r.line).collect::<Vec<_>>(), [3, 17]);
    assert_eq!(read(&files.path("t.parquet")).unwrap()[1].line, 2);
    // An array is read element by element: a good one comes before a fault behind it.
    let mut reader = ChatReader::open(&files.write("cut.json", format!("[{}, {{\"messages\"", records[0]))).unwrap();
    assert!(reader.next().unwrap().is_ok());
    assert!(reader.next().unwrap().unwrap_err().to_string().contains("cut.json:1: expected `]`"));
    assert!(reader.next().is_none());
}

#[test]
fn faults_are_named_by_file_line_and_key() {
    let files = Files::new();
    let good = chat("q", "a");
    let human = json!({"from": "human", "value": "q"});
    let share = |turn: Value| json!({"conversations": [human, turn]});
    let cases: Vec<(&str, Value, Value, &str)> = vec![
        (
            "m",
            good.clone(),
            json!({"messages": [{"role": "bot", "content": ""}]}),
            "2: `messages[0].role`: expected one of system, developer, user, assistant, tool, found the string \"bot\"",
        ),
        (
            "s",
            share(human.clone()),
            share(json!({"from": "gpt"})),
            "2: `conversations[1].value`: expected a string, found none",
        ),
        (
            "s",
            share(human.clone()),
            share(json!({"from": "robot", "value": ""})),
            "2: `conversations[1].from`: expected one of human, user, gpt, assistant, observation, tool, function_call, system, found the string \"robot\" (name roles by tags: (…))",
        ),
        (
            "s",
            share(human.clone()),
            share(json!({"from": "function_call", "value": "f(x)"})),
            "2: `conversations[1].value`: expected the JSON of a call",
        ),
        (
            "s",
            share(human.clone()),
            json!({"conversations": []}),
            "2: `conversations`: expected at least one message, found an empty list",
        ),
        (
            "s",
            share(human.clone()),
            json!({"turns": []}),
            "2: `conversations`: expected this key in every record, found none",
        ),
        (
            "a",
            json!({"instruction": "", "output": ""}),
            json!({"instruction": "q"}),
            "2: `output`: expected this key in every record, found none",
        ),
        (
            "a",
            json!({"instruction": "", "output": ""}),
            json!({"instruction": "q", "output": 3}),
            "2: `output`: expected a string, found the number 3",
        ),
        (
            "a",
            json!({"instruction": "", "output": ""}),
            json!({"instruction": "q", "output": "", "history": [["a"]]}),
            "2: `history[0]`: expected a pair of strings, question and answer, found a list of 1",
        ),
        (
            "p",
            json!({"prompt": "", "completion": "c"}),
            json!({"prompt": "", "completion": []}),
            "2: `completion`: expected a string, as the prompt is, found a list of 0",
        ),
        (
            "p",
            json!({"prompt": "", "completion": "c"}),
            json!({"prompt": [], "completion": [{"role": "user"}]}),
            "2: `completion[0].content`: expected a string, found none",
        ),
        ("t", json!({"text": "a"}), json!({"text": ["a"]}), "2: `text`: expected a string, found a list of 1"),
        ("t", json!({"text": "a"}), json!({"tools": "no"}), "2: `text`: expected this key in every record, found none"),
    ];
    for (name, first, second, want) in cases {
        let error = read(&files.lines(&format!("{name}.jsonl"), &[first.clone(), second.clone()])).unwrap_err();
        assert!(error.contains(&format!("{name}.jsonl:{want}")), "{second}\n{error}\n{want}");
        // In an array the element is named too.
        let path = files.write(&format!("{name}.json"), format!("[{first},\n {second}]"));
        let error = read(&path).unwrap_err();
        let (line, rest) = want.split_once(": `").unwrap();
        assert!(error.contains(&format!("{name}.json:{line}: `[1].{rest}")), "{error}\n{want}");
    }
    let error = read(&files.lines("n.jsonl", &[json!({"q": 1, "a": 2})])).unwrap_err();
    assert!(
        error.contains("n.jsonl:1: expected a chat: `messages`, `conversations`, `instruction` and `output`")
            && error.contains("found `q`, `a`"),
        "{error}"
    );
    let error = read(&files.write("x.json", "[\n  {\"messages\": [],\n   \"a\": nul}]")).unwrap_err();
    assert!(error.contains("x.json:3:") && error.contains(": `[0].a`: expected valid JSON"), "{error}");
    let error = read(&files.write("y.json", "[3]")).unwrap_err();
    assert!(error.contains("y.json:1: `[0]`: expected a JSON object, found the number 3"), "{error}");

    let parquet = files.path("t.parquet");
    let mut writer = RowWriter::create(&parquet).unwrap();
    for role in ["user", "user", "robot"] {
        writer.write(&json!({"messages": [{"role": role, "content": "q"}]})).unwrap();
    }
    writer.finish().unwrap();
    let error = read(&parquet).unwrap_err();
    assert!(
        error.contains("t.parquet:3: `messages[0].role`: expected one of") && error.contains("\"robot\""),
        "{error}"
    );
}

#[test]
fn texts_are_learned_whole_and_completions_after_their_prompts() {
    let files = Files::new();
    let options = SftOptions::default();
    let tokenizer = tokenizer();
    let end = tokenizer.decode(&tokenizer.eos_ids()[..1], false).unwrap();
    // All but the first token, which nothing is before.
    let text = "Workflows are graphs of calls.";
    let data = dataset(&files.lines("t.jsonl", &[json!({"text": text})]), &options).unwrap();
    assert_eq!(texts(&data, 0).1, format!("{text}{end}"));
    assert_eq!(data.counts().supervised + 1, data.counts().tokens);
    assert_eq!(data.sources()[0].format, ChatFormat::Text);
    let quiet = SuperviseOptions { end_of_turn: EndOfTurn::Ignore, ..SuperviseOptions::default() };
    let data = dataset(&files.path("t.jsonl"), &SftOptions { supervise: quiet, ..options.clone() }).unwrap();
    assert_eq!(data.counts().supervised + 2, data.counts().tokens);

    let record = json!({"prompt": "Count: ", "completion": "one, two"});
    let data = dataset(&files.lines("p.jsonl", &[record]), &options).unwrap();
    assert_eq!(texts(&data, 0), (vec![format!("one, two{end}")], format!("Count: one, two{end}")));

    // Of two lists of messages, replies in the prompt are only read, whatever is learned.
    let record = json!({
        "prompt": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}, {"role": "user", "content": "q2"}],
        "completion": [{"role": "assistant", "content": "a2"}]});
    let path = files.lines("m.jsonl", &[record]);
    for learn in [Learn::Replies, Learn::EachReply, Learn::LastReply] {
        let supervise = SuperviseOptions { learn: learn.clone(), ..SuperviseOptions::default() };
        let data = dataset(&path, &SftOptions { supervise, ..SftOptions::default() }).unwrap();
        assert_eq!((data.len(), texts(&data, 0).0), (1, vec!["a2<|im_end|>".to_owned()]), "{learn:?}");
    }
    let supervise = SuperviseOptions { learn: Learn::Everything, ..SuperviseOptions::default() };
    let data = dataset(&path, &SftOptions { supervise, ..SftOptions::default() }).unwrap();
    assert_eq!(texts(&data, 0).0, ["<|im_start|>assistant\na2<|im_end|>\n"]);
    let empty = dataset(&files.lines("e.jsonl", &[json!({"text": ""})]), &options).unwrap_err();
    assert!(empty.contains("e.jsonl:1: the text is empty: there is nothing to learn"), "{empty}");
}

#[test]
fn long_chats_are_cut_as_is_said() {
    let files = Files::new();
    let words = |word: &str, count: usize| vec![word; count].join(" ");
    let long = json!({"messages": [
        {"role": "system", "content": "short"},
        {"role": "user", "content": words("old", 60)}, {"role": "assistant", "content": "first"},
        {"role": "user", "content": "new"}, {"role": "assistant", "content": "second"}]});
    let path = files.lines("c.jsonl", &[chat("q", "a"), long.clone()]);
    let with = |overlong: Overlong, max_length: usize| SftOptions {
        max_length: Some(max_length),
        overlong,
        ..SftOptions::default()
    };

    let data = dataset(&path, &with(Overlong::Delete, 40)).unwrap();
    let counts = data.counts();
    assert_eq!((data.len(), counts.read, counts.kept(), counts.overlong, counts.truncated), (1, 2, 1, 1, 0));
    let error = dataset(&path, &with(Overlong::Error, 40)).unwrap_err();
    assert!(error.contains("c.jsonl:2: expected at most 40 tokens, found "), "{error}");
    let skip = SftOptions { on_error: OnError::Skip, ..with(Overlong::Error, 40) };
    assert!(dataset(&path, &skip).is_err(), "`Error` stops even so");

    // Oldest turns first, whole: what is left is a chat.
    let data = dataset(&path, &with(Overlong::KeepAnswer, 40)).unwrap();
    assert_eq!((data.len(), data.counts().truncated, data.counts().overlong), (2, 1, 0));
    let want = "<|im_start|>system\nshort<|im_end|>\n<|im_start|>user\nnew<|im_end|>\n<|im_start|>assistant\nsecond<|im_end|>\n";
    assert_eq!(texts(&data, 1), (vec!["second<|im_end|>".to_owned()], want.to_owned()));
    // Then the front of the last question.
    let question = format!("{} end", words("begin", 200));
    let path = files.lines("q.jsonl", &[chat(&question, "the answer")]);
    let data = dataset(&path, &with(Overlong::KeepAnswer, 40)).unwrap();
    let (learned, whole) = texts(&data, 0);
    assert_eq!(learned, ["the answer<|im_end|>"]);
    assert!(whole.starts_with("<|im_start|>user\n") && whole.contains("begin end<|im_end|>\n<|im_start|>assistant\n"));
    assert!((36..=40).contains(&data.ids(0).len()), "{}", data.ids(0).len());
    // Each reply for itself.
    let supervise = SuperviseOptions { learn: Learn::EachReply, ..SuperviseOptions::default() };
    let each = SftOptions { supervise, ..with(Overlong::KeepAnswer, 40) };
    let data = dataset(&files.lines("e.jsonl", std::slice::from_ref(&long)), &each).unwrap();
    assert_eq!((data.len(), data.counts().truncated), (2, 2));
    assert_eq!(texts(&data, 0).0, ["first<|im_end|>"]);
    assert!(texts(&data, 0).1.starts_with("<|im_start|>system\nshort<|im_end|>\n<|im_start|>user\n"));
    assert_eq!(texts(&data, 1).1, want);
    // A reply that does not fit by itself is left out, and counted.
    let path = files.lines("r.jsonl", &[chat("q", "a"), chat("q", &words("reply", 100))]);
    let data = dataset(&path, &with(Overlong::KeepAnswer, 40)).unwrap();
    assert_eq!((data.len(), data.counts().overlong, data.counts().truncated), (1, 1, 0));
    // Cut at the end, its reply has no end; where nothing learned is left, nothing is.
    let data = dataset(&path, &with(Overlong::TruncateEnd, 40)).unwrap();
    assert_eq!((data.len(), data.ids(1).len(), data.counts().truncated), (2, 40, 1));
    assert!(!texts(&data, 1).0.concat().contains("<|im_end|>"));
    let path = files.lines("n.jsonl", &[chat("q", "a"), chat(&question, "a")]);
    let data = dataset(&path, &with(Overlong::TruncateEnd, 40)).unwrap();
    assert_eq!((data.len(), data.counts().overlong, data.counts().truncated), (1, 1, 0));
    // A plain prompt is cut from its front.
    let record = json!({"prompt": words("before", 100), "completion": "after"});
    let data = dataset(&files.lines("p.jsonl", &[record]), &with(Overlong::KeepAnswer, 20)).unwrap();
    assert_eq!((data.ids(0).len(), texts(&data, 0).0.len(), data.counts().truncated), (20, 1, 1));
    assert!(texts(&data, 0).0[0].starts_with("after"));
    // The limit itself is no excess: cut or not, all the same.
    let path = files.lines("s.jsonl", &[chat("q", "a")]);
    let whole = dataset(&path, &SftOptions::default()).unwrap();
    for overlong in [Overlong::Delete, Overlong::TruncateEnd, Overlong::KeepAnswer, Overlong::Error] {
        let data = dataset(&path, &with(overlong, whole.ids(0).len())).unwrap();
        assert_eq!((data.ids(0), data.counts().truncated), (whole.ids(0), 0));
    }
}

#[test]
fn what_cannot_be_used_is_counted_by_reason() {
    let files = Files::new();
    let mask = burn_models::text::Mask::Tags(vec!["observation".into()]);
    let supervise = SuperviseOptions { mask, ..SuperviseOptions::default() };
    let stop = SftOptions { supervise, max_length: Some(60), ..SftOptions::default() };
    let skip = SftOptions { on_error: OnError::Skip, ..stop.clone() };
    let call = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}]});
    let bad: Vec<(&str, &str)> = vec![
        ("{\"messages\": 3}", "malformed"),
        ("{\"messages\": [{\"role\"", "malformed"),
        (r#"{"messages": [{"role": "user", "content": "q"}]}"#, "nothing learned"),
        (
            r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<observation>"}]}"#,
            "tags do not pair",
        ),
    ];
    let call = call.to_string();
    let bad: Vec<(&str, &str)> = bad.into_iter().chain([(call.as_str(), "refused by the template")]).collect();
    let good = chat("q", "a").to_string();
    for (line, reason) in &bad {
        let path = files.write("one.jsonl", format!("{good}\n{line}\n{good}\n"));
        let error = dataset(&path, &stop).unwrap_err();
        assert!(error.contains("one.jsonl:2"), "{reason}: {error}");
        let data = dataset(&path, &skip).unwrap();
        assert_eq!(data.counts().dropped(), [(1, *reason)], "{line}");
        assert_eq!((data.len(), data.line(1), data.counts().read, data.counts().kept()), (2, 3, 3, 2));
        assert_eq!(data.sources()[0].examples, [error]);
    }
    let all: String = bad.iter().map(|(line, _)| format!("{line}\n")).collect();
    let data = dataset(&files.write("all.jsonl", format!("{good}\n{all}{}\n", chat(&"long ".repeat(90), "a"))), &skip)
        .unwrap();
    let want = [
        (1, "too long"),
        (1, "nothing learned"),
        (1, "tags do not pair"),
        (1, "refused by the template"),
        (2, "malformed"),
    ];
    assert_eq!((data.counts().dropped(), data.counts().kept()), (want.to_vec(), 1));
    let rows = datasets::sft::counts_table(data.sources());
    assert_eq!(rows[0][..7], ["source", "format", "read", "kept", "too long", "nothing learned", "tags do not pair"]);
    assert_eq!(rows[1][..7], ["all.jsonl", "Messages", "7", "1", "1", "1", "1"]);
    // Nothing is left: an error that says why. A file that ends early is one whatever is skipped.
    let error = dataset(&files.write("none.jsonl", all), &skip).unwrap_err();
    assert!(
        error.contains(
            "none.jsonl: no usable record (5 conversations, 0 of them longer than 60 tokens, 1 nothing learned"
        ),
        "{error}"
    );
    let error = dataset(&files.write("cut.json", format!("[{good}, {{")), &skip).unwrap_err();
    assert!(error.contains("cut.json:1: expected `]` at the end of the list"), "{error}");
}

#[test]
fn equal_chats_are_kept_once() {
    let files = Files::new();
    let first = files.lines("a.jsonl", &[chat("q", "a"), chat("q", "b"), chat("q", "a")]);
    // Written differently, rendered alike.
    let second = files
        .lines("b.jsonl", &[json!({"instruction": "q", "output": "b"}), json!({"instruction": "q", "output": "c"})]);
    let sources = || vec![ChatSource::of(&[&first]), ChatSource::of(&[&second])];
    let read = |deduplicate| {
        let selection = SftSelection { deduplicate, ..selection(sources()) };
        SftDataset::read(&selection, &tokenizer(), &SftOptions::default()).unwrap()
    };
    assert_eq!(read(false).len(), 5);
    let data = read(true);
    let learned: Vec<String> = (0..data.len()).map(|sample| texts(&data, sample).0.concat()).collect();
    assert_eq!(learned, ["a<|im_end|>", "b<|im_end|>", "c<|im_end|>"]);
    assert_eq!(data.sources().iter().map(|source| source.counts.duplicate).collect::<Vec<_>>(), [1, 1]);
    assert_eq!((data.counts().duplicate, data.counts().kept()), (2, 3));
}

#[test]
fn weights_are_drawn_anew_every_epoch() {
    let files = Files::new();
    let many = |name: &str, count: usize| {
        let records: Vec<Value> = (0..count).map(|n| chat(&format!("{name} {n}"), "a")).collect();
        files.lines(&format!("{name}.jsonl"), &records)
    };
    let weighted = |path: PathBuf, amount| ChatSource { amount, ..ChatSource::of(&[path]) };
    let sources = vec![
        weighted(many("twice", 10), Amount::Weight(2.3)),
        weighted(many("half", 40), Amount::Weight(0.5)),
        weighted(many("some", 30), Amount::Samples(45)),
    ];
    let data = SftDataset::read(&selection(sources), &tokenizer(), &SftOptions::default()).unwrap();
    assert_eq!(data.sources().iter().map(|source| source.per_epoch).collect::<Vec<_>>(), [23, 20, 45]);
    for packing in [Packing::Packed, Packing::SharedPrefix] {
        let config = PlanConfig { sequences_per_step: 8, micro_tokens: 4096, packing, ..PlanConfig::default() };
        let plan = StepPlan::new(&data, config, 3).unwrap();
        assert_eq!(plan.steps_per_epoch(), 11);
        let epoch = |number| {
            let plan = plan.epoch(number);
            let mut counts = vec![0; data.len()];
            (0..plan.len()).flat_map(|step| plan.step(step).concat()).for_each(|sample| counts[sample as usize] += 1);
            counts
        };
        let (first, second) = (epoch(0), epoch(1));
        assert!(first != second && first == epoch(0));
        for counts in [first, second] {
            assert_eq!(
                [&counts[..10], &counts[10..50], &counts[50..]].map(|part| part.iter().sum::<usize>()),
                [23, 20, 45]
            );
            assert!(counts[..10].iter().all(|n| [2, 3].contains(n)) && counts[10..50].iter().all(|n| *n < 2));
            assert!(counts[50..].iter().all(|n| [1, 2].contains(n)));
        }
    }
    let saved = files.path("samples");
    data.save(&saved).unwrap();
    assert_eq!(SftDataset::load(&saved).unwrap(), data);
}

#[test]
fn splits_follow_from_the_content() {
    let files = Files::new();
    let record = |n: usize| {
        let mut record = chat(&format!("question {n}"), "a");
        record["id"] = json!(n / 4);
        record
    };
    let records: Vec<Value> = (0..400).map(record).collect();
    let turned: Vec<Value> = (0..400).rev().map(record).collect();
    let side = |path: &Path, split: &ChatSplit, side, seed| {
        let part = Some(Part { split: split.clone(), side, seed });
        let selection = SftSelection { part, ..selection(vec![ChatSource::of(&[path])]) };
        SftDataset::read(&selection, &tokenizer(), &SftOptions::default())
    };
    let (path, other) = (files.lines("a.jsonl", &records), files.lines("b.jsonl", &turned));
    for split in [ChatSplit::Fraction(0.2), ChatSplit::Key { name: "id".into(), fraction: 0.2 }] {
        let questions = |data: SftDataset| -> Vec<String> {
            let mut all: Vec<String> = (0..data.len()).map(|sample| texts(&data, sample).1).collect();
            all.sort();
            all
        };
        let [train, held_out] = [Side::Train, Side::HeldOut].map(|s| side(&path, &split, s, 1).unwrap());
        assert_eq!(train.len() + held_out.len(), 400);
        assert!((50..=110).contains(&held_out.len()), "{split:?}: {}", held_out.len());
        assert_eq!(train.counts().other_side as usize, held_out.len());
        if let ChatSplit::Key { .. } = split {
            let of = |data: &SftDataset| {
                (0..data.len()).map(|n| (data.line(n) - 1) / 4).collect::<std::collections::BTreeSet<u32>>()
            };
            assert!(of(&train).is_disjoint(&of(&held_out)));
        }
        // Order does not matter, the seed does.
        let held_out = questions(held_out);
        assert_eq!(questions(side(&other, &split, Side::HeldOut, 1).unwrap()), held_out);
        assert_ne!(questions(side(&path, &split, Side::HeldOut, 2).unwrap()), held_out);
    }
    let missing = ChatSplit::Key { name: "nr".into(), fraction: 0.2 };
    let error = side(&path, &missing, Side::Train, 1).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:1: `nr`: expected a value in every record, found none"), "{error}");
}

#[test]
fn a_registry_names_data_as_llama_factory_does() {
    let files = Files::new();
    files.write("data/mhqa.json", json!([{"instruction": "q", "input": "i", "output": "a", "id": 1}]).to_string());
    files.lines(
        "data/turns.jsonl",
        &[json!({"turns": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "sys": "s"})],
    );
    files.lines("data/renamed.jsonl", &[json!({"q": "q", "r": "a", "input": "not a column"})]);
    files.lines("data/corpus/1.jsonl", &[json!({"content": "text"})]);
    let registry = files.write(
        "data/dataset_info.json",
        json!({
            "mhqa_agent_sft": {"file_name": "mhqa.json"},
            "turns": {"file_name": "turns.jsonl", "formatting": "sharegpt", "num_samples": 5,
                "columns": {"messages": "turns", "system": "sys"},
                "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}},
            "renamed": {"file_name": "renamed.jsonl", "columns": {"prompt": "q", "response": "r"}},
            "corpus": {"file_name": "corpus", "columns": {"prompt": "content"}},
            "hub": {"hf_hub_url": "org/name"},
            "prefer": {"file_name": "mhqa.json", "ranking": true},
            "seen": {"file_name": "mhqa.json", "columns": {"prompt": "instruction", "response": "output", "images": "i"}},
            "form": {"file_name": "mhqa.json", "formatting": "vicuna"},
        })
        .to_string(),
    );
    let registry = Registry::open(&registry).unwrap();
    let read = |name: &str| {
        let source = registry.source(name).unwrap();
        SftDataset::read(&selection(vec![source]), &tokenizer(), &SftOptions::default()).unwrap()
    };
    assert!(texts(&read("mhqa_agent_sft"), 0).1.starts_with("<|im_start|>user\nq\ni<|im_end|>"));
    let turns = read("turns");
    assert!(texts(&turns, 0).1.starts_with("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>"));
    assert_eq!((turns.sources()[0].per_epoch, turns.sources()[0].format), (5, ChatFormat::ShareGpt));
    // Columns that are not named are none.
    assert!(texts(&read("renamed"), 0).1.starts_with("<|im_start|>user\nq<|im_end|>"));
    assert_eq!(read("corpus").sources()[0].format, ChatFormat::Text);
    for (name, want) in [
        ("nobody", "`nobody`: expected a data set of this name, found none (there are mhqa_agent_sft, turns,"),
        ("hub", "`hub.file_name`: expected a file, found hf_hub_url"),
        ("prefer", "`prefer.ranking`: expected false, found true"),
        ("seen", "`seen.columns.images`: expected texts only"),
        ("form", "`form.formatting`: expected alpaca, sharegpt or openai, found \"vicuna\""),
    ] {
        let error = registry.source(name).unwrap_err().to_string();
        assert!(error.contains("dataset_info.json: ") && error.contains(want), "{error}");
    }
}

/// A recipe that fine-tunes on the entry `chats` of its data.
fn recipe(files: &Files, data: &str, more: &str) -> PathBuf {
    let text = format!(
        "Recipe(name: \"chats\", runs: {:?}, models: {{\"llm\": Init(Decoder(hidden_size: 16, num_hidden_layers: 1))}},\n\
         data: {{\n{data}\n}},\nstages: [Sft(model: Model(\"llm\"), data: Data(\"chats\"), epochs: 1, sequences_per_step: 4, {more})])",
        files.path("runs")
    );
    files.write("r.ron", text)
}

fn hearth(command: &str, recipe: &Path) -> Finished {
    let device: &[&str] = if command == "run" || command == "plan" { &["--device", "Flex"] } else { &[] };
    HEARTH.run([command, recipe.to_str().unwrap()].into_iter().chain(device.iter().copied()))
}

#[test]
fn a_recipe_mixes_formats_and_says_what_became_of_them() {
    let files = Files::new();
    let alpaca: Vec<Value> = (0..20).map(|n| json!({"q": format!("q{n}"), "output": "a", "id": n})).collect();
    files.write("alpaca.json", json!(alpaca).to_string());
    let mut lines: Vec<Value> = (0..20).map(|n| json!({"conversations": [{"from": "human", "value": format!("h{n}")}, {"from": "gpt", "value": "b"}], "id": n})).collect();
    lines.push(lines[0].clone());
    lines.push(json!({"conversations": [{"from": "human", "value": "alone"}], "id": 99}));
    files.lines("share/one.jsonl", &lines);
    files.write("reg/dataset_info.json", json!({"set": {"file_name": "set.json"}}).to_string());
    files.write("reg/set.json", json!([{"instruction": "i", "output": "o", "id": 7}]).to_string());
    let path = |name: &str| files.path(name);
    let data = format!(
        "\"alpaca\": Chat(path: {:?}, format: Alpaca, columns: (instruction: \"q\")),\n\
         \"registered\": Chat(registry: {:?}, name: \"set\"),\n\
         \"chats\": Chat(sources: [(data: Data(\"alpaca\")), (data: Path({:?}), weight: 0.5), (data: Data(\"registered\"), weight: 3)],\n\
         split: Key(name: \"id\", fraction: 0.3), deduplicate: true)",
        path("alpaca.json"),
        path("reg/dataset_info.json"),
        path("share")
    );
    let recipe_path = recipe(&files, &data, "on_error: Skip, overlong: KeepAnswer, eval: (every_steps: 2)");
    let checked = hearth("check", &recipe_path).expect_code(0);
    assert!(!checked.words().contains("error"), "{}", checked.stderr);
    let done = hearth("run", &recipe_path).expect_code(0);
    for words in
        ["alpaca Alpaca", "ShareGpt", "nothing learned", "duplicate", "left out: ", "there is nothing to learn"]
    {
        assert!(done.words().contains(words), "{words}\n{}", done.stderr);
    }
    let stage = path("runs/chats/stages/01-sft");
    let written: Value = serde_json::from_slice(&fs::read(stage.join("data.json")).unwrap()).unwrap();
    let train = written["train"].as_array().unwrap();
    let number = |source: usize, key: &str| train[source]["counts"][key].as_u64().unwrap();
    assert_eq!(train.len(), 3);
    let both = |key: &str| {
        ["train", "held_out"]
            .iter()
            .flat_map(|side| written[side].as_array().unwrap())
            .map(|s| s["counts"][key].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((both("duplicate"), both("nothing_learned"), both("read")), (1, 1, 43));
    assert_eq!(
        train[1]["per_epoch"].as_u64().unwrap() as f64,
        ((number(1, "read") - number(1, "duplicate") - number(1, "nothing_learned")) as f64 / 2.0).round()
    );
    assert!(number(0, "other_side") > 0);
    let manifest: Value = serde_json::from_slice(&fs::read(stage.join("manifest.json")).unwrap()).unwrap();
    assert!(manifest["artefacts"].as_array().unwrap().contains(&json!("data.json")), "{manifest}");
    assert!(hearth("run", &recipe_path).expect_code(0).words().contains("finished before"));
    // What is said of the data, and what is in it, makes another run.
    let other = recipe(
        &files,
        &data.replace("weight: 0.5", "weight: 0.25"),
        "on_error: Skip, overlong: KeepAnswer, eval: (every_steps: 2)",
    );
    assert!(hearth("run", &other).expect_code(0).words().contains("settings or inputs changed"));
    files.write("reg/set.json", json!([{"instruction": "other", "output": "o", "id": 7}]).to_string());
    assert!(hearth("run", &other).expect_code(0).words().contains("settings or inputs changed"));

    let shown = hearth("preview", &other).expect_code(0).stdout;
    assert!(shown.contains("alpaca") && shown.contains("ShareGpt") && shown.contains("duplicate"), "{shown}");
    let planned = hearth("plan", &other).expect_code(0);
    assert!((planned.stdout.clone() + &planned.stderr).contains("left out: duplicate"), "{}", planned.stdout);
    // A resolved recipe says the same.
    let printed = HEARTH.ok(["check", other.to_str().unwrap(), "--print"]).stdout;
    let again = files.write("again.ron", printed.clone());
    assert_eq!(HEARTH.ok(["check", again.to_str().unwrap(), "--print"]).stdout, printed);
}

#[test]
fn mistakes_are_found_before_a_run() {
    let files = Files::new();
    let chats = files.lines("c.jsonl", &[chat("q", "a")]);
    let alpaca = files.lines("a.jsonl", &[json!({"instruction": "q", "output": "a"})]);
    let rows = files.lines("rows.jsonl", &[json!({"question": "q", "reply": "a"})]);
    let registry = files.write(
        "dataset_info.json",
        json!({"set": {"file_name": "a.jsonl"}, "gone": {"file_name": "none.json"}}).to_string(),
    );
    let cases: Vec<(String, &str)> = vec![
        ("Chat(format: Alpaca)".into(), "nothing says where these chats are"),
        (format!("Chat(path: {chats:?}, registry: {registry:?}, name: \"set\")"), "one of them says where chats are"),
        (format!("Chat(registry: {registry:?})"), "`registry` needs the `name`"),
        (format!("Chat(registry: {registry:?}, name: \"sett\")"), "has no data set `sett`"),
        (format!("Chat(registry: {registry:?}, name: \"gone\")"), "none.json"),
        (format!("Chat(registry: {registry:?}, name: \"set\", format: Text)"), "the registry says the format"),
        ("Chat(registry: \"nowhere.json\", name: \"set\")".into(), "there is no file nowhere.json"),
        (format!("Chat(path: {chats:?}, format: Alpca)"), "unknown value `Alpca`"),
        (format!("Chat(path: {chats:?}, forma: Alpaca)"), "unknown field `forma`"),
        (format!("Chat(path: {chats:?}, format: Alpaca)"), "have no `instruction` and no `output`, which Alpaca needs"),
        (
            format!("Chat(path: {alpaca:?}, format: Alpaca, columns: (output: \"reply\"))"),
            "have no `reply`, which Alpaca needs",
        ),
        (
            format!("Chat(path: {alpaca:?}, format: Alpaca, columns: (completion: \"reply\"))"),
            "records of format Alpaca have no column `completion`",
        ),
        (format!("Chat(path: {alpaca:?}, format: Alpaca, tags: (user: \"u\"))"), "`tags` are those of ShareGpt"),
        (format!("Chat({rows:?})"), "rows.jsonl:1: expected a chat"),
        (format!("Chat(path: {chats:?}, split: Fraction(1.5))"), "`split` is 1.5, but has to be above 0 and below 1"),
        (format!("Chat(sources: [(data: Path({chats:?}), weight: 0)])"), "`weight` is 0, but has to be above 0"),
        ("Chat(sources: [(data: Data(\"othr\"))])".into(), "there is no entry of `data` called `othr`"),
        ("Chat(sources: [(data: Data(\"flora\"))])".into(), "`flora` holds no chats"),
        ("Chat(sources: [(data: Stage(\"x\"))])".into(), "cannot be a part of a mixture"),
        ("Chat(sources: [(data: Data(\"mixed\"))])".into(), "`mixed` is a mixture itself"),
        ("Chat(sources: [(data: Path(\"none.jsonl\"))])".into(), "there is no file none.jsonl"),
    ];
    for (entry, want) in cases {
        let data = format!(
            "\"chats\": {entry},\n\"other\": Chat({chats:?}), \"flora\": Synthetic(), \"mixed\": Chat(sources: [(data: Path({chats:?}))])"
        );
        let found = hearth("check", &recipe(&files, &data, ""));
        let refused = found.code == Some(2) && found.words().contains(want);
        assert!(refused, "{entry}: {want}\n{}", found.stderr);
    }
    let found = hearth("check", &recipe(&files, &format!("\"chats\": Chat({chats:?})"), "eval: (every_steps: 1)"))
        .expect_code(2);
    assert!(found.words().contains("holds nothing out to evaluate on"), "{}", found.stderr);
}

#[test]
fn stats_of_chats() {
    let files = Files::new();
    files.lines("train.jsonl", &[chat("what", "ever"), chat("q", "a")]);
    files.write("val.json", json!([{"text": "one two"}]).to_string());
    let tokenizer_folder = files.path("tokenizer");
    tokenizer().save(&tokenizer_folder).unwrap();
    let found = HEARTH.ok([
        "data".as_ref(),
        "stats".as_ref(),
        files.0.path().as_os_str(),
        "--tokenizer".as_ref(),
        tokenizer_folder.as_os_str(),
        "--json".as_ref(),
    ]);
    let parts = &found.json()["parts"];
    assert_eq!((&parts["train"]["records"], &parts["train"]["format"]), (&json!(2), &json!("Messages")));
    assert_eq!((&parts["train"]["roles"]["assistant"], &parts["train"]["characters"]["max"]), (&json!(2), &json!(8)));
    assert_eq!((&parts["held out"]["format"], &parts["held out"]["characters"]["mean"]), (&json!("Text"), &json!(7.0)));
    assert!(parts["train"]["tokens"]["total"].as_u64().unwrap() >= 4);
    let shown = HEARTH.ok(["data", "stats", files.path("train.jsonl").to_str().unwrap()]).stdout;
    assert!(shown.contains("Messages") && shown.contains("2 assistant, 2 user"), "{shown}");
}

#[test]
#[ignore = "a figure, not a check: prints how many chats a second become samples"]
fn speed_of_reading() {
    let files = Files::new();
    let records: Vec<Value> = (0..20_000)
        .map(|n| {
            chat(
                &format!("Question {n}: {}", "which node follows? ".repeat(20)),
                &format!("Node {n}. {}", "It does. ".repeat(20)),
            )
        })
        .collect();
    let path = files.lines("c.jsonl", &records);
    let clock = std::time::Instant::now();
    let data = dataset(&path, &SftOptions::default()).unwrap();
    let seconds = clock.elapsed().as_secs_f64();
    let (chats, tokens) = (data.len() as f64 / seconds, data.counts().tokens as f64 / seconds);
    println!("{chats:.0} chats a second, {tokens:.0} tokens a second, {} tokens in all", data.counts().tokens);
}
