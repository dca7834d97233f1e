//! The same pod with one thing changed: who refuses it, with which words, and that no key was given.

use std::sync::{Arc, OnceLock};

use attest::broker::Client;
use attest::config::Broker;
use attest::evidence::sample::Sample;
use attest::evidence::{Attester, Cpu, Declared, EvidenceError, Source};
use attest::protocol::Tee;
use kbs::Kbs;
use serde_json::Value;
use shared_types::one_line;

use super::Inference;
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

    /// What costs the guest its start: two rows, a VM each.
    pub async fn refused_at_boot(&self, artefacts: &Artefacts) -> Vec<Refused> {
        let kbs = self.broker.open(&self.tenant);
        let mut rows = Vec::new();
        let policy = "package agent_policy\n\ndefault CreateContainerRequest := true\n";
        let other = Tenant::with_documents("other-initdata", &[("policy.rego", policy)]);
        rows.push(Refused {
            changed: "other initdata than the report shows",
            step: "the guest's PID 1",
            said: refused(self.vm(artefacts, "other-initdata", &self.tenant, &other).await),
            words: &["the initdata is not the one that the hardware's report names"],
            released: gave(&kbs),
        });
        let with_gpu = self.with_gpu();
        rows.push(Refused {
            changed: "the GPU missing",
            step: "the guest's PID 1",
            said: refused(self.vm(artefacts, "no-gpu", &with_gpu, &with_gpu).await),
            words: &["the VM has 0 GPUs", "declares 1 GPUs"],
            released: gave(&kbs),
        });
        rows
    }

    /// Evidence of another session: the row of a host that has recorded an honest guest's.
    pub fn refused_replay(&self) -> Refused {
        let recorded = Recorded::default();
        let ask = |kbs: &Kbs| {
            let broker = Broker::parse(Some(&self.broker.document()), None).or_fail(&kbs.url);
            let attester = Attester::new(Box::new(recorded.clone()), Source::Sample, Declared::default());
            let client = Client::new(&broker, attester, Some(self.tenant.document()));
            client.resource(&KeyBroker::PATH.parse().or_fail("a resource"))
        };
        let kbs = self.broker.open(&self.tenant);
        ask(&kbs).or_fail("the key for evidence of its own session");
        drop(kbs);
        let kbs = self.broker.open(&self.tenant);
        let error = ask(&kbs).err().or_fail("a refusal");
        Refused {
            changed: "evidence of an earlier session",
            step: "the attestation service",
            said: one_line(&error),
            words: &["AttestationError"],
            released: gave(&kbs),
        }
    }
}

/// A processor whose report is always the first one.
#[derive(Debug, Clone, Default)]
struct Recorded(Arc<OnceLock<Value>>);

impl Cpu for Recorded {
    fn tee(&self) -> Tee {
        Sample.tee()
    }

    fn evidence(&self, data: &[u8; 64]) -> Result<Value, EvidenceError> {
        let evidence = Sample.evidence(data)?;
        Ok(self.0.get_or_init(|| evidence).clone())
    }
}

fn refused<T>(outcome: Result<T, String>) -> String {
    outcome.err().or_fail("a refusal")
}

fn gave(kbs: &Kbs) -> bool {
    kbs.first_key().is_some()
}
