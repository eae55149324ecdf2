//! The operations that take most of a decoder's time, each with a gradient of its own that keeps little and computes little.
//!
//! | function | keeps for the backward pass | instead of |
//! | --- | --- | --- |
//! | [`attention`] | inputs, output, one number per query and head | all scores, several times |
//! | [`token_scores`] | one gradient row per token | all logits, several times |
//! | [`swiglu`], [`gelu`], [`rms_norm`], [`rotate`] | inputs | every intermediate |
//! | [`dropout`], [`leaky_relu_dropout`] | a key; the value | masks of drawn numbers |
//!
//! They are written on Burn's tensor operations, for every device. On the CPU device `Flex` the loops between the matrix
//! products are our own (`cpu`), as its exponentials run on one thread, one at a time. Property tests compare each function
//! and its gradient with its definition, composed of Burn's operations.

mod adam;
mod attention;
mod cpu;
mod dropout;
mod few_rows;
mod function;
mod pointwise;
mod token_scores;
mod words;

pub use adam::{AdamStep, sum_of_squares};
pub use attention::{Tile, View, attention};
pub use cpu::is_cpu;
pub use dropout::{dropout, leaky_relu_dropout};
pub use few_rows::{FEW_ROWS, few_rows, few_rows_of_table};
pub use pointwise::{Angles, gelu, rms_norm, rotate, swiglu};
pub use token_scores::{Table, TokenScores, token_scores};
pub use words::{Largest, WordWeights, largest, likeliest, likeliest_of, log_sum_exp, reached_by};
