//! The same pod with one thing changed: who refuses it, with which words, and that no key was given.

use std::sync::{Arc, OnceLock};

use attest::broker::Client;
use attest::config::Broker;
use attest::evidence::sample::Sample;
use attest::evidence::{Attester, Cpu, Declared, Device, EvidenceError, Gpus, Source};
use attest::protocol::Tee;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs::Kbs;
use kbs::hopper::Authority;
use serde_json::Value;
use shared_types::one_line;

use super::{Given, Inference};
use crate::artefacts::Artefacts;
use crate::images::BUSYBOX;
use crate::key_broker::KeyBroker;
use crate::or_fail::OrFail;
use crate::pod::Pod;
use crate::tenant::Tenant;

/// A row of the table.
#[derive(Debug)]
pub struct Refused {
    /// What is changed.
    pub changed: &'static str,
    /// Who refuses it.
    pub step: &'static str,
    /// What was said.
    pub said: String,
    /// Words of it that have to be there for the refusal to be the right one.
    pub words: &'static [&'static str],
    /// Whether the broker gave a key.
    pub released: bool,
}

impl Refused {
    /// The part of what was said that tells it: from the first of the words on, without the guest's last lines, which say it again.
    pub fn told(&self) -> &str {
        let start = self.words.first().and_then(|word| self.said.find(word)).unwrap_or_default();
        let told = self.said[start..].split("; the guest's last lines").next().unwrap_or_default();
        told.lines().next().unwrap_or_default().trim_end_matches(['"', '}'])
    }

    /// Fails unless it is refused, for the reason that it is to be refused for, and without a key.
    pub fn check(&self) {
        for word in self.words {
            assert!(self.said.contains(word), "{}: {word:?} is not in: {}", self.changed, self.said);
        }
        assert!(!self.released, "{}: a key was released", self.changed);
    }
}

impl Inference {
    /// What a host, a node or a broker can change before the pod runs, in a VM that is the owner's: three rows without
    /// another VM.
    pub async fn refused_in(&self, pod: &mut Pod) -> Vec<Refused> {
        let mut rows = Vec::new();
        let kbs = self.broker.open(&self.tenant);
        rows.push(Refused {
            changed: "another image's layers",
            step: "the node's shim, and behind it the guest's policy",
            said: refused(self.serve_image(pod, BUSYBOX).await),
            words: &["the image has 1 layers, and the pod wants 2", "its policy was made for another image"],
            released: gave(&kbs),
        });
        drop(kbs);

        let another = Tenant::bind_with("another-pod", BUSYBOX, &[("aa.toml", &self.broker.document())]);
        let kbs = self.broker.open(&another);
        rows.push(Refused {
            changed: "another policy of the agent",
            step: "the key broker's policy: the report shows another initdata",
            said: refused(self.serve(pod).await),
            words: &["PolicyDeny"],
            released: gave(&kbs),
        });
        drop(kbs);

        let kbs = self.broker.open_stranger(&self.tenant);
        rows.push(Refused {
            changed: "a key broker with another certificate",
            step: "the guest, before it sends anything",
            said: refused(self.serve(pod).await),
            words: &["showed a certificate that the pod's initdata does not pin"],
            released: gave(&kbs),
        });
        rows
    }

    /// What costs the guest its start: a VM for each row.
    pub async fn refused_at_boot(&self, artefacts: &Artefacts) -> Vec<Refused> {
        let kbs = self.broker.open(&self.tenant);
        let policy = "package agent_policy\n\ndefault CreateContainerRequest := true\n";
        let other = Tenant::with_documents("other-initdata", &[("policy.rego", policy)]);
        let own = &self.tenant;
        let rows: [(_, _, &Tenant, _, &'static [&'static str]); 4] = [
            (
                "other initdata than the report shows",
                "other-initdata",
                &other,
                Given::WANTED,
                &["the initdata is not the one that the hardware's report names"],
            ),
            ("the GPU missing", "no-gpu", own, Given::Nothing, &["the VM has 0 GPUs", "declares 1 GPUs"]),
            (
                "confidential computing off on the GPU",
                "cc-off",
                own,
                Given::Gpu("off"),
                &["confidential computing off; confidential computing on is needed"],
            ),
            (
                "the GPU open to debuggers (devtools)",
                "devtools",
                own,
                Given::Gpu("devtools"),
                &["confidential computing open to debuggers (devtools); confidential computing on is needed"],
            ),
        ];
        let mut refusals = Vec::new();
        for (changed, name, brought, given, words) in rows {
            let said = refused(self.vm(artefacts, name, brought, given).await);
            refusals.push(Refused { changed, step: "the guest's PID 1", said, words, released: gave(&kbs) });
        }
        self.gpu_is_free().await;
        refusals
    }

    /// Evidence of another session: the rows of a host that has recorded an honest guest's.
    pub fn refused_replays(&self) -> Vec<Refused> {
        let row = |changed, cpu: bool, gpu: bool| Refused {
            changed,
            step: "the attestation service",
            said: self.replayed(Recorded::new(cpu), Recorded::new(gpu)),
            words: &["AttestationError"],
            released: false,
        };
        vec![
            row("the processor's evidence of an earlier session", true, false),
            row("the GPU's evidence of an earlier session", false, true),
        ]
    }

    /// What is said in the second session, which gives no key.
    fn replayed(&self, cpu: Recorded<Value>, gpu: Recorded<Vec<Device>>) -> String {
        let ask = |kbs: &Kbs| {
            let broker = Broker::parse(Some(&self.broker.document()), None).or_fail(&kbs.url);
            let declared = Declared { gpus: 1, switches: 0 };
            let gpus = Source::Driver(Arc::new(gpu.clone()));
            let attester = Attester::new(Box::new(cpu.clone()), gpus, declared);
            let client = Client::new(&broker, attester, Some(self.tenant.document()));
            client.resource(&KeyBroker::PATH.parse().or_fail("a resource"))
        };
        let kbs = self.broker.open(&self.tenant);
        ask(&kbs).or_fail("the key for evidence of its own session");
        drop(kbs);
        let kbs = self.broker.open(&self.tenant);
        let error = ask(&kbs).err().or_fail("a refusal");
        assert!(!gave(&kbs), "a key was released");
        one_line(&error)
    }
}

/// A device whose evidence is always the first one, if it is `played` again.
#[derive(Debug, Clone)]
struct Recorded<T> {
    played: bool,
    first: Arc<OnceLock<T>>,
}

impl<T: Clone> Recorded<T> {
    fn new(played: bool) -> Self {
        Self { played, first: Arc::default() }
    }

    fn of(&self, evidence: T) -> T {
        if self.played { self.first.get_or_init(|| evidence).clone() } else { evidence }
    }
}

impl Cpu for Recorded<Value> {
    fn tee(&self) -> Tee {
        Sample.tee()
    }

    fn evidence(&self, data: &[u8; 64]) -> Result<Value, EvidenceError> {
        Sample.evidence(data).map(|evidence| self.of(evidence))
    }
}

/// One of the GPUs that the broker believes.
impl Gpus for Recorded<Vec<Device>> {
    fn evidence(&self, nonce: [u8; 32]) -> Result<Vec<Device>, EvidenceError> {
        let signs = Authority::known().and_then(|authority| authority.known_device("0000:01:00.0"));
        let device = signs.map_err(|error| EvidenceError::Library(error.to_string()))?;
        Ok(self.of(vec![Device {
            arch: "HOPPER".to_owned(),
            uuid: "GPU-recorded".to_owned(),
            evidence: STANDARD.encode(device.report(nonce)),
            certificate: STANDARD.encode(device.chain()),
        }]))
    }

    fn accept_work(&self) -> Result<(), EvidenceError> {
        Ok(())
    }
}

fn refused<T>(outcome: Result<T, String>) -> String {
    outcome.err().or_fail("a refusal")
}

fn gave(kbs: &Kbs) -> bool {
    kbs.first_key().is_some()
}
