//! An installation's name, and the names that follow from it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which of several installations on a node. The usual one is `default`; another one has its name in its directories and at
/// the end of its handlers' names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Instance(String);

/// What a name may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the instance's name {name:?} cannot be used: take 1 to 20 of a-z and 0-9, not \"tdx\" or \"snp\", which other handlers' names end with"
)]
pub struct BadInstance {
    name: String,
}

impl Instance {
    /// The usual one.
    #[must_use]
    pub fn usual() -> Self {
        Self("default".to_owned())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The one whose directory in `/opt` is called so.
    pub(crate) fn of_directory(name: &str) -> Option<Self> {
        match name.strip_prefix("coffer")? {
            "" => Some(Self::usual()),
            rest => rest.strip_prefix('-')?.parse().ok(),
        }
    }

    fn suffix(&self) -> String {
        if self.0 == "default" { String::new() } else { format!("-{}", self.0) }
    }

    /// Where all that it brings is, as the host calls it.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("/opt/coffer{}", self.suffix())
    }

    /// Where its configuration files are.
    #[must_use]
    pub fn etc(&self) -> String {
        format!("/etc/coffer{}", self.suffix())
    }

    /// The base of the names of its files in other programs' directories.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("coffer{}", self.suffix())
    }

    /// A runtime class's handler.
    #[must_use]
    pub fn handler(&self, class: &str) -> String {
        format!("{class}{}", self.suffix())
    }

    /// The link to the version that new pods get.
    #[must_use]
    pub fn current(&self) -> String {
        format!("{}/current", self.prefix())
    }

    /// A runtime class's configuration file.
    #[must_use]
    pub fn config(&self, class: &str) -> String {
        let name = if class == "coffer" { "config" } else { class };
        format!("{}/{name}.toml", self.etc())
    }
}

impl TryFrom<String> for Instance {
    type Error = BadInstance;

    fn try_from(name: String) -> Result<Self, BadInstance> {
        let fits = (1..=20).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && !["tdx", "snp"].contains(&name.as_str());
        if fits { Ok(Self(name)) } else { Err(BadInstance { name }) }
    }
}

impl std::str::FromStr for Instance {
    type Err = BadInstance;

    fn from_str(name: &str) -> Result<Self, BadInstance> {
        name.to_owned().try_into()
    }
}

impl From<Instance> for String {
    fn from(Instance(name): Instance) -> Self {
        name
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_two_instances_never_meet() {
        let (usual, next): (Instance, Instance) = (Instance::usual(), "next".parse().unwrap());
        assert_eq!((usual.prefix(), next.prefix()), ("/opt/coffer".into(), "/opt/coffer-next".into()));
        for instance in [&usual, &next] {
            let name = instance.file_name();
            assert_eq!(Instance::of_directory(&name).as_ref(), Some(instance));
        }
        assert_eq!([Instance::of_directory("coffers"), Instance::of_directory("cof")], [None, None]);
        assert_eq!(usual.config("coffer"), "/etc/coffer/config.toml");
        assert_eq!(next.config("coffer-tdx"), "/etc/coffer-next/coffer-tdx.toml");
        assert_eq!(next.handler("coffer-tdx"), "coffer-tdx-next");
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        for name in ["", "tdx", "snp", "../x", "a/b", "Big", "a b", "a-b", &"x".repeat(21)] {
            let error = name.parse::<Instance>().unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
    }
}
