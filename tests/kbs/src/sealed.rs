//! Sealed secrets as a pod's owner makes them (guest-components, `confidential-data-hub/docs/SEALED_SECRET.md`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::Generate as _;
use serde_json::json;

/// An owner's key.
pub struct Owner(SigningKey);

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owner")
    }
}

impl Default for Owner {
    fn default() -> Self {
        Self(SigningKey::generate())
    }
}

impl Owner {
    /// The public key (JWK), which the broker has.
    pub fn jwk(&self) -> String {
        let point = self.0.verifying_key().to_sec1_point(false);
        let coordinate = |at: usize| URL_SAFE_NO_PAD.encode(&point.as_bytes()[at..at + 32]);
        json!({ "kty": "EC", "crv": "P-256", "x": coordinate(1), "y": coordinate(33) }).to_string()
    }

    /// A secret that is the broker's resource `path`, signed by this key, which is the broker's resource `kid`.
    pub fn seal(&self, path: &str, kid: &str) -> String {
        let content = json!({
            "version": "0.1.0",
            "type": "vault",
            "provider": "kbs",
            "name": format!("kbs:///{path}"),
            "provider_settings": {},
            "annotations": {},
        });
        let header = json!({ "alg": "ES256", "kid": format!("kbs:///{kid}") });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&content));
        let signature: Signature = self.0.sign(text.as_bytes());
        format!("sealed.{text}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }
}
