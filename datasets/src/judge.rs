//! FLORA records as questions with the answers Yes and No: does this workflow solve this task? (The language model
//! baselines of GLOW, arXiv 2512.15751.)

use crate::index::{FloraIndex, Records};
use crate::render::NodeRender;
use crate::templates::{GraphPrompt, JudgeStyle, JudgeTemplates, SectionOrder};
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

/// The answer for a workflow that solves the task.
pub const YES: &str = "Yes";
/// The answer for one that does not.
pub const NO: &str = "No";

/// The answer that a label stands for: [`YES`] from 0.5 on.
pub fn answer(label: f32) -> &'static str {
    if label >= 0.5 { YES } else { NO }
}

/// How judge prompts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JudgeForm {
    /// How node and edge sections are written.
    pub node_render: NodeRender,
    /// Which section comes first.
    pub order: SectionOrder,
    /// What the model is to say.
    pub style: JudgeStyle,
}

/// The prompts of a data set. Every workflow's sections are written once.
#[derive(Debug)]
pub struct JudgePrompts<'a> {
    index: &'a FloraIndex,
    templates: &'a JudgeTemplates,
    form: JudgeForm,
    /// Nodes and edges of every workflow.
    sections: Vec<(String, String)>,
}

impl<'a> JudgePrompts<'a> {
    /// Writes the sections of all workflows.
    pub fn new(index: &'a FloraIndex, templates: &'a JudgeTemplates, form: JudgeForm) -> Self {
        let sections = (0..index.workflows().len() as u32)
            .map(|number| {
                let workflow = index.workflow(number);
                (form.node_render.nodes(&workflow.nodes), form.node_render.edges(&workflow.edges))
            })
            .collect();
        Self { index, templates, form, sections }
    }

    /// The user's message about a record of the index.
    ///
    /// # Panics
    /// When there is no such record, or when `records` are those of another index.
    pub fn prompt(&self, records: &Records, record: usize) -> GraphPrompt {
        let (nodes, edges) = &self.sections[records.workflow[record] as usize];
        let task = &self.index.texts()[records.task[record] as usize];
        self.templates.prompt(self.form.style, self.form.order, task, nodes, edges)
    }
}

/// Records in which the rarer of the two answers has at least the share `ratio`: all records in their order, then as many
/// more of the rarer ones as that takes, whole rounds of them and a rest drawn without replacement. Nothing is added where
/// the share is reached already, where an answer is missing, or where `ratio` is not in (0, 1).
///
/// With m of the rarer and M of the other answer, there are ⌈ratio·M / (1 − ratio)⌉ of the rarer one in the end.
pub fn balanced(labels: &[f32], ratio: f64, rng: &mut impl Rng) -> Vec<u32> {
    let all = 0..labels.len() as u32;
    let (yes, no): (Vec<u32>, Vec<u32>) = all.clone().partition(|record| labels[*record as usize] >= 0.5);
    let (rare, rest) = if yes.len() <= no.len() { (yes, no.len()) } else { (no, yes.len()) };
    let mut chosen: Vec<u32> = all.collect();
    if rare.is_empty() || !(ratio > 0.0 && ratio < 1.0) {
        return chosen;
    }
    // A product that should be whole may be a rounding error above it.
    let wanted = (ratio * rest as f64 / (1.0 - ratio) - 1e-9).ceil() as usize;
    let more = wanted.saturating_sub(rare.len());
    for _ in 0..more / rare.len() {
        chosen.extend(&rare);
    }
    let mut drawn = rare.clone();
    let (drawn, _) = drawn.partial_shuffle(rng, more % rare.len());
    chosen.extend_from_slice(drawn);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    #[test]
    fn the_rarer_answer_reaches_its_share() {
        let labels = |yes: usize, no: usize| [vec![1.0; yes], vec![0.0; no]].concat();
        let counts = |labels: &[f32], ratio| {
            let chosen = balanced(labels, ratio, &mut stream(1, "balance", &[]));
            assert!(chosen.iter().copied().take(labels.len()).eq(0..labels.len() as u32));
            let mut times = vec![0; labels.len()];
            chosen.iter().for_each(|record| times[*record as usize] += 1);
            let rare = if labels.iter().sum::<f32>() * 2.0 <= labels.len() as f32 { 1.0 } else { 0.0 };
            let rare: Vec<i32> =
                labels.iter().zip(&times).filter(|(label, _)| **label == rare).map(|(_, n)| *n).collect();
            assert!(rare.iter().all(|n| *n <= rare.iter().min().map_or(0, |least| least + 1)), "{times:?}");
            chosen.len()
        };
        // 3 of 13; for one half, 10 are needed: two more rounds of 3, and 1 drawn.
        assert_eq!(counts(&labels(3, 10), 0.5), 20);
        assert_eq!(counts(&labels(10, 3), 0.5), 20);
        // 0.3·10/0.7 = 4.28…: 5.
        assert_eq!(counts(&labels(3, 10), 0.3), 15);
        // 0.2·40/0.8 is 10 and not 11.
        assert_eq!(counts(&labels(4, 40), 0.2), 50);
        for (yes, no, ratio) in [(3, 10, 0.2), (5, 5, 0.5), (0, 7, 0.5), (7, 0, 0.5), (3, 10, -1.0), (3, 10, 1.0)] {
            assert_eq!(counts(&labels(yes, no), ratio), yes + no);
        }
        assert_eq!(counts(&labels(3, 10), f64::NAN), 13);
    }

    #[test]
    fn the_rest_is_drawn_by_the_seed() {
        let labels = [vec![1.0; 50], vec![0.0; 80]].concat();
        let draw = |seed| balanced(&labels, 0.5, &mut stream(seed, "balance", &[]));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn graded_labels_count_from_one_half_on() {
        assert_eq!([0.0, 0.49, 0.5, 1.0].map(answer), [NO, NO, YES, YES]);
    }
}
