//! Rules across fields: what a recipe that parses can still have wrong. All of them are applied, and everything is
//! reported at once.

mod chats;
mod environment;
mod graph_questions;
mod judges;
mod names;
mod numbers;
mod parity;
mod sizes;
mod sources;

use super::{Document, Recipe};
use crate::diagnostics::Problem;
use crate::hub::Hub;

/// Everything that is wrong, in the order of the file; what arguments have set comes last. What the machine has to offer is
/// looked at when the recipe is to run `here`, with this hub's cache.
pub(super) fn check(document: &Document, here: Option<&Hub>) -> Vec<Problem> {
    let mut report = Report { document, problems: Vec::new() };
    names::check(&mut report);
    sources::check(&mut report);
    numbers::check(&mut report);
    parity::check(&mut report);
    sizes::check(&mut report);
    if let Some(hub) = here {
        environment::check(&mut report, hub);
    }
    let file = &document.source().name;
    report.problems.sort_by_key(|problem| (problem.text().name != *file, problem.span().start));
    report.problems
}

/// What the rules have found so far.
struct Report<'a> {
    document: &'a Document,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    fn recipe(&self) -> &'a Recipe {
        self.document.recipe()
    }

    /// A problem with the value at `place`.
    fn at(&self, place: &Place, message: impl Into<String>) -> Problem {
        let (source, span) = self.document.locate(&place.0);
        Problem::new(source, span, message)
    }

    /// Reports a problem; one that several users of the same value have found, once.
    fn push(&mut self, problem: Problem) {
        let known = |other: &Problem| other.place() == problem.place() && other.message() == problem.message();
        if !self.problems.iter().any(known) {
            self.problems.push(problem);
        }
    }

    /// Reports a problem that needs no more words.
    fn add(&mut self, place: &Place, message: impl Into<String>) {
        self.push(self.at(place, message));
    }
}

/// The way to a value of the recipe: field names, map keys and element numbers.
#[derive(Clone)]
struct Place(Vec<String>);

impl Place {
    fn of(field: &str) -> Self {
        Self(vec![field.to_owned()])
    }

    /// The value below this one that `path` leads to; its steps are joined by dots.
    fn at(&self, path: &str) -> Self {
        Self(self.0.iter().cloned().chain(path.split('.').map(str::to_owned)).collect())
    }

    /// The value below this one with this key, which may contain dots.
    fn key(&self, key: impl ToString) -> Self {
        Self(self.0.iter().cloned().chain([key.to_string()]).collect())
    }

    fn stage(index: usize) -> Self {
        Self::of("stages").key(index)
    }
}
