//! The node's files, and what a pod asks for.

use vmm_config::cmdline::Cmdline;
use vmm_config::config::NodeConfig;
use vmm_config::image::ImageManifest;
use vmm_config::request::{OciLimits, PodRequest};
use vmm_config::units::{Vcpus, VmMemory};

/// The node's configuration. Errors name a line that is there.
pub(super) fn node_config(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Err(errors) = NodeConfig::parse(text, "config.toml") {
        assert!(errors.iter().next().is_some());
        let lines = 1 + text.bytes().filter(|byte| *byte == b'\n').count();
        errors.iter().for_each(|error| assert!((1..=lines).contains(&error.line), "{error}"));
    }
}

/// `image.json` of a guest image.
pub(super) fn image_manifest(input: &[u8]) {
    let _ = ImageManifest::parse(input);
}

/// The command line in a manifest.
pub(super) fn kernel_cmdline(input: &[u8]) {
    if let Ok(text) = str::from_utf8(input) {
        let _ = Cmdline::parse(text);
    }
}

/// Annotations, a line `name=value` each; the first four lines are quota, period, shares and memory limit. The node allows
/// all of them, and no VM is larger than one can be.
pub(super) fn pod_request(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let mut lines = text.lines();
    let mut number = || lines.next().and_then(|line| line.parse::<i64>().ok());
    let limits = OciLimits {
        cpu_quota: number(),
        cpu_period: number().and_then(|period| u64::try_from(period).ok()),
        cpu_shares: number().and_then(|shares| u64::try_from(shares).ok()),
        memory_limit: number(),
    };
    let annotations: Vec<_> = lines.filter_map(|line| line.split_once('=')).collect();
    let allowed = "allowed_annotations = [\"io.katacontainers.config.hypervisor.default_vcpus\", \
                   \"io.katacontainers.config.hypervisor.default_memory\"]";
    let Ok(config) = NodeConfig::parse(allowed, "config.toml") else { panic!("{allowed} is refused") };
    if let Ok(request) = PodRequest::new(&config, "sandbox", annotations, limits) {
        assert!(Vcpus::new(request.vcpus.get().into()).is_ok());
        assert!(VmMemory::new(request.memory.size()).is_ok());
    }
}

/// Manifests: every value is where it is said to be, and of every pod there are the annotations that kubelet makes.
pub(super) fn pod_manifest(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for document in pod_manifest::documents(text).flatten() {
        within(text, &document.root);
        for template in document.templates() {
            let _ = template.spec(&document);
            if let Ok(pod) = template.pod(&document) {
                let _ = pod.cri_annotations();
            }
        }
    }
    let _ = pod_manifest::Pod::parse(text);
}

/// A place that is no part of the text would be an edit somewhere else.
fn within(text: &str, node: &pod_manifest::yaml::Node) {
    assert!(text.get(node.span.clone()).is_some(), "{:?}", node.span);
    node.items().iter().for_each(|item| within(text, item));
    for field in node.fields() {
        assert!(text.get(field.at.clone()).is_some(), "{:?}", field.at);
        within(text, &field.value);
    }
}
