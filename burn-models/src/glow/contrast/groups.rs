//! Who is contrasted with whom in one batch, worked out on the host when the batch is made, and the losses from it: no
//! loop over records or groups runs on the device.

use burn::tensor::activation::{log_sigmoid, relu};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_gnn::segment::{segment_max, segment_mean, segment_sum};
use burn_lora::Stream;

use super::{Anchors, ContrastConfig, ContrastForm, Distance, Grouping, Reduce, TaskNorm};
use crate::glow::batch::ints;
use crate::{Error, Result};

/// More pairs of one batch are a mistake: 2²⁰ of vectors of width 256 take 1 GiB.
const MAX_PAIRS: usize = 1 << 20;
/// And more triplets, which are numbers only: 2²⁵ take 0.5 GiB.
const MAX_TRIPLETS: usize = 1 << 25;
/// Shorter vectors have no direction.
const MIN_LENGTH: f64 = 1e-12;
/// A hinge that is exactly at its kink comes out as 0 or as the rounding of distances near 1.
const ACTIVE_LOSS: f64 = 1e-6;
/// Farther than any two vectors.
const FAR: f64 = 1e30;

/// Who is compared with whom in one batch: what all contrasted tokens share. No gradient flows here.
#[derive(Debug, Clone)]
pub struct ContrastGroups {
    /// The settings it was made for.
    pub config: ContrastConfig,
    /// Number of groups with enough records.
    pub counted_tasks: usize,
    /// Number of those that have an anchor.
    pub active_tasks: usize,
    num_tasks: usize,
    /// `None` when there is no anchor.
    plan: Option<Plan>,
}

/// The terms of a batch that has anchors.
#[derive(Debug, Clone)]
struct Plan {
    compare: Compare,
    /// Group of each term.
    task_of_term: Tensor<1, Int>,
    /// Terms of each group, at least 1 so that they can divide: `[T]`.
    terms: Tensor<1>,
}

#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "one exists for each batch; tensors are larger with more devices compiled in"
)]
enum Compare {
    /// Mean cosine distances in closed form; every record is a term, and those that are no anchors have weight 0.
    Sums(Sums),
    /// Distances pair by pair. `of_positive` and `of_negative` are, for means and extremes, the term of each pair; else
    /// the pair of each triplet.
    Pairs { positive: Pairs, negative: Pairs, of_positive: Tensor<1, Int>, of_negative: Tensor<1, Int> },
}

/// Everything `[B]`.
#[derive(Debug, Clone)]
struct Sums {
    /// Segment of each record's group and label, and that of the other label.
    same: Tensor<1, Int>,
    opposite: Tensor<1, Int>,
    segments: usize,
    /// Records in these two, without itself; at least 1.
    num_same: Tensor<1>,
    num_opposite: Tensor<1>,
    is_anchor: Tensor<1>,
}

/// Rows to compare, `[M]` each.
#[derive(Debug, Clone)]
struct Pairs {
    anchor: Tensor<1, Int>,
    other: Tensor<1, Int>,
}

/// The records of one label in a group that are anchors, and those of the other label.
struct Class<'a> {
    task: usize,
    own: &'a [usize],
    other: &'a [usize],
}

impl ContrastGroups {
    /// Groups records by `labels` `[B]` and `tasks` `[B]`, numbers in `0..num_tasks`. `seed` is that of the triplets that
    /// [`ContrastForm::Random`] draws.
    ///
    /// # Errors
    /// [`Error::Input`] for more than 2²⁰ pairs or 2²⁵ triplets.
    pub fn new(
        labels: &[f32],
        tasks: &[usize],
        num_tasks: usize,
        config: &ContrastConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let num_tasks = if config.group == Grouping::Global { 1 } else { num_tasks };
        // Negative and positive records of each group. Labels are f32: 0.7 is to be as large as 0.7.
        let mut members = vec![[Vec::new(), Vec::new()]; num_tasks];
        for (record, (label, task)) in labels.iter().zip(tasks).enumerate() {
            let task = if config.group == Grouping::Global { 0 } else { *task };
            members[task][usize::from(*label >= config.positive_at as f32)].push(record);
        }
        let mut classes = Vec::new();
        let (mut counted_tasks, mut active_tasks) = (0, 0);
        for (task, [negatives, positives]) in members.iter().enumerate() {
            if negatives.len() + positives.len() < config.min_group {
                continue;
            }
            counted_tasks += 1;
            let before = classes.len();
            let both = [(positives, negatives), (negatives, positives)];
            let sides = if config.anchors == Anchors::All { &both[..] } else { &both[..1] };
            let valid = sides.iter().filter(|(own, other)| own.len() >= 2 && !other.is_empty());
            classes.extend(valid.map(|&(own, other)| Class { task, own, other }));
            active_tasks += usize::from(classes.len() > before);
        }
        let plan = match (classes.is_empty(), config.form, config.distance) {
            (true, ..) => None,
            (false, ContrastForm::BatchMean, Distance::Cosine) => Some(sums(&members, &classes, labels.len(), device)),
            (false, form, _) => Some(pairs(&classes, num_tasks, form, seed, device)?),
        };
        Ok(Self { config: config.clone(), counted_tasks, active_tasks, num_tasks, plan })
    }

    /// How many groups the sum of their losses is divided by, at least 1.
    pub(super) fn divisor(&self) -> usize {
        match self.config.task_norm {
            TaskNorm::CountAll => self.counted_tasks.max(1),
            TaskNorm::CountActive => self.active_tasks.max(1),
        }
    }

    /// The loss of every group for one token `[B, H]`: the mean over its terms, `[T]`; 0 for a group without an anchor.
    pub fn task_losses(&self, x: Tensor<2>) -> Tensor<1> {
        let Some(plan) = &self.plan else {
            // Zero, with a gradient of zero.
            return (x.sum() * 0.0).expand([self.num_tasks]);
        };
        let gaps = plan.compare.gaps(x, plan.task_of_term.dims()[0], &self.config);
        let losses = match self.config.soft_margin {
            // ln(1 + e^x) = −ln σ(−x), exact for any x.
            true => -log_sigmoid(-gaps),
            false => relu(gaps + self.config.margin),
        };
        let losses = match &plan.compare {
            Compare::Sums(sums) => losses * sums.is_anchor.clone(),
            Compare::Pairs { .. } => losses,
        };
        let by_task = |terms: Tensor<1>| {
            let count = terms.dims()[0];
            segment_sum(terms.reshape([count, 1]), plan.task_of_term.clone(), self.num_tasks).reshape([self.num_tasks])
        };
        let terms = match self.config.form {
            // A soft margin leaves nothing at 0.
            ContrastForm::BatchAll { reduce: Reduce::Active } if !self.config.soft_margin => {
                by_task(losses.clone().detach().greater_scalar(ACTIVE_LOSS).float()).clamp_min(1.0)
            }
            _ => plan.terms.clone(),
        };
        by_task(losses) / terms
    }
}

impl Compare {
    /// Distance to what is alike less distance to what is not, of every term.
    fn gaps(&self, x: Tensor<2>, terms: usize, config: &ContrastConfig) -> Tensor<1> {
        let (positive, negative, of_positive, of_negative) = match self {
            Self::Sums(sums) => return sums.gaps(unit(x)),
            Self::Pairs { positive, negative, of_positive, of_negative } => {
                (positive, negative, of_positive, of_negative)
            }
        };
        let x = if config.distance == Distance::Cosine { unit(x) } else { x };
        let to_positive = positive.distances(x.clone(), config.distance);
        let to_negative = negative.distances(x, config.distance);
        let by_term = |reduce: fn(Tensor<2>, Tensor<1, Int>, usize) -> Tensor<2>, v: Tensor<1>, of: &Tensor<1, Int>| {
            let rows = v.dims()[0];
            reduce(v.reshape([rows, 1]), of.clone(), terms).reshape([terms])
        };
        match config.form {
            ContrastForm::BatchMean => {
                by_term(segment_mean, to_positive, of_positive) - by_term(segment_mean, to_negative, of_negative)
            }
            // The nearest is the one whose negated distance is largest.
            ContrastForm::BatchHard => {
                by_term(segment_max, to_positive, of_positive) + by_term(segment_max, -to_negative, of_negative)
            }
            ContrastForm::BatchAll { .. } | ContrastForm::Random(_) => {
                to_positive.select(0, of_positive.clone()) - to_negative.select(0, of_negative.clone())
            }
            // A term is a positive pair here, and its triplets are all with it.
            ContrastForm::SemiHard => {
                let negatives = to_negative.select(0, of_negative.clone());
                let beyond = negatives.clone().greater(to_positive.clone().select(0, of_positive.clone()));
                let hidden = (-negatives.clone()).mask_fill(beyond.clone().bool_not(), -FAR);
                let nearest = -by_term(segment_max, hidden, of_positive);
                let is_any = by_term(segment_max, beyond.float(), of_positive).greater_scalar(0.5);
                to_positive - by_term(segment_max, negatives, of_positive).mask_where(is_any, nearest)
            }
        }
    }
}

impl Sums {
    /// `mean_p d(a, p) − mean_n d(a, n)` of every record of vectors of length 1 `[B, H]`: with the sums S⁺ and S⁻ over the
    /// records of its own and of the other label, `mean_p d = 1 − (u_a·S⁺ − u_a·u_a)/(P − 1)` and
    /// `mean_n d = 1 − u_a·S⁻/Q`; the two ones cancel, and no pair is ever formed.
    fn gaps(&self, unit: Tensor<2>) -> Tensor<1> {
        let [batch, _] = unit.dims();
        let dot = |a: Tensor<2>, b: Tensor<2>| (a * b).sum_dim(1).reshape([batch]);
        let sums = segment_sum(unit.clone(), self.same.clone(), self.segments);
        let own = dot(unit.clone(), sums.clone().select(0, self.same.clone())) - dot(unit.clone(), unit.clone());
        let other = dot(unit, sums.select(0, self.opposite.clone()));
        other / self.num_opposite.clone() - own / self.num_same.clone()
    }
}

impl Pairs {
    fn new(pairs: Vec<(usize, usize)>, device: &Device) -> Self {
        let (anchor, other) = pairs.into_iter().map(|(a, b)| (a as i64, b as i64)).unzip();
        Self { anchor: ints(anchor, device), other: ints(other, device) }
    }

    /// `[M]`; vectors have length 1 for the cosine distance.
    fn distances(&self, x: Tensor<2>, distance: Distance) -> Tensor<1> {
        let (a, b) = (x.clone().select(0, self.anchor.clone()), x.select(0, self.other.clone()));
        let rows = a.dims()[0];
        let sum = |v: Tensor<2>| v.sum_dim(1).reshape([rows]);
        match distance {
            Distance::Cosine => -sum(a * b) + 1.0,
            Distance::SquaredEuclidean => sum((a - b).square()),
            // The bound stands under the root: the root's derivative at 0 is infinite.
            Distance::Euclidean => sum((a - b).square()).clamp_min(MIN_LENGTH * MIN_LENGTH).sqrt(),
        }
    }
}

/// `x / max(‖x‖, 1e-12)` by row.
fn unit(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).clamp_min(MIN_LENGTH * MIN_LENGTH).sqrt();
    x / norm
}

/// The closed form: a term per record.
fn sums(members: &[[Vec<usize>; 2]], classes: &[Class], batch: usize, device: &Device) -> Plan {
    let (mut task_of_term, mut same, mut opposite) = (vec![0; batch], vec![0; batch], vec![0; batch]);
    let (mut num_same, mut num_opposite, mut is_anchor) = (vec![1.0; batch], vec![1.0; batch], vec![0.0; batch]);
    let mut terms = vec![0; members.len()];
    for (task, sides) in members.iter().enumerate() {
        for (side, records) in sides.iter().enumerate() {
            for record in records {
                task_of_term[*record] = task as i64;
                same[*record] = (2 * task + side) as i64;
                opposite[*record] = (2 * task + 1 - side) as i64;
            }
        }
    }
    for Class { task, own, other } in classes {
        terms[*task] += own.len();
        for record in *own {
            num_same[*record] = (own.len() - 1) as f32;
            num_opposite[*record] = other.len() as f32;
            is_anchor[*record] = 1.0;
        }
    }
    let compare = Compare::Sums(Sums {
        same: ints(same, device),
        opposite: ints(opposite, device),
        segments: 2 * members.len(),
        num_same: floats(num_same, device),
        num_opposite: floats(num_opposite, device),
        is_anchor: floats(is_anchor, device),
    });
    Plan { compare, task_of_term: ints(task_of_term, device), terms: divisors(&terms, device) }
}

/// All other forms: pair by pair.
fn pairs(classes: &[Class], num_tasks: usize, form: ContrastForm, seed: u64, device: &Device) -> Result<Plan> {
    let sum = |size: &dyn Fn(usize, usize) -> usize| {
        classes.iter().map(|c| size(c.own.len(), c.other.len())).fold(0, usize::saturating_add)
    };
    let pairs = match form {
        ContrastForm::Random(count) => sum(&|own, _| own.saturating_mul(count)),
        _ => sum(&|own, other| own * (own - 1 + other)),
    };
    let triplets = match form {
        ContrastForm::BatchAll { .. } | ContrastForm::SemiHard => sum(&|own, other| own * (own - 1) * other),
        _ => 0,
    };
    for (what, found, most) in [("pairs", pairs, MAX_PAIRS), ("triplets", triplets, MAX_TRIPLETS)] {
        if found > most {
            let problem = format!(
                "{form:?} contrasts {found} {what} in one batch, and {most} are the most: use a smaller batch, \
                 `group: Task`, or `form: Random(…)` of few"
            );
            return Err(Error::Input(problem));
        }
    }
    let mut random = Stream::new(seed, &["contrast"]);
    // Draws from 0..count.
    let mut below = |count: usize| ((random.unit() * count as f64) as usize).min(count - 1);
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    let (mut of_positive, mut of_negative): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    let (mut task_of_term, mut terms) = (Vec::new(), vec![0; num_tasks]);
    for Class { task, own, other } in classes {
        let before = task_of_term.len();
        for (place, &anchor) in own.iter().enumerate() {
            let alike = own.iter().filter(|record| **record != anchor);
            match form {
                ContrastForm::BatchMean | ContrastForm::BatchHard => {
                    of_positive.extend(alike.clone().map(|_| task_of_term.len()));
                    of_negative.extend(other.iter().map(|_| task_of_term.len()));
                    positive.extend(alike.map(|record| (anchor, *record)));
                    negative.extend(other.iter().map(|record| (anchor, *record)));
                    task_of_term.push(*task as i64);
                }
                ContrastForm::BatchAll { .. } | ContrastForm::SemiHard => {
                    let first = negative.len();
                    negative.extend(other.iter().map(|record| (anchor, *record)));
                    for record in alike {
                        of_positive.extend(other.iter().map(|_| positive.len()));
                        of_negative.extend(first..negative.len());
                        positive.push((anchor, *record));
                        let terms = if form == ContrastForm::SemiHard { 1 } else { other.len() };
                        task_of_term.extend(std::iter::repeat_n(*task as i64, terms));
                    }
                }
                ContrastForm::Random(count) => {
                    for _ in 0..count {
                        of_positive.push(positive.len());
                        of_negative.push(negative.len());
                        // Any of the others: those before the anchor keep their places.
                        let drawn = below(own.len() - 1);
                        positive.push((anchor, own[drawn + usize::from(drawn >= place)]));
                        negative.push((anchor, other[below(other.len())]));
                        task_of_term.push(*task as i64);
                    }
                }
            }
        }
        terms[*task] += task_of_term.len() - before;
    }
    let numbers = |values: Vec<usize>| ints(values.into_iter().map(|v| v as i64).collect(), device);
    let compare = Compare::Pairs {
        positive: Pairs::new(positive, device),
        negative: Pairs::new(negative, device),
        of_positive: numbers(of_positive),
        of_negative: numbers(of_negative),
    };
    Ok(Plan { compare, task_of_term: ints(task_of_term, device), terms: divisors(&terms, device) })
}

fn divisors(counts: &[usize], device: &Device) -> Tensor<1> {
    floats(counts.iter().map(|count| (*count).max(1) as f32).collect(), device)
}

fn floats(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}
