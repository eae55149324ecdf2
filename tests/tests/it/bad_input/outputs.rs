//! Places that cannot be written to, and disks that are full.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use hearth_tests::program::{Running, TinyRun, cpu, files};

use super::bench::{Bench, Case, HEARTH, arguments, faults, limited, refused};

fn score(bench: &Bench, output: &Path) -> Vec<OsString> {
    let rows = bench.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n");
    arguments!["score", "--model", &bench.world.decoder(), "--input", &rows, "--output", output, "--device", &cpu()]
}

#[test]
fn outputs_that_cannot_be_made() {
    let mut cases = vec![
        Case::new("a folder", 1, &["in/folder", "a folder has this name"], |bench| {
            let folder = bench.input("folder");
            fs::create_dir(&folder).unwrap();
            score(bench, &folder)
        }),
        Case::new("in a file", 1, &["in/file", "cannot create the folder"], |bench| {
            let file = bench.write("file", "x");
            score(bench, &file.join("o.jsonl"))
        }),
    ];
    // A place where not even root may write.
    if cfg!(target_os = "linux") {
        cases.push(Case::new("a system's folder", 1, &["/proc/o.jsonl", "cannot create"], |bench| {
            score(bench, Path::new("/proc/o.jsonl"))
        }));
        cases.push(Case::new("runs in a system's folder", 1, &["/proc/runs"], |_| {
            TinyRun::new(HEARTH, Path::new("/proc/runs"), &cpu()).arguments(&[])
        }));
    }
    refused(cases);
}

/// What a full disk does to a write, here by a limit on the size of files.
fn small_files(kib: usize) -> String {
    // Without the signal that would end the process.
    format!("trap '' XFSZ; ulimit -f {}", kib * 2)
}

#[test]
#[cfg(target_os = "linux")]
fn full_disks() {
    let bench = Bench::new();
    let words = |file: &str| vec![file.to_string(), "File too large".to_string()];
    let model = bench.world.decoder();
    let rows: String = (0..300).map(|i| format!("{{\"input_ids\": [{}, 2, 3, 4, 5, 6, 7, 8]}}\n", i + 1)).collect();
    let texts: String = (0..300).map(|i| format!("{{\"text\": \"text number {i}\"}}\n")).collect();
    let (rows, texts) = (bench.write("rows.jsonl", rows), bench.write("texts.jsonl", texts));
    let records = bench.world.flora().join("train.jsonl");
    let run = bench.copy_run();
    // Everything is embedded already: what remains to be written is the output.
    let predict =
        arguments!["glow", "predict", "--run", &run, "--input", &records, "--output", "-", "--device", &cpu()];
    assert_eq!(bench.run(&predict).code, Some(0));
    let commands = [
        ("o.jsonl", arguments!["score", "--model", &model, "--input", &rows]),
        ("o.parquet", arguments!["score", "--model", &model, "--input", &rows]),
        ("o.jsonl", arguments!["embed", "--model", &bench.world.encoder(), "--input", &texts]),
        ("o.parquet", arguments!["embed", "--model", &bench.world.encoder(), "--input", &texts]),
        ("o.jsonl", arguments!["generate", "--model", &model, "--input", &rows, "--max-new-tokens", "4"]),
        ("o.jsonl", arguments!["glow", "predict", "--run", &run, "--input", &records]),
        ("merged", arguments!["lora", "merge", "--base", &model, "--adapter", &bench.world.adapter()]),
    ];
    for (name, mut command) in commands {
        command.extend(arguments!["--output", &bench.output(name), "--device", &cpu()]);
        let finished = Running::of(&mut limited(&command, &small_files(4))).finish();
        let wrong = faults(&finished, 1, &words(name));
        assert!(wrong.is_empty(), "{command:?}: {}\n{}", wrong.join("; "), finished.stderr);
        assert_eq!(fs::read_dir(bench.output("")).unwrap().count(), 0, "{command:?}");
    }
}

/// A run on a disk that is full stops with the file that could not be written; with room again it goes on and ends as if nothing
/// had happened.
#[test]
#[cfg(target_os = "linux")]
fn a_run_on_a_full_disk_goes_on_later() {
    let bench = Bench::new();
    let run = TinyRun::new(HEARTH, &bench.output("runs"), &cpu());
    // Sizes at which different stages stop.
    let mut stopped_at = Vec::new();
    for kib in [1, 20, 100, 310] {
        let finished = Running::of(&mut limited(&run.arguments(&[]), &small_files(kib))).finish();
        let wrong = faults(&finished, 1, &["/runs/tiny-glow/".into(), "File too large".into()]);
        assert!(wrong.is_empty(), "{kib} KiB: {}\n{}", wrong.join("; "), finished.stderr);
        let half: Vec<String> = files(&run.folder())
            .into_iter()
            .filter(|file| file.contains("/.tmp-") || file.contains("/.writing-"))
            .collect();
        assert!(half.is_empty(), "{kib} KiB: {half:?}");
        stopped_at.push(files(&run.folder()).iter().filter(|file| file.ends_with("/manifest.json")).count());
    }
    assert!(stopped_at.is_sorted() && stopped_at.last() > stopped_at.first(), "{stopped_at:?}");
    run.ok(&[]);
    for file in ["stages/03-merge-lora/model/model.safetensors", "stages/06-glow-eval/scores-best.jsonl"] {
        assert!(run.read(file) == fs::read(bench.world.run.path(file)).unwrap(), "{file}");
    }
}

/// Devices are written to, and not replaced by a file.
#[test]
#[cfg(target_os = "linux")]
fn devices_stay_what_they_are() {
    let bench = Bench::new();
    for (device, code, words) in [("/dev/null", 0, ""), ("/dev/full", 1, "No space left on device")] {
        for name in ["o.jsonl", "o.parquet"] {
            // By a link, so that a mistake replaces the link and not the device.
            let link = bench.output(name);
            std::os::unix::fs::symlink(device, &link).unwrap();
            let finished = bench.run(&score(&bench, &link));
            let said = if code == 0 { vec![] } else { vec![name.to_string(), words.to_string()] };
            let wrong = faults(&finished, code, &said);
            assert!(wrong.is_empty(), "{device} as {name}: {}\n{}", wrong.join("; "), finished.stderr);
            assert!(
                fs::symlink_metadata(&link).unwrap().is_symlink() && !fs::metadata(&link).unwrap().is_file(),
                "{device}"
            );
            fs::remove_file(&link).unwrap();
            assert_eq!(files(&bench.output("")), Vec::<String>::new(), "{device} as {name}");
        }
    }
    let mut command = limited(&score(&bench, Path::new("-")), "true");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let child = command.stdout(Stdio::from(full)).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"));
}
