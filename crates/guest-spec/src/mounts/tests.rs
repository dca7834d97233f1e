use std::collections::BTreeMap;
use std::path::PathBuf;

use shared_types::EmptyDirectory;

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
    Some(HostFile {
        kind,
        gid: 2000,
        mode,
        medium,
        empty: text.ends_with("emptydir").then_some(EmptyDirectory::NEW),
    })
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
            Some(HostFile { kind: FileKind::Directory, gid: 1000, mode: 0o777, medium, empty: None })
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
            out.copies[0].guest.starts_with("/run/kata-containers/shared/containers/c1-0000000000000000-")
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
    let out =
        mounts(OWNER, false, &facts(false), &[bind(&source, "/a", &[]), bind(&source, DEV_SHM, &[])], &stat)
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
    assert_eq!(out.mounts[0].options, ["rbind", "noexec", "nosuid", "nodev"]);
    let out = one(bind(&format!("{SANDBOX}/shm"), DEV_SHM, &["rbind", "rnodev", "exec", "rw"])).unwrap();
    assert_eq!(out.mounts[0].options, ["rbind", "exec", "rw", "noexec", "nosuid", "nodev"]);
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
        ("/var/lib/containers/storage/overlay-containers/beef/userdata/.containerenv", "/run/.containerenv"),
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
    let known = |directory| [("/var/data".to_owned(), directory)].into();
    assert_eq!(of(VolumeJudge::Policy(&known(EmptyDirectory::NEW)), true).unwrap().copies.len(), 1);
    // CRI-O makes root's, whatever the image has.
    let others = EmptyDirectory { uid: 999, ..EmptyDirectory::NEW };
    for unlike in [known(others), BTreeMap::new()] {
        let out = of(VolumeJudge::Policy(&unlike), false).unwrap();
        assert_eq!((out.mounts.len(), out.copies.len(), out.notes.len()), (0, 0, 1));
        assert!(of(VolumeJudge::Policy(&unlike), true).is_err());
    }
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
    let storages: Vec<_> = out.storages.iter().map(|one| (one.driver.as_str(), &one.mount_point)).collect();
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
