//! Splits by workflow and by task.

use std::collections::BTreeSet;

use datasets::Split;
use datasets::flora::ReadOptions;
use datasets::index::{FloraIndex, Records, SplitBy};
use datasets::synthetic::{Synthetic, SyntheticConfig};

fn index(config: &SyntheticConfig, seed: u64) -> FloraIndex {
    let dir = tempfile::tempdir().unwrap();
    Synthetic::generate(config, seed).unwrap().write(dir.path()).unwrap();
    FloraIndex::read(dir.path(), &ReadOptions::default()).unwrap()
}

fn rows(index: &FloraIndex) -> BTreeSet<(u32, u32, i64, i64)> {
    let of = |r: &Records| {
        (0..r.len()).map(|i| (r.workflow[i], r.task[i], r.workflow_id[i], r.task_id[i])).collect::<Vec<_>>()
    };
    index.splits().flat_map(|(_, records)| of(records)).collect()
}

#[test]
fn nothing_of_one_split_is_in_another() {
    let config = SyntheticConfig { workflows: 40, tasks: 30, train: 800, val: 100, test: 100, ..Default::default() };
    for seed in 0..8 {
        let whole = index(&config, seed);
        for (by, column) in [
            (SplitBy::ByWorkflow(seed), (|r| &r.workflow) as fn(&Records) -> &Vec<u32>),
            (SplitBy::ByTask(seed), |r| &r.task),
        ] {
            let mut split = whole.clone();
            split.resplit(by).unwrap();
            assert_eq!(rows(&split), rows(&whole), "every record is in some split");
            let groups: Vec<BTreeSet<u32>> =
                split.splits().map(|(_, records)| column(records).iter().copied().collect()).collect();
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                assert!(groups[a].is_disjoint(&groups[b]), "{by:?}");
            }
            // Sizes as before, up to one workflow (of 25 records on average) or task.
            for (kind, want) in [(Split::Train, 800), (Split::Val, 100), (Split::Test, 100)] {
                let found = split.split(kind).unwrap().len() as i64;
                assert!((found - want).abs() <= 60, "{by:?} {kind}: {found}");
            }
            let mut again = whole.clone();
            again.resplit(by).unwrap();
            assert_eq!(again, split);
        }
        let mut other = whole.clone();
        other.resplit(SplitBy::ByWorkflow(seed + 100)).unwrap();
        let mut same = whole.clone();
        same.resplit(SplitBy::ByWorkflow(seed)).unwrap();
        assert_ne!(other, same, "the seed counts");
        same = whole.clone();
        same.resplit(SplitBy::Files).unwrap();
        assert_eq!(same, whole);
        // As the files say, nearly every test workflow is trained on.
        let of = |split| whole.split(split).unwrap().workflow.iter().copied().collect::<BTreeSet<u32>>();
        assert!(of(Split::Test).difference(&of(Split::Train)).count() < 4);
    }
}

#[test]
fn few_workflows_still_make_three_splits() {
    let config = SyntheticConfig { workflows: 4, tasks: 10, train: 30, val: 4, test: 4, ..Default::default() };
    let mut few = index(&config, 1);
    few.resplit(SplitBy::ByWorkflow(1)).unwrap();
    assert!(few.splits().all(|(_, records)| !records.is_empty()));
    let config = SyntheticConfig { workflows: 2, tasks: 12, train: 12, val: 4, test: 4, ..Default::default() };
    let refused = index(&config, 1).resplit(SplitBy::ByWorkflow(1)).unwrap_err().to_string();
    assert!(refused.contains("3 distinct workflows"), "{refused}");
}
