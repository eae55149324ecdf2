//! Rankings and rank correlations, all exact under ties. Inputs hold no NaN; pairs beyond the shorter slice are ignored.

use std::cmp::Ordering;

/// Indices of `values` from the largest to the smallest; equal values keep their order (as Python's
/// `sorted(reverse=True)`).
#[must_use]
pub fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| compare(values[b], values[a]));
    order
}

/// Ranks from 1 for the smallest value; equal values share the mean of their ranks.
#[must_use]
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| compare(values[a], values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = first as f64 + (group.len() as f64 + 1.0) / 2.0;
        for &index in group {
            ranks[index] = mean;
        }
        first += group.len();
    }
    ranks
}

/// Spearman's ρ: Pearson's correlation of the average ranks. `None` if one side is constant or shorter than two.
#[must_use]
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let n = x.len().min(y.len());
    let (x, y) = (average_ranks(&x[..n]), average_ranks(&y[..n]));
    let mean = (n as f64 + 1.0) / 2.0;
    let (mut covariance, mut variance_x, mut variance_y) = (0.0, 0.0, 0.0);
    for (&a, &b) in x.iter().zip(&y) {
        covariance += (a - mean) * (b - mean);
        variance_x += (a - mean) * (a - mean);
        variance_y += (b - mean) * (b - mean);
    }
    let scale = variance_x.sqrt() * variance_y.sqrt();
    (scale > 0.0).then(|| (covariance / scale).clamp(-1.0, 1.0))
}

/// Kendall's τ-b: (concordant − discordant) / √((pairs − ties in x)(pairs − ties in y)), in O(n log n) by counting
/// the exchanges of a merge sort (Knight, 1966). `None` if one side is constant or shorter than two.
#[must_use]
pub fn kendall_tau_b(x: &[f64], y: &[f64]) -> Option<f64> {
    let n = x.len().min(y.len());
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| compare(x[a], x[b]).then(compare(y[a], y[b])));
    let tied_x = tied_pairs(&order, |a, b| x[a] == x[b]);
    let tied_both = tied_pairs(&order, |a, b| x[a] == x[b] && y[a] == y[b]);
    let mut by_y: Vec<f64> = order.iter().map(|&index| y[index]).collect();
    let discordant = inversions(&mut by_y, &mut vec![0.0; n]);
    order.sort_by(|&a, &b| compare(y[a], y[b]));
    let tied_y = tied_pairs(&order, |a, b| y[a] == y[b]);

    let pairs = n as f64 * (n as f64 - 1.0) / 2.0;
    let scale = (pairs - tied_x).sqrt() * (pairs - tied_y).sqrt();
    let difference = pairs - tied_x - tied_y + tied_both - 2.0 * discordant;
    (scale > 0.0).then(|| (difference / scale).clamp(-1.0, 1.0))
}

/// Number of pairs within runs of equal neighbours.
fn tied_pairs(order: &[usize], equal: impl Fn(usize, usize) -> bool) -> f64 {
    order.chunk_by(|&a, &b| equal(a, b)).map(|run| run.len() as f64 * (run.len() as f64 - 1.0) / 2.0).sum()
}

/// Sorts `values` and counts the pairs that stood in strictly descending order.
fn inversions(values: &mut [f64], buffer: &mut [f64]) -> f64 {
    let n = values.len();
    if n < 2 {
        return 0.0;
    }
    let middle = n / 2;
    let mut count = inversions(&mut values[..middle], &mut buffer[..middle])
        + inversions(&mut values[middle..], &mut buffer[middle..]);
    let (mut left, mut right) = (0, middle);
    for slot in buffer.iter_mut() {
        if right == n || (left < middle && values[left] <= values[right]) {
            *slot = values[left];
            left += 1;
        } else {
            // Everything left of the middle that is not yet placed is larger than this value.
            count += (middle - left) as f64;
            *slot = values[right];
            right += 1;
        }
    }
    values.copy_from_slice(buffer);
    count
}

fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}
