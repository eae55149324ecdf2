//! `parity: true`: what it decides, what contradicts it, and the recipes that are printed and run with it.

use hearth::Error;
use hearth::diagnostics::{Problem, SourceText};
use hearth::recipe::{Document, PatienceRule, Recipe, SelectBy, Stage, Truncation, WarmupSampling};

/// A recipe that leaves everything open; stages in lines of their own.
const BASE: &str = r#"Recipe(
    name: "base",
    parity: true,
    models: { "llm": Path("llm"), "text": Path("text") },
    data: { "flora": Flora("flora") },
    stages: [
        GraphQuestions(data: [Data("flora")]),
        Sft(model: Model("llm"), data: Stage("graph-questions"), lora: (rank: 8)),
        MergeLora(base: Model("llm"), adapter: Stage("sft")),
        Embed(data: Data("flora"), llm: Stage("merge-lora"), text: Model("text")),
        GlowTrain(embeddings: Stage("embed")),
        GlowEval(weights: Stage("glow-train"), embeddings: Stage("embed")),
    ],
)
"#;

fn document(text: &str, sets: &[&str]) -> Document {
    let mut document = Document::parse(SourceText::new("r.ron", text)).unwrap();
    for argument in sets {
        document.set(argument).unwrap_or_else(|error| panic!("{argument}: {error}"));
    }
    document
}

fn problems(document: &Document) -> Vec<Problem> {
    match document.check_elsewhere() {
        Ok(()) => Vec::new(),
        Err(Error::Recipe(problems)) => problems,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn parity_decides_what_is_left_open() {
    let document = document(BASE, &[]);
    assert!(problems(&document).is_empty(), "{:?}", problems(&document));
    let [
        Stage::GraphQuestions(questions),
        Stage::Sft(_),
        Stage::MergeLora(_),
        Stage::Embed(embed),
        Stage::GlowTrain(train),
        Stage::GlowEval(eval),
    ] = document.recipe().stages.as_slice()
    else {
        panic!("other stages")
    };
    assert!(questions.test_workflows == 200 && questions.strict_test_count);
    assert_eq!(embed.truncation, Truncation::Right);
    let warmup = train.warmup.as_ref().unwrap();
    assert!(warmup.sampling == WarmupSampling::Records && warmup.replay);
    assert!(train.model.fusion.identical_layer_init && train.drop_last && !train.shrink_batch);
    assert_eq!((train.patience_rule, train.select_by), (PatienceRule::PastPatience, SelectBy::ValAccuracy));
    assert_eq!((train.min_delta, train.threshold, eval.threshold), (0.0, 0.5, 0.5));
    assert_eq!((eval.utility.min_records, eval.utility.points), (3, 100));

    // What is printed says the same without the word, and again with it.
    let printed = document.recipe().to_ron().unwrap();
    for line in ["parity: true", "truncation: Right", "identical_layer_init: true", "sampling: Records", "replay: true"]
    {
        assert!(printed.contains(line), "{line}:\n{printed}");
    }
    let again = self::document(&printed, &[]);
    assert!(problems(&again).is_empty());
    assert_eq!(again.recipe(), document.recipe());
    let spelled = self::document(&printed.replace("parity: true", "parity: false"), &[]);
    assert_eq!(spelled.recipe(), &Recipe { parity: false, ..document.recipe().clone() });
}

#[test]
fn without_it_nothing_changes() {
    let open = document(&BASE.replace("    parity: true,\n", ""), &[]);
    let Stage::Embed(embed) = &open.recipe().stages[3] else { panic!("another stage") };
    assert_eq!(embed.truncation, Truncation::KeepSuffix);
    // An argument can ask for it as well as the file, before or after others.
    for sets in [["parity=true", "seed=7"], ["seed=7", "parity=true"]] {
        let asked = document(&BASE.replace("    parity: true,\n", ""), &sets);
        assert_eq!(asked.recipe(), document(BASE, &["seed=7"]).recipe());
    }
    assert_eq!(document(BASE, &["parity=false"]).recipe(), open.recipe());
}

#[test]
fn what_contradicts_it_is_refused_where_it_stands() {
    for (stage, field, line, words) in [
        ("GraphQuestions(", "test_workflows: 50, ", 7, "`test_workflows` is 50, but `parity: true` stands for 200"),
        ("GraphQuestions(", "strict_test_count: false, ", 7, "`strict_test_count` is false"),
        (
            "GraphQuestions(",
            "answer_style: Tagged, ",
            7,
            "`answer_style` is Tagged, but `parity: true` stands for Bare",
        ),
        ("Embed(", "node_render: Json, ", 10, "`node_render` is Json"),
        ("Embed(", "truncation: KeepSuffix, ", 10, "`truncation` is KeepSuffix, but `parity: true` stands for Right"),
        ("GlowTrain(", "inputs: Standardize, ", 11, "`inputs` is Standardize"),
        ("GlowTrain(", "model: (fusion: (identical_layer_init: false)), ", 11, "`identical_layer_init` is false"),
        ("GlowTrain(", "warmup: (sampling: UniqueWorkflows), ", 11, "stands for Records"),
        ("GlowTrain(", "sampler: TaskGrouped(group_size: 4), ", 11, "`sampler` is TaskGrouped(group_size:4"),
        ("GlowTrain(", "drop_last: false, ", 11, "`drop_last` is false"),
        ("GlowTrain(", "shrink_batch: true, ", 11, "`shrink_batch` is true"),
        ("GlowTrain(", "contrast: (task_norm: CountActive), ", 11, "`task_norm` is CountActive"),
        ("GlowTrain(", "patience_rule: AtPatience, ", 11, "`patience_rule` is AtPatience"),
        ("GlowTrain(", "select_by: ValUtility, ", 11, "`select_by` is ValUtility"),
        ("GlowTrain(", "min_delta: 0.01, ", 11, "`min_delta` is 0.01"),
        ("GlowTrain(", "tie_break: LowerLoss, ", 11, "`tie_break` is LowerLoss"),
        ("GlowEval(", "threshold: 0.4, ", 12, "`threshold` is 0.4, but `parity: true` stands for 0.5"),
        ("GlowEval(", "utility: (min_records: 1), ", 12, "`min_records` is 1"),
    ] {
        let changed = document(&BASE.replace(stage, &format!("{stage}{field}")), &[]);
        let found = problems(&changed);
        assert_eq!(found.len(), 1, "{field}: {found:?}");
        assert!(found[0].message().contains(words), "{field}: {}", found[0].message());
        let value = field.split(": ").last().unwrap().trim_end_matches([',', ' ', ')', '(']);
        let (text, span) = (found[0].text(), found[0].span());
        assert!(text.text[span.clone()].contains(value.split(')').next().unwrap()), "{field}: {:?}", &text.text[span]);
        assert!(found[0].place().starts_with(&format!("r.ron:{line}:")), "{field}: {}", found[0].place());
        // Without parity it is a choice like any other.
        assert!(problems(&document(&BASE.replace(stage, &format!("{stage}{field}")), &["parity=false"])).is_empty());
    }
}

#[test]
fn what_agrees_with_it_may_be_said() {
    let text = BASE
        .replace("Embed(", "Embed(truncation: Right, ")
        .replace("GlowTrain(", "GlowTrain(warmup: (sampling: Records, steps: 10), contrast: None, patience: 5, ");
    assert!(problems(&document(&text, &[])).is_empty());
    // Turning parts off is an experiment of its own.
    let off = document(&BASE.replace("GlowTrain(", "GlowTrain(warmup: None, contrast: None, "), &[]);
    assert!(problems(&off).is_empty());
}

#[test]
fn arguments_contradict_it_too() {
    let found = problems(&document(BASE, &["stages.embed.truncation=KeepSuffix"]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place(), "--set:1:25");
    assert!(problems(&document(BASE, &["stages.embed.truncation=Right"])).is_empty());
    // What is set as a whole says only what is written in it.
    assert!(problems(&document(BASE, &["stages.glow-train.warmup=(steps: 5)"])).is_empty());
    let found = problems(&document(BASE, &["stages.glow-train.warmup=(steps: 5, replay: false)"]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].message().contains("`replay` is false"), "{found:?}");
}

#[test]
fn the_published_recipe_takes_it() {
    let mut recipe = Document::open(&hearth_tests::workspace().join("recipes/glow/coding-af.ron")).unwrap();
    recipe.set("parity=true").unwrap();
    assert!(problems(&recipe).is_empty(), "{:?}", problems(&recipe));
}
