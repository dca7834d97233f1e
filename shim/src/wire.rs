//! What several of containerd's messages have in common.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim::protos::protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;

/// A point in time on the wire.
pub fn timestamp(at: SystemTime) -> MessageField<Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    MessageField::some(Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        ..Timestamp::default()
    })
}
