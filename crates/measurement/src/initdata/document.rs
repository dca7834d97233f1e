//! The document itself.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::MAX_PLAIN;
use super::binding::{HostData, MrConfigId};
use crate::{Sha256Digest, Sha384Digest, Sha512Digest};

/// The version of the document's format.
const VERSION: &str = "0.1.0";

/// With what a document is hashed. The specification spells them like IANA (`sha-384`), and the agents that
/// read the document do not accept that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `sha256`, which fills SNP's field.
    Sha256,
    /// `sha384`, which fills TDX's field.
    Sha384,
    /// `sha512`; only its beginning is bound.
    Sha512,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name in a document.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = DocumentError;

    fn from_str(text: &str) -> Result<Self, DocumentError> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.name() == text);
        found.ok_or_else(|| DocumentError::Algorithm(text.to_owned()))
    }
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Too large.
    #[error("the document has {0} bytes; at most {MAX_PLAIN} are read")]
    TooLarge(usize),
    /// No text.
    #[error("the document is not UTF-8: byte {0} is not part of a character")]
    Utf8(usize),
    /// No TOML, or not the fields that it must have.
    #[error("the document is not initdata: {0}")]
    Toml(String),
    /// Another version.
    #[error("the document's version is {0:?}, and only {VERSION:?} is known")]
    Version(String),
    /// Another algorithm.
    #[error("the algorithm {0:?} is not known; use sha256, sha384 or sha512, spelled like that")]
    Algorithm(String),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: String,
    algorithm: String,
    data: BTreeMap<String, String>,
}

/// A checked document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitData {
    raw: Vec<u8>,
    algorithm: Algorithm,
    data: BTreeMap<String, String>,
}

impl InitData {
    /// Reads a document.
    ///
    /// # Errors
    /// [`DocumentError`] for what is no document of version 0.1.0.
    pub fn parse(raw: Vec<u8>) -> Result<Self, DocumentError> {
        if raw.len() > MAX_PLAIN {
            return Err(DocumentError::TooLarge(raw.len()));
        }
        let text = str::from_utf8(&raw).map_err(|e| DocumentError::Utf8(e.valid_up_to()))?;
        let Raw { version, algorithm, data } =
            toml::from_str(text).map_err(|e| DocumentError::Toml(e.to_string().trim_end().to_owned()))?;
        if version != VERSION {
            return Err(DocumentError::Version(version));
        }
        Ok(Self { algorithm: algorithm.parse()?, data, raw })
    }

    /// The document's bytes.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// With what it is hashed.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether CoCo's `aa.toml` and `cdh.toml` in it name a key broker each. A text that is no TOML is for its reader to complain about.
    pub fn key_brokers(&self) -> (bool, bool) {
        let names = |file: &str, path: &[&str]| {
            let Some(text) = self.data.get(file) else { return false };
            let Ok(table) = toml::from_str::<toml::Value>(text) else { return true };
            path.iter().try_fold(&table, |value, key| value.get(*key)).is_some()
        };
        (names("aa.toml", &["token_configs", "kbs"]), names("cdh.toml", &["kbc"]))
    }

    /// The texts by name.
    pub const fn data(&self) -> &BTreeMap<String, String> {
        &self.data
    }

    /// The digest of the document's bytes: 32, 48 or 64 bytes.
    pub fn digest(&self) -> Vec<u8> {
        match self.algorithm {
            Algorithm::Sha256 => Sha256Digest::of(&self.raw).as_bytes().to_vec(),
            Algorithm::Sha384 => Sha384Digest::of(&self.raw).as_bytes().to_vec(),
            Algorithm::Sha512 => Sha512Digest::of(&self.raw).as_bytes().to_vec(),
        }
    }

    /// The digest as SNP's report carries it.
    pub fn host_data(&self) -> HostData {
        HostData::from_digest(&self.digest())
    }

    /// The digest as TDX's report carries it.
    pub fn mr_config_id(&self) -> MrConfigId {
        MrConfigId::from_digest(&self.digest())
    }
}

/// Writes a document with these texts; the same texts give the same bytes.
///
/// # Errors
/// [`DocumentError::TooLarge`] when the texts are too large together.
pub fn build(algorithm: Algorithm, data: BTreeMap<String, String>) -> Result<InitData, DocumentError> {
    let raw = Raw { version: VERSION.to_owned(), algorithm: algorithm.name().to_owned(), data };
    let text = toml::to_string_pretty(&raw).map_err(|e| DocumentError::Toml(e.to_string()))?;
    // What was written must be what is read; a writer's mistake is better found here than in the guest.
    let document = InitData::parse(text.into_bytes())?;
    if document.data != raw.data {
        return Err(DocumentError::Toml("it reads differently from what was written".to_owned()));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str =
        "version = \"0.1.0\"\nalgorithm = \"sha384\"\n\n[data]\n\"aa.toml\" = '''\n[token_configs]\n'''\n";

    fn parse(text: &str) -> Result<InitData, DocumentError> {
        InitData::parse(text.as_bytes().to_vec())
    }

    #[test]
    fn the_digest_is_that_of_the_bytes() {
        let document = parse(GOOD).unwrap();
        assert_eq!(document.algorithm(), Algorithm::Sha384);
        assert_eq!(document.data()["aa.toml"], "[token_configs]\n");
        assert_eq!(document.digest(), Sha384Digest::of(GOOD.as_bytes()).as_bytes());
        let same_content = GOOD.replace("\n\n", "\n");
        let other = parse(&same_content).unwrap();
        assert_eq!(other.data(), document.data());
        assert_ne!(other.digest(), document.digest());
    }

    #[test]
    fn each_algorithm_fills_the_fields_by_its_length() {
        for (algorithm, length) in [(Algorithm::Sha256, 32), (Algorithm::Sha384, 48), (Algorithm::Sha512, 64)]
        {
            let document = build(algorithm, BTreeMap::new()).unwrap();
            let digest = document.digest();
            assert_eq!(digest.len(), length);
            assert_eq!(document.host_data().as_bytes()[..], digest[..32]);
            let mut field = digest.clone();
            field.resize(48, 0);
            assert_eq!(document.mr_config_id().as_bytes()[..], field[..]);
        }
    }

    #[test]
    fn what_is_no_document() {
        let error = |from: &str, to: &str| parse(&GOOD.replace(from, to)).unwrap_err();
        assert_eq!(error("0.1.0", "0.2.0"), DocumentError::Version("0.2.0".to_owned()));
        let iana = error("sha384", "sha-384");
        assert_eq!(iana, DocumentError::Algorithm("sha-384".to_owned()));
        assert!(iana.to_string().contains("sha384"), "{iana}");
        for (from, to, cause) in [
            ("[data]", "[dat]", "data"),
            ("algorithm", "algorythm", "algorythm"),
            ("'''\n[token_configs]\n'''", "3", "string"),
            ("[data]", "[data", "expected"),
        ] {
            let message = error(from, to).to_string();
            assert!(message.contains(cause), "{message}");
        }
        assert_eq!(InitData::parse(vec![b'a', 0xff]), Err(DocumentError::Utf8(1)));
        let large = vec![b'#'; MAX_PLAIN + 1];
        assert_eq!(InitData::parse(large), Err(DocumentError::TooLarge(MAX_PLAIN + 1)));
    }

    proptest! {
        #[test]
        fn what_is_built_is_what_is_read(data: BTreeMap<String, String>) {
            let document = build(Algorithm::Sha256, data.clone()).unwrap();
            prop_assert_eq!(document.data(), &data);
            prop_assert_eq!(build(Algorithm::Sha256, data).unwrap(), document);
        }

        #[test]
        fn arbitrary_bytes_never_panic(raw: Vec<u8>, text: String) {
            let _ = InitData::parse(raw);
            let _ = parse(&text);
        }
    }
}
