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
            _ if destination == Path::new(DEV_SHM) && is_shm(source, &self.owner) => self.shm(mount),
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

    /// The pod's shared memory. An engine's mount of it leaves to the one on the host what this one has to say: the guest's own
    /// mount gets these options by a later request, which a host can leave out.
    fn shm(&mut self, mount: &Mount) -> Result<(), SpecError> {
        self.push(mount, "bind", paths::SHM.to_string())?;
        if let Some(pushed) = self.out.mounts.last_mut() {
            pushed.options.retain(|option| !paths::SHM_CONFINED.contains(&option.as_str()));
            // At the end, where nothing takes them back.
            pushed.options.extend(paths::SHM_CONFINED.map(str::to_string));
        }
        Ok(())
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

    /// A `VOLUME` of the image, for which the engine has made a directory on the host. What the image has there the guest has
    /// in the root file system, with its owners and modes and as the image's root hashes say, writable, for as long as the
    /// container. Where the image has nothing, or not even the directory, the guest gets an empty one like the engine's.
    fn image_volume(&mut self, mount: &Mount, source: &Path) -> Result<(), SpecError> {
        let destination = mount.destination().clone();
        let empty = (self.stat)(source).and_then(|file| file.empty);
        if empty.is_some_and(|directory| self.judge.takes(&destination, directory)) {
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
mod tests;
