//! Which GPUs of an NVSwitch board can go to one VM: those of one of the fabric manager's partitions.
//!
//! Two files tell it, both written by the board's operator. `partitions.json` is what NVIDIA's `fmpm --list` prints of a fabric
//! manager in shared mode: `partitionInfo`, each with `partitionId` and `gpuInfo`, whose `physicalId` is the GPU's module id
//! (`nv_fm_types.h`, `fmFabricPartitionInfo_t`). Its PCI addresses are zeros where the GPUs are not the fabric manager's, and a
//! module's place on the bus is no rule; so `modules` has a line for each GPU, `ADDRESS MODULE`, as the driver names them
//! ("Module ID" of `nvidia-smi --query`).
//!
//! A partition is made by the fabric manager (`fmpm --activate ID`), not here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::PciAddress;

/// Below the folder of locks and quarantine.
pub const FOLDER: &str = "fabric";
const PARTITIONS: &str = "partitions.json";
const MODULES: &str = "modules";

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error(
        "cannot read {path}, which says which GPUs can go to one VM; write both files of it, or remove its folder"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no list of partitions.
    #[error("{path} is not what `fmpm --list` prints")]
    Partitions {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A line is no address with a module.
    #[error(
        "{path}:{line}: {text:?} is no line of address and module id, as in `0000:1b:00.0 3`, or one of them is there twice"
    )]
    Module {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What it has, shortened.
        text: String,
    },
}

/// GPUs that cannot go to one VM together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPartition {
    /// Some are on the board, and some are not known.
    #[error(
        "the module id of GPU {gpu} is not known, and other GPUs of the pod are on an NVSwitch board: add it to `modules`"
    )]
    Unknown {
        /// The GPU.
        gpu: PciAddress,
    },
    /// There is no such partition.
    #[error("{gpus} are no partition of the NVSwitch board: {instead}")]
    None {
        /// How many, and which, with their modules.
        gpus: String,
        /// What there is.
        instead: String,
    },
}

/// GPUs that the fabric manager can join.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// The fabric manager's number of it.
    pub id: u32,
    /// Module ids.
    pub modules: BTreeSet<u32>,
}

/// A board.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fabric {
    partitions: Vec<Partition>,
    modules: BTreeMap<PciAddress, u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    partition_info: Vec<Info>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    partition_id: u32,
    gpu_info: Vec<Gpu>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Gpu {
    physical_id: u32,
}

impl Fabric {
    /// The node's board; `None` where nothing is said of one. `state` is the folder of locks and quarantine.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(state: &Path) -> Result<Option<Self>, Error> {
        let folder = state.join(FOLDER);
        match folder.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(source) => return Err(Error::Read { path: folder, source }),
        }
        let read = |name: &str| {
            let path = folder.join(name);
            let text = fs::read_to_string(&path);
            text.map_err(|source| Error::Read { path: path.clone(), source }).map(|text| (path, text))
        };
        let ((path, list), (modules, lines)) = (read(PARTITIONS)?, read(MODULES)?);
        let partitions = partitions(&list).map_err(|source| Error::Partitions { path, source })?;
        let placed = placed(&lines);
        let placed = placed.map_err(|(line, text)| Error::Module { path: modules, line, text })?;
        Ok(Some(Self { partitions, modules: placed }))
    }

    /// The board's partitions, large ones first.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// A GPU's module id.
    #[must_use]
    pub fn module(&self, gpu: PciAddress) -> Option<u32> {
        self.modules.get(&gpu).copied()
    }

    /// The partition that these GPUs are; `None` where none of them is on the board.
    ///
    /// # Errors
    /// [`NoPartition`].
    pub fn partition(&self, gpus: &[PciAddress]) -> Result<Option<&Partition>, NoPartition> {
        let modules: Vec<_> = gpus.iter().map(|gpu| (*gpu, self.module(*gpu))).collect();
        if modules.iter().all(|(_, module)| module.is_none()) {
            return Ok(None);
        }
        if let Some((gpu, _)) = modules.iter().find(|(_, module)| module.is_none()) {
            return Err(NoPartition::Unknown { gpu: *gpu });
        }
        let wanted: BTreeSet<u32> = modules.iter().filter_map(|(_, module)| *module).collect();
        if let Some(found) = self.partitions.iter().find(|partition| partition.modules == wanted) {
            return Ok(Some(found));
        }
        let named =
            modules.iter().map(|(gpu, module)| format!("{gpu} (module {})", module.unwrap_or_default()));
        let gpus = format!("{} GPUs, {},", modules.len(), named.collect::<Vec<_>>().join(", "));
        Err(NoPartition::None { gpus, instead: self.instead(wanted.len()) })
    }

    /// What there is of so many GPUs, or which numbers there are.
    fn instead(&self, count: usize) -> String {
        let same: Vec<_> = self
            .partitions
            .iter()
            .filter(|partition| partition.modules.len() == count)
            .map(Partition::sum)
            .collect();
        if !same.is_empty() {
            return format!("of {count} GPUs there are the modules {}", same.join(", "));
        }
        let sizes: BTreeSet<_> = self.partitions.iter().map(|partition| partition.modules.len()).collect();
        let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
        format!("its partitions have {} GPUs, not {count}", sizes.join(", "))
    }
}

impl Partition {
    /// Its modules: `1+3`.
    #[must_use]
    pub fn sum(&self) -> String {
        self.modules.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
    }
}

fn partitions(text: &str) -> Result<Vec<Partition>, serde_json::Error> {
    let List { partition_info } = serde_json::from_str(text)?;
    let partition = |info: Info| Partition {
        id: info.partition_id,
        modules: info.gpu_info.into_iter().map(|gpu| gpu.physical_id).collect(),
    };
    let mut all: Vec<_> = partition_info.into_iter().map(partition).collect();
    all.sort_by_key(|partition| (usize::MAX - partition.modules.len(), partition.id));
    Ok(all)
}

fn placed(text: &str) -> Result<BTreeMap<PciAddress, u32>, (usize, String)> {
    let mut placed = BTreeMap::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || (number, line.chars().take(64).collect());
        // `nvidia-smi` has a comma between, and eight digits for the domain.
        let mut words = line.split([' ', ',', '\t']).filter(|word| !word.is_empty());
        let (address, module) = (words.next(), words.next());
        let address: PciAddress = address.and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let module: u32 = module.and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let is_new = !placed.contains_key(&address) && !placed.values().any(|other| *other == module);
        if words.next().is_some() || !is_new {
            return Err(wrong());
        }
        placed.insert(address, module);
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `fmpm --list` prints it of a board with eight GPUs, without what is not read: its addresses are zeros.
    fn list(partitions: &[&[u32]]) -> String {
        let gpu = |id: &u32| {
            format!(
                "{{\"physicalId\": {id}, \"uuid\": \"\", \"pciBusId\": \"00000000:00:00.0\", \"maxNumNvLinks\": 18}}"
            )
        };
        let one = |(id, modules): (usize, &&[u32])| {
            let gpus: Vec<_> = modules.iter().map(gpu).collect();
            format!(
                "{{\"partitionId\": {id}, \"isActive\": 0, \"numGpus\": {}, \"gpuInfo\": [{}]}}",
                modules.len(),
                gpus.join(", ")
            )
        };
        let all: Vec<_> = partitions.iter().enumerate().map(one).collect();
        format!("{{\"version\": 1, \"maxNumPartitions\": 15, \"partitionInfo\": [{}]}}", all.join(", "))
    }

    const BOARD: [&[u32]; 11] = [
        &[1, 2, 3, 4, 5, 6, 7, 8],
        &[1, 2, 3, 4],
        &[5, 6, 7, 8],
        &[1, 3],
        &[2, 4],
        &[5, 7],
        &[6, 8],
        &[1],
        &[2],
        &[3],
        &[4],
    ];
    /// In the order of their addresses the modules are 2, 1, 4, 3.
    const PLACES: &str =
        "# by nvidia-smi\n00000000:1B:00.0, 2\n0000:43:00.0 1\n0000:52:00.0 4\n\n0000:61:00.0 3\n";

    fn board() -> (tempfile::TempDir, Fabric) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        fs::write(dir.path().join("fabric/partitions.json"), list(&BOARD)).unwrap();
        fs::write(dir.path().join("fabric/modules"), PLACES).unwrap();
        let fabric = Fabric::read(dir.path()).unwrap().unwrap();
        (dir, fabric)
    }

    fn gpus(buses: &[&str]) -> Vec<PciAddress> {
        buses.iter().map(|bus| format!("0000:{bus}:00.0").parse().unwrap()).collect()
    }

    #[test]
    fn a_set_is_a_partition_by_its_modules_and_not_by_its_addresses() {
        let (_dir, fabric) = board();
        let id =
            |buses: &[&str]| fabric.partition(&gpus(buses)).map(|found| found.map(|partition| partition.id));
        assert_eq!(id(&["43", "61"]), Ok(Some(3)), "modules 1 and 3");
        assert_eq!(id(&["61", "43"]), Ok(Some(3)));
        assert_eq!(id(&["1b", "43", "52", "61"]), Ok(Some(1)));
        assert_eq!(id(&["52"]), Ok(Some(10)));
        assert_eq!(id(&["99"]), Ok(None), "not on the board");
        // The first two on the bus.
        let said = id(&["1b", "43"]).unwrap_err().to_string();
        assert_eq!(
            said,
            "2 GPUs, 0000:1b:00.0 (module 2), 0000:43:00.0 (module 1), are no partition of the NVSwitch board: \
             of 2 GPUs there are the modules 1+3, 2+4, 5+7, 6+8"
        );
        let said = id(&["1b", "43", "52"]).unwrap_err().to_string();
        assert!(said.ends_with("its partitions have 1, 2, 4, 8 GPUs, not 3"), "{said}");
        assert!(
            id(&["1b", "99"])
                .unwrap_err()
                .to_string()
                .contains("the module id of GPU 0000:99:00.0 is not known")
        );
    }

    #[test]
    fn large_partitions_come_first() {
        let sums: Vec<_> = board().1.partitions().iter().map(Partition::sum).collect();
        assert_eq!(sums[..4], ["1+2+3+4+5+6+7+8", "1+2+3+4", "5+6+7+8", "1+3"]);
    }

    #[test]
    fn files_that_are_missing_or_broken_are_told() {
        let nothing = tempfile::tempdir().unwrap();
        assert_eq!(Fabric::read(nothing.path()).unwrap(), None);
        let (dir, _) = board();
        let said = |name: &str, text: &str| {
            fs::write(dir.path().join(FOLDER).join(name), text).unwrap();
            Fabric::read(dir.path()).unwrap_err().to_string()
        };
        for text in [
            "0000:1b:00.0",
            "x 1",
            "0000:1b:00.0 1 2",
            "0000:1b:00.0 1\n0000:1b:00.0 2",
            "0000:1b:00.0 1\n0000:43:00.0 1",
        ] {
            assert!(said(MODULES, text).contains("fabric/modules:"), "{text}");
        }
        assert!(said(PARTITIONS, "{}").contains("partitions.json is not what `fmpm --list` prints"));
        fs::remove_file(dir.path().join("fabric/partitions.json")).unwrap();
        assert!(Fabric::read(dir.path()).unwrap_err().to_string().contains("cannot read"));
    }
}
