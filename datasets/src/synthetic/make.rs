//! Making workflows and tasks.

use super::SyntheticConfig;
use super::rule::{HELPERS, Subject, solver_name};
use crate::error::{Error, Result};
use crate::workflow::Workflow;
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

fn solver_work(subject: Subject) -> &'static str {
    match subject {
        Subject::Arithmetic => "compute the number",
        Subject::Coding => "write the program",
        Subject::Geography => "recall the place",
    }
}

const STYLES: [&str; 6] = ["briefly", "with care", "step by step", "at once", "twice", "in one line"];
const THINGS: [&str; 8] = ["apples", "bridges", "clocks", "dragons", "engines", "forests", "guitars", "harbors"];

/// What six workflows have in common.
struct Skeleton {
    /// Helpers before and after the others.
    before: usize,
    after: usize,
    /// Whether a helper stands between the solvers and the checker.
    relay: bool,
    /// Whether the first solver passes its work to the second.
    chained: bool,
    /// The id of each node: helpers before, solvers, checker, relay, helpers after.
    ids: Vec<u32>,
    /// The text of each node but the solvers, whose names are put before.
    styles: Vec<&'static str>,
    helpers: Vec<(&'static str, &'static str)>,
}

impl Skeleton {
    fn draw(config: &SyntheticConfig, rng: &mut ChaCha8Rng) -> Self {
        let nodes = rng.random_range(config.min_nodes..=config.max_nodes);
        let relay = nodes > 3 && rng.random_bool(0.25);
        let helpers = nodes - 3 - usize::from(relay);
        let before = rng.random_range(0..=helpers);
        let mut ids: Vec<u32> = (0..nodes as u32).collect();
        ids.shuffle(rng);
        let pick = |_| *STYLES.choose(rng).unwrap_or(&STYLES[0]);
        let styles = (0..nodes).map(pick).collect();
        let helpers_texts = (0..nodes).map(|_| *HELPERS.choose(rng).unwrap_or(&HELPERS[0])).collect();
        let chained = rng.random_bool(0.5);
        Self { before, after: helpers - before, relay, chained, ids, styles, helpers: helpers_texts }
    }

    fn build(&self, subjects: [Subject; 2], checked: bool) -> Workflow {
        let (first, second, checker) = (self.before, self.before + 1, self.before + 2);
        let relay = checker + usize::from(self.relay);
        let after = relay + 1;
        let mut nodes: Vec<(u32, String)> = Vec::with_capacity(self.ids.len());
        for (place, (id, style)) in self.ids.iter().zip(&self.styles).enumerate() {
            let text = if place == first || place == second {
                let subject = subjects[place - first];
                format!("{}: {} {style}.", solver_name(subject), solver_work(subject))
            } else if place == checker {
                format!("Reviewer: verify the answer {style}.")
            } else {
                let (name, work) = self.helpers[place];
                format!("{name}: {work} {style}.")
            };
            nodes.push((*id, text));
        }
        nodes.sort_unstable_by_key(|(id, _)| *id);

        let mut edges = Vec::new();
        let mut link = |source: usize, target: usize| edges.push([self.ids[source], self.ids[target]]);
        (1..self.before).for_each(|place| link(place - 1, place));
        (after + 1..after + self.after).for_each(|place| link(place - 1, place));
        // The checker with its relay, from the end that faces the solvers to the far end.
        let (near, far) = if self.relay { (relay, checker) } else { (checker, checker) };
        if near != far {
            if checked { link(near, far) } else { link(far, near) }
        }
        let (entries, exits) = if checked {
            link(first, near);
            link(second, near);
            ([first, second], [far, far])
        } else {
            link(near, first);
            link(near, second);
            ([far, far], [first, second])
        };
        let mut join = |source: usize, target: usize| {
            let edge = [self.ids[source], self.ids[target]];
            if !edges.contains(&edge) {
                edges.push(edge);
            }
        };
        if self.chained {
            join(first, second);
        }
        if self.before > 0 {
            entries.iter().for_each(|entry| join(self.before - 1, *entry));
        }
        if self.after > 0 {
            exits.iter().for_each(|exit| join(*exit, after));
        }
        edges.sort_unstable();
        Workflow { nodes, edges }
    }
}

/// Distinct workflows, six in a row from one skeleton.
pub(super) fn make_workflows(config: &SyntheticConfig, rng: &mut ChaCha8Rng) -> Result<Vec<Workflow>> {
    use Subject::{Arithmetic, Coding, Geography};
    let pairs = [[Arithmetic, Coding], [Coding, Geography], [Geography, Arithmetic]];
    let mut workflows = Vec::with_capacity(config.workflows);
    let mut seen = HashSet::new();
    let mut rejected = 0;
    while workflows.len() < config.workflows {
        if rejected > 200 {
            return Err(Error::setting("max_nodes", "more nodes, for so many distinct workflows", config.max_nodes));
        }
        let skeleton = Skeleton::draw(config, rng);
        let group: Vec<Workflow> =
            pairs.iter().flat_map(|pair| [true, false].map(|checked| skeleton.build(*pair, checked))).collect();
        if group.iter().any(|workflow| seen.contains(workflow)) {
            rejected += 1;
            continue;
        }
        rejected = 0;
        seen.extend(group.iter().cloned());
        workflows.extend(group);
    }
    workflows.truncate(config.workflows);
    Ok(workflows)
}

/// Distinct tasks; six in a row are of the six kinds.
pub(super) fn make_tasks(count: usize, rng: &mut ChaCha8Rng) -> Vec<String> {
    (0..count)
        .map(|number| {
            let subject = Subject::ALL[number % 3].word();
            let level = if number / 3 % 2 == 0 { "Simple" } else { "Tricky" };
            let thing = THINGS.choose(rng).unwrap_or(&THINGS[0]);
            format!("{level} {subject} question {} about {thing}.", number / 6 + 1)
        })
        .collect()
}
