//! Chats to fine-tune on: `Chat("chats.jsonl")`, or with their format, as mixtures, from a registry.

use std::path::{Path, PathBuf};

use datasets::chat::{Amount, ChatColumns, ChatFormat, ChatSource, ChatSplit, ChatTags, Registry, chat_files};
use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::{DataFormat, DataSource, HubData, Recipe, Source};

/// Chats to fine-tune on. Written `Chat("chats.jsonl")`, or with the names of its fields:
/// `Chat(path: "chats.json", format: Alpaca, split: Fraction(0.05))`. One of `path`, `sources` and `registry` says where they are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatData {
    /// A file of JSON lines, a JSON array (an element may have 64 MiB) or a Parquet table; the JSON may be compressed by zstd.
    /// Several by a pattern, `"chats/*.jsonl"`; or a folder: `train.jsonl` (`.json`, `.parquet`, `.zst`; or shards of it) and, to
    /// evaluate on, `val`, `validation` or `test` of the same form; of a folder without a `train` all files, in natural order.
    pub path: Option<PathBuf>,
    /// The form of the records. Default `Auto`.
    pub format: ChatFormat,
    /// What the keys of a record are called. Default the usual names of the format.
    pub columns: ChatColumns,
    /// What the turns of `ShareGpt` call their keys and roles. Default the usual names.
    pub tags: ChatTags,
    /// A mixture: `[(data: Data("a")), (data: Path("b.jsonl"), weight: 0.5)]`. Format, columns and tags above are those of paths
    /// and of data on a hub; other entries of `data` have their own.
    pub sources: Vec<ChatPart>,
    /// A `dataset_info.json` in LLaMA-Factory's form.
    pub registry: Option<PathBuf>,
    /// The name of the data set in the registry.
    pub name: Option<String>,
    /// Holds records out to evaluate on: `Fraction(0.05)` or `Key(name: "id", fraction: 0.05)`. Default none.
    pub split: Option<ChatSplit>,
    /// Of chats that are written with the same tokens, only the first is kept; the others are counted. Default false.
    pub deduplicate: bool,
}

/// One source of a mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatPart {
    /// Another entry of `data`, `Data("name")`, or `Path("chats.jsonl")`.
    pub data: Source,
    /// Every epoch takes so many times the source's chats: all of them as often as the whole part says, and of the rest a share
    /// that is drawn anew every time. 0.5 is another half every epoch, 2 is all of them twice. Default 1.
    #[serde(default = "ChatPart::default_weight")]
    pub weight: f64,
}

impl ChatPart {
    fn default_weight() -> f64 {
        1.0
    }
}

/// Reads a path alone or the fields by name.
pub(super) fn short<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<ChatData>, D::Error> {
    struct Short;
    impl<'de> Visitor<'de> for Short {
        type Value = ChatData;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("\"chats.jsonl\", or path: \"chats.jsonl\", format: …")
        }

        fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<ChatData, E> {
            Ok(ChatData::of(path))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ChatData, A::Error> {
            ChatData::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Short).map(Box::new)
}

/// Where chats of one layout are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatPlace<'a> {
    /// What it is called.
    pub name: String,
    pub kind: PlaceKind<'a>,
    /// Says the format.
    layout: &'a ChatData,
    weight: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum PlaceKind<'a> {
    Path(&'a Path),
    Hub(&'a HubData),
    Registry(&'a Path, &'a str),
}

/// The files behind a place: to train on, and to evaluate on where there are any.
pub(crate) struct Found {
    pub train: ChatSource,
    pub held_out: Option<ChatSource>,
}

impl ChatData {
    /// A file, pattern or folder, of a format that shows itself.
    pub fn of(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// The path, where it is all that is said.
    pub fn only_path(&self) -> Option<&Path> {
        (Self { path: None, ..self.clone() } == Self::default()).then_some(self.path.as_deref()).flatten()
    }

    /// Where the chats are; what a mixture cannot take is left out, and reported by the rules.
    pub(crate) fn places<'a>(&'a self, recipe: &'a Recipe) -> Vec<ChatPlace<'a>> {
        let mut places = Vec::from_iter(self.own(None));
        for part in &self.sources {
            let place = match &part.data {
                Source::Path(path) => {
                    let kind = PlaceKind::Path(path);
                    Some(ChatPlace { name: path.display().to_string(), kind, layout: self, weight: 1.0 })
                }
                Source::Data(key) => match recipe.data.get(key) {
                    Some(DataSource::Chat(data)) => data.own(Some(key)),
                    Some(DataSource::Hub(hub)) if hub.format == DataFormat::Chat => {
                        Some(ChatPlace { name: key.clone(), kind: PlaceKind::Hub(hub), layout: self, weight: 1.0 })
                    }
                    _ => None,
                },
                _ => None,
            };
            places.extend(place.map(|place| ChatPlace { weight: part.weight, ..place }));
        }
        places
    }

    /// The path or the registry.
    fn own(&self, key: Option<&str>) -> Option<ChatPlace<'_>> {
        let (name, kind) = match (&self.registry, &self.name, &self.path) {
            (Some(registry), Some(name), _) => (name.clone(), PlaceKind::Registry(registry, name)),
            (_, _, Some(path)) => {
                let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into());
                (name, PlaceKind::Path(path.as_path()))
            }
            _ => return None,
        };
        let name = key.map_or(name, str::to_owned);
        Some(ChatPlace { name, kind, layout: self, weight: 1.0 })
    }
}

impl ChatPlace<'_> {
    /// The files of the place; `folder` is that of what was fetched from a hub.
    ///
    /// # Errors
    /// Files that are not there, and what is wrong in a registry.
    pub(crate) fn find(&self, folder: Option<&Path>) -> datasets::Result<Found> {
        let path = match (self.kind, folder) {
            (PlaceKind::Registry(path, name), _) => {
                let mut train = Registry::open(path)?.source(name)?;
                train.name.clone_from(&self.name);
                if let Amount::Weight(weight) = train.amount {
                    train.amount = Amount::Weight(weight * self.weight);
                }
                return Ok(Found { train, held_out: None });
            }
            (PlaceKind::Hub(_), Some(folder)) => folder,
            (PlaceKind::Hub(_), None) => Path::new(""),
            (PlaceKind::Path(path), _) => path,
        };
        let files = chat_files(path)?;
        let ChatData { format, columns, tags, .. } = self.layout;
        let source = |files| ChatSource {
            name: self.name.clone(),
            files,
            format: *format,
            columns: columns.clone(),
            tags: tags.clone(),
            amount: Amount::default(),
        };
        let train = ChatSource { amount: Amount::Weight(self.weight), ..source(files.train) };
        Ok(Found { train, held_out: Some(source(files.held_out)).filter(|source| !source.files.is_empty()) })
    }
}
