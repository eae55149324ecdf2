//! Runs that differ in nothing but their seeds, as one.

use super::run::Run;
use super::table::number;

/// Some numbers by their mean and how far they spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with n − 1; 0 for one number.
    pub deviation: f64,
}

impl Spread {
    /// Of some numbers; `None` of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if count > 1 { (squares / (count - 1) as f64).sqrt() } else { 0.0 };
        (count > 0).then_some(Self { count, mean, deviation })
    }

    /// As in a table: `0.8123 ± 0.0045`, and a single number alone.
    pub(super) fn text(&self) -> String {
        let mean = number(Some(self.mean));
        if self.count == 1 { mean } else { format!("{mean} ± {}", number(Some(self.deviation))) }
    }
}

/// Runs of one experiment.
#[derive(Debug)]
pub(super) struct Group<'a> {
    /// The first run's name, and how many seeds there are.
    pub(super) name: String,
    pub(super) runs: Vec<&'a Run>,
}

/// A metric of a stage over the runs of a group that have it.
pub(super) fn spread(group: &Group, stage: &str, metric: &str) -> Option<Spread> {
    let value = |run: &&Run| *run.stage(stage)?.manifest.as_ref()?.metrics.get(metric)?;
    Spread::of(&group.runs.iter().filter_map(value).collect::<Vec<f64>>())
}

/// Runs with the same recipe apart from the seed go together, in the order of their first ones. Two runs with the same seed
/// are two experiments all the same: their results are no draws of one.
pub(super) fn groups(runs: &[Run]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for run in runs {
        let like = |other: &&Run| run.experiment.is_some() && run.experiment == other.experiment;
        let group = groups.iter_mut().find(|group| {
            group.runs.first().is_some_and(like) && group.runs.iter().all(|other| other.seed != run.seed)
        });
        match group {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { name: run.name.clone(), runs: vec![run] }),
        }
    }
    for group in &mut groups {
        if group.runs.len() > 1 {
            group.name = format!("{} ({} seeds)", group.name, group.runs.len());
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_sample_deviations() {
        // 0.6, 0.7, 0.8: mean 0.7, deviation √(0.02 / 2) = 0.1.
        let spread = Spread::of(&[0.6, 0.7, 0.8]);
        assert!(
            spread.is_some_and(|s| (s.mean - 0.7).abs() < 1e-12 && (s.deviation - 0.1).abs() < 1e-12),
            "{spread:?}"
        );
        assert_eq!(spread.map(|s| s.text()).as_deref(), Some("0.7000 ± 0.1000"));
        assert_eq!(Spread::of(&[3.0]).map(|s| s.text()).as_deref(), Some("3"));
        assert_eq!(Spread::of(&[]), None);
    }
}
