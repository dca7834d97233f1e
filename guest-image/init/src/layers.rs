//! Image layers: disks of the SCSI controller that carry a hash tree, each opened under its root hash.
//!
//! Nothing here decides which layers a container may have: the name of a mapping is the proof of its content, and who
//! asks for a layer asks for it by that name. What the kernel refuses to read, it refuses for every reader.
//!
//! A model volume is a layer like any other once it is open. An encrypted one has to be declared by the pod's initdata,
//! with its key and with what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use model_volumes::{KeyPath, Kind, Uuid, Volumes};
use shared_types::one_line;
use verity::{ReadError, RootHash};

use crate::dm::{Encrypted, Removal, Verified};
use crate::lun::{self, Address, Lun};
use crate::opener::{Opened, Opening};
use crate::private::Device;
use crate::uevent::Uevent;

/// Damaged blocks of one layer that are named; the first tells what there is to tell.
const NAMED_BLOCKS: usize = 32;

/// What is done with disks and mappings.
pub trait Mapper {
    /// What a disk says of itself.
    fn inspect(&self, disk: Device) -> Result<Found, Refusal>;
    /// Begins to open an encrypted disk.
    fn begin(&self, disk: Device, key: &KeyPath) -> io::Result<Opening>;
    /// Makes an opened disk readable and returns its mapping.
    fn decrypt(&self, volume: &Encrypted) -> io::Result<Device>;
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

/// What a disk is.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// An image with its tree.
    Layer(Verified),
    /// An encrypted one.
    Locked(Uuid),
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
    /// An encrypted disk that nobody declared.
    #[error("it is the LUKS2 volume {0}, which volumes.toml of the pod's initdata does not declare")]
    Undeclared(Uuid),
    /// An encrypted disk stays closed.
    #[error("volume {name} cannot be opened: {reason}")]
    Closed { name: String, reason: String },
    /// It opens, and holds something else.
    #[error("volume {name} holds {found}, and the pod's initdata declares {declared}")]
    Other { name: String, found: RootHash, declared: RootHash },
    /// It opens, and what is in it is no image.
    #[error("what volume {name} holds is not usable")]
    Content {
        name: String,
        #[source]
        source: Box<Refusal>,
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

/// An encrypted disk whose key is on its way.
#[derive(Debug)]
struct Pending {
    lun: Lun,
    /// The volume's name.
    name: String,
    root: RootHash,
    opening: Opening,
}

/// All disks and layers. Each method returns the lines that there are to say.
#[derive(Debug)]
pub struct Layers<M> {
    mapper: M,
    volumes: Volumes,
    disks: BTreeMap<String, Disk>,
    layers: BTreeMap<RootHash, Layer>,
    pending: Vec<Pending>,
}

impl<M: Mapper> Layers<M> {
    /// Nothing yet; encrypted disks are to be those of `volumes`.
    pub fn new(mapper: M, volumes: Volumes) -> Self {
        Self { mapper, volumes, disks: BTreeMap::new(), layers: BTreeMap::new(), pending: Vec::new() }
    }

    /// What to wait for besides the kernel's messages.
    pub fn wanted(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pending.iter().map(|pending| pending.opening.wanted())
    }

    /// Goes on with encrypted disks whose keys have come, or will not.
    pub fn progress(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for mut pending in std::mem::take(&mut self.pending) {
            match pending.opening.progress() {
                None => self.pending.push(pending),
                Some(outcome) => lines.push(self.unlocked(&pending, outcome)),
            }
        }
        lines
    }

    fn unlocked(&mut self, pending: &Pending, outcome: Result<Opened, String>) -> String {
        let Pending { lun, name, root, .. } = pending;
        let opened = outcome
            .map_err(|reason| Refusal::Closed { name: name.clone(), reason })
            .and_then(|opened| self.open_encrypted(lun, name, *root, opened));
        match opened {
            Ok(()) => {
                if let Some(disk) = self.disks.get_mut(&lun.name) {
                    disk.layer = Some(*root);
                }
                format!("layer {root} ready")
            }
            Err(refusal) => format!("disk {} refused: {}", lun.address, one_line(&refusal)),
        }
    }

    fn open_encrypted(
        &mut self,
        lun: &Lun,
        name: &str,
        root: RootHash,
        opened: Opened,
    ) -> Result<(), Refusal> {
        let content = |refusal| Refusal::Content { name: name.to_owned(), source: Box::new(refusal) };
        self.free(root)?;
        let volume = Encrypted { disk: lun.device, opened, root };
        let plain = self.mapper.decrypt(&volume).map_err(|source| content(Refusal::Map { root, source }))?;
        let layer = match self.mapper.inspect(plain) {
            Ok(Found::Layer(layer)) if layer.root == root => Ok(layer),
            Ok(Found::Layer(layer)) => {
                Err(Refusal::Other { name: name.to_owned(), found: layer.root, declared: root })
            }
            Ok(Found::Locked(uuid)) => Err(content(Refusal::Undeclared(uuid))),
            Err(refusal) => Err(content(refusal)),
        };
        let opened = layer.and_then(|layer| self.open_layer(lun.address, &layer));
        if opened.is_err() {
            let _ = self.mapper.unmap(&root);
        }
        opened
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
        let layer = opened.as_ref().ok().copied().flatten();
        self.disks.insert(lun.name.clone(), Disk { address, layer });
        match opened {
            Ok(Some(root)) => lines.push(format!("layer {root} ready")),
            Ok(None) => {}
            Err(refusal) => lines.push(format!("disk {address} refused: {}", one_line(&refusal))),
        }
        lines
    }

    /// Opens a disk; nothing where its key has to come first.
    fn open(&mut self, lun: &Lun) -> Result<Option<RootHash>, Refusal> {
        match self.mapper.inspect(lun.device)? {
            Found::Layer(layer) => {
                self.free(layer.root)?;
                self.open_layer(lun.address, &layer).map(|()| Some(layer.root))
            }
            Found::Locked(uuid) => self.ask(lun, uuid).map(|()| None),
        }
    }

    /// Has the key of an encrypted disk fetched.
    fn ask(&mut self, lun: &Lun, uuid: Uuid) -> Result<(), Refusal> {
        let declared = self.volumes.with_uuid(uuid).ok_or(Refusal::Undeclared(uuid))?;
        let (name, volume) = (declared.0.to_owned(), declared.1);
        let Kind::Luks2 { key, .. } = &volume.kind else { return Err(Refusal::Undeclared(uuid)) };
        self.free(volume.root)?;
        if self.pending.iter().any(|pending| pending.root == volume.root) {
            let reason = "another disk with its UUID is being opened".to_owned();
            return Err(Refusal::Closed { name, reason });
        }
        let opening = self
            .mapper
            .begin(lun.device, key)
            .map_err(|error| Refusal::Closed { name: name.clone(), reason: error.to_string() })?;
        self.pending.push(Pending { lun: lun.clone(), name, root: volume.root, opening });
        Ok(())
    }

    /// Whether nobody has this layer.
    fn free(&self, root: RootHash) -> Result<(), Refusal> {
        match self.layers.get(&root) {
            Some(known) => Err(Refusal::Twice { root, from: known.from }),
            None => Ok(()),
        }
    }

    fn open_layer(&mut self, from: Address, layer: &Verified) -> Result<(), Refusal> {
        let root = layer.root;
        let mapping = self.mapper.map(layer).map_err(|source| Refusal::Map { root, source })?;
        let tried = self.mapper.try_read(mapping).map_err(Refusal::Tree);
        let node = tried.and_then(|()| {
            self.mapper.publish(&root, mapping).map_err(|source| Refusal::Node { root, source })
        });
        if let Err(refusal) = node {
            let _ = self.mapper.unmap(&root);
            return Err(refusal);
        }
        let layer = Layer { from, mapping, leaving: false, damaged: BTreeSet::new() };
        self.layers.insert(root, layer);
        Ok(())
    }

    fn left(&mut self, name: &str) -> Vec<String> {
        self.pending.retain(|pending| pending.lun.name != name);
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
