//! What of a chat is learned: turns by role, parts between tags, ends of turns, headers, reasoning. Expected texts are written by
//! hand.

use burn_models::Error;
use burn_models::text::{
    Builtin, ChatOptions, EndOfTurn, Framing, Learn, Mask, Message, SuperviseOptions, Supervised, Thinking, Tokenizer,
};
use hearth_tests::fixture_folders;
use proptest::prelude::*;
use serde_json::json;

fn builtin() -> Tokenizer {
    Tokenizer::builtin(Builtin::Decoder).unwrap()
}

/// The builtin tokenizer, and Qwen's with the template of Qwen3 where the reference folders are.
fn tokenizers() -> Vec<(String, Tokenizer)> {
    let mut all = vec![("builtin".to_string(), builtin())];
    for folder in fixture_folders("Qwen's tokenizer", |f| f.join("chat_template_qwen3.jinja").exists()) {
        let template = std::fs::read_to_string(folder.join("chat_template_qwen3.jinja")).unwrap();
        let template = burn_models::text::ChatTemplate::new(&template).unwrap();
        let tokenizer = Tokenizer::from_folder(&folder).unwrap().with_chat_template(template);
        all.push((folder.display().to_string(), tokenizer));
    }
    all
}

fn chatml() -> SuperviseOptions {
    let chat = ChatOptions { framing: Framing::ChatMl, ..ChatOptions::default() };
    SuperviseOptions { chat, ..SuperviseOptions::default() }
}

/// The texts of runs of ids with one weight, those with weight 0 left out.
fn learned(tokenizer: &Tokenizer, sample: &Supervised) -> Vec<(String, f32)> {
    assert_eq!(sample.ids.len(), sample.weights.len());
    let mut runs: Vec<(Vec<u32>, f32)> = Vec::new();
    for (id, weight) in sample.ids.iter().zip(&sample.weights) {
        match runs.last_mut() {
            Some((run, of)) if of == weight => run.push(*id),
            _ => runs.push((vec![*id], *weight)),
        }
    }
    runs.retain(|(_, weight)| *weight > 0.0);
    runs.into_iter().map(|(run, weight)| (tokenizer.decode_exact(&run, false).unwrap(), weight)).collect()
}

fn texts(tokenizer: &Tokenizer, messages: &[Message], options: &SuperviseOptions) -> Vec<String> {
    let sample = tokenizer.supervised_chat(messages, None, options).unwrap();
    learned(tokenizer, &sample).into_iter().map(|(text, _)| text).collect()
}

fn two_turns() -> Vec<Message> {
    vec![
        Message::system("be short"),
        Message::user("one?"),
        Message::assistant("1"),
        Message::user("two?"),
        Message::assistant("2"),
    ]
}

#[test]
fn turns_are_chosen_by_reply_and_by_role() {
    for (name, tokenizer) in tokenizers() {
        let learn = |learn: Learn| texts(&tokenizer, &two_turns(), &SuperviseOptions { learn, ..chatml() });
        assert_eq!(learn(Learn::Replies), ["1<|im_end|>", "2<|im_end|>"], "{name}");
        assert_eq!(learn(Learn::LastReply), ["2<|im_end|>"], "{name}");
        let all = "<|im_start|>system\nbe short<|im_end|>\n<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\n1\
                   <|im_end|>\n<|im_start|>user\ntwo?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n";
        assert_eq!(learn(Learn::Everything), [all], "{name}");

        let roles = Learn::Roles([("user".to_string(), 0.25), ("assistant".to_string(), 2.0)].into());
        let sample = tokenizer.supervised_chat(&two_turns(), None, &SuperviseOptions { learn: roles, ..chatml() });
        let want = [
            ("<|im_start|>user\none?<|im_end|>\n", 0.25),
            ("1<|im_end|>", 2.0),
            ("<|im_start|>user\ntwo?<|im_end|>\n", 0.25),
            ("2<|im_end|>", 2.0),
        ];
        let got = learned(&tokenizer, &sample.unwrap());
        assert_eq!(got, want.map(|(text, weight)| (text.to_string(), weight)), "{name}");
        let system = Learn::Roles([("system".to_string(), 1.0)].into());
        assert_eq!(learn(system), ["<|im_start|>system\nbe short<|im_end|>\n"], "{name}");

        let options = SuperviseOptions { learn: Learn::EachReply, ..chatml() };
        let samples = tokenizer.supervised_chats(&two_turns(), None, &options).unwrap();
        let whole = tokenizer.supervised_chat(&two_turns(), None, &options).unwrap();
        assert_eq!((samples.len(), samples.last()), (2, Some(&whole)), "{name}");
        assert_eq!(learned(&tokenizer, &samples[0]), [("1<|im_end|>".to_string(), 1.0)], "{name}");
        assert!(samples[1].ids.starts_with(&samples[0].ids), "{name}: the second goes on from the first");
    }
}

#[test]
fn ends_and_headers_are_settings() {
    for (name, tokenizer) in tokenizers() {
        let end = |end_of_turn| texts(&tokenizer, &two_turns(), &SuperviseOptions { end_of_turn, ..chatml() });
        assert_eq!(end(EndOfTurn::Ignore), ["1", "2"], "{name}");
        assert_eq!(end(EndOfTurn::TokenAndNewline), ["1<|im_end|>\n", "2<|im_end|>\n"], "{name}");
        let options = SuperviseOptions { learn_header: true, ..chatml() };
        let want = ["<|im_start|>assistant\n1<|im_end|>", "<|im_start|>assistant\n2<|im_end|>"];
        assert_eq!(texts(&tokenizer, &two_turns(), &options), want, "{name}");
    }
}

/// The forms of section 1.5 of GAP: a block after a blank line, one glued to what is before it, one that ends the reply.
#[test]
fn what_tools_answered_is_not_learned() {
    let trajectory = "<think>a</think>\n\n<observation>\nDoc 1 <|im_end|> é\n</observation>\n\n<think>b</think>\
                      <observation>x</observation>\n<answer>c</answer>\n<observation>y</observation>";
    let chat = [Message::user("q"), Message::assistant(trajectory)];
    for (name, tokenizer) in tokenizers() {
        let mask = Mask::Tags(vec!["observation".into()]);
        let options = SuperviseOptions { mask: mask.clone(), ..chatml() };
        let got = texts(&tokenizer, &chat, &options);
        let all = got.concat();
        for hidden in ["Doc", "é", "observation", "x", "y"] {
            assert!(!all.contains(hidden), "{name}: {got:?}");
        }
        // A token that a tag shares with what is beside it is not learned either: at most the brackets of a neighbour.
        for shown in ["<think>a</think", "<think>b</think", "answer>c</answer", "<|im_end|>"] {
            assert!(all.contains(shown), "{name}: {shown} is not in {got:?}");
        }
        // Everything is learned but that.
        let sample =
            tokenizer.supervised_chat(&chat, None, &SuperviseOptions { learn: Learn::Everything, mask, ..chatml() });
        let everything: String = learned(&tokenizer, &sample.unwrap()).into_iter().map(|(text, _)| text).collect();
        assert!(everything.starts_with("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>a"), "{name}");
        assert!(!everything.contains("Doc"), "{name}: {everything}");
    }
}

#[test]
fn tags_that_do_not_pair_are_refused() {
    let tokenizer = builtin();
    let options = SuperviseOptions { mask: Mask::Tags(vec!["observation".into()]), ..chatml() };
    for (reply, want) in [
        ("a<observation>b", "message 3: <observation> at byte 1 of the reply is never closed"),
        ("a</observation>", "message 3: </observation> at byte 1 of the reply closes what is not open"),
        ("<observation><observation></observation>", "<observation> at byte 13 of the reply stands inside another tag"),
    ] {
        // Every learned turn is looked at, not the last one only.
        let chat = [
            Message::user("q"),
            Message::assistant("<observation>1</observation>"),
            Message::user("q"),
            Message::assistant(reply),
            Message::user("q"),
            Message::assistant("fine"),
        ];
        let error = tokenizer.supervised_chat(&chat, None, &options).unwrap_err();
        assert!(matches!(error, Error::Tags { turn: 3, .. }) && error.to_string().contains(want), "{error}");
        let last = SuperviseOptions { learn: Learn::LastReply, ..options.clone() };
        tokenizer.supervised_chat(&chat, None, &last).unwrap();
    }
}

/// The published algorithm on text, with Qwen's tokenizer: the forms behind E1, E3, E4 and E5.
#[test]
fn the_published_mask_on_text() {
    for (name, tokenizer) in tokenizers().into_iter().skip(1) {
        let options = SuperviseOptions {
            mask: Mask::TagTokens("observation".into()),
            end_of_turn: EndOfTurn::TokenAndNewline,
            ..chatml()
        };
        let reply = |text: &str| [Message::user("q"), Message::assistant(text)];
        let found = "a</wiki_search>\n\n<observation>\nDoc\n</observation>\n\n<think>b</think>";
        let want = ["a</wiki_search>\n\n", "<think>b</think><|im_end|>\n"];
        assert_eq!(texts(&tokenizer, &reply(found), &options), want, "{name}");
        // Glued: nothing is masked, and what the tool said is learned.
        let glued = "a</wiki_search><observation>\nDoc\n</observation>\n\n<think>b</think>";
        assert_eq!(texts(&tokenizer, &reply(glued), &options), [format!("{glued}<|im_end|>\n")], "{name}");
        for (text, problem) in [
            ("a\n<observation>\nDoc\n</observation>\n<think>", "exactly one blank line"),
            ("a\n<observation>\nDoc\n</observation>", "exactly one blank line"),
            ("a\n<observation>\nDoc", "1 <observation> and 0 </observation>"),
        ] {
            let error = tokenizer.supervised_chat(&reply(text), None, &options).unwrap_err();
            assert!(
                matches!(error, Error::Tags { turn: 1, .. }) && error.to_string().contains(problem),
                "{name} {error}"
            );
        }
    }
}

fn thoughtful() -> Vec<Message> {
    vec![
        Message::user("one?"),
        Message::assistant("<think>\nfirst\n</think>\n\n1"),
        Message::user("two?"),
        Message::assistant("<think>\nsecond\n</think>\n\n2"),
    ]
}

#[test]
fn reasoning_is_a_setting() {
    let (first, second) = ("<think>\nfirst\n</think>\n\n1<|im_end|>", "<think>\nsecond\n</think>\n\n2<|im_end|>");
    let empty = "<think>\n\n</think>\n\n";
    for (name, tokenizer) in tokenizers() {
        let with = |thinking| SuperviseOptions { thinking, ..chatml() };
        for keeps in [Thinking::Template, Thinking::Keep] {
            assert_eq!(texts(&tokenizer, &thoughtful(), &with(keeps)), [first, second], "{name}");
        }
        let stripped = texts(&tokenizer, &thoughtful(), &with(Thinking::StripEarlier));
        assert_eq!(stripped, ["1<|im_end|>", second], "{name}");
        let options = with(Thinking::EmptyBlock);
        assert_eq!(texts(&tokenizer, &thoughtful(), &options), ["1<|im_end|>", "2<|im_end|>"], "{name}");
        let sample = tokenizer.supervised_chat(&thoughtful(), None, &options).unwrap();
        let whole = tokenizer.decode_exact(&sample.ids, false).unwrap();
        assert_eq!(whole.matches(&format!("assistant\n{empty}")).count(), 2, "{name}: {whole}");
    }
    // Qwen3's own template takes the first reasoning out.
    for (name, tokenizer) in tokenizers().into_iter().skip(1) {
        let with = |thinking| SuperviseOptions { thinking, ..SuperviseOptions::default() };
        let error = tokenizer.supervised_chat(&thoughtful(), None, &with(Thinking::Keep)).unwrap_err();
        assert!(matches!(error, Error::TemplateShape { turn: 1, .. }), "{name}: {error}");
        let each = SuperviseOptions { learn: Learn::EachReply, ..with(Thinking::Keep) };
        let error = tokenizer.supervised_chats(&thoughtful(), None, &each).unwrap_err();
        assert!(matches!(error, Error::TemplateShape { turn: 1, .. }), "{name}: {error}");
        // A sample for each reply keeps the reasoning that belongs to it.
        let each = SuperviseOptions { learn: Learn::EachReply, ..with(Thinking::Template) };
        let samples = tokenizer.supervised_chats(&thoughtful(), None, &each).unwrap();
        let replies: Vec<String> = samples.iter().flat_map(|s| learned(&tokenizer, s)).map(|(text, _)| text).collect();
        assert_eq!(replies, [first, second], "{name}");
        // The template writes the empty block before the last reply itself: it is not written twice, nor learned.
        let options = with(Thinking::EmptyBlock);
        let sample = tokenizer.supervised_chat(&thoughtful()[2..], None, &options).unwrap();
        let whole = tokenizer.decode_exact(&sample.ids, false).unwrap();
        assert_eq!(whole.matches(empty).count(), 1, "{name}: {whole}");
        assert_eq!(texts(&tokenizer, &thoughtful()[2..], &options), ["2<|im_end|>"], "{name}");
        let asked = ChatOptions { enable_thinking: Some(false), ..ChatOptions::prompt() };
        let prompt = tokenizer.encode_chat(&thoughtful()[2..3], None, &asked).unwrap();
        assert_eq!(sample.ids[..sample.prompt_len()], prompt, "{name}: asked as without thinking");
    }
}

/// A chat with tools: questions, calls, answers of tools, replies, with and without reasoning.
fn chat() -> impl Strategy<Value = Vec<Message>> {
    let text = || prop_oneof!["[a-z <>|/]{1,12}", Just("<|im_end|>".to_string()), Just("é\n\n".to_string())];
    let reply = (text(), any::<bool>()).prop_map(|(text, thinks)| match thinks {
        true => Message::assistant(format!("<think>\nwhy {text}\n</think>\n\n{text}")),
        false => Message::assistant(text),
    });
    let called = (text(), text(), 1..3usize).prop_map(|(argument, answer, count)| {
        let call = json!({"type": "function", "function": {"name": "search", "arguments": {"query": argument}}});
        let mut turns = vec![Message::assistant("").with("tool_calls", vec![call; count])];
        turns.extend((0..count).map(|i| Message::tool(format!("{answer}{i}"))));
        turns
    });
    let round = (text(), prop::collection::vec(called, 0..3), reply).prop_map(|(question, calls, reply)| {
        let mut turns = vec![Message::user(question)];
        turns.extend(calls.concat());
        turns.push(reply);
        turns
    });
    (any::<bool>(), prop::collection::vec(round, 1..4)).prop_map(|(system, rounds)| {
        let mut turns = if system { vec![Message::system("be short")] } else { vec![] };
        turns.extend(rounds.concat());
        turns
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Every reply is learned behind exactly the ids with which the model is asked for it. The whole chat in one sample either
    /// has that property for its every reply, or is refused; one sample for each reply always has it.
    #[test]
    fn what_comes_before_a_reply_is_how_it_is_asked_for(chat in chat()) {
        let tools = [json!({"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}})];
        for (name, tokenizer) in tokenizers_once() {
            let asked = |reply: usize| {
                tokenizer.encode_chat(&chat[..reply], Some(&tools), &ChatOptions { now: Some(0), ..ChatOptions::prompt() })
            };
            let replies: Vec<usize> = (0..chat.len()).filter(|i| chat[*i].role() == "assistant").collect();
            let options = |learn| SuperviseOptions {
                learn,
                chat: ChatOptions { now: Some(0), ..ChatOptions::default() },
                ..SuperviseOptions::default()
            };
            let each = tokenizer.supervised_chats(&chat, Some(&tools), &options(Learn::EachReply)).unwrap();
            prop_assert_eq!(each.len(), replies.len());
            for (sample, reply) in each.iter().zip(&replies) {
                prop_assert_eq!(&sample.ids[..sample.prompt_len()], asked(*reply).unwrap(), "{}: reply {}", name, reply);
            }
            match tokenizer.supervised_chat(&chat, Some(&tools), &options(Learn::Replies)) {
                Ok(sample) => {
                    let mask = sample.mask();
                    let starts: Vec<usize> =
                        (1..mask.len()).filter(|at| mask[*at] && !mask[at - 1]).collect();
                    prop_assert_eq!(starts.len(), replies.len(), "{}", name);
                    for (start, reply) in starts.iter().zip(&replies) {
                        prop_assert_eq!(&sample.ids[..*start], asked(*reply).unwrap(), "{}: reply {}", name, reply);
                    }
                }
                Err(Error::TemplateShape { .. }) => {}
                Err(other) => prop_assert!(false, "{}: {}", name, other),
            }
        }
    }
}

fn tokenizers_once() -> &'static [(String, Tokenizer)] {
    static ALL: std::sync::OnceLock<Vec<(String, Tokenizer)>> = std::sync::OnceLock::new();
    ALL.get_or_init(tokenizers)
}
