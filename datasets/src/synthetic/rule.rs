//! The planted rule, and the words by which it knows nodes and tasks.

use crate::graph_questions::SimpleDigraph;
use crate::workflow::Workflow;

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Answers the task.
    Solver,
    /// Can write programs.
    Programmer,
    /// Looks for mistakes.
    Checker,
    /// Anything else; without influence.
    Helper,
}

impl Role {
    /// The role that a node's text tells; none for a text that this generator does not write.
    pub fn of(text: &str) -> Option<Self> {
        let (name, _) = text.split_once(':')?;
        [(SOLVER, Role::Solver), (PROGRAMMER, Role::Programmer), (CHECKER, Role::Checker), (ESSAYIST, Role::Helper)]
            .into_iter()
            .chain(HELPERS.map(|helper| (helper, Role::Helper)))
            .find_map(|((known, _), role)| (known == name).then_some(role))
    }
}

/// What a task needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKind {
    /// A programmer.
    pub program: bool,
    /// A checker that stands after the solver.
    pub exact: bool,
}

impl TaskKind {
    /// The kinds in turn. Programs and exact results are asked for together more often than by chance, so that half of
    /// all labels are positive.
    pub(super) const CYCLE: [TaskKind; 5] = [
        TaskKind { program: true, exact: true },
        TaskKind { program: false, exact: false },
        TaskKind { program: true, exact: false },
        TaskKind { program: true, exact: true },
        TaskKind { program: false, exact: true },
    ];

    /// What a task's text asks for; none for a text that this generator does not write.
    pub fn of(text: &str) -> Option<Self> {
        let program = match text.split(' ').next()? {
            "Program" => true,
            "Essay" => false,
            _ => return None,
        };
        let exact = match text.rsplit_once(": ")?.1 {
            "exact result." => true,
            "rough draft." => false,
            _ => return None,
        };
        Some(Self { program, exact })
    }

    /// The text of a task.
    pub(super) fn text(self, number: usize, about: &str) -> String {
        let what = if self.program { "Program" } else { "Essay" };
        let how = if self.exact { "exact result" } else { "rough draft" };
        format!("{what} {number} about {about}: {how}.")
    }
}

/// The planted rule: whether the workflow solves the task. None for texts that this generator does not write.
pub fn rule(workflow: &Workflow, task: &str) -> Option<bool> {
    let TaskKind { program, exact } = TaskKind::of(task)?;
    let graph = SimpleDigraph::new(workflow);
    let (mut programmer, mut solvers, mut checkers) = (false, Vec::new(), Vec::new());
    for (id, text) in &workflow.nodes {
        match Role::of(text)? {
            Role::Programmer => programmer = true,
            Role::Solver => solvers.push(graph.rank(*id)?),
            Role::Checker => checkers.push(graph.rank(*id)?),
            Role::Helper => {}
        }
    }
    let reaches = |solver: &usize| checkers.iter().any(|checker| graph.distance(*solver, *checker).is_some());
    let checked = solvers.iter().any(reaches);
    Some((!program || programmer) && (!exact || checked))
}

/// The names of nodes and what they do.
pub(super) type Words = (&'static str, &'static str);
pub(super) const SOLVER: Words = ("Solver", "work out the answer");
pub(super) const PROGRAMMER: Words = ("Programmer", "write and run code");
pub(super) const CHECKER: Words = ("Reviewer", "verify the result");
/// Stands where another workflow has a programmer.
pub(super) const ESSAYIST: Words = ("Essayist", "tell a story");
pub(super) const HELPERS: [Words; 4] = [
    ("Planner", "list the steps"),
    ("Editor", "polish the wording"),
    ("Summarizer", "shorten the notes"),
    ("Translator", "use plain language"),
];
