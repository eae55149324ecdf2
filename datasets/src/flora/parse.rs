//! The grammar of one FLORA record.

use super::{FloraRecord, Labels, OnBadEdge, ReadCounts, ReadOptions};
use crate::error::{RecordError, Result};
use crate::json::{Text, Trail};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// A record as it stands in the file.
#[derive(Debug)]
pub(super) struct RawRecord<'a> {
    pub(super) nodes: Vec<(u32, Cow<'a, str>)>,
    edges: Vec<[i64; 2]>,
    task: Cow<'a, str>,
    label: Option<f32>,
    workflow_id: Option<i64>,
    task_id: Option<i64>,
}

impl<'a> RawRecord<'a> {
    /// Checks the edges against the nodes.
    pub(super) fn check(
        self,
        path: &Path,
        line: u64,
        options: &ReadOptions,
        counts: &mut ReadCounts,
    ) -> Result<FloraRecord<'a>> {
        let mut ids: Vec<u32> = self.nodes.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let known = |id: i64| u32::try_from(id).ok().filter(|id| ids.binary_search(id).is_ok());
        let mut edges = Vec::with_capacity(self.edges.len());
        for (index, [source, target]) in self.edges.iter().enumerate() {
            match (known(*source), known(*target), options.on_bad_edge) {
                (Some(source), Some(target), _) => edges.push([source, target]),
                (_, _, OnBadEdge::Drop) => counts.dropped_edges += 1,
                (found_source, _, OnBadEdge::Error) => {
                    let missing = if found_source.is_none() { source } else { target };
                    return Err(RecordError {
                        path: path.to_path_buf(),
                        line,
                        column: None,
                        key: format!("edge_index[{index}]"),
                        expected: "two ids that are among the nodes".into(),
                        found: format!("[{source}, {target}], and there is no node {missing}"),
                        remedy: "add the node, or read with on_bad_edge: Drop".into(),
                    }
                    .into());
                }
            }
        }
        let Self { nodes, task, label, workflow_id, task_id, .. } = self;
        Ok(FloraRecord { line, nodes, edges, task, label, workflow_id, task_id })
    }
}

type SerdeResult<T, E> = std::result::Result<T, E>;

/// Reads one record; keys that are not of the format are passed over.
pub(super) struct RecordSeed<'t> {
    pub(super) trail: &'t Trail,
    pub(super) options: &'t ReadOptions,
}

impl<'de> DeserializeSeed<'de> for RecordSeed<'_> {
    type Value = RawRecord<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> SerdeResult<RawRecord<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed<'_> {
    type Value = RawRecord<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one JSON object a line")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> SerdeResult<RawRecord<'de>, A::Error> {
        let Self { trail, options } = self;
        let (mut nodes, mut edges, mut task) = (None, None, None);
        let (mut label, mut workflow_id, mut task_id) = (None, None, None);
        while let Some(Text(key)) = map.next_key()? {
            let given = match key.as_ref() {
                "nodes" => nodes.is_some(),
                "edge_index" => edges.is_some(),
                "task" => task.is_some(),
                "label" => label.is_some(),
                "workflow_id" => workflow_id.is_some(),
                "task_id" => task_id.is_some(),
                _ => false,
            };
            if given {
                return Err(trail.duplicate(&key));
            }
            trail.enter(key.as_ref());
            match key.as_ref() {
                "nodes" => nodes = Some(map.next_value_seed(NodesSeed { trail, options })?),
                "edge_index" => edges = Some(map.next_value_seed(EdgesSeed { trail, options })?),
                "task" => {
                    let Text(text) = map.next_value()?;
                    check_length(trail, &text, options)?;
                    task = Some(text);
                }
                "label" => label = Some(map.next_value_seed(LabelSeed { trail, labels: options.labels })?),
                "workflow_id" => workflow_id = Some(map.next_value::<Id>()?.0),
                "task_id" => task_id = Some(map.next_value::<Id>()?.0),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            trail.leave();
        }
        let missing = |key: &str| -> A::Error {
            trail.enter(key);
            trail.problem(
                "this key in every record",
                "none",
                "a FLORA record has nodes, edge_index, task, label, workflow_id and task_id",
            )
        };
        let nodes = nodes.ok_or_else(|| missing("nodes"))?;
        let edges = edges.ok_or_else(|| missing("edge_index"))?;
        let task = task.ok_or_else(|| missing("task"))?;
        if options.labels != Labels::Optional {
            label.ok_or_else(|| missing("label"))?;
            workflow_id.ok_or_else(|| missing("workflow_id"))?;
            task_id.ok_or_else(|| missing("task_id"))?;
        }
        Ok(RawRecord { nodes, edges, task, label, workflow_id, task_id })
    }
}

fn check_length<E: de::Error>(trail: &Trail, text: &str, options: &ReadOptions) -> SerdeResult<(), E> {
    if text.len() > options.max_text_bytes {
        let expected = format!("a text of at most {} bytes", options.max_text_bytes);
        return Err(trail.problem(expected, format!("{} bytes", text.len()), "raise max_text_bytes if this is meant"));
    }
    Ok(())
}

/// Node id → text, in the order of the file.
struct NodesSeed<'t> {
    trail: &'t Trail,
    options: &'t ReadOptions,
}

impl<'de> DeserializeSeed<'de> for NodesSeed<'_> {
    type Value = Vec<(u32, Cow<'de, str>)>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> SerdeResult<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for NodesSeed<'_> {
    type Value = Vec<(u32, Cow<'de, str>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from node ids to texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> SerdeResult<Self::Value, A::Error> {
        let Self { trail, options } = self;
        let mut nodes: Vec<(u32, Cow<'de, str>)> = Vec::new();
        while let Some(Text(key)) = map.next_key()? {
            trail.enter(key.as_ref());
            let Some(id) = parse_id(&key) else {
                let expected = "a node id: a decimal number without leading zeros, such as \"0\"";
                return Err(trail.problem(expected, format!("{:?}", truncated(&key)), "number the nodes from 0"));
            };
            if nodes.len() == options.max_nodes {
                let expected = format!("at most {} nodes", options.max_nodes);
                return Err(trail.problem(expected, "one more", "raise max_nodes if this is meant"));
            }
            let Text(text) = map.next_value()?;
            check_length(trail, &text, options)?;
            trail.leave();
            nodes.push((id, text));
        }
        let mut ids: Vec<u32> = nodes.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(trail.duplicate(&pair[0].to_string()));
        }
        Ok(nodes)
    }
}

/// A canonical decimal number.
fn parse_id(key: &str) -> Option<u32> {
    let canonical = key.bytes().all(|byte| byte.is_ascii_digit()) && (key == "0" || !key.starts_with('0'));
    if canonical { key.parse().ok() } else { None }
}

/// The head of a text, for messages.
fn truncated(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(40) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

const PAIRS: &str = "edge_index is a list of pairs, not two rows of ids";

/// A list of `[source, target]` pairs.
struct EdgesSeed<'t> {
    trail: &'t Trail,
    options: &'t ReadOptions,
}

impl<'de> DeserializeSeed<'de> for EdgesSeed<'_> {
    type Value = Vec<[i64; 2]>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> SerdeResult<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EdgesSeed<'_> {
    type Value = Vec<[i64; 2]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of pairs [source, target]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> SerdeResult<Self::Value, A::Error> {
        let Self { trail, options } = self;
        let mut edges = Vec::new();
        loop {
            trail.enter_index(edges.len());
            let Some(edge) = list.next_element_seed(EdgeSeed(trail))? else { break };
            if edges.len() == options.max_edges {
                let expected = format!("at most {} edges", options.max_edges);
                return Err(trail.problem(expected, "one more", "raise max_edges if this is meant"));
            }
            trail.leave();
            edges.push(edge);
        }
        trail.leave();
        Ok(edges)
    }
}

struct EdgeSeed<'t>(&'t Trail);

impl<'de> DeserializeSeed<'de> for EdgeSeed<'_> {
    type Value = [i64; 2];
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> SerdeResult<[i64; 2], D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EdgeSeed<'_> {
    type Value = [i64; 2];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pair [source, target]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> SerdeResult<[i64; 2], A::Error> {
        let mut ends = [0; 2];
        let mut length = 0;
        while let Some(Id(end)) = list.next_element()? {
            if let Some(slot) = ends.get_mut(length) {
                *slot = end;
            }
            length += 1;
        }
        if length != 2 {
            return Err(self.0.problem("a pair [source, target]", format!("a list of {length}"), PAIRS));
        }
        Ok(ends)
    }
}

/// A whole number.
struct Id(i64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> SerdeResult<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 64 bits")
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> SerdeResult<Id, E> {
                Ok(Id(value))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> SerdeResult<Id, E> {
                i64::try_from(value).map(Id).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}

struct LabelSeed<'t> {
    trail: &'t Trail,
    labels: Labels,
}

impl LabelSeed<'_> {
    fn expected(&self) -> &'static str {
        if self.labels == Labels::Binary { "0 or 1" } else { "a number from 0 to 1" }
    }
}

impl<'de> DeserializeSeed<'de> for LabelSeed<'_> {
    type Value = f32;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> SerdeResult<f32, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for LabelSeed<'_> {
    type Value = f32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> SerdeResult<f32, E> {
        self.visit_f64(value as f64)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> SerdeResult<f32, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> SerdeResult<f32, E> {
        let fits = match self.labels {
            Labels::Binary => value == 0.0 || value == 1.0,
            Labels::Unit | Labels::Optional => (0.0..=1.0).contains(&value),
        };
        if fits {
            return Ok(value as f32);
        }
        let graded = self.labels == Labels::Binary && (0.0..=1.0).contains(&value);
        let remedy = if graded { "read with labels: Unit to learn graded labels" } else { "" };
        Err(self.trail.problem(self.expected(), value.to_string(), remedy))
    }
}
