//! Mappings of the kernel's device mapper: made, looked up and taken down by their name.
//!
//! The messages are those of Linux, `include/uapi/linux/dm-ioctl.h`; the table's line is that of
//! `Documentation/admin-guide/device-mapper/verity.rst`.

use std::fs::File;
use std::io;

use nix::libc;
use verity::{BLOCK, RootHash};

use crate::private::{Device, Kind, Private};
use crate::sys::{DM_HEAD, DmRequest, device_mapper};

/// The device mapper's control device (Linux, `include/linux/miscdevice.h`, `MAPPER_CTRL_MINOR`).
const CONTROL: Device = Device { major: 10, minor: 236 };
/// The messages' version that this program was written for; the kernel takes any of the same first number.
const VERSION: [u32; 3] = [4, 0, 0];
/// Where the flags are in the head, and two of them.
const FLAGS: usize = 28;
const READ_ONLY: u32 = 1 << 0;
const DEFERRED_REMOVE: u32 = 1 << 17;
/// Where the head has the device's numbers, and the mapping's name with its length.
const DEVICE: usize = 40;
const NAME: usize = 48;
const NAME_LENGTH: usize = 128;
/// Size of `struct dm_target_spec`.
const TARGET: usize = 40;

/// Where what follows the head begins.
const DATA_START: u32 = 312;
const _: () = assert!(DATA_START as usize == DM_HEAD);

/// What a mapping is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The disk.
    pub disk: Device,
    /// Blocks of data on it.
    pub data_blocks: u64,
    /// Its first block of hashes.
    pub hash_start: u64,
    /// What its blocks are checked against.
    pub root: RootHash,
}

impl Verified {
    /// The target's line.
    fn table(&self) -> String {
        let Self { disk, data_blocks, hash_start, root } = self;
        format!("1 {disk} {disk} {BLOCK} {BLOCK} {data_blocks} {hash_start} sha256 {root} {}", "0".repeat(64))
    }
}

/// Whether a mapping is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Now.
    Done,
    /// Once its last user has closed it.
    Deferred,
}

/// The device mapper.
#[derive(Debug)]
pub struct DeviceMapper(File);

impl DeviceMapper {
    /// Opens its control device.
    ///
    /// # Errors
    ///
    /// The kernel's, above all when it has no device mapper.
    pub fn open(private: &Private) -> io::Result<Self> {
        Ok(Self(private.open(Kind::Char, CONTROL, true)?))
    }

    /// Makes a mapping, named by its root hash, and returns its numbers. A mapping whose table is refused is not left
    /// behind.
    ///
    /// # Errors
    ///
    /// The kernel's; `EBUSY` when the name is taken.
    pub fn create(&self, layer: &Verified) -> io::Result<Device> {
        let name = layer.root.to_string();
        let mut message = head(&name, READ_ONLY);
        device_mapper(&self.0, DmRequest::Create, &mut message)?;
        let device = device(&message);
        let loaded = device_mapper(&self.0, DmRequest::Load, &mut load(&name, layer))
            .and_then(|()| device_mapper(&self.0, DmRequest::Resume, &mut head(&name, 0)));
        if let Err(error) = loaded {
            let _ = self.remove(&layer.root);
            return Err(error);
        }
        Ok(device)
    }

    /// Takes a mapping down, now or when its last user has closed it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn remove(&self, root: &RootHash) -> io::Result<Removal> {
        let mut message = head(&root.to_string(), DEFERRED_REMOVE);
        device_mapper(&self.0, DmRequest::Remove, &mut message)?;
        let flags = u32::from_ne_bytes(array(&message, FLAGS));
        Ok(if flags & DEFERRED_REMOVE == 0 { Removal::Done } else { Removal::Deferred })
    }
}

/// The head of a request about the mapping `name`.
fn head(name: &str, flags: u32) -> Vec<u8> {
    let mut head = vec![0; DM_HEAD];
    for (at, number) in VERSION.into_iter().enumerate() {
        put(&mut head, at * 4, &number.to_ne_bytes());
    }
    put(&mut head, 16, &DATA_START.to_ne_bytes());
    put(&mut head, FLAGS, &flags.to_ne_bytes());
    // The last byte stays: the name ends with a NUL.
    put(&mut head, NAME, &name.as_bytes()[..name.len().min(NAME_LENGTH - 1)]);
    head
}

/// The request that gives a mapping its one target.
fn load(name: &str, layer: &Verified) -> Vec<u8> {
    let mut message = head(name, READ_ONLY);
    put(&mut message, 20, &1u32.to_ne_bytes());
    let mut target = vec![0; TARGET];
    put(&mut target, 8, &(layer.data_blocks * (BLOCK as u64 / 512)).to_ne_bytes());
    put(&mut target, 24, b"verity");
    target.extend(layer.table().as_bytes());
    target.push(0);
    target.resize(target.len().next_multiple_of(8), 0);
    message.extend(target);
    message
}

/// The numbers in an answer.
fn device(message: &[u8]) -> Device {
    let number: libc::dev_t = u64::from_ne_bytes(array(message, DEVICE));
    Device { major: libc::major(number).into(), minor: libc::minor(number).into() }
}

fn put(message: &mut [u8], at: usize, bytes: &[u8]) {
    message[at..at + bytes.len()].copy_from_slice(bytes);
}

fn array<const N: usize>(message: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&message[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> Verified {
        Verified {
            disk: Device { major: 8, minor: 16 },
            data_blocks: 1000,
            hash_start: 1001,
            root: "ab".repeat(32).parse().unwrap(),
        }
    }

    #[test]
    fn the_table_names_disk_tree_and_root_hash() {
        let line = format!("1 8:16 8:16 4096 4096 1000 1001 sha256 {} {}", "ab".repeat(32), "00".repeat(32));
        assert_eq!(layer().table(), line);
    }

    #[test]
    fn messages_have_the_kernels_layout() {
        let message = load("name", &layer());
        assert_eq!(message.len() % 8, 0);
        assert_eq!(message[..12], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[16..24], [0x38, 1, 0, 0, 1, 0, 0, 0]);
        assert_eq!(message[FLAGS], 1);
        assert_eq!(message[NAME..NAME + 5], *b"name\0");
        let target = &message[DM_HEAD..];
        assert_eq!(target[..8], [0; 8]);
        assert_eq!(target[8..16], 8000u64.to_ne_bytes());
        assert_eq!(target[24..31], *b"verity\0");
        assert!(target[40..].starts_with(layer().table().as_bytes()));
    }

    #[test]
    fn a_name_is_cut_before_it_leaves_its_place() {
        let head = head(&"x".repeat(500), 0);
        assert_eq!(head.len(), DM_HEAD);
        assert_eq!(head[NAME + NAME_LENGTH - 2..NAME + NAME_LENGTH + 1], [b'x', 0, 0]);
    }

    #[test]
    fn numbers_come_out_of_the_answer() {
        let mut message = head("name", 0);
        put(&mut message, DEVICE, &libc::makedev(253, 300).to_ne_bytes());
        assert_eq!(device(&message), Device { major: 253, minor: 300 });
    }
}
