//! A guest with TDX: its quote by a platform of the tests, and the policy of [`super::snp`]'s golden file.

use kbs::tdx::{Authority as Intel, Platform};
use serde_json::json;

use super::*;

const POLICY: &str = include_str!("../../../../coffer/src/measure/trustee/two-pods.rego");
/// Of the policy's second pod.
const TD: [(&str, &str); 4] = [
    (
        "mr_td",
        "5f91550edb03f0bb8917da57f0f8818976f5da971307b7ee4886bb951c4891a1f16f840dae8f655aa5df718884ebc15b",
    ),
    (
        "rtmr_0",
        "45e3facb8c1e4979f047f99a6f40d00de95728ca5cb8e9f48307951886d016a49c463d4cd4d1e9e2bb1d215e3e78b36b",
    ),
    (
        "rtmr_1",
        "47f05d367b0c32e438fb63e6cf4a5f35c2aa2f90dc7543f8a41a0f95ce8a40a313ab5cf36134a2068c4c969cb50db776",
    ),
    (
        "rtmr_2",
        "d063457705d66d6f016e4cdd747db3af8d70ebfd36badd63de6c8ca4a9d8bfb5d874e7fbd750aa804dcaddae7eeef51e",
    ),
];
const XFAM: &str = "e702060000000000";

fn digits(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The TD of the policy.
fn td() -> BTreeMap<&'static str, Vec<u8>> {
    let mut td: BTreeMap<_, _> = TD.into_iter().map(|(name, hex)| (name, digits(hex))).collect();
    td.insert("mr_config_id", vec![0x11; 48]);
    td.insert("td_attributes", digits("0000001000000000"));
    td.insert("xfam", digits(XFAM));
    td
}

/// The platform, and a host that may change what is sent.
struct Played {
    platform: Platform,
    td: BTreeMap<&'static str, Vec<u8>>,
    sent: fn(&mut Vec<u8>),
}

impl Cpu for Played {
    fn tee(&self) -> Tee {
        Tee::Tdx
    }

    fn evidence(&self, data: &[u8; 64]) -> Result<Value, EvidenceError> {
        let quote = self.platform.quote(&self.td, data);
        let mut quote = quote.map_err(|error| EvidenceError::Malformed(error.to_string()))?;
        (self.sent)(&mut quote);
        Ok(json!({ "cc_eventlog": null, "quote": STANDARD.encode(quote) }))
    }
}

/// What a guest gets for what it shows.
fn ask(intel: &Intel, policy: &str, played: Played, initdata: Option<&str>) -> Result<Vec<u8>, BrokerError> {
    let scene = Scene::new(1);
    let mut values: BTreeMap<String, Value> =
        TD.into_iter().map(|(name, hex)| (name.to_owned(), json!([hex]))).collect();
    values.insert("xfam".to_owned(), json!([XFAM]));
    let setup = Setup { platform_root: Some(intel.root()), references: values, ..scene.setup() };
    let kbs = scene.kbs(setup.policy(policy));
    let gpus = scene.driver(Behaviour::Honest);
    let gpus = Arc::new(Nvml::new(move || Ok(Opened(gpus.clone()))));
    let attester = Attester::new(Box::new(played), Source::Driver(gpus), Declared { gpus: 1, switches: 0 });
    let answer = key(&Client::new(&scene.broker(&kbs.url), attester, initdata.map(str::to_owned)));
    assert_eq!(answer.is_ok(), kbs.first_key().is_some());
    answer
}

fn played(intel: &Intel) -> Played {
    Played { platform: intel.platform().unwrap(), td: td(), sent: |_| {} }
}

#[test]
fn the_td_of_the_policy_gets_its_key() {
    let intel = Intel::new().unwrap();
    assert_eq!(ask(&intel, POLICY, played(&intel), None).unwrap(), KEY);
}

#[test]
fn another_td_is_denied_by_the_policy() {
    let intel = Intel::new().unwrap();
    for field in ["mr_td", "rtmr_0", "rtmr_1", "rtmr_2", "mr_config_id", "td_attributes", "xfam"] {
        let mut other = played(&intel);
        // In td_attributes: a TD that can be debugged.
        other.td.get_mut(field).unwrap()[0] ^= 1;
        words(&ask(&intel, POLICY, other, None).unwrap_err(), &["PolicyDeny"]);
    }
}

#[test]
fn a_quote_that_proves_nothing_is_refused_by_the_verifier() {
    let intel = Intel::new().unwrap();
    let stranger = Played { platform: Intel::new().unwrap().platform().unwrap(), ..played(&intel) };
    words(&ask(&intel, POLICY, stranger, None).unwrap_err(), &["AttestationError"]);
    let sent: [fn(&mut Vec<u8>); 9] = [
        |quote| quote[0] = 5,
        |quote| quote[2] = 3,
        |quote| quote[4] = 0,
        // The TD's attributes, its signature, the enclave's key, the enclave's report and its signature.
        |quote| quote[48 + 120] ^= 1,
        |quote| quote[636] ^= 1,
        |quote| quote[700] ^= 1,
        |quote| quote[770] ^= 1,
        |quote| quote[1154] ^= 1,
        |quote| quote.truncate(quote.len() - 1),
    ];
    for (at, sent) in sent.into_iter().enumerate() {
        let error = ask(&intel, POLICY, Played { sent, ..played(&intel) }, None).unwrap_err();
        let said = one_line(&error);
        assert!(said.contains("AttestationError"), "{at}: {said}");
    }
}

#[test]
fn a_document_that_the_quote_does_not_name_is_refused_by_the_verifier() {
    let intel = Intel::new().unwrap();
    let document = initdata("package agent_policy\n");
    let error = ask(&intel, kbs::ALLOW_ALL, played(&intel), Some(&document)).unwrap_err();
    words(&error, &["AttestationError"]);
    let mut own = played(&intel);
    let parsed = InitData::parse(document.clone().into_bytes()).unwrap();
    own.td.insert("mr_config_id", parsed.mr_config_id().as_bytes().to_vec());
    assert_eq!(ask(&intel, kbs::ALLOW_ALL, own, Some(&document)).unwrap(), KEY);
}
