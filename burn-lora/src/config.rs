//! What to adapt, and how.

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which linear layers get an adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Targets {
    /// Every linear layer inside the network; never the output head.
    #[default]
    AllLinear,
    /// Layers whose path is one of these names or ends with a dot and one of them, as in PEFT: `["q_proj", "v_proj"]`.
    Names(Vec<String>),
    /// Layers whose whole path matches this regular expression.
    Regex(String),
}

impl Targets {
    /// Which of `paths` are targets, in order.
    ///
    /// # Errors
    /// [`Error::NoTarget`] for a name, or the expression, that matches none of them; [`Error::Config`] for an expression
    /// that does not parse or an empty list.
    pub fn select(&self, paths: &[String]) -> Result<Vec<bool>> {
        let unmatched = |target: &str| Error::NoTarget { target: target.to_string(), available: kinds(paths) };
        match self {
            Self::AllLinear => Ok(vec![true; paths.len()]),
            Self::Names(names) if names.is_empty() => {
                Err(Error::Config { key: "targets", problem: "is an empty list".into() })
            }
            Self::Names(names) => {
                let is =
                    |path: &str, name: &str| path.strip_suffix(name).is_some_and(|h| h.is_empty() || h.ends_with('.'));
                for name in names {
                    if !paths.iter().any(|path| is(path, name)) {
                        return Err(unmatched(name));
                    }
                }
                Ok(paths.iter().map(|path| names.iter().any(|name| is(path, name))).collect())
            }
            Self::Regex(pattern) => {
                let whole = Regex::new(&format!("^(?:{pattern})$"))
                    .map_err(|e| Error::Config { key: "targets", problem: e.to_string() })?;
                let selected: Vec<bool> = paths.iter().map(|path| whole.is_match(path)).collect();
                if selected.contains(&true) { Ok(selected) } else { Err(unmatched(pattern)) }
            }
        }
    }
}

/// The last parts of paths, each once, in order of appearance.
pub(crate) fn kinds(paths: &[String]) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    for path in paths {
        let kind = path.rsplit('.').next().unwrap_or(path);
        if !kinds.iter().any(|k| k == kind) {
            kinds.push(kind.to_string());
        }
    }
    kinds
}

/// Settings of an adapter. The defaults are those of GLOW's pre-finetuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank R of the two factors. Default 8.
    pub rank: usize,
    /// The product of the factors is scaled by alpha / R, or alpha / √R with `rslora`. Default 32.
    pub alpha: f64,
    /// Probability of zeroing an element of the adapter's input while training. Default 0.05.
    pub dropout: f64,
    /// Which layers. Default [`Targets::AllLinear`].
    pub targets: Targets,
    /// Rank-stabilised scale alpha / √R. Default false.
    pub rslora: bool,
    /// Weight-decomposed adaptation: a trained magnitude per output, the adapted matrix gives the direction. Default false.
    pub dora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 32.0, dropout: 0.05, targets: Targets::AllLinear, rslora: false, dora: false }
    }
}

impl LoraConfig {
    /// The factor s of the low-rank product.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Checks the ranges: rank 1 to 65536, alpha finite and positive, dropout in [0, 1).
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let bad = |key, problem: String| Err(Error::Config { key, problem });
        if !(1..=65536).contains(&self.rank) {
            return bad("rank", format!("is {}, expected 1 to 65536", self.rank));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return bad("alpha", format!("is {}, expected a positive number", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad("dropout", format!("is {}, expected a number from 0 to below 1", self.dropout));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn paths() -> Vec<String> {
        ["m.0.attn.q_proj", "m.0.attn.k_proj", "m.1.attn.q_proj", "m.1.mlp.up_proj"].map(String::from).to_vec()
    }

    #[test]
    fn targets() {
        let select = |targets: Targets| targets.select(&paths());
        let names = |names: &[&str]| Targets::Names(names.iter().map(|n| n.to_string()).collect());
        assert_eq!(select(Targets::AllLinear).unwrap(), [true; 4]);
        assert_eq!(select(names(&["q_proj", "mlp.up_proj"])).unwrap(), [true, false, true, true]);
        assert_eq!(select(names(&["m.0.attn.q_proj"])).unwrap(), [true, false, false, false]);
        assert_eq!(select(Targets::Regex(r"m\.1\..*".into())).unwrap(), [false, false, true, true]);
        // A name is whole parts of a path, and an expression matches the whole path.
        assert!(select(names(&["proj"])).is_err());
        assert!(select(Targets::Regex("q_proj".into())).is_err());
        let message = select(names(&["q_proj", "gate"])).unwrap_err().to_string();
        assert_eq!(message, "no linear layer matches \"gate\"; there are q_proj, k_proj, up_proj");
    }

    #[test]
    fn ranges() {
        let base = LoraConfig::default();
        assert_eq!(base.scale(), 4.0);
        assert_eq!(LoraConfig { rank: 16, alpha: 8.0, rslora: true, ..base.clone() }.scale(), 2.0);
        assert!(base.validate().is_ok());
        for bad in [
            LoraConfig { rank: 0, ..base.clone() },
            LoraConfig { alpha: f64::NAN, ..base.clone() },
            LoraConfig { dropout: 1.0, ..base.clone() },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
