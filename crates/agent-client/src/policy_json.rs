//! How fields look in the JSON that kata-agent shows its policy engine (kata-containers 4.1.0,
//! `src/libs/protocols/src/serde_config.rs`): an absent message is null, an enum its number.

use protobuf::{Enum, EnumOrUnknown, MessageField};
use serde::{Serialize, Serializer};

pub(crate) fn message<M: Serialize, S: Serializer>(
    field: &MessageField<M>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match field.as_ref() {
        Some(message) => message.serialize(to),
        None => to.serialize_unit(),
    }
}

pub(crate) fn enumeration<E: Enum, S: Serializer>(
    field: &EnumOrUnknown<E>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.serialize_i32(field.value())
}
