//! Sealed secrets: the host has a text that points to a secret, and the container the secret.

use e2e::{BUSYBOX, Binding, KeyBroker, OrFail, Pod, PodContainer, Tenant, e2e};
use k8s_cri::v1::KeyValue;
use kbs::sealed::Owner;

const OWNER: &str = "default/signing/owner";
const PASSWORD: &str = "default/secret/password";

/// The container with a variable and a file, each a sealed secret.
async fn run(pod: &mut Pod, tenant: &Tenant, variable: &str, file: &str) -> Result<PodContainer, String> {
    let hosts = pod.directory.etc_hosts("127.0.0.1 localhost\n");
    let keys = pod.directory.secret("keys", &[("password", file), ("plain", "text")], "/etc/keys");
    let mut config = pod.written("app", BUSYBOX, tenant.image(), &["sleep", "100000"], vec![hosts, keys]);
    config.envs = vec![KeyValue { key: "PASSWORD".to_owned(), value: variable.to_owned() }];
    pod.try_run_config(&config).await.map_err(|status| status.message().to_owned())
}

#[test]
fn the_container_has_the_secret_and_its_host_has_not() {
    e2e(async |rig| {
        let (owner, place) = (Owner::default(), KeyBroker::at(8447));
        let (good, forged) = (owner.seal(PASSWORD, OWNER), Owner::default().seal(PASSWORD, OWNER));
        let document = place.document();
        let bind = |name: &str, variable: &str| {
            Tenant::bind_as(&Binding {
                name,
                image: BUSYBOX,
                documents: &[("aa.toml", &document)],
                variables: &[("PASSWORD", variable)],
                secrets: &[("keys", "/etc/keys")],
                ..Binding::default()
            })
        };
        let tenant = bind("sealed", &good);
        let kbs = place.open_with(&tenant, &[(OWNER, owner.jwk().as_bytes()), (PASSWORD, b"pa55")]);
        let mut pod = tenant.start(rig, "sealed").await;
        let container = run(&mut pod, &tenant, &good, &good).await.or_fail("the container");
        // The first process's own environment; an exec has its own.
        let script = "tr '\\0' '\\n' </proc/1/environ | grep PASSWORD; cat /etc/keys/password; echo; cat /etc/keys/plain";
        assert_eq!(container.exec(&["sh", "-c", script]).await, "PASSWORD=pa55\npa55\ntext");
        assert_eq!(kbs.attestations(), 1);
        assert!(!rig.log().contains("pa55"), "the host's log has the secret");
        pod.remove().await;

        // A host that puts another one in the place of the file, which no policy knows: the container is not there.
        let mut pod = tenant.start(rig, "sealed").await;
        let refusal = run(&mut pod, &tenant, &good, &forged).await.err().or_fail("a refusal");
        for words in [
            "open password in /etc/keys, a sealed secret",
            "its signature is not by the key default/signing/owner",
        ] {
            assert!(refusal.contains(words), "{words:?} is not in: {refusal}");
        }
        pod.remove().await;
    });
}
