//! Chance that can be had again.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::or_fail::OrFail;

/// A small generator; its seed is printed, so that a failure can be repeated with `COFFER_TEST_SEED`.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// With the seed of the environment, or one of the moment.
    #[allow(clippy::new_without_default, reason = "a default is the same every time")]
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).or_fail("the time");
        let seed = std::env::var("COFFER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(now.subsec_nanos()) | 1);
        println!("COFFER_TEST_SEED={seed}");
        Self(seed)
    }

    /// A number below `limit`, by xorshift64 (Marsaglia 2003), reduced.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = self.below(u64::try_from(choices.len()).or_fail("choices"));
        &choices[usize::try_from(index).or_fail("a choice")]
    }
}
