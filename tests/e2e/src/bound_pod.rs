//! What kubelet makes of a manifest, as far as the tests' pods have it (Kubernetes, `pkg/kubelet/kuberuntime`).

use std::collections::BTreeMap;
use std::os::unix::fs::chown;

use k8s_cri::v1::{
    Capability, ContainerConfig, ContainerMetadata, Int64Value, KeyValue, LinuxContainerResources, Mount,
    NamespaceMode, SecurityProfile, security_profile,
};
use pod_manifest::spec::{Container, EnvVar, PodSpec, Service};
use pod_manifest::{Pod as Manifest, documents};

use crate::or_fail::OrFail;
use crate::pod::Pod;

/// The annotation with a pod's initdata.
pub const INITDATA: &str = "io.katacontainers.config.hypervisor.cc_init_data";

/// A pod of a manifest's only template.
#[derive(Debug)]
pub struct BoundPod {
    /// The name that its controller gave it.
    pub name: String,
    spec: PodSpec,
    manifest: Manifest,
}

impl BoundPod {
    /// The pod that a controller would call `name`.
    pub fn of(text: &str, name: &str) -> Self {
        let mut pods = documents(text).filter_map(Result::ok).flat_map(|document| {
            let templates = document.templates();
            templates.into_iter().map(move |template| (document.clone(), template))
        });
        let (document, template) = pods.next().or_fail("a pod in the manifest");
        let spec = template.spec(&document).or_fail("the template");
        let manifest = template.pod(&document).or_fail("the template");
        Self { name: name.to_owned(), spec, manifest }
    }

    /// The template.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// Names of its containers in their order, init containers first.
    pub fn containers(&self) -> Vec<String> {
        let spec = &self.spec.spec;
        spec.init_containers.iter().chain(&spec.containers).map(|container| container.name.clone()).collect()
    }

    /// Whether it is an init container that ends.
    pub fn is_init(&self, name: &str) -> bool {
        let mut all = self.spec.spec.init_containers.iter();
        all.any(|container| container.name == name && container.restart_policy.is_none())
    }

    /// Its initdata.
    pub fn annotation(&self) -> String {
        self.manifest.annotations.get(INITDATA).or_fail("an annotation with initdata").clone()
    }

    /// What kubelet asks for, for one container of an image that the node calls `image`, in a pod with this address.
    pub fn container(&self, pod: &Pod, name: &str, image: &str, address: &str) -> ContainerConfig {
        let spec = &self.spec.spec;
        let all = || spec.init_containers.iter().chain(&spec.containers);
        let container = all().find(|container| container.name == name).or_fail(name);
        let env = self.env(container, address);
        let expand = |texts: &[String]| texts.iter().map(|text| expand(text, &env)).collect::<Vec<_>>();
        let mut config = pod.config_of(name, image, &container.image);
        config.metadata = Some(ContainerMetadata { name: name.to_owned(), attempt: 0 });
        config.command = expand(&container.command);
        config.args = expand(&container.args);
        config.working_dir = container.working_dir.clone().unwrap_or_default();
        config.envs =
            env.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect();
        config.tty = container.tty.unwrap_or_default();
        config.stdin = container.stdin.unwrap_or_default();
        config.mounts = self.mounts(pod, container);
        let linux = config.linux.get_or_insert_default();
        linux.resources = Some(LinuxContainerResources {
            cpu_shares: 2,
            oom_score_adj: oom_score(&self.spec),
            ..LinuxContainerResources::default()
        });
        if let Some(namespaces) = linux.security_context.as_mut().and_then(|of| of.namespace_options.as_mut())
        {
            // Each container's processes are its own, as kubelet has it where they are not shared.
            namespaces.pid = NamespaceMode::Container.into();
        }
        let context = linux.security_context.get_or_insert_default();
        let (own, pods) = (&container.security_context, &spec.security_context);
        let number = |number: u32| Int64Value { value: number.into() };
        context.run_as_user = own.run_as_user.or(pods.run_as_user).map(number);
        context.run_as_group = own.run_as_group.or(pods.run_as_group).map(number);
        context.supplemental_groups =
            pods.fs_group.iter().chain(&pods.supplemental_groups).map(|group| i64::from(*group)).collect();
        context.readonly_rootfs = own.read_only_root_filesystem.unwrap_or_default();
        context.no_new_privs = own.allow_privilege_escalation == Some(false);
        let profile = own.seccomp_profile.as_ref().or(pods.seccomp_profile.as_ref());
        if profile.is_some_and(|profile| profile.kind == "RuntimeDefault") {
            context.seccomp = Some(SecurityProfile {
                profile_type: security_profile::ProfileType::RuntimeDefault.into(),
                ..SecurityProfile::default()
            });
        }
        context.capabilities = Some(Capability {
            add_capabilities: own.capabilities.add.clone(),
            drop_capabilities: own.capabilities.drop.clone(),
            ..Capability::default()
        });
        config
    }

    fn env(&self, container: &Container, address: &str) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = Vec::new();
        for EnvVar { name, value, value_from } in &container.env {
            let value = match value_from {
                None => expand(value.as_deref().unwrap_or_default(), &env),
                Some(from) => match from.field_ref.as_ref().map(|field| field.field_path.as_str()) {
                    Some("metadata.name") => self.name.clone(),
                    Some("metadata.namespace") => "default".to_owned(),
                    Some("status.podIP" | "status.hostIP") => address.to_owned(),
                    Some("spec.nodeName") => "node-1".to_owned(),
                    Some(path) if path.contains("completion-index") => "0".to_owned(),
                    _ => "from-elsewhere".to_owned(),
                },
            };
            env.push((name.clone(), value));
        }
        env
    }

    fn mounts(&self, pod: &Pod, container: &Container) -> Vec<Mount> {
        let volumes: BTreeMap<_, _> =
            self.spec.spec.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
        let mounts = container.volume_mounts.iter().map(|mount| {
            let volume = volumes.get(mount.name.as_str()).or_fail("a volume");
            // kubelet puts the slash before a path that has none, and nothing else.
            let path = &mount.mount_path;
            let path = if path.starts_with('/') { path.clone() } else { format!("/{path}") };
            if volume.empty_dir.is_some() {
                let mount = pod.directory.empty_dir(&mount.name, &path);
                // kubelet gives volumes to the pod's group.
                chown(&mount.host_path, None, self.spec.spec.security_context.fs_group).or_fail("chown");
                mount
            } else if volume.secret.is_some() {
                pod.directory.secret(&mount.name, &[("key", "secret")], &path)
            } else {
                pod.directory.configmap(&mount.name, &[("key", "value")], &path)
            }
        });
        mounts.chain([pod.directory.etc_hosts("127.0.0.1 localhost\n")]).collect()
    }
}

/// What kubelet makes of the pod's quality of service.
fn oom_score(spec: &PodSpec) -> i64 {
    match spec.spec.service() {
        Service::Guaranteed => -997,
        Service::BestEffort => 1000,
        Service::Burstable => 900,
    }
}

/// `$(NAME)` of what is known; enough for the tests' manifests.
fn expand(text: &str, env: &[(String, String)]) -> String {
    env.iter().rev().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}
