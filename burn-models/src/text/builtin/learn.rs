//! Byte-pair encoding: which pairs of symbols to merge, learned from word counts.
//!
//! The trainer of the `tokenizers` crate breaks ties by the order of a hash map with random keys, and gives different
//! vocabularies in different runs. This one is slower and always gives the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A word as symbols, and how often it occurs.
type Word = (Vec<String>, u64);

/// Sennrich et al. 2016: again and again, the most frequent pair of neighbouring symbols becomes one symbol, until there
/// are `merges` of them or no pair occurs twice. Among equally frequent pairs the alphabetically first is taken.
///
/// `join` tells what two symbols become. Gives the pairs in the order in which they were merged.
pub(super) fn merges(words: Vec<Word>, merges: usize, join: impl Fn(&str, &str) -> String) -> Vec<(String, String)> {
    let mut words = words;
    let mut counts: HashMap<(String, String), i64> = HashMap::new();
    // A superset of the words in which a pair occurs.
    let mut places: HashMap<(String, String), BTreeSet<usize>> = HashMap::new();
    for (at, (symbols, count)) in words.iter().enumerate() {
        for pair in pairs(symbols) {
            *counts.entry(pair.clone()).or_default() += *count as i64;
            places.entry(pair).or_default().insert(at);
        }
    }
    let mut learned = Vec::with_capacity(merges);
    while learned.len() < merges {
        let best = counts.iter().max_by(|(a, n), (b, m)| n.cmp(m).then_with(|| b.cmp(a)));
        let Some((pair, _)) = best.filter(|(_, count)| **count >= 2) else { break };
        let pair = pair.clone();
        let joined = join(&pair.0, &pair.1);
        for at in places.remove(&pair).unwrap_or_default() {
            let (symbols, count) = &mut words[at];
            for old in pairs(symbols) {
                if let Some(n) = counts.get_mut(&old) {
                    *n -= *count as i64;
                }
            }
            *symbols = apply(std::mem::take(symbols), &pair, &joined);
            for new in pairs(symbols) {
                *counts.entry(new.clone()).or_default() += *count as i64;
                places.entry(new).or_default().insert(at);
            }
        }
        counts.remove(&pair);
        learned.push(pair);
    }
    learned
}

/// The neighbouring symbols of a word.
fn pairs(symbols: &[String]) -> impl Iterator<Item = (String, String)> + '_ {
    symbols.windows(2).map(|pair| (pair[0].clone(), pair[1].clone()))
}

/// A word after a merge, from left to right.
fn apply(symbols: Vec<String>, pair: &(String, String), joined: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(symbols.len());
    let mut symbols = symbols.into_iter().peekable();
    while let Some(symbol) = symbols.next() {
        if symbol == pair.0 && symbols.peek() == Some(&pair.1) {
            symbols.next();
            out.push(joined.to_string());
        } else {
            out.push(symbol);
        }
    }
    out
}

/// How often each word occurs, in alphabetical order.
pub(super) fn count(words: impl IntoIterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str, count: u64) -> Word {
        (text.chars().map(String::from).collect(), count)
    }

    #[test]
    fn most_frequent_pairs_first_and_ties_in_alphabetical_order() {
        let words = vec![word("abab", 3), word("cd", 6), word("xy", 2), word("z", 9)];
        let learned = merges(words, 10, |a, b| format!("{a}{b}"));
        let learned: Vec<_> = learned.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(learned, [("a", "b"), ("c", "d"), ("ab", "ab"), ("x", "y")]);
    }

    #[test]
    fn overlapping_pairs_are_merged_from_the_left() {
        let pair = ("a".to_string(), "a".to_string());
        assert_eq!(apply(word("aaa", 1).0, &pair, "aa"), ["aa", "a"]);
    }
}
