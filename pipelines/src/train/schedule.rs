//! Learning rates as pure functions of the step.

use serde::{Deserialize, Serialize};

/// How the learning rate changes over the optimizer steps of a stage.
///
/// A pure function of the step ([`Schedule::rate`]): nothing about it is saved, and any step can be asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Schedule {
    /// The same rate throughout, after a linear warm-up.
    Constant {
        /// Warm-up: a share of all steps below 1, or a number of steps from 1 on.
        #[serde(default)]
        warmup: f64,
    },
    /// Linear warm-up from 0, then half a cosine down to `min_lr`:
    /// `min + (lr − min)·½(1 + cos(π(s − W)/(T − W)))` with `W = ⌈warmup·T⌉`.
    WarmupCosine {
        /// Warm-up: a share of all steps below 1, or a number of steps from 1 on.
        #[serde(default = "three_percent")]
        warmup: f64,
        /// The rate at the end.
        #[serde(default)]
        min_lr: f64,
    },
    /// Linear warm-up from 0, then linearly down to `min_lr`.
    WarmupLinear {
        /// Warm-up: a share of all steps below 1, or a number of steps from 1 on.
        #[serde(default = "three_percent")]
        warmup: f64,
        /// The rate at the end.
        #[serde(default)]
        min_lr: f64,
    },
    /// Linear warm-up from 0, then a power of what is left, down to `min_lr`: `min + (lr − min)·(1 − (s − W)/(T − W))^power`.
    WarmupPolynomial {
        /// Warm-up: a share of all steps below 1, or a number of steps from 1 on.
        #[serde(default = "three_percent")]
        warmup: f64,
        /// The exponent; 1 is a straight line.
        #[serde(default = "one")]
        power: f64,
        /// The rate at the end.
        #[serde(default)]
        min_lr: f64,
    },
    /// Linear warm-up from 0, then `lr` until the decay begins, then down to `min_lr` along `shape` (warm-up, stable, decay; Hu et
    /// al. 2024).
    WarmupStableDecay {
        /// Warm-up: a share of all steps below 1, or a number of steps from 1 on.
        #[serde(default = "three_percent")]
        warmup: f64,
        /// The decay at the end: a share of all steps below 1, or a number of steps from 1 on.
        #[serde(default = "ten_percent")]
        decay: f64,
        /// How the rate falls.
        #[serde(default)]
        shape: DecayShape,
        /// The rate at the end.
        #[serde(default)]
        min_lr: f64,
    },
    /// `lr·gamma^⌊n / every⌋`, where `n` counts what the stage says (steps of a warm-up, epochs of a training).
    StepLr {
        /// After how many units the rate is multiplied.
        every: usize,
        /// The factor, in (0, 1].
        gamma: f64,
    },
}

/// How a learning rate falls from its peak, with p the part of the decay that is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecayShape {
    /// `1 − p`.
    #[default]
    Linear,
    /// `½(1 + cos πp)`.
    Cosine,
    /// `1 − √p`.
    OneMinusSqrt,
}

fn ten_percent() -> f64 {
    0.1
}

fn three_percent() -> f64 {
    0.03
}

fn one() -> f64 {
    1.0
}

impl Schedule {
    /// The rate of step `step` (from 0) out of `total`, for the base rate `lr`; `unit` is the number of steps that
    /// [`Schedule::StepLr`] counts as one.
    pub fn rate(&self, lr: f64, step: usize, total: usize, unit: usize) -> f64 {
        let warm = |length: f64| steps(length, total);
        let decay = |warmup: f64, shape: &dyn Fn(f64) -> f64, min: f64| {
            let warmup = warm(warmup);
            if step < warmup {
                return lr * step as f64 / warmup as f64;
            }
            let rest = total.saturating_sub(warmup).max(1);
            let part = ((step - warmup) as f64 / rest as f64).min(1.0);
            min + (lr - min) * shape(part)
        };
        match *self {
            Schedule::Constant { warmup } => decay(warmup, &|_| 1.0, 0.0),
            Schedule::WarmupCosine { warmup, min_lr } => {
                decay(warmup, &|part| 0.5 * (1.0 + (std::f64::consts::PI * part).cos()), min_lr)
            }
            Schedule::WarmupLinear { warmup, min_lr } => decay(warmup, &|part| 1.0 - part, min_lr),
            Schedule::WarmupPolynomial { warmup, power, min_lr } => {
                decay(warmup, &|part| (1.0 - part).powf(power), min_lr)
            }
            Schedule::WarmupStableDecay { warmup, decay: length, shape, min_lr } => {
                let start = total.saturating_sub(warm(length)).max(warm(warmup));
                if step < start {
                    return decay(warmup, &|_| 1.0, 0.0);
                }
                let part = ((step - start) as f64 / total.saturating_sub(start).max(1) as f64).min(1.0);
                let left = match shape {
                    DecayShape::Linear => 1.0 - part,
                    DecayShape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * part).cos()),
                    DecayShape::OneMinusSqrt => 1.0 - part.sqrt(),
                };
                min_lr + (lr - min_lr) * left
            }
            Schedule::StepLr { every, gamma } => lr * gamma.powi((step / unit.max(1) / every.max(1)) as i32),
        }
    }
}

/// A length in steps: a share of `total` below 1, rounded up, or a number of steps from 1 on.
fn steps(length: f64, total: usize) -> usize {
    (if length < 1.0 { length * total as f64 } else { length }).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() <= 1e-5 * want.abs().max(1e-12), "{got} is not {want}");
    }

    /// The published pre-finetuning schedule (`specs`: lr 5e-5, 3 % warm-up).
    #[test]
    fn warm_up_and_cosine() {
        let s = Schedule::WarmupCosine { warmup: 0.03, min_lr: 0.0 };
        for (step, want) in
            [(0, 0.0), (1, 2.2831050e-7), (109, 2.4885845e-5), (219, 5e-5), (3759, 2.5005546e-5), (7300, 0.0)]
        {
            close(s.rate(5e-5, step, 7300, 1), want);
        }
        for (step, want) in [(1, 1.6666667e-5), (3, 5e-5), (50, 2.6214056e-5), (99, 1.3110774e-8)] {
            close(s.rate(5e-5, step, 100, 1), want);
        }
    }

    #[test]
    fn steps_by_step_and_by_epoch() {
        let warmup = Schedule::StepLr { every: 100, gamma: 0.95 };
        for (step, want) in [
            (0, 1e-4),
            (99, 1e-4),
            (100, 9.5e-5),
            (200, 9.025e-5),
            (500, 7.7378094e-5),
            (999, 6.3024941e-5),
            (1000, 5.9873694e-5),
        ] {
            close(warmup.rate(1e-4, step, 1001, 1), want);
        }
        let train = Schedule::StepLr { every: 10, gamma: 0.9 };
        let per_epoch = 7;
        for (epoch, want) in
            [(1, 1e-4), (10, 1e-4), (11, 9e-5), (20, 9e-5), (50, 6.561e-5), (100, 3.8742049e-5), (200, 1.3508517e-5)]
        {
            for inside in 0..per_epoch {
                close(train.rate(1e-4, (epoch - 1) * per_epoch + inside, 1400, per_epoch), want);
            }
        }
    }

    /// The published schedule of the fine-tuned judge: lr 1e-5, 3 % warm-up, power 1, end 1e-7. The numbers are
    /// `transformers.get_polynomial_decay_schedule_with_warmup`'s formula by hand: with power 1, half way from step 30 to
    /// 1000, `1e-7 + 9.9e-6·½`; with power 2, `1e-7 + 9.9e-6·¼`.
    #[test]
    fn warm_up_and_polynomial() {
        let s = |power| Schedule::WarmupPolynomial { warmup: 0.03, power, min_lr: 1e-7 };
        for (step, want) in [(0, 0.0), (15, 5e-6), (30, 1e-5), (515, 5.05e-6), (999, 1.1020619e-7), (1000, 1e-7)] {
            close(s(1.0).rate(1e-5, step, 1000, 1), want);
        }
        for (step, want) in [(15, 5e-6), (30, 1e-5), (515, 2.575e-6), (1000, 1e-7)] {
            close(s(2.0).rate(1e-5, step, 1000, 1), want);
        }
    }

    #[test]
    fn warm_up_stable_and_decay() {
        let s = |shape| Schedule::WarmupStableDecay { warmup: 10.0, decay: 0.2, shape, min_lr: 0.1 };
        for (step, want) in [(0, 0.0), (5, 0.5), (10, 1.0), (79, 1.0), (80, 1.0), (90, 0.55), (100, 0.1)] {
            close(s(DecayShape::Linear).rate(1.0, step, 100, 1), want);
        }
        close(s(DecayShape::Cosine).rate(1.0, 90, 100, 1), 0.55);
        close(s(DecayShape::OneMinusSqrt).rate(1.0, 85, 100, 1), 0.55);
        // Steps and shares say the same.
        let shares = Schedule::WarmupStableDecay { warmup: 0.1, decay: 20.0, shape: DecayShape::Linear, min_lr: 0.1 };
        for step in 0..=100 {
            close(shares.rate(1.0, step, 100, 1), s(DecayShape::Linear).rate(1.0, step, 100, 1));
        }
    }

    #[test]
    fn warm_up_in_steps() {
        let steps = Schedule::WarmupLinear { warmup: 50.0, min_lr: 0.0 };
        for (step, want) in [(0, 0.0), (25, 0.5), (50, 1.0), (525, 0.5), (1000, 0.0)] {
            close(steps.rate(1.0, step, 1000, 1), want);
        }
    }

    #[test]
    fn constant_and_linear() {
        let constant = Schedule::Constant { warmup: 0.1 };
        close(constant.rate(1.0, 5, 100, 1), 0.5);
        close(constant.rate(1.0, 10, 100, 1), 1.0);
        close(constant.rate(1.0, 99, 100, 1), 1.0);
        let linear = Schedule::WarmupLinear { warmup: 0.0, min_lr: 0.2 };
        close(linear.rate(1.0, 0, 10, 1), 1.0);
        close(linear.rate(1.0, 5, 10, 1), 0.6);
        close(linear.rate(1.0, 10, 10, 1), 0.2);
    }
}
