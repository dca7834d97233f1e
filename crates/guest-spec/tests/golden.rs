//! Whole specs, as containerd writes them, and what becomes of them.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::collections::BTreeMap;
use std::path::Path;

use guest_spec::{FileKind, GuestContainer, GuestRootfs, HostFile, SandboxFacts, VolumeJudge, translate};
use oci_spec::runtime::Spec;

fn stat(path: &Path) -> Option<HostFile> {
    let kind =
        if path.to_string_lossy().contains("/volumes/") { FileKind::Directory } else { FileKind::File };
    Some(HostFile { kind, gid: 2000, mode: 0o777, medium: None, empty: None })
}

fn translated(container: &str, namespace: &str, json: &str, layers: &[&str]) -> GuestContainer {
    let spec: Spec = serde_json::from_str(json).unwrap();
    let layers = layers.iter().map(|digit| digit.repeat(64).parse().unwrap()).collect();
    let sandbox = SandboxFacts { namespace, seccomp: true, scratch: false, volumes: VolumeJudge::Engine };
    translate(container, &spec, &sandbox, &GuestRootfs::Layers(layers), &stat).unwrap()
}

/// Debug output without what is not sent: fields at their default, and protobuf's own.
fn render(mut guest: GuestContainer) -> String {
    let annotations: BTreeMap<String, String> = guest.oci.Annotations.drain().collect();
    let debug = format!("annotations: {annotations:#?}\n{guest:#?}");
    let mut lines = Vec::new();
    let mut skip_to = None;
    for line in debug.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(end) = skip_to {
            if indent == end {
                skip_to = None;
            }
        } else if text.starts_with("special_fields: ") {
            skip_to = text.ends_with('{').then_some(indent);
        } else if ![": \"\",", ": [],", ": {},", ": 0,", ": false,", ": None,"]
            .iter()
            .any(|d| text.ends_with(d))
        {
            lines.push(line);
        }
    }
    lines.join("\n")
}

#[test]
fn a_container_of_a_pod() {
    let guest = translated("c0ffee", "k8s.io", include_str!("specs/cri-container.json"), &["c", "b", "a"]);
    insta::assert_snapshot!(render(guest));
}

#[test]
fn ctr_run() {
    let guest = translated("demo", "default", include_str!("specs/ctr-run.json"), &["a"]);
    insta::assert_snapshot!(render(guest));
}
