//! Configuration in layers: defaults ← YAML file ← environment ← `--set key=value`, checked after each.
//!
//! After each layer the whole is read into the caller's struct, so that an error names the file, variable or flag
//! that is at fault, and the key. Structs use `deny_unknown_fields`: a misspelt key is an error, not a default.

mod bytesize;
pub mod duration;
pub mod watched;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

pub use self::bytesize::{ByteSize, ByteSizeError};

/// Why a configuration can't be used: where the fault is, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no YAML.
    #[error("the configuration file {} is no valid YAML: {fault}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        fault: String,
    },
    /// A `--set` or a variable's name can't be taken apart.
    #[error("{origin}: {fault}")]
    Override {
        /// The flag or variable.
        origin: String,
        /// What is wrong, and how it should read.
        fault: String,
    },
    /// A key is unknown, or its value has the wrong form.
    #[error("{origin}: key `{key}`: {fault}; correct or remove it")]
    Value {
        /// The file, variable or flag that brought it in.
        origin: String,
        /// The key's path, parts joined by dots; `.` is the whole.
        key: String,
        /// What is wrong.
        fault: String,
    },
}

/// Where a configuration comes from, so that it can be read again.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// YAML file.
    pub file: Option<PathBuf>,
    /// What the names of its environment variables begin with.
    pub env_prefix: String,
    /// Values of `--set`.
    pub sets: Vec<String>,
}

impl Layers {
    /// Reads it, as [`load`] does.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load<T>(&self) -> Result<T, ConfigError>
    where
        T: Serialize + DeserializeOwned + Default,
    {
        load(self.file.as_deref(), &self.env_prefix, &self.sets)
    }
}

/// Reads a configuration.
///
/// A variable belongs to it when its name is `env_prefix`, two underscores and the key's path, parts joined by two
/// underscores and in any case: with the prefix `IMACCESS_GATEWAY`, `IMACCESS_GATEWAY__LISTEN__TCP` is `listen.tcp`. Its
/// value, like that of `--set listen.tcp=…`, is YAML: `5s`, `[1, 2]`, `{a: 1}`. Mappings are merged key by key, anything
/// else is replaced; a part of a path that is a number picks an element of an existing list.
pub fn load<T>(file: Option<&Path>, env_prefix: &str, sets: &[String]) -> Result<T, ConfigError>
where
    T: Serialize + DeserializeOwned + Default,
{
    // Names and values that aren't UTF-8 can't be ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load_from(file, env_prefix, environment, sets)
}

fn load_from<T>(
    file: Option<&Path>,
    env_prefix: &str,
    environment: impl Iterator<Item = (String, String)>,
    sets: &[String],
) -> Result<T, ConfigError>
where
    T: Serialize + DeserializeOwned + Default,
{
    let mut whole = serde_yaml::to_value(T::default()).map_err(|fault| ConfigError::Value {
        origin: "the built-in defaults".to_owned(),
        key: ".".to_owned(),
        fault: fault.to_string(),
    })?;
    if let Some(path) = file {
        merge(&mut whole, read_file(path)?);
        read::<T>(&whole, &format!("the configuration file {}", path.display()))?;
    }
    let prefix = format!("{}__", env_prefix.trim_end_matches('_'));
    let mut variables: Vec<_> = environment
        .filter_map(|(name, value)| Some((name.strip_prefix(&prefix)?.to_ascii_lowercase(), name, value)))
        .collect();
    // The environment has no order of its own; a fixed one makes overlapping keys the same in every run.
    variables.sort();
    for (key, name, value) in variables {
        let path: Vec<&str> = key.split("__").collect();
        override_key::<T>(
            &mut whole,
            &path,
            &value,
            &format!("the environment variable {name}"),
        )?;
    }
    for flag in sets {
        let origin = format!("--set {flag}");
        let Some((key, value)) = flag.split_once('=') else {
            let fault = "it must read --set key.path=value".to_owned();
            return Err(ConfigError::Override { origin, fault });
        };
        let path: Vec<&str> = key.trim().split('.').collect();
        override_key::<T>(&mut whole, &path, value, &origin)?;
    }
    read(&whole, "the configuration")
}

fn read_file(path: &Path) -> Result<Value, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let value: Value = serde_yaml::from_str(&text).map_err(|fault| ConfigError::Syntax {
        path: path.to_owned(),
        fault: fault.to_string(),
    })?;
    match value {
        // A file of comments only changes nothing.
        Value::Null => Ok(Value::Mapping(Mapping::new())),
        Value::Mapping(_) => Ok(value),
        _ => {
            let fault = "the top level must be `key: value` lines".to_owned();
            Err(ConfigError::Syntax {
                path: path.to_owned(),
                fault,
            })
        }
    }
}

fn override_key<T: DeserializeOwned>(
    whole: &mut Value,
    path: &[&str],
    text: &str,
    origin: &str,
) -> Result<(), ConfigError> {
    let fault = |fault: String| ConfigError::Override {
        origin: origin.to_owned(),
        fault,
    };
    let value: Value = serde_yaml::from_str(text)
        .map_err(|error| fault(format!("the value {text:?} is no valid YAML: {error}")))?;
    let place = place(whole, path).map_err(|part| {
        fault(format!(
            "there is no place for `{part}` in `{}`: check the key",
            path.join(".")
        ))
    })?;
    merge(place, value);
    read::<T>(whole, origin).map(drop)
}

/// The value at `path`, made (as mappings) where it isn't there; the part that can't be is the error.
fn place<'v, 'p>(mut at: &'v mut Value, path: &[&'p str]) -> Result<&'v mut Value, &'p str> {
    for &part in path {
        if part.is_empty() {
            return Err(part);
        }
        if at.is_null() {
            *at = Value::Mapping(Mapping::new());
        }
        at = match at {
            Value::Mapping(mapping) => mapping
                .entry(Value::String(part.to_owned()))
                .or_insert(Value::Null),
            Value::Sequence(list) => {
                let index: usize = part.parse().map_err(|_| part)?;
                list.get_mut(index).ok_or(part)?
            }
            _ => return Err(part),
        };
    }
    Ok(at)
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Mapping(into), Value::Mapping(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn read<T: DeserializeOwned>(whole: &Value, origin: &str) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(whole.clone()).map_err(|error| ConfigError::Value {
        origin: origin.to_owned(),
        key: error.path().to_string(),
        fault: error.into_inner().to_string(),
    })
}

#[cfg(test)]
mod tests;
