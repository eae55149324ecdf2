//! The reference of the recipe language: the documentation of its types, read from their own source text, so that there is
//! one text and not two.
//!
//! The compiler puts the files below into the program; [`types`] finds in them every `pub struct` and `pub enum` that a recipe
//! can write, with the `///` lines above them, their fields and their variants. Nothing of Rust is understood beyond that.

use crate::recipe::StageKind;
use std::fmt::Write;
use std::sync::OnceLock;

/// The files with the types of recipes. Where two types have one name, both are shown.
const SOURCES: &[&str] = &[
    include_str!("recipe/mod.rs"),
    include_str!("recipe/stage.rs"),
    include_str!("recipe/source.rs"),
    include_str!("recipe/chat.rs"),
    include_str!("recipe/hub.rs"),
    include_str!("recipe/graph_questions.rs"),
    include_str!("recipe/sft.rs"),
    include_str!("recipe/optim.rs"),
    include_str!("recipe/embed.rs"),
    include_str!("recipe/glow.rs"),
    include_str!("recipe/glow_eval.rs"),
    include_str!("recipe/judge.rs"),
    include_str!("device.rs"),
    include_str!("train/schedule.rs"),
    include_str!("learners/causal_lm.rs"),
    include_str!("eval/utility.rs"),
    include_str!("eval/bootstrap.rs"),
    include_str!("../../burn-lora/src/config.rs"),
    include_str!("../../burn-models/src/decoder/config.rs"),
    include_str!("../../burn-models/src/glow/config.rs"),
    include_str!("../../burn-gnn/src/layer.rs"),
    include_str!("../../burn-models/src/glow/contrast.rs"),
    include_str!("embedding.rs"),
    include_str!("eval/yes_no.rs"),
    include_str!("../../datasets/src/splits.rs"),
    include_str!("../../datasets/src/synthetic.rs"),
    include_str!("../../datasets/src/flora.rs"),
    include_str!("../../datasets/src/sampler.rs"),
    include_str!("../../datasets/src/render.rs"),
    include_str!("../../datasets/src/graph_questions.rs"),
    include_str!("../../datasets/src/graph_questions/question.rs"),
    include_str!("../../datasets/src/chat/format.rs"),
    include_str!("../../datasets/src/chat/split.rs"),
    include_str!("../../datasets/src/sft/options.rs"),
    include_str!("../../datasets/src/sft/plan.rs"),
    include_str!("../../datasets/src/templates/judge.rs"),
];

/// A type that a recipe can write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeDoc {
    /// Its name.
    pub name: String,
    /// What it is.
    pub doc: String,
    /// Whether it is one of several variants, not a set of fields.
    pub is_choice: bool,
    /// Its fields, or its variants.
    pub items: Vec<ItemDoc>,
}

/// A field, or a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemDoc {
    /// Its name.
    pub name: String,
    /// The type of a field, or of what a variant holds; empty for a variant that holds nothing.
    pub holds: String,
    /// What it is.
    pub doc: String,
    /// Whether a recipe may leave it out.
    pub optional: bool,
}

/// All types that a recipe can write.
pub fn types() -> &'static [TypeDoc] {
    static TYPES: OnceLock<Vec<TypeDoc>> = OnceLock::new();
    TYPES.get_or_init(|| SOURCES.iter().flat_map(|text| parse(text)).collect())
}

/// The types of a name; a stage's may also be its default name, such as `glow-train`, and a name's case does not matter.
pub fn find(name: &str) -> Vec<&'static TypeDoc> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let named = |name: &str| types().iter().filter(|found| plain(&found.name) == plain(name)).collect::<Vec<_>>();
    match named(name) {
        found if found.is_empty() => {
            stages().into_iter().filter(|(_, kind)| *kind == name).flat_map(|(stage, _)| named(stage)).collect()
        }
        found => found,
    }
}

/// The stages: names of their types, and of the stages where nothing else is said.
pub fn stages() -> Vec<(&'static str, &'static str)> {
    let stages = types().iter().find(|found| found.name == "Stage").map_or(&[][..], |found| &found.items);
    let kind = |name: &str| StageKind::ALL.into_iter().find(|kind| format!("{kind:?}") == name);
    stages.iter().map(|stage| (stage.name.as_str(), kind(&stage.name).map_or("", StageKind::as_str))).collect()
}

impl TypeDoc {
    /// The whole reference of the type, for a terminal `width` wide.
    pub fn render(&self, width: usize) -> String {
        let mut text = format!("{}\n", self.name);
        wrap(&mut text, &self.doc, 2, width);
        for item in &self.items {
            let what = match (self.is_choice, item.holds.as_str()) {
                (true, "") => item.name.clone(),
                (true, holds) => format!("{}({holds})", item.name),
                (false, holds) => format!("{}: {holds}", item.name),
            };
            let note = if self.is_choice || item.optional { "" } else { "   (required)" };
            let _ = write!(text, "\n  {what}{note}\n");
            wrap(&mut text, &item.doc, 6, width);
        }
        let more = self.mentions();
        if !more.is_empty() {
            text.push('\n');
            wrap(&mut text, &format!("See also: hearth docs {}", more.join(", ")), 2, width);
        }
        text
    }

    /// The types that are mentioned in what it holds.
    fn mentions(&self) -> Vec<&'static str> {
        let words = |item: &ItemDoc| -> Vec<String> {
            item.holds.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
        };
        let all: Vec<String> = self.items.iter().flat_map(words).collect();
        let mut names: Vec<&str> =
            types().iter().map(|found| found.name.as_str()).filter(|name| *name != self.name).collect();
        names.retain(|name| all.iter().any(|word| word == name));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The first sentence of its documentation.
    pub fn summary(&self) -> &str {
        self.doc.find(". ").map_or(self.doc.as_str(), |end| &self.doc[..=end])
    }
}

/// Paragraphs and lists, indented and wrapped.
fn wrap(text: &mut String, doc: &str, indent: usize, width: usize) {
    for paragraph in doc.split('\n') {
        let (hang, mut line) = (if paragraph.starts_with("- ") { 2 } else { 0 }, " ".repeat(indent));
        for word in paragraph.split(' ') {
            let empty = line.trim().is_empty();
            if !empty && line.chars().count() + 1 + word.chars().count() > width {
                let _ = writeln!(text, "{line}");
                line = " ".repeat(indent + hang) + word;
            } else {
                line = if empty { line + word } else { line + " " + word };
            }
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// Finds the types in a file that derive serde's traits.
fn parse(text: &str) -> Vec<TypeDoc> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    let (mut doc, mut written, mut defaults) = (Vec::new(), false, false);
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if line.starts_with("#[") {
            written |= line.contains("Serialize") || line.contains("Deserialize");
            defaults |= line.starts_with("#[serde(") && line.contains("default");
        } else if line.starts_with("//") {
        } else {
            let head = line.strip_prefix("pub struct ").map(|rest| (rest, false));
            if let Some((rest, is_choice)) = head.or(line.strip_prefix("pub enum ").map(|rest| (rest, true)))
                && written
                && let Some(name) = rest.strip_suffix(" {")
            {
                let items = items(&mut lines, is_choice, defaults);
                found.push(TypeDoc { name: name.to_owned(), doc: plain(&doc), is_choice, items });
            }
            (written, defaults) = (false, false);
            doc.clear();
        }
    }
    found
}

/// The fields or variants of a type whose first line has been read, up to its closing brace.
fn items<'a>(lines: &mut impl Iterator<Item = &'a str>, is_choice: bool, defaults: bool) -> Vec<ItemDoc> {
    let mut found: Vec<ItemDoc> = Vec::new();
    let (mut doc, mut optional, mut skipped) = (Vec::new(), defaults, false);
    for line in lines.take_while(|line| *line != "}") {
        // What is deeper are the fields of a variant, which its own documentation explains.
        let Some(line) = line.strip_prefix("    ").filter(|line| !line.starts_with(' ')) else { continue };
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
            continue;
        }
        if line.starts_with("#[") {
            optional |= line.starts_with("#[serde(") && line.contains("default");
            skipped |= line.contains("serde(skip");
            continue;
        }
        if line.starts_with("//") || line.starts_with('}') || line.starts_with(')') {
            continue;
        }
        let (name, holds) = if is_choice {
            let end = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(line.len());
            let (name, rest) = line.split_at(end);
            let holds = rest.trim_end_matches(',').strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
            (name, if rest.starts_with(" {") { "…".to_owned() } else { holds.map(readable).unwrap_or_default() })
        } else {
            let Some((name, kind)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) else { continue };
            (name, readable(kind.trim_end_matches(',')))
        };
        if !skipped {
            // An Option has None for a default wherever serde reads it.
            found.push(ItemDoc { name: name.to_owned(), doc: plain(&doc), optional, holds });
        }
        (optional, skipped) = (defaults, false);
        doc.clear();
    }
    found
}

/// A Rust type in the words of a recipe.
fn readable(kind: &str) -> String {
    let inner = |prefix: &str| kind.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
    if let Some(kind) = inner("Option<") {
        return format!("{} or None", readable(kind));
    }
    if let Some(kind) = inner("Box<") {
        return readable(kind);
    }
    if let Some(kind) = inner("Vec<") {
        return format!("[{}, …]", readable(kind));
    }
    if let Some(kind) = inner("BTreeMap<String, ") {
        return format!("{{\"…\": {}, …}}", readable(kind));
    }
    if let Some(kinds) = kind.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        return format!("({})", kinds.split(", ").map(readable).collect::<Vec<_>>().join(", "));
    }
    match kind {
        "usize" | "u64" | "u32" | "i64" => "whole number",
        "f64" | "f32" => "number",
        "bool" => "true or false",
        "String" => "\"text\"",
        "PathBuf" => "\"path\"",
        other => other.rsplit("::").next().unwrap_or(other),
    }
    .to_owned()
}

/// Documentation without the marks of Markdown: paragraphs and list items, one a line.
fn plain(doc: &[&str]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in doc {
        let text = line.replace("[`", "`").replace("`]", "`").replace('`', "");
        match lines.last_mut() {
            Some(last) if !text.is_empty() && !text.starts_with("- ") && !last.is_empty() => {
                last.push(' ');
                last.push_str(&text);
            }
            _ => lines.push(text),
        }
    }
    lines.retain(|line| !line.is_empty());
    lines.join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found() {
        let text = "//! x\n\n/// A [`B`] of\n/// things.\n///\n/// - one\n///   more\n#[derive(Debug, Deserialize)]\n#[serde(deny_unknown_fields)]\n\
            pub struct A {\n    /// First. Default 3.\n    #[serde(default = \"x\")]\n    pub a: Option<usize>,\n    /// Second.\n    \
            pub b: BTreeMap<String, Vec<f64>>,\n    private: u8,\n}\n\n/// Not written.\npub struct C {\n    /// x\n    pub x: u8,\n}\n\n\
            /// E.\n#[derive(Serialize)]\npub enum E {\n    /// One.\n    #[default]\n    One,\n    /// Two.\n    Two(f64),\n    /// Three.\n    \
            Three {\n        /// deep\n        x: u8,\n    },\n}\n";
        let found = parse(text);
        let names: Vec<&str> = found.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["A", "E"]);
        assert_eq!(found[0].doc, "A B of things.\n- one more");
        let items: Vec<(&str, &str, bool)> =
            found[0].items.iter().map(|i| (i.name.as_str(), i.holds.as_str(), i.optional)).collect();
        assert_eq!(items, [("a", "whole number or None", true), ("b", "{\"…\": [number, …], …}", false)]);
        let items: Vec<(&str, &str)> = found[1].items.iter().map(|i| (i.name.as_str(), i.holds.as_str())).collect();
        assert_eq!(items, [("One", ""), ("Two", "number"), ("Three", "…")]);
        let shown = found[0].render(30);
        assert!(shown.contains("  b: {\"…\": [number, …], …}   (required)\n      Second.\n"), "{shown}");
        assert_eq!(found[0].summary(), found[0].doc);
    }
}
