//! What looks like a secret is taken out of a text that leaves the node.
//!
//! Nobody can know every secret by its looks: what is given out is chosen first (`debug.rs`), and this is the second line.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What stands in a secret's place.
pub(super) const LEFT_OUT: &str = "[left out]";

/// A longer run of base64 or hex is left out whatever it is. A digest of SHA-512 in hex has 128.
const LONGEST: usize = 128;

/// Each pattern's group `keep` stays.
static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        // JWT (RFC 7519): its header is JSON, so it begins so.
        r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_.-]+",
        // PEM (RFC 7468), on several lines or with `\n` for their ends; one without an end goes on as long as it is base64.
        r"(?s)(?P<keep>-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----)(?:.*?-----END [A-Z0-9 ]*PRIVATE KEY-----|[A-Za-z0-9+/=\s\\]*)",
        // HTTP's credentials, and those in a URL.
        r#"(?i)(?P<keep>\b(bearer|basic|negotiate)\s+)[^\s"',]+"#,
        r#"(?P<keep>[a-z][a-z0-9+.-]*://)[^\s/@"']+@"#,
        // Tokens that their makers begin with a word of their own.
        r"\b(hf_|sk-|ghp_|gho_|ghs_|github_pat_|glpat-|nvapi-|xox[abpr]-|AKIA|ASIA)[A-Za-z0-9_-]{8,}",
        // key=value, key: value, "key": "value", and a key of several words as in QEMU's `secret,id=a,data=b`.
        r#"(?i)(?P<keep>\bsecret,[^\s]*?\bdata=)[^\s,]+"#,
        r#"(?i)(?P<keep>[a-z0-9_.-]*(passw(or)?d|passphrase|secret|token|api[-_]?key|private[-_]?key|access[-_]?key|encryption[-_]?key|credential|authorization|cookie)[a-z0-9_.-]*\\?["']?\s*[=:]\s*)(\\?"([^"\\]|\\[^"])*\\?"|'[^']*'|[^\s,;"'}\]]+)"#,
    ]
    .iter()
    .map(|pattern| Regex::new(pattern).unwrap_or_else(|error| unreachable!("{error}")))
    .collect()
});

static RUNS: LazyLock<Regex> = LazyLock::new(|| {
    let longer = format!("[A-Za-z0-9+/_=-]{{{},}}", LONGEST + 1);
    Regex::new(&longer).unwrap_or_else(|error| unreachable!("{error}"))
});

/// The text without what looks like a secret.
pub(super) fn redacted(text: &str) -> String {
    let mut text = text.to_owned();
    for pattern in PATTERNS.iter() {
        text = pattern.replace_all(&text, replaced).into_owned();
    }
    let run = |found: &Captures<'_>| format!("[left out: {} characters]", found[0].len());
    RUNS.replace_all(&text, run).into_owned()
}

fn replaced(found: &Captures<'_>) -> String {
    let keep = found.name("keep").map_or("", |keep| keep.as_str());
    // A string in JSON stays one.
    let quoted = found[0][keep.len()..].starts_with('"');
    if quoted { format!("{keep}\"{LEFT_OUT}\"") } else { format!("{keep}{LEFT_OUT}") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Texts with a secret, which has these words in it: those and no others have `planted`.
    pub(crate) const PLANTED: [&str; 16] = [
        "DB_PASSWORD=planted-1",
        r#"{"password": "planted 2", "other": 3}"#,
        "msg=\"pull failed\" registryToken: planted3",
        "Authorization: Bearer planted4",
        "authorization=\"Basic planted5\"",
        "https://user:planted6@registry.example.com/v2/",
        "-----BEGIN EC PRIVATE KEY-----\nplanted7\nplanted7\n-----END EC PRIVATE KEY-----",
        "key \"-----BEGIN PRIVATE KEY-----\\nplanted8\\n-----END PRIVATE KEY-----\"",
        "-----BEGIN PRIVATE KEY-----\nplanted9",
        "got eyJhbGciOiJFUzI1NiJ9.planted10.planted10 from the broker",
        "HF: hf_planted11planted",
        "-object secret,id=s0,data=planted12",
        "api_key='planted 13'",
        "export AWS_SECRET_ACCESS_KEY=planted14",
        r#"env="{\"TOKEN\":\"planted15\"}""#,
        "Set-Cookie: planted16",
    ];

    #[test]
    fn no_planted_secret_comes_through() {
        for text in PLANTED {
            let left = redacted(text);
            assert!(!left.contains("planted"), "{text} -> {left}");
            assert!(left.contains(LEFT_OUT), "{text} -> {left}");
        }
        let blob = "a1B2".repeat(40);
        assert_eq!(redacted(&format!("initdata {blob} end")), "initdata [left out: 160 characters] end");
    }

    #[test]
    fn what_is_around_a_secret_stays() {
        assert_eq!(redacted("a DB_PASSWORD=x b"), "a DB_PASSWORD=[left out] b");
        let text = redacted(r#"{"password": "a b", "gpu": "0000:41:00.0"}"#);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["password"], &json["gpu"]), (&LEFT_OUT.into(), &"0000:41:00.0".into()));
        assert_eq!(redacted("https://u:p@host/path"), "https://[left out]host/path");
    }

    /// What a report is for.
    #[test]
    fn what_is_no_secret_stays() {
        let digest = "fa94d9b70f6a7c43eb60c7d1686aadb5457b99d5e6f519be416a817617e2ce6cc3f27fe22a81c405dcf76f485a077b23";
        for text in [
            "time=\"2026-11-28T12:59:20.979697561Z\" level=info msg=\"boot phase\" ms=275 phase=claimed sandbox=t2",
            &format!("launch_digest={digest}"),
            "\"qemu\": {\"pid\": 11, \"start\": 110}",
            "-device vfio-pci,host=0000:41:00.0,iommufd=iommufd0",
            "the VM of sandbox a did not reach phase \"agent\": timed out",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        ] {
            assert_eq!(redacted(text), text);
        }
    }
}
