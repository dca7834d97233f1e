//! A container's mounts, as the shim carries them into the guest.

use std::collections::{BTreeMap, BTreeSet};

use pod_manifest::spec::{Container, PodSpec, Spec, Volume, VolumeMount};
use serde::Serialize;
use shared_types::{EmptyDirectory, ScratchSize};
use verity::RootHash;

use crate::PolicyError;

/// Where a service account's token is mounted, under a volume's name that the cluster makes up.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Kubernetes' default.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Files that the engine makes for every container.
const ENGINE_FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
/// CRI-O's for every container, empty: by it a program can tell that it is in one.
const CONTAINER_ENV: &str = "/run/.containerenv";
const SHM: &str = "/dev/shm";
/// File systems of the kernel, which every container has.
const KERNEL: [&str; 6] = ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
/// The kind of what is at the place of an image's volume that has nothing in it.
const VOLUME: &str = "volume";
const READ_ONLY: &[&str] = &["ro"];
const READ_WRITE: &[&str] = &["rw"];
const EITHER: &[&str] = &["ro", "rw"];
const PRIVATE: [&str; 2] = ["private", "rprivate"];
const SLAVE: [&str; 2] = ["slave", "rslave"];

/// Model volumes by their names among the pod's.
pub(crate) type Models = BTreeMap<String, RootHash>;

/// What the host copies in for the pod.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// Names of single files: the last parts of their mounts' paths.
    pub(crate) files: BTreeSet<String>,
    /// Names of volumes.
    pub(crate) trees: BTreeSet<String>,
    /// Who may own a file: a token is its reader's.
    pub(crate) users: BTreeSet<u32>,
    /// Directories of the containers' own.
    pub(crate) volumes: BTreeSet<Directory>,
}

/// A directory at the place of an image's volume: the last part of that, and what it is like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Directory {
    name: String,
    #[serde(flatten)]
    like: EmptyDirectory,
}

/// What a mount must be like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Rule {
    kind: &'static str,
    place: String,
    name: String,
    modes: &'static [&'static str],
    propagations: &'static [&'static str],
    /// Of one for a directory of the container's own, what that is like; the rules know it by the directory's name.
    #[serde(skip)]
    like: Option<EmptyDirectory>,
}

impl Rule {
    /// For a file system of the kernel.
    pub(crate) fn kernel(place: &str) -> Self {
        Self { kind: "kernel", place: place.to_owned(), ..Self::default() }
    }

    /// Of one for a directory of the container's own, the place and what is there.
    pub(crate) fn volume(&self) -> Option<(&str, EmptyDirectory)> {
        self.like.map(|like| (self.place.as_str(), like))
    }

    fn bind(kind: &'static str, name: &str, modes: &'static [&'static str], follows: bool) -> Self {
        let propagations: &[_] = if follows { &SLAVE } else { &PRIVATE };
        Self { kind, name: name.to_owned(), modes, propagations, ..Self::default() }
    }
}

/// What is mounted into a container.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    /// By destination, in each form in which an engine writes it.
    pub(crate) rules: BTreeMap<String, Rule>,
    /// Places that must be there.
    pub(crate) places: BTreeSet<String>,
    /// Pairs of places, the first of which is above the second.
    pub(crate) nested: Vec<[String; 2]>,
    /// Copied volumes, which follow changes.
    pub(crate) trees: BTreeSet<String>,
    /// emptyDirs.
    pub(crate) empty_dirs: BTreeSet<String>,
    /// Model volumes.
    pub(crate) models: BTreeSet<RootHash>,
    /// How the root file system may take part in mounts.
    pub(crate) propagations: BTreeSet<&'static str>,
}

impl Mounts {
    fn add(&mut self, written: &str, rule: Rule, is_needed: bool) {
        let place = clean(written);
        let rule = Rule { place: place.clone(), ..rule };
        if is_needed {
            self.places.insert(place.clone());
        }
        // containerd keeps a destination as it is, CRI-O and older ones clean it.
        self.rules.insert(written.to_owned(), rule.clone());
        self.rules.insert(place, rule);
    }

    fn has(&self, place: &str) -> bool {
        self.rules.contains_key(place)
    }

    fn all_places(&self) -> BTreeSet<&str> {
        self.rules.values().map(|rule| rule.place.as_str()).collect()
    }
}

/// The container's last words are here.
pub(crate) fn last_words(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(TERMINATION_LOG)
}

pub(crate) fn mounts(
    container: &Container,
    spec: &Spec,
    volumes: &[(&str, Option<EmptyDirectory>)],
    models: &Models,
    copied: &mut Copied,
    faults: &mut Vec<PolicyError>,
) -> Mounts {
    let mut mounts = Mounts { propagations: ["", PRIVATE[0], PRIVATE[1]].into(), ..Mounts::default() };
    // A model volume is mounted wherever it comes from; as a device it has no options.
    let devices = container.volume_devices.iter().map(|device| {
        let mount_path = device.device_path.clone();
        (VolumeMount { name: device.name.clone(), mount_path, ..VolumeMount::default() }, true)
    });
    for (mount, is_device) in
        container.volume_mounts.iter().cloned().map(|mount| (mount, false)).chain(devices)
    {
        let added = if is_device && !models.contains_key(&mount.name) {
            Err(PolicyError::Mount {
                container: container.name.clone(),
                path: mount.mount_path.clone(),
                what: "a block device that volumes.toml does not declare as a model volume",
            })
        } else {
            volume_mount(&mut mounts, container, spec, &mount, models, copied)
        };
        faults.extend(added.err());
    }
    for place in KERNEL.into_iter().filter(|place| !mounts.has(place)).collect::<Vec<_>>() {
        mounts.add(place, Rule::kernel(place), true);
    }
    if !mounts.has(SHM) {
        mounts.add(SHM, Rule::bind("shm", "", READ_WRITE, false), true);
    }
    for path in ENGINE_FILES.into_iter().filter(|path| !mounts.has(path)).collect::<Vec<_>>() {
        let rule = file(path, EITHER, copied);
        mounts.add(path, rule, true);
    }
    if !mounts.has(CONTAINER_ENV) {
        let rule = file(CONTAINER_ENV, EITHER, copied);
        mounts.add(CONTAINER_ENV, rule, false);
    }
    let last_words = last_words(container);
    if !mounts.has(&clean(last_words)) {
        let rule = file(last_words, READ_WRITE, copied);
        mounts.add(last_words, rule, false);
    }
    if spec.automount_service_account_token != Some(false) && !mounts.has(SERVICE_ACCOUNT) {
        let rule = tree(SERVICE_ACCOUNT, false, copied, &mut mounts.trees);
        mounts.add(SERVICE_ACCOUNT, rule, false);
    }
    image_volumes(&mut mounts, container, volumes, copied, faults);
    // CRI-O mounts its files before volumes: a volume at /run hides this one, and nothing is lost with it.
    let places = mounts.all_places().into_iter().filter(|place| *place != CONTAINER_ENV);
    mounts.nested = nested(&places.collect());
    mounts
}

/// Volumes of the image at whose place nothing else is. One that has nothing in it is a directory of the container's own, which
/// the host makes; another is the root file system's own directory, if that can be written to.
fn image_volumes(
    mounts: &mut Mounts,
    container: &Container,
    volumes: &[(&str, Option<EmptyDirectory>)],
    copied: &mut Copied,
    faults: &mut Vec<PolicyError>,
) {
    let read_only = container.security_context.read_only_root_filesystem == Some(true);
    for (path, empty) in volumes.iter().copied() {
        if mounts.has(&clean(path)) {
            continue;
        }
        match empty {
            Some(like) => {
                let name = last_part(path);
                copied.volumes.insert(Directory { name: name.clone(), like });
                let rule = Rule::bind(VOLUME, &name, READ_WRITE, false);
                mounts.add(path, Rule { like: Some(like), ..rule }, false);
            }
            None if read_only => {
                let (container, path) = (container.name.clone(), path.to_owned());
                faults.push(PolicyError::ImageVolume { container, path });
            }
            None => {}
        }
    }
}

fn volume_mount(
    mounts: &mut Mounts,
    container: &Container,
    spec: &Spec,
    of: &VolumeMount,
    models: &Models,
    copied: &mut Copied,
) -> Result<(), PolicyError> {
    // kubelet puts the slash before a path that has none, and leaves the rest as it is.
    let absolute = format!("/{}", of.mount_path);
    let path = if of.mount_path.starts_with('/') { of.mount_path.as_str() } else { absolute.as_str() };
    let wrong = |what| PolicyError::Mount { container: container.name.clone(), path: path.to_owned(), what };
    let unusable = |why| PolicyError::Volume {
        container: container.name.clone(),
        volume: of.name.clone(),
        path: path.to_owned(),
        why,
    };
    if path.split('/').any(|part| part == "..") || clean(path) == "/" {
        return Err(wrong("a path with .., or one that is all of the file system"));
    }
    if mounts.has(&clean(path)) {
        return Err(wrong("another mount at the same place"));
    }
    let propagation = of.mount_propagation.as_deref();
    if propagation == Some("Bidirectional") {
        return Err(wrong("mountPropagation: Bidirectional"));
    }
    if of.sub_path_expr.as_deref().is_some_and(|text| !text.is_empty()) {
        return Err(wrong("a subPathExpr"));
    }
    let follows = propagation == Some("HostToContainer");
    if follows {
        mounts.propagations.extend(SLAVE);
    }
    let sub_path = of.sub_path.as_deref().is_some_and(|text| !text.is_empty());
    let volume = spec
        .volumes
        .iter()
        .find(|volume| volume.name == of.name)
        .ok_or_else(|| unusable("is not among spec.volumes: declare it there"))?;
    let rule = match (kind(volume), models.get(&of.name)) {
        (Some(_), Some(_)) => {
            return Err(unusable(
                "is declared as a model volume in volumes.toml, and kubelet makes it itself",
            ));
        }
        (None, Some(_)) if sub_path => return Err(wrong("a subPath of a model volume")),
        (None, Some(root)) => {
            mounts.models.insert(*root);
            // The rules know where the guest mounts it for the container, as it mounts layers.
            Rule::bind("model", &root.to_string(), READ_ONLY, follows)
        }
        (Some(Kind::Empty), None) if sub_path => return Err(wrong("a subPath of an emptyDir")),
        (Some(Kind::Empty), None) => {
            mounts.empty_dirs.insert(of.name.clone());
            let modes = if of.read_only == Some(true) { READ_ONLY } else { READ_WRITE };
            Rule::bind("empty_dir", &of.name, modes, follows)
        }
        // One file of it; kubelet mounts these volumes read-only in any case.
        (Some(Kind::Written), None) if sub_path => file(path, READ_ONLY, copied),
        (Some(Kind::Written), None) => tree(path, follows, copied, &mut mounts.trees),
        (None, None) => return Err(unusable(why_not(volume))),
    };
    mounts.add(path, rule, true);
    Ok(())
}

enum Kind {
    /// kubelet writes its files.
    Written,
    /// An emptyDir, which is the guest's.
    Empty,
}

fn kind(volume: &Volume) -> Option<Kind> {
    if let Some(dir) = &volume.empty_dir {
        return matches!(dir.medium.as_deref(), None | Some("" | "Memory")).then_some(Kind::Empty);
    }
    let written = [volume.config_map, volume.secret, volume.projected, volume.downward_api];
    written.iter().any(Option::is_some).then_some(Kind::Written)
}

/// Whether a volume of the pod is an emptyDir that is on its scratch disk: it has one, and does not want this volume in memory.
pub fn is_on_scratch(pod: &PodSpec, volume: &str) -> bool {
    let found = pod.spec.volumes.iter().find(|of| of.name == volume).and_then(|of| of.empty_dir.as_ref());
    pod.metadata.annotations.contains_key(ScratchSize::ANNOTATION)
        && found.is_some_and(|dir| dir.medium.as_deref() != Some("Memory"))
}

/// What the volume is, why the VM cannot have it, and what can be had instead.
fn why_not(volume: &Volume) -> &'static str {
    let kinds = [
        (
            volume.empty_dir.is_some(),
            "is an emptyDir of huge pages, which the guest has not: leave its medium out",
        ),
        (
            volume.persistent_volume_claim.is_some(),
            "is a persistentVolumeClaim, a disk whose content the host knows and changes, which does not reach the VM: \
             make a model volume of it (coffer volume), or mount an emptyDir and fetch into it what the pod needs",
        ),
        (
            volume.ephemeral.is_some(),
            "is an ephemeral volume of a storage class, a disk of the host, which does not reach the VM: mount an emptyDir",
        ),
        (
            volume.host_path.is_some(),
            "is a hostPath; the VM sees no file of the host: mount an emptyDir or a configMap, put it into the image, or make \
             a model volume of it (coffer volume)",
        ),
        (
            volume.nfs.is_some(),
            "is of NFS, which the host would mount and read: have the program fetch the files",
        ),
        (
            volume.csi.is_some(),
            "is a CSI driver's, which works on the host: mount an emptyDir, a secret or a configMap",
        ),
        (
            volume.image.is_some(),
            "is another image, which does not reach the VM: copy its files into the container's",
        ),
    ];
    let other = "is of a kind that does not reach the VM: only configMap, secret, projected, downwardAPI and emptyDir do";
    kinds.iter().find(|(is, _)| *is).map_or(other, |(_, why)| why)
}

fn file(path: &str, modes: &'static [&'static str], copied: &mut Copied) -> Rule {
    let name = last_part(path);
    copied.files.insert(name.clone());
    Rule::bind("file", &name, modes, false)
}

fn tree(path: &str, follows: bool, copied: &mut Copied, trees: &mut BTreeSet<String>) -> Rule {
    let name = last_part(path);
    copied.trees.insert(name.clone());
    trees.insert(name.clone());
    Rule::bind("tree", &name, READ_ONLY, follows)
}

/// A path as Go cleans it (`path.Clean`); it has no `..`.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

fn last_part(path: &str) -> String {
    clean(path).rsplit('/').next().unwrap_or_default().to_owned()
}

/// Pairs of which the first is above the second, where a later mount of the first would hide the second. In images
/// `/var/run` is `/run`.
fn nested(places: &BTreeSet<&str>) -> Vec<[String; 2]> {
    let real = |place: &str| match place.strip_prefix("/var/run") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("/run{rest}"),
        _ => place.to_owned(),
    };
    let is_above = |above: &str, below: &str| {
        real(below).strip_prefix(&real(above)).is_some_and(|rest| rest.starts_with('/'))
    };
    let pairs = places.iter().flat_map(|above| places.iter().map(move |below| (*above, *below)));
    pairs
        .filter(|(above, below)| is_above(above, below))
        .map(|(above, below)| [above.to_owned(), below.to_owned()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, ImageConfig};

    #[test]
    fn a_volume_of_the_image_needs_a_root_file_system_that_can_be_written_to() {
        let config = ImageConfig::parse(br#"{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "config": {"Volumes": {"/data": {}, "/proc": {}}}}"#).unwrap();
        let image = Image { config, ..Image::default() };
        let of = |image: &Image, more: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nspec:\n  volumes: [{{name: v, emptyDir: {{}}}}]\n  containers:\n    - {{name: c, image: i, {more}}}\n"
            );
            let spec = pod_manifest::spec::PodSpec::parse(&text).unwrap().spec;
            let mut faults = Vec::new();
            let mounts = mounts(
                &spec.containers[0],
                &spec,
                &image.volumes(false),
                &Models::new(),
                &mut Copied::default(),
                &mut faults,
            );
            let kind = mounts.rules.get("/data").map(|rule| rule.kind);
            (kind, faults.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        // It is no mount then.
        assert_eq!(of(&image, "tty: false"), (None, vec![]));
        let read_only = "securityContext: {readOnlyRootFilesystem: true}";
        let (_, faults) = of(&image, read_only);
        assert!(faults.len() == 1 && faults[0].contains("/data"), "{faults:?}");
        let mounted =
            "securityContext: {readOnlyRootFilesystem: true}, volumeMounts: [{name: v, mountPath: /data}]";
        assert_eq!(of(&image, mounted), (Some("empty_dir"), vec![]));
        // One that has nothing in it, but not where the kernel's file systems are.
        let directory = EmptyDirectory { uid: 999, gid: 998, mode: 0o1770 };
        let empty_volumes = ["/data", "/proc"].map(|path| (path.to_owned(), directory)).into();
        let empty = Image { empty_volumes, ..image };
        assert_eq!(of(&empty, "tty: false"), (Some("volume"), vec![]));
        assert_eq!(of(&empty, read_only), (Some("volume"), vec![]));
        assert_eq!(of(&empty, mounted), (Some("empty_dir"), vec![]));
    }

    #[test]
    fn a_volumes_path_cannot_write_lines_of_a_policy_and_leads_nowhere_else() {
        for path in ["/data\ndefault CopyFileRequest := true", "/link/../data"] {
            let config = ImageConfig { volumes: vec![path.to_owned()], ..ImageConfig::default() };
            let empty_volumes = [(path.to_owned(), EmptyDirectory::NEW)].into();
            let image = Image { config, empty_volumes, ..Image::default() };
            let (container, spec) = (Container::default(), Spec::default());
            let (mut copied, mut faults) = (Copied::default(), Vec::new());
            let volumes = image.volumes(false);
            let mounts = mounts(&container, &spec, &volumes, &Models::new(), &mut copied, &mut faults);
            assert!(!mounts.has(path) && copied.volumes.is_empty() && faults.is_empty(), "{path:?}");
        }
    }

    #[test]
    fn a_declared_volume_is_mounted_read_only_from_a_disk_or_a_device() {
        let root = RootHash::from_bytes([0xab; 32]);
        let of = |volume: &str, use_of: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nspec:\n  volumes: [{{name: w, {volume}}}]\n  containers:\n    - {{name: c, image: i, {use_of}}}\n"
            );
            let spec = pod_manifest::spec::PodSpec::parse(&text).unwrap().spec;
            let mut faults = Vec::new();
            let models = [("w".to_owned(), root)].into();
            let mounts =
                mounts(&spec.containers[0], &spec, &[], &models, &mut Copied::default(), &mut faults);
            (mounts, faults.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let claim = "persistentVolumeClaim: {claimName: p}";
        for use_of in [
            "volumeDevices: [{name: w, devicePath: /models}]",
            "volumeMounts: [{name: w, mountPath: /models}]",
        ] {
            let (mounts, faults) = of(claim, use_of);
            assert!(faults.is_empty(), "{faults:?}");
            assert_eq!(mounts.models, [root].into());
            let rule = &mounts.rules["/models"];
            assert_eq!((rule.kind, rule.modes, rule.name.as_str()), ("model", READ_ONLY, &*"ab".repeat(32)));
            assert!(mounts.places.contains("/models"));
        }
        for (volume, use_of, said) in [
            (claim, "volumeDevices: [{name: x, devicePath: /models}]", "does not declare as a model volume"),
            (
                claim,
                "volumeMounts: [{name: w, mountPath: /models, subPath: a}]",
                "a subPath of a model volume",
            ),
            ("emptyDir: {}", "volumeMounts: [{name: w, mountPath: /models}]", "kubelet makes it itself"),
            (claim, "volumeDevices: [{name: w, devicePath: /a/../b}]", "a path with .."),
        ] {
            let (_, faults) = of(volume, use_of);
            assert!(faults.len() == 1 && faults[0].contains(said), "{faults:?}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (written, cleaned) in [("/models/", "/models"), ("//a/./b//", "/a/b"), ("/", "/")] {
            assert_eq!(clean(written), cleaned);
        }
        assert_eq!(last_part("/etc/app/"), "app");
    }

    #[test]
    fn what_is_above_another_is_known_by_the_path_that_images_have() {
        let places = ["/dev", "/dev/shm", "/device", "/run", "/var/run/secrets"].into();
        let expected = [["/dev", "/dev/shm"], ["/run", "/var/run/secrets"]];
        assert_eq!(nested(&places), expected.map(|pair| pair.map(str::to_owned)));
    }
}
