//! The words that ask whether a workflow will solve a task.

use super::{GraphPrompt, check_placeholders, fill};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// The texts of judge prompts: *intro + node note + (tool note) + task and workflow + request*.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeTemplates {
    /// The system message; none where it is empty. No placeholder.
    pub system: String,
    /// Says what follows, what nodes and edges mean, and that the task is not to be solved. No placeholder.
    pub intro: String,
    /// What a node sees beside its prompt. No placeholder.
    pub node_note: String,
    /// What a node may do; only with [`JudgeStyle::Reasoned`]. No placeholder.
    pub tool_note: String,
    /// The task section. `{task}`, needed.
    pub task: String,
    /// The workflow section. `{nodes}` and `{edges}`, both needed.
    pub workflow: String,
    /// Asks for Yes or No alone. No placeholder.
    pub request: String,
    /// Asks for reasons, and for Yes or No between `<answer>` and `</answer>`. No placeholder.
    pub request_tagged: String,
}

/// What the model is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum JudgeStyle {
    /// Yes or No alone.
    #[default]
    Direct,
    /// Reasons first, then Yes or No between tags.
    Reasoned,
}

/// Which section of a judge prompt comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SectionOrder {
    /// Task, nodes, edges, as published.
    #[default]
    TaskFirst,
    /// Nodes, edges, task: all prompts about one workflow begin alike.
    WorkflowFirst,
}

impl Default for JudgeTemplates {
    fn default() -> Self {
        Self {
            system: "You are a judge of agent workflows: before anybody runs one, you say whether it will work.".into(),
            intro: "You are shown a task and a workflow of language model calls that is to solve it. Each node of the \
                    workflow is one call and holds its prompt. Each edge passes the result of one node on to the next, \
                    so the edges also give the order of the calls. Leave the task itself alone and judge the \
                    workflow.\n"
                .into(),
            node_note: "Beside its own prompt, a node is given the task and the results of the nodes that lead to \
                        it.\n"
                .into(),
            tool_note: "A node may use tools, such as running the code it writes.\n".into(),
            task: "\nThe task:\n{task}\n".into(),
            workflow: "\nThe nodes, as id and prompt:\n{nodes}\n\nThe edges, as pairs of the id where the edge starts \
                       and the id where it ends:\n{edges}\n"
                .into(),
            request: "\nWill this workflow solve the task? Reply with one word, Yes or No.".into(),
            request_tagged: "\nWill this workflow solve the task? First go through what speaks for it and against \
                             it, then end with Yes or No between <answer> and </answer>."
                .into(),
        }
    }
}

impl JudgeTemplates {
    /// Checks that every text has the placeholders it needs and no others.
    pub(super) fn validate(&self) -> Result<()> {
        let all: [(&str, &str, &[&str]); 8] = [
            ("judge.system", &self.system, &[]),
            ("judge.intro", &self.intro, &[]),
            ("judge.node_note", &self.node_note, &[]),
            ("judge.tool_note", &self.tool_note, &[]),
            ("judge.task", &self.task, &["task"]),
            ("judge.workflow", &self.workflow, &["nodes", "edges"]),
            ("judge.request", &self.request, &[]),
            ("judge.request_tagged", &self.request_tagged, &[]),
        ];
        check_placeholders(&["task", "nodes", "edges"], &all)
    }

    /// The BLAKE3 hash of all texts, in hexadecimal.
    pub fn hash(&self) -> String {
        blake3::hash(serde_json::to_string(self).unwrap_or_default().as_bytes()).to_hex().to_string()
    }

    /// The user's message for a task and the rendered sections of a workflow.
    pub fn prompt(&self, style: JudgeStyle, order: SectionOrder, task: &str, nodes: &str, edges: &str) -> GraphPrompt {
        let task = fill(&self.task, &[("task", task)]);
        let workflow = fill(&self.workflow, &[("nodes", nodes), ("edges", edges)]);
        // The nodes may stand behind the edges, whose section may have any length.
        let before = self.workflow.split("{nodes}").next().unwrap_or_default();
        let inside = fill(before, &[("edges", edges)]).len();
        let (tools, request) = match style {
            JudgeStyle::Direct => ("", &self.request),
            JudgeStyle::Reasoned => (self.tool_note.as_str(), &self.request_tagged),
        };
        let head = [self.intro.as_str(), &self.node_note, tools].concat();
        let (start, sections) = match order {
            SectionOrder::TaskFirst => (head.len() + task.len() + inside, [task, workflow]),
            SectionOrder::WorkflowFirst => (head.len() + inside, [workflow, task]),
        };
        GraphPrompt { text: [head, sections.concat(), request.clone()].concat(), nodes: start..start + nodes.len() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::templates::Templates;

    #[test]
    fn sections_stand_in_their_order_and_nodes_are_found() {
        let mut templates = JudgeTemplates::default();
        for edges_first in [false, true] {
            if edges_first {
                templates.workflow = "E {edges} N {nodes} .".into();
            }
            templates.validate().unwrap();
            for style in [JudgeStyle::Direct, JudgeStyle::Reasoned] {
                for order in [SectionOrder::TaskFirst, SectionOrder::WorkflowFirst] {
                    let prompt = templates.prompt(style, order, "do {nodes}", "{'0': '{edges} ✓'}", "[[0, 0]]");
                    assert_eq!(&prompt.text[prompt.nodes.clone()], "{'0': '{edges} ✓'}");
                    let at = |part: &str| prompt.text.find(part).unwrap();
                    assert_eq!(at("do {nodes}") < prompt.nodes.start, order == SectionOrder::TaskFirst);
                    assert_eq!(at("[[0, 0]]") < prompt.nodes.start, edges_first);
                    assert_eq!(prompt.text.contains("may use tools"), style == JudgeStyle::Reasoned);
                    assert_eq!(prompt.text.ends_with("</answer>."), style == JudgeStyle::Reasoned);
                }
            }
        }
    }

    #[test]
    fn placeholders_are_checked_and_words_are_hashed() {
        let broken = |change: fn(&mut JudgeTemplates)| {
            let mut templates = Templates::default();
            change(&mut templates.judge);
            assert_ne!(templates.judge.hash(), JudgeTemplates::default().hash());
            templates.validate().unwrap_err().to_string()
        };
        let error = broken(|t| t.task = "solve it".into());
        assert_eq!(error, "`templates.judge.task`: expected the placeholder {task} once, found it 0 times");
        assert!(broken(|t| t.system.push_str("{task}")).contains("`templates.judge.system`"));
        assert!(broken(|t| t.workflow.push_str("{nodes}")).contains("it 2 times"));
    }
}
