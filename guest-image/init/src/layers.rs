//! Image layers: disks of the SCSI controller that carry a hash tree, each opened under its root hash.
//!
//! Nothing here decides which layers a container may have: the name of a mapping is the proof of its content, and who
//! asks for a layer asks for it by that name. What the kernel refuses to read, it refuses for every reader.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use verity::{ReadError, RootHash};

use crate::chain::Chain;
use crate::dm::{Removal, Verified};
use crate::lun::{self, Address, Lun};
use crate::private::Device;
use crate::uevent::Uevent;

/// Damaged blocks of one layer that are named; the first tells what there is to tell.
const NAMED_BLOCKS: usize = 32;

/// What is done with disks and mappings.
pub trait Mapper {
    /// What a disk says of itself.
    fn inspect(&self, disk: Device) -> Result<Verified, Refusal>;
    /// Opens a layer and returns its mapping.
    fn map(&self, layer: &Verified) -> io::Result<Device>;
    /// Reads a layer's first block, and with it one block of each level of its tree.
    fn try_read(&self, mapping: Device) -> io::Result<()>;
    /// Gives a mapping its node.
    fn publish(&self, root: &RootHash, mapping: Device) -> io::Result<()>;
    /// Takes a mapping's node away.
    fn withdraw(&self, root: &RootHash);
    /// Takes a mapping down.
    fn unmap(&self, root: &RootHash) -> io::Result<Removal>;
}

/// Why a disk is no layer.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be opened.
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    /// What is on it is no image with a tree.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Another disk has the same layer.
    #[error("layer {root} is there already, from disk {from}")]
    Twice { root: RootHash, from: Address },
    /// The kernel refused the mapping.
    #[error("the kernel does not open it as layer {root}")]
    Map {
        root: RootHash,
        #[source]
        source: io::Error,
    },
    /// The tree is not the data's.
    #[error("its first block is not what its hash tree says")]
    Tree(#[source] io::Error),
    /// There is no node.
    #[error("/dev/mapper/{root} cannot be made")]
    Node {
        root: RootHash,
        #[source]
        source: io::Error,
    },
}

/// One open layer.
#[derive(Debug)]
struct Layer {
    from: Address,
    mapping: Device,
    /// Its disk has left, and containers still use it.
    leaving: bool,
    /// Damaged blocks that were named: whether of the tree, and which.
    damaged: BTreeSet<(bool, u64)>,
}

/// A disk that is there.
#[derive(Debug)]
struct Disk {
    address: Address,
    /// Nothing where it was refused.
    layer: Option<RootHash>,
}

/// All disks and layers. Each method returns the lines that there are to say.
#[derive(Debug)]
pub struct Layers<M> {
    mapper: M,
    disks: BTreeMap<String, Disk>,
    layers: BTreeMap<RootHash, Layer>,
}

impl<M: Mapper> Layers<M> {
    /// Nothing yet.
    pub fn new(mapper: M) -> Self {
        Self { mapper, disks: BTreeMap::new(), layers: BTreeMap::new() }
    }

    /// Takes notice of a message of the kernel.
    pub fn handle(&mut self, sys: &Path, message: &Uevent) -> Vec<String> {
        let name = message.get("DEVNAME");
        match (message.get("SUBSYSTEM"), message.get("ACTION")) {
            ("block", "add") if message.get("DEVTYPE") == "disk" && !name.starts_with("dm-") => {
                let numbers = format!("{}:{}", message.get("MAJOR"), message.get("MINOR"));
                match (lun::address(sys, message.get("DEVPATH")), Device::parse(&numbers)) {
                    (Some(address), Some(device)) => {
                        self.appeared(&Lun { name: name.to_owned(), device, address })
                    }
                    _ => vec![format!("ignored: block device {name} appeared and is no layer's disk")],
                }
            }
            ("block", "remove") => match mapping(message) {
                Some(mapping) => self.unmapped(mapping),
                None => self.left(name),
            },
            ("block", "change") => match (mapping(message), block(message.get("DM_VERITY_ERR_BLOCK_NR"))) {
                (Some(mapping), Some((of_tree, block))) => self.damaged(mapping, of_tree, block),
                _ => Vec::new(),
            },
            ("pci", "add") => {
                let slot = message.get("PCI_SLOT_NAME");
                vec![format!("ignored: PCI device {slot} appeared after the checks")]
            }
            _ => Vec::new(),
        }
    }

    /// Compares what is known with what is there: at the start, and when messages were lost.
    ///
    /// # Errors
    ///
    /// When sysfs cannot be listed.
    pub fn look(&mut self, sys: &Path) -> io::Result<Vec<String>> {
        let present = lun::present(sys)?;
        let is_there = |name: &str, disk: &Disk| {
            present.iter().any(|lun| lun.name == name && lun.address == disk.address)
        };
        let gone: Vec<String> = self
            .disks
            .iter()
            .filter(|(name, disk)| !is_there(name, disk))
            .map(|(name, _)| name.clone())
            .collect();
        let mut lines: Vec<String> = gone.iter().flat_map(|name| self.left(name)).collect();
        lines.extend(present.iter().flat_map(|lun| self.appeared(lun)));
        let unmapped: Vec<Device> = self
            .layers
            .values()
            .filter(|layer| layer.leaving)
            .map(|layer| layer.mapping)
            .filter(|mapping| !sys.join(format!("block/dm-{}", mapping.minor)).exists())
            .collect();
        lines.extend(unmapped.into_iter().flat_map(|mapping| self.unmapped(mapping)));
        Ok(lines)
    }

    fn appeared(&mut self, lun: &Lun) -> Vec<String> {
        let address = lun.address;
        match self.disks.get(&lun.name) {
            // Found at the start, and announced as well.
            Some(known) if known.address == address => return Vec::new(),
            Some(_) => {}
            None => {}
        }
        let mut lines = self.left(&lun.name);
        let opened = self.open(lun);
        let layer = opened.as_ref().ok().copied();
        self.disks.insert(lun.name.clone(), Disk { address, layer });
        lines.push(match opened {
            Ok(root) => format!("layer {root} ready"),
            Err(refusal) => format!("disk {address} refused: {}", Chain(&refusal)),
        });
        lines
    }

    fn open(&mut self, lun: &Lun) -> Result<RootHash, Refusal> {
        let layer = self.mapper.inspect(lun.device)?;
        let root = layer.root;
        if let Some(known) = self.layers.get(&root) {
            return Err(Refusal::Twice { root, from: known.from });
        }
        let mapping = self.mapper.map(&layer).map_err(|source| Refusal::Map { root, source })?;
        let tried = self.mapper.try_read(mapping).map_err(Refusal::Tree);
        let node = tried.and_then(|()| {
            self.mapper.publish(&root, mapping).map_err(|source| Refusal::Node { root, source })
        });
        if let Err(refusal) = node {
            let _ = self.mapper.unmap(&root);
            return Err(refusal);
        }
        let layer = Layer { from: lun.address, mapping, leaving: false, damaged: BTreeSet::new() };
        self.layers.insert(root, layer);
        Ok(root)
    }

    fn left(&mut self, name: &str) -> Vec<String> {
        let Some(Disk { address, layer: Some(root) }) = self.disks.remove(name) else { return Vec::new() };
        let Some(layer) = self.layers.get_mut(&root) else { return Vec::new() };
        // Without its node nobody can begin to use it.
        self.mapper.withdraw(&root);
        match self.mapper.unmap(&root) {
            Ok(Removal::Done) => {
                self.layers.remove(&root);
                vec![format!("layer {root} gone")]
            }
            Ok(Removal::Deferred) => {
                layer.leaving = true;
                vec![format!("disk {address} left while its layer {root} is in use")]
            }
            Err(error) => {
                layer.leaving = true;
                vec![format!("layer {root} stays without its disk {address}: {error}")]
            }
        }
    }

    fn unmapped(&mut self, mapping: Device) -> Vec<String> {
        let found = self.layers.iter().find(|(_, layer)| layer.leaving && layer.mapping == mapping);
        let Some(root) = found.map(|(root, _)| *root) else { return Vec::new() };
        self.layers.remove(&root);
        vec![format!("layer {root} gone")]
    }

    fn damaged(&mut self, mapping: Device, of_tree: bool, block: u64) -> Vec<String> {
        let found = self.layers.iter_mut().find(|(_, layer)| layer.mapping == mapping);
        let Some((root, layer)) = found else { return Vec::new() };
        if layer.damaged.len() >= NAMED_BLOCKS || !layer.damaged.insert((of_tree, block)) {
            return Vec::new();
        }
        let kind = if of_tree { "metadata" } else { "data" };
        vec![format!("layer {root}: {kind} block {block} is not what its hash says")]
    }
}

/// The mapping that a message is about.
fn mapping(message: &Uevent) -> Option<Device> {
    message.get("DEVNAME").strip_prefix("dm-")?;
    Device::parse(&format!("{}:{}", message.get("MAJOR"), message.get("MINOR")))
}

/// Reads `TYPE,BLOCK` (Linux, `drivers/md/dm-verity-target.c`): 0 is data, 1 is the tree.
fn block(text: &str) -> Option<(bool, u64)> {
    let (kind, block) = text.split_once(',')?;
    Some((kind != "0", block.parse().ok()?))
}

#[cfg(test)]
mod tests;
