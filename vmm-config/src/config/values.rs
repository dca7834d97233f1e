//! How each type of value is read from TOML and shown as JSON.

use std::fmt;
use std::path::Path;

use serde_json::Value as Json;
use toml::de::DeValue;

use crate::image::FileName;
use crate::request::AnnotationKey;
use crate::units::{MemorySize, Vcpus, VmMemory};

/// A type that a configuration key can have.
pub(super) trait Value: Sized {
    /// Reads and checks the value; the error is the rest of a sentence that starts with the key.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;

    /// The value as `coffer config -o json` shows it.
    fn to_json(&self) -> Json;
}

/// Implements [`Value`] for an enum whose variants are names in the file.
macro_rules! choice {
    ($type:ident { $($name:literal => $variant:ident),+ }) => {
        impl $type {
            /// The values that exist, as they are written in the file.
            pub const NAMES: &[&str] = &[$($name),+];

            /// The value's name in the file.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }
        }

        impl $crate::config::values::Value for $type {
            fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
                match $crate::config::values::text(value)? {
                    $( $name => Ok(Self::$variant), )+
                    other => Err(format!("is {other:?}; values that exist: {}", Self::NAMES.join(", "))),
                }
            }

            fn to_json(&self) -> serde_json::Value {
                self.name().into()
            }
        }
    };
}
pub(super) use choice;

/// An absolute path without NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsolutePath(String);

impl AbsolutePath {
    /// For defaults, which the tests check.
    pub(super) fn known(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// Checks that the path is absolute.
    ///
    /// # Errors
    /// A sentence's end that says what is wrong.
    pub fn new(path: &str) -> Result<Self, String> {
        if path.starts_with('/') && !path.contains('\0') {
            Ok(Self(path.to_owned()))
        } else {
            Err(format!("is {path:?}; it must be an absolute path"))
        }
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The path, as QEMU's command line takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The file of that name in this directory.
    pub(crate) fn file(&self, name: &FileName) -> Self {
        Self(format!("{}/{}", self.0.trim_end_matches('/'), name.as_str()))
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A program: an absolute path, or a bare name to look up in PATH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(String);

impl Program {
    /// For defaults, which the tests check.
    pub(super) fn known(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Checks the form.
    ///
    /// # Errors
    /// A sentence's end that says what is wrong.
    pub fn new(name: &str) -> Result<Self, String> {
        let bare = !name.is_empty() && !name.contains('/');
        if (bare || name.starts_with('/')) && !name.contains('\0') {
            Ok(Self(name.to_owned()))
        } else {
            Err(format!("is {name:?}; it must be an absolute path or a program's bare name"))
        }
    }

    /// Path or name; a name has no slash, which is what `execvp` looks up in PATH.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for AbsolutePath {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::new(text(value)?)
    }

    fn to_json(&self) -> Json {
        self.as_str().into()
    }
}

impl Value for Option<AbsolutePath> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        AbsolutePath::from_toml(value).map(Some)
    }

    fn to_json(&self) -> Json {
        self.as_ref().map_or(Json::Null, Value::to_json)
    }
}

impl Value for Program {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::new(text(value)?)
    }

    fn to_json(&self) -> Json {
        self.as_str().into()
    }
}

impl Value for Vcpus {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::new(count(value)?).map_err(|e| format!("is wrong: {e}"))
    }

    fn to_json(&self) -> Json {
        self.get().into()
    }
}

impl Value for VmMemory {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::new(MemorySize::from_mib(count(value)?)).map_err(|e| format!("is wrong: {e}"))
    }

    fn to_json(&self) -> Json {
        self.size().mib().into()
    }
}

impl Value for MemorySize {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let size = Self::from_mib(count(value)?);
        if size > VmMemory::MAX {
            return Err(format!("is wrong: {size} of memory is above {}", VmMemory::MAX));
        }
        Ok(size)
    }

    fn to_json(&self) -> Json {
        self.mib().into()
    }
}

impl Value for Vec<AnnotationKey> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::Array(items) = value else { return Err(form(value, "a list of strings")) };
        let mut keys = Vec::new();
        for item in items {
            let name = text(item.get_ref())?;
            let key = AnnotationKey::from_name(name).ok_or_else(|| {
                let known: Vec<_> = AnnotationKey::ALL.iter().map(|k| k.name()).collect();
                format!("holds {name:?}; annotations that exist: {}", known.join(", "))
            })?;
            if keys.contains(&key) {
                return Err(format!("holds {name:?} twice"));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    fn to_json(&self) -> Json {
        self.iter().map(|k| k.name()).collect()
    }
}

/// The text of a string value.
pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| form(value, "a string"))
}

/// A number that is not negative, in any of TOML's notations.
fn count(value: &DeValue<'_>) -> Result<u64, String> {
    let DeValue::Integer(digits) = value else { return Err(form(value, "a whole number")) };
    u64::from_str_radix(digits.as_str(), digits.radix())
        .map_err(|_| format!("is {}; it must be a whole number from 0 on", digits.as_str()))
}

fn form(value: &DeValue<'_>, wanted: &str) -> String {
    let article = if value.type_str().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("is {article} {}; it must be {wanted}", value.type_str())
}
