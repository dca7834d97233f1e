//! A guest with SNP: its report by a chip of the tests, as the kernel hands it out; and a policy that `coffer measure -o trustee` made.

use attest::evidence::snp;
use kbs::snp::{Authority as Amd, Chip, Guest, Tcb};
use serde_json::json;

use super::*;

/// What `coffer measure -o trustee` prints for two pods (its own golden file). The first is this guest's.
const POLICY: &str = include_str!("../../../../coffer/src/measure/trustee/two-pods.rego");
const MEASUREMENT: &str =
    "716c64e04c07ee78b4c161cde8953758a2fbe915df6c5d49f7faea84c87b2b263d9e61156d62fb4306b3d783786c472e";
const TCB: Tcb = Tcb { bootloader: 9, tee: 0, snp: 23, microcode: 0x48 };
const ID: [u8; 64] = [0x5a; 64];

fn guest() -> Guest {
    let digits = |at: usize| u8::from_str_radix(&MEASUREMENT[2 * at..2 * at + 2], 16).unwrap();
    Guest { measurement: std::array::from_fn(digits), policy: 0x30000, host_data: [0x11; 32] }
}

/// The security processor, and a host that may change what the guest sends.
struct Played {
    chip: Chip,
    guest: Guest,
    launched: fn(&mut [u8]),
    sent: fn(&mut Value),
}

impl Cpu for Played {
    fn tee(&self) -> Tee {
        Tee::Snp
    }

    fn evidence(&self, data: &[u8; 64]) -> Result<Value, EvidenceError> {
        let mut evidence = snp::evidence(&self.chip.report(&self.guest, data, self.launched), data)?;
        (self.sent)(&mut evidence["attestation_report"]);
        Ok(evidence)
    }
}

struct Machine {
    amd: Amd,
    scene: Scene,
}

impl Machine {
    fn new() -> Self {
        Self { amd: Amd::new().unwrap(), scene: Scene::new(1) }
    }

    fn played(&self) -> Played {
        let chip = self.amd.chip(ID, TCB).unwrap();
        Played { chip, guest: guest(), launched: |_| {}, sent: |_| {} }
    }

    /// A broker with the policy, that believes these chips and has reference values for the guest.
    fn kbs(&self, policy: &str, chips: &[&Chip]) -> Kbs {
        let values = [
            ("snp_launch_measurement", json!([MEASUREMENT])),
            ("snp_bootloader", json!([TCB.bootloader])),
            ("snp_tee_svn", json!([TCB.tee])),
            ("snp_snp_svn", json!([TCB.snp])),
            ("snp_microcode", json!([TCB.microcode])),
        ];
        self.scene.kbs(
            Setup {
                chips: Some(self.amd.store(chips.iter().copied())),
                references: values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
                ..self.scene.setup()
            }
            .policy(policy),
        )
    }

    /// What the guest gets; it shows no initdata document, so the policy alone looks at the report's field.
    fn ask(&self, kbs: &Kbs, played: Played, initdata: Option<&str>) -> Result<Vec<u8>, BrokerError> {
        let gpus = self.scene.driver(Behaviour::Honest);
        let gpus = Arc::new(Nvml::new(move || Ok(Opened(gpus.clone()))));
        let declared = Declared { gpus: 1, switches: 0 };
        let attester = Attester::new(Box::new(played), Source::Driver(gpus), declared);
        key(&Client::new(&self.scene.broker(&kbs.url), attester, initdata.map(str::to_owned)))
    }

    fn refused(&self, change: impl Fn(&mut Played), kind: &str) {
        let mut played = self.played();
        change(&mut played);
        let honest = self.amd.chip(ID, TCB).unwrap();
        // The broker finds the certificate that this chip should have.
        let known = if played.chip.report(&guest(), &[0; 64], |_| {})[0x1a0..0x1e0] == ID {
            &played.chip
        } else {
            &honest
        };
        let kbs = self.kbs(POLICY, &[known]);
        words(&self.ask(&kbs, played, None).unwrap_err(), &[kind]);
        assert!(kbs.first_key().is_none());
    }
}

#[test]
fn the_guest_of_the_policy_gets_its_key() {
    let machine = Machine::new();
    let played = machine.played();
    let kbs = machine.kbs(POLICY, &[&played.chip]);
    assert_eq!(machine.ask(&kbs, played, None).unwrap(), KEY);
}

#[test]
fn another_guest_is_denied_by_the_policy() {
    let machine = Machine::new();
    machine.refused(|played| played.guest.measurement[0] ^= 1, "PolicyDeny");
    machine.refused(|played| played.guest.host_data[31] ^= 1, "PolicyDeny");
    for bit in [16, 18, 19, 20] {
        machine.refused(|played| played.guest.policy ^= 1 << bit, "PolicyDeny");
    }
    // Older firmware than the reference values have, which the chip's certificate shows as well.
    machine
        .refused(|played| played.chip = machine.amd.chip(ID, Tcb { snp: 22, ..TCB }).unwrap(), "PolicyDeny");
}

#[test]
fn a_report_that_proves_nothing_is_refused_by_the_verifier() {
    let machine = Machine::new();
    // A chip of somebody else's.
    machine.refused(|played| played.chip = Amd::new().unwrap().chip(ID, TCB).unwrap(), "AttestationError");
    // One that nobody has a certificate of.
    machine.refused(|played| played.chip = machine.amd.chip([7; 64], TCB).unwrap(), "AttestationError");
    // What the host changes after it was signed.
    let sent: [fn(&mut Value); 8] = [
        |report| report["policy"] = 0xb0000.into(),
        |report| flip(&mut report["measurement"][47]),
        |report| flip(&mut report["host_data"][0]),
        |report| report["vmpl"] = 1.into(),
        |report| report["version"] = 2.into(),
        |report| report["reported_tcb"]["snp"] = 24.into(),
        |report| flip(&mut report["signature"]["r"][0]),
        |report| flip(&mut report["report_data"][0]),
    ];
    for sent in sent {
        machine.refused(|played| played.sent = sent, "AttestationError");
    }
    // What is signed, and is still not to be believed: newer versions than the key was made for.
    machine.refused(|played| played.launched = |report| report[0x180 + 6] = 24, "AttestationError");
    // Data behind the session's. The guest itself looks at this one.
    machine.refused(|played| played.launched = |report| report[0x8f] = 1, "over other data");
    machine.refused(|played| played.launched = |report| report[0x30] = 1, "VMPL");
}

fn flip(byte: &mut Value) {
    *byte = (byte.as_u64().unwrap() ^ 1).into();
}

#[test]
fn a_document_that_the_report_does_not_name_is_refused_by_the_verifier() {
    let machine = Machine::new();
    let document = initdata("package agent_policy\n");
    let played = machine.played();
    let kbs = machine.kbs(kbs::ALLOW_ALL, &[&played.chip]);
    words(&machine.ask(&kbs, played, Some(&document)).unwrap_err(), &["AttestationError"]);
    let mut played = machine.played();
    let parsed = InitData::parse(document.clone().into_bytes()).unwrap();
    played.guest.host_data = *parsed.host_data().as_bytes();
    let kbs = machine.kbs(kbs::ALLOW_ALL, &[&played.chip]);
    assert_eq!(machine.ask(&kbs, played, Some(&document)).unwrap(), KEY);
}
