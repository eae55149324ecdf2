//! Writing the questions and what is to be known about them.

use super::{Collection, GraphQuestions, GraphQuestionsConfig, QuestionRecord, SourceWorkflow, TaskType};
use crate::atomic::{AtomicFile, write_file};
use crate::error::{Error, Result};
use crate::flora::SourceFile;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

/// How many workflows are worked on at a time: enough for all threads, few enough for the memory.
const CHUNK: usize = 256;

/// Where to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPaths {
    /// The questions for training.
    pub train: PathBuf,
    /// The questions for testing.
    pub test: PathBuf,
    /// The [`Manifest`], written last.
    pub manifest: PathBuf,
}

impl OutputPaths {
    /// `prefinetuning.jsonl`, `prefinetuning_test.jsonl` and `prefinetuning.manifest.json` in a folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            train: folder.join("prefinetuning.jsonl"),
            test: folder.join("prefinetuning_test.jsonl"),
            manifest: folder.join("prefinetuning.manifest.json"),
        }
    }
}

/// How many questions there are of each sort.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The workflows.
    pub workflows: usize,
    /// The questions.
    pub records: u64,
    /// By [`TaskType`].
    pub task_type: BTreeMap<TaskType, u64>,
    /// By kind of question.
    pub variant: BTreeMap<String, u64>,
    /// By data set.
    pub sub_dataset: BTreeMap<String, u64>,
    /// Questions about paths that were left out because the workflow has one node only.
    pub skipped_single_node: u64,
}

impl Counts {
    fn add(&mut self, record: &QuestionRecord) {
        self.records += 1;
        *self.task_type.entry(record.task_type).or_default() += 1;
        *self.variant.entry(record.variant.clone()).or_default() += 1;
        *self.sub_dataset.entry(record.sub_dataset.clone()).or_default() += 1;
    }
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// The file's name, without its folder.
    pub name: String,
    /// The BLAKE3 hash of its bytes, in hexadecimal.
    pub blake3: String,
    /// What is in it.
    #[serde(flatten)]
    pub counts: Counts,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceOfQuestions {
    /// The data set's name.
    pub sub_dataset: String,
    /// The file.
    #[serde(flatten)]
    pub file: SourceFile,
}

/// Where questions came from and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The seed of all draws.
    pub seed: u64,
    /// The settings.
    pub config: GraphQuestionsConfig,
    /// [`crate::templates::Templates::hash`] of the words.
    pub templates: String,
    /// The files that were read.
    pub sources: Vec<SourceOfQuestions>,
    /// Numbers that stood for more than one workflow; the first one was taken.
    pub conflicting_ids: u64,
    /// The workflows for testing whose content also occurs in training, under another number.
    pub test_graphs_in_train: usize,
    /// The questions for training.
    pub train: OutputFile,
    /// The questions for testing.
    pub test: OutputFile,
}

impl GraphQuestions {
    /// Writes the questions about all workflows: two files of JSON lines, then the manifest.
    ///
    /// The same input gives the same bytes, on any number of threads.
    pub fn write(&self, collection: &Collection, paths: &OutputPaths) -> Result<Manifest> {
        let (train, test) = self.split(collection);
        let hashes = |workflows: &[&SourceWorkflow]| -> Vec<String> {
            workflows.par_iter().map(|source| source.workflow.content_hash()).collect()
        };
        let in_train: HashSet<String> = hashes(&train).into_iter().collect();
        let test_graphs_in_train = hashes(&test).iter().filter(|hash| in_train.contains(*hash)).count();

        let train = self.write_file(&train, &paths.train)?;
        let test = self.write_file(&test, &paths.test)?;
        let sources = collection.files.iter();
        let manifest = Manifest {
            seed: self.seed,
            config: self.config.clone(),
            templates: self.templates.hash(),
            sources: sources
                .map(|(name, file)| SourceOfQuestions { sub_dataset: name.clone(), file: file.clone() })
                .collect(),
            conflicting_ids: collection.conflicting_ids,
            test_graphs_in_train,
            train,
            test,
        };
        let json = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::io(&paths.manifest, "write")(e.into()))?;
        write_file(&paths.manifest, &json)?;
        Ok(manifest)
    }

    fn write_file(&self, workflows: &[&SourceWorkflow], path: &Path) -> Result<OutputFile> {
        let mut file = AtomicFile::create(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut counts = Counts { workflows: workflows.len(), ..Counts::default() };
        for chunk in workflows.chunks(CHUNK) {
            let mut groups: Vec<Vec<QuestionRecord>> = chunk.par_iter().map(|source| self.records(source)).collect();
            for record in groups.iter_mut().flatten() {
                counts.add(record);
                record.id = counts.records.to_string();
            }
            if self.config.tasks.contains(&TaskType::Reach) {
                let single = chunk.iter().filter(|source| source.workflow.nodes.len() < 2).count() as u64;
                counts.skipped_single_node += single * u64::from(self.config.rounds);
            }
            let lines: Vec<Vec<u8>> = groups
                .par_iter()
                .map(|group| {
                    let mut lines = Vec::new();
                    for record in group {
                        serde_json::to_writer(&mut lines, record)?;
                        lines.push(b'\n');
                    }
                    Ok(lines)
                })
                .collect::<serde_json::Result<_>>()
                .map_err(|e| Error::io(path, "write")(e.into()))?;
            for lines in lines {
                hasher.update(&lines);
                let written = file.write_all(&lines);
                written.map_err(Error::io(path, "write"))?;
            }
        }
        file.commit()?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(OutputFile { name, blake3: hasher.finalize().to_hex().to_string(), counts })
    }
}
