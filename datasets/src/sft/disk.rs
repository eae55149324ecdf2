//! Samples on disk: one file of columns.

use super::{SftCounts, SftDataset, SourceReport};
use crate::chat::Amount;
use crate::error::Result;
use crate::store::{Columns, Table};
use serde::{Deserialize, Serialize};
use std::path::Path;

const KIND: &str = "sft samples";
const VERSION: u32 = 3;
const REMEDY: &str = "delete it, it will be made again from the conversations";

/// What is no column.
#[derive(Serialize, Deserialize)]
struct Info {
    counts: SftCounts,
    parts: Vec<(u64, Amount)>,
    sources: Vec<SourceReport>,
}

impl SftDataset {
    /// Writes the samples to one file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut columns = Columns::default();
        columns.add("ids", &self.ids);
        columns.add("offsets", &self.offsets);
        columns.add_shaped("spans", vec![self.spans.len(), 2], self.spans.as_flattened());
        columns.add("span_weights", &self.span_weights);
        columns.add("span_offsets", &self.span_offsets);
        columns.add("lines", &self.lines);
        let info = Info { counts: self.counts, parts: self.parts.clone(), sources: self.sources.clone() };
        columns.save(path, KIND, VERSION, &info)
    }

    /// Reads what [`SftDataset::save`] wrote, and checks it.
    pub fn load(path: &Path) -> Result<Self> {
        let table: Table<Info> = Table::open(path, KIND, VERSION, REMEDY)?;
        let ids: Vec<u32> = table.values("ids")?;
        let offsets = table.offsets("offsets", ids.len())?;
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
        let Info { counts, parts, sources } = table.info;
        let spans = spans.to_vec();
        Ok(Self { ids, offsets, spans, span_weights, span_offsets, lines, parts, counts, sources })
    }
}
