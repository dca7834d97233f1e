//! Sealed secrets of the Confidential Containers project: `sealed.` and a JWS whose content names a resource of the key broker.
//!
//! Source: guest-components, `confidential-data-hub/docs/SEALED_SECRET.md` and `confidential-data-hub/hub/src/secret`.
//!
//! The host hands them over. A signature by a key of the broker's shows that the pod's owner wrote one: without, a host could
//! have any resource of the pod put where it likes, into a variable whose value is printed for example.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::Deserialize;
use shared_types::sealed::PREFIX;

use crate::broker::BrokerError;
use crate::jwe::{shown, uncompressed};
use crate::resource::{NoUri, ResourcePath};

/// The only version.
const VERSION: &str = "0.1.0";
/// Longest sealed text, and longest secret, in bytes.
pub const LONGEST: usize = 1 << 20;
/// Where CoCo's hub puts keys that the broker gives at its start; the name there is a key's id.
const CREDENTIALS: &str = "/run/confidential-containers/cdh/sealed-secret/";

/// What the pod's owner says of sealed secrets, in `cdh.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether those without a signature are taken.
    pub unsigned: bool,
    /// The broker's host and port, which a resource's address may name.
    pub authority: String,
    /// Addresses of the keys that have a short name.
    pub credentials: BTreeMap<String, String>,
}

impl Rules {
    /// Notes that a file of CoCo's hub has this resource's content: one with a key gives it a short name.
    pub fn credential(&mut self, path: &str, resource: &str) {
        let name = path.strip_prefix(CREDENTIALS).filter(|name| !name.is_empty());
        self.credentials.extend(name.map(|name| (name.to_owned(), resource.to_owned())));
    }

    fn path(&self, uri: &str) -> Result<ResourcePath, NoUri> {
        ResourcePath::from_uri(uri, &self.authority)
    }
}

/// Why a secret stays sealed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "Display says it")]
pub enum SealedError {
    /// It is another thing.
    #[error("it is no sealed secret: {0}")]
    Form(String),
    /// Another version's.
    #[error("it is of version {0:?}, and this guest opens version {VERSION:?}")]
    Version(String),
    /// The signature is by another algorithm.
    #[error("it is signed by {0:?}, and a sealed secret is signed by ES256")]
    Algorithm(String),
    /// Whose key signed it nobody says.
    #[error(
        "it is not signed ({0}): sign it (`secret seal --signing-kid`), or take it as the host gives it, by \
         skip_sealed_secret_verification = true in the initdata's cdh.toml"
    )]
    Unsigned(&'static str),
    /// Its key's id is no address.
    #[error(
        "the id of its key (kid) is neither a resource of the key broker nor in [[credentials]] of cdh.toml with a resource's \
         address"
    )]
    Kid(#[source] NoUri),
    /// What the broker has as its key is none.
    #[error("{path} is no public key on P-256 in JSON (JWK): {what}")]
    Key { path: ResourcePath, what: &'static str },
    /// Somebody else wrote it, or it was changed.
    #[error("its signature is not by the key {0}")]
    Signature(ResourcePath),
    /// Its resource has no address.
    #[error("it points to no resource of the key broker")]
    Name(#[source] NoUri),
    /// Another service has it.
    #[error("it is kept by {0:?}, and this guest asks a key broker (\"kbs\") only")]
    Provider(String),
    /// Another service would have to decrypt it.
    #[error(
        "it is an envelope that the key service {0:?} would have to open, and this guest asks none: seal it as a vault secret, \
         which points to a resource of the key broker"
    )]
    Envelope(String),
    /// Another kind.
    #[error("it is a {0:?}, and there are vault and envelope only")]
    Kind(String),
    /// The broker gives nothing.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// It would not fit.
    #[error("{path} has {bytes} bytes, and a secret has at most {LONGEST}")]
    Long { path: ResourcePath, bytes: usize },
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Content {
    version: String,
    #[serde(rename = "type")]
    kind: String,
    provider: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Opens a sealed secret; `fetch` asks the broker.
///
/// # Errors
///
/// [`SealedError`].
pub fn open(
    text: &[u8],
    rules: &Rules,
    mut fetch: impl FnMut(&ResourcePath) -> Result<Vec<u8>, BrokerError>,
) -> Result<Vec<u8>, SealedError> {
    let form = |what: &str| SealedError::Form(what.to_owned());
    if text.len() > LONGEST {
        return Err(form("it is too long"));
    }
    let text = str::from_utf8(text).map_err(|_| form("it is not text"))?;
    // Whoever writes a file often ends it with a line.
    let jws =
        text.trim_ascii_end().strip_prefix(PREFIX).ok_or_else(|| form("it does not begin with `sealed.`"))?;
    let mut parts = jws.split('.');
    let (Some(header), Some(content), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(form("it has not three parts behind `sealed.`, header.content.signature"));
    };
    if !rules.unsigned {
        let signed = jws.strip_suffix(signature).and_then(|rest| rest.strip_suffix('.')).unwrap_or_default();
        verify(header, signed, signature, rules, &mut fetch)?;
    }
    let content = URL_SAFE_NO_PAD.decode(content).map_err(|_| form("its content is not base64url"))?;
    let content: Content =
        serde_json::from_slice(&content).map_err(|error| SealedError::Form(error.to_string()))?;
    let path = content.resource(rules)?;
    let secret = fetch(&path)?;
    let bytes = secret.len();
    if bytes <= LONGEST { Ok(secret) } else { Err(SealedError::Long { path, bytes }) }
}

impl Content {
    /// The resource that it points to.
    fn resource(self, rules: &Rules) -> Result<ResourcePath, SealedError> {
        if self.version != VERSION {
            return Err(SealedError::Version(shown(&self.version)));
        }
        match self.kind.as_str() {
            "vault" if self.provider.eq_ignore_ascii_case("kbs") => {
                let name = self.name.ok_or_else(|| SealedError::Form("it has no name".to_owned()))?;
                rules.path(&name).map_err(SealedError::Name)
            }
            "vault" => Err(SealedError::Provider(shown(&self.provider))),
            "envelope" => Err(SealedError::Envelope(shown(&self.provider))),
            other => Err(SealedError::Kind(shown(other))),
        }
    }
}

fn verify(
    header: &str,
    signed: &str,
    signature: &str,
    rules: &Rules,
    fetch: &mut impl FnMut(&ResourcePath) -> Result<Vec<u8>, BrokerError>,
) -> Result<(), SealedError> {
    // Examples have the words `fakejwsheader` and `fakesignature` in their places.
    let header =
        URL_SAFE_NO_PAD.decode(header).map_err(|_| SealedError::Unsigned("its header is not base64url"))?;
    let header: Header =
        serde_json::from_slice(&header).map_err(|_| SealedError::Unsigned("its header is no JWS header"))?;
    if header.alg != "ES256" {
        return Err(SealedError::Algorithm(shown(&header.alg)));
    }
    if header.crit.is_some() {
        return Err(SealedError::Form("it demands extensions that are not known here (crit)".to_owned()));
    }
    let kid = header.kid.ok_or(SealedError::Unsigned("its header names no key, kid"))?;
    let uri = rules.credentials.get(&kid).unwrap_or(&kid);
    let path = rules.path(uri).map_err(SealedError::Kid)?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| SealedError::Unsigned("its signature is not base64url"))?;
    let point = point(&fetch(&path)?).map_err(|what| SealedError::Key { path: path.clone(), what })?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(signed.as_bytes(), &signature).map_err(|_| SealedError::Signature(path))
}

/// The point of a public key, uncompressed.
fn point(jwk: &[u8]) -> Result<Vec<u8>, &'static str> {
    let jwk: Jwk = serde_json::from_slice(jwk).map_err(|_| "it is no JWK")?;
    if jwk.kty != "EC" || jwk.crv.as_deref() != Some("P-256") {
        return Err("it is of another kind");
    }
    let coordinate =
        |text: Option<String>| URL_SAFE_NO_PAD.decode(text.unwrap_or_default()).unwrap_or_default();
    uncompressed(&coordinate(jwk.x), &coordinate(jwk.y)).ok_or("its coordinates are not 32 bytes each")
}

#[cfg(test)]
mod tests;
