//! What the pod's containers are: the parts of a manifest that say what runs, and with what.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::claims::{Claims, OfContainer, OfPod};
use crate::gpus::Resource;
use crate::limits::{self, Stage};
use crate::names::Names;
use crate::quantity::Quantity;
use crate::written::Scalar;
use crate::{ManifestError, only};

/// A manifest's containers and volumes, under the names of Kubernetes' API (`core/v1`). What is not here is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// `metadata`.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: Spec,
    /// How the pods are called that are made of it.
    #[serde(skip)]
    pub names: Names,
}

macro_rules! object {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[$meta:meta])+ $field:ident: $type:ty,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $($(#[$meta])+ #[serde(default, deserialize_with = "or_default")] pub $field: $type,)+
        }
    };
}

object! {
    /// `metadata`.
    Metadata {
        /// The pod's name, where it is its own object.
        name: Option<String>,
        /// The namespace of its owner.
        namespace: Option<String>,
        /// Labels.
        labels: BTreeMap<String, String>,
        /// Annotations.
        annotations: BTreeMap<String, String>,
    }
}

object! {
    /// `spec`.
    Spec {
        /// Its host name; else it is the pod's name.
        hostname: Option<String>,
        /// Whether the name of its domain is part of the host name.
        #[serde(rename = "setHostnameAsFQDN")]
        set_hostname_as_fqdn: Option<bool>,
        /// Whether it has the node's network.
        host_network: Option<bool>,
        /// Whether it sees the node's processes.
        #[serde(rename = "hostPID")]
        host_pid: Option<bool>,
        /// Whether it has the node's shared memory.
        #[serde(rename = "hostIPC")]
        host_ipc: Option<bool>,
        /// Its priority by name.
        priority_class_name: Option<String>,
        /// Whether the containers see each other's processes.
        share_process_namespace: Option<bool>,
        /// Whether each service is named in the environment; true if absent.
        enable_service_links: Option<bool>,
        /// Whether a service account's token is mounted; true if absent.
        automount_service_account_token: Option<bool>,
        /// Security settings of all containers.
        security_context: PodSecurity,
        /// The account of its token; `default` if absent.
        service_account_name: Option<String>,
        /// Claims of devices.
        resource_claims: Vec<OfPod>,
        /// CPU and memory of the pod itself (Kubernetes 1.34 and later).
        resources: Option<PodResources>,
        /// Volumes.
        volumes: Vec<Volume>,
        /// Containers that run before the others.
        init_containers: Vec<Container>,
        /// Containers.
        containers: Vec<Container>,
    }
}

object! {
    /// `spec.securityContext`.
    PodSecurity {
        /// User.
        run_as_user: Option<u32>,
        /// Group.
        run_as_group: Option<u32>,
        /// Whether a container whose user is root is refused.
        run_as_non_root: Option<bool>,
        /// Group that owns volumes.
        fs_group: Option<u32>,
        /// More groups of all processes.
        supplemental_groups: Vec<u32>,
        /// Whether the image's groups come to those.
        supplemental_groups_policy: Option<String>,
        /// Filter of system calls.
        seccomp_profile: Option<Profile>,
        /// Kernel settings.
        sysctls: Vec<Sysctl>,
    }
}

object! {
    /// A filter of system calls.
    Profile {
        /// Its kind.
        #[serde(rename = "type")]
        kind: String,
    }
}

object! {
    /// A kernel setting.
    Sysctl {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    }
}

object! {
    /// A volume: the field of its kind is there, and what is in it does not matter here.
    Volume {
        /// Its name.
        name: String,
        /// Keys of a ConfigMap.
        config_map: Option<Anything>,
        /// Keys of a Secret.
        secret: Option<Anything>,
        /// Several of these.
        projected: Option<Anything>,
        /// Facts about the pod.
        #[serde(rename = "downwardAPI")]
        downward_api: Option<Anything>,
        /// A directory that lives as long as the pod.
        empty_dir: Option<EmptyDir>,
        /// A disk that outlives the pod.
        persistent_volume_claim: Option<Anything>,
        /// A disk that goes with the pod.
        ephemeral: Option<Anything>,
        /// A file or directory of the node.
        host_path: Option<Anything>,
        /// A directory of a file server.
        nfs: Option<Anything>,
        /// What a driver makes.
        csi: Option<Anything>,
        /// Another image's files.
        image: Option<Anything>,
    }
}

object! {
    /// An emptyDir.
    EmptyDir {
        /// Where its content is.
        medium: Option<String>,
    }
}

object! {
    /// A container.
    Container {
        /// Its name.
        name: String,
        /// Its image's reference.
        image: String,
        /// Of an init container: `Always` makes one that stays, a sidecar.
        restart_policy: Option<String>,
        /// Replaces the image's entry point.
        command: Vec<String>,
        /// Replaces the image's arguments.
        args: Vec<String>,
        /// Replaces the image's working directory.
        working_dir: Option<String>,
        /// Environment.
        env: Vec<EnvVar>,
        /// Environment from ConfigMaps and Secrets.
        env_from: Vec<EnvFrom>,
        /// Where volumes are mounted.
        volume_mounts: Vec<VolumeMount>,
        /// Block devices.
        volume_devices: Vec<VolumeDevice>,
        /// Whether it reads from who is attached.
        stdin: Option<bool>,
        /// Whether it has a terminal.
        tty: Option<bool>,
        /// Where its last words are.
        termination_message_path: Option<String>,
        /// Security settings.
        security_context: Security,
        /// Tells whether it has started.
        startup_probe: Option<Handler>,
        /// Tells whether it works.
        liveness_probe: Option<Handler>,
        /// Tells whether it takes requests.
        readiness_probe: Option<Handler>,
        /// Commands at its start and end.
        lifecycle: Lifecycle,
        /// Devices among its limits, and what its limits make of its quality of service.
        resources: Devices,
    }
}

object! {
    /// A variable.
    EnvVar {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<String>,
        /// Where its value comes from.
        value_from: Option<ValueFrom>,
    }
}

object! {
    /// Where a variable's value comes from.
    ValueFrom {
        /// A field of the pod.
        field_ref: Option<FieldRef>,
        /// A limit or request.
        resource_field_ref: Option<Anything>,
        /// A key of a ConfigMap.
        config_map_key_ref: Option<KeyRef>,
        /// A key of a Secret.
        secret_key_ref: Option<KeyRef>,
    }
}

object! {
    /// A field of the pod.
    FieldRef {
        /// Which.
        field_path: String,
    }
}

object! {
    /// A key of a ConfigMap or Secret.
    KeyRef {
        /// The object.
        name: String,
        /// The key.
        key: String,
        /// Whether the pod runs without it.
        optional: Option<bool>,
    }
}

object! {
    /// All keys of an object.
    EnvFrom {
        /// Goes before each name.
        prefix: String,
        /// A ConfigMap.
        config_map_ref: Option<ObjectRef>,
        /// A Secret.
        secret_ref: Option<ObjectRef>,
    }
}

object! {
    /// Another object.
    ObjectRef {
        /// Its name.
        name: String,
        /// Whether the pod runs without it.
        optional: Option<bool>,
    }
}

object! {
    /// Where a volume is mounted.
    VolumeMount {
        /// The volume.
        name: String,
        /// Where in the container.
        mount_path: String,
        /// Not for writing.
        read_only: Option<bool>,
        /// A part of the volume.
        sub_path: Option<String>,
        /// The same, with variables.
        sub_path_expr: Option<String>,
        /// Whether mounts are seen on the other side.
        mount_propagation: Option<String>,
    }
}

object! {
    /// Where a volume is as a block device.
    VolumeDevice {
        /// The volume.
        name: String,
        /// Where in the container.
        device_path: String,
    }
}

object! {
    /// A container's `securityContext`.
    Security {
        /// User.
        run_as_user: Option<u32>,
        /// Group.
        run_as_group: Option<u32>,
        /// Whether it is refused where its user is root.
        run_as_non_root: Option<bool>,
        /// Filter of system calls.
        seccomp_profile: Option<Profile>,
        /// Whether it has all of the host's devices.
        privileged: Option<bool>,
        /// Whether a program may have more rights than its parent; true if absent.
        allow_privilege_escalation: Option<bool>,
        /// Whether the root file system is not for writing.
        read_only_root_filesystem: Option<bool>,
        /// Capabilities.
        capabilities: Capabilities,
        /// Which parts of `/proc` are hidden.
        proc_mount: Option<String>,
    }
}

object! {
    /// Capabilities beside the usual ones, without `CAP_`.
    Capabilities {
        /// Added.
        add: Vec<String>,
        /// Taken away.
        drop: Vec<String>,
    }
}

object! {
    /// A probe, or one of [`Lifecycle`]'s.
    Handler {
        /// By a command.
        exec: Option<Exec>,
    }
}

object! {
    /// `lifecycle`.
    Lifecycle {
        /// After the start.
        post_start: Option<Handler>,
        /// Before the end.
        pre_stop: Option<Handler>,
        /// The signal that ends the container, instead of the image's.
        stop_signal: Option<String>,
    }
}

object! {
    /// A command in the container.
    Exec {
        /// The command and its arguments.
        command: Vec<String>,
    }
}

/// Devices among a container's limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Limits")]
pub struct Devices {
    /// GPUs.
    pub gpus: u32,
    /// NVSwitches of a board of eight GPUs.
    pub switches: u32,
    /// How much of CPU and memory it is promised.
    pub service: Service,
    /// CPU and memory that it asks for.
    pub requests: Compute,
    /// Names of other resources.
    pub others: Vec<String>,
    /// What it has of the pod's claims; their GPUs are among [`Self::gpus`].
    pub claims: Vec<OfContainer>,
}

/// CPU and memory, where anything is said of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compute {
    /// CPUs.
    pub cpu: Option<Quantity>,
    /// Bytes.
    pub memory: Option<Quantity>,
}

impl Compute {
    fn of(quantities: &BTreeMap<String, Scalar>) -> Result<Self, String> {
        let quantity = |name: &str| {
            let value = quantities.get(name).map(|Scalar(value)| value.parse::<Quantity>());
            value.transpose().map_err(|error| format!("{name}: {error}"))
        };
        Ok(Self { cpu: quantity("cpu")?, memory: quantity("memory")? })
    }

    /// These, and the others' where nothing is said here.
    fn or(self, others: Self) -> Self {
        Self { cpu: self.cpu.or(others.cpu), memory: self.memory.or(others.memory) }
    }
}

/// `spec.resources`: what all containers together ask for and may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Limits")]
pub struct PodResources {
    limits: Compute,
    requests: Compute,
    /// Whether there are limits, whatever they are of.
    limited: bool,
}

/// What a container or a pod is promised of CPU and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Service {
    /// Nothing.
    #[default]
    BestEffort,
    /// Less than it may use.
    Burstable,
    /// All that it may use.
    Guaranteed,
}

impl Service {
    /// As Kubernetes has it (`pkg/apis/core/v1/helper/qos`): nothing of both, all of both, or something else.
    fn of(limits: Compute, requests: Compute) -> Self {
        let amounts = [(limits.cpu, requests.cpu), (limits.memory, requests.memory)]
            .map(|(limit, request)| (limit.unwrap_or_default(), request.unwrap_or_default()));
        let none = Quantity::default();
        match () {
            () if amounts.iter().all(|amounts| *amounts == (none, none)) => Self::BestEffort,
            () if amounts.iter().all(|(limit, request)| limit == request && *limit > none) => {
                Self::Guaranteed
            }
            () => Self::Burstable,
        }
    }
}

#[derive(Deserialize)]
struct Limits {
    #[serde(default, deserialize_with = "or_default")]
    limits: BTreeMap<String, Scalar>,
    #[serde(default, deserialize_with = "or_default")]
    requests: BTreeMap<String, Scalar>,
    #[serde(default, deserialize_with = "or_default")]
    claims: Vec<OfContainer>,
}

impl TryFrom<Limits> for PodResources {
    type Error = String;

    fn try_from(from: Limits) -> Result<Self, String> {
        let limited = !from.limits.is_empty();
        Ok(Self { limits: Compute::of(&from.limits)?, requests: Compute::of(&from.requests)?, limited })
    }
}

impl TryFrom<Limits> for Devices {
    type Error = String;

    fn try_from(from: Limits) -> Result<Self, String> {
        let limits = Compute::of(&from.limits)?;
        // A request that is absent is the limit (`SetDefaults_Pod` of Kubernetes' pkg/apis/core/v1/defaults.go).
        let requests = Compute::of(&from.requests)?.or(limits);
        let service = Service::of(limits, requests);
        let mut devices = Self { service, requests, claims: from.claims.clone(), ..Self::default() };
        for (name, Scalar(value)) in &from.limits {
            let sum = match Resource::of(name) {
                Resource::Gpu => &mut devices.gpus,
                Resource::Switch => &mut devices.switches,
                // Named where limits are read.
                Resource::Refused(_) | Resource::Other => {
                    devices.others.push(name.clone());
                    continue;
                }
            };
            let count: Quantity = value.parse().map_err(|error| format!("{name}: {error}"))?;
            let count = u32::try_from(count.whole()).map_err(|_| format!("{name}: too many"))?;
            *sum = sum.checked_add(count).ok_or_else(|| format!("{name}: too many"))?;
        }
        Ok(devices)
    }
}

/// Any value; only that it is there counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anything;

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// `field:` with nothing behind it is Kubernetes' way to say that it is absent.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl Spec {
    /// The pod's quality of service: its own resources decide where it has any, as in `ComputePodQOS` of Kubernetes'
    /// `pkg/apis/core/v1/helper/qos`; else it is that of all its containers, or something between.
    #[must_use]
    pub fn service(&self) -> Service {
        if let Some(own) = self.resources {
            return Service::of(own.limits, self.requests(own));
        }
        let all = || self.init_containers.iter().chain(&self.containers).map(|of| of.resources.service);
        let is = |service| all().all(|of| of == service);
        match () {
            () if is(Service::Guaranteed) => Service::Guaranteed,
            () if is(Service::BestEffort) => Service::BestEffort,
            () => Service::Burstable,
        }
    }

    /// What the pod asks for: beside limits, what is not said is what its containers ask for, and else the limit
    /// (`defaultPodRequests` of Kubernetes' pkg/apis/core/v1/defaults.go).
    fn requests(&self, own: PodResources) -> Compute {
        if own.limited { own.requests.or(self.of_containers()).or(own.limits) } else { own.requests }
    }

    /// What the containers ask for together.
    fn of_containers(&self) -> Compute {
        let init = self.init_containers.iter().map(|container| (container.init_stage(), container));
        let all: Vec<_> =
            init.chain(self.containers.iter().map(|container| (Stage::Main, container))).collect();
        let amounts = all.iter().map(|(stage, container)| {
            let Compute { cpu, memory } = container.resources.requests;
            let (cpu, memory) = (cpu.unwrap_or_default(), memory.unwrap_or_default());
            (*stage, limits::Limits { cpu, memory, ..limits::Limits::default() })
        });
        // Kubernetes refuses what is too much to be counted.
        let sum = limits::Limits::of_pod(&amounts.collect::<Vec<_>>()).unwrap_or_default();
        let said = |of: fn(&Compute) -> Option<Quantity>, sum: Quantity| {
            all.iter().any(|(_, container)| of(&container.resources.requests).is_some()).then_some(sum)
        };
        Compute { cpu: said(|of| of.cpu, sum.cpu), memory: said(|of| of.memory, sum.memory) }
    }
}

impl Container {
    /// When it runs, where it is an init container.
    fn init_stage(&self) -> Stage {
        Stage::of_init(self.restart_policy.as_deref())
    }
}

impl PodSpec {
    /// Adds each container's GPUs by claims; one whose claims cannot be counted is refused where limits are read.
    pub(crate) fn count_claims(&mut self, claims: &Claims) {
        let of_pod = &self.spec.resource_claims;
        for container in self.spec.init_containers.iter_mut().chain(&mut self.spec.containers) {
            let devices = &mut container.resources;
            let counted = claims.gpus(of_pod, &devices.claims).unwrap_or_default();
            devices.gpus = counted.values().fold(devices.gpus, |sum, count| sum.saturating_add(*count));
        }
    }

    /// Reads the only pod of a manifest, as [`Pod::parse`](crate::Pod::parse) does.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let (document, template) = only(text)?;
        // What is wrong with its limits is named here as well.
        template.pod(&document)?;
        Ok(template.spec(&document)?)
    }
}
