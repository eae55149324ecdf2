//! How large the passes of a fine-tuning are, and what they compute twice.

use super::error::Error;
use super::folder::write_json;
use crate::learners::Recompute;
use crate::plan::sft_memory;
use crate::recipe::{self, Sft};
use burn_models::decoder::DecoderConfig;
use datasets::sft::SftDataset;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The choice, in the stage's folder: a continued run computes as it began.
const FILE: &str = "passes.json";
/// The share of the free memory that a choice may fill.
const SHARE: f64 = 0.85;
/// Smaller passes do not fill a device.
const LEAST_TOKENS: usize = 2048;

/// Size and kind of the passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Passes {
    /// Token places of a pass, at most; a longer chat goes alone.
    pub(crate) micro_tokens: usize,
    /// What is computed twice.
    pub(crate) recompute: Recompute,
}

impl Passes {
    /// What the recipe says; with `Auto`, the first that fits into `free` bytes: passes as large as the recipe allows, then halves
    /// of them, first without and then with recomputation. Where nothing is known of the memory, or nothing fits, layers are recomputed
    /// in the smallest passes.
    pub(crate) fn choose(
        stage: &Sft,
        config: &DecoderConfig,
        data: &SftDataset,
        free: Option<u64>,
    ) -> Result<Self, Error> {
        let micro_tokens = stage.micro_tokens;
        let kinds = match stage.recompute {
            recipe::Recompute::None => return Ok(Self { micro_tokens, recompute: Recompute::None }),
            recipe::Recompute::Layers => return Ok(Self { micro_tokens, recompute: Recompute::Layers }),
            recipe::Recompute::Auto => [Recompute::None, Recompute::Layers],
        };
        let longest = data.counts().longest as usize;
        let least = LEAST_TOKENS.max(longest).min(micro_tokens);
        let sizes = || {
            std::iter::successors(Some(micro_tokens), |tokens| Some(tokens / 2)).take_while(|tokens| *tokens >= least)
        };
        let room = free.map(|free| (free as f64 * SHARE) as u64);
        for recompute in kinds {
            for micro_tokens in sizes() {
                let passes = Self { micro_tokens, recompute };
                if room.is_some_and(|room| passes.memory(stage, config, data).is_ok_and(|memory| memory <= room)) {
                    return Ok(passes);
                }
            }
        }
        Ok(Self { micro_tokens: sizes().last().unwrap_or(micro_tokens), recompute: Recompute::Layers })
    }

    /// The choice that was made when the stage began, or that is made now.
    pub(crate) fn of(
        folder: &Path,
        stage: &Sft,
        config: &DecoderConfig,
        data: &SftDataset,
        free: Option<u64>,
    ) -> Result<Self, Error> {
        if stage.recompute != recipe::Recompute::Auto {
            return Self::choose(stage, config, data, free);
        }
        let file = folder.join(FILE);
        match std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            Some(known) => Ok(known),
            None => {
                let chosen = Self::choose(stage, config, data, free)?;
                write_json(&file, &chosen)?;
                Ok(chosen)
            }
        }
    }

    /// Bytes that the stage needs with passes of this size, if they are full and learn the same share of their tokens as all together.
    pub(super) fn memory(self, stage: &Sft, config: &DecoderConfig, data: &SftDataset) -> Result<u64, Error> {
        let counts = data.counts();
        let tokens = (self.micro_tokens as u64).min(counts.tokens).max(counts.longest);
        let rows = (tokens * counts.supervised).div_ceil(counts.tokens.max(1));
        Ok(sft_memory(stage, config, self.recompute, tokens, rows, true)?.total())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use burn_models::text::Supervised;
    use datasets::sft::SftOptions;

    #[test]
    fn auto_takes_what_fits() {
        let stage = |recompute: &str| -> Sft {
            let stage = serde_json::json!({
                "model": {"Model": "m"}, "data": {"Data": "d"}, "recompute": recompute, "micro_tokens": 16384, "max_length": 3000,
            });
            serde_json::from_value(stage).unwrap()
        };
        let mut data = SftDataset::default();
        for line in 1..=20 {
            let sample = Supervised { ids: vec![1; 3000], weights: vec![1.0; 3000] };
            data.push(Path::new("c"), line, &sample, &SftOptions::default()).unwrap();
        }
        let config = DecoderConfig::default();
        let choose = |free| Passes::choose(&stage("Auto"), &config, &data, free).unwrap();
        let passes = |micro_tokens, recompute| Passes { micro_tokens, recompute };
        let needs = |passes: Passes| passes.memory(&stage("Auto"), &config, &data).unwrap();
        // In the order of preference; below 3,000 tokens no chat fits.
        let all = [
            passes(16384, Recompute::None),
            passes(8192, Recompute::None),
            passes(4096, Recompute::None),
            passes(16384, Recompute::Layers),
            passes(8192, Recompute::Layers),
            passes(4096, Recompute::Layers),
        ];
        for (at, wanted) in all.iter().enumerate() {
            let room = (needs(*wanted) as f64 / SHARE) as u64 + 2;
            let first = all.iter().find(|passes| needs(**passes) <= needs(*wanted)).unwrap();
            assert_eq!(choose(Some(room)), *first, "{at}");
        }
        assert_eq!(choose(Some(u64::MAX / 2)), all[0]);
        assert_eq!((choose(Some(0)), choose(None)), (all[5], all[5]));
        for (setting, recompute) in [("None", Recompute::None), ("Layers", Recompute::Layers)] {
            let fixed = Passes::choose(&stage(setting), &config, &data, Some(0)).unwrap();
            assert_eq!(fixed, passes(16384, recompute), "what the recipe says is done");
        }
        // A continued run goes on as it began.
        let folder = tempfile::tempdir().unwrap();
        let of = |free| Passes::of(folder.path(), &stage("Auto"), &config, &data, free).unwrap();
        assert_eq!((of(None), of(Some(u64::MAX / 2))), (all[5], all[5]));
    }
}
