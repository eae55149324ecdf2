//! FLORA records with a planted rule, for trying out a predictor without a download.
//!
//! A workflow has a *solver*, a *checker*, sometimes a *programmer*, and helpers. A task asks for a program or an essay, and
//! for an exact result or a rough draft. The rule, [`rule`]:
//!
//! > The workflow solves the task when it has a programmer or none is needed (a program is asked for), and when a directed
//! > path leads from the solver to the checker or none is needed (an exact result is asked for).
//!
//! So the label depends on the texts of nodes (is there a programmer), on the wiring (every workflow has a checker, and
//! has a twin with the same texts at the same ids in which the checker stands before the solver instead of after it), and
//! on whether the task asks for what the workflow has. A share of the labels is then turned over
//! ([`SyntheticConfig::label_noise`]).
//!
//! With whole groups of four workflows and of five tasks, half of all pairs are positive. Who knows everything but the
//! wiring can be right on 4/5 of the pairs, without the texts of nodes on 4/5, without the task on 3/4, and with nothing
//! but the task on 7/10, all before the noise.

mod make;
mod rule;

pub use rule::{Role, TaskKind, rule};

use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use crate::rng::stream;
use crate::splits::Split;
use crate::workflow::Workflow;
use make::{make_tasks, make_workflows};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;

/// How much to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticConfig {
    /// Distinct workflows; best a multiple of 4. Default: 64.
    pub workflows: usize,
    /// Distinct tasks; best a multiple of 5. Default: 40.
    pub tasks: usize,
    /// Records for training; all records together are distinct pairs of a workflow and a task. Default: 1,600.
    pub train: usize,
    /// Records for validation. Default: 200.
    pub val: usize,
    /// Records for testing. Default: 400.
    pub test: usize,
    /// The fewest nodes of a workflow, at least 3. Default: 4.
    pub min_nodes: usize,
    /// The most nodes of a workflow. Default: 7.
    pub max_nodes: usize,
    /// The share of labels that are turned over, in each split, in [0, 0.5]. Default: 0.1.
    pub label_noise: f64,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self {
            workflows: 64,
            tasks: 40,
            train: 1600,
            val: 200,
            test: 400,
            min_nodes: 4,
            max_nodes: 7,
            label_noise: 0.1,
        }
    }
}

impl SyntheticConfig {
    /// Checks that the settings fit together.
    pub fn validate(&self) -> Result<()> {
        let pairs = self.workflows.saturating_mul(self.tasks);
        let records = self.train.saturating_add(self.val).saturating_add(self.test);
        if self.workflows == 0 || self.tasks == 0 {
            return Err(Error::setting("workflows, tasks", "at least 1 of each", "0"));
        }
        if pairs > u32::MAX as usize {
            return Err(Error::setting("workflows, tasks", "at most 4,294,967,295 pairs", pairs));
        }
        if records > pairs {
            let expected = format!("at most workflows × tasks = {pairs} records");
            return Err(Error::setting("train, val, test", expected, records));
        }
        if self.min_nodes < 3 || self.max_nodes > 64 || self.min_nodes > self.max_nodes {
            let found = format!("{} to {}", self.min_nodes, self.max_nodes);
            return Err(Error::setting("min_nodes, max_nodes", "an ascending range within 3 to 64", found));
        }
        if !(0.0..=0.5).contains(&self.label_noise) {
            return Err(Error::setting("label_noise", "a share from 0 to 0.5", self.label_noise));
        }
        Ok(())
    }
}

/// One pair with its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyntheticRecord {
    /// The workflow, as a number into [`Synthetic::workflows`].
    pub workflow: u32,
    /// The task, as a number into [`Synthetic::tasks`].
    pub task: u32,
    /// The label, noise included.
    pub label: bool,
}

/// A data set with a planted rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Synthetic {
    /// Distinct workflows. Four in a row have the same skeleton: with and without a programmer, checked and not.
    pub workflows: Vec<Workflow>,
    /// Distinct task texts.
    pub tasks: Vec<String>,
    /// For training.
    pub train: Vec<SyntheticRecord>,
    /// For validation.
    pub val: Vec<SyntheticRecord>,
    /// For testing.
    pub test: Vec<SyntheticRecord>,
}

impl Synthetic {
    /// Makes a data set; the same settings and seed give the same one.
    pub fn generate(config: &SyntheticConfig, seed: u64) -> Result<Self> {
        config.validate()?;
        let workflows = make_workflows(config, &mut stream(seed, "synthetic: workflows", &[]))?;
        let tasks = make_tasks(config.tasks, &mut stream(seed, "synthetic: tasks", &[]));

        let mut rng = stream(seed, "synthetic: records", &[]);
        let mut pairs: Vec<u32> = (0..(config.workflows * config.tasks) as u32).collect();
        pairs.shuffle(&mut rng);
        let mut data = Self { workflows, tasks, train: Vec::new(), val: Vec::new(), test: Vec::new() };
        let mut taken = 0;
        for (split, count) in [(Split::Train, config.train), (Split::Val, config.val), (Split::Test, config.test)] {
            let records = data.label(config, &pairs[taken..taken + count], &mut rng)?;
            taken += count;
            match split {
                Split::Train => data.train = records,
                Split::Val => data.val = records,
                Split::Test => data.test = records,
            }
        }
        Ok(data)
    }

    /// The records of a split.
    pub fn split(&self, split: Split) -> &[SyntheticRecord] {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
            Split::Test => &self.test,
        }
    }

    /// What the planted rule says about a pair.
    pub fn rule(&self, record: &SyntheticRecord) -> Option<bool> {
        rule(&self.workflows[record.workflow as usize], &self.tasks[record.task as usize])
    }

    fn label(&self, config: &SyntheticConfig, pairs: &[u32], rng: &mut ChaCha8Rng) -> Result<Vec<SyntheticRecord>> {
        let tasks = config.tasks as u32;
        let mut records = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let mut record = SyntheticRecord { workflow: pair / tasks, task: pair % tasks, label: false };
            let unknown = || Error::setting("synthetic", "texts of this generator", "others");
            record.label = self.rule(&record).ok_or_else(unknown)?;
            records.push(record);
        }
        // The noise is an exact share, so that the best reachable accuracy is the same in every split.
        let mut order: Vec<usize> = (0..records.len()).collect();
        order.shuffle(rng);
        let flips = (config.label_noise * records.len() as f64).round() as usize;
        order.iter().take(flips).for_each(|flip| records[*flip].label ^= true);
        Ok(records)
    }

    /// Writes `train.jsonl`, `val.jsonl` and `test.jsonl`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        for split in Split::ALL {
            let path = folder.join(format!("{split}.jsonl"));
            let mut file = AtomicFile::create(&path)?;
            for record in self.split(split) {
                let workflow = &self.workflows[record.workflow as usize];
                let nodes: Map<String, Value> =
                    workflow.nodes.iter().map(|(id, text)| (id.to_string(), text.as_str().into())).collect();
                let line = json!({
                    "workflow_id": record.workflow,
                    "task_id": record.task,
                    "nodes": nodes,
                    "edge_index": workflow.edges,
                    "task": self.tasks[record.task as usize],
                    "label": u8::from(record.label),
                });
                let written = writeln!(file, "{line}");
                written.map_err(Error::io(&path, "write"))?;
            }
            file.commit()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::graph_questions::SimpleDigraph;
    use std::collections::{HashMap, HashSet};
    use std::hash::Hash;

    fn default_data() -> Synthetic {
        Synthetic::generate(&SyntheticConfig::default(), 7).unwrap()
    }

    #[test]
    fn labels_are_balanced_and_a_tenth_is_wrong() {
        for seed in [1, 42, 7] {
            let data = Synthetic::generate(&SyntheticConfig::default(), seed).unwrap();
            for split in Split::ALL {
                let records = data.split(split);
                let positive = records.iter().filter(|record| record.label).count() as f64 / records.len() as f64;
                let right = records.iter().filter(|record| data.rule(record) == Some(record.label)).count();
                assert!((0.4..=0.6).contains(&positive), "{split}: {positive}");
                assert_eq!(right as f64 / records.len() as f64, 0.9);
            }
        }
    }

    /// The accuracy of the best predictor that sees only `view` of a pair, over all pairs, without noise.
    fn best<K: Hash + Eq>(data: &Synthetic, view: impl Fn(usize, usize) -> K) -> f64 {
        let mut cells: HashMap<K, [usize; 2]> = HashMap::new();
        for (w, workflow) in data.workflows.iter().enumerate() {
            for (t, task) in data.tasks.iter().enumerate() {
                cells.entry(view(w, t)).or_default()[usize::from(rule(workflow, task).unwrap())] += 1;
            }
        }
        let right: usize = cells.values().map(|counts| counts.iter().max().unwrap()).sum();
        right as f64 / (data.workflows.len() * data.tasks.len()) as f64
    }

    #[test]
    fn all_three_sources_are_needed() {
        let data = default_data();
        let (workflows, tasks) = (&data.workflows, &data.tasks);
        assert_eq!(best(&data, |w, t| (w, t)), 1.0);
        // A task is known by its kind only: a learner cannot know it by heart, it must carry over to others.
        let no_wiring = best(&data, |w, t| (workflows[w].nodes.clone(), TaskKind::of(&tasks[t])));
        let no_texts = best(&data, |w, t| (workflows[w].edges.clone(), TaskKind::of(&tasks[t])));
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-9, "{got} {want}");
        close(no_wiring, 0.8);
        close(no_texts, 0.8);
        close(best(&data, |w, _| w), 0.75);
        close(best(&data, |_, t| t), 0.7);
    }

    #[test]
    fn pairs_are_distinct_and_graphs_as_described() {
        let data = default_data();
        let mut pairs = HashSet::new();
        for record in Split::ALL.into_iter().flat_map(|split| data.split(split)) {
            assert!(pairs.insert((record.workflow, record.task)));
        }
        assert_eq!(data.workflows.iter().collect::<HashSet<_>>().len(), 64);
        assert_eq!(data.tasks.iter().collect::<HashSet<_>>().len(), 40);
        for workflow in &data.workflows {
            assert!((4..=7).contains(&workflow.nodes.len()));
            let graph = SimpleDigraph::new(workflow);
            assert!(graph.topological_order().is_some());
            let isolated = graph.sources().iter().filter(|id| graph.sinks().contains(id)).count();
            assert_eq!(isolated, 0);
        }
        for twins in data.workflows.chunks(2) {
            assert_eq!(twins[0].nodes, twins[1].nodes);
            assert_ne!(twins[0].edges, twins[1].edges);
        }
    }

    #[test]
    fn the_seed_decides() {
        let config = SyntheticConfig::default();
        assert_eq!(default_data(), default_data());
        assert_ne!(default_data(), Synthetic::generate(&config, 8).unwrap());
    }

    #[test]
    fn settings_are_checked() {
        let error = |change: fn(&mut SyntheticConfig)| {
            let mut config = SyntheticConfig::default();
            change(&mut config);
            Synthetic::generate(&config, 1).unwrap_err().to_string()
        };
        assert!(error(|c| c.train = 5000).contains("at most workflows × tasks = 2560 records, found 5600"));
        assert!(error(|c| c.min_nodes = 2).contains("within 3 to 64, found 2 to 7"));
        assert!(error(|c| c.label_noise = f64::NAN).contains("a share from 0 to 0.5, found NaN"));
        assert!(error(|c| (c.workflows, c.min_nodes, c.max_nodes) = (60_000, 3, 3)).contains("`max_nodes`"));
    }
}
