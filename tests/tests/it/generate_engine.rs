//! The generation engine: an answer depends on its request and on nothing else, whatever is shared and whoever runs beside it.

use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use burn_lora::Stream;
use burn_models::decoder::{Decoder, DecoderConfig, Padded};
use burn_models::generate::{
    Engine, EngineConfig, Event, FinishReason, GenerateStats, Generation, Request, SamplingConfig,
};
use burn_models::text::{Builtin, Specials, Tokenizer};
use hearth_tests::{assert_close, devices, values};

use super::decoder_properties::{configs, decoder, each};

/// log p of the same tokens in other batches: sums in another order.
const LOGPROB: f32 = 1e-5;

/// Answers by request and sample, in this order.
type Answers = Vec<(usize, usize, Generation)>;

fn finish(engine: &mut Engine, answers: &mut Answers) {
    while step(engine, answers) {}
    answers.sort_by_key(|(request, sample, _)| (*request, *sample));
}

fn step(engine: &mut Engine, answers: &mut Answers) -> bool {
    let mut take = |event: Event| {
        if let Event::Done { request, sample, generation } = event {
            answers.push((request, sample, generation));
        }
    };
    engine.step(&mut take).unwrap()
}

fn all(model: &Decoder, requests: &[Request], batch_size: usize) -> (Answers, GenerateStats) {
    let mut engine = Engine::new(model, None, EngineConfig { batch_size, ..EngineConfig::default() }).unwrap();
    for request in requests {
        engine.push(request.clone()).unwrap();
    }
    let mut answers = Vec::new();
    finish(&mut engine, &mut answers);
    (answers, engine.stats())
}

/// The answers to each request by itself, one sample at a time.
fn alone(model: &Decoder, requests: &[Request]) -> Answers {
    let mut answers = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        let (found, _) = all(model, std::slice::from_ref(request), 1);
        answers.extend(found.into_iter().map(|(_, sample, answer)| (number, sample, answer)));
    }
    answers
}

fn assert_same(what: &str, got: &Answers, want: &Answers) {
    let places = |answers: &Answers| answers.iter().map(|(request, sample, _)| (*request, *sample)).collect::<Vec<_>>();
    assert_eq!(places(got), places(want), "{what}");
    for ((request, sample, got), (_, _, want)) in got.iter().zip(want) {
        let what = format!("{what}: request {request}, sample {sample}");
        assert_eq!((&got.ids, got.finish_reason), (&want.ids, want.finish_reason), "{what}");
        assert_close(&what, &got.logprobs, &want.logprobs, LOGPROB);
    }
}

/// A number below `limit`.
fn below(random: &mut Stream, limit: usize) -> usize {
    (random.unit() * limit as f64) as usize
}

/// Requests with settings of many kinds, many of whose prompts begin alike or are the same.
fn requests(random: &mut Stream, config: &DecoderConfig, count: usize) -> Vec<Request> {
    let text = |random: &mut Stream, length: usize| -> Vec<u32> {
        (0..length).map(|_| 3 + below(random, config.vocab_size - 3) as u32).collect()
    };
    let mut beginnings = vec![Vec::new(), text(random, 12)];
    let (inner, other) = (text(random, 9), text(random, 30));
    beginnings.push([beginnings[1].clone(), inner].concat());
    beginnings.push(other);
    let mut requests: Vec<Request> = Vec::new();
    for number in 0..count {
        let prompt = match below(random, 6) {
            0 if number > 0 => requests[below(random, number)].prompt.clone(),
            _ => {
                let (beginning, own) = (below(random, beginnings.len()), 1 + below(random, 7));
                [beginnings[beginning].clone(), text(random, own)].concat()
            }
        };
        let sampling = match below(random, 4) {
            0 => SamplingConfig::greedy(),
            1 => SamplingConfig { temperature: 0.7, top_k: 30, ..SamplingConfig::default() },
            2 => SamplingConfig { repetition_penalty: 1.4, min_p: 0.02, ..SamplingConfig::default() },
            _ => SamplingConfig { top_p: 0.9, ..SamplingConfig::default() },
        };
        let choices = match below(random, 5) {
            0 => vec![vec![5], vec![6, 7], vec![6, 7, 8], vec![9, 4]],
            _ => Vec::new(),
        };
        requests.push(Request {
            prompt,
            n: 1 + below(random, 3),
            sampling,
            max_new_tokens: below(random, 14),
            // Several, so that answers end at different times.
            stop_ids: Some((50..60).collect()),
            choices,
            seed: below(random, 3) as u64,
            stream: number as u64,
            ..Request::default()
        });
    }
    requests
}

#[test]
fn answers_depend_on_their_request_only() {
    each(|config, device, what| {
        let model = decoder(config, device);
        for case in 0..3 {
            let mut random = Stream::new(case, &["requests"]);
            let requests = requests(&mut random, config, 9);
            let want = alone(&model, &requests);
            assert!(want.iter().any(|(_, _, answer)| answer.finish_reason == FinishReason::Stop));
            for batch_size in 1..=8 {
                let what = format!("{what}, case {case}, batch {batch_size}");
                let settings = EngineConfig { batch_size, keep: below(&mut random, 2) == 0 };
                let mut engine = Engine::new(&model, None, settings).unwrap();
                // They arrive while others run.
                let mut answers = Vec::new();
                for request in &requests {
                    engine.push(request.clone()).unwrap();
                    for _ in 0..below(&mut random, 4) {
                        step(&mut engine, &mut answers);
                    }
                }
                finish(&mut engine, &mut answers);
                assert_same(&what, &answers, &want);
                let (tokens, stats) = (want.iter().map(|(_, _, a)| a.ids.len()).sum::<usize>(), engine.stats());
                assert_eq!(stats.new_tokens, tokens, "{what}");
                assert!(stats.prefilled_tokens < stats.prompt_tokens, "{what}: {stats:?}");
            }
        }
    });
}

#[test]
fn rows_join_a_running_batch() {
    let (_, device) = devices().remove(0);
    let model = decoder(&configs()[0], &device);
    // One long answer beside many short ones: the batch goes on until the long one ends, and no longer.
    let request = |number: u32, max_new_tokens| Request {
        prompt: vec![3 + number, 4, 5],
        max_new_tokens,
        ignore_eos: true,
        stream: number.into(),
        ..Request::default()
    };
    let requests: Vec<Request> = (0..16).map(|i| request(i, if i == 0 { 31 } else { 3 })).collect();
    let (answers, stats) = all(&model, &requests, 2);
    assert_same("two at a time", &answers, &alone(&model, &requests));
    assert_eq!(stats, GenerateStats { prompt_tokens: 48, prefilled_tokens: 48, new_tokens: 76, steps: 30 });
}

#[test]
fn what_prompts_share_is_computed_once() {
    each(|config, device, what| {
        let model = decoder(config, device);
        let header: Vec<u32> = (0..20).map(|i| 3 + i * 7 % 90).collect();
        // Two groups below the header, and prompts that are all of another one.
        let groups = [vec![], (0..10).map(|i| 60 - i).collect::<Vec<u32>>()];
        let prompt = |i: u32| [&header[..], &groups[i as usize % 2], &[10 + i, 3, 4]].concat();
        let requests: Vec<Request> = (0..6)
            .map(|i| Request {
                prompt: prompt(i),
                n: 4,
                max_new_tokens: 5,
                // All four at one time, so that four rows hold a prompt's answers from the first token to the last.
                ignore_eos: true,
                stream: i.into(),
                ..Request::default()
            })
            .collect();
        let want = alone(&model, &requests);
        let prompt_tokens = 4 * (3 * 23 + 3 * 33);
        for batch_size in [4, 24] {
            let (found, stats) = all(&model, &requests, batch_size);
            assert_same(&format!("{what}, batch {batch_size}"), &found, &want);
            // The header, the one group, and three tokens of each prompt.
            assert_eq!((stats.prompt_tokens, stats.prefilled_tokens), (prompt_tokens, 20 + 10 + 6 * 3), "{what}");
        }
    });
}

#[test]
fn a_conversation_goes_on_from_what_was_computed() {
    each(|config, device, what| {
        let model = decoder(config, device);
        let settings = EngineConfig { batch_size: 1, keep: true };
        let mut engine = Engine::new(&model, None, settings).unwrap();
        let mut prompt: Vec<u32> = (0..15).map(|i| 5 + i).collect();
        let mut computed = 0;
        for turn in 0..4u64 {
            let request = Request {
                prompt: prompt.clone(),
                max_new_tokens: [6, 1, 9, 4][turn as usize],
                ignore_eos: true,
                stream: turn,
                ..Request::default()
            };
            engine.push(request.clone()).unwrap();
            let mut answers = Vec::new();
            finish(&mut engine, &mut answers);
            let got = &answers[0].2;
            let want = &alone(&model, &[request])[0].2;
            assert_eq!(got.ids, want.ids, "{what}, turn {turn}");
            assert_close(what, &got.logprobs, &want.logprobs, LOGPROB);
            // All but the last token of the answer before, which nothing was computed after.
            let new = engine.stats().prefilled_tokens - computed;
            assert_eq!(new, if turn == 0 { 15 } else { 1 + 3 }, "{what}, turn {turn}");
            computed += new;
            prompt = [&prompt[..], &got.ids, &[40, 41, 42]].concat();
        }
        // Back to the beginning of it.
        prompt.truncate(12);
        engine.push(Request { prompt, max_new_tokens: 1, ..Request::default() }).unwrap();
        finish(&mut engine, &mut Vec::new());
        assert_eq!(engine.stats().prefilled_tokens - computed, 1, "{what}");
    });
}

#[test]
fn cancelled_answers_are_those_so_far() {
    let (_, device) = devices().remove(0);
    let model = decoder(&configs()[0], &device);
    let request = |stream| Request { prompt: vec![4, 5, 6], n: 2, stream, ignore_eos: true, ..Request::default() };
    let requests = [request(0), Request { max_new_tokens: 9, ..request(1) }, request(2)];
    let mut engine = Engine::new(&model, None, EngineConfig { batch_size: 4, keep: false }).unwrap();
    for request in &requests {
        engine.push(request.clone()).unwrap();
    }
    let mut answers = Vec::new();
    for _ in 0..5 {
        assert!(step(&mut engine, &mut answers));
    }
    for request in [0, 2] {
        let mut take = |event: Event| {
            let Event::Done { request, sample, generation } = event else { panic!("{event:?}") };
            answers.push((request, sample, generation));
        };
        engine.cancel(request, &mut take).unwrap();
    }
    finish(&mut engine, &mut answers);
    let want = alone(&model, &requests[..2]);
    // The third request was not begun.
    assert_eq!(answers.iter().map(|a| (a.0, a.1)).collect::<Vec<_>>(), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    for ((_, _, got), (_, _, whole)) in answers[..2].iter().zip(&want) {
        assert_eq!((got.finish_reason, &got.ids[..]), (FinishReason::Cancelled, &whole.ids[..6]));
    }
    assert_same("the other", &answers[2..].to_vec(), &want[2..].to_vec());
}

/// A decoder with the words of the built-in tokenizer.
fn speaking(device: &Device) -> (Decoder, Tokenizer) {
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let config = DecoderConfig {
        eos_token_id: tokenizer.eos_ids().to_vec(),
        initializer_range: 0.3,
        ..hearth_tests::small_decoder(tokenizer.vocab_size())
    };
    (config.init(5, FloatDType::F32, device).unwrap(), tokenizer)
}

/// The answers to some requests, and the streamed text of each.
fn told(model: &Decoder, tokenizer: &Tokenizer, requests: &[Request]) -> Vec<(Generation, String)> {
    let mut engine = Engine::new(model, Some(tokenizer), EngineConfig::default()).unwrap();
    for request in requests {
        engine.push(request.clone()).unwrap();
    }
    let mut streamed = vec![String::new(); requests.len()];
    let mut answers: Vec<Option<Generation>> = vec![None; requests.len()];
    let mut take = |event: Event| match event {
        Event::Token { request, text, .. } => streamed[request] += text,
        Event::Done { request, generation, .. } => answers[request] = Some(generation),
    };
    while engine.step(&mut take).unwrap() {}
    answers.into_iter().map(Option::unwrap).zip(streamed).collect()
}

#[test]
fn texts_end_an_answer_wherever_tokens_begin() {
    for (name, device) in devices() {
        let (model, tokenizer) = speaking(&device);
        let request = |stream, stop: Vec<String>| Request {
            prompt: tokenizer.encode("A step", Specials::Plain).unwrap(),
            max_new_tokens: 40,
            ignore_eos: true,
            stop,
            stream,
            streamed: true,
            ..Request::default()
        };
        let free: Vec<Request> = (0..8).map(|stream| request(stream, Vec::new())).collect();
        let (mut tried, mut stopping) = (0, Vec::new());
        let whole = told(&model, &tokenizer, &free);
        for (stream, (answer, streamed)) in (0..).zip(&whole) {
            let text = answer.text.as_deref().unwrap();
            assert_eq!((streamed.as_str(), answer.finish_reason), (text, FinishReason::Length), "{name}");
            // A few characters from the middle of the text, most of them across tokens.
            let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
            let middle = places.len() / 2;
            let stop = text[places[middle]..places[middle + 4]].to_string();
            if stop.contains(char::REPLACEMENT_CHARACTER) {
                continue;
            }
            tried += 1;
            stopping.push((stream, stop.clone(), request(stream, vec!["never said".into(), stop])));
        }
        assert!(tried > 2, "{name}: nothing to stop at");
        let requests: Vec<Request> = stopping.iter().map(|(.., request)| request.clone()).collect();
        for ((stream, stop, _), (answer, streamed)) in stopping.iter().zip(told(&model, &tokenizer, &requests)) {
            let (full, _) = &whole[*stream as usize];
            let (said, whole_text) = (answer.text.as_deref().unwrap(), full.text.as_deref().unwrap());
            assert_eq!(said, &whole_text[..whole_text.find(stop.as_str()).unwrap()], "{name}: {stop:?}");
            assert_eq!((streamed.as_str(), answer.finish_reason), (said, FinishReason::Stop), "{name}");
            // Up to the token that completed it.
            let count = answer.ids.len();
            assert_eq!(answer.ids, full.ids[..count], "{name}");
            assert!(tokenizer.decode(&answer.ids, true).unwrap().contains(stop.as_str()), "{name}: {stop:?}");
            assert!(!tokenizer.decode(&answer.ids[..count - 1], true).unwrap().contains(stop.as_str()), "{name}");
        }
    }
}

/// log p of `answer` after `prompt`, by a forward pass over both.
fn scored(model: &Decoder, prompt: &[u32], answer: &[u32]) -> f32 {
    let (text, device) = ([prompt, answer].concat(), model.device());
    let input = Padded::right(&[&text], 0).unwrap().input(model.config().vocab_size, &device).unwrap();
    let (first, end) = (prompt.len() - 1, text.len() - 1);
    let hidden =
        model.forward_hidden(&input).slice([0..1, first..end]).reshape([end - first, model.config().hidden_size]);
    let targets: Vec<i32> = answer.iter().map(|id| *id as i32).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [answer.len()]), &device);
    values(model.token_logprobs(hidden, targets)).iter().sum()
}

#[test]
fn answers_out_of_a_list() {
    each(|config, device, what| {
        let model = decoder(config, device);
        let choices = vec![vec![20], vec![21, 22], vec![21, 23], vec![24, 25], vec![24]];
        let prompt = vec![7, 8, 9, 10];
        // The fifth begins the fourth: a token that ends answers tells them apart.
        let of = |choice: usize| match choice {
            4 => config.eos_token_id.iter().map(|end| scored(&model, &prompt, &[24, *end]).exp()).sum::<f32>().ln(),
            _ => scored(&model, &prompt, &choices[choice]),
        };
        let request = Request {
            prompt: prompt.clone(),
            n: 64,
            choices: choices.clone(),
            // No limit for choices.
            max_new_tokens: 1,
            sampling: SamplingConfig { temperature: 3.0, ..SamplingConfig::default() },
            ..Request::default()
        };
        let (answers, _) = all(&model, std::slice::from_ref(&request), 64);
        let mut seen = [0; 5];
        for (_, _, answer) in &answers {
            let choice = answer.choice.unwrap();
            seen[choice] += 1;
            let count = choices[choice].len();
            assert_eq!(answer.ids[..count], choices[choice], "{what}");
            assert!(answer.ids[count..].iter().all(|id| choice == 4 && config.eos_token_id.contains(id)), "{what}");
            assert_eq!(
                (answer.ids.len(), answer.finish_reason),
                (count + usize::from(choice == 4), FinishReason::Stop)
            );
            // What lies on the way of the answer is known; the single token always.
            let known: Vec<usize> = (0..5).filter(|i| answer.choice_logprobs[*i].is_some()).collect();
            let way: &[usize] = [&[0][..], &[0, 1, 2], &[0, 1, 2], &[0, 3, 4], &[0, 3, 4]][choice];
            assert_eq!(known, way, "{what}, choice {choice}");
            for i in known {
                assert_close(what, &[answer.choice_logprobs[i].unwrap()], &[of(i)], 1e-4);
            }
        }
        assert!(seen.iter().filter(|count| **count > 0).count() > 2, "{what}: {seen:?}");
        let greedy = Request { sampling: SamplingConfig::greedy(), n: 1, choices: vec![vec![30], vec![31]], ..request };
        let (answers, _) = all(&model, &[greedy], 1);
        let best = scored(&model, &prompt, &[31]) > scored(&model, &prompt, &[30]);
        assert_eq!(answers[0].2.choice, Some(usize::from(best)), "{what}");
    });
}

#[test]
fn requests_that_cannot_be_answered() {
    let (_, device) = devices().remove(0);
    let config = DecoderConfig { max_position_embeddings: 8, ..configs().remove(0) };
    let model = decoder(&config, &device);
    let mut engine = Engine::new(&model, None, EngineConfig::default()).unwrap();
    let mut said = |request: Request| engine.push(Request { prompt: vec![3; 6], ..request }).unwrap_err().to_string();
    let with = |choices: &[&[u32]]| Request {
        choices: choices.iter().map(|choice| choice.to_vec()).collect(),
        ..Request::default()
    };
    assert!(said(Request { n: 0, ..Request::default() }).contains("n is 0"));
    assert!(said(Request { stop: vec![String::new()], ..Request::default() }).contains("a stop text is empty"));
    assert!(said(Request { stop: vec!["a".into()], ..Request::default() }).contains("need a tokenizer"));
    assert!(said(Request { streamed: true, ..Request::default() }).contains("need a tokenizer"));
    assert!(said(with(&[&[3, 3, 3]])).contains("a choice has 3 tokens, but prompt 0 leaves 2 positions"));
    assert!(said(with(&[&[97]])).contains("token id 97 of a choice"));
    assert!(said(with(&[&[3], &[3]])).contains("choices 0 and 1 are the same"));
    let sampling = SamplingConfig { min_p: 2.0, ..SamplingConfig::default() };
    assert!(said(Request { sampling, ..Request::default() }).contains("min_p is 2"));
    assert_eq!(engine.push(Request { prompt: vec![3], ..Request::default() }).unwrap(), 0);
    assert!(Engine::new(&model, None, EngineConfig { batch_size: 0, keep: false }).is_err());
}
