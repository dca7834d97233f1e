//! Names of a key broker's resources.

use std::fmt;
use std::str::FromStr;

/// Longest part of a name in bytes.
const LONGEST_PART: usize = 255;

/// `repository/type/tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourcePath(String);

/// It is no name of a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no resource: it has three parts, repository/type/tag, of letters, digits, `_`, `-` and, but at the \
     beginning, `.`"
)]
pub struct NoPath(String);

impl FromStr for ResourcePath {
    type Err = NoPath;

    fn from_str(text: &str) -> Result<Self, NoPath> {
        // What Trustee takes as one (`kbs/src/plugins/implementations/resource`): with it, no part can be `..` or a query.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let is_part = |part: &str| {
            let bytes = part.as_bytes();
            bytes.len() <= LONGEST_PART
                && bytes.first().is_some_and(|byte| plain(*byte))
                && bytes.iter().all(|byte| plain(*byte) || *byte == b'.')
        };
        let whole = text.split('/').count() == 3 && text.split('/').all(is_part);
        if whole { Ok(Self(text.to_owned())) } else { Err(NoPath(text.chars().take(LONGEST_PART).collect())) }
    }
}

impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_plain_parts_are_a_name_and_nothing_else_is() {
        for text in ["default/key/model", "a/b/c", "my-repo/key_1/v1.2..3", "_/-/x"] {
            assert_eq!(text.parse::<ResourcePath>().unwrap().to_string(), text);
        }
        let long = format!("a/b/{}", "c".repeat(256));
        for text in [
            "",
            "a",
            "a/b",
            "a/b/c/d",
            "a//c",
            "/a/b",
            "../b/c",
            "a/../c",
            "a/b/.",
            "a/b/c?x=1",
            "a/b/c#d",
            "a/b/%2e%2e",
            "a b/c/d",
            "a/b/c\r\nX: y",
            "ä/b/c",
            &long,
        ] {
            assert!(text.parse::<ResourcePath>().is_err(), "{text:?}");
        }
    }
}
