//! The words of graph prompts.
//!
//! A question prompt is *preamble + question + closing*; the prompt that is embedded is *preamble + embed request*, with
//! the same preamble, so that a model tuned on the questions knows the form. All of it can be replaced: by settings, or
//! by a file that deserialises into [`Templates`].

mod judge;
pub mod one_for_all;

pub use judge::{JudgeStyle, JudgeTemplates, SectionOrder};

use crate::error::{Error, Result};
use crate::render::NodeRender;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The texts of graph prompts; a `{name}` of the listed names is replaced, any other brace stands for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Templates {
    /// Says what graph it is. `{nodes}` and `{edges}`, both needed.
    pub graph_preamble: String,
    /// Asks for one token that stands for the graph. No placeholder.
    pub embed_request: String,
    /// The questions.
    pub questions: Questions,
    /// Ends a question whose supervised answer is bare. No placeholder.
    pub closing: String,
    /// Ends a question whose supervised answer stands between `<answer>` and `</answer>`. No placeholder.
    pub closing_tagged: String,
    /// Asks whether a workflow will solve a task.
    pub judge: JudgeTemplates,
}

/// One text for each kind of question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Questions {
    /// The number of edges into `{node}`.
    pub indeg: String,
    /// The number of edges out of `{node}`.
    pub outdeg: String,
    /// The mean over all nodes of in-degree plus out-degree, to two decimals. No placeholder.
    pub avgdeg: String,
    /// The ids with an edge into `{node}`.
    pub predecessors: String,
    /// The ids with an edge from `{node}`.
    pub successors: String,
    /// The text of `{node}`.
    pub content: String,
    /// Whether a directed path leads from `{source}` to `{target}`.
    pub reach: String,
    /// The number of edges on a shortest path from `{source}` to `{target}`.
    pub length: String,
    /// The ids with no edge into them. No placeholder.
    pub sources: String,
    /// The ids with no edge out of them. No placeholder.
    pub sinks: String,
    /// The topological order that prefers small ids. No placeholder.
    pub toposort: String,
}

impl Default for Templates {
    fn default() -> Self {
        Self {
            graph_preamble: "Here is an agent workflow, drawn as a directed graph. Each node is a step and holds the \
                             text of that step.\nSteps, as id and text:\n{nodes}\nArrows, as pairs of the id where the \
                             arrow starts and the id where it ends:\n{edges}\n"
                .into(),
            embed_request: "Sum up this whole graph in one single token.".into(),
            questions: Questions::default(),
            closing: " Reply with the result alone.".into(),
            closing_tagged: " Explain how you find it, then put the result alone between <answer> and </answer>."
                .into(),
            judge: JudgeTemplates::default(),
        }
    }
}

impl Default for Questions {
    fn default() -> Self {
        const LIST: &str = "Write the ids in brackets, smallest first, as in [1, 4], or [] if there are none.";
        Self {
            indeg: "How many different steps have an arrow into step {node}?".into(),
            outdeg: "How many different steps does step {node} have an arrow to?".into(),
            avgdeg:
                "Count for each step the arrows that start or end there. What is the mean of these counts, with two \
                     decimals?"
                    .into(),
            predecessors: format!("Which steps have an arrow into step {{node}}? {LIST}"),
            successors: format!("Which steps does step {{node}} have an arrow to? {LIST}"),
            content: "Which text does step {node} hold?".into(),
            reach: "Following the arrows, can one get from step {source} to step {target}? Say Yes or No.".into(),
            length: "Following the arrows, how many of them does the shortest way from step {source} to step {target} \
                     take?"
                .into(),
            sources: format!("Which steps have no arrow into them? {LIST}"),
            sinks: format!("Which steps have no arrow out of them? {LIST}"),
            toposort: "Put all steps in an order in which every arrow points forward; where several steps could come \
                       next, take the smallest id. Write the ids in brackets, as in [1, 4]. If a cycle makes that \
                       impossible, say: No valid topological order"
                .into(),
        }
    }
}

/// A prompt about a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphPrompt {
    /// The whole text.
    pub text: String,
    /// The bytes of the node section: what a length limit may cut from the end of, keeping the rest.
    pub nodes: Range<usize>,
}

/// A prompt that was made to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted<T> {
    /// What was made of its text.
    pub value: T,
    /// The size of that; still over the limit where the prompt does not fit without any node either.
    pub size: usize,
    /// Whether nodes had to be cut.
    pub cut: bool,
}

impl GraphPrompt {
    /// Cuts the node section from its end, by whole characters and as few as possible, until the prompt's size is at most
    /// `limit`. `measure` makes something of a text and gives its size with it, such as ids and their number.
    ///
    /// # Errors
    /// Those of `measure`.
    pub fn fit<T, E>(
        &self,
        limit: usize,
        mut measure: impl FnMut(&str) -> std::result::Result<(T, usize), E>,
    ) -> std::result::Result<Fitted<T>, E> {
        let (value, size) = measure(&self.text)?;
        if size <= limit {
            return Ok(Fitted { value, size, cut: false });
        }
        let (head, tail) = (&self.text[..self.nodes.start], &self.text[self.nodes.end..]);
        let nodes = &self.text[self.nodes.clone()];
        let ends: Vec<usize> = nodes.char_indices().map(|(at, _)| at).collect();
        let mut shortened =
            |kept: usize| measure(&[head, &nodes[..ends.get(kept).copied().unwrap_or(0)], tail].concat());
        let (mut value, mut size) = shortened(0)?;
        // The most characters that still fit; more characters are never fewer tokens by more than a merge at the cut.
        let (mut low, mut high) = (0, ends.len().saturating_sub(1));
        while low < high {
            let middle = (low + high).div_ceil(2);
            let found = shortened(middle)?;
            if found.1 <= limit {
                low = middle;
                (value, size) = found;
            } else {
                high = middle - 1;
            }
        }
        Ok(Fitted { value, size, cut: true })
    }
}

impl Templates {
    /// Checks that every text has the placeholders it needs and no others.
    pub fn validate(&self) -> Result<()> {
        let questions = &self.questions;
        let node = ["node"].as_slice();
        let pair = ["source", "target"].as_slice();
        let all: [(&str, &str, &[&str]); 15] = [
            ("graph_preamble", &self.graph_preamble, &["nodes", "edges"]),
            ("embed_request", &self.embed_request, &[]),
            ("closing", &self.closing, &[]),
            ("closing_tagged", &self.closing_tagged, &[]),
            ("questions.indeg", &questions.indeg, node),
            ("questions.outdeg", &questions.outdeg, node),
            ("questions.avgdeg", &questions.avgdeg, &[]),
            ("questions.predecessors", &questions.predecessors, node),
            ("questions.successors", &questions.successors, node),
            ("questions.content", &questions.content, node),
            ("questions.reach", &questions.reach, pair),
            ("questions.length", &questions.length, pair),
            ("questions.sources", &questions.sources, &[]),
            ("questions.sinks", &questions.sinks, &[]),
            ("questions.toposort", &questions.toposort, &[]),
        ];
        check_placeholders(&["nodes", "edges", "node", "source", "target"], &all)?;
        if self.graph_preamble.find("{nodes}") > self.graph_preamble.find("{edges}") {
            return Err(Error::setting(
                "templates.graph_preamble",
                "{nodes} before {edges}",
                "them the other way round",
            ));
        }
        self.judge.validate()
    }

    /// The BLAKE3 hash of all texts, in hexadecimal.
    pub fn hash(&self) -> String {
        // Strings only: this cannot fail, and an empty text would still be a valid input of the hash.
        blake3::hash(serde_json::to_string(self).unwrap_or_default().as_bytes()).to_hex().to_string()
    }

    /// The BLAKE3 hash of what [`Templates::embed_prompt`] uses, in hexadecimal: other words leave embeddings valid.
    pub fn embed_hash(&self) -> String {
        let parts = [&self.graph_preamble, &self.embed_request];
        blake3::hash(serde_json::to_string(&parts).unwrap_or_default().as_bytes()).to_hex().to_string()
    }

    /// The preamble for a graph, followed by `rest`. Nodes and edges in the order given.
    pub fn prompt<S: AsRef<str>>(
        &self,
        nodes: &[(u32, S)],
        edges: &[[u32; 2]],
        render: NodeRender,
        rest: &str,
    ) -> GraphPrompt {
        let nodes = render.nodes(nodes);
        let head = self.graph_preamble.find("{nodes}").unwrap_or(0);
        let mut text = fill(&self.graph_preamble, &[("nodes", &nodes), ("edges", &render.edges(edges))]);
        text.push_str(rest);
        GraphPrompt { nodes: head..head + nodes.len(), text }
    }

    /// The prompt whose last token's state is the graph's embedding.
    pub fn embed_prompt<S: AsRef<str>>(
        &self,
        nodes: &[(u32, S)],
        edges: &[[u32; 2]],
        render: NodeRender,
    ) -> GraphPrompt {
        self.prompt(nodes, edges, render, &self.embed_request)
    }
}

/// Checks that every text has each of `names` once where it needs it and nowhere else.
fn check_placeholders(names: &[&str], texts: &[(&str, &str, &[&str])]) -> Result<()> {
    for (key, text, needed) in texts {
        for name in names {
            let count = text.matches(&format!("{{{name}}}")).count();
            let wanted = usize::from(needed.contains(name));
            if count != wanted {
                let key = format!("templates.{key}");
                let expected = format!("the placeholder {{{name}}} {}", ["nowhere", "once"][wanted]);
                return Err(Error::setting(&key, expected, format!("it {count} times")));
            }
        }
    }
    Ok(())
}

/// Replaces each `{name}` by its value, in one pass: what is put in is not looked at again.
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() + values.iter().map(|(_, value)| value.len()).sum::<usize>());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let found = values
            .iter()
            .find_map(|(name, value)| Some((rest.strip_prefix('{')?.strip_prefix(name)?.strip_prefix('}')?, value)));
        match found {
            Some((after, value)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_put_in_is_not_a_template() {
        assert_eq!(fill("a {x} {{y}} {z {x}{", &[("x", "{y}"), ("y", "1")]), "a {y} {1} {z {y}{");
    }

    #[test]
    fn node_section_is_found() {
        let nodes = [(3, "{edges} ✓"), (1, "b")];
        for render in [NodeRender::PyRepr, NodeRender::Json, NodeRender::Lines] {
            let prompt = Templates::default().embed_prompt(&nodes, &[[3, 1]], render);
            assert_eq!(&prompt.text[prompt.nodes.clone()], render.nodes(&nodes));
            assert!(prompt.text.ends_with("one single token."));
            assert!(prompt.text.contains(&render.edges(&[[3, 1]])));
        }
    }

    #[test]
    fn as_few_nodes_as_possible_are_cut() {
        let nodes: Vec<(u32, String)> = (0..9).map(|id| (id, "wörter ".repeat(id as usize + 1))).collect();
        let prompt = Templates::default().embed_prompt(&nodes, &[[0, 8]], NodeRender::PyRepr);
        let count = |text: &str| Ok::<_, ()>((text.to_owned(), text.chars().count()));
        let whole = prompt.text.chars().count();
        let section = prompt.text[prompt.nodes.clone()].chars().count();
        for limit in [whole, whole - 1, whole - 7, whole - section, 3] {
            let fitted = prompt.fit(limit, count).unwrap();
            assert_eq!((fitted.cut, fitted.size), (limit < whole, limit.max(whole - section)));
            assert_eq!(fitted.value.chars().count(), fitted.size);
            assert!(fitted.value.ends_with(&prompt.text[prompt.nodes.end..]));
            assert!(prompt.text.starts_with(&fitted.value[..prompt.nodes.start + fitted.size + section - whole]));
        }
        assert_eq!(prompt.fit(1, |_| Err::<((), usize), _>("no")), Err("no"));
    }

    #[test]
    fn placeholders_are_checked() {
        Templates::default().validate().unwrap();
        let broken = |change: fn(&mut Templates)| {
            let mut templates = Templates::default();
            change(&mut templates);
            templates.validate().unwrap_err().to_string()
        };
        let error = broken(|t| t.graph_preamble = "{nodes}".into());
        assert_eq!(error, "`templates.graph_preamble`: expected the placeholder {edges} once, found it 0 times");
        assert!(broken(|t| t.closing.push_str("{node}")).contains("{node} nowhere"));
        assert!(broken(|t| t.questions.reach = "{source}{source}{target}".into()).contains("it 2 times"));
        assert!(broken(|t| t.graph_preamble = "{edges}{nodes}".into()).contains("the other way round"));
        assert_ne!(Templates::default().hash(), Templates::default().embed_hash());
    }
}
