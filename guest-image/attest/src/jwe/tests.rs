//! Against the vectors of the RFCs, and an answer that another implementation made (jwcrypto 1.5, PyPI).

use base64::Engine as _;

use super::*;

/// RFC 7518, appendix C: Bob's private key.
const PRIVATE: &str = "VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw";
/// What jwcrypto encrypted for it: the parts of its compact form.
const PROTECTED: &str = "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOiJWTHhaMlBJVTd2YTczbGR6YUNsd1ZwR1M4cDVNM2JmOHVrMTVFenpjZGlNIiwieSI6IjZvYTJXVDk2N3VRaHdLekNnRWhtMjNLSjk4MWNhOW5UN1ZPdzRLdllETDgifX0";
const KEY_PART: &str = "YRJvYMReh0qWwI24imRmNoKhyX4d5vJTlLoui2WVuWgqB8mDioGjCA";
const IV: &str = "OnyjERPE1VJacEhs";
const TEXT: &str = "PQxneNHMpywzUl-vYyN9kw";
const TAG: &str = "f1hMDT14bjZBnjsw5UkZKQ";

fn private() -> SecretKey {
    SecretKey::from_slice(&URL_SAFE_NO_PAD.decode(PRIVATE).unwrap()).unwrap()
}

fn answer(protected: &str, key: &str, iv: &str, text: &str, tag: &str) -> Vec<u8> {
    serde_json::json!({ "protected": protected, "encrypted_key": key, "iv": iv, "ciphertext": text, "tag": tag })
        .to_string()
        .into_bytes()
}

fn header(change: impl Fn(&mut serde_json::Value)) -> String {
    let mut header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(PROTECTED).unwrap()).unwrap();
    change(&mut header);
    URL_SAFE_NO_PAD.encode(header.to_string())
}

#[test]
fn another_implementations_answer_is_opened() {
    let opened = open(&answer(PROTECTED, KEY_PART, IV, TEXT, TAG), &private()).unwrap();
    assert_eq!(opened, b"the model's key\n");
}

#[test]
fn the_key_derivation_is_rfc_7518s() {
    // Appendix C: Z, and the key of 128 bits for A128GCM between Alice and Bob.
    let shared = [
        158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49, 110, 163, 218,
        128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
    ];
    let key = concat_kdf(&shared, "A128GCM", b"Alice", b"Bob", 16);
    assert_eq!(URL_SAFE_NO_PAD.encode(key), "VqqN6vgjbSBcIijNcacQGg");
}

#[test]
fn the_key_wrapping_is_rfc_3394s() {
    // Section 4.6: 256 bits of data with a key of 256 bits.
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let wrapping = bytes("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F");
    let wrapped = bytes("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21");
    let key = unwrap_key(&wrapping, &wrapped).unwrap();
    assert_eq!(key[..], bytes("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"));
    assert_eq!(unwrap_key(&wrapping, &wrapped[..32]), None);
}

#[test]
fn what_is_changed_is_not_opened() {
    let refused = |answer: &[u8]| open(answer, &private()).unwrap_err();
    let other = |text: &str| text.replacen(&text[..1], if text.starts_with('A') { "B" } else { "A" }, 1);
    assert_eq!(refused(&answer(PROTECTED, &other(KEY_PART), IV, TEXT, TAG)), JweError::OtherKey);
    for (iv, text, tag) in [
        (other(IV), TEXT.into(), TAG.into()),
        (IV.into(), other(TEXT), TAG.into()),
        (IV.into(), TEXT.into(), other(TAG)),
    ] {
        assert_eq!(refused(&answer(PROTECTED, KEY_PART, &iv, &text, &tag)), JweError::Content);
    }
    // The header is signed too, word for word.
    let spaced = URL_SAFE_NO_PAD.encode([&URL_SAFE_NO_PAD.decode(PROTECTED).unwrap()[..], b" "].concat());
    assert_eq!(refused(&answer(&spaced, KEY_PART, IV, TEXT, TAG)), JweError::Content);
    let else_key = SecretKey::from_slice(&[7; 32]).unwrap();
    assert_eq!(open(&answer(PROTECTED, KEY_PART, IV, TEXT, TAG), &else_key), Err(JweError::OtherKey));
    assert_eq!(refused(&answer(PROTECTED, KEY_PART, "AAAA", TEXT, TAG)), JweError::Content);
    assert_eq!(refused(&answer(PROTECTED, "AAAA", IV, TEXT, TAG)), JweError::OtherKey);
}

#[test]
fn another_algorithm_is_named() {
    type Change = fn(&mut serde_json::Value);
    let changes: [(&str, Change); 6] = [
        ("alg", |header| header["alg"] = "ECDH-ES".into()),
        ("alg", |header| header["alg"] = "dir".into()),
        ("enc", |header| header["enc"] = "A128GCM".into()),
        ("kty", |header| header["epk"]["kty"] = "OKP".into()),
        ("crv", |header| header["epk"]["crv"] = "P-521".into()),
        ("crit", |header| header["crit"] = serde_json::json!(["exp"])),
    ];
    for (member, change) in changes {
        let error = open(&answer(&header(change), KEY_PART, IV, TEXT, TAG), &private()).unwrap_err();
        assert!(error.to_string().contains(member), "{error}");
    }
}

#[test]
fn a_point_that_is_none_is_refused() {
    type Change = fn(&mut serde_json::Value);
    let changes: [Change; 4] = [
        |header| header["epk"]["x"] = "AAAA".into(),
        |header| header["epk"]["y"] = URL_SAFE_NO_PAD.encode([0; 32]).into(),
        |header| header["epk"]["x"] = URL_SAFE_NO_PAD.encode([255; 32]).into(),
        |header| header["epk"]["y"] = URL_SAFE_NO_PAD.encode([0; 33]).into(),
    ];
    for change in changes {
        assert_eq!(open(&answer(&header(change), KEY_PART, IV, TEXT, TAG), &private()), Err(JweError::Point));
    }
}

#[test]
fn what_is_no_answer_is_said() {
    for text in ["", "{}", "[]", r#"{"protected":1}"#] {
        assert!(matches!(open(text.as_bytes(), &private()), Err(JweError::Form(_))), "{text}");
    }
    assert_eq!(open(&answer("!", "", "", "", ""), &private()), Err(JweError::Base64("protected")));
    assert!(matches!(open(&answer("e30", "", "", "", ""), &private()), Err(JweError::Form(_))));
}
