//! What an embedding stage leaves behind, and how the predictor's stages read it.

use super::error::Error;
use super::folder::write_json;
use super::sentences::{prompt_rows, prompted_rows};
use crate::learners::GlowData;
use burn::tensor::{Device, Tensor, TensorData};
use burn_models::glow::{GlowConfig, GlowRecord, GlowTables, GlowWorkflow, GraphConfig, PromptRows};
use datasets::Split;
use datasets::atomic::write_file;
use datasets::index::{FloraIndex, Records};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A matrix on the host, row-major f32.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Its elements.
    pub values: Vec<f32>,
    /// Columns.
    pub width: usize,
}

impl Table {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    fn row(&self, row: u32) -> &[f32] {
        &self.values[row as usize * self.width..(row as usize + 1) * self.width]
    }

    fn tensor(&self, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.values.clone(), [self.rows(), self.width]), device)
    }
}

/// A shift and a scale for every column of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standardization {
    /// What is subtracted.
    pub mean: Vec<f32>,
    /// What the rest is divided by.
    pub deviation: Vec<f32>,
}

/// Columns that hardly vary are not blown up.
const LEAST_DEVIATION: f64 = 1e-6;

impl Standardization {
    /// Mean and deviation of the columns over these rows of a table.
    pub fn of(table: &Table, rows: &BTreeSet<u32>) -> Self {
        let count = rows.len().max(1) as f64;
        let column = |sum: &dyn Fn(&mut [f64], &[f32])| {
            let mut sums = vec![0.0f64; table.width];
            for row in rows {
                sum(&mut sums, table.row(*row));
            }
            sums.into_iter().map(|s| s / count).collect::<Vec<f64>>()
        };
        let mean = column(&|sums, row| sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v)));
        let variance = column(&|sums, row| {
            for ((s, v), m) in sums.iter_mut().zip(row).zip(&mean) {
                *s += (f64::from(*v) - m).powi(2);
            }
        });
        Self {
            mean: mean.iter().map(|m| *m as f32).collect(),
            deviation: variance.iter().map(|v| v.sqrt().max(LEAST_DEVIATION) as f32).collect(),
        }
    }

    fn apply(&self, table: &mut Table) {
        for row in table.values.chunks_exact_mut(table.width.max(1)) {
            for ((v, m), d) in row.iter_mut().zip(&self.mean).zip(&self.deviation) {
                *v = (*v - m) / d;
            }
        }
    }
}

/// How a predictor wants its inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputScale {
    /// For the language model's vectors.
    pub llm: Standardization,
    /// For the sentence vectors.
    pub text: Standardization,
}

/// What the vectors of two tables were made with: equal for equal weights, words and settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The language model's.
    pub llm: String,
    /// The sentence encoder's.
    pub text: String,
}

/// FLORA records with the vectors of their workflows and texts.
#[derive(Clone, Debug)]
pub struct EmbeddedData {
    /// The records.
    pub index: FloraIndex,
    /// What the vectors were made with.
    pub keys: Keys,
    /// A row per workflow of the index.
    pub llm: Table,
    /// A row per text of the index; behind them, those of One-For-All's nodes if they were asked for.
    pub text: Table,
}

/// How the vectors were made: what it takes to make them for other records (`embed.json`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EmbedInfo {
    /// The decoder's folder.
    pub llm: PathBuf,
    /// The sentence encoder's folder.
    pub text: PathBuf,
    /// The stage's settings.
    pub settings: crate::recipe::Embed,
}

const EMBEDDINGS: &str = "embeddings.safetensors";
/// The entry of its header that holds a [`Header`].
const KEYS: &str = "made_with";
const INDEX: &str = "index";
const INFO: &str = "embed.json";

/// What a file of vectors says of itself.
#[derive(Serialize, Deserialize)]
struct Header {
    keys: Keys,
    /// BLAKE3 of the rows of both tables, as they lie in the file.
    blake3: String,
}

fn digest(llm: &[u8], text: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(llm).update(text).finalize().to_hex().to_string()
}

impl EmbeddedData {
    /// Writes everything into a stage's folder.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn save(&self, folder: &Path, info: &EmbedInfo) -> Result<(), Error> {
        self.index.save(&folder.join(INDEX))?;
        let path = folder.join(EMBEDDINGS);
        let wrong = |e: safetensors::SafeTensorError| Error::io(&path)(std::io::Error::other(e));
        let mut views = BTreeMap::new();
        for (name, table) in [("llm", &self.llm), ("text", &self.text)] {
            let bytes: &[u8] = bytemuck::cast_slice(&table.values);
            views.insert(name, TensorView::new(Dtype::F32, vec![table.rows(), table.width], bytes).map_err(wrong)?);
        }
        // One entry: the format writes several in no particular order, and equal vectors are to be equal files.
        let blake3 = digest(bytemuck::cast_slice(&self.llm.values), bytemuck::cast_slice(&self.text.values));
        let header = Header { keys: self.keys.clone(), blake3 };
        let header = serde_json::to_string(&header).map_err(|e| Error::io(&path)(e.into()))?;
        let metadata = HashMap::from([(KEYS.to_string(), header)]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(wrong)?;
        write_file(&path, &bytes)?;
        write_json(&folder.join(INFO), info)
    }

    /// Reads what [`EmbeddedData::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file that is not there or not what it should be.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let index = FloraIndex::load(&folder.join(INDEX))?;
        let path = folder.join(EMBEDDINGS);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let invalid = |reason: String| Error::io(&path)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason));
        let file = SafeTensors::deserialize(&bytes).map_err(|e| invalid(e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| invalid(e.to_string()))?;
        let keys = header.metadata().as_ref().and_then(|metadata| metadata.get(KEYS));
        let keys = keys.ok_or_else(|| invalid("it does not say what made its vectors".into()))?;
        let Header { keys, blake3 } =
            serde_json::from_str(keys).map_err(|e| invalid(format!("what made its vectors: {e}")))?;
        let bytes_of = |name: &str| file.tensor(name).map_or(&[][..], |view| view.data());
        if digest(bytes_of("llm"), bytes_of("text")) != blake3 {
            let remedy = "do the stage again, with `--fresh --from` and its name";
            return Err(invalid(format!("its vectors are not those that were written: {remedy}")));
        }
        let table = |name: &str, rows: usize| -> Result<Table, Error> {
            let view = file.tensor(name).map_err(|e| invalid(e.to_string()))?;
            let &[found, width] = view.shape() else { return Err(invalid(format!("`{name}` is not a matrix"))) };
            if view.dtype() != Dtype::F32 || found != rows {
                return Err(invalid(format!("`{name}` has {found} rows of {:?}, not {rows} of F32", view.dtype())));
            }
            Ok(Table { values: bytemuck::pod_collect_to_vec(view.data()), width })
        };
        let texts = index.texts().len();
        let prompted = file.tensor("text").is_ok_and(|view| view.shape().first() == Some(&prompted_rows(texts)));
        let text = table("text", if prompted { prompted_rows(texts) } else { texts })?;
        let llm = table("llm", index.workflows().len())?;
        Ok(Self { index, keys, llm, text })
    }

    /// Reads how the vectors in a stage's folder were made.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn info(folder: &Path) -> Result<EmbedInfo, Error> {
        let path = folder.join(INFO);
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        serde_json::from_slice(&text).map_err(|e| Error::io(&path)(e.into()))
    }

    /// The name of the folder that the records were read from.
    pub fn name(&self) -> String {
        let file = self.index.sources().first().map(|(_, file)| file.path.as_path());
        let folder = file.and_then(Path::parent).and_then(Path::file_name);
        folder.map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned())
    }

    /// What the columns of both tables would be standardised by: mean and deviation over the rows that a split uses.
    ///
    /// # Errors
    /// Where the data has no such split.
    pub fn standardization(&self, split: Split) -> Result<InputScale, Error> {
        let records = self.records(split)?;
        let workflows: BTreeSet<u32> = records.workflow.iter().copied().collect();
        let mut texts: BTreeSet<u32> = records.task.iter().copied().collect();
        texts.extend(workflows.iter().flat_map(|w| self.index.node_texts(*w)));
        Ok(InputScale {
            llm: Standardization::of(&self.llm, &workflows),
            text: Standardization::of(&self.text, &texts),
        })
    }

    /// Standardises both tables.
    pub fn standardize(&mut self, scale: &InputScale) {
        scale.llm.apply(&mut self.llm);
        scale.text.apply(&mut self.text);
    }

    /// The vectors on a device (without autodiff).
    pub fn tables(&self, device: &Device) -> GlowTables {
        GlowTables { llm: self.llm.tensor(device), text: self.text.tensor(device) }
    }

    /// The workflows, as a predictor with this graph encoder takes them.
    pub fn workflows(&self, gnn: &GraphConfig) -> Arc<Vec<GlowWorkflow>> {
        let workflow = |w: u32| {
            let graph = self.index.graph(w);
            let graph = if gnn.bidirectional_edges { graph.bidirectional() } else { graph };
            GlowWorkflow { graph, node_texts: self.index.node_texts(w) }
        };
        Arc::new((0..self.index.workflows().len() as u32).map(workflow).collect())
    }

    /// Where the vectors of prompt nodes are, for a predictor that wants them.
    ///
    /// # Errors
    /// [`Error::Stage`] where it does and they were not made.
    pub fn prompt_rows(&self, model: &GlowConfig) -> Result<Option<PromptRows>, Error> {
        let texts = self.index.texts().len();
        match model.use_graph && model.gnn.prompt_nodes {
            false => Ok(None),
            true if self.text.rows() == prompted_rows(texts) => Ok(Some(prompt_rows(texts))),
            true => Err(Error::Stage {
                stage: "embed".into(),
                reason: "these embeddings have no vectors for `prompt_nodes`: embed with sentences: OneForAll".into(),
            }),
        }
    }

    /// A split's columns.
    ///
    /// # Errors
    /// [`Error::Stage`] where the data has no such split.
    pub fn records(&self, split: Split) -> Result<&Records, Error> {
        self.index.split(split).ok_or_else(|| Error::Stage {
            stage: "embed".into(),
            reason: format!("the embedded data has no split `{}`", split.name()),
        })
    }
}

/// A split's records over tables and workflows that several splits share; with `prompts`, each in a graph with prompt nodes.
pub fn glow_data(
    records: &Records,
    workflows: Arc<Vec<GlowWorkflow>>,
    tables: GlowTables,
    prompts: Option<PromptRows>,
) -> GlowData {
    let record = |i: usize| GlowRecord {
        workflow: records.workflow[i],
        llm: records.workflow[i],
        task: records.task[i],
        label: records.label[i],
        task_id: records.task_id[i],
    };
    let places = records.line.iter().copied().zip(records.workflow_id.iter().copied()).collect();
    GlowData {
        records: Arc::new((0..records.len()).map(record).collect()),
        targets: Arc::new(records.label.clone()),
        workflows,
        tables,
        prompts,
        places: Arc::new(places),
    }
}
