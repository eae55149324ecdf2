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
    for (token, code, want) in [
        ("", 2, "HEARTH_DEVICE_TOKEN is not set"),
        ("another token of a test", 1, "with the same HEARTH_DEVICE_TOKEN?"),
    ] {
        let done = Running::of(HEARTH.command(shared.arguments(&[])).env(TOKEN, token)).finish().expect_code(code);
        assert!(done.words().contains(want), "{}", done.stderr);
    }
    let lent = Running::of(HEARTH.command(["lend"]).env_remove(TOKEN)).finish().expect_code(2);
    assert!(lent.words().contains("HEARTH_DEVICE_TOKEN is not set"), "{}", lent.stderr);
    let alone = TinyRun::new(HEARTH, runs.path(), &device);
    let alone = Running::of(HEARTH.command(alone.arguments(&[])).env(TOKEN, SECRET)).finish().expect_code(2);
    assert!(alone.words().contains("shares the work of another one"), "{}", alone.stderr);
}

#[test]
fn a_lender_that_goes_away_costs_no_checkpoint() {
    let runs = tempfile::tempdir().unwrap();
    let (lender, device) = lend();
    let base = run(runs.path(), "left").set("stages.sft.max_steps=60").set("stages.sft.epochs=60");
    let base =
        base.set("stages.sft.eval=None").set("stages.sft.samples=None").set("stages.sft.checkpoint.every_steps=2");
    let shared = base.clone().set(&format!("further_devices=[{device}]"));
    let mut running = Running::of(HEARTH.command(shared.arguments(&[])).env(TOKEN, SECRET));
    assert!(running.wait_for(&shared.path("stages/01-sft/checkpoints/step-00000004")));
    assert!(lender.kill());
    let done = running.finish().expect_code(1);
    assert!(done.words().contains("one of the devices failed"), "{}", done.stderr);
    // It goes on, with or without it: devices do not change the numbers.
    let went_on = base.run(&[]).expect_code(0);
    assert!(went_on.words().contains("continuing at step"), "{}", went_on.stderr);
}
