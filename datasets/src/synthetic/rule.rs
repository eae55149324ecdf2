//! The planted rule, and the words by which it knows nodes and tasks.

use crate::graph_questions::SimpleDigraph;
use crate::workflow::Workflow;

/// What a solver is for and a task is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Numbers.
    Arithmetic,
    /// Programs.
    Coding,
    /// Places.
    Geography,
}

impl Subject {
    pub(super) const ALL: [Subject; 3] = [Subject::Arithmetic, Subject::Coding, Subject::Geography];

    pub(super) fn word(self) -> &'static str {
        match self {
            Subject::Arithmetic => "arithmetic",
            Subject::Coding => "coding",
            Subject::Geography => "geography",
        }
    }
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Answers tasks of one subject.
    Solver(Subject),
    /// Looks for mistakes.
    Checker,
    /// Anything else; without influence.
    Helper,
}

impl Role {
    /// The role that a node's text tells; none for a text that this generator does not write.
    pub fn of(text: &str) -> Option<Self> {
        let (head, _) = text.split_once(':')?;
        if HELPERS.iter().any(|(name, _)| *name == head) {
            return Some(Role::Helper);
        }
        match head {
            "Reviewer" => Some(Role::Checker),
            _ => Some(Role::Solver(Subject::ALL.into_iter().find(|subject| head == solver_name(*subject))?)),
        }
    }
}

/// A task's subject, and whether it is tricky; none for a text that this generator does not write.
pub fn task_kind(text: &str) -> Option<(Subject, bool)> {
    let mut words = text.split(' ');
    let tricky = match words.next()? {
        "Simple" => false,
        "Tricky" => true,
        _ => return None,
    };
    let word = words.next()?;
    Some((Subject::ALL.into_iter().find(|subject| subject.word() == word)?, tricky))
}

/// The planted rule: whether the workflow solves the task. None for texts that this generator does not write.
pub fn rule(workflow: &Workflow, task: &str) -> Option<bool> {
    let (subject, tricky) = task_kind(task)?;
    let graph = SimpleDigraph::new(workflow);
    let (mut solvers, mut checkers) = (Vec::new(), Vec::new());
    for (id, text) in &workflow.nodes {
        match Role::of(text)? {
            Role::Solver(of) if of == subject => solvers.push(graph.rank(*id)?),
            Role::Checker => checkers.push(graph.rank(*id)?),
            _ => {}
        }
    }
    let checked = |solver: &usize| checkers.iter().any(|checker| graph.distance(*solver, *checker).is_some());
    Some(if tricky { solvers.iter().any(checked) } else { !solvers.is_empty() })
}

/// How the text of a solver begins.
pub(super) fn solver_name(subject: Subject) -> String {
    let word = subject.word();
    format!("{}{} solver", word[..1].to_uppercase(), &word[1..])
}

/// The helpers and what they do.
pub(super) const HELPERS: [(&str, &str); 4] = [
    ("Planner", "list the steps"),
    ("Editor", "polish the wording"),
    ("Summarizer", "shorten the notes"),
    ("Translator", "use plain language"),
];
