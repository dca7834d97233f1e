//! CDI (Container Device Interface): qualified names, and the spec files that say what they stand for.
//!
//! Format: SPEC.md of cncf-tags/container-device-interface, versions 0.3 to 1.x. Only device nodes are read:
//! a pod in a VM gets no mounts, hooks or environment of the host's.

mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

/// NVIDIA's own specs for a node's driver have about 100 KiB.
const MAX_FILE: u64 = 4 << 20;
const MAX_FILES: usize = 1_000;

/// NVIDIA's vendors whose devices are GPUs: of its container toolkit and device plugins, and of its DRA driver for GPUs
/// (NVIDIA/k8s-dra-driver-gpu, `cdiVendor` of cmd/gpu-kubelet-plugin/cdi.go).
const VENDORS: [&str; 2] = ["nvidia.com", "k8s.gpu.nvidia.com"];
/// Kinds that are nothing else. The DRA driver names a device after its claim (`UID-gpu-vfio-0`); until its version 25.12 it
/// has `device=gpu-vfio-0` beside that.
const GPUS: [&str; 5] = [
    "nvidia.com/gpu",
    "nvidia.com/pgpu",
    "nvidia.com/nvswitch",
    "k8s.gpu.nvidia.com/claim",
    "k8s.gpu.nvidia.com/device",
];

/// `vendor/class=device`, as in `nvidia.com/pgpu=0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// `vendor/class`.
    pub kind: String,
    /// Among the kind's.
    pub device: String,
}

/// A text is no qualified name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no CDI device; one looks like nvidia.com/pgpu=0")]
pub struct BadName(String);

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let parse = || {
            let (kind, device) = text.split_once('=')?;
            let (vendor, class) = kind.split_once('/')?;
            let good = word(vendor, "_.-") && word(class, "_.-") && word(device, "_.:-");
            good.then(|| Self { kind: kind.to_owned(), device: device.to_owned() })
        };
        parse().ok_or_else(|| BadName(text.chars().take(120).collect()))
    }
}

/// Letters and digits, with these between them.
fn word(text: &str, between: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = |c: char| c.is_ascii_alphanumeric() || between.contains(c);
    text.len() <= 253
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text.chars().all(inside)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl Name {
    /// Whether NVIDIA made the kind; others' are none of GPUs that go to a VM.
    #[must_use]
    pub(crate) fn is_nvidia(&self) -> bool {
        self.kind.split('/').next().is_some_and(|vendor| VENDORS.contains(&vendor))
    }

    /// Whether the kind can be nothing but GPUs and NVSwitches. Plugins without an alias name the kind after the model, so
    /// other kinds of NVIDIA's may be, too.
    #[must_use]
    pub(crate) fn is_gpu(&self) -> bool {
        GPUS.contains(&self.kind.as_str())
    }
}

/// The names of an annotation's value, separated by commas.
///
/// # Errors
/// [`BadName`].
pub fn names(value: &str) -> Result<Vec<Name>, BadName> {
    value.split(',').map(|name| name.trim().parse()).collect()
}

/// What is wrong with a spec file.
#[derive(Debug, thiserror::Error)]
pub enum BadSpec {
    /// Unreadable.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Too large.
    #[error("has more than {MAX_FILE} bytes")]
    TooLarge,
    /// Not what its name says.
    #[error("is no YAML: {0}")]
    Yaml(String),
    /// YAML or JSON, but no CDI.
    #[error("is no CDI spec: {0}")]
    Cdi(#[from] serde_json::Error),
    /// A version that is not known.
    #[error("has cdiVersion {0:?}; 0.3 to 1.x are known")]
    Version(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cdi_version: String,
    kind: String,
    devices: Option<Vec<Device>>,
    container_edits: Option<Edits>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Option<Edits>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    device_nodes: Option<Vec<Node>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
}

impl Edits {
    /// Where the nodes are on the host.
    fn paths(self) -> impl Iterator<Item = PathBuf> {
        self.device_nodes.unwrap_or_default().into_iter().map(|node| node.host_path.unwrap_or(node.path))
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    file: PathBuf,
    nodes: Vec<PathBuf>,
    /// Another file of the same folder has the name, too.
    conflict: Option<PathBuf>,
}

/// Why a name stands for nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No spec has it.
    #[error("no CDI spec in {folders:?} has device {name}{}{}", known_text(.known), broken_text(.broken))]
    Unknown {
        /// The name.
        name: Name,
        /// Where specs were looked for.
        folders: Vec<PathBuf>,
        /// The kind's devices that there are.
        known: Vec<String>,
        /// Files that could not be used.
        broken: Vec<(PathBuf, BadSpec)>,
    },
    /// Two have it.
    #[error("CDI device {name} is in {first} and in {second}; remove one of the files")]
    Conflict {
        /// The name.
        name: Name,
        /// One file.
        first: PathBuf,
        /// Another, in the same folder.
        second: PathBuf,
    },
}

fn known_text(devices: &[String]) -> String {
    if devices.is_empty() { String::new() } else { format!("; of its kind there are {}", devices.join(", ")) }
}

fn broken_text(files: &[(PathBuf, BadSpec)]) -> String {
    files.iter().map(|(path, error)| format!("; {} {error}", path.display())).collect()
}

/// All specs of a host.
#[derive(Debug, Default)]
pub(crate) struct Specs {
    folders: Vec<PathBuf>,
    devices: BTreeMap<Name, Entry>,
    broken: Vec<(PathBuf, BadSpec)>,
}

impl Specs {
    /// Reads the folders; what a later one says wins, as CDI has it. One bad file does not spoil the others.
    pub(crate) fn read(folders: &[PathBuf]) -> Self {
        let mut specs = Self { folders: folders.to_vec(), ..Self::default() };
        for folder in folders {
            let mut files: Vec<_> = match std::fs::read_dir(folder) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).take(MAX_FILES).collect(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    specs.broken.push((folder.clone(), error.into()));
                    continue;
                }
            };
            files.sort();
            let mut here = BTreeMap::new();
            for file in files {
                match read(&file) {
                    Ok(Some(spec)) => add(&mut here, &file, spec),
                    Ok(None) => {}
                    Err(error) => specs.broken.push((file, error)),
                }
            }
            specs.devices.extend(here);
        }
        specs
    }

    /// The host's device nodes that a name stands for.
    pub(crate) fn nodes(&mut self, name: &Name) -> Result<Vec<PathBuf>, Error> {
        match self.devices.get(name) {
            Some(Entry { conflict: None, nodes, .. }) => Ok(nodes.clone()),
            Some(Entry { conflict: Some(second), file, .. }) => {
                Err(Error::Conflict { name: name.clone(), first: file.clone(), second: second.clone() })
            }
            None => {
                let kind = self.devices.keys().filter(|other| other.kind == name.kind);
                Err(Error::Unknown {
                    name: name.clone(),
                    folders: self.folders.clone(),
                    known: kind.map(|other| other.device.clone()).collect(),
                    broken: std::mem::take(&mut self.broken),
                })
            }
        }
    }
}

fn add(devices: &mut BTreeMap<Name, Entry>, file: &Path, spec: Spec) {
    let common: Vec<_> = spec.container_edits.unwrap_or_default().paths().collect();
    for device in spec.devices.unwrap_or_default() {
        let name = Name { kind: spec.kind.clone(), device: device.name };
        let own = device.container_edits.unwrap_or_default().paths();
        let nodes = own.chain(common.iter().cloned()).collect();
        let entry = Entry { file: file.to_owned(), nodes, conflict: None };
        devices.entry(name).and_modify(|first| first.conflict = Some(file.to_owned())).or_insert(entry);
    }
}

/// `None` for what is no spec by its name.
fn read(file: &Path) -> Result<Option<Spec>, BadSpec> {
    let extension = file.extension().and_then(|extension| extension.to_str());
    let json = match extension {
        Some("json") => true,
        Some("yaml") => false,
        _ => return Ok(None),
    };
    let mut text = String::new();
    File::open(file)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(BadSpec::TooLarge);
    }
    parse(&text, json).map(Some)
}

fn parse(text: &str, json: bool) -> Result<Spec, BadSpec> {
    let spec: Spec = if json {
        serde_json::from_str(text)?
    } else {
        serde_json::from_value(yaml::parse(text).map_err(BadSpec::Yaml)?)?
    };
    let major = spec.cdi_version.split('.').next();
    if matches!(major, Some("0" | "1")) { Ok(spec) } else { Err(BadSpec::Version(spec.cdi_version)) }
}

#[cfg(test)]
mod tests;
