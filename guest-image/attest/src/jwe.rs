//! Answers that only this session's key opens: flattened JWE (RFC 7516), by ECDH-ES+A256KW and A256GCM (RFC 7518).

use aes_kw::KwAes256;
use aes_kw::cipher::KeyInit as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::elliptic_curve::ecdh::diffie_hellman;
use p256::{PublicKey, SecretKey};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// How the key of the content is agreed on.
pub const ALGORITHM: &str = "ECDH-ES+A256KW";
/// How the content is encrypted.
const ENCRYPTION: &str = "A256GCM";
/// The curve of the session's key.
pub const CURVE: &str = "P-256";
/// Bytes of the keys of both.
const KEY: usize = 32;

/// Why an answer cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "Display says it")]
pub enum JweError {
    /// It is another thing.
    #[error("it is no flattened JWE: {0}")]
    Form(String),
    /// A member is no base64.
    #[error("its {0} is not base64url")]
    Base64(&'static str),
    /// Another algorithm than the session's key is for.
    #[error("its {member} is {found:?}, and {wanted:?} was agreed on")]
    Algorithm { member: &'static str, found: String, wanted: &'static str },
    /// It demands something.
    #[error("it demands extensions that are not known here (crit)")]
    Critical,
    /// The sender's key is none.
    #[error("its ephemeral key is no point of {CURVE}")]
    Point,
    /// The content's key is for another key.
    #[error("it is encrypted for another key than this session's")]
    OtherKey,
    /// Somebody changed it.
    #[error("its content is not what was encrypted")]
    Content,
}

#[derive(Deserialize)]
struct Flattened {
    protected: String,
    encrypted_key: String,
    iv: String,
    ciphertext: String,
    tag: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    enc: String,
    epk: Ephemeral,
    #[serde(default)]
    apu: Option<String>,
    #[serde(default)]
    apv: Option<String>,
    #[serde(default)]
    crit: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Ephemeral {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

/// Opens an answer with the session's key.
///
/// # Errors
///
/// [`JweError`].
pub fn open(answer: &[u8], key: &SecretKey) -> Result<Vec<u8>, JweError> {
    let jwe: Flattened = read(answer)?;
    let header: Header = read(&decode("protected", &jwe.protected)?)?;
    let is = |member, found: &str, wanted| {
        if found == wanted {
            Ok(())
        } else {
            Err(JweError::Algorithm { member, found: shown(found), wanted })
        }
    };
    is("alg", &header.alg, ALGORITHM)?;
    is("enc", &header.enc, ENCRYPTION)?;
    is("kty", &header.epk.kty, "EC")?;
    is("crv", &header.epk.crv, CURVE)?;
    if header.crit.is_some() {
        return Err(JweError::Critical);
    }
    let party =
        |name, text: &Option<String>| text.as_deref().map_or(Ok(Vec::new()), |text| decode(name, text));
    let (apu, apv) = (party("apu", &header.apu)?, party("apv", &header.apv)?);
    let shared = diffie_hellman(key.to_nonzero_scalar(), point(&header.epk)?.as_affine());
    let wrapping = concat_kdf(shared.raw_secret_bytes(), ALGORITHM, &apu, &apv, KEY);
    let content_key =
        unwrap_key(&wrapping, &decode("encrypted_key", &jwe.encrypted_key)?).ok_or(JweError::OtherKey)?;
    let mut content = decode("ciphertext", &jwe.ciphertext)?;
    content.extend(decode("tag", &jwe.tag)?);
    let nonce = Nonce::try_assume_unique_for_key(&decode("iv", &jwe.iv)?).map_err(|_| JweError::Content)?;
    let cipher = UnboundKey::new(&AES_256_GCM, &content_key).map_err(|_| JweError::OtherKey)?;
    let plain =
        LessSafeKey::new(cipher).open_in_place(nonce, Aad::from(jwe.protected.as_bytes()), &mut content);
    let length = plain.map_err(|_| JweError::Content)?.len();
    content.truncate(length);
    Ok(content)
}

fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, JweError> {
    serde_json::from_slice(text).map_err(|error| JweError::Form(error.to_string()))
}

fn decode(name: &'static str, text: &str) -> Result<Vec<u8>, JweError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| JweError::Base64(name))
}

/// A foreign word in a message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A point of P-256 by its coordinates as JSON has them, uncompressed; nothing where they are not 32 bytes each. Whether it is on
/// the curve is for the library to say.
pub(crate) fn uncompressed(x: &[u8], y: &[u8]) -> Option<Vec<u8>> {
    (x.len() == KEY && y.len() == KEY).then(|| [&[4][..], x, y].concat())
}

fn point(key: &Ephemeral) -> Result<PublicKey, JweError> {
    let point = uncompressed(&decode("x", &key.x)?, &decode("y", &key.y)?).ok_or(JweError::Point)?;
    PublicKey::from_sec1_bytes(&point).map_err(|_| JweError::Point)
}

/// RFC 3394.
fn unwrap_key(wrapping: &[u8], wrapped: &[u8]) -> Option<[u8; KEY]> {
    if wrapped.len() != KEY + 8 {
        return None;
    }
    let mut key = [0; KEY];
    KwAes256::new_from_slice(wrapping).ok()?.unwrap_key(wrapped, &mut key).ok()?;
    Some(key)
}

/// The key derivation of RFC 7518, section 4.6.2, for at most 32 bytes: one round of SHA-256.
fn concat_kdf(shared: &[u8], algorithm: &str, apu: &[u8], apv: &[u8], bytes: usize) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    let mut hash = Sha256::new();
    hash.update(word(1));
    hash.update(shared);
    for part in [algorithm.as_bytes(), apu, apv] {
        hash.update(word(part.len()));
        hash.update(part);
    }
    hash.update(word(bytes * 8));
    hash.finalize()[..bytes.min(32)].to_vec()
}

#[cfg(test)]
mod tests;
