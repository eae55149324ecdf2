//! Reductions by segment: row `e` of `values` belongs to segment `segments[e]`.
//!
//! All are differentiable and take `[E, F]` values with `[E]` segment numbers in `0..num_segments` (in any order; each
//! segment is reduced in the order of its rows). Segments without rows give 0. Numbers out of range are the caller's
//! mistake: devices do not check them.

use burn::tensor::{IndexingUpdateOp, Int, Tensor};

/// Sum of the rows of each segment: `[num_segments, F]`.
pub fn segment_sum(values: Tensor<2>, segments: Tensor<1, Int>, num_segments: usize) -> Tensor<2> {
    let [rows, width] = values.dims();
    let zeros = Tensor::zeros([num_segments, width], (&values.device(), values.dtype()));
    if rows == 0 || num_segments == 0 {
        return zeros;
    }
    zeros.select_assign(0, segments, values, IndexingUpdateOp::Add)
}

/// Number of rows of each segment, in the number format of the values: `[num_segments, 1]`, 1 for empty segments, so
/// that it can divide.
fn segment_size(values: &Tensor<2>, segments: Tensor<1, Int>, num_segments: usize) -> Tensor<2> {
    let ones = Tensor::ones([values.dims()[0], 1], (&values.device(), values.dtype()));
    segment_sum(ones, segments, num_segments).clamp_min(1.0)
}

/// Mean of the rows of each segment: `[num_segments, F]`.
pub fn segment_mean(values: Tensor<2>, segments: Tensor<1, Int>, num_segments: usize) -> Tensor<2> {
    let size = segment_size(&values, segments.clone(), num_segments);
    segment_sum(values, segments, num_segments) / size
}

/// Largest element of each column in each segment: `[num_segments, F]`. Elements that share the largest value share the
/// gradient equally.
pub fn segment_max(values: Tensor<2>, segments: Tensor<1, Int>, num_segments: usize) -> Tensor<2> {
    if values.dims()[0] == 0 || num_segments == 0 {
        return segment_sum(values, segments, num_segments);
    }
    // Burn's gradient of an indexed maximum is wrong for repeated indices: the maximum only marks the elements, and the
    // mean of the marked ones carries the gradient.
    let largest = detached_max(values.clone(), segments.clone(), num_segments).select(0, segments.clone());
    let below = values.clone().lower(largest);
    let marked = below.clone().bool_not().float().cast(values.dtype());
    let count = segment_sum(marked, segments.clone(), num_segments).clamp_min(1.0);
    segment_sum(values.mask_fill(below, 0.0), segments, num_segments) / count
}

/// Softmax over the rows of each segment, column by column: `exp(v_e − max) / Σ exp(v − max)`, `[E, F]`.
pub fn segment_softmax(values: Tensor<2>, segments: Tensor<1, Int>, num_segments: usize) -> Tensor<2> {
    if values.dims()[0] == 0 || num_segments == 0 {
        return values;
    }
    // The shift cancels out, so it needs no gradient. The sum is at least 1 (the largest element gives exp(0)).
    let largest = detached_max(values.clone(), segments.clone(), num_segments).select(0, segments.clone());
    let exp = (values - largest).exp();
    let sum = segment_sum(exp.clone(), segments.clone(), num_segments);
    exp / sum.select(0, segments)
}

/// Largest element per segment and column without a gradient; the lowest number where a segment is empty.
fn detached_max(values: Tensor<2>, segments: Tensor<1, Int>, num_segments: usize) -> Tensor<2> {
    let values = values.detach();
    Tensor::full([num_segments, values.dims()[1]], f32::MIN, (&values.device(), values.dtype())).select_assign(
        0,
        segments,
        values,
        IndexingUpdateOp::Max,
    )
}
