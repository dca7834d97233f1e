//! What is hashed, against another implementation's values: Python 3.11's json (sorted keys, no spaces) and hashlib.

use base64::Engine as _;

use super::*;

const X: &str = "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ";
const Y: &str = "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck";

/// The key of RFC 7518, appendix C, that is Bob's.
fn key() -> PublicKey {
    let coordinate = |text| URL_SAFE_NO_PAD.decode(text).unwrap();
    PublicKey::from_sec1_bytes(&[vec![4], coordinate(X), coordinate(Y)].concat()).unwrap()
}

fn runtime() -> RuntimeData {
    let nonce: Vec<u8> = (0..32).collect();
    RuntimeData::new(Nonce::try_from(STANDARD.encode(nonce)).unwrap(), &key())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn hashes_are_those_of_another_implementation() {
    let device =
        "aa29da4707a36a4cdb112f5ba622c8d08443b311fd3985eb197711c8fa3db695fbc4c0d05ec867f41e656490aee5120d";
    assert_eq!(hex(runtime().device_data().hash()), device);
    assert_eq!(hex(&gpu_nonce(&runtime().device_data())), device[..64]);
    for (additional, hash) in [
        (
            "",
            "d59c5ca13c55df86b2fc4ce983ae8f26d00a1082f3acf26d7b077c4a7a264e44b4b1f8cce97801cfba202e3197d053ef",
        ),
        (
            r#"{"nvidia":{"device_evidence_list":[{"arch":"HOPPER"}]}}"#,
            "eb92f46f553d4b976fb8859c3c060dbc88e695150fb317018d524b44d133d9ae2b96254b5ec5d431c9ea2433c8eea4af",
        ),
    ] {
        let data = runtime().report_data(additional);
        assert_eq!(hex(data.hash()), hash, "{additional}");
        assert_eq!(hex(&data.field()), format!("{hash}{}", "00".repeat(16)));
    }
}

#[test]
fn messages_have_the_brokers_names() {
    let written = |value: &dyn erased::Json| value.json();
    assert_eq!(written(&AuthRequest::new(Tee::Snp)), r#"{"version":"0.4.0","tee":"snp","extra-params":""}"#);
    let runtime = runtime();
    let evidence = Evidence { primary_evidence: serde_json::json!({ "svn": "1" }), additional_evidence: "" };
    let request = AttestRequest {
        initdata: Some(Initdata { format: "toml", body: "a = 1\n" }),
        runtime: &runtime,
        evidence,
    };
    let key = format!(r#"{{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"{X}","y":"{Y}"}}"#);
    let nonce = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    assert_eq!(
        written(&request),
        format!(
            r#"{{"init-data":{{"format":"toml","body":"a = 1\n"}},"runtime-data":{{"nonce":"{nonce}","tee-pubkey":{key}}},"tee-evidence":{{"primary_evidence":{{"svn":"1"}},"additional_evidence":""}}}}"#
        )
    );
}

/// Any message as text.
mod erased {
    pub(super) trait Json {
        fn json(&self) -> String;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> String {
            serde_json::to_string(self).unwrap()
        }
    }
}

#[test]
fn a_challenge_is_32_bytes_in_base64_and_nothing_else() {
    for text in [
        "",
        "AAAA",
        &"A".repeat(44),
        &"!".repeat(44),
        &STANDARD.encode([0; 33]),
        &URL_SAFE_NO_PAD.encode([0; 32]),
    ] {
        assert_eq!(Nonce::try_from((*text).to_owned()), Err(NoNonce), "{text}");
    }
}
