//! The model card: `README.md` with the facts that the stages' manifests hold.

use std::fmt;
use std::fmt::Write;

use burn_models::decoder::{Architecture, DecoderConfig};
use serde_json::Value;

use super::origin::Origin;
use crate::cli::args::ExportKind;
use crate::report::Manifest;

/// What stands for the path of a local file.
const LOCAL: &str = "(local)";
/// Settings that hold the path of a file or folder.
const PATHS: [&str; 6] = ["Path", "Flora", "path", "registry", "templates", "csv"];

/// A model card, by [`Display`](fmt::Display). No path of the machine it is written on is in it.
pub(super) struct Card<'a> {
    /// What is exported.
    pub(super) origin: &'a Origin,
    /// The decoder.
    pub(super) config: &'a DecoderConfig,
    /// Number format of the weights.
    pub(super) dtype: &'static str,
    /// What is written.
    pub(super) kind: ExportKind,
}

impl fmt::Display for Card<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { plan, stages, .. } = self.origin;
        let base = self.origin.base_name();
        let adapter = self.kind == ExportKind::Adapter;
        writeln!(f, "---")?;
        if let Some(base) = &base {
            writeln!(f, "base_model: {}", base.repo)?;
            writeln!(f, "base_model_relation: {}", if adapter { "adapter" } else { "finetune" })?;
        }
        writeln!(f, "library_name: {}", if adapter { "peft" } else { "transformers" })?;
        writeln!(f, "pipeline_tag: text-generation\ntags:\n- hearth")?;
        if adapter || self.origin.adapter.is_some() || stages.iter().any(|stage| stage.kind == "merge-lora") {
            writeln!(f, "- lora")?;
        }
        writeln!(
            f,
            "# license: whoever publishes this chooses one that the base model's license and the data allow\n---\n"
        )?;

        let recipe = plan.as_ref().and_then(|plan| plan["name"].as_str());
        writeln!(f, "# {}\n", cell(recipe.unwrap_or("A language model of agentic workflows")))?;
        writeln!(f, "| | |\n| --- | --- |")?;
        let from = match &base {
            Some(base) => {
                let revision = if base.revision == "main" { String::new() } else { format!(", `{}`", base.revision) };
                format!("[{0}](https://huggingface.co/{0}){revision}", base.repo)
            }
            None => self.origin.base_kind().to_string(),
        };
        writeln!(f, "| base model | {from} |")?;
        let family = match self.config.model_type {
            Architecture::Qwen3 => "Qwen3",
            Architecture::Qwen2 => "Qwen2",
            Architecture::Llama => "Llama",
        };
        let layers = self.config.num_hidden_layers;
        let parameters = self.config.num_parameters();
        writeln!(f, "| architecture | {family}, {layers} layers of width {} |", self.config.hidden_size)?;
        writeln!(f, "| parameters of the {} | {parameters} |", if adapter { "base model" } else { "model" })?;
        writeln!(f, "| weights | {} in {} |", if adapter { "a LoRA adapter" } else { "all of them" }, self.dtype)?;
        if let (Some(recipe), Some(last)) = (recipe, stages.first()) {
            writeln!(f, "| recipe | {}, seed {} |", cell(recipe), last.seed)?;
        }
        let version = stages.first().map_or(env!("CARGO_PKG_VERSION"), |stage| &stage.version);
        writeln!(f, "| made with | Hearth {} |", cell(version))?;

        writeln!(f, "\n## Use\n\n```python")?;
        writeln!(f, "from transformers import AutoModelForCausalLM, AutoTokenizer")?;
        let name = base.as_ref().map_or("the folder of the base model", |base| base.repo.as_str());
        if adapter {
            writeln!(f, "from peft import PeftModel\n")?;
            writeln!(f, "model = AutoModelForCausalLM.from_pretrained({name:?})")?;
            writeln!(f, "model = PeftModel.from_pretrained(model, \"this folder\")")?;
            writeln!(f, "tokenizer = AutoTokenizer.from_pretrained({name:?})")?;
        } else {
            writeln!(f, "\nmodel = AutoModelForCausalLM.from_pretrained(\"this folder\")")?;
            writeln!(f, "tokenizer = AutoTokenizer.from_pretrained(\"this folder\")")?;
        }
        writeln!(f, "```\n\n## Training\n")?;
        if stages.is_empty() {
            writeln!(f, "What it was trained on is not known: it was exported from a folder without a manifest.")?;
        }
        for manifest in stages.iter().rev() {
            stage(f, manifest)?;
        }
        writeln!(f, "\n## License\n\nNot chosen yet. The licenses of the base model and of the data have to allow it.")
    }
}

/// The settings and metrics of a stage.
fn stage(f: &mut fmt::Formatter<'_>, manifest: &Manifest) -> fmt::Result {
    let Manifest { stage, kind, metrics, timings, .. } = manifest;
    writeln!(f, "### Stage {} ({})\n", cell(stage), cell(kind))?;
    let mut settings = manifest.settings.clone();
    redact(&mut settings, false);
    let settings = serde_json::to_string_pretty(&settings).map_err(|_| fmt::Error)?;
    writeln!(f, "```json\n{settings}\n```\n")?;
    writeln!(f, "| metric | value |\n| --- | --- |")?;
    for (metric, value) in metrics {
        let value = value.map_or("not defined".into(), |value| value.to_string());
        writeln!(f, "| {} | {value} |", cell(metric))?;
    }
    writeln!(f, "| seconds | {:.1} |\n", timings.seconds)
}

/// Text for a cell of a table or a title: one line, without what would be taken for markup.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '|' | '<' | '[' | ']' | '\\' | '`' => {
                // A string takes everything.
                let _ = write!(out, "\\{c}");
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Replaces the paths of local files. `path` says that every text in the value is one.
fn redact(value: &mut Value, path: bool) {
    match value {
        Value::String(text) if path || is_path(text) => *text = LOCAL.into(),
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, path)),
        Value::Object(fields) => {
            for (key, field) in fields {
                redact(field, path || PATHS.contains(&key.as_str()));
            }
        }
        _ => {}
    }
}

/// Whether a text can only be the path of a file: an absolute one, or one that begins with a dot or a home folder.
fn is_path(text: &str) -> bool {
    let mut letters = text.chars();
    let drive = letters.next().is_some_and(|c| c.is_ascii_alphabetic()) && letters.as_str().starts_with(":\\");
    drive || ["/", "\\\\", "./", "../", "~/", "file:"].iter().any(|begin| text.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_left_out() {
        let mut settings = json!({
            "model": { "Path": "models/secret" }, "data": { "Data": "chats" }, "hub": { "Hub": { "repo": "org/name" } },
            "templates": "my/words.ron", "list": ["/home/somebody", "a/b", "C:\\data", "../x"], "learn": "assistant",
        });
        redact(&mut settings, false);
        let expected = json!({
            "model": { "Path": LOCAL }, "data": { "Data": "chats" }, "hub": { "Hub": { "repo": "org/name" } },
            "templates": LOCAL, "list": [LOCAL, "a/b", LOCAL, LOCAL], "learn": "assistant",
        });
        assert_eq!(settings, expected);
    }

    #[test]
    fn names_are_no_markup() {
        assert_eq!(cell("a|b\n# <c> `d`"), "a\\|b # \\<c> \\`d\\`");
    }
}
