//! Making workflows and tasks.

use super::SyntheticConfig;
use super::rule::{CHECKER, ESSAYIST, HELPERS, PROGRAMMER, SOLVER, TaskKind, Words};
use crate::error::{Error, Result};
use crate::workflow::Workflow;
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

const STYLES: [&str; 6] = ["briefly", "with care", "step by step", "at once", "twice", "in one line"];
const THINGS: [&str; 8] = ["apples", "bridges", "clocks", "dragons", "engines", "forests", "guitars", "harbors"];

/// What four workflows have in common.
struct Skeleton {
    /// Helpers before and after the others.
    before: usize,
    after: usize,
    /// Whether a helper stands between solver and checker.
    relay: bool,
    /// Whether the solver passes its work to the programmer, or whoever is there instead.
    chained: bool,
    /// By place: helpers before, solver, programmer, checker, relay, helpers after.
    ids: Vec<u32>,
    styles: Vec<&'static str>,
    /// What each place would be if it were a helper.
    helpers: Vec<Words>,
}

impl Skeleton {
    fn draw(config: &SyntheticConfig, rng: &mut ChaCha8Rng) -> Self {
        let nodes = rng.random_range(config.min_nodes..=config.max_nodes);
        let relay = nodes > 3 && rng.random_bool(0.25);
        let helpers = nodes - 3 - usize::from(relay);
        let before = rng.random_range(0..=helpers);
        let mut ids: Vec<u32> = (0..nodes as u32).collect();
        ids.shuffle(rng);
        let styles = (0..nodes).map(|_| *STYLES.choose(rng).unwrap_or(&STYLES[0])).collect();
        let words = (0..nodes).map(|_| *HELPERS.choose(rng).unwrap_or(&HELPERS[0])).collect();
        let chained = rng.random_bool(0.5);
        Self { before, after: helpers - before, relay, chained, ids, styles, helpers: words }
    }

    fn build(&self, programmer: bool, checked: bool) -> Workflow {
        let (solver, second, checker) = (self.before, self.before + 1, self.before + 2);
        let relay = checker + usize::from(self.relay);
        let after = relay + 1;
        let mut nodes: Vec<(u32, String)> = Vec::with_capacity(self.ids.len());
        for (place, (id, style)) in self.ids.iter().zip(&self.styles).enumerate() {
            let (name, work) = match place {
                _ if place == solver => SOLVER,
                _ if place == second => {
                    if programmer {
                        PROGRAMMER
                    } else {
                        ESSAYIST
                    }
                }
                _ if place == checker => CHECKER,
                _ => self.helpers[place],
            };
            nodes.push((*id, format!("{name}: {work} {style}.")));
        }
        nodes.sort_unstable_by_key(|(id, _)| *id);

        let mut edges = Vec::new();
        let mut link = |source: usize, target: usize| edges.push([self.ids[source], self.ids[target]]);
        (1..self.before).for_each(|place| link(place - 1, place));
        (after + 1..after + self.after).for_each(|place| link(place - 1, place));
        // The checker with its relay, from the end that faces the solver to the far end.
        let (near, far) = if self.relay { (relay, checker) } else { (checker, checker) };
        if near != far {
            if checked { link(near, far) } else { link(far, near) }
        }
        let (entries, exits) = if checked {
            link(solver, near);
            link(second, near);
            ([solver, second], [far, far])
        } else {
            link(near, solver);
            link(near, second);
            ([far, far], [solver, second])
        };
        let mut join = |source: usize, target: usize| {
            let edge = [self.ids[source], self.ids[target]];
            if !edges.contains(&edge) {
                edges.push(edge);
            }
        };
        if self.chained {
            join(solver, second);
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

/// Distinct workflows, four in a row from one skeleton: with and without a programmer, checked and not.
pub(super) fn make_workflows(config: &SyntheticConfig, rng: &mut ChaCha8Rng) -> Result<Vec<Workflow>> {
    let mut workflows = Vec::with_capacity(config.workflows);
    let mut seen = HashSet::new();
    let mut rejected = 0;
    while workflows.len() < config.workflows {
        if rejected > 200 {
            return Err(Error::setting("max_nodes", "more nodes, for so many distinct workflows", config.max_nodes));
        }
        let skeleton = Skeleton::draw(config, rng);
        let kinds = [(true, true), (true, false), (false, true), (false, false)];
        let group = kinds.map(|(programmer, checked)| skeleton.build(programmer, checked));
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

/// Distinct tasks, of all kinds in turn.
pub(super) fn make_tasks(count: usize, rng: &mut ChaCha8Rng) -> Vec<String> {
    let kinds = TaskKind::CYCLE.into_iter().cycle().take(count).enumerate();
    kinds.map(|(number, kind)| kind.text(number + 1, THINGS.choose(rng).unwrap_or(&THINGS[0]))).collect()
}
