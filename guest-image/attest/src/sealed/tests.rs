//! Against a secret that another implementation signed (Python's cryptography 48), and changed ones.

use shared_types::one_line;

use super::*;

const HEADER: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImticzovLy9kZWZhdWx0L3NpZ25pbmcvb3duZXIifQ";
const CONTENT: &str = "eyJ2ZXJzaW9uIjoiMC4xLjAiLCJ0eXBlIjoidmF1bHQiLCJwcm92aWRlciI6ImticyIsIm5hbWUiOiJrYnM6Ly8vZGVmYXVsdC9zZWNyZXQvcGFzc3dvcmQiLCJwcm92aWRlcl9zZXR0aW5ncyI6e30sImFubm90YXRpb25zIjp7fX0";
const SIGNATURE: &str =
    "JjsjvqtOSx_s9JgArMM_IxnXvO_2tibi8KKQcJfgQREdXmJvqXjKkpfPjIAZrDEA68-_AtGK2Pkojgp5RfvW4w";
const JWK: &str = r#"{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"owner","x":"yx68P_BBX05M0c0Hgy8DX_zWfL0eIFQo9pGO0lZ_png","y":"TRY_KkdFAXcpxqM_uZdC33I8xHYFuwibMGSGyasjSqo"}"#;
const OWNER: &str = "default/signing/owner";
const PASSWORD: &str = "default/secret/password";

fn genuine() -> String {
    format!("sealed.{HEADER}.{CONTENT}.{SIGNATURE}")
}

/// Without a signature, as CoCo's examples have it.
fn fake(content: &str) -> String {
    format!("sealed.fakejwsheader.{}.fakesignature", URL_SAFE_NO_PAD.encode(content))
}

fn vault(name: &str) -> String {
    format!(r#"{{"version":"0.1.0","type":"vault","provider":"kbs","name":"{name}"}}"#)
}

fn unsigned() -> Rules {
    Rules { unsigned: true, ..Rules::default() }
}

/// Opens with a broker that has the owner's key and the password; also what the broker was asked for.
fn opened_with(text: &[u8], rules: &Rules, jwk: &str) -> (Result<Vec<u8>, String>, Vec<String>) {
    let mut asked = Vec::new();
    let opened = open(text, rules, |path| {
        asked.push(path.to_string());
        Ok(match path.to_string().as_str() {
            OWNER => jwk.as_bytes().to_vec(),
            PASSWORD => b"pa55".to_vec(),
            "default/secret/long" => vec![7; LONGEST + 1],
            _ => b"another resource".to_vec(),
        })
    });
    (opened.map_err(|error| one_line(&error)), asked)
}

fn opened(text: &str, rules: &Rules) -> (Result<Vec<u8>, String>, Vec<String>) {
    opened_with(text.as_bytes(), rules, JWK)
}

fn refused(text: &str, rules: &Rules, words: &str) -> Vec<String> {
    let (opened, asked) = opened(text, rules);
    let error = opened.unwrap_err();
    assert!(error.contains(words), "{words:?} is not in: {error}");
    asked
}

#[test]
fn what_the_owner_signed_is_opened() {
    let (secret, asked) = opened(&genuine(), &Rules::default());
    assert_eq!(secret.unwrap(), b"pa55");
    assert_eq!(asked, [OWNER, PASSWORD]);
    // A file's last line.
    assert_eq!(opened(&format!("{}\n", genuine()), &Rules::default()).0.unwrap(), b"pa55");
}

#[test]
fn what_somebody_changed_stays_sealed_and_nothing_is_fetched_for_it() {
    let other = URL_SAFE_NO_PAD.encode(vault("kbs:///default/key/model"));
    let header = URL_SAFE_NO_PAD.encode(r#"{"kid":"kbs:///default/signing/owner","alg":"ES256"}"#);
    for text in [
        format!("sealed.{HEADER}.{other}.{SIGNATURE}"),
        format!("sealed.{header}.{CONTENT}.{SIGNATURE}"),
        format!("sealed.{HEADER}.{CONTENT}.{}", URL_SAFE_NO_PAD.encode([7; 64])),
        format!("sealed.{HEADER}.{CONTENT}.{}", URL_SAFE_NO_PAD.encode([7; 63])),
        format!("sealed.{HEADER}.{CONTENT}."),
    ] {
        let asked =
            refused(&text, &Rules::default(), "its signature is not by the key default/signing/owner");
        assert_eq!(asked, [OWNER], "{text}");
    }
    let (secret, asked) =
        opened_with(genuine().as_bytes(), &Rules::default(), &JWK.replace("\"x\":\"", "\"x\":\"A"));
    assert!(secret.unwrap_err().contains("default/signing/owner is no public key on P-256"));
    assert_eq!(asked, [OWNER]);
}

#[test]
fn who_signed_must_be_said() {
    let with = |header: &str| format!("sealed.{}.{CONTENT}.{SIGNATURE}", URL_SAFE_NO_PAD.encode(header));
    let rules = Rules::default();
    for (text, words) in [
        (fake(&vault("kbs:///default/secret/password")), "skip_sealed_secret_verification = true"),
        (with("{}"), "its header is no JWS header"),
        (with(r#"{"alg":"ES256"}"#), "its header names no key, kid"),
        (with(r#"{"alg":"none"}"#), "it is signed by \"none\", and a sealed secret is signed by ES256"),
        (with(r#"{"alg":"RS256","kid":"kbs:///default/signing/owner"}"#), "RS256"),
        (with(r#"{"alg":"ES256","kid":"kbs:///default/signing/owner","crit":["b64"]}"#), "crit"),
        (with(r#"{"alg":"ES256","kid":"owner"}"#), "[[credentials]]"),
        (
            with(r#"{"alg":"ES256","kid":"kbs://elsewhere/default/signing/owner"}"#),
            "no resource of this pod's key broker",
        ),
        (format!("sealed.{HEADER}.{CONTENT}.!"), "its signature is not base64url"),
    ] {
        assert!(refused(&text, &rules, words).is_empty(), "{text}");
    }
    for (jwk, what) in [
        ("no", "it is no JWK"),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, "it is of another kind"),
        (r#"{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}"#, "it is of another kind"),
        (r#"{"kty":"EC","crv":"P-256","x":"AA"}"#, "its coordinates are not 32 bytes each"),
    ] {
        let (secret, _) = opened_with(genuine().as_bytes(), &rules, jwk);
        let error = secret.unwrap_err();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_key_may_have_the_short_name_that_the_owner_gives_it() {
    let mut rules = Rules::default();
    rules.credential("/run/confidential-containers/cdh/kms-credential/owner", "kbs:///default/other/owner");
    rules.credential(CREDENTIALS, "kbs:///default/other/owner");
    assert!(rules.credentials.is_empty());
    rules.credential(&format!("{CREDENTIALS}owner"), "kbs:///default/signing/owner");
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"owner"}"#);
    // The signature is not over this header; that the key was asked for is what counts.
    let asked = refused(&format!("sealed.{header}.{CONTENT}.{SIGNATURE}"), &rules, OWNER);
    assert_eq!(asked, [OWNER]);
}

#[test]
fn the_owner_may_take_those_without_a_signature() {
    let (secret, asked) = opened(&fake(&vault("kbs:///default/secret/password")), &unsigned());
    assert_eq!((secret.unwrap(), asked), (b"pa55".to_vec(), vec![PASSWORD.to_owned()]));
    assert_eq!(opened(&genuine(), &unsigned()).1, [PASSWORD]);
}

#[test]
fn what_is_none_or_points_elsewhere_stays_sealed() {
    let envelope = r#"{"version":"0.1.0","type":"envelope","provider":"aliyun","key_id":"k","encrypted_key":"YQ==",
        "encrypted_data":"YQ==","wrap_type":"A256GCM","iv":"YQ==","provider_settings":{},"annotations":{}}"#;
    for (text, words) in [
        ("plain".to_owned(), "does not begin with `sealed.`"),
        ("sealed.a.b".to_owned(), "three parts"),
        ("sealed.a.b.c.d".to_owned(), "three parts"),
        ("sealed.a.!.c".to_owned(), "its content is not base64url"),
        (fake("{}"), "it is no sealed secret"),
        (fake(envelope), "an envelope that the key service \"aliyun\" would have to open"),
        (fake(&vault("default/secret/password")), "kbs:///REPOSITORY/TYPE/TAG"),
        (fake(&vault("kbs:///default/../password")), "it points to no resource of the key broker"),
        (fake(&vault("x").replace("\"kbs\"", "\"aws\"")), "it is kept by \"aws\""),
        (fake(&vault("x").replace("vault", "safe")), "it is a \"safe\""),
        (fake(&vault("x").replace("0.1.0", "0.2.0")), "it is of version \"0.2.0\""),
        (fake(r#"{"version":"0.1.0","type":"vault","provider":"kbs"}"#), "it has no name"),
    ] {
        assert!(refused(&text, &unsigned(), words).is_empty(), "{text}");
    }
    refused(&fake(&vault("kbs:///default/secret/long")), &unsigned(), "and a secret has at most 1048576");
    let long = format!("sealed.{}", "a".repeat(LONGEST));
    refused(&long, &unsigned(), "it is too long");
    let (secret, _) = opened_with(b"sealed.\xff", &unsigned(), JWK);
    assert!(secret.unwrap_err().contains("it is not text"));
}
