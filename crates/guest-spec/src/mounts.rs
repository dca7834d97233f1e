//! Mounts: kernel file systems pass, files and kubelet's volumes are carried into the guest, the rest is refused.

use std::path::{Component, Path};

use agent_client::proto::agent::{Storage, UpdateEphemeralMountsRequest};
use agent_client::proto::oci;
use oci_spec::runtime::Mount;

use crate::error::SpecError;
use crate::paths;
use crate::role::Owner;
use crate::storage::{empty_dir, empty_dir_size, in_empty_dir, in_scratch};
use crate::translate::{
    Copy, CopyKind, FileKind, HostFile, Medium, SandboxFacts, TerminationLog, VolumeJudge,
};
use crate::volume::{Volume, directory_of, is_containers_own, is_engine_file, is_image_volume, is_shm};

/// File systems that need nothing from the host.
const KERNEL_TYPES: [&str; 7] = ["proc", "sysfs", "devpts", "mqueue", "tmpfs", "cgroup", "cgroup2"];

/// What kata-agent 4.1.0 knows of a bind mount's options (rustjail's `OPTIONS` and `PROPAGATION`). Of others it makes data for
/// the file system, which a bind has none of: they would have no effect.
const BIND_OPTIONS: [&str; 41] = [
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "rbind",
    "relatime",
    "remount",
    "ro",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "sync",
    "private",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "shared",
    "slave",
    "unbindable",
];

/// As the guest has an emptyDir: the agent's message for one in memory has no mode, and a policy knows no other.
const EVERYBODY: u32 = 0o777;

const DEV_SHM: &str = "/dev/shm";
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What a container's mounts come to.
#[derive(Debug, Default)]
pub(crate) struct GuestMounts {
    pub(crate) mounts: Vec<oci::Mount>,
    pub(crate) storages: Vec<Storage>,
    pub(crate) copies: Vec<Copy>,
    pub(crate) termination_log: Option<TerminationLog>,
    pub(crate) notes: Vec<String>,
    pub(crate) sizes: Vec<UpdateEphemeralMountsRequest>,
    pub(crate) places: Vec<String>,
}

/// Translates the mounts of one container, in their order. `read_only` says whether its root file system is.
pub(crate) fn mounts(
    owner: Owner<'_>,
    read_only: bool,
    sandbox: &SandboxFacts<'_>,
    from: &[Mount],
    stat: &dyn Fn(&Path) -> Option<HostFile>,
) -> Result<GuestMounts, SpecError> {
    let mut translator = Translator {
        container: owner.container,
        owner,
        read_only,
        scratch: sandbox.scratch,
        judge: sandbox.volumes,
        stat,
        out: GuestMounts::default(),
    };
    for mount in from {
        translator.mount(mount)?;
    }
    Ok(translator.out)
}

struct Translator<'a> {
    container: &'a str,
    owner: Owner<'a>,
    read_only: bool,
    scratch: bool,
    judge: VolumeJudge<'a>,
    stat: &'a dyn Fn(&Path) -> Option<HostFile>,
    out: GuestMounts,
}

impl Translator<'_> {
    fn mount(&mut self, mount: &Mount) -> Result<(), SpecError> {
        let destination = mount.destination();
        if !is_plain(destination) {
            return Err(SpecError::BadDestination {
                container: self.container.to_string(),
                destination: destination.clone(),
            });
        }
        if is_bind(mount) {
            let source = mount.source().as_deref().filter(|path| *path != Path::new(""));
            let source = source.ok_or_else(|| SpecError::NoSource {
                container: self.container.to_string(),
                destination: destination.clone(),
            })?;
            return self.bind(mount, source);
        }
        let fstype = mount.typ().as_deref().unwrap_or("none");
        if !KERNEL_TYPES.contains(&fstype) {
            return Err(SpecError::FsType {
                container: self.container.to_string(),
                destination: destination.clone(),
                fstype: fstype.to_string(),
            });
        }
        // These have no source, but the agent insists on a string; the spec's could be anything.
        self.push(mount, fstype, fstype.to_string())
    }

    fn bind(&mut self, mount: &Mount, source: &Path) -> Result<(), SpecError> {
        let destination = mount.destination();
        if is_image_volume(source, &self.owner) {
            return self.image_volume(mount, source);
        }
        match Volume::of(source, &self.owner) {
            Some(Volume::EmptyDir(name)) => self.empty_dir(mount, source, name),
            Some(Volume::InEmptyDir { name, volume, within }) => {
                self.in_empty_dir(mount, source, (name, &volume), &within)
            }
            Some(Volume::Written) => self.copy(mount, source, CopyKind::Tree, true),
            Some(Volume::TerminationLog) => self.termination_log(mount, source),
            Some(Volume::SubPath { volume, volumes }) => self.sub_path(mount, source, volume, &volumes),
            Some(Volume::Plugin { plugin, name }) => Err(SpecError::Plugin {
                container: self.container.to_string(),
                destination: destination.clone(),
                plugin: plugin.to_string(),
                volume: name.to_string(),
            }),
            _ if destination == Path::new(DEV_SHM) && is_shm(source, &self.owner) => {
                self.push(mount, "bind", paths::SHM.to_string())
            }
            _ if destination == Path::new(TERMINATION_LOG) && self.owner.pod.is_none() => {
                self.termination_log(mount, source)
            }
            _ if is_engine_file(source, destination, &self.owner) => {
                self.copy(mount, source, CopyKind::File, false)
            }
            _ if is_containers_own(source, destination, &self.owner) => {
                let is_directory = self.kind(source) == Some(FileKind::Directory);
                self.copy(mount, source, if is_directory { CopyKind::Tree } else { CopyKind::File }, false)
            }
            _ => Err(self.refuse(mount, source)),
        }
    }

    fn kind(&self, source: &Path) -> Option<FileKind> {
        (self.stat)(source).map(|file| file.kind)
    }

    fn refuse(&self, mount: &Mount, source: &Path) -> SpecError {
        let container = self.container.to_string();
        let destination = mount.destination().clone();
        let source_path = source.display().to_string();
        match self.kind(source) {
            Some(FileKind::Device) => SpecError::DeviceNode { container, destination, source_path },
            _ => SpecError::HostPath { container, destination, source_path },
        }
    }

    fn empty_dir(&mut self, mount: &Mount, source: &Path, name: &str) -> Result<(), SpecError> {
        let (place, _) = self.empty_dir_storage(mount, source, name)?;
        self.push(mount, "bind", place)
    }

    /// Where the volume is in the guest, and its group.
    fn empty_dir_storage(
        &mut self,
        mount: &Mount,
        source: &Path,
        name: &str,
    ) -> Result<(String, u32), SpecError> {
        let file = (self.stat)(source)
            .filter(|file| file.kind == FileKind::Directory)
            .ok_or_else(|| self.wrong_kind(mount, source, "directory"))?;
        if file.medium == Some(Medium::HugePages) {
            return Err(SpecError::HugePagesVolume {
                container: self.container.to_string(),
                volume: name.to_string(),
            });
        }
        if file.mode & EVERYBODY != EVERYBODY {
            self.out.notes.push(format!(
                "mode {:04o} of the emptyDir {name} left out: the guest's directory is everybody's",
                file.mode & 0o7777
            ));
        }
        let storage = match file.medium {
            None if self.scratch => in_scratch(name, file.gid),
            _ => empty_dir(name, file.gid),
        };
        let place = storage.mount_point.clone();
        if self.add(storage)
            && let Some(Medium::Memory(size)) = file.medium
        {
            self.out.sizes.push(empty_dir_size(name, size));
        }
        Ok((place, file.gid))
    }

    /// A directory or file of it: the guest's, of which the host has a placeholder only.
    fn in_empty_dir(
        &mut self,
        mount: &Mount,
        source: &Path,
        (name, volume): (&str, &Path),
        within: &str,
    ) -> Result<(), SpecError> {
        if self.kind(source) != Some(FileKind::Directory) {
            return Err(self.wrong_kind(mount, source, "directory"));
        }
        let (_, gid) = self.empty_dir_storage(mount, volume, name)?;
        let directory = in_empty_dir(name, within, gid);
        let place = directory.mount_point.clone();
        self.push(mount, "bind", place.clone())?;
        if self.add(directory) {
            self.out.places.push(place);
        }
        Ok(())
    }

    /// Adds a storage that the container has not yet; whether it had not.
    fn add(&mut self, storage: Storage) -> bool {
        let is_new = !self.out.storages.iter().any(|known| known.mount_point == storage.mount_point);
        if is_new {
            self.out.storages.push(storage);
        }
        is_new
    }

    /// A `VOLUME` of the image. The engine has copied what the image has there into a directory of the host; the guest has
    /// it in the root file system, with its owners and modes and as the image's root hashes say, writable, for as long as the
    /// container. Where the image has nothing, not even the directory, the guest gets one like the engine's.
    fn image_volume(&mut self, mount: &Mount, source: &Path) -> Result<(), SpecError> {
        let destination = mount.destination().clone();
        let is_empty = (self.stat)(source).is_some_and(|file| file.is_empty);
        if is_empty && self.judge.takes(&destination) {
            return self.copy_as(mount, source, CopyKind::Tree, false, self.volume_path(&destination));
        }
        if self.read_only {
            return Err(SpecError::ImageVolume { container: self.container.to_string(), destination });
        }
        self.out.notes.push(format!(
            "the image's volume {} is not mounted: it is the root file system's own directory in the guest",
            destination.display()
        ));
        Ok(())
    }

    /// One entry of a volume, which kubelet has mounted where no name tells its kind; the volume's own directory does.
    /// Kubernetes does not propagate changes into it.
    fn sub_path(
        &mut self,
        mount: &Mount,
        source: &Path,
        volume: &str,
        volumes: &Path,
    ) -> Result<(), SpecError> {
        let is_a = |plugin: &&str| {
            let directory = volumes.join(format!("kubernetes.io~{plugin}")).join(volume);
            self.kind(&directory) == Some(FileKind::Directory)
        };
        if is_a(&"empty-dir") {
            return Err(SpecError::SubPath {
                container: self.container.to_string(),
                destination: mount.destination().clone(),
                volume: volume.to_string(),
            });
        }
        let is_written = ["configmap", "secret", "projected", "downward-api"].iter().any(is_a);
        match self.kind(source) {
            Some(FileKind::File) if is_written => self.copy(mount, source, CopyKind::File, false),
            Some(FileKind::Directory) if is_written => self.copy(mount, source, CopyKind::Tree, false),
            _ if is_a(&"csi") => Err(SpecError::Plugin {
                container: self.container.to_string(),
                destination: mount.destination().clone(),
                plugin: "csi".to_string(),
                volume: volume.to_string(),
            }),
            _ => Err(self.refuse(mount, source)),
        }
    }

    fn termination_log(&mut self, mount: &Mount, source: &Path) -> Result<(), SpecError> {
        self.copy(mount, source, CopyKind::File, false)?;
        if is_read_only(mount) {
            // Nobody can have written there, and nothing is to be written back.
            return Ok(());
        }
        self.out.termination_log = Some(TerminationLog {
            host: source.to_path_buf(),
            below: directory_of(source, &self.owner),
            destination: mount.destination().display().to_string(),
        });
        Ok(())
    }

    /// Has `source` copied below the shared directory and bound from there.
    fn copy(&mut self, mount: &Mount, source: &Path, kind: CopyKind, watch: bool) -> Result<(), SpecError> {
        let guest = self.shared_path(mount.destination());
        self.copy_as(mount, source, kind, watch, guest)
    }

    fn copy_as(
        &mut self,
        mount: &Mount,
        source: &Path,
        kind: CopyKind,
        watch: bool,
        guest: String,
    ) -> Result<(), SpecError> {
        let (due, word) = match kind {
            CopyKind::File => (FileKind::File, "regular file"),
            CopyKind::Tree => (FileKind::Directory, "directory"),
        };
        if self.kind(source) != Some(due) {
            return Err(self.wrong_kind(mount, source, word));
        }
        self.push(mount, "bind", guest.clone())?;
        let below = directory_of(source, &self.owner);
        self.out.copies.push(Copy { host: source.to_path_buf(), below, guest, kind, watch });
        Ok(())
    }

    fn wrong_kind(&self, mount: &Mount, source: &Path, expected: &'static str) -> SpecError {
        SpecError::WrongKind {
            container: self.container.to_string(),
            destination: mount.destination().clone(),
            source_path: source.display().to_string(),
            expected,
        }
    }

    /// `<container>-<16 letters or digits>-<name>`: the form that guest policies expect.
    fn shared_path(&self, destination: &Path) -> String {
        self.shared_path_as(&format!("{:016x}", self.out.copies.len()), destination)
    }

    /// The same for a directory of the container's own, which no policy takes for a copy that the host may fill.
    fn volume_path(&self, destination: &Path) -> String {
        self.shared_path_as(&format!("volume{:010x}", self.out.copies.len()), destination)
    }

    fn shared_path_as(&self, number: &str, destination: &Path) -> String {
        let name = destination.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        format!("{}/{}-{number}-{name}", paths::SHARED, self.container)
    }

    fn push(&mut self, mount: &Mount, fstype: &str, source: String) -> Result<(), SpecError> {
        let mut options = mount.options().clone().unwrap_or_default();
        if fstype == "bind" {
            options.retain(|option| !option.is_empty());
            for option in &mut options {
                *option = bind_option(option).map(str::to_owned).ok_or_else(|| SpecError::MountOption {
                    container: self.container.to_string(),
                    destination: mount.destination().clone(),
                    option: option.chars().take(100).collect(),
                })?;
            }
        }
        self.out.mounts.push(oci::Mount {
            destination: mount.destination().display().to_string(),
            source,
            type_: fstype.to_string(),
            options,
            ..Default::default()
        });
        Ok(())
    }
}

/// The agent's word for an option of a bind mount. The recursive ones (`rro`, `rnoexec`) mean the plain ones: nothing is
/// mounted below what a container gets in the guest.
fn bind_option(option: &str) -> Option<&str> {
    let is_known = |option: &&str| BIND_OPTIONS.contains(option);
    Some(option).filter(is_known).or_else(|| option.strip_prefix('r').filter(is_known))
}

/// Absolute, below the root, and without `..`.
fn is_plain(destination: &Path) -> bool {
    destination.is_absolute()
        && destination.file_name().is_some()
        && destination.components().all(|part| part != Component::ParentDir)
}

fn is_bind(mount: &Mount) -> bool {
    let typ = mount.typ().as_deref().unwrap_or_default();
    let has_option = || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
    typ == "bind" || (matches!(typ, "" | "none") && has_option())
}

fn is_read_only(mount: &Mount) -> bool {
    mount.options().iter().flatten().any(|option| option == "ro" || option == "rro")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::role::PodIds;

    const POD: &str = "/var/lib/kubelet/pods/8c5d";
    const SANDBOX: &str = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/f00d";
    const OWNER: Owner<'_> = Owner { container: "c1", pod: Some(PodIds { uid: "8c5d", sandbox: "f00d" }) };

    /// Everything whose name ends in `dir` or starts with a volume is a directory, and one that ends in `emptydir` has nothing
    /// in it. The volume `data` is an emptyDir, `cfg` a configmap, `all` is projected, `words` a secret, `about` of the
    /// downward API, `key` and `pvc` are another plugin's.
    fn stat(path: &Path) -> Option<HostFile> {
        let text = path.to_string_lossy();
        let other = |name: &str, plugin: &str| text.ends_with(name) && !text.contains(plugin);
        let kind = if text.ends_with("missing")
            || other("/data", "empty-dir")
            || other("/cfg", "configmap")
            || other("/all", "projected")
            || other("/words", "secret")
            || other("/about", "downward-api")
            || other("/key", "csi")
            || other("/pvc", "csi")
            || path.iter().any(|part| part == "volumes") && text.ends_with("/hostpath")
        {
            return None;
        } else if text.starts_with("/dev/") {
            FileKind::Device
        } else if text.ends_with("dir") || text.contains("/volumes/") {
            FileKind::Directory
        } else {
            FileKind::File
        };
        let medium = match text.rsplit('/').next() {
            Some("in-memory") => Some(Medium::Memory(1 << 20)),
            Some("in-huge-pages") => Some(Medium::HugePages),
            _ => None,
        };
        let mode = if text.ends_with("private") { 0o40700 } else { 0o42777 };
        Some(HostFile { kind, gid: 2000, mode, medium, is_empty: text.ends_with("emptydir") })
    }

    fn facts(scratch: bool) -> SandboxFacts<'static> {
        SandboxFacts { namespace: "k8s.io", seccomp: true, scratch, volumes: VolumeJudge::Engine }
    }

    fn bind(source: &str, destination: &str, options: &[&str]) -> Mount {
        let mut mount = Mount::default();
        mount.set_typ(Some("bind".to_string()));
        mount.set_source(Some(PathBuf::from(source)));
        mount.set_destination(PathBuf::from(destination));
        mount.set_options(Some(options.iter().map(ToString::to_string).collect()));
        mount
    }

    fn one(mount: Mount) -> Result<GuestMounts, SpecError> {
        mounts(OWNER, false, &facts(false), &[mount], &stat)
    }

    #[test]
    fn an_empty_dir_is_on_the_scratch_disk_where_there_is_one_unless_it_is_to_be_in_memory() {
        let source = format!("{POD}/volumes/kubernetes.io~empty-dir/cache");
        let of = |scratch, medium| {
            let stat = |_: &Path| {
                Some(HostFile { kind: FileKind::Directory, gid: 1000, mode: 0o777, medium, is_empty: false })
            };
            let out = mounts(OWNER, false, &facts(scratch), &[bind(&source, "/cache", &[])], &stat).unwrap();
            assert_eq!(out.mounts[0].source, "/run/kata-containers/sandbox/ephemeral/cache");
            assert_eq!(out.storages[0].mount_point, out.mounts[0].source);
            (out.storages[0].driver.clone(), out.storages[0].options.join(","), out.sizes.len())
        };
        let memory = Some(Medium::Memory(1 << 20));
        let driver = |driver: &str, options: &str, sizes| (driver.to_owned(), options.to_owned(), sizes);
        assert_eq!(of(false, None), driver("ephemeral", "fsgid=1000", 0));
        assert_eq!(of(false, memory), driver("ephemeral", "fsgid=1000", 1));
        assert_eq!(of(true, None), driver("local", "mode=0777,fsgid=1000", 0));
        assert_eq!(of(true, memory), driver("ephemeral", "fsgid=1000", 1));
    }

    #[test]
    fn kernel_file_systems_pass_without_their_source() {
        for fstype in KERNEL_TYPES {
            let mut mount = bind("/host/path", "/mnt", &["nosuid"]);
            mount.set_typ(Some(fstype.to_string()));
            let out = one(mount).unwrap();
            assert_eq!((out.mounts[0].type_.as_str(), out.mounts[0].source.as_str()), (fstype, fstype));
            assert_eq!(out.mounts[0].options, ["nosuid"]);
        }
    }

    #[test]
    fn engine_files_are_copied_once() {
        for file in ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"] {
            let source = format!("{SANDBOX}/{}", file.strip_prefix("/etc/").unwrap());
            let out = one(bind(&source, file, &["rbind", "ro"])).unwrap();
            assert_eq!(out.copies[0].kind, CopyKind::File);
            assert_eq!(out.copies[0].below.as_deref(), Some(Path::new(SANDBOX)));
            assert!(!out.copies[0].watch);
            assert_eq!(out.mounts[0].source, out.copies[0].guest);
            assert!(
                out.copies[0]
                    .guest
                    .starts_with("/run/kata-containers/shared/containers/c1-0000000000000000-")
            );
        }
    }

    /// As CRI-O mounts them (`server/container_create.go`).
    #[test]
    fn files_that_crio_makes_for_pod_and_container_are_copied_once() {
        let storage = "/var/lib/containers/storage/overlay-containers";
        for (source, destination, kind) in [
            ("f00d/userdata/.containerenv", "/run/.containerenv", CopyKind::File),
            ("c1/userdata/passwd", "/etc/passwd", CopyKind::File),
            ("c1/userdata/localtime", "/etc/localtime", CopyKind::File),
            ("c1/userdata/run/secrets/dir", "/run/secrets/dir", CopyKind::Tree),
        ] {
            let out = one(bind(&format!("{storage}/{source}"), destination, &["rw", "bind"])).unwrap();
            assert_eq!((out.copies[0].kind, out.copies[0].watch), (kind, false), "{destination}");
            let below = format!("{storage}/{}", source.split('/').next().unwrap());
            assert_eq!(out.copies[0].below.as_deref(), Some(Path::new(&below)));
            assert_eq!(out.mounts[0].source, out.copies[0].guest);
            assert!(out.termination_log.is_none());
        }
    }

    #[test]
    fn what_kubelet_writes_is_copied_and_watched() {
        for plugin in ["configmap", "secret", "projected", "downward-api"] {
            let source = format!("{POD}/volumes/kubernetes.io~{plugin}/v");
            let out = one(bind(&source, "/etc/v", &["rbind", "ro"])).unwrap();
            assert_eq!((out.copies[0].kind, out.copies[0].watch), (CopyKind::Tree, true), "{plugin}");
            assert_eq!(out.copies[0].below.as_deref(), Some(Path::new(POD)));
        }
    }

    #[test]
    fn an_empty_dir_is_one_storage_wherever_it_is_mounted() {
        let source = format!("{POD}/volumes/kubernetes.io~empty-dir/cache");
        let out = mounts(
            OWNER,
            false,
            &facts(false),
            &[bind(&source, "/a", &[]), bind(&source, DEV_SHM, &[])],
            &stat,
        )
        .unwrap();
        assert_eq!(out.storages.len(), 1);
        assert_eq!(out.storages[0].options, ["fsgid=2000"]);
        for mount in &out.mounts {
            assert_eq!(mount.source, "/run/kata-containers/sandbox/ephemeral/cache");
        }
    }

    /// Of an emptyDir kubelet tells its medium by what it mounts there.
    #[test]
    fn an_empty_dir_in_memory_has_its_size_and_one_of_huge_pages_is_refused() {
        let source = |name: &str| format!("{POD}/volumes/kubernetes.io~empty-dir/{name}");
        let twice = [bind(&source("in-memory"), "/a", &[]), bind(&source("in-memory"), "/b", &[])];
        let out = mounts(OWNER, false, &facts(false), &twice, &stat).unwrap();
        assert_eq!((out.storages.len(), out.sizes.len()), (1, 1));
        assert_eq!(out.sizes[0].storages[0].options, ["remount", "size=1048576"]);
        assert_eq!(out.sizes[0].storages[0].mount_point, out.storages[0].mount_point);
        let error = one(bind(&source("in-huge-pages"), "/a", &[])).unwrap_err().to_string();
        assert!(error.contains("in-huge-pages") && error.contains("medium"), "{error}");
        assert!(one(bind(&source("plain"), "/a", &[])).unwrap().sizes.is_empty());
    }

    #[test]
    fn an_empty_dir_that_is_to_be_somebodys_is_noted() {
        let of = |name: &str| {
            one(bind(&format!("{POD}/volumes/kubernetes.io~empty-dir/{name}"), "/a", &[])).unwrap().notes
        };
        assert_eq!(
            of("private"),
            ["mode 0700 of the emptyDir private left out: the guest's directory is everybody's"]
        );
        assert!(of("cache").is_empty());
    }

    #[test]
    fn shm_is_the_sandboxs() {
        let out = one(bind(&format!("{SANDBOX}/shm"), DEV_SHM, &["rbind"])).unwrap();
        assert_eq!(out.mounts[0].source, "/run/kata-containers/sandbox/shm");
        assert!(out.copies.is_empty() && out.storages.is_empty());
    }

    #[test]
    fn last_words_can_be_fetched() {
        let source = format!("{POD}/containers/app/1a2b");
        let out = one(bind(&source, "/var/log/last", &["rw"])).unwrap();
        let log = out.termination_log.unwrap();
        assert_eq!((log.host, log.destination.as_str()), (PathBuf::from(&source), "/var/log/last"));
        assert_eq!(out.copies.len(), 1);
        // What cannot be written in the guest is not written on the host.
        let out = one(bind(&source, "/dev/termination-log", &["ro"])).unwrap();
        assert_eq!((out.termination_log, out.copies.len()), (None, 1));
    }

    /// By where it is mounted nothing becomes the pod's: not the host's files, and not another pod's.
    #[test]
    fn files_of_the_host_and_of_other_pods_are_refused_wherever_they_are_mounted() {
        for (source, destination) in [
            ("/etc/shadow", "/etc/hosts"),
            ("/root/.ssh/id_ed25519", "/etc/hostname"),
            ("/etc/passwd", "/dev/termination-log"),
            ("/srv/shm-dir", "/dev/shm"),
            ("/srv/pods/x/volumes/kubernetes.io~secret/v", "/secrets"),
            ("/var/lib/kubelet/pods/9e1f/volumes/kubernetes.io~secret/v", "/secrets"),
            ("/var/lib/kubelet/pods/9e1f/containers/app/1a2b", "/dev/termination-log"),
            ("/var/lib/containerd/io.containerd.grpc.v1.cri/containers/c2/volumes/5e1f", "/data"),
            (
                "/var/lib/containers/storage/overlay-containers/beef/userdata/.containerenv",
                "/run/.containerenv",
            ),
            ("/run/containers/storage/overlay-containers/c2/userdata/run/secrets", "/run/secrets"),
        ] {
            let error = one(bind(source, destination, &["rbind", "ro"])).unwrap_err();
            assert!(matches!(error, SpecError::HostPath { .. }), "{source} {destination}: {error}");
        }
        // A container that root of this host has made without a pod.
        let single = Owner { container: "c1", pod: None };
        let mount = [bind("/srv/hosts", "/etc/hosts", &[]), bind("/srv/log", "/dev/termination-log", &[])];
        assert_eq!(mounts(single, false, &facts(false), &mount, &stat).unwrap().copies.len(), 2);
    }

    #[test]
    fn a_volume_of_the_image_is_the_root_file_systems_own_directory() {
        let source = "/var/lib/containerd/io.containerd.grpc.v1.cri/containers/c1/volumes/5e1f";
        let out = one(bind(source, "/data", &["rbind", "rw"])).unwrap();
        assert!(out.mounts.is_empty() && out.copies.is_empty() && out.storages.is_empty());
        assert!(out.notes[0].contains("/data"), "{:?}", out.notes);
        let error = mounts(OWNER, true, &facts(false), &[bind(source, "/data", &[])], &stat).unwrap_err();
        assert!(error.to_string().contains("emptyDir"), "{error}");
    }

    #[test]
    fn an_images_volume_that_has_nothing_is_a_directory_like_the_engines() {
        let source = "/var/lib/containerd/io.containerd.grpc.v1.cri/containers/c1/volumes/emptydir";
        let of = |volumes: VolumeJudge<'_>, read_only| {
            let sandbox = SandboxFacts { volumes, ..facts(false) };
            mounts(OWNER, read_only, &sandbox, &[bind(source, "/var/data/", &["rbind", "rw"])], &stat)
        };
        // With a read-only root file system as well: it is a mount.
        for read_only in [false, true] {
            let out = of(VolumeJudge::Engine, read_only).unwrap();
            let (mount, copy) = (&out.mounts[0], &out.copies[0]);
            assert_eq!((mount.source.as_str(), mount.type_.as_str()), (copy.guest.as_str(), "bind"));
            assert_eq!(copy.guest, "/run/kata-containers/shared/containers/c1-volume0000000000-data");
            assert_eq!((copy.kind, copy.watch, out.notes.len()), (CopyKind::Tree, false, 0));
            let below = "/var/lib/containerd/io.containerd.grpc.v1.cri/containers/c1";
            assert_eq!(copy.below.as_deref(), Some(Path::new(below)));
        }
        // What the engine has says nothing where the image is not the engine's, or a policy knows it.
        let known = ["/var/data".to_owned()].into();
        assert_eq!(of(VolumeJudge::Policy(&known), true).unwrap().copies.len(), 1);
        let unknown = std::collections::BTreeSet::new();
        let out = of(VolumeJudge::Policy(&unknown), false).unwrap();
        assert_eq!((out.mounts.len(), out.copies.len(), out.notes.len()), (0, 0, 1));
        assert!(of(VolumeJudge::Policy(&unknown), true).is_err());
    }

    #[test]
    fn a_file_of_another_plugins_volume_is_refused_by_its_name() {
        for options in ["ro", "rw"] {
            let source = format!("{POD}/volume-subpaths/key/app/0");
            let error = one(bind(&source, "/etc/app.conf", &[options])).unwrap_err();
            assert!(matches!(&error, SpecError::Plugin { volume, .. } if volume == "key"), "{error}");
        }
        // A hostPath with a subPath is the host's file all the same.
        let host = format!("{POD}/volume-subpaths/hostpath/app/0");
        assert!(matches!(one(bind(&host, "/etc/app.conf", &["ro"])), Err(SpecError::HostPath { .. })));
        let tree = format!("{POD}/volume-subpaths/pvc/app/subdir");
        assert!(matches!(one(bind(&tree, "/etc/app", &["ro"])), Err(SpecError::Plugin { .. })));
    }

    #[test]
    fn entries_of_what_kubelet_writes_are_copied_and_those_of_an_empty_dir_are_named() {
        for volume in ["cfg", "all", "words", "about"] {
            let place = format!("{POD}/volume-subpaths/{volume}/app");
            let file = one(bind(&format!("{place}/0"), "/etc/app.conf", &["rw"])).unwrap();
            assert_eq!((file.copies[0].kind, file.copies[0].watch), (CopyKind::File, false), "{volume}");
            let tree = one(bind(&format!("{place}/0dir"), "/etc/app", &["ro"])).unwrap();
            assert_eq!((tree.copies[0].kind, tree.copies[0].watch), (CopyKind::Tree, false), "{volume}");
        }
        // The host has only a placeholder of it.
        for source in ["0", "0dir"] {
            let source = format!("{POD}/volume-subpaths/data/app/{source}");
            let error = one(bind(&source, "/cache", &["ro"])).unwrap_err();
            assert!(matches!(&error, SpecError::SubPath { volume, .. } if volume == "data"), "{error}");
        }
    }

    #[test]
    fn a_directory_of_an_empty_dir_is_the_guests() {
        let source = format!("{POD}/volumes/kubernetes.io~empty-dir/data/a/subdir");
        let out = one(bind(&source, "/cache", &["ro"])).unwrap();
        let place = format!("{}/data", paths::EPHEMERAL);
        assert_eq!(out.mounts[0].source, format!("{place}/a/subdir"));
        // The volume first, in which the directory is made; the pod's group owns both.
        let storages: Vec<_> =
            out.storages.iter().map(|one| (one.driver.as_str(), &one.mount_point)).collect();
        assert_eq!(storages, [("ephemeral", &place), ("local", &format!("{place}/a/subdir"))]);
        assert_eq!(out.storages[1].options, ["mode=0777", "fsgid=2000"]);
        // The agent would change one that is there.
        assert_eq!(out.places, [format!("{place}/a/subdir")]);
        let whole = bind(&format!("{POD}/volumes/kubernetes.io~empty-dir/data"), "/all", &["rw"]);
        let both =
            mounts(OWNER, false, &facts(false), &[bind(&source, "/cache", &["ro"]), whole], &stat).unwrap();
        assert_eq!((both.mounts.len(), both.storages.len()), (2, 2));
    }

    #[test]
    fn the_rest_is_refused_with_what_to_do() {
        let text = one(bind("/srv/data", "/data", &[])).unwrap_err().to_string();
        for part in ["c1", "/srv/data", "/data", "emptyDir"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(matches!(one(bind("/dev/fuse", "/dev/fuse", &[])), Err(SpecError::DeviceNode { .. })));
        let csi = format!("{POD}/volumes/kubernetes.io~csi/pvc-1/mount");
        assert!(matches!(one(bind(&csi, "/data", &[])), Err(SpecError::Plugin { .. })));
        let mut ext4 = bind("/dev/sdb", "/data", &[]);
        ext4.set_typ(Some("ext4".to_string()));
        assert!(matches!(one(ext4), Err(SpecError::FsType { .. })));
    }

    /// The agent would take a word that it does not know for the file system's, of which a bind has none: a mount that is to be
    /// read-only would be writable.
    #[test]
    fn options_of_a_bind_are_the_agents_words_or_refused() {
        let source = format!("{POD}/volumes/kubernetes.io~empty-dir/cache");
        let of =
            |options: &[&str]| one(bind(&source, "/cache", options)).map(|out| out.mounts[0].options.clone());
        for (asked, sent) in [
            (&["rbind", "rprivate", "rro"], ["rbind", "rprivate", "ro"]),
            (&["bind", "rslave", "rnoexec"], ["bind", "rslave", "noexec"]),
            (&["bind", "relatime", "rrelatime"], ["bind", "relatime", "relatime"]),
            (&["nodev", "nosuid", "noexec"], ["nodev", "nosuid", "noexec"]),
        ] {
            assert_eq!(of(asked).unwrap(), sent);
        }
        for unknown in ["nosymfollow", "idmap", "rridmap", "size=1m", "r"] {
            let error = of(&["rbind", unknown]).unwrap_err().to_string();
            assert!(error.contains(&format!("{unknown:?}")) && error.contains("/cache"), "{error}");
        }
        // Of a file system they may be its own.
        let mut tmpfs = bind("/x", "/mnt", &["size=1m"]);
        tmpfs.set_typ(Some("tmpfs".to_string()));
        assert_eq!(one(tmpfs).unwrap().mounts[0].options, ["size=1m"]);
    }

    #[test]
    fn a_volume_of_the_wrong_kind_is_refused() {
        let gone = format!("{POD}/containers/app/missing");
        assert!(matches!(one(bind(&gone, "/dev/log", &[])), Err(SpecError::WrongKind { .. })));
        let directory = format!("{POD}/containers/app/dir");
        assert!(matches!(one(bind(&directory, "/dev/log", &[])), Err(SpecError::WrongKind { .. })));
    }

    #[test]
    fn a_destination_must_be_plain() {
        for bad in ["etc", "/", "/etc/../../x", ""] {
            assert!(matches!(one(bind("/x", bad, &[])), Err(SpecError::BadDestination { .. })), "{bad}");
        }
        let mut mount = bind("/x", "/y", &[]);
        mount.set_source(None);
        assert!(matches!(one(mount), Err(SpecError::NoSource { .. })));
    }
}
