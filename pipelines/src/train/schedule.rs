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
        /// Share of all steps spent on the warm-up, in [0, 1].
        #[serde(default)]
        warmup: f64,
    },
    /// Linear warm-up from 0, then half a cosine down to `min_lr`:
    /// `min + (lr − min)·½(1 + cos(π(s − W)/(T − W)))` with `W = ⌈warmup·T⌉`.
    WarmupCosine {
        /// Share of all steps spent on the warm-up, in [0, 1].
        #[serde(default = "three_percent")]
        warmup: f64,
        /// The rate at the end.
        #[serde(default)]
        min_lr: f64,
    },
    /// Linear warm-up from 0, then linearly down to `min_lr`.
    WarmupLinear {
        /// Share of all steps spent on the warm-up, in [0, 1].
        #[serde(default = "three_percent")]
        warmup: f64,
        /// The rate at the end.
        #[serde(default)]
        min_lr: f64,
    },
    /// Linear warm-up from 0, then a power of what is left, down to `min_lr`: `min + (lr − min)·(1 − (s − W)/(T − W))^power`.
    WarmupPolynomial {
        /// Share of all steps spent on the warm-up, in [0, 1].
        #[serde(default = "three_percent")]
        warmup: f64,
        /// The exponent; 1 is a straight line.
        #[serde(default = "one")]
        power: f64,
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
        let warm = |share: f64| (share * total as f64).ceil() as usize;
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
            Schedule::StepLr { every, gamma } => lr * gamma.powi((step / unit.max(1) / every.max(1)) as i32),
        }
    }
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
