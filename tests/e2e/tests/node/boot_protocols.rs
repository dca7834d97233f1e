//! How a shim is started and answers, by engine and version. No VM boots here.

use e2e::{Api, Artefacts, Bundle, OrFail, ShimProcess, StartReply, Task, Victim, e2e, spec};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::json;

const NAMESPACE: &str = "default";
/// Bytes of the released shim: one process of it stays for each pod.
const LARGEST_SHIM: u64 = 6_000_000;

#[test]
fn the_released_shim_is_small() {
    let shim = Artefacts::find().shim;
    let size = std::fs::metadata(&shim).map_or(u64::MAX, |metadata| metadata.len());
    assert!(size <= LARGEST_SHIM, "{} has {size} bytes", shim.display());
}

/// A bundle as this engine writes it: containerd 2 has version 1.2 of the OCI spec.
fn bundle(id: &str, oci_version: &str) -> Bundle {
    let text = spec(&["true"], json!({}));
    Bundle::with_spec(
        id,
        &text.replace(r#""ociVersion":"1.1.0""#, &format!(r#""ociVersion":"{oci_version}""#)),
    )
}

/// Both names of the service answer at `address`; then the shim ends.
async fn serves_both(address: &str, id: &str) {
    for api in [Api::V2, Api::V3] {
        let error = Task::connect(address, api).await.state(id).await.err().or_fail("no such task");
        assert!(!error.contains("not supported") && !error.contains("UNIMPLEMENTED"), "{api:?}: {error}");
        assert!(error.contains(id), "{api:?}: {error}");
    }
    let _ = Task::connect(address, Api::V3).await.shutdown(id).await;
    Victim::Shim.gone().await;
}

fn options() -> Vec<u8> {
    let any = Any { type_url: "runtimeoptions.v1.Options".to_owned(), ..Any::default() };
    any.write_to_bytes().or_fail("options")
}

fn address_of(reply: StartReply) -> String {
    let json = reply.json();
    assert_eq!((json["version"].as_i64(), json["protocol"].as_str()), (Some(3), Some("ttrpc")), "{json}");
    json["address"].as_str().or_fail("address").to_owned()
}

#[test]
fn crio_gets_the_bare_address() {
    e2e(async |rig| {
        let bundle = bundle("boot-crio", "1.1.0");
        for version in [None, Some("2")] {
            let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle);
            let shim = version.into_iter().fold(shim, ShimProcess::max_version);
            serves_both(&shim.start().await.bare_address(), "boot-crio").await;
            shim.delete().await;
        }
    });
}

#[test]
fn containerd_1_7_gets_the_bare_address() {
    e2e(async |rig| {
        let bundle = bundle("boot-17", "1.1.0");
        let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle).from_containerd().max_version("2");
        serves_both(&shim.start().await.bare_address(), "boot-17").await;
        shim.delete().await;
    });
}

#[test]
fn containerd_2_1_gets_json_with_options_and_without() {
    e2e(async |rig| {
        let bundle = bundle("boot-21", "1.2.0");
        for stdin in [Vec::new(), options()] {
            let shim =
                ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle).from_containerd().max_version("2");
            let shim = shim.stdin(stdin);
            serves_both(&address_of(shim.start().await), "boot-21").await;
            shim.delete().await;
        }
    });
}

#[test]
fn containerd_2_3_gets_a_message() {
    e2e(async |rig| {
        let bundle = bundle("boot-23", "1.3.0");
        let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle).from_containerd().max_version("2");
        let shim = shim.bootstrap_params();
        let result = shim.start().await.bootstrap_result();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        serves_both(&result.address, "boot-23").await;
        shim.delete().await;
    });
}

#[test]
fn a_message_for_another_container_is_refused() {
    e2e(async |rig| {
        let (mine, other) = (bundle("boot-mine", "1.3.0"), bundle("boot-other", "1.3.0"));
        let message = ShimProcess::new(&rig.artefacts, NAMESPACE, &other).bootstrap_params();
        let reply =
            ShimProcess::new(&rig.artefacts, NAMESPACE, &mine).stdin(message.input().to_vec()).start().await;
        assert_ne!(reply.code, 0);
        assert!(reply.stderr.contains("boot-other"), "{}", reply.stderr);
    });
}
