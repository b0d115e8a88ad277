use serde_json::{Map, Value};

use crate::checkpoint::FileError;

/// Settings of a JSON object by name. `null` means absent, as it does to the library that writes them.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A setting as the type that `read` finds in it.
    fn read<T>(
        &self,
        key: &str,
        wanted: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(found) => Ok(Some(found)),
                None => {
                    let found = value.to_string().chars().take(60).collect();
                    Err(FileError::Setting { key: key.to_owned(), found, wanted })
                }
            },
        }
    }

    fn require<T>(&self, key: &str, wanted: &'static str, found: Option<T>) -> Result<T, FileError> {
        found.ok_or_else(|| FileError::Setting { key: key.to_owned(), found: "nothing".into(), wanted })
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, FileError> {
        self.read(key, SIZE, |v| v.as_u64().and_then(|v| usize::try_from(v).ok()))
    }

    pub(super) fn require_size(&self, key: &str) -> Result<usize, FileError> {
        self.require(key, SIZE, self.size(key)?)
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, FileError> {
        self.read(key, "a number", Value::as_f64)
    }

    pub(super) fn require_number(&self, key: &str) -> Result<f64, FileError> {
        self.require(key, "a number", self.number(key)?)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, FileError> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, FileError> {
        self.read(key, "a text", Value::as_str)
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, FileError> {
        self.read(key, "an object", Value::as_object)
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, FileError> {
        self.read(key, "a list of texts", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    pub(super) fn first_text(&self, key: &str) -> Result<Option<&'a str>, FileError> {
        Ok(self.texts(key)?.and_then(|texts| texts.first().copied()))
    }

    /// A token id, or a list of them.
    pub(super) fn ids(&self, key: &str) -> Result<Vec<u32>, FileError> {
        let id = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
        let ids = self.read(key, "token ids", |v| match v.as_array() {
            Some(list) => list.iter().map(id).collect(),
            None => id(v).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// Refuses a setting that is switched on and changes the computation.
    pub(super) fn must_be_off(&self, key: &str) -> Result<(), FileError> {
        self.must_be(key, false)
    }

    /// Refuses a setting that is given and not this.
    pub(super) fn must_be(&self, key: &str, wanted: bool) -> Result<(), FileError> {
        match self.flag(key)? {
            Some(found) if found != wanted => Err(FileError::Unsupported {
                what: format!("the setting {key} = {found}"),
                supported: if wanted { "models that set it to true" } else { "models that set it to false" },
            }),
            _ => Ok(()),
        }
    }
}

const SIZE: &str = "a whole number from 0 on";
