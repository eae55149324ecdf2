//! Properties of tokenizers and chat encoding that hold for every tokenizer: the builtin ones and those of the reference
//! folders.

use burn_models::Error;
use burn_models::text::{
    Builtin, ChatOptions, ChatTemplate, EndOfTurn, Framing, Learn, Message, Specials, SuperviseOptions, Tokenizer,
};
use hearth_tests::{fixture_folders, list};
use proptest::prelude::*;
use serde_json::json;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The builtin tokenizers and one of each kind in the reference folders, with their names.
fn tokenizers() -> &'static Vec<(String, Tokenizer)> {
    static ALL: OnceLock<Vec<(String, Tokenizer)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = vec![
            ("builtin decoder".to_string(), Tokenizer::builtin(Builtin::Decoder).unwrap()),
            ("builtin encoder".to_string(), Tokenizer::builtin(Builtin::Encoder).unwrap()),
        ];
        let has = |dir: &PathBuf| dir.join("tokenizer.json").exists();
        for folder in fixture_folders("tokenizers", |f| has(&f.to_path_buf()) || list(f).iter().any(has)) {
            let dir = list(&folder).into_iter().find(has).unwrap_or(folder);
            let tokenizer = Tokenizer::from_folder(&dir).unwrap();
            if all.iter().all(|(_, other)| other.hash() != tokenizer.hash()) {
                all.push((dir.display().to_string(), tokenizer));
            }
        }
        all
    })
}

/// The tokenizers that can encode chats.
fn chats() -> impl Iterator<Item = &'static (String, Tokenizer)> {
    tokenizers().iter().filter(|(_, tokenizer)| tokenizer.chat_template().is_ok())
}

/// Whether a tokenizer gives back every text (byte-level ones do, word pieces do not).
fn reversible(tokenizer: &Tokenizer) -> bool {
    let text = "A \n\t é  B";
    tokenizer.decode_exact(&tokenizer.encode(text, Specials::Plain).unwrap(), false).unwrap() == text
}

/// The special tokens of all tokenizers, as texts.
fn special_texts() -> &'static [String] {
    static ALL: OnceLock<Vec<String>> = OnceLock::new();
    ALL.get_or_init(|| {
        let texts = |tokenizer: &'static Tokenizer| {
            let ids = 0..tokenizer.vocab_size() as u32;
            ids.filter(|id| tokenizer.is_special(*id)).filter_map(|id| tokenizer.id_to_token(id))
        };
        let all: std::collections::BTreeSet<String> = tokenizers().iter().flat_map(|(_, t)| texts(t)).collect();
        all.into_iter().collect()
    })
}

fn specials_in(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u32> {
    ids.iter().copied().filter(|id| tokenizer.is_special(*id)).collect()
}

/// Texts with what tokenizers treat specially: special tokens whole and in parts, tags, marks, white space, scripts.
fn awkward() -> impl Strategy<Value = String> {
    let token = || prop::sample::select(special_texts());
    let piece = prop_oneof![
        4 => token(),
        3 => (token(), any::<prop::sample::Index>()).prop_map(|(token, cut)| {
            token.chars().take(cut.index(token.len() + 1)).collect()
        }),
        2 => prop::sample::select(vec![
            "<think>", "</think>", "<tool_call>", "<|", "|>", "<", ">", "im_end|>", "im_start|>", "\u{F0000}", "\u{F0001}|",
            "\n", "  ", "assistant\n", "user", "\u{1c}", "\"", "\\", "{{ messages }}", "{% raw %}",
        ]).prop_map(String::from),
        3 => "[ -~]{0,12}",
        1 => "\\PC{0,6}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn conversation() -> impl Strategy<Value = Vec<Message>> {
    let turn = (prop::sample::select(vec!["user", "assistant", "tool"]), awkward());
    (prop::option::of(awkward()), awkward(), prop::collection::vec(turn, 0..4)).prop_map(|(system, first, turns)| {
        let mut messages: Vec<Message> = system.into_iter().map(Message::system).collect();
        messages.push(Message::user(first));
        messages.extend(turns.into_iter().map(|(role, text)| Message::new(role, text).unwrap()));
        messages
    })
}

/// The same conversation with harmless contents: what the frame alone looks like.
fn harmless(messages: &[Message]) -> Vec<Message> {
    messages.iter().map(|m| Message::new(m.role(), "x").unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Whatever is written in messages and tools, the special tokens are those of the frame.
    #[test]
    fn specials_in_data_never_become_special(messages in conversation(), tool in awkward(), prompt in any::<bool>()) {
        for (name, tokenizer) in chats() {
            let tools = |text: &str| vec![json!({
                "type": "function",
                "function": { "name": "f", "description": text, "parameters": { "type": "object", text: [text] } },
            })];
            for framing in [Framing::Template, Framing::ChatMl] {
                let options = ChatOptions { framing, add_generation_prompt: prompt, now: Some(0), ..ChatOptions::default() };
                let tool_sets = match framing {
                    Framing::Template => [None, Some((tools(&tool), tools("x")))],
                    Framing::ChatMl => [None, None],
                };
                for set in &tool_sets {
                    let (given, plain) = (set.as_ref().map(|s| s.0.as_slice()), set.as_ref().map(|s| s.1.as_slice()));
                    let (Ok(got), Ok(frame)) = (
                        tokenizer.encode_chat(&messages, given, &options),
                        tokenizer.encode_chat(&harmless(&messages), plain, &options),
                    ) else { continue };
                    prop_assert_eq!(
                        specials_in(tokenizer, &got), specials_in(tokenizer, &frame), "{}: {:?} {:?}", name, &messages, &tool
                    );
                    // No mark stays behind: the ids are those of the text that is shown.
                    let text = tokenizer.render_chat(&messages, given, &options).unwrap();
                    let shown = tokenizer.encode(&text, Specials::Plain).unwrap();
                    prop_assert_eq!(
                        tokenizer.decode_exact(&got, false).unwrap(), tokenizer.decode_exact(&shown, false).unwrap(), "{}", name
                    );
                }
            }
        }
    }

    #[test]
    fn plain_encoding_has_no_specials(text in awkward()) {
        for (name, tokenizer) in tokenizers() {
            let ids = tokenizer.encode(&text, Specials::Plain).unwrap();
            // The token for the unknown is special, and is no injection.
            let unknown = tokenizer.token_to_id("[UNK]");
            prop_assert!(ids.iter().all(|id| Some(*id) == unknown || !tokenizer.is_special(*id)), "{}: {:?}", name, text);
        }
    }

    /// Byte-level tokenizers give back what they were given, in composed characters where they normalise.
    #[test]
    fn decoding_undoes_encoding(text in awkward()) {
        for (name, tokenizer) in tokenizers().iter().filter(|(_, t)| reversible(t)) {
            for specials in [Specials::Plain, Specials::Parse] {
                let once = tokenizer.decode_exact(&tokenizer.encode(&text, specials).unwrap(), false).unwrap();
                let twice = tokenizer.decode_exact(&tokenizer.encode(&once, specials).unwrap(), false).unwrap();
                prop_assert_eq!(&once, &twice, "{}", name);
                if text.is_ascii() {
                    prop_assert_eq!(&once, &text, "{}", name);
                }
            }
        }
    }

    /// Offsets cover the text from its beginning to its end, in order, and the ids are the same with and without them.
    #[test]
    fn offsets_cover_the_text(text in "[ -~]{0,60}") {
        for (name, tokenizer) in tokenizers().iter().filter(|(_, t)| reversible(t)) {
            let (ids, ranges) = tokenizer.encode_offsets(&text, Specials::Parse).unwrap();
            prop_assert_eq!(&ids, &tokenizer.encode(&text, Specials::Parse).unwrap());
            let mut end = 0;
            for range in &ranges {
                prop_assert_eq!(range.start, end, "{}", name);
                end = range.end;
            }
            prop_assert_eq!(end, text.len(), "{}", name);
        }
    }

    #[test]
    fn batches_give_what_single_texts_give(texts in prop::collection::vec(awkward(), 0..20)) {
        for (_, tokenizer) in tokenizers() {
            let single: Vec<Vec<u32>> = texts.iter().map(|t| tokenizer.encode(t, Specials::Plain).unwrap()).collect();
            prop_assert_eq!(tokenizer.encode_batch(&texts, Specials::Plain).unwrap(), single);
        }
    }

    /// What is learned of a ChatML conversation is exactly each reply and the token that ends it.
    #[test]
    fn masks_cover_replies(question in awkward(), answers in prop::collection::vec(awkward(), 1..4), newline in any::<bool>()) {
        for (name, tokenizer) in chats().filter(|(_, t)| t.token_to_id("<|im_end|>").is_some()) {
            let end = tokenizer.token_to_id("<|im_end|>").unwrap();
            let mut messages = Vec::new();
            for answer in &answers {
                messages.extend([Message::user(question.clone()), Message::assistant(answer.clone())]);
            }
            let options = SuperviseOptions {
                chat: ChatOptions { framing: Framing::ChatMl, ..ChatOptions::default() },
                end_of_turn: if newline { EndOfTurn::TokenAndNewline } else { EndOfTurn::Token },
                ..SuperviseOptions::default()
            };
            let sample = tokenizer.supervised_chat(&messages, None, &options).unwrap();
            let (mask, ids) = (sample.mask(), sample.ids);
            prop_assert_eq!(ids.len(), mask.len());
            let line_break = tokenizer.encode("\n", Specials::Plain).unwrap();
            let mut learned = Vec::new();
            for answer in &answers {
                learned.extend(tokenizer.encode(answer, Specials::Plain).unwrap());
                learned.push(end);
                if newline {
                    learned.extend(&line_break);
                }
            }
            let got: Vec<u32> = ids.iter().zip(&mask).filter(|(_, m)| **m).map(|(id, _)| *id).collect();
            prop_assert_eq!(got, learned, "{}", name);
        }
    }
}

/// A template that puts parts of a content side by side does not make a special token of their ends.
#[test]
fn special_tokens_in_pieces_stay_text() {
    let source =
        "{% for m in messages %}<|im_start|>{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}";
    let tokenizer =
        Tokenizer::builtin(Builtin::Decoder).unwrap().with_chat_template(ChatTemplate::new(source).unwrap());
    let start = tokenizer.token_to_id("<|im_start|>").unwrap();
    let token = "<|im_end|>";
    for first in 1..token.len() {
        for second in first..token.len() {
            let parts = [&token[..first], &token[first..second], &token[second..]].map(|text| json!({ "text": text }));
            let message = Message::new("user", parts.to_vec()).unwrap();
            let ids = tokenizer.encode_chat(&[message], None, &ChatOptions::default()).unwrap();
            assert_eq!(specials_in(&tokenizer, &ids), [start], "cut at {first} and {second}");
            assert_eq!(tokenizer.decode_exact(&ids, false).unwrap(), format!("<|im_start|>{token}"));
        }
    }
}

#[test]
fn one_question_and_answer_is_plain_chatml() {
    for (name, tokenizer) in chats().filter(|(_, t)| t.token_to_id("<|im_end|>").is_some()) {
        let messages = [Message::user("Which nodes are sources?"), Message::assistant("[0, 12]")];
        let chat = ChatOptions { framing: Framing::ChatMl, ..ChatOptions::default() };
        let options = SuperviseOptions { chat, ..SuperviseOptions::default() };
        let sample = tokenizer.supervised_chat(&messages, None, &options).unwrap();
        let text = "<|im_start|>user\nWhich nodes are sources?<|im_end|>\n<|im_start|>assistant\n[0, 12]<|im_end|>\n";
        assert_eq!(sample.ids, tokenizer.encode(text, Specials::Parse).unwrap(), "{name}");
        let answer = tokenizer.encode("[0, 12]", Specials::Plain).unwrap().len();
        let before = sample.prompt_len();
        assert_eq!(sample.mask().len() - before, answer + 2, "{name}: the answer, the end of the turn, the line break");
        assert!(
            sample.mask()[before..before + answer + 1].iter().all(|m| *m) && !sample.mask().last().unwrap(),
            "{name}"
        );
    }
}

/// Masks with each tokenizer's own template: the text of what is learned is the replies.
#[test]
fn templates_can_be_supervised() {
    for (name, tokenizer) in chats() {
        let messages = [
            Message::user("first question"),
            Message::assistant("first reply"),
            Message::user("second question"),
            Message::assistant("second reply"),
        ];
        for (learn, replies) in
            [(Learn::Replies, &["first reply", "second reply"][..]), (Learn::LastReply, &["second reply"][..])]
        {
            let chat = ChatOptions { now: Some(0), ..ChatOptions::default() };
            let options = SuperviseOptions { learn: learn.clone(), chat: chat.clone(), ..SuperviseOptions::default() };
            let sample = tokenizer.supervised_chat(&messages, None, &options).unwrap();
            assert_eq!(sample.ids, tokenizer.encode_chat(&messages, None, &chat).unwrap(), "{name}");
            let learned: Vec<u32> =
                sample.ids.iter().zip(sample.mask()).filter(|(_, m)| *m).map(|(id, _)| *id).collect();
            let text = tokenizer.decode_exact(&learned, true).unwrap();
            for reply in replies {
                assert!(text.contains(reply), "{name}: {text:?}");
            }
            assert!(!text.contains("question"), "{name}: {text:?}");
            assert_eq!(
                learned.iter().filter(|id| tokenizer.is_special(**id)).count(),
                replies.len(),
                "{name}: {text:?}"
            );
            // What is not learned before the first reply is what the model is asked with.
            let asked = if learn == Learn::Replies { 1 } else { 3 };
            let prompt = ChatOptions { add_generation_prompt: true, ..chat };
            let prompt = tokenizer.encode_chat(&messages[..asked], None, &prompt).unwrap();
            assert_eq!(sample.prompt_len(), prompt.len(), "{name}");
            assert_eq!(sample.ids[..prompt.len()], prompt, "{name}");
        }
    }
}

#[test]
fn prefixes_belong_to_the_prompt() {
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let messages = [Message::user("q"), Message::assistant("a")];
    let chat = ChatOptions { framing: Framing::ChatMl, ..ChatOptions::default() };
    let prefix = "<think>\n\n</think>\n\n".to_string();
    let options = SuperviseOptions { chat, assistant_prefix: prefix.clone(), ..SuperviseOptions::default() };
    let sample = tokenizer.supervised_chat(&messages, None, &options).unwrap();
    let prompt = format!("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n{prefix}");
    let prompt = tokenizer.encode(&prompt, Specials::Parse).unwrap();
    assert_eq!(sample.ids[..prompt.len()], prompt);
    assert!(sample.mask()[..prompt.len()].iter().all(|m| !m));
    assert_eq!(tokenizer.decode_exact(&sample.ids[prompt.len()..], false).unwrap(), "a<|im_end|>\n");
}

#[test]
fn conversations_that_cannot_be_learned_are_errors() {
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let asked = [Message::user("q")];
    let options = SuperviseOptions::default();
    assert!(matches!(tokenizer.supervised_chat(&asked, None, &options), Err(Error::NothingLearned { .. })));
    let answered_twice = [Message::user("q"), Message::assistant("a"), Message::user("r")];
    let last = SuperviseOptions { learn: Learn::LastReply, ..SuperviseOptions::default() };
    assert!(matches!(tokenizer.supervised_chat(&answered_twice, None, &last), Err(Error::NothingLearned { .. })));
    // This template writes the conversation backwards: no prompt is the beginning of the whole.
    let backwards = "{% for m in messages[::-1] %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}";
    let tokenizer = tokenizer.with_chat_template(ChatTemplate::new(backwards).unwrap());
    let messages = [Message::user("q"), Message::assistant("a")];
    let error = tokenizer.supervised_chat(&messages, None, &options).unwrap_err();
    assert!(matches!(error, Error::TemplateShape { turn: 1, .. }), "{error}");
    // And this one never ends a turn.
    let endless = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}{% endfor %}\
                   {% if add_generation_prompt %}<|im_start|>assistant {% endif %}";
    let tokenizer = tokenizer.with_chat_template(ChatTemplate::new(endless).unwrap());
    let error = tokenizer.supervised_chat(&messages, None, &options).unwrap_err();
    assert!(matches!(error, Error::TemplateShape { turn: 1, .. }), "{error}");
}

/// ChatML has no form for tools or contents that are not text.
#[test]
fn framings_refuse_what_they_cannot_express() {
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let options = ChatOptions { framing: Framing::ChatMl, ..ChatOptions::prompt() };
    let call = Message::assistant("").with("tool_calls", json!([{ "name": "f", "arguments": {} }]));
    let parts = Message::new("user", json!([{ "type": "text", "text": "x" }])).unwrap();
    for message in [call, parts] {
        assert!(matches!(tokenizer.encode_chat(&[message], None, &options), Err(Error::Chat { .. })));
    }
    let tools = [json!({ "name": "f" })];
    assert!(matches!(tokenizer.encode_chat(&[Message::user("x")], Some(&tools), &options), Err(Error::Chat { .. })));
    let encoder = Tokenizer::builtin(Builtin::Encoder).unwrap();
    for framing in [Framing::Template, Framing::ChatMl] {
        let options = ChatOptions { framing, ..ChatOptions::default() };
        assert!(matches!(encoder.encode_chat(&[Message::user("x")], None, &options), Err(Error::Chat { .. })));
    }
}

#[test]
fn broken_folders_name_the_file() {
    let good = tempfile::tempdir().unwrap();
    Tokenizer::builtin(Builtin::Decoder).unwrap().save(good.path()).unwrap();
    let spoiled = |file: &str, content: &str| {
        let dir = tempfile::tempdir().unwrap();
        for path in list(good.path()) {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        match content {
            "" => std::fs::remove_file(dir.path().join(file)).unwrap(),
            _ => std::fs::write(dir.path().join(file), content).unwrap(),
        }
        Tokenizer::from_folder(dir.path())
    };
    for (file, content) in [
        ("tokenizer.json", ""),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "not JSON"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", r#"{"eos_token": "<|nowhere|>"}"#),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"5": {"content": "<|im_end|>"}}}"#),
        ("generation_config.json", r#"{"eos_token_id": [-1]}"#),
    ] {
        let error = spoiled(file, content).unwrap_err().to_string();
        assert!(error.contains(file), "{file} {content}: {error}");
    }
    // Templates are only needed for chats.
    let tokenizer = spoiled("chat_template.jinja", "{% if").unwrap();
    assert!(matches!(tokenizer.chat_template(), Err(Error::Template { .. })));
}

/// Spaces before punctuation go where the configuration asks for it, and only then.
#[test]
fn decoding_tidies_when_asked() {
    let text = "It is n't , he 's here . Is it ?";
    for (asked, expected) in [(false, text), (true, "It isn't, he's here. Is it?")] {
        let dir = tempfile::tempdir().unwrap();
        Tokenizer::builtin(Builtin::Decoder).unwrap().save(dir.path()).unwrap();
        let config = json!({ "clean_up_tokenization_spaces": asked });
        std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let ids = tokenizer.encode(text, Specials::Plain).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), expected);
        assert_eq!(tokenizer.decode_exact(&ids, false).unwrap(), text);
    }
}

#[test]
fn named_templates_and_listed_tokens() {
    let dir = tempfile::tempdir().unwrap();
    Tokenizer::builtin(Builtin::Decoder).unwrap().save(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let added = json!({ "content": "<extra>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
        "special": true });
    let config = json!({
        "eos_token": { "content": "<|im_end|>" },
        "chat_template": [{ "name": "tools", "template": "t" }, { "name": "default", "template": "{{ messages[0].content }}" }],
        "added_tokens_decoder": { "2048": added },
    });
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    let text = tokenizer.render_chat(&[Message::user("chosen")], None, &ChatOptions::default()).unwrap();
    assert_eq!(text, "chosen");
    assert_eq!(tokenizer.encode("<extra>", Specials::Parse).unwrap(), [2048]);
    assert!(tokenizer.is_special(2048) && tokenizer.vocab_size() == 2049);
    assert!(!tokenizer.encode("<extra>", Specials::Plain).unwrap().contains(&2048));
}

#[test]
fn the_builtin_encoder_tokenizer() {
    let tokenizer = Tokenizer::builtin(Builtin::Encoder).unwrap();
    let [pad, unknown, first, last, mask] =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(|token| tokenizer.token_to_id(token).unwrap());
    assert_eq!([pad, unknown, first, last, mask], [0, 1, 2, 3, 4]);
    assert_eq!((tokenizer.pad_id(), tokenizer.added_per_sequence(), tokenizer.vocab_size()), (Some(0), 2, 2000));
    let ids = tokenizer.encode_added("Thé NODE 北 writes", Specials::Plain).unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (first, last));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the node writes");
    assert_eq!(ids.iter().filter(|id| **id == unknown).count(), 1);
    // Cut to a length, the tokens around the text stay.
    let text = "node ".repeat(50);
    for max in [0, 1, 2, 3, 10, 51, 52, 53] {
        let (ids, cut) = tokenizer.encode_within(&text, Specials::Plain, max).unwrap();
        assert_eq!(ids.len(), max.clamp(2, 52));
        assert_eq!((ids[0], *ids.last().unwrap(), cut), (first, last, max < 52));
    }
}

/// A template of our own for the builtin tokenizer: tools, thinking, and tool results.
#[test]
fn the_builtin_template() {
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let tools = [json!({ "type": "function", "function": { "name": "search" } })];
    let call = json!([{ "type": "function", "function": { "name": "search", "arguments": { "query": "é" } } }]);
    let messages = [
        Message::system("Be brief."),
        Message::user("Who?"),
        Message::assistant("").with("reasoning_content", "look it up").with("tool_calls", call),
        Message::tool("r1"),
        Message::tool("r2"),
        Message::assistant("Ada."),
    ];
    let text = tokenizer.render_chat(&messages, Some(&tools), &ChatOptions::prompt()).unwrap();
    assert_eq!(
        text,
        "<|im_start|>system\nBe brief.\n\nThese functions can be called:\n\
         {\"type\": \"function\", \"function\": {\"name\": \"search\"}}\n\
         Call one by writing a JSON object with its name and arguments:\n\
         <tool_call>\n{\"name\": \"...\", \"arguments\": {...}}\n</tool_call><|im_end|>\n\
         <|im_start|>user\nWho?<|im_end|>\n\
         <|im_start|>assistant\n<think>\nlook it up\n</think>\n\n\
         <tool_call>\n{\"name\": \"search\", \"arguments\": {\"query\": \"é\"}}\n</tool_call><|im_end|>\n\
         <|im_start|>user\n<tool_response>\nr1\n</tool_response>\n<tool_response>\nr2\n</tool_response><|im_end|>\n\
         <|im_start|>assistant\nAda.<|im_end|>\n<|im_start|>assistant\n"
    );
    let silent = ChatOptions { enable_thinking: Some(false), ..ChatOptions::prompt() };
    let text = tokenizer.render_chat(&[Message::user("Who?")], None, &silent).unwrap();
    assert!(text.ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    // Every byte has a token, so nothing is unknown.
    let bytes: String = (0..=0x2ff).filter_map(char::from_u32).collect();
    assert_eq!(tokenizer.decode_exact(&tokenizer.encode(&bytes, Specials::Plain).unwrap(), false).unwrap(), bytes);
    assert_eq!(tokenizer.eos_ids(), [2041, 2039]);
    assert_eq!(tokenizer.pad_id(), Some(2039));
}
