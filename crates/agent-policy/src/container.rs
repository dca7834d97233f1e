//! What the rules expect of one container.

use std::collections::{BTreeMap, BTreeSet};

use pod_manifest::spec::{Container, PodSpec, Profile, Security, Service, Spec};
use serde::Serialize;
use shared_types::EmptyDirectory;

use crate::command::{command, own_commands};
use crate::environment::{Environment, patterns, services};
use crate::mounts::{Copied, Models, Rule, is_on_scratch, last_words, mounts};
use crate::order::Turn;
use crate::text::Text;
use crate::user::{Identity, identity};
use crate::{Image, Objects, PolicyError, capabilities, image, signals};

/// The name of the sandbox's own container in the rules; no name of Kubernetes' has these brackets.
pub(crate) const PAUSE: &str = "(sandbox)";

/// So many digits of a root hash tell a container's layers and model volumes apart (`digits` of the rules).
const DIGITS: usize = 10;
/// The user and group `nobody`.
const NOBODY: u32 = 65534;
/// What the sandbox's own container has of the kernel's file systems.
const SANDBOX_MOUNTS: [&str; 2] = ["/proc", "/dev"];
/// Its score when memory is short: the last to go.
const SANDBOX: [i64; 2] = [-998, -998];
/// What kubelet makes of a pod's quality of service, as bounds (`pkg/kubelet/qos`).
const GUARANTEED: [i64; 2] = [-997, -997];
const BURSTABLE: [i64; 2] = [2, 999];
const BEST_EFFORT: [i64; 2] = [1000, 1000];
/// What it makes of a pod without which there is no node.
const CRITICAL: &str = "system-node-critical";

/// What the rules compare a container's requests with; their files say what each of these is for.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Expected {
    name: String,
    ended: Vec<String>,
    begun: Vec<String>,
    not_begun: Vec<String>,
    images: BTreeSet<String>,
    args: Vec<Text>,
    commands: Vec<Vec<String>>,
    cwd: String,
    tty: bool,
    stdin: bool,
    uid: u32,
    gids: BTreeSet<u32>,
    groups: Vec<BTreeSet<u32>>,
    read_only: bool,
    no_new_privileges: bool,
    oom_score: [i64; 2],
    shares_pids: bool,
    capabilities: BTreeSet<Vec<String>>,
    calls: BTreeSet<&'static str>,
    seccomp: Vec<&'static str>,
    env: Vec<String>,
    env_shapes: BTreeMap<String, String>,
    env_shaped: Vec<String>,
    env_replaced: Vec<String>,
    env_optional: Vec<String>,
    env_any: Vec<String>,
    env_hostname: bool,
    env_patterns: Vec<&'static str>,
    services: &'static str,
    mounts: BTreeMap<String, Rule>,
    places: BTreeSet<String>,
    nested: Vec<[String; 2]>,
    trees: BTreeSet<String>,
    propagations: BTreeSet<&'static str>,
    empty_dirs: BTreeSet<String>,
    scratch_dirs: BTreeSet<String>,
    models: BTreeSet<String>,
    layers: Vec<String>,
    pulled: bool,
    last_words: Option<String>,
    gpus: u32,
    switches: u32,
    signals: BTreeSet<u32>,
    sysctls: BTreeMap<String, String>,
    sysctls_optional: BTreeMap<&'static str, Vec<&'static str>>,
}

impl Expected {
    /// The image's volumes that are directories of the container's own, by their places.
    pub(crate) fn volumes(&self) -> BTreeMap<&str, EmptyDirectory> {
        self.mounts.values().filter_map(Rule::volume).collect()
    }
}

/// The sandbox's own container: a program of the measured image that waits, as `guest_spec` asks for it.
pub(crate) fn sandbox(spec: &Spec) -> Expected {
    let sysctls = spec.security_context.sysctls.iter().map(|of| (of.name.clone(), of.value.clone()));
    Expected {
        name: PAUSE.to_owned(),
        args: vec![Text::plain("/pause")],
        cwd: "/".to_owned(),
        uid: NOBODY,
        gids: [NOBODY].into(),
        groups: vec![BTreeSet::new()],
        read_only: true,
        no_new_privileges: true,
        oom_score: SANDBOX,
        capabilities: [Vec::new()].into(),
        seccomp: vec!["none"],
        services: "KUBERNETES",
        mounts: SANDBOX_MOUNTS.map(|place| (place.to_owned(), Rule::kernel(place))).into(),
        places: SANDBOX_MOUNTS.map(str::to_owned).into(),
        propagations: [""].into(),
        signals: signals::USUAL.into(),
        sysctls: sysctls.collect(),
        // containerd's `enable_unprivileged_ports` and `enable_unprivileged_icmp`, and CRI-O's default.
        sysctls_optional: [
            ("net.ipv4.ip_unprivileged_port_start", vec!["0"]),
            ("net.ipv4.ping_group_range", vec!["0 2147483647", "0 0"]),
        ]
        .into(),
        ..Expected::default()
    }
}

/// The pod of a container, and what is known besides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) pod: &'a PodSpec,
    pub(crate) objects: &'a Objects,
    pub(crate) models: &'a Models,
    pub(crate) pulled: bool,
    pub(crate) turn: &'a Turn<'a>,
}

/// One of the manifest's, whose turn it is at a certain time. What stands in the way goes to the faults.
pub(crate) fn expected(
    container: &Container,
    around: Around<'_>,
    image: &Image,
    copied: &mut Copied,
    faults: &mut Vec<PolicyError>,
) -> Expected {
    let Around { pod, objects, models, pulled, turn } = around;
    let spec = &pod.spec;
    let name = &container.name;
    confined(container).unwrap_or_else(|fault| faults.push(fault));
    if image.layers.is_empty() {
        faults.push(PolicyError::NoLayers(name.clone()));
    }
    let environment = take(Environment::of(container, pod, objects, &image.config), faults);
    let mounts = mounts(container, spec, &image.volumes(pulled), models, copied, faults);
    let (scratch_dirs, empty_dirs) = mounts.empty_dirs.into_iter().partition(|name| is_on_scratch(pod, name));
    // Nobody gives the guest the layers of an image that it pulls.
    let layers = if pulled { Vec::new() } else { layers(image) };
    // One that is a layer of the image as well is mounted as that.
    let models: BTreeSet<_> =
        mounts.models.iter().map(ToString::to_string).filter(|root| !layers.contains(root)).collect();
    faults.extend(alike(name, &layers, &models));
    let security = &container.security_context;
    let Identity { uid, gids, groups } = take(identity(container, spec, image), faults);
    copied.users.insert(uid);
    let sets = take(capabilities::sets(name, &security.capabilities), faults);
    let directory = container.working_dir.as_deref().filter(|directory| !directory.is_empty());
    let of_image = Some(image.config.directory.as_str()).filter(|directory| !directory.is_empty());
    let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Expected {
        name: name.clone(),
        ended: texts(&turn.ended),
        begun: texts(&turn.begun),
        not_begun: texts(&turn.not_begun),
        images: take(image::references(name, &container.image), faults),
        args: take(command(container, &image.config, &environment), faults),
        commands: own_commands(container, &environment),
        cwd: directory.or(of_image).unwrap_or("/").to_owned(),
        tty: container.tty.unwrap_or_default(),
        stdin: container.stdin.unwrap_or_default(),
        uid,
        gids,
        groups: vec![groups],
        read_only: security.read_only_root_filesystem.unwrap_or_default(),
        no_new_privileges: security.allow_privilege_escalation == Some(false),
        oom_score: oom_score(spec),
        shares_pids: spec.share_process_namespace.unwrap_or_default(),
        calls: capabilities::calls(&sets),
        capabilities: sets,
        seccomp: take(seccomp(name, security, spec), faults),
        env: environment.required(),
        env_shaped: environment.shapes().into_keys().collect(),
        env_shapes: environment.shapes(),
        env_replaced: environment.replaced(),
        env_optional: environment.optional(),
        env_any: environment.any_value(),
        env_hostname: environment.has_hostname(),
        env_patterns: patterns(container),
        services: services(spec),
        mounts: mounts.rules,
        places: mounts.places,
        nested: mounts.nested,
        trees: mounts.trees,
        propagations: mounts.propagations,
        empty_dirs,
        scratch_dirs,
        models,
        layers,
        pulled,
        last_words: Some(last_words(container).to_owned()),
        gpus: container.resources.gpus,
        switches: container.resources.switches,
        signals: take(signals(container, image), faults),
        ..Expected::default()
    }
}

fn take<T: Default>(result: Result<T, PolicyError>, faults: &mut Vec<PolicyError>) -> T {
    result.unwrap_or_else(|fault| {
        faults.push(fault);
        T::default()
    })
}

fn confined(container: &Container) -> Result<(), PolicyError> {
    let security = &container.security_context;
    let unmasked = security.proc_mount.as_deref().is_some_and(|mount| mount == "Unmasked");
    let settings = [
        (security.privileged == Some(true), "securityContext.privileged"),
        (unmasked, "securityContext.procMount: Unmasked"),
    ];
    match settings.into_iter().find(|(set, _)| *set) {
        Some((_, setting)) => Err(PolicyError::Unconfined { container: container.name.clone(), setting }),
        None => Ok(()),
    }
}

/// Root hashes, the topmost first. A layer that is there twice counts where it is on top, and an overlay takes it once.
fn layers(image: &Image) -> Vec<String> {
    let mut seen = BTreeSet::new();
    image.layers.iter().filter(|layer| seen.insert(**layer)).map(ToString::to_string).collect()
}

/// Two root hashes that the rules' `digits` do not tell apart.
fn alike(container: &str, layers: &[String], models: &BTreeSet<String>) -> Option<PolicyError> {
    let sorted: BTreeSet<&String> = layers.iter().chain(models).collect();
    let mut pairs = sorted.iter().zip(sorted.iter().skip(1));
    let (first, second) = pairs.find(|(one, next)| one.get(..DIGITS) == next.get(..DIGITS))?;
    let (first, second) = ((*first).clone(), (*second).clone());
    Some(PolicyError::Alike { container: container.to_owned(), first, second })
}

/// `GetContainerOOMScoreAdjust`; between its bounds it goes by the node's memory.
fn oom_score(spec: &Spec) -> [i64; 2] {
    if spec.priority_class_name.as_deref() == Some(CRITICAL) {
        return GUARANTEED;
    }
    match spec.service() {
        Service::Guaranteed => GUARANTEED,
        Service::Burstable => BURSTABLE,
        Service::BestEffort => BEST_EFFORT,
    }
}

/// Which filters may be there: where the manifest says nothing, it is the node's setting (`seccompDefault`).
fn seccomp(name: &str, own: &Security, spec: &Spec) -> Result<Vec<&'static str>, PolicyError> {
    let profile = own.seccomp_profile.as_ref().or(spec.security_context.seccomp_profile.as_ref());
    match profile.map(|Profile { kind, .. }| kind.as_str()) {
        None => Ok(vec!["none", "default"]),
        Some("Unconfined") => Ok(vec!["none"]),
        Some("RuntimeDefault") => Ok(vec!["default"]),
        Some(kind) => Err(PolicyError::Seccomp { container: name.to_owned(), kind: kind.to_owned() }),
    }
}

fn signals(container: &Container, image: &Image) -> Result<BTreeSet<u32>, PolicyError> {
    let of_image = Some(image.config.stop_signal.as_str()).filter(|signal| !signal.is_empty());
    let own = container.lifecycle.stop_signal.as_deref().or(of_image);
    let own = own.map(|signal| signals::number(&container.name, signal)).transpose()?;
    Ok(signals::USUAL.into_iter().chain(own).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pod_manifest::spec::{Devices, PodSecurity};

    fn spec(services: &[Service]) -> Spec {
        let container = |service: &Service| Container {
            resources: Devices { service: *service, ..Devices::default() },
            ..Container::default()
        };
        Spec { containers: services.iter().map(container).collect(), ..Spec::default() }
    }

    #[test]
    fn the_score_goes_by_the_pods_quality_of_service() {
        use Service::{BestEffort, Burstable, Guaranteed};
        assert_eq!(oom_score(&spec(&[Guaranteed, Guaranteed])), GUARANTEED);
        assert_eq!(oom_score(&spec(&[BestEffort])), BEST_EFFORT);
        for mixed in [[Guaranteed, BestEffort], [Burstable, Burstable]] {
            assert_eq!(oom_score(&spec(&mixed)), BURSTABLE);
        }
        let own = "apiVersion: v1\nkind: Pod\nspec: {resources: {limits: {cpu: 1, memory: 1Gi}}, containers: [{name: a}]}";
        assert_eq!(oom_score(&PodSpec::parse(own).unwrap().spec), GUARANTEED);
        let critical = Spec { priority_class_name: Some(CRITICAL.into()), ..spec(&[Burstable]) };
        assert_eq!(oom_score(&critical), GUARANTEED);
    }

    #[test]
    fn the_container_decides_its_filter_then_the_pod() {
        let profile = |kind: &str| Some(Profile { kind: kind.into() });
        let of = |own: Option<Profile>, pods: Option<Profile>| {
            let security_context = PodSecurity { seccomp_profile: pods, ..PodSecurity::default() };
            let own = Security { seccomp_profile: own, ..Security::default() };
            seccomp("c", &own, &Spec { security_context, ..Spec::default() })
        };
        assert_eq!(of(None, None).unwrap(), ["none", "default"]);
        assert_eq!(of(profile("Unconfined"), profile("RuntimeDefault")).unwrap(), ["none"]);
        assert_eq!(of(None, profile("RuntimeDefault")).unwrap(), ["default"]);
        assert!(matches!(of(None, profile("Localhost")), Err(PolicyError::Seccomp { .. })));
    }

    #[test]
    fn a_layer_that_is_there_twice_counts_where_it_is_on_top() {
        let [a, b] = [1, 2].map(|byte| verity::RootHash::from_bytes([byte; 32]));
        let image = Image { layers: vec![a, b, a], ..Image::default() };
        assert_eq!(layers(&image), [a.to_string(), b.to_string()]);
    }

    #[test]
    fn a_layer_and_a_model_that_begin_alike_are_refused() {
        let root = |begin: &str, rest: &str| format!("{begin}{}", rest.repeat(64 - begin.len()));
        let [a, b, c] = [root("0123456789", "a"), root("0123456789", "b"), root("012345678", "a")];
        let of = |layers: &[&String], models: &[&String]| {
            let layers: Vec<_> = layers.iter().copied().cloned().collect();
            alike("c", &layers, &models.iter().copied().cloned().collect())
        };
        assert!(of(&[&a, &c], &[]).is_none() && of(&[&b], &[&c]).is_none() && of(&[], &[]).is_none());
        for error in [of(&[&b, &c, &a], &[]), of(&[&a], &[&b]), of(&[], &[&a, &b])] {
            let Some(PolicyError::Alike { first, second, .. }) = error else { panic!("{error:?}") };
            assert_eq!((first, second), (a.clone(), b.clone()));
        }
    }

    #[test]
    fn the_image_or_the_manifest_names_one_more_signal() {
        let mut image = Image::default();
        let mut container = Container::default();
        assert_eq!(signals(&container, &image).unwrap(), [9, 15].into());
        image.config.stop_signal = "SIGQUIT".into();
        assert_eq!(signals(&container, &image).unwrap(), [3, 9, 15].into());
        container.lifecycle.stop_signal = Some("SIGUSR1".into());
        assert_eq!(signals(&container, &image).unwrap(), [9, 10, 15].into());
    }
}
