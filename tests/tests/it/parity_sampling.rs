//! Logit processing against the reference library's: every tensor of `sampling/expected.safetensors` whose name says
//! what was done. Reference: transformers' logit processors; tolerance 1e-6.

use burn_models::generate::SamplingConfig;
use hearth_tests::{Tensors, assert_close, fixtures};

const ABSOLUTE: f32 = 1e-6;

/// The settings in a name such as `top_p.0.9.probs` or `chain_t0.6_k20_p0.9.probs`.
fn settings(name: &str) -> SamplingConfig {
    let mut config = SamplingConfig::default();
    if let Some(chain) = name.strip_prefix("chain_") {
        for part in chain.split('_') {
            let (key, value) = part.split_at(1);
            set(&mut config, key, value);
        }
    } else {
        let (key, value) = name.split_once('.').unwrap();
        set(&mut config, key, value);
    }
    config.validate().unwrap();
    config
}

fn set(config: &mut SamplingConfig, key: &str, value: &str) {
    match key {
        "temperature" | "t" => config.temperature = value.parse().unwrap(),
        "top_k" | "k" => config.top_k = value.parse().unwrap(),
        "top_p" | "p" => config.top_p = value.parse().unwrap(),
        "min_p" | "m" => config.min_p = value.parse().unwrap(),
        "repetition_penalty" | "r" => config.repetition_penalty = value.parse().unwrap(),
        other => panic!("unknown setting {other}"),
    }
}

#[test]
fn probabilities() {
    let Some(path) = fixtures("sampling/expected.safetensors") else { return };
    let expected = Tensors::open(path);
    let (shape, logits) = expected.f32("logits");
    let previous = expected.i64("prev_ids");
    let width = shape[1];
    let mut compared = 0;
    for name in expected.names() {
        let (what, config) = match (name.strip_suffix(".probs"), name.strip_suffix(".logits")) {
            (Some(what), _) | (_, Some(what)) => (what, settings(what)),
            _ => continue,
        };
        let rows = logits.chunks(width).zip(previous.1.chunks(previous.0[1]));
        let got: Vec<f32> = rows
            .flat_map(|(logits, previous)| {
                let previous: Vec<u32> = previous.iter().map(|&id| id as u32).collect();
                if name.ends_with(".logits") {
                    return config.penalised(logits, &previous);
                }
                let mut row = vec![0.0; width];
                for (id, p) in config.candidates(logits, &previous).unwrap() {
                    row[id as usize] = p as f32;
                }
                row
            })
            .collect();
        assert_close(what, &got, &expected.f32(&name).1, ABSOLUTE);
        compared += 1;
    }
    assert!(compared > 0, "no tensor to compare");
}
