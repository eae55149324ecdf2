//! `hearth bench` at its smallest: that every case runs and reports, not how fast.

use hearth_tests::program::{Program, cpu};
use serde_json::Value;

const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

#[test]
fn every_case_is_measured() {
    let done = HEARTH.ok(["bench", "--size", "tiny", "--json", "--device", cpu().as_str()]).json();
    let lines: Vec<Value> = serde_json::from_value(done).unwrap();
    let cases: Vec<&str> = lines.iter().map(|line| line["case"].as_str().unwrap()).collect();
    let training = ["prefinetune", "prefinetune-short", "prefinetune-vocab", "long", "chats", "chats-packed", "curve"];
    let others = ["tokenize", "embed", "decode", "decode-batch", "sample-batch", "glow", "questions", "minilm"];
    assert_eq!(cases, [&training[..], &others].concat());
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
    let of = |case: &str| &lines[cases.iter().position(|name| *name == case).unwrap()]["hearth"];
    assert!(of("glow")["loss"].as_f64().is_some(), "the predictor's loss");
    let losses: Vec<f64> = serde_json::from_value(of("curve")["losses"].clone()).unwrap();
    assert!(losses.len() == 3 && losses.iter().all(|loss| *loss > 1.0), "{losses:?}");
    assert_eq!(of("tokenize")["count"], 200.0);
}

#[test]
fn a_twin_that_fails_is_named() {
    let done = HEARTH.run(["bench", "questions", "--size", "tiny", "--twin", "/bin/false"]).expect_code(1);
    for word in ["/bin/false", "tests/reference/bench.py", "questions"] {
        assert!(done.words().contains(word), "{word} in {}", done.stderr);
    }
}
