//! The engine for an agent's policy.

use std::num::{NonZeroU32, NonZeroUsize};

use regorus::{Engine, PolicyLengthConfig};

/// What kata-agent takes (4.1.0, `src/agent/policy/src/policy.rs`): lines of 64 KiB, files of 16 MiB with 200,000 lines. A
/// text of a container's, such as a variable, is on one line. The library's own limits are a part of that.
const LIMITS: PolicyLengthConfig = PolicyLengthConfig {
    max_col: NonZeroU32::MIN.saturating_add((64 << 10) - 1),
    max_file_bytes: NonZeroUsize::MIN.saturating_add((16 << 20) - 1),
    max_lines: NonZeroUsize::MIN.saturating_add(200_000 - 1),
};

/// One that reads what the agent reads, and no more.
pub(crate) fn engine() -> Engine {
    let mut engine = Engine::new();
    engine.set_policy_length_config(LIMITS);
    engine
}
