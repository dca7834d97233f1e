//! Hosts as directories, bundles, and a daemon that reads the hosts' files as containerd 1.7, containerd 2.1 and CRI-O do.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use crate::Bundle;
use crate::bundle::sha256;
use crate::daemon::{Daemon, Runtimes};
use crate::disk::{Disk, Fault};
use crate::dropin::{Erofs, Handler};
use crate::engine::{Engine, Kind, runtimes};
use crate::error::Result;
use crate::install::{Installed, Request, Staged, install_on, stage_on};
use crate::instance::Instance;
use crate::root::Root;
use crate::uninstall::{Removed, uninstall_on};

const RANCHER: &str = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml";

/// A program of containerd, as far as it is played: its version.
const PROGRAM: &str = "/usr/bin/containerd";

/// The nodes of the tests: the files that matter.
pub(crate) const HOSTS: [(&str, &[(&str, &str)]); 16] = [
    (
        "containerd 1.7, schema 2",
        &[
            (PROGRAM, "1.7"),
            (
                "/etc/containerd/config.toml",
                "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n    default_runtime_name = \"runc\"\n    \
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n      runtime_type = \"io.containerd.runc.v2\"\n",
            ),
        ],
    ),
    // As in the package of Debian 14.
    (
        "containerd 2.1 of Debian, schema 2",
        &[(
            "/etc/containerd/config.toml",
            "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      \
         bin_dir = \"/usr/lib/cni\"\n      conf_dir = \"/etc/cni/net.d\"\n  [plugins.\"io.containerd.internal.v1.opt\"]\n    \
         path = \"/var/lib/containerd/opt\"\n",
        )],
    ),
    (
        "containerd 2.1, schema 3",
        &[(
            "/etc/containerd/config.toml",
            "version = 3\nimports = []\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n",
        )],
    ),
    (
        "containerd 2.2 with conf.d of others",
        &[
            ("/etc/containerd/config.toml", "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"),
            (
                "/etc/containerd/conf.d/kata-deploy.toml",
                "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata-qemu]\nruntime_type = 'io.containerd.kata-qemu.v2'\n",
            ),
        ],
    ),
    (
        "containerd 2.3, schema 4",
        &[
            (
                "/etc/containerd/config.toml",
                "version = 4\nimports = [\n  '/etc/containerd/conf.d/nvidia.toml', # theirs\n]\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia]\nruntime_type = 'io.containerd.runc.v2'\n",
            ),
            ("/etc/containerd/conf.d/nvidia.toml", "version = 4\n"),
        ],
    ),
    ("containerd without a file", &[("/etc/containerd/certs.d/hosts.toml", "")]),
    ("containerd with an empty file", &[("/etc/containerd/config.toml", "")]),
    (
        "k3s with containerd 1.7",
        &[(
            RANCHER,
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n",
        )],
    ),
    (
        "k3s with a drop-in directory",
        &[(
            RANCHER,
            "version = 3\nimports = [\"/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/*.toml\"]\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n",
        )],
    ),
    (
        "rke2 with a template of its owner",
        &[
            (
                "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
                "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.mine]\nruntime_type = \"mine.v2\"\n",
            ),
            (
                "/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl",
                "{{ template \"base\" . }}\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.mine]\nruntime_type = \"mine.v2\"\n",
            ),
        ],
    ),
    (
        "k0s",
        &[(
            "/etc/k0s/containerd.toml",
            "# k0s_managed=true\nversion = 3\nimports = [\"/run/k0s/containerd-cri.toml\"]\n",
        )],
    ),
    (
        "CRI-O",
        &[("/etc/crio/crio.conf.d/10-crio.conf", "[crio.runtime.runtimes.crun]\nruntime_type = \"oci\"\n")],
    ),
    (
        "containerd 1.7 whose file names no runtime",
        &[
            (PROGRAM, "1.7"),
            (
                "/etc/containerd/config.toml",
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\n\n[timeouts]\n\"io.containerd.timeout.shim.cleanup\" = \"5s\"\n",
            ),
        ],
    ),
    ("containerd 1.7 without a file", &[(PROGRAM, "1.7"), ("/etc/containerd/certs.d/hosts.toml", "")]),
    ("containerd 1.7 with an empty file", &[(PROGRAM, "1.7"), ("/etc/containerd/config.toml", "")]),
    (
        "containerd 1.7 whose file has imports only",
        &[(PROGRAM, "1.7"), ("/etc/containerd/config.toml", "imports = [\"/etc/containerd/conf.d/*.toml\"]")],
    ),
];

/// A host of [`HOSTS`] or with these files.
pub(crate) struct Host {
    dir: TempDir,
    pub(crate) root: Root,
    pub(crate) daemon: Played,
    pub(crate) instance: Instance,
}

impl Host {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let dir = directory();
        for directory in ["etc", "opt", "proc", "usr"] {
            fs::create_dir(dir.path().join(directory)).unwrap();
        }
        let root = Root::new(dir.path());
        let host = Self { daemon: Played::new(&root), dir, root, instance: Instance::usual() };
        files.iter().for_each(|(path, text)| host.write(path, text));
        host.daemon.restart(Kind::Containerd).unwrap_or_default();
        host
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    }

    pub(crate) fn at(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// A shim that runs.
    pub(crate) fn shim(&self, pid: u32, version: &str) {
        let directory = self.at(&format!("/proc/{pid}"));
        fs::create_dir_all(&directory).unwrap();
        let program = format!("{}/versions/{version}/bin/containerd-shim-coffer-v2", self.instance.prefix());
        symlink(program, directory.join("exe")).unwrap();
    }

    pub(crate) fn engine(&self) -> Result<Engine> {
        Engine::find(&self.root, None, |kind| self.daemon.default_schema(kind))
    }

    pub(crate) fn install(&self, bundle: &TempDir) -> Result<Installed> {
        self.install_with(bundle, Fault::None, &["coffer", "coffer-snp"], Erofs::Yes)
    }

    pub(crate) fn install_with(
        &self,
        bundle: &TempDir,
        fault: Fault<'_>,
        classes: &[&'static str],
        erofs: Erofs,
    ) -> Result<Installed> {
        let disk = Disk::new(&self.root, fault);
        let staged = self.stage(bundle, &disk)?;
        assert_eq!(staged.checks.len(), 3);
        let handlers: Vec<_> = classes
            .iter()
            .map(|class| Handler { name: self.instance.handler(class), config: self.instance.config(class) })
            .collect();
        install_on(&disk, staged, &handlers, erofs, &self.daemon)
    }

    /// Each bundle has a configuration of its own.
    pub(crate) fn stage(&self, bundle: &TempDir, disk: &Disk<'_>) -> Result<Staged> {
        let bundle = Bundle::read(bundle.path())?;
        let image = format!("{}/share/images/plain", self.instance.current());
        let texts: Vec<_> = ["coffer", "coffer-snp", "coffer-tdx"]
            .map(|class| (class, format!("image = {image:?}\n# {class} of {}\n", bundle.id())))
            .to_vec();
        let request = Request { instance: &self.instance, engine: None, bundle: &bundle, classes: &texts };
        stage_on(disk, &request, &self.daemon)
    }

    pub(crate) fn uninstall(&self) -> Result<Removed> {
        self.uninstall_with(Fault::None)
    }

    pub(crate) fn uninstall_with(&self, fault: Fault<'_>) -> Result<Removed> {
        uninstall_on(&Disk::new(&self.root, fault), &self.instance, &self.daemon, None)
    }

    /// All that is on the host: kind, mode and content of each path.
    pub(crate) fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        walk(self.dir.path(), self.dir.path(), &mut tree);
        tree
    }

    /// The same without the directory of a bundle's version.
    pub(crate) fn tree_without(&self, bundle: &TempDir) -> BTreeMap<String, String> {
        let version = format!("/opt/coffer/versions/{}", Bundle::read(bundle.path()).unwrap().id());
        let mut tree = self.tree();
        tree.retain(|path, _| !path.starts_with(&version));
        tree
    }
}

fn walk(top: &Path, directory: &Path, tree: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let (entry, name) = (fs::symlink_metadata(&path).unwrap(), path.strip_prefix(top).unwrap());
        let mode = entry.permissions().mode() & 0o777;
        let content = if entry.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if entry.is_dir() {
            walk(top, &path, tree);
            format!("directory {mode:o}")
        } else {
            format!("{mode:o} {}", fs::read_to_string(&path).unwrap())
        };
        tree.insert(format!("/{}", name.display()), content);
    }
}

/// In memory where there is such a place, for the tests write some ten thousand files and wait for the disk each time.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A bundle whose shim's content is `shim`.
pub(crate) fn bundle(version: &str, shim: &str) -> TempDir {
    let dir = directory();
    let files = [
        ("VERSION", format!("{version}\n"), 0o644),
        ("bin/containerd-shim-coffer-v2", shim.to_owned(), 0o755),
        ("bin/coffer", "coffer".to_owned(), 0o755),
        ("share/images/plain/image.json", "{}".to_owned(), 0o644),
        ("share/images/plain/vmlinuz", "plain kernel".to_owned(), 0o644),
        ("share/images/confidential/image.json", "{\"profile\":\"release\"}".to_owned(), 0o644),
    ];
    let mut sums = String::new();
    for (path, text, mode) in files {
        let at = dir.path().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, &text).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
        let _ = writeln!(sums, "{}  {path}", sha256(text.as_bytes()));
    }
    fs::write(dir.path().join("SHA256SUMS"), sums).unwrap();
    dir
}

/// A daemon that reads a host's files. It does with files of two schemas what containerd 2.1.9 does, and with those of a host that
/// has containerd 1.7 what 1.7.24 was seen to do (`containerd config dump`).
#[derive(Debug)]
pub(crate) struct Played {
    root: Root,
    /// What it serves since its last start.
    serves: RefCell<std::result::Result<Runtimes, String>>,
    pub(crate) restarts: Cell<u32>,
    /// It does not come back as long as it reads this word.
    pub(crate) hates: Cell<Option<&'static str>>,
    /// A runtime that it loses as soon as it reads of ours.
    pub(crate) forgets: Cell<Option<&'static str>>,
}

impl Played {
    fn new(root: &Root) -> Self {
        let (restarts, hates, forgets) = (Cell::default(), Cell::default(), Cell::default());
        Self { root: root.clone(), serves: RefCell::new(Ok(Runtimes::new())), restarts, hates, forgets }
    }

    fn read(&self, kind: Kind) -> std::result::Result<(Runtimes, String), String> {
        let text = |path: &str| self.root.text(path).map_err(|error| error.to_string());
        let directory = |dir: &str| {
            let paths = self.root.names(dir).into_iter().filter(|name| !name.starts_with('.'));
            paths.map(|name| format!("{dir}/{name}")).collect::<Vec<_>>()
        };
        let (mut found, mut all) =
            (Runtimes::from([("runc".to_owned(), "io.containerd.runc.v2".to_owned())]), String::new());
        let (main, drop_ins) = match kind {
            Kind::Crio => {
                for path in directory("/etc/crio/crio.conf.d") {
                    let file = text(&path)?.unwrap_or_default();
                    found.extend(runtimes(&file).map_err(|error| format!("{path}: {error}"))?);
                    all += &file;
                }
                return Ok((found, all));
            }
            Kind::Containerd => {
                let main = text(kind.main_file())?.unwrap_or_default();
                let imports = main.contains("/etc/containerd/conf.d/*.toml");
                (main, if imports { directory("/etc/containerd/conf.d") } else { Vec::new() })
            }
            Kind::K0s => (text(kind.main_file())?.unwrap_or_default(), directory("/etc/k0s/containerd.d")),
            Kind::K3s | Kind::Rke2 => {
                let dir = kind.main_file().trim_end_matches("/config.toml");
                // The base, and what a template has behind it.
                let mut main = text(kind.main_file())?.unwrap_or_default();
                for name in ["config.toml.tmpl", "config-v3.toml.tmpl"] {
                    let template = text(&format!("{dir}/{name}"))?.unwrap_or_default();
                    let own = template.split_once("}}").map_or("", |(_, own)| own);
                    main += own.split_once("[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.mine]\nruntime_type = \"mine.v2\"\n").map_or(own, |(_, own)| own);
                }
                (main, directory(&format!("{dir}/config-v3.toml.d")))
            }
        };
        let version =
            |text: &str| text.lines().find_map(|line| line.strip_prefix("version = ")?.parse::<u64>().ok());
        if self.is_old() {
            // The last file that says anything of CRI says all of it, and runtimes that it names are all there are.
            let mut files = vec![main];
            for path in drop_ins {
                files.push(text(&path)?.unwrap_or_default());
            }
            let of_cri =
                files.iter().rev().find(|file| file.contains("[plugins.\"io.containerd.grpc.v1.cri\""));
            let named = of_cri.map_or(Ok(Runtimes::new()), |file| runtimes(file))?;
            return Ok((if named.is_empty() { found } else { named }, files.concat()));
        }
        let schema = version(&main).unwrap_or(3);
        found.extend(runtimes(&main)?);
        all += &main;
        for path in drop_ins {
            let file = text(&path)?.unwrap_or_default();
            let own = runtimes(&file).map_err(|error| format!("{path}: {error}"))?;
            match version(&file).unwrap_or(schema).cmp(&schema) {
                std::cmp::Ordering::Equal => found.extend(own),
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Greater => found = own,
            }
            all += &file;
        }
        if all.contains("io.containerd.coffer.v2") {
            self.forgets.get().map(|name| found.remove(name));
        }
        Ok((found, all))
    }

    fn is_old(&self) -> bool {
        self.root.exists(PROGRAM)
    }

    fn kind(&self) -> Kind {
        Engine::find(&self.root, None, |_| None).map_or(Kind::Containerd, |engine| engine.kind)
    }
}

impl Daemon for Played {
    fn default_schema(&self, _: Kind) -> Option<u64> {
        Some(if self.is_old() { 2 } else { 3 })
    }

    fn version(&self, _: Kind) -> Option<(u32, u32)> {
        Some(if self.is_old() { (1, 7) } else { (2, 1) })
    }

    fn configured(&self, kind: Kind) -> std::result::Result<Runtimes, String> {
        Ok(self.read(kind)?.0)
    }

    fn restart(&self, _: Kind) -> std::result::Result<(), String> {
        self.restarts.set(self.restarts.get() + 1);
        let served = self.read(self.kind()).and_then(|(found, all)| match self.hates.get() {
            Some(word) if all.contains(word) => Err("exit status 1".to_owned()),
            _ => Ok(found),
        });
        served.clone().map(|_| ()).inspect_err(|error| *self.serves.borrow_mut() = Err(error.clone()))?;
        *self.serves.borrow_mut() = served;
        Ok(())
    }

    fn serving(&self, _: Kind) -> std::result::Result<Runtimes, String> {
        self.serves.borrow().clone()
    }
}
