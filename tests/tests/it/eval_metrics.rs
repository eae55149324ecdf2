//! Metrics of predictors and of generated answers.
//!
//! References: the worked examples of the GLOW specification (to the digits given there) and `utility.json` of the GLOW
//! reference values (tolerance 1e-9), found in any folder that has one.

use std::collections::HashSet;

use datasets::Workflow;
use datasets::graph_questions::TaskType;
use hearth::eval::classification::{
    ClassReport, Confusion, auroc, brier, calibration_error, mean_squared_error, round4,
};
use hearth::eval::graph_questions::{AnswerReport, AnsweredQuestion, extract_answer, score_answer};
use hearth::eval::rank::{average_ranks, descending, kendall_tau_b, spearman};
use hearth::eval::utility::{Curve, area, exact_area, oracle_order, precision_at_k, workflows};
use hearth::eval::{Error, GlowMetrics, ScoredRecord, UtilityOptions, UtilityReport};
use hearth_tests::{fixture_folders, json, json_lines};
use proptest::prelude::*;

/// Specification values are given to seven decimals.
const DIGITS: f64 = 6e-8;

fn close(what: &str, got: impl Into<Option<f64>>, want: f64, tolerance: f64) {
    let got: Option<f64> = got.into();
    assert!(got.is_some_and(|got| (got - want).abs() <= tolerance), "{what}: {got:?}, expected {want} ± {tolerance}");
}

fn record(workflow_id: i64, label: f64, score: f64) -> ScoredRecord {
    ScoredRecord { workflow_id, task_id: 0, label, score }
}

/// Four records for each (id, g, p) in quarters, scores far from the threshold.
fn quarters(workflows: &[(i64, f64, f64)]) -> Vec<ScoredRecord> {
    let share = |share: f64, index: usize, low, high| if (index as f64) < share * 4.0 { high } else { low };
    let records =
        |&(id, g, p): &(i64, f64, f64)| (0..4).map(move |i| record(id, share(g, i, 0.0, 1.0), share(p, i, 0.2, 0.9)));
    workflows.iter().flat_map(records).collect()
}

// ---- classification ----

#[test]
fn the_classification_report_is_that_of_the_specification() {
    let labels = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0];
    let scores = [0.9, 0.5, 0.51, 0.7, 0.2, 0.3, 0.5, 0.1];
    let records: Vec<ScoredRecord> = labels.iter().zip(scores).map(|(&label, score)| record(1, label, score)).collect();
    let metrics = GlowMetrics::compute(&records, 0.5, &UtilityOptions::default()).unwrap();
    let exact = ClassReport {
        accuracy: 0.625,
        majority: 0.5,
        precision_1: 2.0 / 3.0,
        recall_1: 0.5,
        f1_1: 4.0 / 7.0,
        precision_0: 0.6,
        recall_0: 0.75,
        f1_0: 2.0 / 3.0,
        avg_f1: (4.0 / 7.0 + 2.0 / 3.0) / 2.0,
    };
    assert_eq!(metrics.classes, exact);
    let rounded = ClassReport { precision_1: 0.6667, f1_1: 0.5714, f1_0: 0.6667, avg_f1: 0.619, ..exact };
    let published = metrics.classes.published();
    assert_eq!(ClassReport { avg_f1: 0.0, ..published }, ClassReport { avg_f1: 0.0, ..rounded });
    // (0.5714 + 0.6667) / 2 = 0.61905: a tie whose binary value decides.
    close("avg_f1", published.avg_f1, rounded.avg_f1, 1.001e-4);
    assert_eq!(published.avg_f1, round4((0.5714 + 0.6667) / 2.0));
}

#[test]
fn a_class_that_is_never_predicted_has_zeros() {
    let truth = [true, true, true, false, false, true, false, false];
    let report = ClassReport::new(&Confusion::count(truth.map(|is| (is, false))));
    assert_eq!((report.precision_1, report.recall_1, report.f1_1), (0.0, 0.0, 0.0));
    assert_eq!(report.published().f1_0, 0.6667);
    let empty = ClassReport::new(&Confusion::default());
    assert_eq!((empty.accuracy, empty.majority, empty.avg_f1), (0.0, 0.0, 0.0));
}

#[test]
fn ranking_and_calibration_metrics_have_known_values() {
    let (scores, positive) = ([0.1, 0.4, 0.35, 0.8], [false, false, true, true]);
    assert_eq!(auroc(&scores, &positive), Some(0.75));
    assert_eq!(auroc(&[0.5; 6], &[true, false, true, false, false, false]), Some(0.5), "ties count half");
    assert_eq!(auroc(&scores, &[true; 4]), None);
    close("brier", brier(&scores, &positive), (0.01 + 0.16 + 0.4225 + 0.04) / 4.0, 1e-12);
    // Bins of width 1/15: 0.1 in (1/15, 2/15], 0.35 and 0.4 in (5/15, 6/15], 0.8 in (11/15, 12/15].
    close("ece", calibration_error(&scores, &positive, 15), (0.1 + (0.75_f64 - 1.0).abs() + 0.2) / 4.0, 1e-12);
    close("ece in one bin", calibration_error(&scores, &positive, 1), (1.65_f64 - 2.0).abs() / 4.0, 1e-12);
    assert_eq!(calibration_error(&[0.0, 1.0], &[false, true], 15), Some(0.0), "the ends belong to the outer bins");
    close("mse", mean_squared_error(&[0.880797, 0.268941, 0.622459, 0.047426], &[0.9, 0.2, 0.5, 0.6]), 0.081_364, 1e-6);
    assert_eq!((brier(&[], &[]), mean_squared_error(&[], &[]), calibration_error(&[], &[], 15)), (None, None, None));
}

#[test]
fn rank_correlations_have_known_values() {
    assert_eq!(average_ranks(&[0.3, 0.1, 0.3, 0.9]), [2.5, 1.0, 2.5, 4.0]);
    let (x, y) = ([1.0, 2.0, 2.0, 3.0], [1.0, 3.0, 2.0, 3.0]);
    // 4 concordant, 0 discordant, one tie on each side: 4 / √(5 · 5).
    close("tau", kendall_tau_b(&x, &y), 0.8, 1e-12);
    assert_eq!(spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]).map(round4), Some(0.8208));
    assert_eq!((kendall_tau_b(&[1.0; 3], &[1.0, 2.0, 3.0]), spearman(&[1.0; 3], &[1.0, 2.0, 3.0])), (None, None));
    assert_eq!((kendall_tau_b(&[], &[]), spearman(&[1.0], &[2.0])), (None, None));
}

// ---- utility ----

#[test]
fn utility_with_ties_is_that_of_the_specification() {
    let cases = [(10, 0.5, 1.0), (11, 0.75, 0.5), (12, 0.25, 0.0), (13, 1.0, 1.0), (14, 0.75, 0.5), (15, 0.0, 0.0)];
    let g: Vec<f64> = cases.iter().map(|case| case.1).collect();
    let p: Vec<f64> = cases.iter().map(|case| case.2).collect();
    let ids = |order: Vec<usize>| order.into_iter().map(|index| cases[index].0).collect::<Vec<_>>();
    assert_eq!(ids(descending(&g)), [13, 11, 14, 10, 12, 15]);
    assert_eq!(ids(oracle_order(&p, &g)), [13, 10, 11, 14, 12, 15]);
    assert_eq!(ids(descending(&p)), [10, 13, 11, 14, 12, 15]);

    let records = quarters(&cases);
    let report = UtilityReport::compute(&records, 0.5, &UtilityOptions::default()).unwrap();
    assert_eq!(report.published.precision, [1.0, 0.5, 2.0 / 3.0, 1.0, 1.0, 1.0]);
    close("utility", report.published.utility, 0.833_350_3, DIGITS);
    close("its exact area", exact_area(&report.published.precision), 0.833_333_333_333, 1e-9);
    assert_eq!(report.flora.precision, [0.0, 0.5, 2.0 / 3.0, 1.0, 1.0, 1.0]);
    close("utility_flora", report.flora.utility, 0.733_309_5, DIGITS);
    close("utility_exact", report.exact.utility, 0.733_333_333_333, 1e-9);
    assert_eq!(report.reason, None);

    let metrics = GlowMetrics::compute(&records, 0.5, &UtilityOptions::default()).unwrap();
    assert_eq!((metrics.utility, metrics.utility_flora), (report.published.utility, report.flora.utility));
    close("workflow_mse", metrics.workflow_mse, (0.25 + 0.0625 + 0.0625 + 0.0 + 0.0625 + 0.0) / 6.0, 1e-12);
}

#[test]
fn utility_of_bad_rankings_and_small_sets_is_that_of_the_specification() {
    let curve = |g: &[f64], p: &[f64]| Curve::new(&descending(g), &oracle_order(p, g), Some(100));
    let g = [0.5, 0.75, 0.25, 1.0, 0.75, 0.0];
    let bad = curve(&g, &[0.2, 0.4, 0.9, 0.1, 0.3, 0.95]);
    assert_eq!(bad.precision, [0.0, 0.0, 1.0 / 3.0, 0.5, 0.8, 1.0]);
    close("bad", bad.utility, 0.426_674_1, DIGITS);
    close("bad, exact", exact_area(&bad.precision), 0.426_666_666_667, 1e-9);
    close("p = g", curve(&g, &g).utility, 1.0, 1e-12);

    let three = curve(&[1.0, 0.5, 0.0], &[0.4, 0.6, 0.5]);
    assert_eq!(three.precision, [0.0, 0.5, 1.0]);
    close("three", three.utility, 0.5, 1e-12);
    close("two, reversed", curve(&[0.9, 0.1], &[0.1, 0.9]).utility, 0.5, 1e-12);
    assert_eq!((curve(&[0.5], &[0.5]).utility, curve(&[], &[]).utility), (None, None));

    let g: Vec<f64> = (0..150).map(|i| f64::from((37 * i) % 150) / 149.0).collect();
    let p: Vec<f64> = (0..150).map(|i| 0.98 * f64::from((59 * i) % 150) / 149.0 + 0.01).collect();
    let large = curve(&g, &p);
    close("150", large.utility, 0.474_051_0, DIGITS);
    close("150, exact", exact_area(&large.precision), 0.474_055_1, DIGITS);
}

#[test]
fn parity_utility_tables() {
    for folder in fixture_folders("utility.json", |folder| folder.join("utility.json").is_file()) {
        for table in json(&folder.join("utility.json")).as_array().unwrap() {
            let name = table["name"].as_str().unwrap();
            let numbers = |key: &str| -> Vec<f64> {
                table[key].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
            };
            let pairs = |key: &str| -> (Vec<f64>, Vec<f64>) {
                let pair = |pair: &serde_json::Value| (pair[0].as_f64().unwrap(), pair[1].as_f64().unwrap());
                table[key].as_array().unwrap().iter().map(pair).unzip()
            };
            let ((ids, g), (predicted_ids, p)) = (pairs("ground"), pairs("predicted"));
            assert_eq!(ids, predicted_ids, "{name}");
            let order = oracle_order(&p, &g);
            assert_eq!(
                order.iter().map(|&i| ids[i]).collect::<Vec<_>>(),
                numbers("predicted_order_after_ties"),
                "{name}"
            );
            let curve = Curve::new(&descending(&g), &order, Some(100));
            let wanted = numbers("precision_at_k");
            assert_eq!(curve.precision.len(), wanted.len(), "{name}");
            for (k, (got, want)) in curve.precision.iter().zip(wanted).enumerate() {
                close(&format!("{name}: precision@{}", k + 1), *got, want, 1e-9);
            }
            close(&format!("{name}: utility"), curve.utility, table["utility"].as_f64().unwrap(), 1e-9);

            let Some(rows) = table.get("rows").filter(|rows| !rows.is_null()) else { continue };
            let records: Vec<ScoredRecord> = serde_json::from_value(rows.clone()).unwrap();
            let options = UtilityOptions::default();
            let report = UtilityReport::compute(&records, 0.5, &options).unwrap();
            let found: Vec<(f64, f64, f64)> = report.ranked.iter().map(|w| (w.id as f64, w.truth, w.votes)).collect();
            let expected: Vec<(f64, f64, f64)> = ids.iter().zip(&g).zip(&p).map(|((&i, &g), &p)| (i, g, p)).collect();
            assert_eq!(found, expected, "{name}");
            let metrics = GlowMetrics::compute(&records, 0.5, &options).unwrap();
            close(&format!("{name}: utility of rows"), metrics.utility, table["utility"].as_f64().unwrap(), 1e-9);
            let flat = metrics.flat();
            for (metric, value) in table["metrics"].as_object().unwrap() {
                close(&format!("{name}: {metric}"), flat[metric], value.as_f64().unwrap(), 1e-9);
            }
        }
    }
}

#[test]
fn too_few_workflows_give_null_with_a_reason() {
    let mut records = quarters(&[(7, 0.5, 0.5)]);
    records.extend([record(8, 1.0, 0.9), record(8, 0.0, 0.1)]);
    let metrics = GlowMetrics::compute(&records, 0.5, &UtilityOptions::default()).unwrap();
    let undefined = [metrics.utility, metrics.utility_exact, metrics.utility_score, metrics.utility_tie_mean];
    assert_eq!(undefined, [None; 4]);
    assert!(metrics.utility_flora.is_some(), "FLORA's form ranks every workflow");
    assert_eq!((metrics.n_workflows, metrics.n_ranked_workflows, metrics.n_records), (2, 1, 6));
    let reason = metrics.utility_reason.clone().unwrap();
    assert!(reason.contains("at least 3 record(s)") && reason.contains("there are 1 among 2"), "{reason}");
    let text = serde_json::to_string(&metrics).unwrap();
    assert!(text.contains(r#""utility":null"#) && text.contains(r#""accuracy":"#), "{text}");
    assert_eq!(serde_json::from_str::<GlowMetrics>(&text).unwrap(), metrics);
}

#[test]
fn workflows_stand_in_the_order_of_their_first_records() {
    let records = [record(5, 1.0, 0.9), record(-3, 0.5, 0.5), record(5, 0.0, 0.6), record(-3, 1.0, 0.75)];
    let found: Vec<(i64, usize, f64, f64, f64)> =
        workflows(&records, 0.5).iter().map(|w| (w.id, w.records, w.truth, w.votes, w.score)).collect();
    assert_eq!(found, [(5, 2, 0.5, 1.0, 0.75), (-3, 2, 0.75, 0.5, 0.625)]);
}

#[test]
fn records_that_are_no_probabilities_are_refused() {
    let compute = |records: &[ScoredRecord], threshold: f64, options: &UtilityOptions| {
        GlowMetrics::compute(records, threshold, options).unwrap_err()
    };
    let options = UtilityOptions::default();
    assert_eq!(compute(&[], 0.5, &options), Error::NoRecords);
    for (label, score, field) in [(0.0, f64::NAN, "score"), (0.0, 1.5, "score"), (-1.0, 0.5, "label")] {
        let error = compute(&[record(1, 0.0, 0.0), record(4, label, score)], 0.5, &options);
        assert!(matches!(&error, Error::OutOfRange { record: 2, workflow_id: 4, field: found, .. } if *found == field));
        assert!(error.to_string().starts_with("scored record 2 (workflow 4, task 0)"), "{error}");
    }
    let records = quarters(&[(1, 0.5, 0.5)]);
    let broken = [
        compute(&records, f64::NAN, &options),
        compute(&records, 0.5, &UtilityOptions { points: 1, ..options.clone() }),
        compute(&records, 0.5, &UtilityOptions { tie_draws: 0, ..options }),
    ];
    assert!(broken.iter().all(|error| matches!(error, Error::Setting { .. })), "{broken:?}");
}

/// E[exact utility] over random tie orders in closed form: an item of a tie group at places a..b is among the first k with
/// probability (k − a) / (b − a).
fn expected_utility(truth_order: &[usize], votes: &[f64]) -> f64 {
    let n = votes.len();
    let order = descending(votes);
    let mut places = vec![(0, 0); n];
    let mut start = 0;
    for group in order.chunk_by(|&a, &b| votes[a] == votes[b]) {
        group.iter().for_each(|&item| places[item] = (start, start + group.len()));
        start += group.len();
    }
    let among = |item: usize, k: usize| {
        let (a, b) = places[item];
        (k.clamp(a, b) - a) as f64 / (b - a) as f64
    };
    let precision: Vec<f64> =
        (1..=n).map(|k| truth_order[..k].iter().map(|&item| among(item, k)).sum::<f64>() / k as f64).collect();
    exact_area(&precision).unwrap()
}

#[test]
fn the_mean_over_tie_orders_is_seeded_and_near_its_expectation() {
    let shares = [0.0, 0.5, 1.0, 0.25, 0.75];
    let cases: Vec<(i64, f64, f64)> =
        (0..40).map(|i| (i, shares[(i * 7 % 5) as usize], [0.0, 1.0, 0.5][(i * 3 % 7 % 3) as usize])).collect();
    let records = quarters(&cases);
    let mean = |seed, tie_draws| {
        let options = UtilityOptions { seed, tie_draws, ..UtilityOptions::default() };
        UtilityReport::compute(&records, 0.5, &options).unwrap().tie_mean.unwrap()
    };
    assert_eq!(mean(1, 200), mean(1, 200));
    assert_ne!(mean(1, 200), mean(2, 200));
    let g: Vec<f64> = cases.iter().map(|case| case.1).collect();
    let p: Vec<f64> = cases.iter().map(|case| case.2).collect();
    let expected = expected_utility(&descending(&g), &p);
    close("200 draws", mean(42, 200), expected, 0.02);
    close("20,000 draws", mean(42, 20_000), expected, 0.002);
    let report = UtilityReport::compute(&records, 0.5, &UtilityOptions::default()).unwrap();
    assert!(report.published.utility > report.tie_mean, "breaking ties by the truth flatters");
}

#[test]
fn without_ties_all_orders_are_one() {
    let cases = [(1, 0.0, 0.75), (2, 0.5, 0.25), (3, 0.75, 1.0), (4, 1.0, 0.5), (5, 0.25, 0.0)];
    let report = UtilityReport::compute(&quarters(&cases), 0.5, &UtilityOptions::default()).unwrap();
    assert_eq!(report.published.precision, report.exact.precision);
    assert_eq!(report.score, report.exact);
    close("tie mean", report.tie_mean, report.exact.utility.unwrap(), 1e-12);
}

#[test]
fn the_flat_table_has_the_documented_names() {
    let metrics = GlowMetrics::compute(&quarters(&[(1, 0.5, 1.0), (2, 1.0, 0.5)]), 0.5, &UtilityOptions::default());
    let flat = metrics.unwrap().flat();
    for name in [
        "n_records",
        "n_workflows",
        "accuracy",
        "majority",
        "precision_1",
        "recall_1",
        "f1_1",
        "precision_0",
        "recall_0",
        "f1_0",
        "avg_f1",
        "auroc",
        "brier",
        "ece",
        "mse",
        "utility",
        "utility_flora",
        "utility_exact",
        "utility_score",
        "utility_tie_mean",
        "kendall_tau",
        "spearman",
        "workflow_mse",
    ] {
        assert!(flat.get(name).is_some_and(Option::is_some), "{name}: {:?}", flat.get(name));
    }
}

proptest! {
    /// Counting when items enter both tops equals intersecting the tops.
    #[test]
    fn precision_equals_the_intersection_of_sets(order in Just((0..30_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let truth: Vec<usize> = (0..30).collect();
        let fast = precision_at_k(&truth, &order);
        for k in 1..=30 {
            let top: HashSet<usize> = order[..k].iter().copied().collect();
            let shared = truth[..k].iter().filter(|item| top.contains(item)).count();
            prop_assert_eq!(fast[k - 1], shared as f64 / k as f64);
        }
    }

    /// The merge sort equals comparing all pairs.
    #[test]
    fn kendall_equals_all_pairs(pairs in prop::collection::vec((0..6_u8, 0..6_u8), 2..40)) {
        let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().map(|&(a, b)| (f64::from(a), f64::from(b))).unzip();
        let (mut score, mut free_x, mut free_y) = (0.0, 0.0, 0.0);
        for i in 0..x.len() {
            for j in 0..i {
                let sign = |a: f64, b: f64| if a == b { 0.0 } else { (a - b).signum() };
                score += sign(x[i], x[j]) * sign(y[i], y[j]);
                free_x += sign(x[i], x[j]).abs();
                free_y += sign(y[i], y[j]).abs();
            }
        }
        match kendall_tau_b(&x, &y) {
            Some(tau) => prop_assert!((tau - score / f64::sqrt(free_x * free_y)).abs() < 1e-12),
            None => prop_assert!(free_x * free_y == 0.0),
        }
    }

    /// The rank sum equals comparing all pairs of one positive and one negative.
    #[test]
    fn auroc_equals_all_pairs(records in prop::collection::vec((0..8_u8, any::<bool>()), 1..40)) {
        let scores: Vec<f64> = records.iter().map(|(score, _)| f64::from(*score) / 8.0).collect();
        let positive: Vec<bool> = records.iter().map(|(_, is)| *is).collect();
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (a, _) in records.iter().filter(|(_, is)| *is) {
            for (b, _) in records.iter().filter(|(_, is)| !*is) {
                pairs += 1.0;
                wins += match a.cmp(b) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                };
            }
        }
        match auroc(&scores, &positive) {
            Some(area) => prop_assert!((area - wins / pairs).abs() < 1e-12),
            None => prop_assert_eq!(pairs, 0.0),
        }
    }

    /// Sampling at every knot is exact, and a perfect curve has utility 1 however it is sampled.
    #[test]
    fn areas_agree_where_they_must(precision in prop::collection::vec(0.0..1.0_f64, 2..50), points in 2..300_usize) {
        let trapezoids: f64 = precision.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).sum();
        let exact = exact_area(&precision).unwrap();
        prop_assert!((exact - trapezoids / (precision.len() - 1) as f64).abs() < 1e-12);
        let knots = area(&precision, 2 * (precision.len() - 1) + 1).unwrap();
        prop_assert!((knots - exact).abs() < 1e-12);
        prop_assert!((area(&vec![1.0; precision.len()], points).unwrap() - 1.0).abs() < 1e-12);
    }
}

// ---- generated answers ----

fn workflow(nodes: &[u32], edges: &[[u32; 2]]) -> Workflow {
    let nodes = nodes.iter().map(|&node| (node, format!("prompt of {node}"))).collect();
    Workflow { nodes, edges: edges.to_vec() }
}

#[test]
fn the_last_tags_hold_the_answer() {
    assert_eq!(extract_answer("  2 \n"), "2");
    assert_eq!(extract_answer("it is <answer>1</answer>, no: <answer> [0, 2]\n</answer>."), "[0, 2]");
    assert_eq!(extract_answer("cut <answer>3"), "cut <answer>3");
    assert_eq!(extract_answer("</answer> odd <answer>"), "</answer> odd <answer>");
}

#[test]
fn answers_are_compared_by_their_kind() {
    let diamond = workflow(&[0, 1, 2, 3, 10], &[[0, 1], [0, 2], [1, 3], [2, 3], [3, 10]]);
    let right =
        |task_type, answer, output| score_answer(&AnsweredQuestion { task_type, workflow: &diamond, answer, output });
    for (task, answer, output, exact) in [
        (TaskType::Dbp, "2", "<answer>2</answer>", true),
        (TaskType::Dbp, "2", "02", true),
        (TaskType::Dbp, "2", "2 edges", false),
        (TaskType::Dbp, "2.00", "2", true),
        (TaskType::Dbp, "1.33", "1.335", true),
        (TaskType::Dbp, "1.33", "1.34", false),
        (TaskType::Dne, "[1, 2]", "[1,2]", true),
        (TaskType::Dne, "[1, 2]", "[2, 1]", false),
        (TaskType::Dne, "[]", "[ ]", true),
        (TaskType::Kni, "[0]", "0", false),
        (TaskType::Reach, "Yes", "<answer>Yes</answer>", true),
        (TaskType::Reach, "No", "Yes", false),
        (TaskType::Reach, "3", "3", true),
        (TaskType::Nfp, "say <answer>x</answer> here", "say <answer>x</answer> here", true),
        (TaskType::Nfp, "say <answer>x</answer> here", "<answer>say <answer>x</answer> here</answer>", true),
        (TaskType::Nfp, "abcd", "abxd", false),
    ] {
        assert_eq!(right(task, answer, output).exact, exact, "{task:?}: {output} for {answer}");
    }
    close("similarity", right(TaskType::Nfp, "abcd", "abxd").similarity, 0.75, 1e-12);
    close("similarity", right(TaskType::Nfp, "äöü", "äöü").similarity, 1.0, 0.0);

    let order = |answer, output| {
        let score = right(TaskType::Tsort, answer, output);
        (score.exact, score.valid_order)
    };
    assert_eq!(order("[0, 1, 2, 3, 10]", "[0, 1, 2, 3, 10]"), (true, Some(true)));
    assert_eq!(order("[0, 1, 2, 3, 10]", "[0, 2, 1, 3, 10]"), (false, Some(true)));
    assert_eq!(order("[0, 1, 2, 3, 10]", "[0, 1, 3, 2, 10]"), (false, Some(false)));
    assert_eq!(order("[0, 1, 2, 3, 10]", "[0, 1, 2, 3, 3]"), (false, Some(false)));
    let cycle = workflow(&[0, 1], &[[0, 1], [1, 0]]);
    let none = "No valid topological order";
    for (output, valid) in [(none, true), ("[0, 1]", false), ("", false)] {
        let question = AnsweredQuestion { task_type: TaskType::Tsort, workflow: &cycle, answer: none, output };
        assert_eq!(score_answer(&question).valid_order, Some(valid), "{output}");
    }
    assert_eq!(AnswerReport::compute([]), Err(Error::NoRecords));
}

#[test]
fn the_macro_mean_weighs_task_types_equally() {
    let graph = workflow(&[0, 1], &[[0, 1]]);
    let question = |task_type, answer, output| AnsweredQuestion { task_type, workflow: &graph, answer, output };
    let report = AnswerReport::compute([
        question(TaskType::Dbp, "1", "1"),
        question(TaskType::Dbp, "1", "0"),
        question(TaskType::Dbp, "1", "0"),
        question(TaskType::Dbp, "1", "0"),
        question(TaskType::Tsort, "[0, 1]", "[0, 1]"),
        question(TaskType::Nfp, "ab", "ax"),
    ])
    .unwrap();
    close("macro", report.macro_exact, (0.25 + 1.0 + 0.0) / 3.0, 1e-12);
    let flat = report.flat();
    let names: Vec<&str> = flat.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "exact_dbp",
            "exact_macro",
            "exact_nfp",
            "exact_tsort",
            "n_dbp",
            "n_nfp",
            "n_tsort",
            "similarity_nfp",
            "valid_order_tsort"
        ]
    );
    assert_eq!((flat["n_dbp"], flat["similarity_nfp"]), (Some(4.0), Some(0.5)));
}

/// The answers of the reference's own generator are right, tagged or bare, and wrong for another question.
#[test]
fn parity_graph_question_answers() {
    for folder in fixture_folders("prefinetuning_examples.jsonl", |f| f.join("prefinetuning_examples.jsonl").is_file())
    {
        for line in json_lines(&folder.join("prefinetuning_examples.jsonl")) {
            let text = |key: &str| line[key].as_str().unwrap();
            let nodes = line["nodes"].as_object().unwrap();
            let nodes =
                nodes.iter().map(|(id, text)| (id.parse().unwrap(), text.as_str().unwrap().to_owned())).collect();
            let workflow = Workflow { nodes, edges: serde_json::from_value(line["edge_index"].clone()).unwrap() };
            let task_type: TaskType = serde_json::from_value(line["task_type"].clone()).unwrap();
            let answer = text("answer");
            let tagged = format!("analysis <answer>no</answer>\n<answer>{answer}</answer>");
            for (output, exact) in [(answer, true), (&tagged, true), ("<answer>?</answer>", false)] {
                let score = score_answer(&AnsweredQuestion { task_type, workflow: &workflow, answer, output });
                assert_eq!(score.exact, exact, "{task_type:?}: `{output}` for `{answer}`");
                assert!(score.valid_order.is_none_or(|valid| valid == exact), "{task_type:?}: `{output}`");
            }
        }
    }
}
