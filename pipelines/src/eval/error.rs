//! Errors of evaluation.

/// What can be wrong with scored records or with the settings of a metric.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// There is no record to evaluate.
    #[error("nothing to evaluate: there is no scored record")]
    NoRecords,

    /// A score or label is not a number in [0, 1].
    #[error(
        "scored record {record} (workflow {workflow_id}, task {task_id}): `{field}` is {value}, expected a number in [0, 1]"
    )]
    OutOfRange {
        /// Position of the record, from 1.
        record: usize,
        /// The record's workflow id.
        workflow_id: i64,
        /// The record's task id.
        task_id: i64,
        /// `score` or `label`.
        field: &'static str,
        /// What stands there.
        value: f64,
    },

    /// A setting is outside its range.
    #[error("`{setting}` is {value}, expected {expected}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What was given.
        value: f64,
        /// What would be accepted, in words.
        expected: &'static str,
    },
}

/// Result of evaluation.
pub type Result<T> = std::result::Result<T, Error>;
