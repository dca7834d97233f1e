//! From a document to our types: what does not fit is named by its path and line.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::{Node, Path, Step, Value, scalar};

/// A field whose value is of another type than the API's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FieldError {
    /// The field.
    pub path: Path,
    /// Its line; 0 where only its parent's is known.
    pub line: usize,
    /// What it has to be.
    pub reason: String,
}

impl de::Error for FieldError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: Path::default(), line: 0, reason: message.to_string() }
    }
}

impl FieldError {
    fn new(node: &Node, must: &str) -> Self {
        let found = match &node.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "fields",
        };
        Self {
            path: Path::default(),
            line: node.line,
            reason: format!("it has {found}, and must have {must}"),
        }
    }

    fn within(mut self, step: Step, node: &Node) -> Self {
        self.path.0.insert(0, step);
        if self.line == 0 {
            self.line = node.line;
        }
        self
    }
}

impl Node {
    /// Reads the value as a type.
    ///
    /// # Errors
    /// [`FieldError`], with a path from this value on.
    pub fn read<'a, T: de::Deserialize<'a>>(&'a self) -> Result<T, FieldError> {
        T::deserialize(self).map_err(|mut error| {
            if error.line == 0 {
                error.line = self.line;
            }
            error
        })
    }
}

const WHOLE: &str = "a whole number that is not negative, and less than 2^32 where it is a user or group";

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty,)+) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            match self.value {
                Value::Int(number) => match <$type>::try_from(number) {
                    Ok(number) => visitor.$visit(number),
                    Err(_) => Err(FieldError { reason: format!("{number} is not {WHOLE}"), ..FieldError::new(self, "") }),
                },
                // As JSON's numbers, of which 8.0 is one.
                Value::Float(number) if number.fract() == 0.0 && (0.0..4e9).contains(&number) => {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and in bounds")]
                    visitor.visit_u32(number as u32)
                }
                _ => Err(FieldError::new(self, "a number")),
            }
        }
    )+ };
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(is) => visitor.visit_bool(*is),
            Value::Int(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => visitor.visit_i64(number),
                (_, Ok(number)) => visitor.visit_u64(number),
                _ => Err(FieldError::new(self, "a smaller one")),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match &self.value {
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                Err(FieldError::new(self, "a text: write it in quotes"))
            }
            _ => Err(FieldError::new(self, "a text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.value {
            Value::Bool(is) => visitor.visit_bool(is),
            _ => Err(FieldError::new(self, "true or false, without quotes")),
        }
    }

    numbers! {
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_i64 visit_i64 i64,
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match &self.value {
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            _ => Err(FieldError::new(self, "a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match &self.value {
            Value::Map(_) => visitor.visit_map(Fields { node: self, next: 0 }),
            _ => Err(FieldError::new(self, "fields")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum
    }
}

struct Items<'de> {
    items: &'de [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = FieldError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, FieldError> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(node).map(Some).map_err(|error| error.within(Step::Item(self.next - 1), node))
    }
}

struct Fields<'de> {
    node: &'de Node,
    next: usize,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = FieldError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, FieldError> {
        let Some(field) = self.node.fields().get(self.next) else { return Ok(None) };
        let name: de::value::StrDeserializer<'_, FieldError> = field.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, FieldError> {
        let field = &self.node.fields()[self.next];
        self.next += 1;
        let step = || Step::Field(field.name.clone().into());
        seed.deserialize(&field.value).map_err(|error| error.within(step(), &field.value))
    }
}

/// A number's text as it would be in JSON.
pub(crate) fn number(number: f64) -> String {
    scalar::float(number)
}
