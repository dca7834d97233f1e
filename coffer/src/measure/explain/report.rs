//! What a report says, in whatever form it comes. Signatures are not checked: it is compared, not believed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::super::pod::Class;
use crate::initdata::hex;

/// Length of an SNP report (AMD 56860, table 23).
const SNP: usize = 1184;
/// The kind of TEE in the header of a TDX quote (Intel, "TDX DCAP Quoting Library API", A.3).
const TDX: u32 = 0x81;
/// Length of a TD's report in a quote.
const TD_REPORT: usize = 584;

/// What was reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) class: Class,
    /// By the names that `coffer measure pod` has for them, in hexadecimal digits.
    pub(super) registers: BTreeMap<&'static str, String>,
    /// The field for initdata, likewise.
    pub(super) initdata: Option<String>,
    /// SNP's policy.
    pub(super) policy: Option<u64>,
    /// TDX's attributes, little-endian, in hexadecimal digits.
    pub(super) attributes: Option<String>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Reported> {
    if let Ok(text) = str::from_utf8(bytes) {
        let text = text.trim();
        if text.starts_with('{') {
            return claims(&serde_json::from_str(text).context("it is no JSON")?);
        }
        if let [_, payload, _] = text.split('.').collect::<Vec<_>>()[..] {
            let payload =
                URL_SAFE_NO_PAD.decode(payload).context("it is no token: its claims are not base64url")?;
            return claims(
                &serde_json::from_slice(&payload).context("it is no token: its claims are no JSON")?,
            );
        }
    }
    match word(bytes, 4) {
        _ if bytes.len() == SNP => snp(bytes),
        Some(TDX) => tdx(bytes),
        _ => bail!("it is neither an SNP report ({SNP} bytes), nor a TDX quote, nor a token"),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn snp(report: &[u8]) -> Result<Reported> {
    let version = word(report, 0).unwrap_or_default();
    ensure!((2..=5).contains(&version), "it is an SNP report of version {version}, which is not known");
    let policy = report[8..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    Ok(Reported {
        class: Class::CofferSnp,
        registers: BTreeMap::from([("launch_digest", hex(&report[0x90..0xc0]))]),
        initdata: Some(hex(&report[0xc0..0xe0])),
        policy,
        attributes: None,
    })
}

fn tdx(quote: &[u8]) -> Result<Reported> {
    let version = quote.first().copied().unwrap_or_default();
    // Version 5 has the body's type and length before it.
    let at = match version {
        4 => 48,
        5 => 54,
        version => bail!("it is a TDX quote of version {version}, which is not known"),
    };
    let body = quote.get(at..at + TD_REPORT).context("the TDX quote is cut off")?;
    let register = |at: usize| hex(&body[at..at + 48]);
    Ok(Reported {
        class: Class::CofferTdx,
        registers: BTreeMap::from([
            ("mrtd", register(136)),
            ("rtmr0", register(328)),
            ("rtmr1", register(376)),
            ("rtmr2", register(424)),
        ]),
        initdata: Some(register(184)),
        policy: None,
        attributes: Some(hex(&body[120..128])),
    })
}

/// A token's claims, as Trustee makes them.
fn claims(token: &Value) -> Result<Reported> {
    let evidence = &token["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    ensure!(evidence.is_object(), "the token has no claims of a processor (submods.cpu0)");
    let digest = |value: &Value| value.as_str().map(digits);
    let initdata = digest(&evidence["init_data"]);
    if let Some(snp) = evidence["snp"].as_object() {
        let flag = |name: &str, bit: u32| match snp.get(name) {
            Some(Value::Bool(set)) => Some(u64::from(*set) << bit),
            _ => None,
        };
        let number = |name: &str, bit: u32| snp.get(name)?.as_u64().map(|number| number << bit);
        let parts = [
            flag("policy_smt_allowed", 16),
            flag("policy_migrate_ma", 18),
            flag("policy_debug_allowed", 19),
            flag("policy_single_socket", 20),
            number("policy_abi_major", 8),
            number("policy_abi_minor", 0),
        ];
        // Bit 17 is always set.
        let policy = parts.into_iter().try_fold(1 << 17, |all, part| Some(all | part?));
        let registers = snp.get("measurement").and_then(digest).map(|digest| ("launch_digest", digest));
        let registers = registers.into_iter().collect();
        return Ok(Reported { class: Class::CofferSnp, registers, initdata, policy, attributes: None });
    }
    let body = &evidence["tdx"]["quote"]["body"];
    ensure!(body.is_object(), "the token has claims of neither SNP nor TDX");
    let names = [("mrtd", "mr_td"), ("rtmr0", "rtmr_0"), ("rtmr1", "rtmr_1"), ("rtmr2", "rtmr_2")];
    let registers = names.into_iter().filter_map(|(ours, name)| Some((ours, digest(&body[name])?))).collect();
    let attributes = digest(&body["td_attributes"]);
    Ok(Reported { class: Class::CofferTdx, registers, initdata, policy: None, attributes })
}

/// Hexadecimal digits as they are; base64, as Trustee wrote it before 0.18, in such digits.
fn digits(text: &str) -> String {
    if text.len().is_multiple_of(2) && text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return text.to_ascii_lowercase();
    }
    STANDARD.decode(text).map_or_else(|_| text.to_owned(), |bytes| hex(&bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(bytes: &[u8], words: &str) {
        let error = format!("{:#}", parse(bytes).unwrap_err());
        assert!(error.contains(words), "{words:?} is not in: {error}");
    }

    #[test]
    fn an_snp_report_is_read() {
        let mut report = vec![0; SNP];
        report[0] = 3;
        report[8..16].copy_from_slice(&0xb0000_u64.to_le_bytes());
        report[0x90..0xc0].fill(0xab);
        report[0xc0..0xe0].fill(0xcd);
        let read = parse(&report).unwrap();
        assert_eq!(read.registers["launch_digest"], "ab".repeat(48));
        assert_eq!((read.initdata, read.policy), (Some("cd".repeat(32)), Some(0xb0000)));
        report[0] = 9;
        refused(&report, "version 9");
    }

    #[test]
    fn a_tdx_quote_of_both_versions_is_read() {
        for (version, at) in [(4, 48), (5, 54)] {
            let mut quote = vec![0; at + TD_REPORT + 100];
            (quote[0], quote[4]) = (version, 0x81);
            let body = &mut quote[at..];
            body[120..128].copy_from_slice(&0x1000_0000_u64.to_le_bytes());
            body[136..184].fill(1);
            body[184..232].fill(2);
            body[328..376].fill(3);
            body[376..424].fill(4);
            body[424..472].fill(5);
            let read = parse(&quote).unwrap();
            for (name, byte) in [("mrtd", "01"), ("rtmr0", "03"), ("rtmr1", "04"), ("rtmr2", "05")] {
                assert_eq!(read.registers[name], byte.repeat(48), "{version} {name}");
            }
            assert_eq!(read.initdata.unwrap(), "02".repeat(48));
            assert_eq!(read.attributes.unwrap(), "0000001000000000");
            refused(&quote[..200], "cut off");
        }
    }

    #[test]
    fn a_token_is_read_whatever_its_form() {
        let snp = json!({
            "measurement": STANDARD.encode([0xab; 48]), "policy_smt_allowed": true, "policy_migrate_ma": false,
            "policy_debug_allowed": true, "policy_single_socket": false, "policy_abi_major": 1, "policy_abi_minor": 55,
        });
        let of = |evidence: &Value| json!({ "submods": { "cpu0": { "ear.veraison.annotated-evidence": evidence } } });
        let token = of(&json!({ "snp": snp, "init_data": "CD".repeat(32) })).to_string();
        let jwt = format!("e30.{}.c2ln\n", URL_SAFE_NO_PAD.encode(&token));
        for text in [token, jwt] {
            let read = parse(text.as_bytes()).unwrap();
            assert_eq!(read.registers["launch_digest"], "ab".repeat(48));
            assert_eq!((read.initdata, read.policy), (Some("cd".repeat(32)), Some(0xb0137)));
        }
        let body = json!({ "mr_td": "11".repeat(48), "td_attributes": "0000001000000000" });
        let read =
            parse(of(&json!({ "tdx": { "quote": { "body": body } } })).to_string().as_bytes()).unwrap();
        assert_eq!(read.registers, BTreeMap::from([("mrtd", "11".repeat(48))]));
        refused(of(&json!({ "sample": {} })).to_string().as_bytes(), "neither SNP nor TDX");
        refused(b"{}", "no claims of a processor");
    }

    #[test]
    fn what_is_no_report_is_said() {
        for (bytes, words) in [
            (&b""[..], "neither an SNP report"),
            (b"{", "no JSON"),
            (b"a.b.c", "no token"),
            (&[0xff; 1183], "neither"),
        ] {
            refused(bytes, words);
        }
    }
}
