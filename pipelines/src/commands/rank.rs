//! Workflows by how well they are predicted to do over several tasks.

use serde_json::{Map, Value, json};

/// A score above it is a vote.
const THRESHOLD: f32 = 0.5;

/// What is predicted of one workflow.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standing {
    /// Its number, where its records have one.
    pub(super) workflow_id: Option<i64>,
    /// The line of its first record.
    pub(super) line: u64,
    /// A score per task; none for a workflow without nodes.
    pub(super) scores: Vec<f32>,
}

impl Standing {
    /// Mean score and share of votes; `None` without scores.
    fn means(&self) -> Option<(f64, f64)> {
        let count = self.scores.len() as f64;
        let score = self.scores.iter().map(|score| f64::from(*score)).sum::<f64>() / count;
        let votes = self.scores.iter().filter(|score| **score > THRESHOLD).count() as f64 / count;
        (!self.scores.is_empty()).then_some((score, votes))
    }

    /// The line that is written about it: with its place, if the workflows are ranked, and with all scores, if they are asked
    /// for on `tasks` tasks.
    pub(super) fn row(&self, rank: Option<usize>, tasks: Option<usize>) -> Map<String, Value> {
        let mut row = Map::new();
        if let Some(rank) = rank {
            row.insert("rank".into(), json!(rank));
        }
        let means = self.means();
        row.insert("workflow_id".into(), json!(self.workflow_id));
        row.insert("line".into(), json!(self.line));
        row.insert("score".into(), json!(means.map(|means| means.0)));
        row.insert("votes".into(), json!(means.map(|means| means.1)));
        row.insert("tasks".into(), json!(self.scores.len()));
        if let Some(tasks) = tasks {
            let scores = (0..tasks).map(|task| json!(self.scores.get(task)));
            row.insert("scores".into(), Value::Array(scores.collect()));
        }
        row
    }
}

/// Best first: by mean score, then by share of votes, then from small numbers to large. Who has no score, or no number, comes
/// after those who have; at last the order of the file decides.
pub(super) fn rank(standings: &mut [Standing]) {
    standings.sort_by(|a, b| {
        let value = |standing: &Standing| standing.means().unwrap_or((f64::NEG_INFINITY, 0.0));
        let ((score_a, votes_a), (score_b, votes_b)) = (value(a), value(b));
        let id = |standing: &Standing| (standing.workflow_id.is_none(), standing.workflow_id);
        let best_first = score_b.total_cmp(&score_a).then(votes_b.total_cmp(&votes_a));
        best_first.then(id(a).cmp(&id(b))).then(a.line.cmp(&b.line))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_are_broken_by_votes_then_by_number_then_by_place() {
        let standing = |workflow_id, line, scores: &[f32]| Standing { workflow_id, line, scores: scores.to_vec() };
        let mut all = vec![
            standing(Some(9), 1, &[]),
            standing(None, 2, &[0.25, 0.25]),
            standing(Some(7), 3, &[0.5, 0.5]),
            standing(Some(8), 4, &[0.75, 0.25]),
            standing(Some(-3), 5, &[0.5, 0.5]),
            standing(None, 6, &[1.0]),
            standing(None, 7, &[0.5, 0.5]),
            standing(Some(-3), 8, &[0.5]),
        ];
        rank(&mut all);
        // 1.0; then means of 0.5: one vote before none, then -3 (lines 5 and 8), 7, and the one without a number.
        assert_eq!(all.iter().map(|standing| standing.line).collect::<Vec<_>>(), [6, 4, 5, 8, 3, 7, 2, 1]);
        let row = all[1].row(Some(2), Some(2));
        let want = json!({"rank": 2, "workflow_id": 8, "line": 4, "score": 0.5, "votes": 0.5, "tasks": 2, "scores": [0.75, 0.25]});
        assert_eq!(Value::Object(row), want);
        let row = all[7].row(None, Some(2));
        let want =
            json!({"workflow_id": 9, "line": 1, "score": null, "votes": null, "tasks": 0, "scores": [null, null]});
        assert_eq!(Value::Object(row), want);
    }
}
