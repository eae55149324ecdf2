//! Devices of other hosts, on loopback: `cargo test -p hearth-tests --features remote lend`.

use hearth::lend::TOKEN;
use hearth::report::MetricsLog;
use hearth_tests::program::{Program, Running, TinyRun};
use std::path::Path;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));
const SECRET: &str = "a token of a test";

/// Lends a CPU, and gives the device's name in recipes.
fn lend() -> (Running, String) {
    let mut lender =
        Running::of(HEARTH.command(["lend", "--listen", "127.0.0.1:0", "--device", "Flex"]).env(TOKEN, SECRET));
    let line = lender.wait_for_line("lending Flex at");
    let address = line.split_whitespace().nth(3).unwrap().trim_end_matches(';').to_owned();
    (lender, format!("Remote({address:?})"))
}

/// The tiny GAP recipe in passes that several devices can share.
fn run(runs: &Path, name: &str) -> TinyRun {
    let recipe = hearth_tests::workspace().join("recipes/tiny/gap-sft.ron");
    TinyRun::new(HEARTH, runs, "Flex").of(&recipe).named(name).set("stages.sft.micro_tokens=1024")
}

fn losses(run: &TinyRun) -> Vec<f64> {
    let rows = MetricsLog::read(&run.path("stages/01-sft")).unwrap();
    rows.into_iter().filter(|row| row.name == "loss").map(|row| row.value.unwrap()).collect()
}

#[test]
fn lent_devices_share_the_steps() {
    let runs = tempfile::tempdir().unwrap();
    let alone = run(runs.path(), "alone");
    alone.ok(&[]);
    let want = losses(&alone);
    let ((_first, first), (_second, second)) = (lend(), lend());
    for (name, devices) in [("one", first.clone()), ("two", format!("{first},{second}"))] {
        let shared = run(runs.path(), name).set(&format!("further_devices=[{devices}]"));
        Running::of(HEARTH.command(shared.arguments(&[])).env(TOKEN, SECRET)).finish().expect_code(0);
        let got = losses(&shared);
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-4, "{name}: {got} {want}");
        }
    }
}

#[test]
fn only_those_who_know_the_token_may_borrow() {
    let runs = tempfile::tempdir().unwrap();
    let (_lender, device) = lend();
    let shared = run(runs.path(), "strange").set(&format!("further_devices=[{device}]"));
    for (token, want) in
        [("", "HEARTH_DEVICE_TOKEN is not set"), ("another token of a test", "with the same HEARTH_DEVICE_TOKEN?")]
    {
        let done = Running::of(HEARTH.command(shared.arguments(&[])).env(TOKEN, token)).finish().expect_code(2);
        assert!(done.words().contains(want), "{}", done.stderr);
    }
    let lent = Running::of(HEARTH.command(["lend"]).env_remove(TOKEN)).finish().expect_code(2);
    assert!(lent.words().contains("HEARTH_DEVICE_TOKEN is not set"), "{}", lent.stderr);
    let alone = TinyRun::new(HEARTH, runs.path(), &device).run(&[]).expect_code(2);
    assert!(alone.words().contains("shares the work of another one"), "{}", alone.stderr);
}
