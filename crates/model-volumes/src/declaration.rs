//! `volumes.toml` of a pod's initdata: a table for each model volume, called as the pod's volume is.
//!
//! ```toml
//! [weights]
//! kind = "luks2"
//! uuid = "0f8a237d-48ca-4305-ba9f-d2efb00fcd98"
//! key = "kbs:///default/key/weights"
//! root_hash = "..."
//!
//! [tokenizer]
//! kind = "verity"
//! root_hash = "..."
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use verity::RootHash;

use crate::superblock::Uuid;

/// The document's name in initdata.
pub const DOCUMENT: &str = "volumes.toml";
/// Largest document, in bytes.
pub(crate) const MAX_DOCUMENT: usize = 64 << 10;
/// More than any pod has.
pub(crate) const MAX_VOLUMES: usize = 64;
/// How a key is named: a resource of the pod's only key broker.
const SCHEME: &str = "kbs:///";

/// Why a document is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclarationError {
    /// It is no TOML, or has a key or value that means nothing.
    #[error("{0}")]
    Syntax(String),
    /// More bytes than a document has.
    #[error("it has {0} bytes, and may have {MAX_DOCUMENT}")]
    Size(usize),
    /// More volumes than a pod has.
    #[error("it declares {0} volumes, and may declare {MAX_VOLUMES}")]
    Many(usize),
    /// A name that no volume of a pod has.
    #[error("{0:?} is no volume's name: those have lower-case letters, digits and dashes")]
    Name(String),
    /// Two volumes of one content.
    #[error("two volumes have the root hash {0}: one volume can be mounted in several places")]
    Root(RootHash),
    /// Two volumes of one disk.
    #[error("two volumes have the UUID {0}: make one of the disks anew")]
    Uuid(Uuid),
}

/// What opens a disk: `repository/type/tag` at the pod's key broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPath(String);

/// It is no name of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no key: write kbs:///REPOSITORY/TYPE/TAG, of letters, digits, `_`, `-` and, but at the beginning of a part, \
     `.`"
)]
pub struct NotAKey(String);

impl KeyPath {
    /// `repository/type/tag`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

impl FromStr for KeyPath {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let is_part = |part: &str| {
            part.len() <= 255
                && part.bytes().next().is_some_and(plain)
                && part.bytes().all(|byte| plain(byte) || byte == b'.')
        };
        let path = text
            .strip_prefix(SCHEME)
            .filter(|path| path.split('/').count() == 3 && path.split('/').all(is_part));
        path.map(|path| Self(path.to_owned())).ok_or_else(|| NotAKey(text.chars().take(255).collect()))
    }
}

impl<'de> Deserialize<'de> for KeyPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// How a volume is on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Verity,
    /// Encrypted.
    Luks2 {
        /// By what the disk is known.
        uuid: Uuid,
        /// What opens it.
        key: KeyPath,
    },
}

/// A volume as the document writes it.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Written {
    Verity { root_hash: RootHash },
    Luks2 { root_hash: RootHash, uuid: Uuid, key: KeyPath },
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Of the image with its tree: what a container reads, or nothing.
    pub root: RootHash,
    /// How it is on its disk.
    pub kind: Kind,
}

/// A volume with its name.
pub type Declared<'a> = (&'a str, &'a Volume);

/// All volumes of a pod, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volumes(BTreeMap<String, Volume>);

impl Volumes {
    /// Reads a document.
    ///
    /// # Errors
    /// [`DeclarationError`].
    pub fn parse(text: &str) -> Result<Self, DeclarationError> {
        if text.len() > MAX_DOCUMENT {
            return Err(DeclarationError::Size(text.len()));
        }
        let written: BTreeMap<String, Written> =
            toml::from_str(text).map_err(|error| DeclarationError::Syntax(error.message().to_owned()))?;
        if written.len() > MAX_VOLUMES {
            return Err(DeclarationError::Many(written.len()));
        }
        let (mut roots, mut uuids) = (BTreeSet::new(), BTreeSet::new());
        let mut volumes = BTreeMap::new();
        for (name, written) in written {
            let (root, kind) = match written {
                Written::Verity { root_hash } => (root_hash, Kind::Verity),
                Written::Luks2 { root_hash, uuid, key } => (root_hash, Kind::Luks2 { uuid, key }),
            };
            if !is_label(&name) {
                return Err(DeclarationError::Name(name.chars().take(80).collect()));
            }
            if !roots.insert(root) {
                return Err(DeclarationError::Root(root));
            }
            if let Kind::Luks2 { uuid, .. } = kind
                && !uuids.insert(uuid)
            {
                return Err(DeclarationError::Uuid(uuid));
            }
            volumes.insert(name, Volume { root, kind });
        }
        Ok(Self(volumes))
    }

    /// The volume of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Volume> {
        self.0.get(name)
    }

    /// All, by their names.
    pub fn iter(&self) -> impl Iterator<Item = Declared<'_>> {
        self.0.iter().map(|(name, volume)| (name.as_str(), volume))
    }

    /// The volume with this content.
    #[must_use]
    pub fn with_root(&self, root: RootHash) -> Option<Declared<'_>> {
        self.iter().find(|(_, volume)| volume.root == root)
    }

    /// The encrypted volume on the disk with this UUID.
    #[must_use]
    pub fn with_uuid(&self, wanted: Uuid) -> Option<Declared<'_>> {
        self.iter().find(|(_, volume)| matches!(volume.kind, Kind::Luks2 { uuid, .. } if uuid == wanted))
    }

    /// Whether one of them needs a key.
    #[must_use]
    pub fn need_keys(&self) -> bool {
        self.iter().any(|(_, volume)| matches!(volume.kind, Kind::Luks2 { .. }))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A name as Kubernetes wants it (RFC 1123).
fn is_label(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| letter(byte) || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "0f8a237d-48ca-4305-ba9f-d2efb00fcd98";

    fn root(digit: &str) -> String {
        digit.repeat(64)
    }

    fn luks(name: &str, digit: &str, uuid: &str) -> String {
        let root = root(digit);
        format!(
            "[{name}]\nkind = \"luks2\"\nuuid = \"{uuid}\"\nkey = \"kbs:///default/key/weights\"\nroot_hash = \"{root}\"\n"
        )
    }

    #[test]
    fn both_kinds_are_found_by_what_is_known_of_a_disk() {
        let text =
            format!("{}[t]\nkind = \"verity\"\nroot_hash = \"{}\"\n", luks("weights", "a", UUID), root("b"));
        let volumes = Volumes::parse(&text).unwrap();
        assert!(volumes.need_keys() && !volumes.is_empty());
        let (name, volume) = volumes.with_uuid(UUID.parse().unwrap()).unwrap();
        let Kind::Luks2 { key, .. } = &volume.kind else { panic!("{volume:?}") };
        assert_eq!((name, key.as_str()), ("weights", "default/key/weights"));
        assert_eq!(key.to_string(), "kbs:///default/key/weights");
        let root = root("b").parse().unwrap();
        assert_eq!(volumes.with_root(root).unwrap().0, "t");
        assert_eq!(volumes.get("t").unwrap(), &Volume { root, kind: Kind::Verity });
        assert!(!Volumes::parse("").unwrap().need_keys());
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let good = luks("w", "a", UUID);
        Volumes::parse(&good).unwrap();
        let verity = |more: &str| format!("[w]\nkind = \"verity\"\nroot_hash = \"{}\"\n{more}", root("a"));
        let many: String = (0..=MAX_VOLUMES)
            .map(|number| format!("[v{number}]\nkind = \"verity\"\nroot_hash = \"{number:064x}\"\n"))
            .collect();
        for (text, said) in [
            (format!("{good}mode = \"rw\"\n"), "mode"),
            (verity("key = \"kbs:///a/b/c\"\n"), "key"),
            (good.replace("luks2", "luks1"), "luks1"),
            (good.replace("kind = \"luks2\"\n", ""), "kind"),
            (good.replace("kbs:///", "kbs://other/"), "names no key"),
            (good.replace("kbs:///", "file:///"), "names no key"),
            (good.replace("default/key", "../key"), "names no key"),
            (good.replace(&root("a"), &root("A")), "a root hash is"),
            (good.replace(UUID, "x"), "a UUID is"),
            (good.replace("[w]", "[\"../w\"]"), "is no volume's name"),
            (good.replace("[w]", "[w.x]"), "kind"),
            (
                format!("{good}{}", luks("x", "a", "1f8a237d-48ca-4305-ba9f-d2efb00fcd98")),
                "two volumes have the root hash",
            ),
            (format!("{good}{}", luks("x", "b", UUID)), "two volumes have the UUID"),
            ("w = 1\n".to_owned(), "invalid type"),
            (many, "may declare 64"),
            (" ".repeat(MAX_DOCUMENT + 1), "may have 65536"),
        ] {
            let error = Volumes::parse(&text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\[[a-z.]{1,4}\\]\n|[a-z_]{1,9} = [\"0-9a-z]{0,9}\n|.{0,9}){0,9}") {
            let _ = Volumes::parse(&text);
        }
    }
}
