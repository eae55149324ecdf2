//! Support for the tests of the whole workspace: where reference values lie, on which devices to run, how to read and
//! compare tensors.
//!
//! Reference folders are looked for in `HEARTH_FIXTURES` when it is set, else in `../shared/fixtures` beside the
//! workspace, else in `tests/fixtures`. A test whose folder is in none of them prints `skipped: …` and passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

pub mod hub;
pub mod program;
pub mod server;
mod tensors;

pub use tensors::Tensors;

use burn::tensor::{Device, Tensor};
use burn_models::decoder::DecoderConfig;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// For tests that draw from a device's random numbers, or seed them, as recomputed layers do: they are one stream per process, and the
/// tests take turns.
pub fn random_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The workspace's root folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The folders that are searched for reference values, in order.
pub fn fixture_roots() -> Vec<PathBuf> {
    match std::env::var_os("HEARTH_FIXTURES") {
        Some(root) => vec![PathBuf::from(root)],
        None => vec![workspace().join("../shared/fixtures"), workspace().join("tests/fixtures")],
    }
}

/// The folder or file `sub` below the first root that has it; prints `skipped: …` where none has.
pub fn fixtures(sub: &str) -> Option<PathBuf> {
    let found = fixture_roots().into_iter().map(|root| root.join(sub)).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: {sub} (no such reference folder; set HEARTH_FIXTURES)");
    }
    found
}

/// All folders directly below the fixture roots for which `keep` holds, each name once (earlier roots win), sorted by
/// name; prints `skipped: …` where there is none.
pub fn fixture_folders(what: &str, keep: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = std::collections::BTreeMap::new();
    for root in fixture_roots() {
        for path in list(&root) {
            if path.is_dir() && keep(&path) {
                found.entry(path.file_name().unwrap().to_owned()).or_insert(path);
            }
        }
    }
    if found.is_empty() {
        println!("skipped: {what} (no reference folder of this form; set HEARTH_FIXTURES)");
    }
    found.into_values().collect()
}

/// The entries of a folder, sorted by name; empty where it cannot be read.
pub fn list(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).map(|dir| dir.filter_map(|e| e.ok().map(|e| e.path())).collect()).unwrap_or_default();
    entries.sort();
    entries
}

/// The JSON objects of a file of JSON lines (split on `\n` only).
pub fn json_lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.split('\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display())))
        .collect()
}

/// A JSON file.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The devices named in `HEARTH_TEST_DEVICES` (default `flex,ndarray`), with their names.
pub fn devices() -> Vec<(String, Device)> {
    let names = std::env::var("HEARTH_TEST_DEVICES").unwrap_or_else(|_| "flex,ndarray".into());
    names
        .split(',')
        .map(|name| {
            let device = match name.trim() {
                "flex" => Device::flex(),
                // Burn marks the device deprecated; the parity tests cover it as long as it is there.
                #[cfg(feature = "ndarray")]
                #[allow(deprecated)]
                "ndarray" => Device::ndarray(),
                #[cfg(feature = "cuda")]
                "cuda" => Device::cuda(0),
                other => panic!("HEARTH_TEST_DEVICES: device `{other}` is not known or not compiled in"),
            };
            (name.trim().to_string(), device)
        })
        .collect()
}

/// Two layers of 32 numbers, with shared heads, for so many words.
pub fn small_decoder(vocab_size: usize) -> DecoderConfig {
    DecoderConfig {
        vocab_size,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        ..DecoderConfig::default()
    }
}

/// All elements of a float tensor as f32, in row-major order.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().unwrap()
}

/// The largest absolute difference.
pub fn max_abs(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "number of elements");
    got.iter().zip(want).fold(0.0, |worst, (g, w)| {
        let d = (g - w).abs();
        // A NaN must not hide behind `max`.
        if d.is_nan() { f32::INFINITY } else { worst.max(d) }
    })
}

/// `‖got − want‖₂ / max(‖want‖₂, 1e-12)`, in f64.
pub fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "number of elements");
    let (mut diff, mut norm) = (0.0f64, 0.0f64);
    for (g, w) in got.iter().zip(want) {
        diff += (*g as f64 - *w as f64).powi(2);
        norm += (*w as f64).powi(2);
    }
    diff.sqrt() / norm.sqrt().max(1e-12)
}

/// How much wider tolerances are on the devices under test. CUDA kernels multiply f32 matrices as TF32, whose mantissa has 10 bits
/// and not 23, and Burn has no switch for it: a difference that is 2e-4 in f32 (mostly the reference's own rounding) may be
/// 4e-2 there.
fn slack() -> f64 {
    let devices = std::env::var("HEARTH_TEST_DEVICES").unwrap_or_default();
    if devices.contains("cuda") { 200.0 } else { 1.0 }
}

/// Panics when an element differs by more than `abs`; on CUDA, by more than 200 times that.
pub fn assert_close(name: &str, got: &[f32], want: &[f32], abs: f32) {
    assert_eq!(got.len(), want.len(), "{name}: number of elements");
    let abs = abs * slack() as f32;
    let worst = max_abs(got, want);
    assert!(worst <= abs, "{name}: largest difference {worst:e} > {abs:e}");
}

/// Panics when the relative difference in L2 norm is over `rel`; on CUDA, over 200 times that.
pub fn assert_l2(name: &str, got: &[f32], want: &[f32], rel: f64) {
    assert_eq!(got.len(), want.len(), "{name}: number of elements");
    let rel = rel * slack();
    let worst = relative_l2(got, want);
    assert!(worst <= rel, "{name}: relative L2 difference {worst:e} > {rel:e}");
}
