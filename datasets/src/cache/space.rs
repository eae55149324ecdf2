//! What an embedding depends on, as a key.

use serde::{Deserialize, Serialize};

/// Everything besides the input that an embedding depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSpace {
    /// What kind of embedding it is, such as `graph` or `sentence`; a name for a folder.
    pub space: String,
    /// The hash of the weights.
    pub weights: String,
    /// The hash of the tokenizer.
    pub tokenizer: String,
    /// The hash of the prompt's words; empty where there is no prompt.
    pub template: String,
    /// How the states of tokens become one vector.
    pub pooling: String,
    /// From which layer they are taken.
    pub layer: String,
    /// The number format of the computation.
    pub dtype: String,
    /// The most tokens of an input.
    pub max_length: usize,
    /// What is cut from longer ones.
    pub truncation: String,
    /// Whether the vector is scaled to length 1.
    pub normalize: bool,
}

impl EmbeddingSpace {
    fn hasher(&self) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_derive_key("hearth embedding 1");
        let Self { space, weights, tokenizer, template, pooling, layer, dtype, max_length, truncation, normalize } =
            self;
        for part in [space, weights, tokenizer, template, pooling, layer, dtype, truncation] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&(*max_length as u64).to_le_bytes());
        hasher.update(&[u8::from(*normalize)]);
        hasher
    }

    /// The name of the folder for this model and these settings: 16 hexadecimal digits.
    pub fn model_key(&self) -> String {
        self.hasher().finalize().to_hex()[..16].to_owned()
    }

    /// The key of the embedding of these bytes: what the model is given, before it is turned into tokens.
    pub fn key(&self, input: &[u8]) -> CacheKey {
        CacheKey(*self.hasher().update(input).finalize().as_bytes())
    }
}

/// What an embedding is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey(pub [u8; 32]);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_setting_changes_the_key() {
        let text = |text: &str| text.to_owned();
        let space = EmbeddingSpace {
            space: text("graph"),
            weights: text("w"),
            tokenizer: text("t"),
            template: text("p"),
            pooling: text("last"),
            layer: text("final"),
            dtype: text("f32"),
            max_length: 10,
            truncation: text("keep"),
            normalize: false,
        };
        let changes: [fn(&mut EmbeddingSpace); 10] = [
            |s| s.space.push('x'),
            |s| s.weights.push('x'),
            |s| s.tokenizer.push('x'),
            |s| s.template.push('x'),
            |s| s.pooling.push('x'),
            |s| s.layer.push('x'),
            |s| s.dtype.push('x'),
            |s| s.max_length = 11,
            |s| s.truncation.push('x'),
            |s| s.normalize = true,
        ];
        let mut keys = HashSet::from([space.key(b"input"), space.key(b"other")]);
        let mut models = HashSet::from([space.model_key()]);
        for change in changes {
            let mut other = space.clone();
            change(&mut other);
            keys.insert(other.key(b"input"));
            models.insert(other.model_key());
        }
        assert_eq!((keys.len(), models.len()), (12, 11));
        assert_eq!(space.model_key().len(), 16);
    }
}
