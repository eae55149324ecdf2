//! Answers out of a list.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// The choices as a tree of tokens.
#[derive(Debug)]
pub(super) struct Choices {
    nodes: Vec<Node>,
    /// Tokens that end a choice which begins another one.
    ends: Vec<u32>,
    longest: usize,
}

#[derive(Debug, Default)]
struct Node {
    next: BTreeMap<u32, usize>,
    /// The choice that is complete here.
    choice: Option<usize>,
}

/// Where an answer stands after a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Within choices.
    Within(usize),
    /// At the end of one.
    End(usize),
}

impl Choices {
    /// Place of an answer without tokens.
    pub(super) const START: usize = 0;

    pub(super) fn new(choices: &[Vec<u32>], ends: &[u32]) -> Result<Self> {
        let mut nodes = vec![Node::default()];
        for (choice, ids) in choices.iter().enumerate() {
            if ids.is_empty() {
                return Err(Error::Input(format!("choice {choice} has no tokens")));
            }
            let mut at = Self::START;
            for id in ids {
                let fresh = nodes.len();
                at = *nodes[at].next.entry(*id).or_insert(fresh);
                if at == fresh {
                    nodes.push(Node::default());
                }
            }
            if let Some(other) = nodes[at].choice.replace(choice) {
                return Err(Error::Input(format!("choices {other} and {choice} are the same")));
            }
        }
        let longest = choices.iter().map(Vec::len).max().unwrap_or(0);
        let inner = nodes.iter().find_map(|node| node.choice.filter(|_| !node.next.is_empty()));
        if let Some(choice) = inner {
            if ends.is_empty() {
                return Err(Error::Input(format!(
                    "choice {choice} is the beginning of another one, and the decoder has no token that ends an answer"
                )));
            }
            for node in nodes.iter().filter(|node| node.choice.is_some()) {
                if let Some(end) = ends.iter().find(|end| node.next.contains_key(end)) {
                    return Err(Error::Input(format!("a choice goes on with token {end}, which ends an answer")));
                }
            }
        }
        // The token that ends a choice may be one more.
        Ok(Self { nodes, ends: ends.to_vec(), longest: longest + usize::from(inner.is_some()) })
    }

    /// Most tokens of an answer.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The tokens that may follow.
    pub(super) fn allowed(&self, at: usize) -> Vec<u32> {
        let node = &self.nodes[at];
        let ends = self.ends.iter().filter(|_| node.choice.is_some());
        node.next.keys().chain(ends).copied().collect()
    }

    /// Where a token that is allowed leads.
    pub(super) fn after(&self, at: usize, id: u32) -> Option<Place> {
        let node = &self.nodes[at];
        let Some(next) = node.next.get(&id) else { return node.choice.map(Place::End) };
        let reached = &self.nodes[*next];
        Some(match reached.choice {
            Some(choice) if reached.next.is_empty() => Place::End(choice),
            _ => Place::Within(*next),
        })
    }

    /// Notes log p of the choices that a next token may complete. `before` is log p of the tokens up to here, `logprob` that of a
    /// next token.
    pub(super) fn score(&self, at: usize, before: f32, logprob: impl Fn(u32) -> f32, scores: &mut [Option<f32>]) {
        let node = &self.nodes[at];
        for (id, next) in &node.next {
            let reached = &self.nodes[*next];
            if let Some(choice) = reached.choice.filter(|_| reached.next.is_empty()) {
                scores[choice] = Some(before + logprob(*id));
            }
        }
        if let Some(choice) = node.choice {
            let ends: f32 = self.ends.iter().map(|id| logprob(*id).exp()).sum();
            scores[choice] = Some(before + ends.ln());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_tokens() {
        let choices = Choices::new(&[vec![5], vec![6, 7], vec![6, 8], vec![6]], &[1, 2]).unwrap();
        assert_eq!(choices.allowed(Choices::START), [5, 6]);
        assert_eq!(choices.after(Choices::START, 5), Some(Place::End(0)));
        let Some(Place::Within(six)) = choices.after(Choices::START, 6) else { panic!("not within") };
        assert_eq!(choices.allowed(six), [7, 8, 1, 2]);
        assert_eq!((choices.after(six, 8), choices.after(six, 2)), (Some(Place::End(2)), Some(Place::End(3))));
        assert_eq!(choices.longest(), 3);

        let mut scores = [None; 4];
        choices.score(Choices::START, 0.0, |id| -(id as f32), &mut scores);
        assert_eq!(scores, [Some(-5.0), None, None, None]);
        choices.score(six, -6.0, |id| -(id as f32), &mut scores);
        assert_eq!(scores[1..3], [Some(-13.0), Some(-14.0)]);
        let ends = (-1f32).exp() + (-2f32).exp();
        assert!((scores[3].unwrap() - (ends.ln() - 6.0)).abs() < 1e-6);
    }

    #[test]
    fn lists_that_are_none() {
        let said = |choices: &[Vec<u32>], ends: &[u32]| Choices::new(choices, ends).unwrap_err().to_string();
        assert!(said(&[vec![5], vec![]], &[]).contains("choice 1 has no tokens"));
        assert!(said(&[vec![5], vec![5]], &[]).contains("choices 0 and 1 are the same"));
        assert!(said(&[vec![5], vec![5, 6]], &[]).contains("choice 0 is the beginning"));
        assert!(said(&[vec![5], vec![5, 6]], &[6]).contains("goes on with token 6"));
        assert!(Choices::new(&[vec![5, 6], vec![6]], &[6]).is_ok());
    }
}
