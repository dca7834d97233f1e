//! An error with all that is underneath.

use std::error::Error;
use std::iter;

/// An error with its causes, outermost first, on one line and joined by `: `.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let causes = iter::successors(Some(error), |error: &&dyn Error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the key")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("first\r\nsecond")]
    struct Inner;

    #[test]
    fn causes_follow_on_the_same_line() {
        assert_eq!(one_line(&Outer(Inner)), "cannot read the key: first  second");
        assert_eq!(one_line(&Inner), "first  second");
    }
}
