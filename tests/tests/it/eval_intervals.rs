//! Bootstrap intervals and principal components: their properties.

use hearth::eval::bootstrap::{Interval, Unit};
use hearth::eval::pca::pca;
use hearth::eval::{Bootstrap, Error, Intervals, ScoredRecord, UtilityOptions};
use rand::RngExt;

/// Records of `workflows` workflows with `tasks` tasks each; a share `right` of the predictions is right.
fn records(workflows: i64, tasks: i64, right: f64, seed: u64) -> Vec<ScoredRecord> {
    let mut random = datasets::rng::stream(seed, "test", &[]);
    let pairs = (0..workflows).flat_map(|workflow| (0..tasks).map(move |task| (workflow, task)));
    pairs
        .map(|(workflow_id, task_id)| {
            let label = random.random_bool(0.2 + 0.6 * workflow_id as f64 / workflows as f64);
            let vote = label == random.random_bool(right);
            let score = if vote { 0.9 } else { 0.1 };
            ScoredRecord { workflow_id, task_id, label: f64::from(u8::from(label)), score }
        })
        .collect()
}

fn intervals(bootstrap: &Bootstrap, records: &[ScoredRecord]) -> Intervals {
    bootstrap.intervals(records, 0.5, &UtilityOptions::default()).unwrap().unwrap()
}

fn width(interval: Option<Interval>) -> f64 {
    interval.map(|i| i.high - i.low).unwrap()
}

#[test]
fn intervals_are_as_wide_as_theory_says() {
    let (n, right) = (900, 0.7);
    let sample = records(45, 20, right, 1);
    let accuracy = sample.iter().filter(|r| (r.score > 0.5) == (r.label > 0.5)).count() as f64 / f64::from(n);
    for unit in [Unit::Records, Unit::Workflows] {
        // Being right is independent between records here, so both units see a binomial: ± 1.96 √(p (1 − p) / n).
        let want = 2.0 * 1.96 * (accuracy * (1.0 - accuracy) / f64::from(n)).sqrt();
        let found = intervals(&Bootstrap { unit, draws: 2000, ..Bootstrap::default() }, &sample);
        let Interval { low, high } = found.accuracy.unwrap();
        assert!(low < accuracy && accuracy < high, "{unit:?}: {low} {accuracy} {high}");
        assert!((width(found.accuracy) / want - 1.0).abs() < 0.3, "{unit:?}: {} {want}", width(found.accuracy));
        let utility = found.utility.unwrap();
        assert!(0.0 <= utility.low && utility.low < utility.high && utility.high <= 1.0);
        let narrow = intervals(&Bootstrap { unit, draws: 2000, level: 0.5, ..Bootstrap::default() }, &sample);
        assert!(width(narrow.accuracy) < width(found.accuracy) && width(narrow.utility) < width(found.utility));
    }
    // Where all records of a workflow fare alike, only drawing workflows shows how little is known.
    let clumped: Vec<ScoredRecord> = (sample.iter())
        .map(|r| ScoredRecord { label: f64::from(u8::from(r.workflow_id % 3 > 0)), score: 0.9, ..*r })
        .collect();
    let by = |unit| width(intervals(&Bootstrap { unit, ..Bootstrap::default() }, &clumped).accuracy);
    assert!(by(Unit::Workflows) > 2.5 * by(Unit::Records), "{} {}", by(Unit::Workflows), by(Unit::Records));
}

#[test]
fn intervals_follow_from_their_seed_and_can_be_left_out() {
    let sample = records(12, 5, 0.8, 2);
    let one = Bootstrap { draws: 50, ..Bootstrap::default() };
    assert_eq!(intervals(&one, &sample), intervals(&one, &sample));
    assert_ne!(intervals(&one, &sample), intervals(&Bootstrap { seed: 43, ..one.clone() }, &sample));
    let options = UtilityOptions::default();
    assert_eq!(Bootstrap { draws: 0, ..one.clone() }.intervals(&sample, 0.5, &options).unwrap(), None);
    // Nothing to rank: no utility, but an accuracy. All alike: no width.
    let single = records(1, 6, 1.0, 3);
    let found = intervals(&Bootstrap { unit: Unit::Records, ..one.clone() }, &single);
    assert_eq!((found.accuracy, found.utility), (Some(Interval { low: 1.0, high: 1.0 }), None));
    assert_eq!(one.intervals(&[], 0.5, &options), Err(Error::NoRecords));
    for (bad, setting) in [
        (Bootstrap { level: 1.0, ..one.clone() }, "bootstrap.level"),
        (Bootstrap { level: f64::NAN, ..one.clone() }, "bootstrap.level"),
        (Bootstrap { draws: 100_001, ..one.clone() }, "bootstrap.draws"),
    ] {
        let refused = bad.intervals(&sample, 0.5, &options).unwrap_err().to_string();
        assert!(refused.contains(setting), "{refused}");
    }
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

#[test]
fn points_of_a_plane_stay_as_they_are() {
    // A plane in ten dimensions, far from the origin: distances between points are kept, whichever way it lies.
    let mut random = datasets::rng::stream(5, "test", &[]);
    for case in 0..20 {
        let mut draw = || random.random_range(-1.0..1.0);
        let basis: Vec<[f64; 2]> = {
            let a: Vec<f64> = (0..10).map(|_| draw()).collect();
            let b: Vec<f64> = (0..10).map(|_| draw()).collect();
            let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            let a: Vec<f64> = {
                let n = norm(&a);
                a.iter().map(|x| x / n).collect()
            };
            let along: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            let b: Vec<f64> = b.iter().zip(&a).map(|(b, a)| b - along * a).collect();
            let b: Vec<f64> = {
                let n = norm(&b);
                b.iter().map(|x| x / n).collect()
            };
            a.into_iter().zip(b).map(|(a, b)| [a, b]).collect()
        };
        let flat: Vec<[f64; 2]> = (0..40).map(|_| [3.0 * draw(), draw()]).collect();
        let values: Vec<f32> = (flat.iter())
            .flat_map(|p| basis.iter().map(|b| (7.0 + p[0] * b[0] + p[1] * b[1]) as f32).collect::<Vec<_>>())
            .collect();
        let found = pca(&values, flat.len());
        assert!((found.explained[0] + found.explained[1] - 1.0).abs() < 1e-6, "{case}: {:?}", found.explained);
        assert!(found.explained[0] >= found.explained[1]);
        for i in 0..flat.len() {
            for j in 0..i {
                let (want, got) = (distance(flat[i], flat[j]), distance(found.points[i], found.points[j]));
                assert!((want - got).abs() < 1e-4, "{case}: {want} {got}");
            }
        }
        // The axes are uncorrelated, and the map is centred.
        let sum = |of: &dyn Fn(&[f64; 2]) -> f64| found.points.iter().map(of).sum::<f64>() / 40.0;
        assert!(sum(&|p| p[0] * p[1]).abs() < 1e-3 && sum(&|p| p[0]).abs() < 1e-9 && sum(&|p| p[1]).abs() < 1e-9);
    }
}

#[test]
fn what_does_not_vary_is_one_point() {
    assert_eq!(pca(&[], 0).points, Vec::<[f64; 2]>::new());
    let same = pca(&[1.0, 2.0, 1.0, 2.0, 1.0, 2.0], 3);
    assert_eq!((same.points, same.explained), (vec![[0.0; 2]; 3], [0.0; 2]));
    // Along one line: the second coordinate is nothing. (0,0), (3,4), (6,8): 5 apart.
    let line = pca(&[0.0, 0.0, 3.0, 4.0, 6.0, 8.0], 3);
    for (point, want) in line.points.iter().zip([-5.0, 0.0, 5.0]) {
        assert!((point[0] - want).abs() < 1e-9 && point[1].abs() < 1e-9, "{line:?}");
    }
    // A single column.
    let column = pca(&[1.0, 3.0], 2);
    assert!((column.points[0][0].abs() - 1.0).abs() < 1e-9 && column.points[0][1] == 0.0, "{column:?}");
}
