//! From conversations to batches, with a real tokenizer.

use burn_models::text::{Builtin, EndOfTurn, Specials, SuperviseOptions, Supervised, Tokenizer};
use datasets::chat::ChatSource;
use datasets::graph_questions::{Collection, GraphQuestions, GraphQuestionsConfig, OutputPaths, SourceWorkflow};
use datasets::sft::{Layout, Overlong, Packing, PlanConfig, SftDataset, SftOptions, SftSelection, StepPlan};
use datasets::synthetic::{Synthetic, SyntheticConfig};
use datasets::templates::Templates;
use std::fs;
use std::path::{Path, PathBuf};

fn question_file(folder: &Path) -> PathBuf {
    let config =
        SyntheticConfig { workflows: 12, tasks: 6, train: 40, val: 10, test: 10, ..SyntheticConfig::default() };
    let data = Synthetic::generate(&config, 3).unwrap();
    let workflows = data.workflows.into_iter().enumerate().map(|(number, workflow)| SourceWorkflow {
        sub_dataset: "made".into(),
        workflow_id: number as i64,
        workflow,
    });
    let collection = Collection { workflows: workflows.collect(), files: Vec::new(), conflicting_ids: 0 };
    let paths = OutputPaths::in_folder(folder);
    let questions = GraphQuestions::new(GraphQuestionsConfig::default(), Templates::default(), 1).unwrap();
    questions.write(&collection, &paths).unwrap();
    paths.train
}

#[test]
fn replies_are_learned_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = question_file(folder.path());
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let dataset = SftDataset::from_chat(&path, &tokenizer, &SftOptions::default()).unwrap();
    let lines = hearth_tests::json_lines(&path);
    assert_eq!(dataset.len(), lines.len());
    for (sample, line) in lines.iter().enumerate() {
        let ids = dataset.ids(sample);
        let learned: Vec<u32> = dataset.learned(sample).flat_map(|(span, _)| ids[span].to_vec()).collect();
        let said = line["messages"][1]["content"].as_str().unwrap();
        let (end, reply) = learned.split_last().unwrap();
        assert_eq!(tokenizer.decode(reply, false).unwrap(), said);
        assert!(tokenizer.eos_ids().contains(end));
        assert_eq!(tokenizer.encode(said, Specials::Plain).unwrap(), reply);
        assert_eq!(dataset.line(sample) as usize, sample + 1);
    }
    let total: usize = dataset.lengths().iter().map(|length| *length as usize).sum();
    assert_eq!(dataset.counts().tokens as usize, total);

    // The same with the tokens in a file.
    let selection = SftSelection { sources: vec![ChatSource::of(&[&path])], ..SftSelection::default() };
    let saved = folder.path().join("samples");
    assert_eq!(SftDataset::read_into(&saved, &selection, &tokenizer, &SftOptions::default()).unwrap(), dataset);
    assert_eq!(SftDataset::load(&saved).unwrap(), dataset);
}

#[test]
fn an_epoch_of_batches_holds_every_learned_token_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = question_file(folder.path());
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let dataset = SftDataset::from_chat(&path, &tokenizer, &SftOptions::default()).unwrap();
    let mut computed = Vec::new();
    for packing in [Packing::Padded, Packing::Packed, Packing::SharedPrefix] {
        let config = PlanConfig { sequences_per_step: 16, micro_tokens: 2048, packing, ..PlanConfig::default() };
        let plan = StepPlan::new(&dataset, config, 9).unwrap();
        let mut places = 0;
        for epoch in 0..2 {
            let order = plan.epoch(epoch);
            let (mut targets, mut tokens) = (0.0, 0);
            for step in 0..order.len() {
                let mut of_step = 0.0;
                for group in order.step(step) {
                    let batch = dataset.batch(&group, packing, tokenizer.fill_id()).unwrap();
                    assert!(group.len() == 1 || batch.computed() <= 2048, "{packing:?}: {}", batch.computed());
                    assert!(batch.rows.is_sorted() && batch.places.is_sorted());
                    assert_eq!(batch.rows.last().map(|row| *row as usize + 1), Some(batch.places.len()));
                    if let Layout::Padded(padded) = &batch.layout {
                        for (row, target) in batch.rows.iter().zip(&batch.targets) {
                            let place = batch.places[*row as usize] as usize + 1;
                            assert_eq!((padded.ids[place], padded.mask[place]), (*target, true));
                        }
                    }
                    of_step += batch.weight();
                    tokens += batch.tokens;
                    places += batch.computed();
                }
                assert_eq!(of_step, dataset.weight(order.samples(step)));
                targets += of_step;
            }
            assert_eq!((targets as u64, tokens as u64), (dataset.counts().supervised, dataset.counts().tokens));
        }
        computed.push(places as u64);
    }
    // Packed: nothing but tokens. Questions about one workflow share its description.
    assert!(computed[0] > computed[1] && computed[1] == 2 * dataset.counts().tokens);
    assert!(2 * computed[2] < computed[1], "{computed:?}");
}

#[test]
fn a_step_is_found_again_from_its_number() {
    let mut dataset = SftDataset::default();
    for sample in 0..300u32 {
        let ids: Vec<u32> = (0..10 + sample % 50).map(|i| if i < 5 { sample / 10 } else { i * sample % 97 }).collect();
        let weights = (0..ids.len()).map(|at| f32::from(u8::from(at > 7))).collect();
        dataset.push(Path::new("c"), 1, &Supervised { ids, weights }, &SftOptions::default()).unwrap();
    }
    let config = PlanConfig {
        sequences_per_step: 64,
        micro_tokens: 512,
        packing: Packing::SharedPrefix,
        ..PlanConfig::default()
    };
    let plan = || StepPlan::new(&dataset, config.clone(), 5).unwrap();
    let whole: Vec<_> = (0..12)
        .map(|step| {
            let (epoch, inner) = plan().position(step);
            plan().epoch(epoch).step(inner)
        })
        .collect();
    // A run that goes on at step 7 needs nothing but this number.
    let later = plan();
    for (step, groups) in whole.iter().enumerate().skip(7) {
        let (epoch, inner) = later.position(step);
        assert_eq!(&later.epoch(epoch).step(inner), groups);
    }
}

#[test]
fn bad_conversations_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.jsonl");
    let tokenizer = Tokenizer::builtin(Builtin::Decoder).unwrap();
    let read = |text: &str, options: &SftOptions| {
        fs::write(&path, text).unwrap();
        SftDataset::from_chat(&path, &tokenizer, options)
    };
    let good = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;
    let long = good.replace("\"q\"", &format!("\"{}\"", "word ".repeat(200)));
    let alone = r#"{"messages": [{"role": "user", "content": "q"}]}"#;

    let error = read(&format!("{good}\n{alone}"), &SftOptions::default()).unwrap_err().to_string();
    assert!(error.contains("chat.jsonl:2: "), "{error}");

    let limited = SftOptions { max_length: Some(100), ..SftOptions::default() };
    let dataset = read(&format!("{good}\n{long}\n{good}"), &limited).unwrap();
    assert_eq!((dataset.len(), dataset.counts().overlong, dataset.counts().read), (2, 1, 3));
    assert_eq!([dataset.line(0), dataset.line(1)], [1, 3]);
    let error = read(&long, &limited).unwrap_err().to_string();
    assert!(error.contains("no usable record (1 conversations, 1 of them longer than 100 tokens)"), "{error}");
    let strict = SftOptions { overlong: Overlong::Error, ..limited };
    let error = read(&format!("{good}\n{long}"), &strict).unwrap_err().to_string();
    assert!(error.contains("chat.jsonl:2: expected at most 100 tokens"), "{error}");
    assert!(read("", &SftOptions::default()).unwrap_err().to_string().contains("no usable record"));

    let newline = SftOptions {
        supervise: SuperviseOptions { end_of_turn: EndOfTurn::TokenAndNewline, ..SuperviseOptions::default() },
        ..SftOptions::default()
    };
    let more = read(good, &newline).unwrap().counts().supervised;
    assert_eq!(more, read(good, &SftOptions::default()).unwrap().counts().supervised + 1);
}
