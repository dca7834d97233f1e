//! How each type of value is read from TOML and shown as JSON.

use jail::UserRange;
use serde_json::Value as Json;
use shared_types::{Accelerator, GpuMode, ModePolicy, ScratchSize};
use toml::de::DeValue;

use crate::annotation::AnnotationKey;
use crate::path::{AbsolutePath, Program};
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

/// A type that is one word of a list, and has its home in another crate.
pub trait Word: Copy + 'static {
    /// All of them.
    const ALL: &'static [Self];

    /// The word.
    fn name(self) -> &'static str;
}

macro_rules! word {
    ($($type:ty),+) => { $(
        impl Word for $type {
            const ALL: &'static [Self] = &<$type>::ALL;

            fn name(self) -> &'static str {
                <$type>::name(self)
            }
        }
    )+ };
}

word!(Accelerator, GpuMode, ModePolicy);

/// The one of these whose name that is, or what is wrong with the name; `others` are names that exist beside them.
fn word<T: Word>(name: &str, others: &[&str]) -> Result<T, String> {
    T::ALL.iter().copied().find(|word| word.name() == name).ok_or_else(|| {
        let known: Vec<_> = others.iter().copied().chain(T::ALL.iter().map(|word| word.name())).collect();
        format!("is {name:?}; values that exist: {}", known.join(", "))
    })
}

impl Value for ModePolicy {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        word(text(value)?, &[])
    }

    fn to_json(&self) -> Json {
        self.name().into()
    }
}

/// A value, or the one that fits the host and the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoOr<T> {
    /// The one that fits.
    Auto,
    /// This one.
    Is(T),
}

impl<T: Word> AutoOr<T> {
    /// The value's name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Is(word) => word.name(),
        }
    }
}

impl<T: Word> Value for AutoOr<T> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match text(value)? {
            "auto" => Ok(Self::Auto),
            name => word(name, &["auto"]).map(Self::Is),
        }
    }

    fn to_json(&self) -> Json {
        self.name().into()
    }
}

impl Value for AbsolutePath {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::new(text(value)?).map_err(|e| format!("is wrong: {e}"))
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
        Self::new(text(value)?).map_err(|e| format!("is wrong: {e}"))
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

/// The largest scratch disk that a pod may ask for; nothing where pods get none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScratchLimit(pub Option<ScratchSize>);

impl Value for ScratchLimit {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match count(value)? {
            0 => Ok(Self(None)),
            mib => ScratchSize::from_mib(mib)
                .map(|size| Self(Some(size)))
                .map_err(|_| format!("is {mib}; it must be 0, or 64 to 16777216")),
        }
    }

    fn to_json(&self) -> Json {
        self.0.map_or(0, ScratchSize::mib).into()
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

impl Value for UserRange {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::from_first(count(value)?).map_err(|reason| format!("is wrong: {reason}"))
    }

    fn to_json(&self) -> Json {
        self.first().into()
    }
}

impl Value for bool {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| form(value, "true or false"))
    }

    fn to_json(&self) -> Json {
        (*self).into()
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

pub(super) fn form(value: &DeValue<'_>, wanted: &str) -> String {
    let article = if value.type_str().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("is {article} {}; it must be {wanted}", value.type_str())
}
