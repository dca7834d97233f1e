//! Keys: a pod in a VM attests to a key broker and gets what the broker's policy lets it have.
//!
//! The guest is a release image's whose report a disk plays, so its evidence is `sample`; the broker is the stand-in for
//! Trustee of `tests/kbs`, at the bridge's address. Everything between them is the real thing: PID 1's checks, the service on
//! the pod's loopback, the pod's network, TLS with a pinned certificate.

use std::time::Duration;

use e2e::{Artefacts, BUSYBOX, Hypervisor, KeyBroker, OrFail, Pod, PodContainer, Rig, Tenant, e2e};

const PATH: &str = KeyBroker::PATH;
const KEY: &str = KeyBroker::KEY;
/// How long the broker may have to do with a pod, also where the VM is emulated.
const MOST: Duration = Duration::from_millis(1500);

/// A pod of the tenant's on a host that brings its initdata, with its container.
async fn started(rig: &Rig<'_>, name: &str, tenant: &Tenant) -> (Pod, PodContainer) {
    let hypervisor = Hypervisor::new(name).reports(&tenant.host_data());
    let hypervisor = hypervisor.disk("host-initdata", &tenant.disk(), "coffer-initdata");
    rig.config().path("image", &Artefacts::release_image()).path("qemu", &hypervisor.program()).install();
    let pod = rig.pod(name).await.try_start().await;
    rig.config().install();
    let mut pod = pod.or_fail("the pod");
    let mounts = vec![pod.directory.etc_hosts("127.0.0.1 localhost\n")];
    let command = ["sleep", "100000"];
    let container = pod.try_run_written("app", BUSYBOX, tenant.image(), &command, mounts).await;
    (pod, container.or_fail("the container"))
}

/// What the service on the loopback answers, head and content.
async fn ask(container: &PodContainer, target: &str) -> String {
    // The end of its input makes nc leave.
    let ask = format!("(printf 'GET {target} HTTP/1.0\\r\\n\\r\\n'; sleep 5) | nc 127.0.0.1 8006");
    container.exec(&["sh", "-c", &ask]).await
}

#[test]
fn the_pod_gets_its_key_through_its_network() {
    e2e(async |rig| {
        let place = KeyBroker::at(8443);
        let tenant = Tenant::bind_with("keys", BUSYBOX, &[("aa.toml", &place.document())]);
        let kbs = place.open(&tenant);
        let (pod, container) = started(rig, "keys", &tenant).await;
        rig.logged(&["starting the attestation service"]).await;
        let url = format!("http://127.0.0.1:8006/cdh/resource/{PATH}");
        assert_eq!(container.exec(&["wget", "-qO-", &url]).await, KEY);
        assert_eq!(container.exec(&["wget", "-qO-", &url]).await, KEY);
        assert_eq!((kbs.handshakes(), kbs.attestations(), kbs.questions()), (1, 1, 2));
        let took = kbs.first_key().or_fail("a key");
        println!("from challenge to key, as the broker saw it: {} ms", took.as_millis());
        assert!(took <= MOST, "{took:?}");

        let token = container.exec(&["wget", "-qO-", "http://127.0.0.1:8006/aa/token?token_type=kbs"]).await;
        assert!(token.contains("\"token\":\"") && !token.contains("tee_keypair"), "{token}");
        let info = container.exec(&["wget", "-qO-", "http://127.0.0.1:8006/info"]).await;
        assert!(info.contains("\"tee\":\"sample\""), "{info}");
        let other = ask(&container, "/cdh/resource/default/key/other").await;
        assert!(other.contains(" 401 ") && other.contains("PolicyDeny"), "{other}");

        // Whoever takes the broker's place has another key.
        drop(kbs);
        let stranger = place.open_stranger(&tenant);
        let answer = ask(&container, &format!("/cdh/resource/{PATH}")).await;
        assert!(answer.contains("showed a certificate that the pod's initdata does not pin"), "{answer}");
        assert_eq!(stranger.questions(), 0);
        pod.remove().await;
    });
}

#[test]
fn a_pod_with_another_policy_gets_nothing() {
    e2e(async |rig| {
        let place = KeyBroker::at(8444);
        let bound = Tenant::bind_with("keys-bound", BUSYBOX, &[("aa.toml", &place.document())]);
        // Another image, so another policy, and another digest in the report.
        let other =
            Tenant::bind_with("keys-other", "localhost/other:test", &[("aa.toml", &place.document())]);
        let kbs = place.open(&bound);
        let (pod, container) = started(rig, "keys-other", &other).await;
        let answer = ask(&container, &format!("/cdh/resource/{PATH}")).await;
        for words in [" 401 ", PATH, "PolicyDeny", "its policy wants another image, initdata"] {
            assert!(answer.contains(words), "{words:?} is not in: {answer}");
        }
        assert!(!answer.contains(KEY), "{answer}");
        assert_eq!((kbs.handshakes(), kbs.attestations()), (1, 1));
        pod.remove().await;
    });
}

#[test]
fn a_pod_that_names_no_broker_has_no_service() {
    e2e(async |rig| {
        let tenant = Tenant::bind("keyless", BUSYBOX);
        let (pod, container) = started(rig, "keyless", &tenant).await;
        let listens =
            container.exec(&["sh", "-c", "nc 127.0.0.1 8006 </dev/null && echo yes || echo no"]).await;
        assert_eq!(listens, "no\n");
        assert!(!rig.log().contains("starting the attestation service"), "the service was started");
        pod.remove().await;
    });
}
