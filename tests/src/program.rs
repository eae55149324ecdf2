//! Starts the `hearth` program as a shell would, and takes down what it said.
//!
//! The program's path is known to integration tests only (`env!("CARGO_BIN_EXE_hearth-under-test")`): they make a
//! [`Program`] of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// After this long a test gives up on a command: far more than any of them needs.
const DEADLINE: Duration = Duration::from_secs(120);
/// How often a test looks whether something has happened.
const LOOK: Duration = Duration::from_micros(500);

/// The program under test.
#[derive(Debug, Clone, Copy)]
pub struct Program(pub &'static str);

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A command that is still running. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
}

impl Program {
    /// The command, without a terminal: plain lines, nothing to read.
    pub fn command(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(self.0);
        command.args(arguments).env("HEARTH_PLAIN", "1").stdin(Stdio::null());
        for name in ["HEARTH_LOG", "RUST_LOG", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command
    }

    /// Starts a command. Both output streams go to files, so that nobody has to read along.
    pub fn start(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Running {
        Running::of(&mut self.command(arguments))
    }

    /// Runs a command to its end.
    pub fn run(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
        self.start(arguments).finish()
    }

    /// Runs a command that has to succeed.
    pub fn ok(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
        self.run(arguments).expect_code(0)
    }

    /// Runs a command with `input` as its standard input.
    pub fn feed(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, input: &str) -> Finished {
        let mut running = Running::of(self.command(arguments).stdin(Stdio::piped()));
        let mut stdin = running.child.stdin.take().unwrap();
        // That a program stops reading early shows in how it ends.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        running.finish()
    }
}

impl Finished {
    /// Panics with everything the command said unless it ended with this code.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "standard error:\n{}\nstandard output:\n{}", self.stderr, self.stdout);
        self
    }

    /// Standard error with its line breaks taken out, because messages are wrapped.
    pub fn words(&self) -> String {
        self.stderr.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The one JSON value on standard output.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not one JSON value: {e}\n{}", self.stdout))
    }
}

impl Running {
    /// Starts a command whose output goes to files.
    pub fn of(command: &mut Command) -> Self {
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let child = command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap()).spawn().unwrap();
        Self { child, stdout, stderr }
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until `path` is there; false if the command ended before.
    pub fn wait_for(&mut self, path: &Path) -> bool {
        let clock = Instant::now();
        while !path.exists() {
            if !self.is_running() {
                return path.exists();
            }
            assert!(clock.elapsed() < DEADLINE, "no {} after {DEADLINE:?}\n{}", path.display(), text(&mut self.stderr));
            std::thread::sleep(LOOK);
        }
        true
    }

    /// Waits until a line on its standard error holds `what`, and gives the line.
    #[cfg(unix)]
    pub fn wait_for_line(&mut self, what: &str) -> String {
        use std::os::unix::fs::FileExt;
        let clock = Instant::now();
        loop {
            // The command writes at the file's own position, which must stay where it is.
            let mut bytes = vec![0; self.stderr.metadata().unwrap().len() as usize];
            self.stderr.read_exact_at(&mut bytes, 0).unwrap();
            let said = String::from_utf8_lossy(&bytes);
            if let Some(line) = said.lines().find(|line| line.contains(what)) {
                return line.to_owned();
            }
            assert!(self.is_running() && clock.elapsed() < DEADLINE, "no `{what}` in\n{said}");
            std::thread::sleep(LOOK);
        }
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        // One that has ended already cannot be told anything.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal);
    }

    /// Ends it as `kill -9` does; true if it was still running.
    pub fn kill(mut self) -> bool {
        let running = self.is_running();
        self.child.kill().unwrap();
        // The kernel says what it died of: it may have ended by itself just before.
        let status = self.child.wait().unwrap();
        running && status.code().is_none()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        let clock = Instant::now();
        while self.is_running() {
            assert!(clock.elapsed() < DEADLINE, "still running after {DEADLINE:?}\n{}", text(&mut self.stderr));
            std::thread::sleep(LOOK);
        }
        let code = self.child.wait().unwrap().code();
        Finished { code, stdout: text(&mut self.stdout), stderr: text(&mut self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The names of the devices to run on, as `--device` takes them.
pub fn device_names() -> Vec<String> {
    crate::devices().into_iter().map(|(name, _)| name).collect()
}

/// The device for what has to be equal bit for bit: the first CPU among the devices to run on, else Flex.
pub fn cpu() -> String {
    device_names()
        .into_iter()
        .find(|name| ["flex", "ndarray"].contains(&name.as_str()))
        .unwrap_or_else(|| "flex".into())
}

/// A run of a recipe in `recipes/tiny/` that keeps its files where the test wants them.
#[derive(Debug, Clone)]
pub struct TinyRun {
    program: Program,
    recipe: PathBuf,
    runs: PathBuf,
    name: String,
    device: String,
    sets: Vec<String>,
}

impl TinyRun {
    /// `recipes/tiny/glow.ron` as it is, below the folder `runs`, on a device.
    pub fn new(program: Program, runs: &Path, device: &str) -> Self {
        Self {
            program,
            recipe: crate::workspace().join("recipes/tiny/glow.ron"),
            runs: runs.to_path_buf(),
            name: "tiny-glow".into(),
            device: device.into(),
            sets: Vec::new(),
        }
    }

    /// The same of another recipe.
    pub fn of(mut self, recipe: &Path) -> Self {
        self.recipe = recipe.to_path_buf();
        self
    }

    /// The same under another name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// The same with a value changed: `path=value`.
    pub fn set(mut self, change: &str) -> Self {
        self.sets.push(change.into());
        self
    }

    /// The arguments of `hearth run`, and more.
    pub fn arguments(&self, more: &[&str]) -> Vec<OsString> {
        let mut all: Vec<OsString> =
            vec!["run".into(), self.recipe.clone().into(), "--device".into(), self.device.clone().into()];
        let own = [format!("runs={:?}", self.runs), format!("name={:?}", self.name)];
        for change in own.iter().chain(&self.sets) {
            all.extend(["--set".into(), change.into()]);
        }
        all.extend(more.iter().map(OsString::from));
        all
    }

    /// Starts it.
    pub fn start(&self) -> Running {
        self.program.start(self.arguments(&[]))
    }

    /// Runs it to its end, with more arguments.
    pub fn run(&self, more: &[&str]) -> Finished {
        self.program.run(self.arguments(more))
    }

    /// Runs it; it has to succeed.
    pub fn ok(&self, more: &[&str]) -> Finished {
        self.run(more).expect_code(0)
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        self.runs.join(&self.name)
    }

    /// A path in its folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder().join(relative)
    }

    /// The content of a file in its folder.
    pub fn read(&self, relative: &str) -> Vec<u8> {
        let path = self.path(relative);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

/// All files below a folder, by their paths in it, sorted.
pub fn files(folder: &Path) -> Vec<String> {
    fn collect(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for path in crate::list(folder) {
            if path.is_dir() {
                collect(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_string());
            }
        }
    }
    let mut found = Vec::new();
    collect(folder, folder, &mut found);
    found.sort();
    found
}

/// Copies a folder with everything in it.
pub fn copy_folder(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(&file);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(from.join(&file), target).unwrap();
    }
}
