//! Scoring of generated texts against the expected one.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How a generated text is scored, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AnswerMetric {
    /// 1 where the texts are equal but for white space around them.
    #[default]
    ExactMatch,
    /// 1 where the texts are equal after SQuAD's normalisation: lower case, without punctuation, articles and double spaces.
    NormalizedMatch,
    /// The F1 of the words of the normalised texts, counted as often as they occur (SQuAD).
    TokenF1,
}

impl AnswerMetric {
    /// The score of an answer.
    pub fn score(self, answer: &str, expected: &str) -> f64 {
        let equal = |same: bool| f64::from(u8::from(same));
        match self {
            Self::ExactMatch => equal(answer.trim() == expected.trim()),
            Self::NormalizedMatch => equal(words(answer) == words(expected)),
            Self::TokenF1 => token_f1(&words(answer), &words(expected)),
        }
    }
}

/// The words of a text after SQuAD's normalisation.
fn words(text: &str) -> Vec<String> {
    let kept: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    kept.split_whitespace().filter(|word| !["a", "an", "the"].contains(word)).map(str::to_string).collect()
}

/// `2·PR / (P + R)` over the words that both have; of two texts without words, 1.
fn token_f1(answer: &[String], expected: &[String]) -> f64 {
    if answer.is_empty() || expected.is_empty() {
        return f64::from(u8::from(answer == expected));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in expected {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0.0;
    for word in answer {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1.0;
        }
    }
    2.0 * common / (answer.len() + expected.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::AnswerMetric::{ExactMatch, NormalizedMatch, TokenF1};

    #[test]
    fn answers_are_scored() {
        for (answer, expected, want) in [
            ("The Eiffel Tower.", "Eiffel tower", [0.0, 1.0, 1.0]),
            (" 42\n", "42", [1.0, 1.0, 1.0]),
            ("a big red dog", "the red dog ran", [0.0, 0.0, 2.0 * 2.0 / 6.0]),
            ("dog dog", "dog", [0.0, 0.0, 2.0 / 3.0]),
            ("", "x", [0.0, 0.0, 0.0]),
            ("the", "", [0.0, 1.0, 1.0]),
        ] {
            let got = [ExactMatch, NormalizedMatch, TokenF1].map(|metric| metric.score(answer, expected));
            assert_eq!(got, want, "{answer:?} for {expected:?}");
        }
    }
}
