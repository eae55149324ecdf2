//! The words of One-For-All's nodes (arXiv 2310.00149), for the baseline of FLORA-Bench.

/// A node's text with the part it plays.
pub fn feature(text: &str) -> String {
    format!("Feature node. A step of an agent workflow: {text}")
}

/// What is asked about all graphs.
pub const PURPOSE: &str = "Prompt node. Classification of a graph: does this agent workflow solve a given task?";

/// The class of workflows that solve a task.
pub fn success(task: &str) -> String {
    format!("Prompt node. The agent workflow succeeds: it solves this task: {task}")
}

/// The class of workflows that do not.
pub fn failure(task: &str) -> String {
    format!("Prompt node. The agent workflow fails: it does not solve this task: {task}")
}

/// The BLAKE3 hash of all these words, in hexadecimal.
pub fn hash() -> String {
    let words = [feature(""), PURPOSE.to_string(), success(""), failure("")];
    blake3::hash(words.join("\n").as_bytes()).to_hex().to_string()
}
