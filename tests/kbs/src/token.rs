//! The token: an EAR (a JWT, ES256) with one part for each device (Trustee, `attestation-service/src/ear_token/broker.rs`).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::Generate as _;
use serde_json::{Map, Value, json};

use crate::verifier::Part;

/// Who signs tokens.
pub(crate) struct Signer(SigningKey);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(SigningKey::generate())
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&json!({ "alg": "ES256", "typ": "JWT" })), part(claims));
        let signature: Signature = self.0.sign(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    /// The claims of a token that this signer made, and that has not ended.
    pub(crate) fn verify(&self, token: &str) -> Result<Value> {
        let (text, signature) = token.rsplit_once('.').context("no JWT")?;
        let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature)?)?;
        self.0.verifying_key().verify(text.as_bytes(), &signature)?;
        let (_, claims) = text.split_once('.').context("no JWT")?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
        ensure!(claims["exp"].as_u64().is_some_and(|end| now() < end), "ExpiredSignature");
        Ok(claims)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A token over what was verified.
pub(crate) fn issue(signer: &Signer, parts: Vec<Part>, lifetime: Duration) -> String {
    let mut counts = BTreeMap::new();
    let mut submods = Map::new();
    for part in parts {
        let number = counts.entry(part.class).or_insert(0);
        submods.insert(format!("{}{number}", part.class), submod(part));
        *number += 1;
    }
    signer.sign(&json!({
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": now(),
        "exp": now() + lifetime.as_secs(),
        "iss": "CoCo-Attestation-Service",
        "submods": submods,
    }))
}

/// `init_data` and `report_data` come out of the claims, and what they are of stands beside them.
fn submod(part: Part) -> Value {
    let mut evidence = Map::new();
    let mut claims = part.claims;
    if let Some(claims) = claims.as_object_mut() {
        for (name, about, value) in [
            ("init_data", "init_data_claims", part.initdata),
            ("report_data", "runtime_data_claims", part.runtime),
        ] {
            if let Some(claim) = claims.remove(name) {
                evidence.insert(name.into(), claim);
                evidence.insert(about.into(), value);
            }
        }
    }
    evidence.insert(part.tee.to_string(), claims);
    json!({ "ear.status": part.status, "ear.appraisal-policy-id": "default", "ear.veraison.annotated-evidence": evidence })
}
