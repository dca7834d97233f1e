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

/// It is no address of a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{uri:?} is no resource of this pod's key broker: write kbs:///REPOSITORY/TYPE/TAG")]
pub struct NoUri {
    /// What it is.
    pub uri: String,
}

impl ResourcePath {
    /// The resource at `kbs:///repository/type/tag`. The address may name the broker, which is at `authority`, and no other one
    /// (guest-components, `attestation-agent/docs/RESOURCE_URI.md`).
    ///
    /// # Errors
    ///
    /// [`NoUri`].
    pub fn from_uri(uri: &str, authority: &str) -> Result<Self, NoUri> {
        let path = uri.strip_prefix("kbs://").and_then(|rest| rest.split_once('/'));
        let path = path.filter(|(host, _)| host.is_empty() || *host == authority);
        let no_uri = || NoUri { uri: uri.chars().take(LONGEST_PART).collect() };
        path.and_then(|(_, path)| path.parse().ok()).ok_or_else(no_uri)
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

    #[test]
    fn an_address_may_name_this_broker_and_no_other_one() {
        let of = |uri| ResourcePath::from_uri(uri, "192.0.2.10:8080").map(|path| path.to_string());
        for uri in ["kbs:///default/key/model", "kbs://192.0.2.10:8080/default/key/model"] {
            assert_eq!(of(uri).unwrap(), "default/key/model", "{uri}");
        }
        for uri in [
            "",
            "default/key/model",
            "kbs://default/key/model",
            "kbs://192.0.2.10/default/key/model",
            "kbs://192.0.2.11:8080/default/key/model",
            "kbs:///default/key",
            "kbs:///default/../model",
            "kbs:///default/key/model?x=1",
            "kbs+pkcs11:///default/key/model",
            "file:///default/key/model",
        ] {
            let error = of(uri).unwrap_err().to_string();
            assert!(error.contains("kbs:///REPOSITORY/TYPE/TAG"), "{error}");
        }
    }
}
