//! A resource for one key: flattened JWE as Trustee makes it (`kbs/src/jwe/mod.rs`).

use aes_kw::KwAes256;
use aes_kw::cipher::KeyInit as _;
use anyhow::{Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kbs_types::TeePubKey;
use p256::elliptic_curve::Generate as _;
use p256::elliptic_curve::ecdh::diffie_hellman;
use p256::{PublicKey, SecretKey};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Trouble;

const ALGORITHM: &str = "ECDH-ES+A256KW";

pub(crate) fn seal(content: &[u8], key: &TeePubKey, trouble: Trouble) -> Result<Value> {
    let (x, y) = match key {
        TeePubKey::EC { crv, alg, x, y } if crv == "P-256" && alg == ALGORITHM => (x, y),
        other => bail!("no key for {ALGORITHM}: {other:?}"),
    };
    let (x, y) = (URL_SAFE_NO_PAD.decode(x)?, URL_SAFE_NO_PAD.decode(y)?);
    let mut public = PublicKey::from_sec1_bytes(&[&[4][..], &x, &y].concat())?;
    if trouble == Trouble::OtherKey {
        public = SecretKey::generate().public_key();
    }
    let ephemeral = SecretKey::generate();
    let shared = diffie_hellman(ephemeral.to_nonzero_scalar(), public.as_affine());
    let mut hash = Sha256::new();
    hash.update([0, 0, 0, 1]);
    hash.update(shared.raw_secret_bytes());
    hash.update([0, 0, 0, 14]);
    hash.update(ALGORITHM);
    hash.update([0; 8]);
    hash.update([0, 0, 1, 0]);
    let (mut content_key, mut iv) = ([0; 32], [0; 12]);
    let random = SystemRandom::new();
    random
        .fill(&mut content_key)
        .and_then(|()| random.fill(&mut iv))
        .map_err(|_| anyhow!("no random numbers"))?;
    let mut wrapped = [0; 40];
    let wrapping = KwAes256::new_from_slice(&hash.finalize()).map_err(|error| anyhow!("{error}"))?;
    wrapping.wrap_key(&content_key, &mut wrapped).map_err(|error| anyhow!("{error}"))?;
    let point = ephemeral.public_key().to_sec1_bytes();
    let coordinate = |at: usize| URL_SAFE_NO_PAD.encode(&point[at..at + 32]);
    let encryption = if trouble == Trouble::OtherAlgorithm { "A128GCM" } else { "A256GCM" };
    let header = json!({
        "alg": ALGORITHM,
        "enc": encryption,
        "epk": { "kty": "EC", "crv": "P-256", "x": coordinate(1), "y": coordinate(33) },
    });
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let cipher = UnboundKey::new(&AES_256_GCM, &content_key).map_err(|_| anyhow!("no key for AES"))?;
    let mut sealed = content.to_vec();
    let nonce = Nonce::assume_unique_for_key(iv);
    let tag = LessSafeKey::new(cipher).seal_in_place_separate_tag(
        nonce,
        Aad::from(protected.as_bytes()),
        &mut sealed,
    );
    let tag = tag.map_err(|_| anyhow!("the content cannot be encrypted"))?;
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Ok(json!({
        "protected": protected, "encrypted_key": text(&wrapped), "iv": text(&iv), "ciphertext": text(&sealed), "tag": text(tag.as_ref()),
    }))
}
