//! Layers in the kernel: disks read through private nodes, mappings made by the device mapper, nodes in /dev/mapper.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use model_volumes::{HEAD, KeyPath, uuid};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use verity::{BLOCK, RootHash, read_root};

use crate::dm::{DeviceMapper, Encrypted, Removal, Verified};
use crate::layers::{Found, Mapper, Refusal};
use crate::opener::Opening;
use crate::private::{Device, Kind, Private};

/// The kernel's own.
#[derive(Debug)]
pub struct Kernel<'a> {
    private: &'a Private,
    mapper: DeviceMapper,
    nodes: PathBuf,
}

impl<'a> Kernel<'a> {
    /// Layers get their nodes in the directory `nodes`.
    ///
    /// # Errors
    ///
    /// The kernel's, when it has no device mapper.
    pub fn new(private: &'a Private, nodes: &Path) -> io::Result<Self> {
        Ok(Self { private, mapper: DeviceMapper::open(private)?, nodes: nodes.to_owned() })
    }
}

impl Mapper for Kernel<'_> {
    fn inspect(&self, disk: Device) -> Result<Found, Refusal> {
        let file = self.private.open(Kind::Block, disk, false).map_err(Refusal::Open)?;
        let mut head = [0; HEAD];
        // One that is too short for it is too short for an image, which is then said.
        let locked = file.read_exact_at(&mut head, 0).ok().and_then(|()| uuid(&head));
        if let Some(uuid) = locked {
            return Ok(Found::Locked(uuid));
        }
        let (root, layout) = read_root(&file)?;
        let (data_blocks, hash_start) = (layout.data_blocks(), layout.hash_start_block());
        Ok(Found::Layer(Verified { disk, data_blocks, hash_start, root }))
    }

    fn begin(&self, disk: Device, key: &KeyPath) -> io::Result<Opening> {
        Opening::start(self.private.open(Kind::Block, disk, false)?, key)
    }

    fn decrypt(&self, volume: &Encrypted) -> io::Result<Device> {
        self.mapper.decrypt(volume)
    }

    fn map(&self, layer: &Verified) -> io::Result<Device> {
        self.mapper.verify(layer)
    }

    fn try_read(&self, mapping: Device) -> io::Result<()> {
        let mut block = [0; BLOCK];
        self.private.open(Kind::Block, mapping, false)?.read_exact_at(&mut block, 0)
    }

    fn publish(&self, root: &RootHash, mapping: Device) -> io::Result<()> {
        let number = makedev(mapping.major, mapping.minor);
        let mode = Mode::S_IRUSR;
        Ok(mknod(&self.nodes.join(root.to_string()), SFlag::S_IFBLK, mode, number)?)
    }

    fn withdraw(&self, root: &RootHash) {
        let _ = fs::remove_file(self.nodes.join(root.to_string()));
    }

    fn unmap(&self, root: &RootHash) -> io::Result<Removal> {
        self.mapper.remove(root)
    }
}
