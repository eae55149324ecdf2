//! Products of a few rows with a matrix, as decoding has them: every weight is read once for little arithmetic, so that memory decides.
//!
//! On the CPU device all threads read, weights of 16 bits are widened on the way, and sums are f32. Elsewhere, and where a
//! gradient may be asked for, these are `None`.

use burn::tensor::{DType, Tensor, TensorData};

use super::cpu;

/// More rows are worth a matrix product.
pub const FEW_ROWS: usize = 4;

/// `x` `[M, D]` times `matrix` `[D, V]` → `[M, V]`, f32.
pub fn few_rows(x: &Tensor<2>, matrix: &Tensor<2>) -> Option<Tensor<2>> {
    product(x, matrix, matrix.dims()[1], |x, rows, matrix, width| matrix.times(x, rows, width))
}

/// `x` `[M, D]` times the transpose of `table` `[V, D]` → `[M, V]`, f32.
pub fn few_rows_of_table(x: &Tensor<2>, table: &Tensor<2>) -> Option<Tensor<2>> {
    product(x, table, table.dims()[0], |x, rows, table, _| table.dots(x, rows))
}

fn product(
    x: &Tensor<2>,
    matrix: &Tensor<2>,
    width: usize,
    f: impl FnOnce(&[f32], usize, cpu::Weights, usize) -> Vec<f32>,
) -> Option<Tensor<2>> {
    let rows = x.dims()[0];
    let fits = (1..=FEW_ROWS).contains(&rows) && width > 0 && x.dims()[1] > 0;
    if !fits || matrix.device().is_autodiff() || x.device().is_autodiff() {
        return None;
    }
    let x = x.clone().cast(DType::F32);
    let values = cpu::read_weights(matrix, |weights| cpu::read(&x, |x| f(x, rows, weights, width)))?;
    Some(Tensor::from_data(TensorData::new(values, [rows, width]), &x.device()))
}
