//! The embedding cache in use: nothing is computed twice, and nothing damaged is used.

use datasets::cache::{CacheKey, EmbeddingCache, EmbeddingSpace};
use datasets::flora::ReadOptions;
use datasets::render::NodeRender;
use datasets::synthetic::{Synthetic, SyntheticConfig};
use datasets::templates::Templates;
use datasets::{FloraIndex, Split};
use std::fs;
use std::path::Path;

const DIM: usize = 8;

fn space(weights: &str) -> EmbeddingSpace {
    let text = |text: &str| text.to_owned();
    EmbeddingSpace {
        space: text("graph"),
        weights: text(weights),
        tokenizer: text("t"),
        template: Templates::default().embed_hash(),
        pooling: text("LastToken"),
        layer: text("Final"),
        dtype: text("F32"),
        max_length: 10_240,
        truncation: text("KeepSuffix"),
        normalize: false,
    }
}

/// A stand-in for a model: a vector that depends on every byte.
fn embed(prompt: &str) -> [f32; DIM] {
    let hash = *blake3::hash(prompt.as_bytes()).as_bytes();
    std::array::from_fn(|at| f32::from(hash[at]) / 255.0)
}

/// Embeds all prompts through the cache, some at a time; gives the rows and how many prompts the model saw.
fn embed_all(root: &Path, prompts: &[String], weights: &str) -> (Vec<f32>, usize) {
    let space = space(weights);
    let mut cache = EmbeddingCache::open(root, &space.space, &space.model_key(), DIM).unwrap();
    let mut forwards = 0;
    for part in prompts.chunks(7) {
        let keys: Vec<CacheKey> = part.iter().map(|prompt| space.key(prompt.as_bytes())).collect();
        let misses = cache.get_many(&keys).unwrap().misses;
        let rows: Vec<f32> = misses.iter().flat_map(|at| embed(&part[*at])).collect();
        forwards += misses.len();
        cache.append(&misses.iter().map(|at| keys[*at]).collect::<Vec<_>>(), &rows).unwrap();
    }
    let keys: Vec<CacheKey> = prompts.iter().map(|prompt| space.key(prompt.as_bytes())).collect();
    let lookup = cache.get_many(&keys).unwrap();
    assert!(lookup.misses.is_empty());
    (lookup.rows, forwards)
}

fn prompts() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    Synthetic::generate(&SyntheticConfig::default(), 1).unwrap().write(folder.path()).unwrap();
    let options = ReadOptions { splits: vec![Split::Train], ..ReadOptions::default() };
    let index = FloraIndex::read(folder.path(), &options).unwrap();
    let templates = Templates::default();
    (0..index.workflows().len() as u32)
        .map(|number| {
            let workflow = index.workflow(number);
            templates.embed_prompt(&workflow.nodes, &workflow.edges, NodeRender::PyRepr).text
        })
        .collect()
}

#[test]
fn a_second_run_computes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let prompts = prompts();
    let wanted: Vec<f32> = prompts.iter().flat_map(|prompt| embed(prompt)).collect();
    let (rows, forwards) = embed_all(root.path(), &prompts, "w");
    assert_eq!((rows, forwards), (wanted.clone(), prompts.len()));
    let (rows, forwards) = embed_all(root.path(), &prompts, "w");
    assert_eq!((rows, forwards), (wanted.clone(), 0));
    // Other weights share nothing.
    assert_eq!(embed_all(root.path(), &prompts, "other").1, prompts.len());
    assert_eq!(embed_all(root.path(), &prompts, "w").1, 0);
}

#[test]
fn what_a_dying_writer_leaves_does_no_harm() {
    let root = tempfile::tempdir().unwrap();
    let prompts = prompts();
    let (rows, _) = embed_all(root.path(), &prompts[..20], "w");
    let folder = root.path().join("graph").join(space("w").model_key());
    let shard = folder.join("shard-00000.safetensors");
    let whole = fs::read(&shard).unwrap();
    // Died while writing: a part under a temporary name.
    fs::write(folder.join(".tmp-x.partial"), &whole[..100]).unwrap();
    assert_eq!(embed_all(root.path(), &prompts[..20], "w"), (rows.clone(), 0));
    // The disk lost what it had confirmed, or a bit flipped.
    for bad in [whole[..whole.len() - 1].to_vec(), flipped(&whole, whole.len() / 2), Vec::new()] {
        fs::write(&shard, bad).unwrap();
        assert_eq!(embed_all(root.path(), &prompts[..20], "w"), (rows.clone(), 20));
        assert_eq!(embed_all(root.path(), &prompts[..20], "w"), (rows.clone(), 0));
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 8;
    bytes
}
