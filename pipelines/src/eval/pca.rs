//! Principal components: vectors as points of a plane in which they vary most.

/// Rounds of the power iteration at most; it ends when nothing changes any more.
const ROUNDS: usize = 300;
/// A direction that changes by less is found.
const CHANGE: f64 = 1e-9;

/// Vectors in the plane of their first two principal components.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// A point per vector.
    pub points: Vec<[f64; 2]>,
    /// The share of the variance along each of the two, from large to small; 0 where nothing varies.
    pub explained: [f64; 2],
}

/// Projects `rows` vectors, which stand in `values` in a row, onto the two directions of largest variance: the leading
/// eigenvectors of the covariance C, found by power iteration v ← C v / |C v|, the second at a right angle to the first. The
/// largest coefficient of a direction is positive, so that equal vectors give equal maps.
#[must_use]
pub fn pca(values: &[f32], rows: usize) -> Plane {
    let width = values.len().checked_div(rows).unwrap_or(0);
    if width == 0 {
        return Plane { points: vec![[0.0; 2]; rows], explained: [0.0; 2] };
    }
    let mut mean = vec![0.0; width];
    for row in values.chunks_exact(width) {
        row.iter().zip(&mut mean).for_each(|(value, mean)| *mean += f64::from(*value) / rows as f64);
    }
    let centred: Vec<f64> = values.iter().zip(mean.iter().cycle()).map(|(v, m)| f64::from(*v) - m).collect();
    let mut covariance = vec![0.0; width * width];
    for row in centred.chunks_exact(width) {
        for (a, line) in row.iter().zip(covariance.chunks_exact_mut(width)) {
            line.iter_mut().zip(row).for_each(|(sum, b)| *sum += a * b / rows as f64);
        }
    }
    let total: f64 = (0..width).map(|i| covariance[i * width + i]).sum();
    let first = leading(&covariance, width, None);
    let second = leading(&covariance, width, Some(&first));
    let share = |v: &[f64]| if total > 0.0 { (dot(v, &times(&covariance, v)) / total).max(0.0) } else { 0.0 };
    let points = centred.chunks_exact(width).map(|row| [dot(row, &first), dot(row, &second)]).collect();
    Plane { points, explained: [share(&first), share(&second)] }
}

/// The eigenvector of the largest eigenvalue among those at a right angle to `other`; zeros where the rest does not vary.
fn leading(matrix: &[f64], width: usize, other: Option<&[f64]>) -> Vec<f64> {
    let cleared = |mut v: Vec<f64>| {
        if let Some(other) = other {
            let along = dot(&v, other);
            v.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
        }
        v
    };
    // All directions of the matrix are in its columns: the longest one to begin with.
    let column = |i: usize| cleared(matrix.chunks_exact(width).map(|line| line[i]).collect());
    let longest = (0..width).map(column).max_by(|a, b| dot(a, a).total_cmp(&dot(b, b)));
    let scale = (0..width).map(|i| matrix[i * width + i]).fold(0.0, f64::max);
    let Some(mut v) = longest.and_then(|v| unit(v, scale)) else { return vec![0.0; width] };
    for _ in 0..ROUNDS {
        let Some(next) = unit(cleared(times(matrix, &v)), scale) else { break };
        let change = next.iter().zip(&v).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        v = next;
        if change < CHANGE {
            break;
        }
    }
    let largest = v.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    if largest < 0.0 {
        v.iter_mut().for_each(|v| *v = -*v);
    }
    v
}

/// The vector at length 1, unless it is next to nothing beside `scale`.
fn unit(mut v: Vec<f64>, scale: f64) -> Option<Vec<f64>> {
    let length = dot(&v, &v).sqrt();
    if length <= 1e-12 * scale || length == 0.0 {
        return None;
    }
    v.iter_mut().for_each(|v| *v /= length);
    Some(v)
}

fn times(matrix: &[f64], v: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(v.len()).map(|line| dot(line, v)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
