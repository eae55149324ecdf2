//! Batches of (workflow, task) records.

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_gnn::{AdjacencyTarget, Graph, GraphBatch, SelfLoops};
use std::collections::HashMap;

use super::contrast::{ContrastConfig, ContrastGroups};
use crate::{Error, Result};

/// The embeddings of a data set, one row per distinct text, uploaded once. A batch only holds row numbers.
#[derive(Debug, Clone)]
pub struct GlowTables {
    /// Language-model embeddings of rendered workflows, `[W, D_llm]`.
    pub llm: Tensor<2>,
    /// Sentence embeddings of node texts and tasks, `[T, D_text]`.
    pub text: Tensor<2>,
}

/// A distinct workflow: its graph, and the row of each node's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GlowWorkflow {
    /// The graph.
    pub graph: Graph,
    /// For every node in order its row in [`GlowTables::text`].
    pub node_texts: Vec<u32>,
}

/// Where the vectors of One-For-All's nodes stand in [`GlowTables::text`]: the row of a text plus one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptRows {
    /// The text as that of a step.
    pub feature: u32,
    /// "The workflow solves the task", with the text as the task.
    pub success: u32,
    /// "The workflow does not solve the task".
    pub failure: u32,
    /// What is asked about graphs; the row itself.
    pub purpose: u32,
}

impl GlowWorkflow {
    /// The workflow as One-For-All (arXiv 2310.00149) sees it together with a task, by the task's row: with n nodes, node n
    /// holds the purpose and has an edge from each of them; n + 1 and n + 2 say that the workflow solves the task and that it does
    /// not, and have an edge from n.
    pub fn with_prompt_nodes(&self, task: u32, rows: &PromptRows) -> Self {
        let purpose = self.graph.num_nodes as u32;
        let mut edges = self.graph.edges.clone();
        edges.extend((0..purpose).map(|node| [node, purpose]));
        edges.extend([[purpose, purpose + 1], [purpose, purpose + 2]]);
        let mut node_texts: Vec<u32> = self.node_texts.iter().map(|text| text + rows.feature).collect();
        node_texts.extend([rows.purpose, task + rows.success, task + rows.failure]);
        Self { graph: Graph { num_nodes: self.graph.num_nodes + 3, edges }, node_texts }
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GlowRecord {
    /// Position of its workflow in the list given with it.
    pub workflow: u32,
    /// Its row in [`GlowTables::llm`].
    pub llm: u32,
    /// The row of its task's text in [`GlowTables::text`].
    pub task: u32,
    /// 1 solved, 0 not; a rate in between for regression.
    pub label: f32,
    /// Which task it is; records of one task are contrasted with each other.
    pub task_id: i64,
}

/// What to do with workflows that several records of a batch share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dedup {
    /// Encode each distinct workflow once. Exact without dropout; with dropout its records share one mask.
    #[default]
    Share,
    /// Encode every record's workflow separately, each with a dropout of its own; what comes before the first dropout is computed
    /// once per distinct workflow all the same.
    Repeat,
}

/// A batch of B records over G graphs (distinct workflows, or one per record) with N nodes in all.
#[derive(Debug, Clone)]
pub struct GlowBatch {
    /// Row of [`GlowTables::llm`] per record, `[B]`.
    pub llm_index: Tensor<1, Int>,
    /// Row of [`GlowTables::text`] per record's task, `[B]`.
    pub task_index: Tensor<1, Int>,
    /// Row of [`GlowTables::text`] per node, `[N]`.
    pub node_text_index: Tensor<1, Int>,
    /// The graphs, with one self-loop per node.
    pub graphs: GraphBatch,
    /// The distinct workflows, where some are among the graphs more than once.
    pub distinct: Option<DistinctGraphs>,
    /// Graph of each record, `[B]`.
    pub graph_of_record: Tensor<1, Int>,
    /// Labels, `[B]`.
    pub labels: Tensor<1>,
    /// What a rate is fitted to, `[B]`: the labels, unless [`with_targets`](Self::with_targets) says otherwise.
    pub targets: Tensor<1>,
    /// The ids of the batch's tasks, in order of appearance.
    pub task_ids: Vec<i64>,
    /// Who is contrasted with whom; `None` for a loss without contrast.
    pub contrast: Option<ContrastGroups>,
    /// Label and task (its place in `task_ids`) of each record, on the host.
    host: Vec<(f32, usize)>,
}

/// Each workflow of a batch once: M nodes in all.
#[derive(Debug, Clone)]
pub struct DistinctGraphs {
    /// The graphs, with one self-loop per node.
    pub graphs: GraphBatch,
    /// Row of [`GlowTables::text`] per node, `[M]`.
    pub node_text_index: Tensor<1, Int>,
    /// For every node of the batch its like among these, `[N]`.
    pub node_of_node: Tensor<1, Int>,
}

impl DistinctGraphs {
    /// `workflow_of` has the workflow of every graph of the batch; none where all are different.
    fn new(workflow_of: &[u32], workflows: &[GlowWorkflow], text_rows: usize, device: &Device) -> Result<Option<Self>> {
        let mut first_node = HashMap::new();
        let (mut chosen, mut nodes) = (Vec::new(), 0);
        let mut node_of_node = Vec::new();
        for number in workflow_of {
            let workflow = &workflows[*number as usize];
            let first = *first_node.entry(*number).or_insert_with(|| {
                chosen.push(workflow);
                nodes += workflow.graph.num_nodes;
                nodes - workflow.graph.num_nodes
            });
            node_of_node.extend((first..first + workflow.graph.num_nodes).map(|node| node as i64));
        }
        if chosen.len() == workflow_of.len() {
            return Ok(None);
        }
        let graphs: Vec<&Graph> = chosen.iter().map(|w| &w.graph).collect();
        Ok(Some(Self {
            graphs: GraphBatch::new(&graphs, SelfLoops::ReplaceOnce, device)?,
            node_text_index: ints(node_rows(&chosen, text_rows)?, device),
            node_of_node: ints(node_of_node, device),
        }))
    }
}

impl GlowBatch {
    /// Collates records. Nothing here loops on the device: every tensor is built on the host and uploaded once.
    ///
    /// # Errors
    /// [`Error::Input`] for a row or workflow that does not exist, a workflow whose nodes and texts differ in number, a
    /// label that is not finite, or no record at all; [`Error::Graph`] for edges out of range.
    pub fn new(
        records: &[GlowRecord],
        workflows: &[GlowWorkflow],
        tables: &GlowTables,
        dedup: Dedup,
        device: &Device,
    ) -> Result<Self> {
        if records.is_empty() {
            return Err(Error::Input("a batch needs at least one record".into()));
        }
        let (llm_rows, text_rows) = (tables.llm.dims()[0], tables.text.dims()[0]);
        let mut chosen: Vec<&GlowWorkflow> = Vec::new();
        let mut workflow_of = Vec::new();
        let mut place_of_workflow = HashMap::new();
        let (mut task_ids, mut number_of_task) = (Vec::new(), HashMap::new());
        let (mut graph_of_record, mut host) = (Vec::new(), Vec::new());
        for (number, record) in records.iter().enumerate() {
            check_row("record", number, "language embedding", record.llm, llm_rows)?;
            check_row("record", number, "text embedding", record.task, text_rows)?;
            if !record.label.is_finite() {
                return Err(Error::Input(format!("record {number}: label {} is not finite", record.label)));
            }
            let Some(workflow) = workflows.get(record.workflow as usize) else {
                let problem = format!("record {number}: workflow {} of {}", record.workflow, workflows.len());
                return Err(Error::Input(problem));
            };
            let place = match dedup {
                Dedup::Repeat => chosen.len(),
                Dedup::Share => *place_of_workflow.entry(record.workflow).or_insert(chosen.len()),
            };
            if place == chosen.len() {
                chosen.push(workflow);
                workflow_of.push(record.workflow);
            }
            graph_of_record.push(place as i64);
            let next = task_ids.len();
            let task = *number_of_task.entry(record.task_id).or_insert(next);
            if task == next {
                task_ids.push(record.task_id);
            }
            host.push((record.label, task));
        }

        let graphs: Vec<&Graph> = chosen.iter().map(|w| &w.graph).collect();
        let labels: Vec<f32> = records.iter().map(|r| r.label).collect();
        let labels: Tensor<1> = Tensor::from_data(TensorData::new(labels, [records.len()]), device);
        Ok(Self {
            llm_index: ints(records.iter().map(|r| r.llm as i64).collect(), device),
            task_index: ints(records.iter().map(|r| r.task as i64).collect(), device),
            node_text_index: ints(node_rows(&chosen, text_rows)?, device),
            graphs: GraphBatch::new(&graphs, SelfLoops::ReplaceOnce, device)?,
            distinct: DistinctGraphs::new(&workflow_of, workflows, text_rows, device)?,
            graph_of_record: ints(graph_of_record, device),
            targets: labels.clone(),
            labels,
            task_ids,
            contrast: None,
            host,
        })
    }

    /// The batch with other targets for rates than its labels, one per record.
    ///
    /// # Errors
    /// [`Error::Input`] for another number of targets than records, or one that is not finite.
    pub fn with_targets(mut self, targets: &[f32]) -> Result<Self> {
        if targets.len() != self.len() {
            return Err(Error::Input(format!("{} records, but {} targets", self.len(), targets.len())));
        }
        if let Some(number) = targets.iter().position(|target| !target.is_finite()) {
            return Err(Error::Input(format!("record {number}: target {} is not finite", targets[number])));
        }
        let data = TensorData::new(targets.to_vec(), [targets.len()]);
        self.targets = Tensor::from_data(data, &self.labels.device());
        Ok(self)
    }

    /// The batch with its records grouped for contrast. `seed` is that of [`ContrastForm::Random`](super::ContrastForm).
    ///
    /// # Errors
    /// [`Error::Input`] for more pairs or triplets than fit into memory.
    pub fn with_contrast(mut self, config: &ContrastConfig, seed: u64) -> Result<Self> {
        let (labels, tasks): (Vec<f32>, Vec<usize>) = self.host.iter().copied().unzip();
        let device = self.labels.device();
        self.contrast = Some(ContrastGroups::new(&labels, &tasks, self.task_ids.len(), config, seed, &device)?);
        Ok(self)
    }

    /// Number of records, B.
    pub fn len(&self) -> usize {
        self.labels.dims()[0]
    }

    /// Whether there is no record; never, as [`new`](Self::new) refuses that.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A batch of workflows for the self-supervised warm-up of the graph encoder.
#[derive(Debug, Clone)]
pub struct WarmupBatch {
    /// Row of [`GlowTables::text`] per node, `[N]`.
    pub node_text_index: Tensor<1, Int>,
    /// The graphs, with one self-loop per node.
    pub graphs: GraphBatch,
    /// Their edges as given.
    pub target: AdjacencyTarget,
}

impl WarmupBatch {
    /// Collates workflows.
    ///
    /// # Errors
    /// As [`GlowBatch::new`]; [`Error::Input`] also when no workflow has a node, as there is nothing to learn from.
    pub fn new(workflows: &[&GlowWorkflow], tables: &GlowTables, device: &Device) -> Result<Self> {
        let graphs: Vec<&Graph> = workflows.iter().map(|w| &w.graph).collect();
        let rows = node_rows(workflows, tables.text.dims()[0])?;
        if rows.is_empty() {
            return Err(Error::Input("a warm-up batch needs at least one node".into()));
        }
        Ok(Self {
            node_text_index: ints(rows, device),
            graphs: GraphBatch::new(&graphs, SelfLoops::ReplaceOnce, device)?,
            target: AdjacencyTarget::new(&graphs, device)?,
        })
    }
}

/// The rows of all nodes' texts, workflow after workflow.
fn node_rows(workflows: &[&GlowWorkflow], text_rows: usize) -> Result<Vec<i64>> {
    let mut rows = Vec::new();
    for (number, workflow) in workflows.iter().enumerate() {
        let (nodes, texts) = (workflow.graph.num_nodes, workflow.node_texts.len());
        if nodes != texts {
            return Err(Error::Input(format!("workflow {number} of the batch: {nodes} nodes, but {texts} texts")));
        }
        for &row in &workflow.node_texts {
            check_row("workflow", number, "text embedding", row, text_rows)?;
            rows.push(row as i64);
        }
    }
    Ok(rows)
}

fn check_row(owner: &str, number: usize, what: &str, row: u32, rows: usize) -> Result<()> {
    match (row as usize) < rows {
        true => Ok(()),
        false => {
            Err(Error::Input(format!("{owner} {number} of the batch: {what} {row}, but the table has {rows} rows")))
        }
    }
}

pub(super) fn ints(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}
