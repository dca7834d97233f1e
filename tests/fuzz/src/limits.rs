//! What a reader may take of the host for one input.

use std::time::Duration;

use crate::sys::{cpu_time, peak_of};

/// Longest input that is tried, in bytes.
pub const MAX_INPUT: usize = 64 << 10;

/// Most memory that a reader may have allocated at once, in bytes. An initdata document may have 8 MiB, and a buffer
/// that grows doubles: no other reader comes near.
pub const MAX_MEMORY: u64 = 32 << 20;

/// Most CPU time for one input, unoptimized. What is quadratic needs seconds for [`MAX_INPUT`].
pub const MAX_TIME: Duration = Duration::from_secs(2);

/// Runs `work` and panics when it took more than it may.
///
/// # Panics
/// Beyond [`MAX_MEMORY`] or [`MAX_TIME`].
pub fn within(work: impl FnOnce()) {
    let start = cpu_time();
    let memory = peak_of(work);
    let time = cpu_time().saturating_sub(start);
    assert!(
        memory <= MAX_MEMORY,
        "the reader allocated {memory} bytes at once, and {MAX_MEMORY} are allowed"
    );
    assert!(time <= MAX_TIME, "the reader took {time:?} of CPU time, and {MAX_TIME:?} are allowed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_at_once_counts() {
        let half = usize::try_from(MAX_MEMORY / 2).unwrap();
        // One after the other is fine, together they are too much.
        within(|| (0..4).for_each(|_| drop(std::hint::black_box(vec![1_u8; half]))));
        let both = || drop(std::hint::black_box((vec![1_u8; half], vec![1_u8; half + 1])));
        assert!(std::panic::catch_unwind(|| within(both)).is_err());
    }

    #[test]
    fn a_busy_loop_is_seen() {
        let start = cpu_time();
        let busy = || while cpu_time() < start + 2 * MAX_TIME {};
        assert!(std::panic::catch_unwind(|| within(busy)).is_err());
    }
}
