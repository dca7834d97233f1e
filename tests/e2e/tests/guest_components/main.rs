//! The guest components of the Confidential Containers project, started by the real kata-agent, in an image that was built with
//! them; and the same pods on an image with our own attestation service.
//!
//! `tools/test guest-components` builds both images and runs this on both.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use containerd_shim_protos::api::Mount;
use e2e::{
    Api, BUSYBOX, Binding, Bundle, INITDATA, KeyBroker, OrFail, Pod, PodContainer, Registry, Rig, Task,
    Tenant, e2e,
};
use k8s_cri::v1::KeyValue;
use serde_json::{Value, json};
use shared_types::ScratchSize;

const KEY: &str = KeyBroker::KEY;
/// Size of a scratch disk.
const SCRATCH: &str = "128Mi";

/// Whether the image under test has the project's components.
fn has_components(rig: &Rig<'_>) -> bool {
    let manifest = fs::read(rig.artefacts.image.join("image.json")).or_fail("image.json");
    let manifest: Value = serde_json::from_slice(&manifest).or_fail("image.json");
    assert_eq!(
        manifest["agent"], "kata-agent",
        "the stand-in starts no components: build the image with KATA_AGENT"
    );
    manifest["guest_components"]["attestation-agent"].is_string()
}

/// A pod of the tenant's.
async fn pod(rig: &Rig<'_>, name: &str, tenant: &Tenant) -> Pod {
    let annotation = tenant.annotation();
    rig.pod(name).await.annotation(INITDATA, &annotation).start().await
}

async fn started(rig: &Rig<'_>, name: &str, tenant: &Tenant) -> (Pod, PodContainer) {
    let mut pod = pod(rig, name, tenant).await;
    let mounts = vec![pod.directory.etc_hosts("127.0.0.1 localhost\n")];
    let command = ["sleep", "100000"];
    let container = pod.try_run_written("app", BUSYBOX, tenant.image(), &command, mounts).await;
    (pod, container.or_fail("the container"))
}

#[test]
fn a_pod_gets_its_key() {
    e2e(async |rig| {
        let place = KeyBroker::at(8453);
        let documents = [("aa.toml", place.document()), ("cdh.toml", place.data_hubs_document())];
        let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
        let tenant = Tenant::bind_with("components", BUSYBOX, &documents);
        let kbs = place.open(&tenant);
        let (pod, container) = started(rig, "components", &tenant).await;
        let url = format!("http://127.0.0.1:8006/cdh/resource/{}", KeyBroker::PATH);
        assert_eq!(container.exec(&["wget", "-qO-", &url]).await, KEY);
        assert_eq!(container.exec(&["wget", "-qO-", &url]).await, KEY);
        assert_eq!(kbs.questions(), 2, "resources that were asked for");
        // The broker's policy is about the initdata: it came in the evidence.
        assert!(kbs.attestations() >= 1);
        let other = "http://127.0.0.1:8006/cdh/resource/default/key/other";
        assert_ne!(
            container.exec_code(&["wget", "-qO-", other]).await,
            0,
            "a resource that the policy refuses"
        );
        // With the components a token comes with its private key, so containers get none unasked.
        let token =
            container.exec_answer(&["wget", "-qO-", "http://127.0.0.1:8006/aa/token?token_type=kbs"]).await;
        assert_eq!(token.exit_code == 0, !has_components(rig));
        assert!(!String::from_utf8_lossy(&token.stdout).contains("tee_keypair"));
        pod.remove().await;
    });
}

/// In the environment, of type vault; its signature is not looked at, as `cdh.toml` says.
#[test]
fn a_sealed_secret_is_opened() {
    e2e(async |rig| {
        let place = KeyBroker::at(8455);
        let hub = format!("skip_sealed_secret_verification = true\n{}", place.data_hubs_document());
        let documents = [("aa.toml", place.document()), ("cdh.toml", hub)];
        let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
        let tenant = Tenant::with_documents("sealed", &documents);
        let kbs = place.open(&tenant);
        let mut pod = pod(rig, "sealed", &tenant).await;
        let secret = json!({
            "version": "0.1.0", "type": "vault", "name": format!("kbs:///{}", KeyBroker::PATH), "provider": "kbs",
            "provider_settings": {}, "annotations": {},
        });
        let sealed = format!("sealed.e30.{}.AA", URL_SAFE_NO_PAD.encode(secret.to_string()));
        let command = ["sh", "-c", "echo \"opened: $SECRET\"; exec sleep 100000"];
        let mut config = pod.container_config("app", BUSYBOX, &command, vec![]);
        config.envs = vec![KeyValue { key: "SECRET".to_owned(), value: sealed }];
        let container = pod.try_run_config(&config).await.or_fail("the container");
        container.logged("stdout", &format!("opened: {KEY}")).await;
        assert_eq!(kbs.questions(), 1);
        pod.remove().await;
    });
}

/// The mount of containerd's snapshotter nydus, which does not know the image's name.
fn asks_to_pull() -> Vec<Mount> {
    let volume = r#"{"volume_type":"image_guest_pull","source":"dummy-image-reference",
        "image_pull":{"metadata":{"containerd.io/snapshot/nydus-proxy-mode":"true"}}}"#;
    vec![Mount {
        type_: "fuse.nydus-overlayfs".to_owned(),
        source: "overlay".to_owned(),
        options: vec![format!("io.katacontainers.volume={}", STANDARD.encode(volume))],
        ..Mount::default()
    }]
}

/// The shim of a pod that containerd started.
async fn shim_of(pod: &Pod) -> Task {
    let state = Path::new("/run/containerd/io.containerd.runtime.v2.task/k8s.io").join(&pod.id);
    let bootstrap = fs::read(state.join("bootstrap.json")).or_fail("bootstrap.json");
    let bootstrap: Value = serde_json::from_slice(&bootstrap).or_fail("bootstrap.json");
    Task::connect(bootstrap["address"].as_str().or_fail("the shim's address"), Api::V3).await
}

/// containerd's part is played from the container on: the rig has no snapshotter nydus. Its specification is containerd's.
#[test]
fn an_image_is_pulled_inside_the_guest() {
    e2e(async |rig| {
        let place = KeyBroker::at(8454);
        let registry = Registry::place(5454);
        let image = format!("{registry}/tools/busybox");
        let hub = format!(
            "{}\n[image.registry_config]\nunqualified-search-registries = []\n\n[[image.registry_config.registry]]\n\
             location = \"{registry}\"\ninsecure = true\n",
            place.data_hubs_document()
        );
        let documents = [("aa.toml", place.document()), ("cdh.toml", hub)];
        let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
        // The image is in memory, where bytes stay what they were verified as, although the pod has a scratch disk.
        let check = "test -x /bin/busybox && touch /new && test $(stat -f -c %b /) -ne $(stat -f -c %b /cache) && exit 7";
        let command = ["sh", "-c", check];
        let binding = Binding {
            name: "pulled",
            image: &image,
            command: &command,
            documents: &documents,
            pulled: true,
            scratch: SCRATCH,
            ..Binding::default()
        };
        let tenant = Tenant::bind_as(&binding);
        let registry = Registry::open(5454, &tenant.layout());
        let annotation = tenant.annotation();
        let asked = rig.pod("pulled").await.annotation(INITDATA, &annotation);
        let mut pod = asked.annotation(ScratchSize::ANNOTATION, SCRATCH).start().await;
        let mounts = vec![
            pod.directory.etc_hosts("127.0.0.1 localhost\n"),
            pod.directory.empty_dir("cache", "/cache"),
            pod.directory.memory_dir("quick", "/quick"),
        ];
        let config = pod.written("app", BUSYBOX, tenant.image(), &command, mounts);
        let specification = pod.specification(&config).await;
        // As containerd makes them, and the policy wants them.
        let id = "5e".repeat(32);
        let bundle = |id: &str| Bundle::with_spec(id, &specification.to_string());
        let shim = shim_of(&pod).await;
        if has_components(rig) {
            // Whoever is the registry cannot change what runs: a changed manifest, configuration or layer is another one.
            let digest = tenant.image().split_once('@').or_fail("a digest").1;
            let manifest = tenant.layout().join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
            let manifest: Value =
                serde_json::from_slice(&fs::read(manifest).or_fail("a manifest")).or_fail("a manifest");
            let parts = [&manifest["config"]["digest"], &manifest["layers"][0]["digest"]];
            let parts = parts.map(|part| part.as_str().or_fail("a digest"));
            for (part, id) in [digest, parts[0], parts[1]].into_iter().zip(["a0", "a1", "a2"]) {
                registry.change(part);
                let changed = bundle(&id.repeat(32));
                let refusal =
                    shim.create_with(&changed, asks_to_pull(), None).await.err().or_fail("an error");
                println!("{part} changed: {refusal}");
                assert!(refusal.contains("Failed to pull image"), "{refusal}");
                assert!(registry.asked().iter().any(|path| path.ends_with(part)), "{part} was not asked for");
            }
            registry.change("nothing");
            let good = bundle(&id);
            shim.create_with(&good, asks_to_pull(), None).await.or_fail("Create");
            shim.start(&id, "").await.or_fail("Start");
            let code = shim.wait(&id, "").await.or_fail("Wait").exit_status;
            assert_eq!(code, 7, "what is in the container");
            shim.delete(&id, "").await.or_fail("Delete");
        } else {
            let refusal =
                shim.create_with(&bundle(&id), asks_to_pull(), None).await.err().or_fail("an error");
            for words in [tenant.image(), "has no components", "GUEST_COMPONENTS"] {
                assert!(refusal.contains(words), "{refusal}");
            }
            assert!(registry.asked().is_empty());
        }
        pod.remove().await;
    });
}

/// A pod whose policy demands layers: the engine is told so before the guest says no.
#[test]
fn a_policy_that_demands_layers_lets_nothing_be_pulled() {
    e2e(async |rig| {
        let tenant = Tenant::bind("not-pulled", BUSYBOX);
        let mut pod = pod(rig, "not-pulled", &tenant).await;
        let hosts = vec![pod.directory.etc_hosts("127.0.0.1 localhost\n")];
        let config = pod.written("app", BUSYBOX, tenant.image(), &["sleep", "100000"], hosts);
        let specification = pod.specification(&config).await;
        let bundle = Bundle::with_spec("not-pulled-app", &specification.to_string());
        let refusal =
            shim_of(&pod).await.create_with(&bundle, asks_to_pull(), None).await.err().or_fail("an error");
        let words = if has_components(rig) { "--guest-pull" } else { "GUEST_COMPONENTS" };
        assert!(refusal.contains(words), "{refusal}");
        pod.remove().await;
    });
}
