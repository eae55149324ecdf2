//! `hearth bench` at its smallest: that every case runs and reports, not how fast.

use hearth_tests::program::{Program, cpu};
use serde_json::Value;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

#[test]
fn every_case_is_measured() {
    let done = HEARTH.ok(["bench", "--size", "tiny", "--json", "--device", cpu().as_str()]).json();
    let lines: Vec<Value> = serde_json::from_value(done).unwrap();
    let cases: Vec<&str> = lines.iter().map(|line| line["case"].as_str().unwrap()).collect();
    let all = ["prefinetune", "prefinetune-short", "prefinetune-vocab", "long", "embed", "decode", "decode-batch"];
    assert_eq!(cases, [all.as_slice(), &["glow", "questions", "minilm"]].concat());
    for line in &lines {
        let figures = &line["hearth"];
        for key in ["count", "seconds", "peak_mib"] {
            assert!(figures[key].as_f64().unwrap() > 0.0, "{key} of {line}");
        }
        assert!(line["twin"].is_null());
        for key in ["loss", "tokens"] {
            assert!(figures[key].as_f64().is_none_or(f64::is_finite), "{key} of {line}");
        }
    }
    // Thirty questions share two beginnings, so fewer tokens are computed than there are.
    let first = &lines[0]["hearth"];
    assert!(first["computed"].as_f64().unwrap() < 0.7 * first["tokens"].as_f64().unwrap());
    assert!(lines[7]["hearth"]["loss"].as_f64().is_some(), "the predictor's loss");
}

#[test]
fn a_twin_that_fails_is_named() {
    let done = HEARTH.run(["bench", "questions", "--size", "tiny", "--twin", "/bin/false"]).expect_code(1);
    for word in ["/bin/false", "tests/reference/bench.py", "questions"] {
        assert!(done.words().contains(word), "{word} in {}", done.stderr);
    }
}
