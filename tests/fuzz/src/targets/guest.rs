//! The OCI spec of a container.

use guest_spec::{FileKind, GuestRootfs, HostFile, SandboxFacts, VolumeJudge, translate};
use oci_spec::runtime::Spec;
use verity::{BLOCK, root_of};

/// `config.json`, translated for the guest. Every path of the host is said to be a regular file.
pub(super) fn oci_spec(input: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(input) else { return };
    let _ = guest_spec::member(&spec);
    let rootfs = GuestRootfs::Layers(vec![root_of(&[1; BLOCK])]);
    let sandbox =
        SandboxFacts { namespace: "k8s.io", seccomp: true, scratch: false, volumes: VolumeJudge::Engine };
    let stat =
        |_: &_| Some(HostFile { kind: FileKind::File, gid: 0, mode: 0o644, medium: None, empty: None });
    let Ok(guest) = translate("c1", &spec, &sandbox, &rootfs, &stat) else { return };
    // Nothing is made twice, and nothing that the agent mounts is said to be elsewhere.
    assert!(guest.storages.iter().all(|storage| storage.mount_point.starts_with("/run/")), "{guest:?}");
    let _ = guest.into_request("c1");
}
