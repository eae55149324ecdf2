//! A workflow with its texts.

use serde::{Deserialize, Serialize};

/// An agentic workflow: a directed graph whose nodes carry prompts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Workflow {
    /// Node ids with their texts, in the order of the file.
    pub nodes: Vec<(u32, String)>,
    /// `[source, target]` ids, in the order of the file.
    pub edges: Vec<[u32; 2]>,
}

impl Workflow {
    /// The BLAKE3 hash of ids, texts and edges, in their order, in hexadecimal: equal for equal content only.
    pub fn content_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("hearth workflow content 1");
        hasher.update(&(self.nodes.len() as u64).to_le_bytes());
        for (id, text) in &self.nodes {
            hasher.update(&id.to_le_bytes());
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        for [source, target] in &self.edges {
            hasher.update(&source.to_le_bytes());
            hasher.update(&target.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The node ids in ascending order: the rows of tensors.
    pub fn sorted_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.nodes.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }
}
