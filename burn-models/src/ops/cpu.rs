//! Loops over `f32` slices, for the CPU device `Flex`, whose own exponentials run one at a time on one thread.
//!
//! Each loop is compiled for several instruction sets, of which the processor's best is taken at run time, and runs on all
//! threads. Results do not depend on the number of threads: a row is summed by one thread, in a fixed order.

#[cfg(feature = "flex")]
use burn::tensor::{DType, TensorData};
use burn::tensor::{Device, Tensor, bf16};
use rayon::prelude::*;

/// Compiles a function for the baseline of the processor's family and for newer ones, and takes the best at run time.
macro_rules! versions {
    (fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn plain($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    plain($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    plain($($argument),*)
                }
                if is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the processor has these instructions: avx512bw implies avx512f and avx2.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has these instructions.
                    return unsafe { avx2($($argument),*) };
                }
            }
            plain($($argument),*)
        }
    };
}
pub(super) use versions;

/// Partial sums of one row; enough for the widest registers.
const LANES: usize = 16;
/// Elements that are worth a task of their own.
const TASK: usize = 1 << 14;
/// Below it `exp` is 0 in what follows.
const LOWEST: f32 = -87.0;

/// eˣ to about 1e-7 relative; 0 below −87, e⁸⁸ above 88; NaN stays.
///
/// x = n·ln 2 + r, |r| ≤ ½ ln 2; the polynomial for eʳ is that of the Cephes library.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Added and subtracted, it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let bounded = if x < LOWEST { LOWEST } else { x };
    let bounded = if bounded > 88.0 { 88.0 } else { bounded };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    let value = (p * r * r + r + 1.0) * power;
    if x < LOWEST { 0.0 } else { value }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Folds a row in [`LANES`] lanes, then the lanes.
#[inline(always)]
pub(super) fn fold(row: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = f(*lane, *x);
    }
    lanes.into_iter().fold(start, f)
}

/// The sum of `f(x, y)` over two rows.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += f(*x, *y);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += f(*x, *y);
    }
    lanes.into_iter().sum()
}

/// The larger; NaN where there is one.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// How many rows of a width make a task.
fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// What is added to the last `width` elements of every row of a matrix.
pub(super) struct Mask<'a> {
    /// 0 or a very negative number.
    pub(super) values: &'a [f32],
    /// Elements of a row of the mask.
    pub(super) width: usize,
    /// From a row of the matrix to one of the mask.
    pub(super) row: RowOf<'a>,
}

impl Mask<'_> {
    #[inline(always)]
    fn add(&self, row: usize, x: &mut [f32]) {
        if self.width > 0 {
            let start = (self.row)(row) * self.width;
            let at = x.len() - self.width;
            for (x, m) in x[at..].iter_mut().zip(&self.values[start..start + self.width]) {
                *x += m;
            }
        }
    }
}

/// Turns every row x of `matrix` (plus its mask) into exp(x − max x), and returns max x and the sum of the results. A row in
/// which everything is masked becomes 0 with sum 1.
pub(super) fn exponentials(matrix: &mut [f32], width: usize, mask: &Mask) -> (Vec<f32>, Vec<f32>) {
    let rows = matrix.len() / width.max(1);
    let (mut largest, mut sums) = (vec![0.0; rows], vec![1.0; rows]);
    let tall = rows_per_task(width);
    let results = largest.par_chunks_mut(tall).zip(sums.par_chunks_mut(tall));
    matrix.par_chunks_mut((tall * width).max(1)).zip(results).enumerate().for_each(
        |(task, (part, (largest, sums)))| {
            for (i, row) in part.chunks_exact_mut(width).enumerate() {
                mask.add(task * tall + i, row);
                (largest[i], sums[i]) = exponentials_of(row);
            }
        },
    );
    (largest, sums)
}

versions! {
    fn exponentials_of(row: &mut [f32]) -> (f32, f32) {
        let top = fold(row, f32::NEG_INFINITY, larger);
        if top < -1e29 {
            row.fill(0.0);
            return (top, 1.0);
        }
        for x in row.iter_mut() {
            *x = exp(*x - top);
        }
        (top, fold(row, 0.0, |a, b| a + b))
    }
}

/// The backward step of a softmax that is computed again: with p = exp(x + mask − normaliser), `scores` x becomes p and
/// `gradient` g becomes p·(g − delta).
pub(super) fn softmax_gradients(
    scores: &mut [f32],
    gradient: &mut [f32],
    width: usize,
    mask: &Mask,
    normalisers: &[f32],
    deltas: &[f32],
) {
    let tall = rows_per_task(width);
    let size = (tall * width).max(1);
    scores.par_chunks_mut(size).zip(gradient.par_chunks_mut(size)).enumerate().for_each(
        |(task, (scores, gradient))| {
            let rows = scores.chunks_exact_mut(width).zip(gradient.chunks_exact_mut(width));
            for (i, (x, g)) in rows.enumerate() {
                let row = task * tall + i;
                mask.add(row, x);
                softmax_gradients_of(x, g, normalisers[row], deltas[row]);
            }
        },
    );
}

versions! {
    fn softmax_gradients_of(x: &mut [f32], g: &mut [f32], normaliser: f32, delta: f32) {
        for (x, g) in x.iter_mut().zip(g) {
            let p = exp(*x - normaliser);
            *x = p;
            *g = p * (*g - delta);
        }
    }
}

/// silu(g)·u, written over u.
pub(super) fn swiglu(gate: &[f32], up: &mut [f32]) {
    up.par_chunks_mut(TASK).zip(gate.par_chunks(TASK)).for_each(|(up, gate)| swiglu_of(gate, up));
}

versions! {
    fn swiglu_of(gate: &[f32], up: &mut [f32]) {
        for (u, g) in up.iter_mut().zip(gate) {
            *u *= g * sigmoid(*g);
        }
    }
}

/// The gradients of silu(g)·u, written over g and u.
pub(super) fn swiglu_gradients(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    let parts = gate.par_chunks_mut(TASK).zip(up.par_chunks_mut(TASK)).zip(gradient.par_chunks(TASK));
    parts.for_each(|((gate, up), gradient)| swiglu_gradients_of(gate, up, gradient));
}

versions! {
    fn swiglu_gradients_of(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
        for ((g, u), dy) in gate.iter_mut().zip(up).zip(gradient) {
            let s = sigmoid(*g);
            let silu = *g * s;
            *g = dy * *u * (s + silu * (1.0 - s));
            *u = dy * silu;
        }
    }
}

/// erf(x) to about 1e-7: a rational function of x, which is ±1 to f32's precision beyond ±3.83 (coefficients as in Eigen's
/// `generic_fast_erf`).
#[inline(always)]
fn erf(x: f32) -> f32 {
    const END: f32 = 3.832_507;
    let x = if x > END { END } else { x };
    let x = if x < -END { -END } else { x };
    let y = x * x;
    let mut p = -2.726_142_3e-10;
    for c in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2] {
        p = p * y + c;
    }
    let mut q = -1.456_607_2e-5;
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2] {
        q = q * y + c;
    }
    x * p / q
}

/// x·Φ(x), in place, with Φ the normal distribution.
pub(super) fn gelu(x: &mut [f32]) {
    x.par_chunks_mut(TASK).for_each(gelu_of);
}

versions! {
    fn gelu_of(x: &mut [f32]) {
        for x in x.iter_mut() {
            *x *= 0.5 + 0.5 * erf(*x * std::f32::consts::FRAC_1_SQRT_2);
        }
    }
}

/// The gradient of [`gelu`], written over the value's gradient: Φ(x) + x·φ(x) times it.
pub(super) fn gelu_gradient(x: &[f32], gradient: &mut [f32]) {
    gradient.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(gradient, x)| gelu_gradient_of(x, gradient));
}

versions! {
    fn gelu_gradient_of(x: &[f32], gradient: &mut [f32]) {
        for (g, x) in gradient.iter_mut().zip(x) {
            // 1/√(2π)
            let density = 0.398_942_3 * exp(-0.5 * x * x);
            *g *= 0.5 + 0.5 * erf(*x * std::f32::consts::FRAC_1_SQRT_2) + x * density;
        }
    }
}

/// x / √(mean(x²) + ε) · w of every row, written over x; returns the scales.
pub(super) fn rms_norm(x: &mut [f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let width = weight.len();
    let tall = rows_per_task(width);
    let mut scales = vec![0.0; x.len() / width];
    let parts = x.par_chunks_mut(tall * width).zip(scales.par_chunks_mut(tall));
    parts.for_each(|(x, scales)| rms_norm_of(x, weight, epsilon, scales));
    scales
}

versions! {
    fn rms_norm_of(x: &mut [f32], weight: &[f32], epsilon: f32, scales: &mut [f32]) {
        let width = weight.len();
        for (x, scale) in x.chunks_exact_mut(width).zip(scales) {
            *scale = (dot(x, x, |a, b| a * b) / width as f32 + epsilon).sqrt().recip();
            for (x, w) in x.iter_mut().zip(weight) {
                *x = *x * *scale * w;
            }
        }
    }
}

/// The gradient of [`rms_norm`] with respect to x, written over the value's gradient.
pub(super) fn rms_norm_gradient(x: &[f32], weight: &[f32], scales: &[f32], gradient: &mut [f32]) {
    let width = weight.len();
    let tall = rows_per_task(width);
    let parts = gradient.par_chunks_mut(tall * width).zip(x.par_chunks(tall * width)).zip(scales.par_chunks(tall));
    parts.for_each(|((gradient, x), scales)| rms_norm_gradient_of(x, weight, scales, gradient));
}

versions! {
    fn rms_norm_gradient_of(x: &[f32], weight: &[f32], scales: &[f32], gradient: &mut [f32]) {
        let width = weight.len();
        for ((g, x), scale) in gradient.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(scales) {
            for (g, w) in g.iter_mut().zip(weight) {
                *g *= w;
            }
            let along = dot(g, x, |g, x| g * x) * scale * scale * scale / width as f32;
            for (g, x) in g.iter_mut().zip(x) {
                *g = *g * scale - x * along;
            }
        }
    }
}

/// What [`adam`] multiplies by.
#[derive(Clone, Copy)]
pub(super) struct Adam {
    pub(super) betas: [f32; 2],
    pub(super) epsilon: f32,
    /// What stays of a weight.
    pub(super) kept: f32,
    /// The rate over the first moment's correction.
    pub(super) rate: f32,
    /// One over the second moment's correction.
    pub(super) second: f32,
}

/// A step of Adam, written over weights and moments.
pub(super) fn adam(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], constants: Adam) {
    let parts = w.par_chunks_mut(TASK).zip(g.par_chunks(TASK));
    let parts = parts.zip(m.par_chunks_mut(TASK)).zip(v.par_chunks_mut(TASK));
    parts.for_each(|(((w, g), m), v)| adam_of(w, g, m, v, constants));
}

versions! {
    fn adam_of(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], constants: Adam) {
        let Adam { betas: [beta_1, beta_2], epsilon, kept, rate, second } = constants;
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            *m = beta_1 * *m + (1.0 - beta_1) * g;
            *v = beta_2 * *v + (1.0 - beta_2) * g * g;
            *w = *w * kept - rate * *m / ((*v * second).sqrt() + epsilon);
        }
    }
}

/// The sum of all squares; the same whatever the number of threads.
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    let parts: Vec<f32> = x.par_chunks(TASK).map(sum_of_squares_of).collect();
    parts.into_iter().map(f64::from).sum::<f64>() as f32
}

versions! {
    fn sum_of_squares_of(x: &[f32]) -> f32 {
        dot(x, x, |a, b| a * b)
    }
}

/// Which elements [`dropout`] sets to zero, and what it multiplies the others by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropout {
    pub(super) key: [u32; 2],
    /// Elements whose hash is below it become zero.
    pub(super) threshold: u32,
    pub(super) scale: f32,
}

impl Dropout {
    /// The factor of an element: two rounds of Wellons' hash *lowbias32* over its number.
    #[inline(always)]
    fn factor(&self, number: u32) -> f32 {
        let hash = |mut x: u32| {
            x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
            x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
            x ^ (x >> 16)
        };
        let bits = hash(hash(number ^ self.key[0]).wrapping_add(self.key[1]));
        if bits < self.threshold { 0.0 } else { self.scale }
    }
}

/// Dropout, in place.
pub(super) fn dropout(x: &mut [f32], mask: Dropout) {
    x.par_chunks_mut(TASK).enumerate().for_each(|(task, x)| dropout_of(x, (task * TASK) as u32, mask));
}

versions! {
    fn dropout_of(x: &mut [f32], start: u32, mask: Dropout) {
        for (i, x) in x.iter_mut().enumerate() {
            *x *= mask.factor(start.wrapping_add(i as u32));
        }
    }
}

/// Leaky ReLU, then dropout, in place.
pub(super) fn leaky_relu_dropout(x: &mut [f32], slope: f32, mask: Dropout) {
    let part = |(task, x): (usize, &mut [f32])| leaky_relu_dropout_of(x, (task * TASK) as u32, slope, mask);
    x.par_chunks_mut(TASK).enumerate().for_each(part);
}

versions! {
    fn leaky_relu_dropout_of(x: &mut [f32], start: u32, slope: f32, mask: Dropout) {
        for (i, x) in x.iter_mut().enumerate() {
            let y = if *x < 0.0 { *x * slope } else { *x };
            *x = y * mask.factor(start.wrapping_add(i as u32));
        }
    }
}

/// Multiplies by the first slope where the value is positive, by the second where it is negative, by 0 where it is 0.
pub(super) fn slope_by_sign(gradient: &mut [f32], value: &[f32], slopes: [f32; 2]) {
    let parts = gradient.par_chunks_mut(TASK).zip(value.par_chunks(TASK));
    parts.for_each(|(gradient, value)| slope_by_sign_of(gradient, value, slopes));
}

versions! {
    fn slope_by_sign_of(gradient: &mut [f32], value: &[f32], slopes: [f32; 2]) {
        for (g, y) in gradient.iter_mut().zip(value) {
            let slope = if *y < 0.0 { slopes[1] } else { slopes[0] };
            *g *= if *y == 0.0 { 0.0 } else { slope };
        }
    }
}

/// Which row of one matrix belongs to a row of another.
type RowOf<'a> = &'a (dyn Fn(usize) -> usize + Sync);

/// Turns pairs (element i, element i + half) of every row by the angles of its row of `cos` and `sin`, backwards with
/// `sign` −1.
pub(super) fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], half: usize, sign: f32, row: RowOf) {
    let width = 2 * half;
    let tall = rows_per_task(width);
    x.par_chunks_mut(tall * width).enumerate().for_each(|(task, part)| {
        for (i, x) in part.chunks_exact_mut(width).enumerate() {
            let at = row(task * tall + i) * half;
            rotate_row(x, &cos[at..at + half], &sin[at..at + half], sign);
        }
    });
}

versions! {
    fn rotate_row(x: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let (first, second) = x.split_at_mut(cos.len());
        for ((a, b), (c, s)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
            let s = s * sign;
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

/// A matrix of 32 or 16 bits a number, row by row.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// A number that widens to f32.
trait Wide: Copy + Sync {
    fn wide(self) -> f32;
}

impl Wide for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

impl Wide for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Weights<'_> {
    /// The products of every row of `x` with every row: `rows` results for each of `x`'s.
    pub(super) fn dots(self, x: &[f32], rows: usize) -> Vec<f32> {
        match self {
            Self::F32(table) => dots(x, rows, table, dots_f32),
            Self::Bf16(table) => dots(x, rows, table, dots_bf16),
        }
    }

    /// `rows` rows of `x` times the matrix of this width.
    pub(super) fn times(self, x: &[f32], rows: usize, width: usize) -> Vec<f32> {
        match self {
            Self::F32(matrix) => times(x, rows, matrix, width, times_f32),
            Self::Bf16(matrix) => times(x, rows, matrix, width, times_bf16),
        }
    }
}

fn dots<W: Wide>(x: &[f32], rows: usize, table: &[W], part: fn(&[f32], &[W], &mut [f32])) -> Vec<f32> {
    let depth = x.len() / rows;
    let count = table.len() / depth;
    let tall = rows_per_task(depth);
    let mut out = vec![0.0; rows * count];
    for (x, out) in x.chunks_exact(depth).zip(out.chunks_exact_mut(count)) {
        let parts = out.par_chunks_mut(tall).zip(table.par_chunks(tall * depth));
        parts.for_each(|(out, table)| part(x, table, out));
    }
    out
}

/// The dot products of one row with the rows of a table.
#[inline(always)]
fn dots_of<W: Wide>(x: &[f32], table: &[W], out: &mut [f32]) {
    for (out, row) in out.iter_mut().zip(table.chunks_exact(x.len())) {
        let mut lanes = [0.0; LANES];
        let ((xs, x_rest), (ws, w_rest)) = (x.as_chunks::<LANES>(), row.as_chunks::<LANES>());
        for (x, w) in xs.iter().zip(ws) {
            for ((lane, x), w) in lanes.iter_mut().zip(x).zip(w) {
                *lane += x * w.wide();
            }
        }
        for ((lane, x), w) in lanes.iter_mut().zip(x_rest).zip(w_rest) {
            *lane += x * w.wide();
        }
        *out = lanes.into_iter().sum();
    }
}

versions! {
    fn dots_f32(x: &[f32], table: &[f32], out: &mut [f32]) {
        dots_of(x, table, out);
    }
}

versions! {
    fn dots_bf16(x: &[f32], table: &[bf16], out: &mut [f32]) {
        dots_of(x, table, out);
    }
}

/// Every thread reads some rows of the matrix from end to end; the sums of the parts are added in their order.
fn times<W: Wide>(x: &[f32], rows: usize, matrix: &[W], width: usize, part: fn(&[f32], &[W], &mut [f32])) -> Vec<f32> {
    let depth = x.len() / rows;
    let tall = (4 * TASK / width).max(1);
    let mut out = vec![0.0; rows * width];
    for (x, out) in x.chunks_exact(depth).zip(out.chunks_exact_mut(width)) {
        let parts: Vec<Vec<f32>> = matrix
            .par_chunks(tall * width)
            .zip(x.par_chunks(tall))
            .map(|(matrix, x)| {
                let mut sums = vec![0.0; width];
                part(x, matrix, &mut sums);
                sums
            })
            .collect();
        for part in parts {
            for (out, sum) in out.iter_mut().zip(part) {
                *out += sum;
            }
        }
    }
    out
}

/// Adds rows of a matrix, each times its number.
#[inline(always)]
fn times_of<W: Wide>(x: &[f32], matrix: &[W], out: &mut [f32]) {
    for (x, row) in x.iter().zip(matrix.chunks_exact(out.len())) {
        for (out, w) in out.iter_mut().zip(row) {
            *out += x * w.wide();
        }
    }
}

versions! {
    fn times_f32(x: &[f32], matrix: &[f32], out: &mut [f32]) {
        times_of(x, matrix, out);
    }
}

versions! {
    fn times_bf16(x: &[f32], matrix: &[bf16], out: &mut [f32]) {
        times_of(x, matrix, out);
    }
}

/// Runs `f` on a matrix on the device `Flex` of a type that [`Weights`] knows, where it lies row by row.
#[cfg(feature = "flex")]
pub(super) fn read_weights<R>(tensor: &Tensor<2>, f: impl FnOnce(Weights) -> R) -> Option<R> {
    if tensor.device() != Device::flex() {
        return None;
    }
    let dtype = tensor.dtype();
    let primitive = tensor.clone().try_into_primitive::<burn::backend::Flex>().ok()?;
    if !primitive.is_contiguous() {
        return None;
    }
    match dtype {
        DType::F32 => Some(f(Weights::F32(primitive.as_slice::<f32>()?))),
        DType::BF16 => Some(f(Weights::Bf16(primitive.as_slice::<bf16>()?))),
        _ => None,
    }
}

/// Runs `f` on the elements of a tensor for which [`is_flex`] holds, in order, and gives back what it has made of them.
#[cfg(feature = "flex")]
pub(super) fn update<const D: usize, R>(tensor: Tensor<D>, f: impl FnOnce(&mut [f32]) -> R) -> (Tensor<D>, R) {
    let mut primitive = primitive(tensor);
    let len = primitive.layout().num_elements();
    let whole = primitive.layout().start_offset() == 0 && primitive.bytes().len() == len * size_of::<f32>();
    if !(whole && primitive.is_unique()) {
        let values = primitive.as_slice::<f32>().unwrap_or_default().to_vec();
        let shape = primitive.layout().shape().clone();
        primitive = burn::backend::flex::FlexTensor::from_data(TensorData::new(values, shape));
    }
    let result = f(primitive.storage_mut::<f32>());
    (Tensor::from_primitive::<burn::backend::Flex>(primitive), result)
}

/// Runs `f` on the elements of a tensor for which [`is_flex`] holds, in order.
#[cfg(feature = "flex")]
pub(super) fn read<const D: usize, R>(tensor: &Tensor<D>, f: impl FnOnce(&[f32]) -> R) -> R {
    f(primitive(tensor.clone()).as_slice::<f32>().unwrap_or_default())
}

/// A contiguous tensor of the device `Flex`.
#[cfg(feature = "flex")]
fn primitive<const D: usize>(tensor: Tensor<D>) -> burn::backend::flex::FlexTensor {
    let primitive = tensor.try_into_primitive::<burn::backend::Flex>();
    let primitive = primitive.unwrap_or_else(|e| unreachable!("a tensor on Flex is one of Flex: {e:?}"));
    if primitive.is_contiguous() { primitive } else { primitive.to_contiguous() }
}

/// Whether a device is a CPU.
pub fn is_cpu(device: &Device) -> bool {
    let plain = device.clone().without_autodiff();
    // Burn calls it deprecated; the tests run on it.
    #[cfg(feature = "ndarray")]
    #[allow(deprecated)]
    if plain == Device::ndarray() {
        return true;
    }
    #[cfg(feature = "flex")]
    if plain == Device::flex() {
        return true;
    }
    let _ = plain;
    false
}

/// Whether the loops of this module run on a tensor, once it is without autodiff.
#[cfg(feature = "flex")]
pub(super) fn on_flex<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().without_autodiff() == Device::flex()
}

/// Whether the loops of this module run on a tensor.
#[cfg(feature = "flex")]
pub(super) fn is_flex<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && tensor.device() == Device::flex()
}

/// Without the device `Flex` there is nothing for the loops to run on.
#[cfg(not(feature = "flex"))]
mod absent {
    use super::Tensor;

    pub(in super::super) fn update<const D: usize, R>(
        tensor: Tensor<D>,
        f: impl FnOnce(&mut [f32]) -> R,
    ) -> (Tensor<D>, R) {
        (tensor, f(&mut []))
    }

    pub(in super::super) fn read<const D: usize, R>(_tensor: &Tensor<D>, f: impl FnOnce(&[f32]) -> R) -> R {
        f(&[])
    }

    pub(in super::super) fn on_flex<const D: usize>(_tensor: &Tensor<D>) -> bool {
        false
    }

    pub(in super::super) fn read_weights<R>(_tensor: &Tensor<2>, _f: impl FnOnce(super::Weights) -> R) -> Option<R> {
        None
    }

    pub(in super::super) fn is_flex<const D: usize>(_tensor: &Tensor<D>) -> bool {
        false
    }
}
#[cfg(not(feature = "flex"))]
pub(super) use absent::{is_flex, on_flex, read, read_weights, update};
