//! Which samples begin alike.

use super::SftDataset;
use rayon::prelude::*;

/// The most samples of a group: the shared part is cheap by then, and a larger group would fill whole steps with one subject.
const GROUP: usize = 32;

/// The samples of a dataset in the order of their ids, and what neighbours in that order share: found by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// The place of each sample in the order of the ids.
    rank: Vec<u32>,
    /// For each place the number of ids that its sample shares with the one before it.
    shared: Vec<u32>,
    /// Samples, group by group: a group shares at least half of every prompt in it.
    groups: Vec<Vec<u32>>,
}

impl Sharing {
    /// Sorts a dataset.
    pub fn of(data: &SftDataset) -> Self {
        let mut order: Vec<u32> = (0..data.len() as u32).collect();
        order.par_sort_by(|a, b| data.ids(*a as usize).cmp(data.ids(*b as usize)).then(a.cmp(b)));
        let mut rank = vec![0; order.len()];
        for (place, sample) in order.iter().enumerate() {
            rank[*sample as usize] = place as u32;
        }
        let ids = |place: usize| data.ids(order[place] as usize);
        let common = |place: usize| ids(place - 1).iter().zip(ids(place)).take_while(|(a, b)| a == b).count() as u32;
        let shared: Vec<u32> =
            (0..order.len()).into_par_iter().map(|place| if place == 0 { 0 } else { common(place) }).collect();
        // What comes before the first learned id.
        let prompt = |place: usize| data.learned(order[place] as usize).next().map_or(0, |(span, _)| span.start as u32);
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for place in 0..order.len() {
            let alike = place > 0 && 2 * shared[place] >= prompt(place).max(prompt(place - 1));
            match groups.last_mut() {
                Some(group) if alike => group.push(order[place]),
                _ => groups.push(vec![order[place]]),
            }
        }
        Self { rank, shared, groups }
    }

    /// The groups, in parts of at most 32 samples.
    pub(super) fn groups(&self) -> impl Iterator<Item = &[u32]> {
        self.groups.iter().flat_map(|group| {
            let parts = group.len().div_ceil(GROUP);
            let border = move |part: usize| part * group.len() / parts;
            (0..parts).map(move |part| &group[border(part)..border(part + 1)])
        })
    }

    /// Sorts samples by their ids.
    pub(super) fn sort(&self, samples: &mut [u32]) {
        samples.sort_unstable_by_key(|sample| self.rank[*sample as usize]);
    }

    /// How many ids two samples share, of which the first comes before the second in the order of the ids.
    pub(super) fn shared(&self, before: u32, after: u32) -> usize {
        let places = self.rank[before as usize] as usize + 1..=self.rank[after as usize] as usize;
        self.shared[places].iter().min().map_or(0, |shared| *shared as usize)
    }
}
