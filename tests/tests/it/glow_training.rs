//! The training stage of the GLOW predictor as a whole: what it is chosen by, what it predicts, what its warm-up leaves, and
//! data that it cannot or only hardly learn from.

use std::fs;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor};
use burn_gnn::Graph;
use burn_models::glow::{
    ContrastConfig, ContrastForm, GlowRecord, GlowTables, GlowWorkflow, Grouping, RegressionTarget,
};
use datasets::sampler::Sampler;
use hearth::learners::{Contrast, Epochs, GlowBatches, GlowData, WarmupBatches};
use hearth::report::{MetricsLog, Split};
use hearth::train::Batches;
use hearth_tests::program::{Finished, Program, cpu};
use hearth_tests::{devices, json, json_lines, values};
use serde_json::Value;
use std::sync::Arc;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// Embeds data, trains and evaluates; stages one to three.
struct Run {
    dir: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, of: &str) -> PathBuf {
        self.dir.path().join("runs/r").join(of)
    }

    /// Runs the recipe with these fields of the three stages and of the recipe; stages that are finished are not done again.
    fn run(&self, data: &str, embed: &str, train: &str, eval: &str, recipe: &str) -> Finished {
        let text = format!(
            "Recipe(name: \"r\", runs: {:?}, {recipe}
             models: {{
                \"llm\": Init(Decoder(hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1)),
                \"text\": Init(Encoder(hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1)),
             }},
             data: {{ \"flora\": {data} }},
             stages: [
                Embed(data: Data(\"flora\"), llm: Model(\"llm\"), text: Model(\"text\"), max_length: 512, {embed}),
                GlowTrain(embeddings: Stage(\"embed\"), optim: AdamW(lr: 1e-2), {train}),
                GlowEval(weights: Stage(\"glow-train\"), embeddings: Stage(\"embed\"), {eval}),
             ])",
            self.dir.path().join("runs"),
        );
        let path = self.dir.path().join("r.ron");
        fs::write(&path, text).unwrap();
        HEARTH.run(["run".as_ref(), path.as_os_str(), "--device".as_ref(), cpu().as_ref()])
    }

    fn metrics(&self, stage: &str) -> Value {
        json(&self.path(&format!("stages/{stage}/manifest.json")))["metrics"].clone()
    }

    fn ok(&self, data: &str, train: &str, eval: &str) -> (Value, Value) {
        self.run(data, "", train, eval, "").expect_code(0);
        (self.metrics("02-glow-train"), self.metrics("03-glow-eval"))
    }

    /// A copy of the generated data, every record changed.
    fn changed(&self, name: &str, change: impl Fn(&str, usize, &mut Value) -> bool) -> String {
        let to = self.dir.path().join(name);
        fs::create_dir_all(&to).unwrap();
        for split in ["train", "val", "test"] {
            let file = format!("{split}.jsonl");
            let records = json_lines(&self.path("sources/flora").join(&file)).into_iter().enumerate();
            let kept =
                records.filter_map(|(i, mut record)| change(split, i, &mut record).then(|| format!("{record}\n")));
            fs::write(to.join(file), kept.collect::<String>()).unwrap();
        }
        format!("Flora({to:?})")
    }
}

const DATA: &str = "Synthetic(workflows: 8, tasks: 10, train: 40, val: 24, test: 16)";
const SMALL: &str = "model: (hidden_dim: 8, fusion: (ff_width: 8)), warmup: (steps: 3, batch_size: 4), \
                     batch_size: 8, epochs: 3";

/// The best epoch is the best by the chosen metric, and what is saved is that epoch: evaluated on the validation split it has
/// the value it was chosen for.
#[test]
fn the_best_epoch_is_the_one_that_is_kept() {
    let _turn = hearth_tests::random_turn();
    let run = Run::new();
    for (select_by, score, metric) in [
        ("ValUtility", "utility", "utility"),
        ("ValMacroF1", "macro_f1", "avg_f1"),
        ("ValAccuracy", "accuracy", "accuracy"),
    ] {
        let (train, eval) = run.ok(DATA, &format!("{SMALL}, select_by: {select_by}"), "split: Val");
        let best = train[format!("best_val_{score}")].as_f64().unwrap();
        let rows = MetricsLog::read(&run.path("stages/02-glow-train")).unwrap();
        let valid = rows.iter().filter(|r| r.split == Split::Valid && r.name == score);
        let all: Vec<f64> = valid.map(|r| r.value.unwrap()).collect();
        assert_eq!(all.len(), 3);
        let highest = all.iter().copied().fold(0.0, f64::max);
        assert_eq!(best, highest, "{select_by}: {all:?}");
        let first = all.iter().position(|v| *v == highest).unwrap() + 1;
        assert_eq!(train["best_epoch"], first as f64, "{select_by}");
        let evaluated = eval[metric].as_f64().unwrap();
        assert!((evaluated - best).abs() < 1e-4, "{select_by}: {evaluated} is not {best}");
    }
}

#[test]
fn a_margin_for_the_best_epoch() {
    let _turn = hearth_tests::random_turn();
    let run = Run::new();
    let (train, _) = run.ok(DATA, &format!("{SMALL}, min_delta: 1, epochs: 3").replace(", epochs: 3, ", ", "), "");
    assert_eq!(train["best_epoch"], 1.0, "nothing improves by 1");
}

/// Every head trains, is stored and evaluates; what it was fitted to is part of its settings.
#[test]
fn heads() {
    let _turn = hearth_tests::random_turn();
    let run = Run::new();
    let (plain, _) = run.ok(DATA, SMALL, "");
    for head in [
        "Regression(loss: Huber(0.1), target: WorkflowRate)",
        "Regression(output: Identity)",
        "Both(reg_weight: 0.5, rate: (target: WorkflowRate, loss: SmoothL1(0.5)))",
    ] {
        let (train, eval) = run.ok(DATA, &SMALL.replace("hidden_dim: 8", &format!("hidden_dim: 8, head: {head}")), "");
        assert!(eval["accuracy"].as_f64().unwrap() >= 0.0, "{head}");
        let stored = json(&run.path("stages/02-glow-train/best/predictor.json"))["model"]["head"].to_string();
        assert!(stored.contains(head.split('(').next().unwrap()), "{head}: {stored}");
        let more = if head.starts_with("Both") { 8.0 * 8.0 + 8.0 + 8.0 + 1.0 } else { 0.0 };
        assert_eq!(train["parameters"].as_f64().unwrap() - more, plain["parameters"].as_f64().unwrap(), "{head}");
    }
}

/// Every form of contrast trains; over the whole batch there is always something to contrast.
#[test]
fn forms_of_contrast() {
    let _turn = hearth_tests::random_turn();
    let run = Run::new();
    let mut losses = Vec::new();
    for form in [
        "form: BatchMean",
        "form: BatchHard, soft_margin: true",
        "form: BatchAll(reduce: Active), distance: Euclidean",
        "form: BatchAll(), anchors: All",
        "form: SemiHard, distance: SquaredEuclidean",
        "form: Random(3)",
    ] {
        let train =
            format!("{SMALL}, contrast: ({form}, group: Global, margin: 1), sampler: TaskGrouped(balanced: true)");
        run.ok(DATA, &train, "");
        let rows = MetricsLog::read(&run.path("stages/02-glow-train")).unwrap();
        let contrast = rows.iter().filter(|r| r.name == "contrast_loss").map(|r| r.value.unwrap());
        let first = contrast.clone().next().unwrap();
        assert!(contrast.clone().all(|loss| loss > 0.0 && loss.is_finite()), "{form}");
        assert!(!losses.contains(&first), "{form}: {first} as before");
        losses.push(first);
    }
    let task_alone = SMALL.replace("hidden_dim: 8", "hidden_dim: 8, use_llm: false, use_graph: false");
    let said = run.run(DATA, "", &task_alone, "", "").expect_code(0).words();
    assert!(said.contains("none of the tokens to contrast"), "{said}");
}

/// The warm-up logs its terms one by one, and ends with the adjacency AUC of the validation split.
#[test]
fn warm_up_is_evaluated_at_its_end() {
    let _turn = hearth_tests::random_turn();
    let run = Run::new();
    let (train, _) = run.ok(DATA, SMALL, "");
    let auc = train["warmup_adjacency_auc"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&auc));
    let rows = MetricsLog::read(&run.path("stages/02-glow-train/warmup")).unwrap();
    let of = |split: Split, name: &str| -> Vec<(u64, f64)> {
        let rows = rows.iter().filter(|r| r.split == split && r.name == name);
        rows.map(|r| (r.step, r.value.unwrap())).collect()
    };
    assert_eq!(of(Split::Valid, "adjacency_auc"), [(3, auc)]);
    for step in 0..3 {
        let [loss, node, adjacency] = ["loss", "node_loss", "adjacency_loss"].map(|n| of(Split::Train, n)[step].1);
        assert!((loss - node - adjacency).abs() < 1e-5 && node > 0.0 && adjacency > 0.0);
    }
    // Longer training, and with weights of its own: the encoder learns where the edges are.
    let more =
        SMALL.replace("steps: 3, batch_size: 4", "steps: 300, batch_size: 8, node_weight: 0, optim: AdamW(lr: 1e-2)");
    let (train, _) = run.ok(DATA, &more.replace("hidden_dim: 8", "hidden_dim: 16"), "");
    let learned = train["warmup_adjacency_auc"].as_f64().unwrap();
    assert!(learned > auc.max(0.6), "{learned} after {auc}");
    let rows = MetricsLog::read(&run.path("stages/02-glow-train/warmup")).unwrap();
    let first = |name: &str| rows.iter().find(|r| r.name == name).unwrap().value.unwrap();
    assert_eq!(first("loss"), first("adjacency_loss"));
}

#[test]
fn data_that_teaches_nothing() {
    let _turn = hearth_tests::random_turn();
    let run = Run::new();
    run.ok(DATA, SMALL, "");
    let one = run.changed("one-class", |split, _, record| {
        if split == "train" {
            record["label"] = 1.into();
        }
        true
    });
    let said = run.run(&one, "", SMALL, "", "").expect_code(1).words();
    assert!(said.contains("all 40 records of the training split have label 1"), "{said}");

    // A validation split of one class is no reason to stop: its metrics are what they are.
    let valid = run.changed("valid-one-class", |split, _, record| {
        if split == "val" {
            record["label"] = 0.into();
        }
        true
    });
    let select = format!("{SMALL}, select_by: ValMacroF1");
    run.run(&valid, "", &select, "split: Val", "").expect_code(0);

    // Every task once: nothing to contrast, and said so.
    let alone = run.changed("alone", |_, i, record| {
        record["task_id"] = i.into();
        true
    });
    let said = run.run(&alone, "", SMALL, "", "").expect_code(0).words();
    assert!(said.contains("`contrast` has no effect"), "{said}");
    let rows = MetricsLog::read(&run.path("stages/02-glow-train")).unwrap();
    for name in ["contrast_loss", "active_tasks"] {
        assert!(rows.iter().filter(|r| r.name == name).all(|r| r.value == Some(0.0)), "{name}");
    }

    // Workflows with too few records to be ranked.
    let few = run.changed("few", |split, i, record| {
        record["workflow_id"] = (split.len() * 1000 + i).into();
        true
    });
    let said = run.run(&few, "", &format!("{SMALL}, select_by: ValUtility"), "", "").expect_code(1).words();
    assert!(said.contains("`select_by: ValUtility` needs two workflows") && said.contains("ValAccuracy"), "{said}");
}

#[test]
fn a_split_smaller_than_a_batch() {
    let _turn = hearth_tests::random_turn();
    let run = Run::new();
    run.ok(DATA, SMALL, "");
    // The recipe cannot know how much there is in files.
    let data = run.changed("same", |_, _, _| true);
    let large = SMALL.replace("batch_size: 8", "batch_size: 64").replace("batch_size: 4", "batch_size: 16");
    let said = run.run(&data, "", &large, "", "").expect_code(0).words();
    for part in ["`batch_size` is 64, but there are only 40 training records", "only 8 distinct workflows"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(run.metrics("02-glow-train")["steps"], 3.0);
    let said = run.run(&data, "", &format!("{large}, shrink_batch: false"), "", "").expect_code(1).words();
    assert!(said.contains("only 40 training records") && said.contains("`shrink_batch: true`"), "{said}");
}

/// `parity: true` runs from end to end, and every setting that it decides is in the manifests.
#[test]
fn parity_runs() {
    let _turn = hearth_tests::random_turn();
    let run = Run::new();
    run.run(DATA, "", SMALL, "", "parity: true,").expect_code(0);
    let settings = |stage: &str| json(&run.path(&format!("stages/{stage}/manifest.json")))["settings"].clone();
    let train = settings("02-glow-train");
    assert_eq!(train["warmup"]["sampling"], "Records");
    assert_eq!(train["warmup"]["replay"], true);
    assert_eq!(train["model"]["fusion"]["identical_layer_init"], true);
    assert_eq!(train["shrink_batch"], false);
    assert_eq!(settings("01-embed")["truncation"], "Right");
}

/// The ablation recipes train on the embeddings of another run, each without what it says.
#[test]
fn ablations_read_the_embeddings_of_another_run() {
    let run = Run::new();
    run.ok(DATA, SMALL, "");
    let embeddings = format!("Path({:?})", run.path("stages/01-embed"));
    let model = |recipe: &str| -> Vec<String> {
        let path = hearth_tests::workspace().join(format!("recipes/glow/ablations/{recipe}.ron"));
        let mut arguments = vec!["run".to_string(), path.to_str().unwrap().into(), "--device".into(), cpu()];
        let mut set = |value: String| arguments.extend(["--set".to_string(), value]);
        set(format!("runs={:?}", run.dir.path().join("runs")));
        for stage in ["glow-train", "glow-eval"] {
            set(format!("stages.{stage}.embeddings={embeddings}"));
        }
        for small in ["epochs=1", "batch_size=40", "model.hidden_dim=8", "model.fusion.ff_width=8"] {
            set(format!("stages.glow-train.{small}"));
        }
        if recipe != "without-warmup" {
            set("stages.glow-train.warmup=(steps: 1, batch_size: 4)".into());
        }
        HEARTH.ok(arguments);
        let trained = run.path("../glow-coding-af-").to_str().unwrap().to_owned() + recipe + "/stages/01-glow-train";
        let names = hearth_tests::Tensors::open(format!("{trained}/best/model.safetensors")).names();
        let mut found: Vec<String> = names.iter().map(|name| name.split('.').next().unwrap().to_string()).collect();
        found.dedup();
        if std::path::Path::new(&trained).join("warmup").exists() {
            found.push("warm-up".into());
        }
        let rows = MetricsLog::read(trained.as_ref()).unwrap();
        if rows.iter().any(|r| r.name == "contrast_loss" && r.value != Some(0.0)) {
            found.push("contrast".into());
        }
        found
    };
    let parts = ["llm_projector", "gnn_encoder", "warm-up", "contrast", "fusion_encoder"];
    for (recipe, missing) in [
        ("without-llm", &["llm_projector"][..]),
        ("without-graph", &["gnn_encoder", "warm-up"]),
        ("without-warmup", &["warm-up"]),
        ("without-contrast", &["contrast"]),
        ("concat-fusion", &["fusion_encoder"]),
        ("mean-fusion", &["fusion_encoder"]),
        ("gcn-encoder", &[]),
    ] {
        let found = model(recipe);
        let absent: Vec<&str> = parts.into_iter().filter(|part| !found.iter().any(|f| f == part)).collect();
        assert_eq!(absent, missing, "{recipe}: {found:?}");
    }
}

/// Two workflows with two records each, one of which is in the training split only, one in the other split only.
fn data(records: &[(u32, f32)], device: &Device) -> GlowData {
    let workflow = |nodes| GlowWorkflow { graph: Graph::new(nodes, vec![]).unwrap(), node_texts: vec![0; nodes] };
    let record = |(number, (workflow, label)): (usize, &(u32, f32))| GlowRecord {
        workflow: *workflow,
        llm: *workflow,
        task: 0,
        label: *label,
        task_id: number as i64 / 4,
    };
    GlowData {
        records: Arc::new(records.iter().enumerate().map(record).collect()),
        targets: Arc::new(records.iter().map(|r| r.1).collect()),
        workflows: Arc::new((1..5).map(workflow).collect()),
        tables: GlowTables { llm: Tensor::zeros([4, 2], device), text: Tensor::zeros([1, 2], device) },
        prompts: None,
        places: Arc::new(records.iter().map(|r| (1, i64::from(r.0))).collect()),
    }
}

#[test]
fn rates_of_workflows_come_from_the_training_split() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = devices().swap_remove(0);
    let train = data(&[(0, 1.0), (0, 0.0), (0, 0.0), (1, 1.0)], &device);
    let valid = data(&[(0, 1.0), (1, 0.0), (2, 1.0), (2, 0.0)], &device);
    let targets = |split: &GlowData, target| {
        let split = split.clone().with_targets(target, &train);
        values(split.collate(&[0, 1, 2, 3], Default::default(), &device).unwrap().batch.targets)
    };
    let third = 1.0 / 3.0;
    assert_eq!(targets(&train, RegressionTarget::WorkflowRate), [third, third, third, 1.0]);
    assert_eq!(targets(&valid, RegressionTarget::WorkflowRate), [third, 1.0, 0.5, 0.5]);
    assert_eq!(targets(&valid, RegressionTarget::RecordLabel), [1.0, 0.0, 1.0, 0.0]);
    let batch = valid.collate(&[0, 1], Default::default(), &device).unwrap().batch;
    assert!(batch.clone().with_targets(&[0.0]).unwrap_err().to_string().contains("2 records, but 1 targets"));
    assert!(batch.with_targets(&[0.0, f32::NAN]).unwrap_err().to_string().contains("record 1"));
}

/// A replayed pass is the first one; else each is its own. Triplets are drawn by seed and step.
#[test]
fn passes_and_draws() {
    let _turn = hearth_tests::random_turn();
    let (_, device) = devices().swap_remove(0);
    let data = data(&(0..40).map(|i| (i % 4, (i % 3 % 2) as f32)).collect::<Vec<_>>(), &device);
    let epochs = || Epochs::new(vec![0; 40], 8, true, Sampler::Shuffle, 1).unwrap();
    let warmup = |replay| {
        let batches = WarmupBatches::new(
            data.workflows.clone(),
            (0..40).map(|i| i % 4).collect(),
            data.tables.clone(),
            epochs(),
            15,
        );
        let batches = batches.replay(replay);
        [0, 5, 10].map(|from| (from..from + 5).flat_map(|i| batches.records(i)).collect::<Vec<_>>())
    };
    let [first, second, third] = warmup(true);
    assert!(first == second && second == third);
    let [fresh, second, third] = warmup(false);
    assert!(fresh == first && second != first && third != second);

    let drawn = |seed, index| {
        let config =
            ContrastConfig { form: ContrastForm::Random(2), group: Grouping::Global, ..ContrastConfig::default() };
        let contrast = Some(Contrast { config, seed });
        let item = GlowBatches::new(data.clone(), contrast, epochs(), 3).batch(index, &device).unwrap();
        let x: Vec<f32> = (0..16).map(|i| (i * i % 11) as f32 - 3.0).collect();
        let x = Tensor::<1>::from_floats(x.as_slice(), &device).reshape([8, 2]);
        values(item.batch.contrast.unwrap().task_losses(x))
    };
    assert_eq!(drawn(1, 3), drawn(1, 3));
    assert!((0..5).any(|index| drawn(1, index) != drawn(2, index)));
}
