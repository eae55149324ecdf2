//! Chats in which questions are answered by searching, to try out supervised training without a download.
//!
//! Every chat has a small world of its own: made-up people, who each have a friend and like a fruit. A question is about one
//! person, about two, or about a person's friend. The reply is a whole trajectory in GAP's tags: a thought, a plan of
//! tasks with their dependencies, searches (those that do not depend on each other together, separated by `|`), what was found
//! between `<observation>` tags, and the answer. As the world is in no other chat, the answer can only be read from an observation;
//! who learns the observations by heart learns noise.

use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use crate::rng::stream;
use crate::splits::Split;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// How many chats to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticChatsConfig {
    /// For training. Default: 400.
    pub train: usize,
    /// For validation. Default: 40.
    pub val: usize,
    /// For testing. Default: 40.
    pub test: usize,
}

impl Default for SyntheticChatsConfig {
    fn default() -> Self {
        Self { train: 400, val: 40, test: 40 }
    }
}

/// The most chats of a split.
const MOST: usize = 10_000_000;
const FRUITS: [&str; 8] = ["plums", "figs", "dates", "limes", "pears", "melons", "grapes", "apples"];

impl SyntheticChatsConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<()> {
        if self.train == 0 {
            return Err(Error::setting("train", "at least 1", 0));
        }
        for (key, count) in [("train", self.train), ("val", self.val), ("test", self.test)] {
            if count > MOST {
                return Err(Error::setting(key, format!("at most {MOST}"), count));
            }
        }
        Ok(())
    }

    /// Writes `train.jsonl`, `val.jsonl` and `test.jsonl`, each unless it would be empty: `{"id": …, "answer": …, "messages": […]}`.
    ///
    /// # Errors
    /// Numbers out of range, and what the disk says.
    pub fn write(&self, folder: &Path, seed: u64) -> Result<()> {
        self.validate()?;
        for (split, count) in [(Split::Train, self.train), (Split::Val, self.val), (Split::Test, self.test)] {
            if count == 0 {
                continue;
            }
            let path = folder.join(format!("{split}.jsonl"));
            let mut file = AtomicFile::create(&path)?;
            for number in 0..count {
                let written = writeln!(file, "{}", self.record(split, number, seed));
                written.map_err(Error::io(&path, "write"))?;
            }
            file.commit()?;
        }
        Ok(())
    }

    fn record(&self, split: Split, number: usize, seed: u64) -> Value {
        let id = format!("{}-{number}", split.name());
        let mut rng = stream(seed, "synthetic chats", &[id.as_bytes()]);
        let Episode { question, reply, answer } = episode(&mut rng);
        let messages = json!([{"role": "user", "content": question}, {"role": "assistant", "content": reply}]);
        json!({"id": id, "answer": answer, "messages": messages})
    }
}

struct Episode {
    question: String,
    reply: String,
    answer: String,
}

/// A made-up person.
struct Person {
    name: String,
    friend: String,
    likes: &'static str,
}

impl Person {
    fn document(&self, number: usize) -> String {
        let Self { name, friend, likes } = self;
        format!("Doc {number} - {name}: {name} likes {likes}. The friend of {name} is {friend}.")
    }
}

fn people(rng: &mut ChaCha8Rng) -> [Person; 3] {
    let mut syllables = ["ma", "ro", "te", "lu", "ki", "so", "ne", "va", "du", "pi"];
    syllables.shuffle(rng);
    let name = |at: usize| {
        let (first, second) = (syllables[2 * at], syllables[2 * at + 1]);
        format!("{}{}{second}", first[..1].to_uppercase(), &first[1..])
    };
    // The friend of the first is the second, so that a question about a friend can be followed up.
    std::array::from_fn(|at| Person {
        name: name(at),
        friend: name((at + 1) % 3),
        likes: FRUITS[rng.random_range(0..FRUITS.len())],
    })
}

fn episode(rng: &mut ChaCha8Rng) -> Episode {
    let [one, two, _] = people(rng);
    let observed = |documents: &[String]| format!("<observation>\n{}\n</observation>\n\n", documents.join("\n"));
    let task = |number: usize, what: &str, after: &str| format!("T{number}: {what}\n- Dependencies: {after}\n");
    let (question, thought, tasks, steps, answer) = match rng.random_range(0..3u8) {
        0 => (
            format!("What does {} like?", one.name),
            "One search is enough.",
            task(1, &format!("find {}", one.name), "none"),
            format!("<wiki_search>{}</wiki_search>\n\n{}", one.name, observed(&[one.document(1)])),
            one.likes.to_string(),
        ),
        1 => (
            format!("Do {} and {} like the same?", one.name, two.name),
            "Both can be searched together.",
            [
                task(1, &format!("find {}", one.name), "none"),
                task(2, &format!("find {}", two.name), "none"),
                task(3, "compare", "T1, T2"),
            ]
            .concat(),
            format!(
                "<wiki_search>{} | {}</wiki_search>\n\n{}",
                one.name,
                two.name,
                observed(&[one.document(1), two.document(2)])
            ),
            if one.likes == two.likes { "yes".to_string() } else { "no".to_string() },
        ),
        _ => (
            format!("What does the friend of {} like?", one.name),
            "The friend has to be found first.",
            [task(1, &format!("find {}", one.name), "none"), task(2, "find the friend", "T1")].concat(),
            format!(
                "<wiki_search>{}</wiki_search>\n\n{}<wiki_search>{}</wiki_search>\n\n{}",
                one.name,
                observed(&[one.document(1)]),
                two.name,
                observed(&[two.document(1)])
            ),
            two.likes.to_string(),
        ),
    };
    let reply = format!("<think>{thought}</think>\n<plan>\n{tasks}</plan>\n{steps}<answer>{answer}</answer>");
    Episode { question, reply, answer }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(folder: &Path, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_answer_stands_in_an_observation() {
        let folder = tempfile::tempdir().unwrap();
        let config = SyntheticChatsConfig { train: 60, val: 5, test: 0 };
        config.write(folder.path(), 7).unwrap();
        let train = read(folder.path(), "train.jsonl");
        assert_eq!((train.len(), read(folder.path(), "val.jsonl").len()), (60, 5));
        assert!(!folder.path().join("test.jsonl").exists());
        let (mut parallel, mut chained) = (0, 0);
        for record in &train {
            let reply = record["messages"][1]["content"].as_str().unwrap();
            let answer = record["answer"].as_str().unwrap();
            assert!(reply.ends_with(&format!("<answer>{answer}</answer>")), "{reply}");
            let observed: Vec<&str> =
                reply.split("<observation>").skip(1).map(|o| o.split("</").next().unwrap()).collect();
            let said = observed.iter().any(|text| text.contains(&format!("likes {answer}.")));
            assert!(said || ["yes", "no"].contains(&answer), "{reply}");
            parallel += usize::from(reply.contains(" | "));
            chained += usize::from(observed.len() == 2);
        }
        assert!(parallel > 10 && chained > 10 && parallel + chained < 60, "{parallel} {chained}");
        // The same seed gives the same chats, however many there are.
        let again = tempfile::tempdir().unwrap();
        SyntheticChatsConfig { train: 10, ..config }.write(again.path(), 7).unwrap();
        assert_eq!(read(again.path(), "train.jsonl"), train[..10]);
        assert!(SyntheticChatsConfig { train: 0, ..SyntheticChatsConfig::default() }.validate().is_err());
    }
}
