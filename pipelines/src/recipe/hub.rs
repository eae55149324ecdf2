//! Models and data on a hub: `Hub("org/name")`, `Hub("org/name", "v1.0")` or `Hub(repo: "org/name", revision: "v1.0")`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

/// A model on a hub, fetched before a run starts into the cache that other tools share (`HF_HOME`). Written
/// `Hub("org/name")`, `Hub("org/name", "revision")` or with the names of its fields.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HubModel {
    /// Its name, as in "Qwen/Qwen3-1.7B".
    pub repo: String,
    /// A branch, a tag or a commit. Default "main".
    pub revision: String,
}

/// Data on a hub, fetched before a run starts into the cache that other tools share (`HF_HOME`). Written
/// `Hub("org/name")`, `Hub("org/name", "revision")` or with the names of its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HubData {
    /// Its name, as in "org/name".
    pub repo: String,
    /// A branch, a tag or a commit. Default "main".
    pub revision: String,
    /// The folder in it with the files of the splits. Default "": its root.
    pub folder: String,
    /// What the files hold. Default `Flora`.
    pub format: DataFormat,
}

/// What files of data hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataFormat {
    /// Records of FLORA-Bench.
    #[default]
    Flora,
    /// Chats, of a format that the first record tells; of another one as a part of a mixture that says its format.
    Chat,
}

/// The revision of whoever names none.
pub(crate) const MAIN: &str = "main";

/// The fields of [`HubModel`] and [`HubData`] by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFields {
    repo: String,
    #[serde(default)]
    revision: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataFields {
    repo: String,
    #[serde(default)]
    revision: Option<String>,
    #[serde(default)]
    folder: String,
    #[serde(default)]
    format: DataFormat,
}

impl From<ModelFields> for HubModel {
    fn from(fields: ModelFields) -> Self {
        Self { repo: fields.repo, revision: fields.revision.unwrap_or_else(|| MAIN.into()) }
    }
}

impl From<DataFields> for HubData {
    fn from(DataFields { repo, revision, folder, format }: DataFields) -> Self {
        Self { repo, revision: revision.unwrap_or_else(|| MAIN.into()), folder, format }
    }
}

impl From<(String, Option<String>)> for ModelFields {
    fn from((repo, revision): (String, Option<String>)) -> Self {
        Self { repo, revision }
    }
}

impl From<(String, Option<String>)> for DataFields {
    fn from((repo, revision): (String, Option<String>)) -> Self {
        Self { repo, revision, folder: String::new(), format: DataFormat::default() }
    }
}

impl<'de> Deserialize<'de> for HubModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(deserializer.deserialize_any(Short::<ModelFields>(PhantomData))?.into())
    }
}

impl<'de> Deserialize<'de> for HubData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(deserializer.deserialize_any(Short::<DataFields>(PhantomData))?.into())
    }
}

/// Reads the name alone, name and revision, or the fields by name.
struct Short<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + From<(String, Option<String>)>> Visitor<'de> for Short<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"org/name\", or repo: \"org/name\", revision: \"…\"")
    }

    fn visit_str<E: serde::de::Error>(self, repo: &str) -> Result<T, E> {
        Ok((repo.to_owned(), None).into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<T, A::Error> {
        let Some(repo) = parts.next_element()? else {
            return Err(serde::de::Error::custom("expected the name of a repository, such as \"org/name\""));
        };
        let revision = parts.next_element()?;
        Ok((repo, revision).into())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// As it is written in a recipe.
impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            MAIN => write!(f, "Hub({:?})", self.repo),
            revision => write!(f, "Hub({:?}, {revision:?})", self.repo),
        }
    }
}
