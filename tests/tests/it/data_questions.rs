//! Questions about graphs: parity with the reference, brute force, and independence of order and threads.

use datasets::flora::ReadOptions;
use datasets::graph_questions::{
    AnswerStyle, Collection, GraphQuestions, GraphQuestionsConfig, NO_ORDER, OutputPaths, Question, QuestionRecord,
    Schedule, SimpleDigraph, Source, SourceWorkflow, TaskType, collect,
};
use datasets::render::NodeRender;
use datasets::synthetic::{Synthetic, SyntheticConfig};
use datasets::templates::Templates;
use datasets::{Split, Workflow};
use hearth_tests::{fixtures, json, json_lines};
use proptest::prelude::*;
use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

/// The workflow of a reference case, nodes in the order of the file.
fn workflow_of(case: &Value) -> Workflow {
    let nodes = case["nodes"].as_object().unwrap().iter();
    Workflow {
        nodes: nodes.map(|(id, text)| (id.parse().unwrap(), text.as_str().unwrap().to_owned())).collect(),
        edges: serde_json::from_value(case["edge_index"].clone()).unwrap(),
    }
}

fn questions(config: GraphQuestionsConfig) -> GraphQuestions {
    GraphQuestions::new(config, Templates::default(), 42).unwrap()
}

fn collection(workflows: Vec<Workflow>) -> Collection {
    let workflows = workflows.into_iter().enumerate().map(|(number, workflow)| SourceWorkflow {
        sub_dataset: "made".into(),
        workflow_id: number as i64,
        workflow,
    });
    Collection { workflows: workflows.collect(), files: Vec::new(), conflicting_ids: 0 }
}

fn chain(nodes: u32) -> Workflow {
    Workflow {
        nodes: (0..nodes).map(|id| (id, format!("step {id}"))).collect(),
        edges: (1..nodes).map(|id| [id - 1, id]).collect(),
    }
}

/// The parts of a prompt before the nodes, between nodes and edges, and after the edges.
fn frame<'a>(prompt: &'a str, nodes: &str, edges: &str) -> [&'a str; 3] {
    let start = prompt.find(nodes).unwrap_or_else(|| panic!("{nodes}\nis not in\n{prompt}"));
    let (head, rest) = (&prompt[..start], &prompt[start + nodes.len()..]);
    let start = rest.rfind(edges).unwrap_or_else(|| panic!("{edges}\nis not in\n{rest}"));
    [head, &rest[..start], &rest[start + edges.len()..]]
}

#[test]
fn parity_rendering_of_prompts() {
    let Some(path) = fixtures("glow/prompts.jsonl") else { return };
    let mut frames = BTreeSet::new();
    for case in json_lines(&path) {
        let workflow = workflow_of(&case);
        let nodes = NodeRender::PyRepr.nodes(&workflow.nodes);
        let edges = NodeRender::PyRepr.edges(&workflow.edges);
        let parts = frame(case["prompt"].as_str().unwrap(), &nodes, &edges);
        frames.insert(parts.map(str::to_owned));

        // With the reference's own words, the whole prompt is equal.
        let templates = Templates {
            graph_preamble: format!("{}{{nodes}}{}{{edges}}", parts[0], parts[1]),
            embed_request: parts[2].to_owned(),
            ..Templates::default()
        };
        let prompt = templates.embed_prompt(&workflow.nodes, &workflow.edges, NodeRender::PyRepr);
        assert_eq!(prompt.text, case["prompt"].as_str().unwrap());
        assert_eq!(prompt.text[prompt.nodes], nodes);
    }
    assert_eq!(frames.len(), 1, "the words around nodes and edges are the same in all prompts: {frames:?}");
}

#[test]
fn parity_facts_about_graphs() {
    let Some(path) = fixtures("glow/graph_facts.json") else { return };
    for facts in json(&path).as_array().unwrap() {
        let nodes = facts["num_nodes"].as_u64().unwrap() as usize;
        let workflow = Workflow {
            nodes: (0..nodes as u32).map(|id| (id, String::new())).collect(),
            edges: serde_json::from_value(facts["edge_index"].clone()).unwrap(),
        };
        let graph = SimpleDigraph::new(&workflow);
        let all = |name: &str, fact: &dyn Fn(usize) -> Value| {
            assert_eq!(Value::from_iter((0..nodes).map(fact)), facts[name], "{name} of {:?}", workflow.edges);
        };
        all("in_degree", &|node| graph.in_degree(node).into());
        all("out_degree", &|node| graph.out_degree(node).into());
        all("predecessors", &|node| graph.predecessors(node).into());
        all("successors", &|node| graph.successors(node).into());
        all("shortest_path", &|from| (0..nodes).map(|to| Value::from(graph.distance(from, to))).collect());
        assert_eq!(facts["average_degree"], graph.average_degree());
        assert_eq!(facts["sources"], Value::from(graph.sources()));
        assert_eq!(facts["sinks"], Value::from(graph.sinks()));
        assert_eq!(facts["topological_order"], Value::from(graph.topological_order()));
    }
}

/// Which question a reference question is: from its type, the ids in it, and one telling word.
fn recognise(task_type: &str, question: &str) -> Question {
    let ids: Vec<u32> =
        Regex::new(r"node (\d+)").unwrap().captures_iter(question).map(|found| found[1].parse().unwrap()).collect();
    let has = |word: &str| question.contains(word);
    match (task_type, ids.as_slice()) {
        ("DBP", []) => Question::AverageDegree,
        ("DBP", [node]) if has("in-degree") => Question::InDegree { node: *node },
        ("DBP", [node]) if has("out-degree") => Question::OutDegree { node: *node },
        ("DNE", [node]) if has("predecessors") => Question::Predecessors { node: *node },
        ("DNE", [node]) if has("successors") => Question::Successors { node: *node },
        ("NFP", [node]) => Question::Content { node: *node },
        ("REACH", [source, target]) if has("length") => Question::Length { source: *source, target: *target },
        ("REACH", [source, target]) => Question::Reach { source: *source, target: *target },
        ("KNI", []) if has("source") => Question::Sources,
        ("KNI", []) if has("sink") => Question::Sinks,
        ("TSORT", []) => Question::TopologicalOrder,
        other => panic!("a question of an unknown kind: {other:?} {question}"),
    }
}

#[test]
fn parity_answers() {
    let Some(path) = fixtures("glow/prefinetuning_examples.jsonl") else { return };
    let mut rounds: BTreeMap<(String, u64), Vec<String>> = BTreeMap::new();
    for case in json_lines(&path) {
        let workflow = workflow_of(&case);
        let (nodes, edges) = (NodeRender::PyRepr.nodes(&workflow.nodes), NodeRender::PyRepr.edges(&workflow.edges));
        let text = case["question"].as_str().unwrap();
        // Node texts may look like edges: what is asked stands after the graph.
        let [_, _, asked] = frame(text, &nodes, &edges);
        let task_type = case["task_type"].as_str().unwrap();
        let question = recognise(task_type, asked);
        assert_eq!(question.task_type().code(), task_type);
        let answer = question.answer(&workflow, &SimpleDigraph::new(&workflow)).unwrap();
        assert_eq!(case["answer"], answer.text, "{asked}\n{edges}");
        let key = (nodes + &edges, case["round"].as_u64().unwrap());
        rounds.entry(key).or_default().push(task_type.to_owned());
    }
    // What is asked in which round.
    for ((_, round), mut found) in rounds {
        let records = questions(GraphQuestionsConfig::default()).records(&SourceWorkflow {
            sub_dataset: String::new(),
            workflow_id: 1,
            workflow: chain(3),
        });
        let mut wanted: Vec<&str> =
            records.iter().filter(|record| u64::from(record.round) == round).map(|r| r.task_type.code()).collect();
        found.sort();
        wanted.sort_unstable();
        if !found.contains(&"REACH".to_owned()) {
            wanted.retain(|kind| *kind != "REACH");
        }
        assert_eq!(found, wanted, "round {round}");
    }
}

#[test]
fn worked_record_counts() {
    let folder = tempfile::tempdir().unwrap();
    let workflows = collection((0..1338).map(|number| chain(2 + number % 6)).collect());
    for (schedule, train, each) in [(Schedule::Rounds, 17_070, 15), (Schedule::Uniform, 20_484, 18)] {
        let config = GraphQuestionsConfig { schedule, ..GraphQuestionsConfig::default() };
        let paths = OutputPaths::in_folder(folder.path());
        let manifest = questions(config).write(&workflows, &paths).unwrap();
        assert_eq!((manifest.train.counts.workflows, manifest.test.counts.workflows), (1138, 200));
        assert_eq!((manifest.train.counts.records, manifest.test.counts.records), (train, 200 * each));
        assert_eq!(fs::read_to_string(&paths.train).unwrap().lines().count() as u64, train);
        let share = |kind| manifest.test.counts.task_type[&kind] / 200;
        let shares = TaskType::ALL.map(share);
        match schedule {
            Schedule::Rounds => assert_eq!(shares, [3, 3, 3, 3, 2, 1]),
            Schedule::Uniform => assert_eq!(shares, [3; 6]),
        }
    }
}

#[test]
fn few_workflows_leave_something_for_training() {
    let clamped = GraphQuestionsConfig::default();
    let strict = GraphQuestionsConfig { strict_test_count: true, ..clamped.clone() };
    let counts = |config: &GraphQuestionsConfig, total: u32| {
        let workflows = collection((0..total).map(|_| chain(3)).collect());
        let (train, test) = questions(config.clone()).split(&workflows).clone();
        (train.len(), test.len())
    };
    assert_eq!([counts(&clamped, 4), counts(&clamped, 36), counts(&clamped, 1000)], [(4, 0), (29, 7), (800, 200)]);
    assert_eq!([counts(&strict, 36), counts(&strict, 250)], [(0, 36), (50, 200)]);
}

fn write_synthetic(folder: &Path, seed: u64) {
    let config =
        SyntheticConfig { workflows: 30, tasks: 12, train: 300, val: 20, test: 40, ..SyntheticConfig::default() };
    Synthetic::generate(&config, seed).unwrap().write(folder).unwrap();
}

#[test]
fn bytes_depend_on_content_and_seed_only() {
    let folder = tempfile::tempdir().unwrap();
    let sources = ["a", "b"].map(|name| Source { name: name.into(), folder: folder.path().join(name) });
    sources.iter().zip(1..).for_each(|(source, seed)| write_synthetic(&source.folder, seed));
    let make = |threads: usize, seed: u64| {
        let out = tempfile::tempdir().unwrap();
        let paths = OutputPaths::in_folder(out.path());
        let pool = rayon_pool(threads);
        let questions = GraphQuestions::new(GraphQuestionsConfig::default(), Templates::default(), seed).unwrap();
        let found = collect(&sources, &ReadOptions::default()).unwrap();
        let manifest = pool.install(|| questions.write(&found, &paths)).unwrap();
        let stored: Value = json(&paths.manifest);
        assert_eq!(stored, serde_json::to_value(&manifest).unwrap());
        (fs::read(&paths.train).unwrap(), fs::read(&paths.test).unwrap(), manifest)
    };
    let (train, test, manifest) = make(1, 42);
    assert_eq!(manifest.train.blake3, blake3::hash(&train).to_hex().to_string());
    assert_eq!(make(4, 42).0, train);
    assert_eq!(make(3, 42).1, test);
    assert_ne!(make(1, 43).0, train);

    // The order of lines does not matter.
    for source in &sources {
        let path = source.folder.join("train.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.reverse();
        fs::write(&path, lines.join("\n")).unwrap();
    }
    assert_eq!((make(2, 42).0, make(2, 42).1), (train.clone(), test.clone()));

    let records = |bytes: &[u8]| -> Vec<QuestionRecord> {
        bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
    };
    let key = |record: &QuestionRecord| (record.sub_dataset.clone(), record.workflow_id);
    let (in_train, in_test) = (records(&train), records(&test));
    let of_train: BTreeSet<_> = in_train.iter().map(key).collect();
    let of_test: BTreeSet<_> = in_test.iter().map(key).collect();
    assert!(of_train.is_disjoint(&of_test));
    assert_eq!((of_train.len(), of_test.len()), (48, 12));
    for found in [&in_train, &in_test] {
        let ids: Vec<String> = found.iter().map(|record| record.id.clone()).collect();
        assert_eq!(ids, (1..=found.len()).map(|id| id.to_string()).collect::<Vec<_>>());
    }
}

fn rayon_pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

#[test]
fn leaving_kinds_out_changes_nothing_else() {
    let source = SourceWorkflow { sub_dataset: "x".into(), workflow_id: 5, workflow: chain(5) };
    let all = questions(GraphQuestionsConfig::default()).records(&source);
    let tasks = vec![TaskType::Nfp, TaskType::Tsort];
    let some = questions(GraphQuestionsConfig { tasks: tasks.clone(), ..GraphQuestionsConfig::default() });
    let wanted: Vec<_> = all.into_iter().filter(|record| tasks.contains(&record.task_type)).collect();
    assert_eq!(some.records(&source), wanted);
}

#[test]
fn tagged_answers_stand_between_tags() {
    let source = SourceWorkflow { sub_dataset: "x".into(), workflow_id: 5, workflow: chain(4) };
    let bare = questions(GraphQuestionsConfig::default()).records(&source);
    let config = GraphQuestionsConfig { answer_style: AnswerStyle::Tagged, ..GraphQuestionsConfig::default() };
    for (bare, tagged) in bare.iter().zip(questions(config).records(&source)) {
        assert_eq!(tagged.messages[1].content, format!("<answer>{}</answer>", bare.messages[1].content));
        assert!(tagged.messages[0].content.contains("<answer>"));
        assert!(!bare.messages[0].content.contains("<answer>"));
    }
}

#[test]
fn collecting_checks_its_sources() {
    let folder = tempfile::tempdir().unwrap();
    write_synthetic(folder.path(), 1);
    let source = |name: &str| Source { name: name.into(), folder: folder.path().into() };
    let error = collect(&[source("a"), source("a")], &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("each data set once"), "{error}");
    fs::rename(folder.path().join("train.jsonl"), folder.path().join("other.jsonl")).unwrap();
    let error = collect(&[source("a")], &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains(&format!("no records of the split `{}`", Split::Train)), "{error}");
}

/// A digraph of 1 to 8 nodes with any ids, in any order, with cycles, self-loops and repeated edges.
fn any_workflow() -> impl Strategy<Value = Workflow> {
    (prop::collection::hash_set(0u32..40, 1..=8), 0usize..20).prop_flat_map(|(ids, edges)| {
        let ids: Vec<u32> = ids.into_iter().collect();
        let texts = prop::collection::vec(any::<String>(), ids.len());
        let edge = (prop::sample::select(ids.clone()), prop::sample::select(ids.clone()));
        (Just(ids), texts, prop::collection::vec(edge, edges)).prop_map(|(ids, texts, edges)| Workflow {
            nodes: ids.into_iter().zip(texts).collect(),
            edges: edges.into_iter().map(|(source, target)| [source, target]).collect(),
        })
    })
}

/// The slow twin of the answers: everything from the set of edges, by definition.
struct Brute {
    ids: BTreeSet<u32>,
    edges: BTreeSet<(u32, u32)>,
    distance: HashMap<(u32, u32), usize>,
}

impl Brute {
    fn new(workflow: &Workflow) -> Self {
        let ids: BTreeSet<u32> = workflow.nodes.iter().map(|(id, _)| *id).collect();
        let edges: BTreeSet<(u32, u32)> = workflow.edges.iter().map(|[s, t]| (*s, *t)).collect();
        let mut distance = HashMap::new();
        for from in &ids {
            // All nodes at the end of a walk of this length; a shortest path is shorter than the number of nodes.
            let mut ends = BTreeSet::from([*from]);
            for length in 0..=ids.len() {
                for end in &ends {
                    distance.entry((*from, *end)).or_insert(length);
                }
                ends = edges.iter().filter(|(s, _)| ends.contains(s)).map(|(_, t)| *t).collect();
            }
        }
        Self { ids, edges, distance }
    }

    /// The first valid order of those that begin with `chosen`, smaller ids first.
    fn order(&self, chosen: &mut Vec<u32>) -> bool {
        if chosen.len() == self.ids.len() {
            return true;
        }
        for id in self.ids.iter().filter(|id| !chosen.contains(id)).copied().collect::<Vec<_>>() {
            if self.edges.iter().all(|(source, target)| *target != id || chosen.contains(source)) {
                chosen.push(id);
                if self.order(chosen) {
                    return true;
                }
                chosen.pop();
            }
        }
        false
    }

    fn answer(&self, workflow: &Workflow, question: Question) -> String {
        let into = |node: u32| self.edges.iter().filter(move |(_, t)| *t == node).map(|(s, _)| *s).collect::<Vec<_>>();
        let out_of =
            |node: u32| self.edges.iter().filter(move |(s, _)| *s == node).map(|(_, t)| *t).collect::<Vec<_>>();
        let list = |ids: Vec<u32>| format!("{ids:?}");
        match question {
            Question::InDegree { node } => into(node).len().to_string(),
            Question::OutDegree { node } => out_of(node).len().to_string(),
            Question::AverageDegree => {
                let sum: usize = self.ids.iter().map(|id| into(*id).len() + out_of(*id).len()).sum();
                format!("{:.2}", sum as f64 / self.ids.len() as f64)
            }
            Question::Predecessors { node } => list(into(node)),
            Question::Successors { node } => list(out_of(node)),
            Question::Content { node } => workflow.nodes.iter().find(|(id, _)| *id == node).unwrap().1.clone(),
            Question::Reach { source, target } => {
                if self.distance.contains_key(&(source, target)) { "Yes" } else { "No" }.to_owned()
            }
            Question::Length { source, target } => self.distance[&(source, target)].to_string(),
            Question::Sources => list(self.ids.iter().copied().filter(|id| into(*id).is_empty()).collect()),
            Question::Sinks => list(self.ids.iter().copied().filter(|id| out_of(*id).is_empty()).collect()),
            Question::TopologicalOrder => {
                let mut order = Vec::new();
                if self.order(&mut order) { list(order) } else { NO_ORDER.to_owned() }
            }
        }
    }
}

fn every_question(workflow: &Workflow) -> Vec<Question> {
    let ids: Vec<u32> = workflow.nodes.iter().map(|(id, _)| *id).collect();
    let mut all = vec![Question::AverageDegree, Question::Sources, Question::Sinks, Question::TopologicalOrder];
    for &node in &ids {
        all.extend([Question::InDegree { node }, Question::OutDegree { node }, Question::Content { node }]);
        all.extend([Question::Predecessors { node }, Question::Successors { node }]);
        all.extend(ids.iter().map(|&target| Question::Reach { source: node, target }));
        all.extend(ids.iter().map(|&target| Question::Length { source: node, target }));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn answers_agree_with_brute_force(workflow in any_workflow()) {
        let (graph, brute) = (SimpleDigraph::new(&workflow), Brute::new(&workflow));
        for question in every_question(&workflow) {
            match question.answer(&workflow, &graph) {
                Some(answer) => prop_assert_eq!(answer.text, brute.answer(&workflow, question), "{:?}", question),
                None => {
                    let Question::Length { source, target } = question else { panic!("{question:?}") };
                    prop_assert!(!brute.distance.contains_key(&(source, target)));
                }
            }
        }
    }

    #[test]
    fn records_come_back_from_json(workflow in any_workflow(), uniform in any::<bool>()) {
        let schedule = if uniform { Schedule::Uniform } else { Schedule::Rounds };
        let single = workflow.nodes.len() == 1;
        let source = SourceWorkflow { sub_dataset: "any".into(), workflow_id: -7, workflow };
        let config = GraphQuestionsConfig { schedule, ..GraphQuestionsConfig::default() };
        let records = questions(config).records(&source);
        let reach = if single { 0 } else { 3 };
        let rest = if uniform { 15 } else { 12 };
        prop_assert_eq!(records.len(), rest + reach);
        for record in &records {
            let line = serde_json::to_string(record).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(&serde_json::from_str::<QuestionRecord>(&line).unwrap(), record);
            let keys: Vec<String> =
                serde_json::from_str::<Value>(&line).unwrap().as_object().unwrap().keys().cloned().collect();
            prop_assert_eq!(&keys[..4], ["messages", "task_type", "id", "sub_dataset"]);
            // The structured answer says the same as the words.
            let said = &record.messages[1].content;
            match &record.answer {
                Value::Number(number) if record.variant == "avgdeg" => {
                    prop_assert_eq!(format!("{:.2}", number.as_f64().unwrap()), said.clone());
                }
                Value::Bool(yes) => prop_assert_eq!(if *yes { "Yes" } else { "No" }, said),
                Value::Null => prop_assert_eq!(NO_ORDER, said),
                Value::String(text) => prop_assert_eq!(text, said),
                other => prop_assert_eq!(&serde_json::from_str::<Value>(said).unwrap(), other),
            }
        }
    }
}
