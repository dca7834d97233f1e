//! One host under examination: its files, its answers, and the facts that several checks need.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::path::PathBuf;

use shared_types::Cpu;
use vmm_config::config::NodeConfig;

use crate::probe::Probe;
use crate::qemu::{Qemu, QemuError};
use crate::root::Root;

/// A host.
#[derive(Debug)]
pub struct Host<'a> {
    pub(crate) root: &'a Root,
    pub(crate) probe: &'a dyn Probe,
    /// Where programs are looked up.
    path: Vec<PathBuf>,
    /// The node's configuration, or what is wrong with it.
    config: Result<NodeConfig, String>,
    defaults: NodeConfig,
    cpu: Cpu,
    qemu: OnceCell<Option<Result<Qemu, QemuError>>>,
}

impl<'a> Host<'a> {
    /// The host of `root` and `probe`, configured by the file `config`, with programs looked up in `path` (as the
    /// variable PATH has it).
    #[must_use]
    pub fn new(root: &'a Root, probe: &'a dyn Probe, config: &str, path: &OsStr) -> Self {
        Self::configured(root, probe, read_config(root, config), path)
    }

    /// A host whose configuration is known already, or what is wrong with it.
    pub(crate) fn configured(
        root: &'a Root,
        probe: &'a dyn Probe,
        config: Result<NodeConfig, String>,
        path: &OsStr,
    ) -> Self {
        let cpuinfo = root.bytes("/proc/cpuinfo", Cpu::BYTES).ok().flatten().unwrap_or_default();
        Self {
            root,
            probe,
            path: std::env::split_paths(path).filter(|dir| dir.is_absolute()).collect(),
            config,
            defaults: NodeConfig::default(),
            cpu: Cpu::parse(&String::from_utf8_lossy(&cpuinfo)),
            qemu: OnceCell::new(),
        }
    }

    /// The node's configuration; the defaults where the file is wrong, which is a check of its own.
    pub(crate) fn config(&self) -> &NodeConfig {
        self.config.as_ref().unwrap_or(&self.defaults)
    }

    pub(crate) fn config_error(&self) -> Option<&str> {
        self.config.as_ref().err().map(String::as_str)
    }

    pub(crate) fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// The kernel's release, as in `6.16.0-8-generic`.
    pub(crate) fn release(&self) -> Option<String> {
        let text = self.root.text("/proc/sys/kernel/osrelease").ok().flatten()?;
        Some(text.trim().to_owned())
    }

    /// A module's parameter; `None` where there is no such parameter or module.
    pub(crate) fn parameter(&self, module: &str, parameter: &str) -> Option<String> {
        let path = format!("/sys/module/{module}/parameters/{parameter}");
        let text = self.root.text(&path).ok().flatten()?;
        Some(text.trim().to_owned())
    }

    /// Whether the kernel was booted with one of these words.
    pub(crate) fn booted_with(&self, words: &[&str]) -> Option<String> {
        let cmdline = self.root.text("/proc/cmdline").ok().flatten()?;
        cmdline.split_ascii_whitespace().find(|word| words.contains(word)).map(str::to_owned)
    }

    /// Where a program is, as the host calls it.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        if name.starts_with('/') {
            return self.root.exists(name).then(|| PathBuf::from(name));
        }
        let candidates = self.path.iter().map(|dir| dir.join(name));
        candidates.into_iter().find(|path| self.root.path(path).is_file())
    }

    /// What QEMU says of itself, asked once; `None` where there is no QEMU.
    pub(crate) fn qemu(&self) -> Option<&Result<Qemu, QemuError>> {
        let ask = || {
            let program = self.program(self.config().qemu.as_str())?;
            let sev = self.parameter("kvm_amd", "sev_snp").is_some_and(|value| is_on(&value));
            Some(self.probe.qemu(&self.root.path(program), sev))
        };
        self.qemu.get_or_init(ask).as_ref()
    }
}

/// Whether the kernel can mount EROFS as it is now. containerd asks the same way, and leaves its snapshotter out where a module
/// is not loaded (`plugins/snapshots/erofs/erofs_linux.go`).
#[must_use]
pub fn has_erofs(root: &Root) -> bool {
    let text = root.text("/proc/filesystems").ok().flatten().unwrap_or_default();
    text.lines().any(|line| line.split_ascii_whitespace().next_back() == Some("erofs"))
}

/// How the kernel prints a parameter that is switched on.
pub(crate) fn is_on(value: &str) -> bool {
    matches!(value, "Y" | "y" | "1")
}

fn read_config(root: &Root, path: &str) -> Result<NodeConfig, String> {
    match root.text(path) {
        Ok(None) => Ok(NodeConfig::default()),
        Ok(Some(text)) => {
            NodeConfig::parse(&text, path).map_err(|errors| errors.to_string().replace('\n', "; "))
        }
        Err(error) => Err(error.to_string()),
    }
}
