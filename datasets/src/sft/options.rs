//! How conversations become samples.

use burn_models::text::SuperviseOptions;
use serde::{Deserialize, Serialize};

/// What to do with a sample that is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Overlong {
    /// It is left out and counted.
    #[default]
    Delete,
    /// The tokens beyond the limit are cut off: its replies end in the middle and do not teach to stop. A sample of which nothing
    /// learned is left is left out.
    TruncateEnd,
    /// The last reply is kept whole. The oldest turns after the system turn go first, up to a question; then that question is cut
    /// from its front. A sample that is too long even so is left out.
    KeepAnswer,
    /// The run stops, and says where it is.
    Error,
}

/// What to do with a record that cannot be used: malformed, refused by the chat template, with tags that do not pair, or with
/// nothing to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum OnError {
    /// The run stops, and says where it is and why.
    #[default]
    Stop,
    /// It is left out and counted by reason. A file that cannot be read to its end stops the run even so.
    Skip,
}

/// How conversations become samples.
#[derive(Debug, Clone, Default)]
pub struct SftOptions {
    /// How a conversation is written, and which replies are learned.
    pub supervise: SuperviseOptions,
    /// The most tokens of a sample; none for no limit.
    pub max_length: Option<usize>,
    /// What to do with longer ones.
    pub overlong: Overlong,
    /// What to do with records that cannot be used.
    pub on_error: OnError,
}
