//! A recipe together with the text it was read from.

use std::fs;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::Path;

use datasets::templates::Templates;

use super::overrides::Override;
use super::spans::Node;
use super::{Recipe, glow_eval, parity, rules, syntax};
use crate::device::DeviceSpec;
use crate::diagnostics::{Problem, SourceText, nearest};
use crate::hub::Hub;
use crate::{Error, Result};

/// Larger files are no recipes.
const MAX_BYTES: u64 = 1 << 20;

/// A recipe that remembers where each of its values was written: in the file, or in an argument that replaced it.
#[derive(Debug, Clone)]
pub struct Document {
    source: SourceText,
    tree: Node,
    /// As the file and the arguments say.
    written: Recipe,
    /// The same with what `parity` decides, and the targets of suites.
    recipe: Recipe,
    overrides: Vec<Override>,
}

impl Document {
    /// Reads a file, applies `--set` arguments and `--device`, and checks the outcome: a recipe that is ready to run.
    ///
    /// # Errors
    /// [`Error::Recipe`] with everything that is wrong, [`Error::File`] if the file cannot be read.
    pub fn load(path: &Path, sets: &[String], device: Option<&str>) -> Result<Self> {
        let document = Self::changed(path, sets, device)?;
        document.check()?;
        Ok(document)
    }

    /// Reads a file and applies `--set` and `--device` arguments, but no rules.
    ///
    /// # Errors
    /// As [`Document::open`] and [`Document::set`].
    pub fn changed(path: &Path, sets: &[String], device: Option<&str>) -> Result<Self> {
        let mut document = Self::open(path)?;
        for argument in sets {
            document.set(argument)?;
        }
        if let Some(argument) = device {
            document.set_device(argument)?;
        }
        Ok(document)
    }

    /// Reads and parses a file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or is larger than 1 MiB, [`Error::Recipe`] if it is not UTF-8 or no recipe.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::parse(read_text(path)?)?)
    }

    /// Parses a text.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(source: SourceText) -> std::result::Result<Self, Problem> {
        let written: Recipe = syntax::parse(&source)?;
        let tree = Node::read(&source.text);
        let mut document = Self { tree, source, recipe: written.clone(), written, overrides: Vec::new() };
        document.resolve();
        Ok(document)
    }

    fn resolve(&mut self) {
        self.recipe = self.written.clone();
        parity::rewrite(&mut self.recipe);
        glow_eval::expand(&mut self.recipe);
    }

    /// Applies one `--set` argument, `path=value`. The path is made of field names, map keys, stage names or element
    /// numbers, joined by dots: `stages.prefinetune.optim.lr=1e-4`, `stages.0.epochs=3`, `models.llm=Path("qwen")`. The
    /// value is written as in a recipe; the quotes of a string may be left out.
    ///
    /// # Errors
    /// [`Error::Recipe`] with the place in the argument.
    pub fn set(&mut self, argument: &str) -> Result<()> {
        let (recipe, applied) = Override::apply(&self.written, argument)?;
        self.written = recipe;
        self.overrides.push(applied);
        self.resolve();
        Ok(())
    }

    /// Replaces the recipe's device with that of a `--device` argument.
    ///
    /// # Errors
    /// [`Error::Recipe`] if there is no such kind of device.
    pub fn set_device(&mut self, argument: &str) -> Result<()> {
        let source = SourceText::new("--device", argument);
        self.written.device =
            argument.parse::<DeviceSpec>().map_err(|reason| Problem::new(&source, 0..argument.len(), reason))?;
        self.overrides.push(Override::field(source, "device"));
        self.resolve();
        Ok(())
    }

    /// Applies the rules across fields.
    ///
    /// Reads sizes and small files only (a model's `config.json`), never weights or data.
    ///
    /// # Errors
    /// [`Error::Recipe`] with everything that is wrong, in the order of the file.
    pub fn check(&self) -> Result<()> {
        self.check_with(&Hub::from_env().map_err(crate::run::Error::from)?)
    }

    /// The same with this hub's cache. What it lacks and may fetch is taken to be right; nothing is fetched here.
    ///
    /// # Errors
    /// As [`Document::check`].
    pub fn check_with(&self, hub: &Hub) -> Result<()> {
        found(rules::check(self, Some(hub)))
    }

    /// Applies the rules for a recipe that is to run on another machine: its device and files need not be here.
    ///
    /// # Errors
    /// [`Error::Recipe`] with everything else that is wrong, in the order of the file.
    pub fn check_elsewhere(&self) -> Result<()> {
        found(rules::check(self, None))
    }

    /// The recipe, with everything that [`Recipe::parity`] decides.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// A recipe file for what the document is now: the file as it was read, comments and all, or, if arguments have changed
    /// it, the resolved recipe below the changes.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn text(&self) -> Result<String> {
        if self.overrides.is_empty() {
            return Ok(self.source.text.to_string());
        }
        // A line break inside an argument would end the comment.
        let changes: Vec<String> = self.overrides.iter().map(|set| set.to_string().replace('\n', " ")).collect();
        Ok(format!("// {} {}\n{}\n", self.source.name, changes.join(" "), self.recipe.to_ron()?))
    }

    /// Number of the stage that an argument such as `--only NAME` names.
    ///
    /// # Errors
    /// [`Error::Recipe`] with the nearest name if there is no such stage.
    pub fn stage(&self, flag: &str, name: &str) -> Result<usize> {
        self.recipe.stage_index(name).ok_or_else(|| {
            let problem =
                Problem::new(&SourceText::new(flag, name), 0..name.len(), format!("there is no stage `{name}`"));
            problem.accepted(name, self.recipe.stage_names()).into()
        })
    }

    /// The text it was read from.
    pub fn source(&self) -> &SourceText {
        &self.source
    }

    /// The recipe before `parity` decides anything.
    pub(super) fn written(&self) -> &Recipe {
        &self.written
    }

    /// Whether the file or an argument says what the value at `path` is.
    pub(super) fn is_written(&self, path: &[String]) -> bool {
        self.tree.find(path).1 == path.len() || self.overrides.iter().any(|set| set.writes(path))
    }

    /// The spans of the file's values.
    pub(super) fn tree(&self) -> &Node {
        &self.tree
    }

    /// Where the value at `path` was written: in the last argument that set it or something around it, else in the file.
    /// Of a value that is written nowhere, because it is a default, the place of what it belongs to.
    pub(super) fn locate(&self, path: &[String]) -> (&SourceText, Range<usize>) {
        match self.overrides.iter().rev().find_map(|set| set.locate(path)) {
            Some(found) => found,
            None => (&self.source, self.tree.find(path).0.headline(&self.source.text)),
        }
    }
}

fn found(problems: Vec<Problem>) -> Result<()> {
    if problems.is_empty() { Ok(()) } else { Err(Error::Recipe(problems)) }
}

/// Reads prompt templates: a RON file like a recipe.
///
/// # Errors
/// [`Error::File`] if it cannot be read, [`Error::Recipe`] with the place of what is wrong in it.
pub fn load_templates(path: &Path) -> Result<Templates> {
    let source = read_text(path)?;
    let templates: Templates = syntax::parse(&source)?;
    match templates.validate() {
        Ok(()) => Ok(templates),
        Err(error) => {
            let steps: Vec<String> = match &error {
                datasets::Error::Setting { key, .. } => key.split('.').skip(1).map(str::to_owned).collect(),
                _ => Vec::new(),
            };
            let span = Node::read(&source.text).find(&steps).0.headline(&source.text);
            Err(Problem::new(&source, span, error.to_string()).into())
        }
    }
}

/// Reads a whole file of at most 1 MiB.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>> {
    let fail = |reason: String| Error::File { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > MAX_BYTES => Err(fail("it is larger than 1 MiB".to_owned())),
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(fail(match similar(path) {
            Some(near) => format!("there is no such file; did you mean {near}?"),
            None => "there is no such file".to_owned(),
        })),
        Err(error) => Err(fail(error.to_string())),
    }
}

fn read_text(path: &Path) -> Result<SourceText> {
    let name = path.display().to_string();
    match String::from_utf8(read_small(path)?) {
        Ok(text) => Ok(SourceText::new(name, text.strip_prefix('\u{feff}').unwrap_or(&text))),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let source = SourceText::new(name, String::from_utf8_lossy(error.as_bytes()));
            let span = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
            Err(Problem::new(&source, span, "this is not UTF-8").help("save the file as UTF-8 text").into())
        }
    }
}

/// A file or folder beside `path` with nearly its name.
pub(super) fn similar(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> =
        fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let near = nearest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    Some(path.with_file_name(near).display().to_string())
}
