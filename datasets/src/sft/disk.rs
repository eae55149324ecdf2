//! Samples on disk: a folder with the token ids in one file, which is mapped into memory, and everything else in another.

use super::ids::{IdWriter, Ids};
use super::{SftCounts, SftDataset, SourceReport};
use crate::chat::Amount;
use crate::error::Result;
use crate::store::{Columns, Table};
use serde::{Deserialize, Serialize};
use std::path::Path;

const KIND: &str = "sft samples";
const VERSION: u32 = 4;
const REMEDY: &str = "delete its folder, it will be made again from the conversations";

/// Four bytes a token, little-endian.
const IDS: &str = "ids.bin";
/// Written last: without it there are no samples.
const SAMPLES: &str = "samples.safetensors";

/// What is no column.
#[derive(Serialize, Deserialize)]
struct Info {
    counts: SftCounts,
    parts: Vec<(u64, Amount)>,
    sources: Vec<SourceReport>,
    /// The hash of the file of ids.
    ids: String,
}

/// The samples of a folder in the making.
pub(super) struct SampleWriter<'a> {
    folder: &'a Path,
    ids: IdWriter,
}

impl<'a> SampleWriter<'a> {
    pub(super) fn create(folder: &'a Path) -> Result<Self> {
        Ok(Self { folder, ids: IdWriter::create(&folder.join(IDS))? })
    }

    /// Takes the ids that are in memory.
    pub(super) fn append(&mut self, ids: &mut Ids) -> Result<()> {
        self.ids.append(ids)?;
        if let Ids::Owned(ids) = ids {
            ids.clear();
        }
        Ok(())
    }

    /// Writes everything else.
    pub(super) fn finish(self, dataset: &SftDataset) -> Result<()> {
        let ids = self.ids.finish()?;
        let mut columns = Columns::default();
        columns.add("offsets", &dataset.offsets);
        columns.add_shaped("spans", vec![dataset.spans.len(), 2], dataset.spans.as_flattened());
        columns.add("span_weights", &dataset.span_weights);
        columns.add("span_offsets", &dataset.span_offsets);
        columns.add("lines", &dataset.lines);
        let (counts, parts, sources) = (dataset.counts, dataset.parts.clone(), dataset.sources.clone());
        columns.save(&self.folder.join(SAMPLES), KIND, VERSION, &Info { counts, parts, sources, ids })
    }
}

impl SftDataset {
    /// Whether a folder holds samples; whole ones or damaged ones.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(SAMPLES).is_file()
    }

    /// Writes the samples into a folder.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let mut writer = SampleWriter::create(folder)?;
        writer.ids.append(&self.ids)?;
        writer.finish(self)
    }

    /// Opens what [`SftDataset::save`] or [`SftDataset::read_into`] wrote, and checks it. The ids stay in their file.
    ///
    /// # Errors
    /// Files that are absent or damaged.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(SAMPLES);
        let table: Table<Info> = Table::open(&path, KIND, VERSION, REMEDY)?;
        let offsets: Vec<u64> = table.values("offsets")?;
        let spans: Vec<u32> = table.values("spans")?;
        let (spans, rest) = spans.as_chunks::<2>();
        let span_weights: Vec<f32> = table.values("span_weights")?;
        let span_offsets = table.offsets("span_offsets", spans.len())?;
        let lines: Vec<u32> = table.values("lines")?;
        let samples = lines.len();
        if !rest.is_empty()
            || span_weights.len() != spans.len()
            || offsets.len() != samples + 1
            || span_offsets.len() != samples + 1
        {
            return Err(table.damaged("its columns differ in length".into()));
        }
        if offsets.first() != Some(&0) || !offsets.is_sorted() {
            return Err(table.damaged("the column `offsets` does not hold the borders of samples".into()));
        }
        let count = offsets.last().copied().unwrap_or(0);
        let Some(ids) = Ids::open(&folder.join(IDS), count, &table.info.ids)? else {
            return Err(
                table.damaged(format!("`{IDS}` beside it does not hold its {count} token ids: another checksum"))
            );
        };
        for sample in 0..samples {
            let length = offsets[sample + 1] - offsets[sample];
            let own = &spans[span_offsets[sample] as usize..span_offsets[sample + 1] as usize];
            let borders: Vec<u32> = own.as_flattened().to_vec();
            let inside = borders.first().is_some_and(|first| *first > 0)
                && borders.last().is_some_and(|end| u64::from(*end) <= length);
            // A range may begin where the one before it ends.
            let ordered =
                own.iter().all(|[first, end]| first < end) && own.windows(2).all(|pair| pair[0][1] <= pair[1][0]);
            if !inside || !ordered {
                return Err(table.damaged(format!("the learned ranges of sample {sample} are not within it")));
            }
        }
        let parts = &table.info.parts;
        if !parts.is_sorted_by_key(|(end, _)| *end) || parts.last().is_some_and(|(end, _)| *end > samples as u64) {
            return Err(table.damaged("its sources have more samples than there are".into()));
        }
        let Info { counts, parts, sources, .. } = table.info;
        let spans = spans.to_vec();
        Ok(Self { ids, offsets, spans, span_weights, span_offsets, lines, parts, counts, sources })
    }
}
