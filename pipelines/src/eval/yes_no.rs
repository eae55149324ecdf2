//! Reading a Yes or a No out of a generated text.
//!
//! What counts is the text in the first pair of answer tags, in any letter case, or the whole text without tags. It says Yes
//! if it holds a yes and no no.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// When a text holds a yes or a no.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AnswerRule {
    /// Where the word stands, in any letter case.
    #[default]
    Words,
    /// Where the letters `yes` or `no` stand in lower case, in whatever word, as the published implementation has it: "Yes" is
    /// none, and "not" and "know" are a no.
    LowerCaseLetters,
}

/// What a text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A yes and no no.
    Yes,
    /// A no and no yes.
    No,
    /// Both or neither; counts as a No.
    Unclear,
}

struct Patterns {
    tagged: Regex,
    yes: Regex,
    no: Regex,
}

static PATTERNS: LazyLock<Result<Patterns, regex::Error>> = LazyLock::new(|| {
    Ok(Patterns {
        tagged: Regex::new(r"(?is)<answer>(.*?)</answer>")?,
        yes: Regex::new(r"(?i)\byes\b")?,
        no: Regex::new(r"(?i)\bno\b")?,
    })
});

/// What `text` says.
#[must_use]
pub fn read_answer(text: &str, rule: AnswerRule) -> Answer {
    // The patterns are constants and compile.
    let Ok(patterns) = &*PATTERNS else { return Answer::Unclear };
    let inside = patterns.tagged.captures(text).and_then(|found| found.get(1)).map_or(text, |found| found.as_str());
    let (yes, no) = match rule {
        AnswerRule::Words => (patterns.yes.is_match(inside), patterns.no.is_match(inside)),
        AnswerRule::LowerCaseLetters => (inside.contains("yes"), inside.contains("no")),
    };
    match (yes, no) {
        (true, false) => Answer::Yes,
        (false, true) => Answer::No,
        _ => Answer::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_from_tags_or_from_everything() {
        use Answer::{No, Unclear, Yes};
        // Text, by words, by letters.
        for (text, words, letters) in [
            ("<answer>Yes</answer>", Yes, Unclear),
            ("<answer>yes</answer>", Yes, Yes),
            ("No way. <ANSWER>\n YES.\n</Answer> No!", Yes, Unclear),
            ("<answer>no</answer> or <answer>yes</answer>", No, No),
            ("<answer>I do not know</answer>", Unclear, No),
            ("<answer></answer> yes", Unclear, Unclear),
            ("<answer>yes", Yes, Yes),
            ("I say yes, there is nothing against it", Yes, Unclear),
            ("yes, no, maybe", Unclear, Unclear),
            ("Nobody's eyes", Unclear, Yes),
            ("no", No, No),
            ("", Unclear, Unclear),
            ("ja", Unclear, Unclear),
            ("ÿes nö", Unclear, Unclear),
        ] {
            assert_eq!(read_answer(text, AnswerRule::Words), words, "{text}");
            assert_eq!(read_answer(text, AnswerRule::LowerCaseLetters), letters, "{text}");
        }
    }
}
