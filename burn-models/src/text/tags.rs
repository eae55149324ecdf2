//! Parts of a reply that stand between tags, such as what a tool answered: `<observation>…</observation>`.

use std::ops::Range;

/// A tag that cannot be paired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unpaired {
    /// The tag as it is written.
    pub(super) tag: String,
    /// What is wrong with it.
    pub(super) problem: &'static str,
    /// Where it stands, in bytes.
    pub(super) at: usize,
}

/// The byte ranges from each opening tag to the end of its closing one, and of the white space after that. `names` are the
/// tags without brackets; tags are literal, without attributes.
///
/// # Errors
/// A closing tag without an opening one, an opening one that is never closed, and any of the tags inside another.
pub(super) fn tag_spans(text: &str, names: &[String]) -> Result<Vec<Range<usize>>, Unpaired> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    // Beginning and name of the tag that is open.
    let mut open: Option<(usize, &str)> = None;
    let mut at = 0;
    while let Some(found) = text[at..].find('<') {
        let start = at + found;
        let rest = &text[start + 1..];
        let (closing, rest) = rest.strip_prefix('/').map_or((false, rest), |rest| (true, rest));
        let named =
            names.iter().find(|name| rest.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('>')));
        at = start + 1;
        let Some(name) = named else { continue };
        at = start + 2 + usize::from(closing) + name.len();
        let unpaired = |problem| Unpaired { tag: text[start..at].to_string(), problem, at: start };
        match (open, closing) {
            (None, false) => open = Some((start, name)),
            (Some(_), false) => return Err(unpaired("stands inside another tag")),
            (Some((begin, of)), true) if of == name => {
                at += text[at..].len() - text[at..].trim_start().len();
                spans.push(begin..at);
                open = None;
            }
            (_, true) => return Err(unpaired("closes what is not open")),
        }
    }
    match open {
        Some((at, name)) => Err(Unpaired { tag: format!("<{name}>"), problem: "is never closed", at }),
        None => Ok(spans),
    }
}

/// GAP's published masking of ids (`ignore_observation`): from every `start` to the next `end`, both included, nothing is
/// learned; the first `end` closes, whatever opened in between. Gives what is learned, and whether all that began has ended.
pub(super) fn token_spans(ids: &[u32], start: &[u32], end: &[u32]) -> (Vec<bool>, bool) {
    let mut learned = vec![true; ids.len()];
    let (mut inside, mut at) = (false, 0);
    while at < ids.len() {
        let marker = if inside { end } else { start };
        let step = match !marker.is_empty() && ids[at..].starts_with(marker) {
            true => {
                learned[at..at + marker.len()].fill(false);
                inside = !inside;
                marker.len()
            }
            false => {
                learned[at] = !inside;
                1
            }
        };
        at += step;
    }
    (learned, !inside)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spans(text: &str) -> Result<Vec<&str>, Unpaired> {
        let names = ["observation".to_string(), "result".to_string()];
        tag_spans(text, &names).map(|spans| spans.into_iter().map(|span| &text[span]).collect())
    }

    #[test]
    fn spans_take_the_white_space_after_them() {
        let text = "<think>a</think><observation>\nDoc <1>\n</observation>\n\n\n<answer>b</answer> <result></result>";
        let want = ["<observation>\nDoc <1>\n</observation>\n\n\n", "<result></result>"];
        assert_eq!(spans(text).unwrap(), want);
        assert!(spans("< observation> <observations> <Observation> </ observation>").unwrap().is_empty());
    }

    #[test]
    fn tags_must_pair() {
        let fails = |text: &str, tag: &str, problem: &str, at| {
            let error = spans(text).unwrap_err();
            assert_eq!((error.tag.as_str(), error.at), (tag, at), "{text}");
            assert!(error.problem.contains(problem), "{text}: {}", error.problem);
        };
        fails("é</observation>", "</observation>", "closes what is not open", 2);
        fails("a<observation>b", "<observation>", "is never closed", 1);
        fails("<observation><observation></observation></observation>", "<observation>", "inside another", 13);
        fails("<observation><result></result></observation>", "<result>", "inside another", 13);
        fails("<observation></result>", "</result>", "closes what is not open", 13);
    }

    /// The worked examples E1 to E7 of the published algorithm: 1 `<`, 2 `observation`, 3 `>⏎`, 4 `</`, 5 `>⏎⏎`, 6 `>`, 7 `><`.
    #[test]
    fn the_published_masks() {
        // Ids, the ranges that are not learned, and whether the sample is kept.
        type Case = (&'static [u32], &'static [Range<usize>], bool);
        #[allow(clippy::single_range_in_vec_init)]
        let cases: [Case; 7] = [
            (&[20, 21, 1, 2, 3, 30, 31, 4, 2, 5, 22], &[2..10], true),
            (&[20, 1, 2, 6, 30, 4, 2, 5, 21, 1, 2, 6, 31, 32, 4, 2, 5, 22], &[1..8, 9..17], true),
            (&[20, 1, 2, 3, 30, 4, 2, 3, 22], &[1..9], false),
            (&[20, 1, 2, 3, 30, 4, 2, 6], &[1..8], false),
            (&[20, 7, 2, 3, 30, 4, 2, 5, 22], &[], true),
            (&[1, 2, 3, 30, 1, 2, 3, 31, 4, 2, 5, 32, 4, 2, 5, 22], &[0..11], true),
            (&[20, 1, 2, 3, 30, 4, 2, 3, 22, 1, 2, 3, 31, 4, 2, 5, 23], &[1..16], true),
        ];
        for (ids, masked, valid) in cases {
            let want: Vec<bool> = (0..ids.len()).map(|at| !masked.iter().any(|range| range.contains(&at))).collect();
            assert_eq!(token_spans(ids, &[1, 2], &[2, 5]), (want, valid), "{ids:?}");
        }
    }
}
