//! Metrics of predictors and of generated answers. Pure functions on the host: scores in, numbers out.
//!
//! - [`answers`]: generated texts against expected ones.
//! - [`bootstrap`]: confidence intervals of accuracy and utility.
//! - [`classification`]: accuracy, precision, recall, F1, AUROC, Brier score, calibration error.
//! - [`pca`]: vectors as points of a plane.
//! - [`rank`]: stable rankings and rank correlations.
//! - [`utility`]: how well a ranking of workflows by prediction agrees with the ranking by truth (Precision@K).
//! - [`glow`]: all metrics of a GLOW evaluation in one flat table.
//! - [`graph_questions`]: scoring of generated answers to questions about graphs.
//! - [`yes_no`]: reading a Yes or a No out of a generated text.
//!
//! A metric that is not defined for its input (the utility of one workflow, the AUROC of one class) is `None`, never NaN.

pub mod answers;
pub mod bootstrap;
pub mod classification;
mod error;
pub mod glow;
pub mod graph_questions;
pub mod pca;
pub mod rank;
pub mod utility;
pub mod yes_no;

pub use answers::AnswerMetric;
pub use bootstrap::{Bootstrap, Intervals};
pub use error::{Error, Result};
pub use glow::{GlowMetrics, ScoredRecord};
pub use utility::{UtilityOptions, UtilityReport};
