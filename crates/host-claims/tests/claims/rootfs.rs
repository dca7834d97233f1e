//! Images of root file systems, built by the real mkfs.erofs and mounted again. Needs root and erofs-utils;
//! without them the tests say so and pass.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::root_or_skip;
use host_claims::rootfs::{Cache, Error, ImagePlan, Mount, Rootfs};

/// A snapshotter's directories and a cache, in a temporary directory.
struct Host {
    root: tempfile::TempDir,
    search: Vec<PathBuf>,
}

impl Host {
    fn new() -> Option<Self> {
        let search: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
        let found = search.iter().any(|dir| dir.join("mkfs.erofs").exists());
        if !found {
            eprintln!("SKIPPED: no mkfs.erofs in PATH");
        }
        (root_or_skip() && found).then(|| Self { root: tempfile::tempdir().unwrap(), search })
    }

    fn dir(&self, path: &str) -> PathBuf {
        let dir = self.root.path().join(path);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn snapshot(&self, n: u32) -> PathBuf {
        self.dir(&format!("snapshots/{n}/fs"))
    }

    fn overlay(&self, upper: u32, lower: &[u32]) -> Vec<Mount> {
        let lower: Vec<String> = lower.iter().map(|&n| self.snapshot(n).display().to_string()).collect();
        let options =
            [format!("upperdir={}", self.snapshot(upper).display()), format!("lowerdir={}", lower.join(":"))];
        vec![Mount { fstype: "overlay".into(), source: "overlay".into(), options: options.to_vec() }]
    }

    fn plan(&self, mounts: &[Mount]) -> ImagePlan {
        let cache = Cache::new(self.root.path().join("cache"), u64::MAX);
        ImagePlan::new(mounts, cache).unwrap()
    }

    async fn build(&self, mounts: &[Mount]) -> Rootfs {
        self.plan(mounts).claim(&self.search, None).await.unwrap()
    }

    fn cached(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.path().join("cache")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "mount");
        names.sort();
        names
    }
}

/// An image, mounted as long as this lives.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn of(rootfs: &Rootfs) -> Self {
        let [image] = rootfs.layers() else { panic!("one image") };
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "erofs", "-o", "ro,loop"])
            .arg(&image.image)
            .arg(dir.path())
            .status();
        assert!(status.unwrap().success());
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn run(program: &str, before: &[&str], path: &Path, after: &[&str]) {
    assert!(
        Command::new(program).args(before).arg(path).args(after).status().unwrap().success(),
        "{program}"
    );
}

#[tokio::test]
async fn an_image_keeps_owners_modes_times_links_devices_and_attributes() {
    let Some(host) = Host::new() else { return };
    let dir = host.dir("rootfs");
    let file = dir.join("file");
    std::fs::write(&file, "content").unwrap();
    chown(&file, Some(1234), Some(70000)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o6751)).unwrap();
    std::fs::hard_link(&file, dir.join("hard")).unwrap();
    symlink("nowhere", dir.join("soft")).unwrap();
    run("mkfifo", &["-m", "620"], &dir.join("fifo"), &[]);
    run("touch", &["-d", "@1000000000"], &file, &[]);
    set_attribute(&file, b"v");
    let bind =
        Mount { fstype: "bind".into(), source: dir.to_str().unwrap().into(), options: vec!["rbind".into()] };
    let rootfs = host.build(&[bind]).await;
    {
        let mounted = Mounted::of(&rootfs);
        let meta = mounted.path("file").metadata().unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime()),
            (1234, 70000, 0o6751, 1_000_000_000)
        );
        assert_eq!(
            (meta.nlink(), std::fs::read_to_string(mounted.path("hard")).unwrap().as_str()),
            (2, "content")
        );
        assert_eq!(std::fs::read_link(mounted.path("soft")).unwrap(), Path::new("nowhere"));
        assert!(mounted.path("fifo").metadata().unwrap().file_type().is_fifo());
        assert_eq!(attribute(&mounted.path("file")), b"v");
    }
    let image = rootfs.layers()[0].image.clone();
    rootfs.release().unwrap();
    assert!(!image.exists());
    assert_eq!(host.cached(), Vec::<String>::new());
}

fn set_attribute(file: &Path, value: &[u8]) {
    rustix::fs::setxattr(file, "user.k", value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn attribute(file: &Path) -> Vec<u8> {
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(file, "user.k", &mut value).unwrap();
    value[..length].to_vec()
}

#[tokio::test]
async fn layers_are_merged_whiteouts_applied_and_the_result_cached() {
    let Some(host) = Host::new() else { return };
    std::fs::write(host.snapshot(1).join("gone"), "").unwrap();
    std::fs::write(host.snapshot(1).join("both"), "low").unwrap();
    std::fs::write(host.snapshot(2).join("both"), "high").unwrap();
    run("mknod", &["-m", "0"], &host.snapshot(2).join("gone"), &["c", "0", "0"]);
    let mounts = host.overlay(9, &[2, 1]);
    let (first, second) = tokio::join!(host.build(&mounts), host.build(&mounts));
    assert_eq!(first.layers(), second.layers());
    {
        let mounted = Mounted::of(&first);
        assert_eq!(std::fs::read_to_string(mounted.path("both")).unwrap(), "high");
        assert!(!mounted.path("gone").exists());
    }
    let image = first.layers()[0].image.clone();
    let built = image.metadata().unwrap().ino();
    first.release().unwrap();
    second.release().unwrap();
    let again = host.build(&mounts).await;
    assert_eq!(again.layers()[0].image.metadata().unwrap().ino(), built);
    assert_eq!(host.cached().len(), 1);
    again.release().unwrap();
}

#[tokio::test]
async fn the_same_tree_gives_the_same_image_twice() {
    let Some(host) = Host::new() else { return };
    std::fs::write(host.snapshot(1).join("file"), "content").unwrap();
    let mounts = host.overlay(9, &[1]);
    let first = host.build(&mounts).await;
    let image = first.layers()[0].image.clone();
    let bytes = std::fs::read(&image).unwrap();
    first.release().unwrap();
    std::fs::remove_file(&image).unwrap();
    let second = host.build(&mounts).await;
    assert!(std::fs::read(&image).unwrap() == bytes);
    second.release().unwrap();
}

#[tokio::test]
async fn written_state_is_in_an_image_of_its_own_that_its_record_removes() {
    let Some(host) = Host::new() else { return };
    std::fs::write(host.snapshot(1).join("low"), "").unwrap();
    std::fs::write(host.snapshot(9).join("state"), "").unwrap();
    let plan = host.plan(&host.overlay(9, &[1]));
    let record = plan.record();
    let rootfs = plan.claim(&host.search, None).await.unwrap();
    {
        let mounted = Mounted::of(&rootfs);
        assert!(mounted.path("low").exists() && mounted.path("state").exists());
    }
    record.release().unwrap();
    assert_eq!(host.cached(), Vec::<String>::new());
    record.release().unwrap();
    drop(rootfs);
}

#[tokio::test]
async fn many_layers_with_long_paths_fit_into_one_mount() {
    let Some(host) = Host::new() else { return };
    let lower: Vec<u32> = (1..=100).collect();
    for &n in &lower {
        std::fs::write(host.snapshot(n).join(n.to_string()), "").unwrap();
    }
    let rootfs = host.build(&host.overlay(900, &lower)).await;
    assert_eq!(std::fs::read_dir(Mounted::of(&rootfs).path("")).unwrap().count(), 100);
    rootfs.release().unwrap();
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    std::fs::write(host.snapshot(1).join("big"), vec![1; 4 << 20]).unwrap();
    let cache = host.dir("cache");
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "small"], &cache, &[]);
    let error = host.plan(&host.overlay(9, &[1])).claim(&host.search, None).await.unwrap_err();
    let left = host.cached();
    run("umount", &[], &cache, &[]);
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_builder_is_named_with_its_package() {
    let Some(host) = Host::new() else { return };
    std::fs::write(host.snapshot(1).join("file"), "").unwrap();
    let error = host.plan(&host.overlay(9, &[1])).claim(&[host.dir("empty")], None).await.unwrap_err();
    assert!(error.to_string().contains("erofs-utils"), "{error}");
}
