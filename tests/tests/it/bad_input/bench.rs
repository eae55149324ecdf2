//! What the cases of this module have in common: valid files to break, and what must hold of every refusal.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hearth_tests::program::{Finished, Program, Running, TinyRun, copy_folder, cpu, files};
use rayon::prelude::*;
use tempfile::TempDir;

pub(super) const HEARTH: Program = Program(env!("CARGO_BIN_EXE_hearth-under-test"));

/// A refusal takes milliseconds; the slowest, a chat template that never ends, some seconds without optimisation.
const LIMIT: Duration = Duration::from_secs(40);
/// No input of a few kilobytes is worth more address space, in KiB: what asks for more ends in an abort.
const MEMORY: usize = 8 << 20;
/// Longer messages help nobody.
const LONGEST: usize = 4_000;

/// Arguments in pieces of several kinds.
macro_rules! arguments {
    ($($piece:expr),* $(,)?) => {
        vec![$(AsRef::<std::ffi::OsStr>::as_ref($piece).to_os_string()),*]
    };
}
pub(super) use arguments;

/// A finished run of the tiny recipe: a decoder, an encoder, data, an adapter, a predictor that are as they should be.
pub(super) struct World {
    _dir: TempDir,
    pub(super) run: TinyRun,
}

impl World {
    /// The one that other tests of this process use at the moment, else a new one.
    fn get() -> Arc<Self> {
        static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let dir = tempfile::tempdir().unwrap();
            let run = TinyRun::new(HEARTH, &dir.path().join("runs"), &cpu());
            run.ok(&[]);
            let world = Arc::new(Self { _dir: dir, run });
            *shared = Arc::downgrade(&world);
            world
        })
    }

    pub(super) fn decoder(&self) -> PathBuf {
        self.run.path("sources/llm")
    }

    pub(super) fn encoder(&self) -> PathBuf {
        self.run.path("sources/text")
    }

    pub(super) fn flora(&self) -> PathBuf {
        self.run.path("sources/flora")
    }

    pub(super) fn adapter(&self) -> PathBuf {
        self.run.path("stages/02-sft/adapter")
    }
}

/// A place for one case: files that it may read, and a folder for what it writes.
pub(super) struct Bench {
    dir: TempDir,
    pub(super) world: Arc<World>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::of(&World::get())
    }

    fn of(world: &Arc<World>) -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap(), world: world.clone() };
        for folder in ["in", "out"] {
            fs::create_dir(bench.dir.path().join(folder)).unwrap();
        }
        bench
    }

    /// A file to read.
    pub(super) fn input(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    /// A file to be written.
    pub(super) fn output(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    /// Writes a file to read.
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.input(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A copy of a folder, to be broken.
    pub(super) fn copy(&self, folder: &Path, name: &str) -> PathBuf {
        let path = self.input(name);
        copy_folder(folder, &path);
        path
    }

    /// A copy of the run with all its files.
    pub(super) fn copy_run(&self) -> PathBuf {
        let path = self.dir.path().join("runs/tiny-glow");
        copy_folder(&self.world.run.folder(), &path);
        path
    }

    /// Starts the program.
    pub(super) fn run(&self, arguments: &[OsString]) -> Finished {
        Running::of(&mut limited(arguments, &format!("ulimit -v {MEMORY}"))).finish()
    }
}

/// The program below a shell that has limited what it may have. On other systems than Linux, the program alone.
pub(super) fn limited(arguments: &[OsString], limits: &str) -> Command {
    if !cfg!(target_os = "linux") {
        return HEARTH.command(arguments);
    }
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{limits}; exec \"$0\" \"$@\"")).arg(HEARTH.0).args(arguments);
    command.env("HEARTH_PLAIN", "1").stdin(Stdio::null());
    for name in ["HEARTH_LOG", "RUST_LOG", "RUST_BACKTRACE"] {
        command.env_remove(name);
    }
    command
}

/// Something broken, and what is to be said about it.
pub(super) struct Case {
    name: String,
    code: i32,
    words: Vec<String>,
    arguments: Box<Prepare>,
}

/// Prepares a case's input and gives the command.
type Prepare = dyn Fn(&Bench) -> Vec<OsString> + Sync;

impl Case {
    /// `arguments` prepares the input and gives the command; the program has to end with `code` and say all of `words`.
    pub(super) fn new(
        name: &str,
        code: i32,
        words: &[&str],
        arguments: impl Fn(&Bench) -> Vec<OsString> + Sync + 'static,
    ) -> Self {
        let words = words.iter().map(|word| word.to_string()).collect();
        Self { name: name.into(), code, words, arguments: Box::new(arguments) }
    }
}

/// Runs all cases, and panics with what is wrong with any of them.
pub(super) fn refused(cases: Vec<Case>) {
    let world = World::get();
    let wrong: Vec<String> = cases.par_iter().filter_map(|case| check(case, &Bench::of(&world)).err()).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}

fn check(case: &Case, bench: &Bench) -> Result<(), String> {
    let arguments = (case.arguments)(bench);
    let before = contents(&bench.input(""));
    let clock = Instant::now();
    let finished = bench.run(&arguments);
    let elapsed = clock.elapsed();
    let mut wrong = faults(&finished, case.code, &case.words);
    if elapsed > LIMIT {
        wrong.push(format!("took {elapsed:?}"));
    }
    if contents(&bench.input("")) != before {
        wrong.push("its input is changed".into());
    }
    wrong.extend(left_behind(&bench.output("")).into_iter().map(|file| format!("left {file} behind")));
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{}: {}\n{:?}\n{}", case.name, wrong.join("; "), arguments, finished.stderr)),
    }
}

/// What is wrong with how the program ended, whatever was broken.
pub(super) fn faults(finished: &Finished, code: i32, words: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    if finished.code != Some(code) {
        wrong.push(format!("ended with {:?} instead of {code}", finished.code));
    }
    let said = finished.words();
    for word in ["panicked", "backtrace", "memory allocation", "src/", "\u{1b}"] {
        if said.contains(word) {
            wrong.push(format!("says {word:?}"));
        }
    }
    for word in words {
        if !said.contains(word.as_str()) {
            wrong.push(format!("does not say {word:?}"));
        }
    }
    if said.len() > LONGEST {
        wrong.push(format!("says {} bytes", said.len()));
    }
    wrong
}

/// Files under a folder that a failed command must not leave: none at all, and of a run neither a finished stage nor
/// anything half-written.
fn left_behind(folder: &Path) -> Vec<String> {
    let half = |file: &str| file.split('/').any(|part| part.starts_with('.') || part.ends_with(".partial"));
    let kept = |file: &String| file.starts_with("runs/") && !file.ends_with("/manifest.json") && !half(file);
    files(folder).into_iter().filter(|file| !kept(file)).collect()
}

/// Every file with a hash of its content.
fn contents(folder: &Path) -> BTreeMap<String, blake3::Hash> {
    files(folder).into_iter().map(|file| (file.clone(), blake3::hash(&fs::read(folder.join(file)).unwrap()))).collect()
}

/// Replaces the only occurrence of `from` in a file.
pub(super) fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Changes a JSON file.
pub(super) fn change_json(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = hearth_tests::json(path);
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Cuts a file after `keep` bytes.
pub(super) fn cut(path: &Path, keep: usize) {
    let bytes = fs::read(path).unwrap();
    assert!(keep < bytes.len());
    fs::write(path, &bytes[..keep]).unwrap();
}
