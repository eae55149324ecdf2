//! The update of Adam in one pass.

use burn::tensor::Tensor;

use super::cpu;

/// One step of Adam with decoupled weight decay (Loshchilov & Hutter 2019). With the gradient g, step t and rate η:
/// m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²; w ← w(1 − ηλ) − η · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// β₁ and β₂.
    pub betas: [f32; 2],
    /// ε.
    pub epsilon: f32,
    /// λ.
    pub weight_decay: f64,
    /// η.
    pub rate: f64,
    /// t, from 1.
    pub time: usize,
}

impl AdamStep {
    /// New w, m and v. Any shape; all alike.
    pub fn apply<const D: usize>(
        &self,
        w: Tensor<D>,
        g: Tensor<D>,
        [m, v]: [Tensor<D>; 2],
    ) -> (Tensor<D>, [Tensor<D>; 2]) {
        let [beta_1, beta_2] = self.betas;
        let time = self.time as i32;
        let (first, second) = (1.0 - beta_1.powi(time), 1.0 - beta_2.powi(time));
        let kept = 1.0 - self.rate * self.weight_decay;
        if [&w, &g, &m, &v].into_iter().all(cpu::is_flex) {
            let constants = cpu::Adam {
                betas: self.betas,
                epsilon: self.epsilon,
                kept: kept as f32,
                rate: (self.rate / f64::from(first)) as f32,
                second: 1.0 / second,
            };
            let (w, (m, (v, ()))) = cpu::update(w, |w| {
                cpu::update(m, |m| cpu::update(v, |v| cpu::read(&g, |g| cpu::adam(w, g, m, v, constants))))
            });
            return (w, [m, v]);
        }
        let m = m * beta_1 + g.clone() * (1.0 - beta_1);
        let v = v * beta_2 + g.square() * (1.0 - beta_2);
        let step = (m.clone() / first) / ((v.clone() / second).sqrt() + self.epsilon);
        (w * kept - step * self.rate, [m, v])
    }
}

/// The sum of all squares, `[1]`.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    if cpu::is_flex(&x) {
        let sum = cpu::read(&x, cpu::sum_of_squares);
        return Tensor::from_floats([sum], &x.device());
    }
    x.square().sum()
}
