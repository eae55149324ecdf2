//! When to keep a model, and when to stop.

use serde::{Deserialize, Serialize};

/// Which way a score improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Larger is better (accuracy).
    Highest,
    /// Smaller is better (loss).
    Lowest,
}

/// Follows one score over the evaluations of a stage.
///
/// The first evaluation always counts as an improvement. After that a score must beat the best one by more than
/// `min_delta`; where it is equal and a second score is given, a lower second score also counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// Which way the score improves.
    pub direction: Direction,
    /// Evaluations without improvement after which to stop; `None`: never.
    pub patience: Option<usize>,
    /// By how much a score must beat the best one.
    pub min_delta: f64,
    /// The published rule: `patience` counts units of so many steps (epochs), with and without an evaluation, and training
    /// ends when *more* than that have brought nothing since the best one. The first evaluation is waited for.
    #[serde(default)]
    pub past_patience: Option<usize>,
    /// The best score and its second score (a loss), once there is one.
    pub best: Option<(f64, f64)>,
    /// The step of the best score.
    pub best_step: usize,
    /// Evaluations since.
    pub without: usize,
}

/// What an evaluation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The best model so far.
    pub improved: bool,
    /// The patience is used up.
    pub stop: bool,
}

impl EarlyStopping {
    /// Nothing seen yet.
    pub fn new(direction: Direction, patience: Option<usize>) -> Self {
        Self { direction, patience, min_delta: 0.0, past_patience: None, best: None, best_step: 0, without: 0 }
    }

    /// Takes the score of an evaluation at `step`; `tie` breaks equal scores, smaller is better (pass a constant for none).
    pub fn observe(&mut self, step: usize, score: f64, tie: f64) -> Verdict {
        let improved = match self.best {
            None => true,
            Some((best, best_tie)) => {
                let gain = match self.direction {
                    Direction::Highest => score - best,
                    Direction::Lowest => best - score,
                };
                gain > self.min_delta || (gain == 0.0 && tie < best_tie)
            }
        };
        if improved {
            self.best = Some((score, tie));
            self.best_step = step;
            self.without = 0;
        } else {
            self.without += 1;
        }
        let used_up = self.patience.is_some_and(|patience| self.without >= patience);
        Verdict { improved, stop: used_up && self.past_patience.is_none() }
    }

    /// Whether the published rule ends training after `step`, evaluated or not.
    pub fn is_over(&self, step: usize) -> bool {
        match (self.patience, self.past_patience, self.best) {
            (Some(patience), Some(unit), Some(_)) => step >= self.best_step + (patience + 1) * unit,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f64; 10] = [0.60, 0.62, 0.62, 0.61, 0.65, 0.64, 0.65, 0.63, 0.60, 0.66];

    /// Runs epochs 1.. with an evaluation after every `every`-th and returns the best and the last epoch.
    fn run_every(mut rule: EarlyStopping, scores: impl IntoIterator<Item = f64>, every: usize) -> (usize, usize) {
        let mut last = 0;
        for (index, score) in scores.into_iter().enumerate() {
            last = index + 1;
            let stop = last.is_multiple_of(every) && rule.observe(last, score, 0.0).stop;
            if stop || rule.is_over(last) {
                break;
            }
        }
        (rule.best_step, last)
    }

    fn run(rule: EarlyStopping, scores: impl IntoIterator<Item = f64>) -> (usize, usize) {
        run_every(rule, scores, 1)
    }

    /// The published rule: worked example 20 of the specification.
    #[test]
    fn published_patience() {
        let rule = |patience| EarlyStopping {
            past_patience: Some(1),
            ..EarlyStopping::new(Direction::Highest, Some(patience))
        };
        assert_eq!(run(rule(2), SCORES), (5, 8));
        assert_eq!(run(rule(3), SCORES), (5, 9));
        assert_eq!(run(rule(30), std::iter::repeat_n(0.5, 100)), (1, 32));
        // Epochs without an evaluation count too; but one evaluation there is in any case.
        assert_eq!(run_every(rule(2), SCORES, 2), (2, 5));
        assert_eq!(run_every(rule(2), SCORES, 6), (6, 9));
    }

    #[test]
    fn inclusive_patience_stops_one_earlier() {
        assert_eq!(run(EarlyStopping::new(Direction::Highest, Some(2)), SCORES), (2, 4));
        assert_eq!(run(EarlyStopping::new(Direction::Lowest, None), SCORES), (1, 10));
    }

    #[test]
    fn ties_and_margins() {
        let mut rule = EarlyStopping::new(Direction::Highest, None);
        assert!(rule.observe(1, 0.5, 1.0).improved);
        assert!(rule.observe(2, 0.5, 0.9).improved);
        assert!(!rule.observe(3, 0.5, 0.9).improved);
        rule.min_delta = 0.1;
        assert!(!rule.observe(4, 0.55, 0.0).improved);
        assert!(rule.observe(5, 0.65, 5.0).improved);
    }
}
