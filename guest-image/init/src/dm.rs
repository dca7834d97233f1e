//! Mappings of the kernel's device mapper: made, looked up and taken down by their name.
//!
//! The messages are those of Linux, `include/uapi/linux/dm-ioctl.h`; the table's line is that of
//! `Documentation/admin-guide/device-mapper/verity.rst` and of `dm-crypt.rst` beside it.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use verity::{BLOCK, RootHash};
use zeroize::Zeroizing;

use crate::opener::Opened;
use crate::private::{Device, Kind, Private};
use crate::sys::{DM_HEAD, DmRequest, device_mapper};

/// The device mapper's control device (Linux, `include/linux/miscdevice.h`, `MAPPER_CTRL_MINOR`).
const CONTROL: Device = Device { major: 10, minor: 236 };
/// The messages' version that this program was written for; the kernel takes any of the same first number.
const VERSION: [u32; 3] = [4, 0, 0];
/// Where the flags are in the head, and two of them.
const FLAGS: usize = 28;
const READ_ONLY: u32 = 1 << 0;
/// The device gets the minor in the head, not the lowest that is free.
const PERSISTENT_DEVICE: u32 = 1 << 3;
/// The kernel wipes its copy of the message.
const SECURE_DATA: u32 = 1 << 15;
const DEFERRED_REMOVE: u32 = 1 << 17;
/// Where the head has the device's numbers, and the mapping's name with its length.
const DEVICE: usize = 40;
const NAME: usize = 48;
const NAME_LENGTH: usize = 128;
/// Size of `struct dm_target_spec`.
const TARGET: usize = 40;
/// What the device mapper counts in, in bytes.
const SECTOR: u64 = 512;

/// The first minor of ours: those below are the kernel's, which has mapped the root (`dm-mod.create`).
const FIRST_MINOR: u32 = 16;
/// There is none above (Linux, `include/linux/kdev_t.h`, `MINORBITS`).
const MINORS: u32 = 1 << 20;

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

/// An encrypted disk of which a volume's image is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// The disk.
    pub disk: Device,
    /// What opens it.
    pub opened: Opened,
    /// The root hash of the image in it: the mapping is called after it.
    pub root: RootHash,
}

/// A disk that is written and read with a key of this guest's.
pub struct Scratch<'a> {
    /// The disk.
    pub disk: Device,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// 128 hexadecimal digits.
    pub key: &'a str,
}

/// What the device mapper is to make.
struct Table {
    name: String,
    /// [`READ_ONLY`] or nothing.
    flags: u32,
    /// In sectors of 512 bytes.
    sectors: u64,
    target: &'static [u8],
    line: Zeroizing<String>,
}

impl From<&Verified> for Table {
    fn from(layer: &Verified) -> Self {
        let Verified { disk, data_blocks, hash_start, root } = layer;
        let zeros = "0".repeat(64);
        let line =
            format!("1 {disk} {disk} {BLOCK} {BLOCK} {data_blocks} {hash_start} sha256 {root} {zeros}");
        let sectors = data_blocks * (BLOCK as u64 / SECTOR);
        let line = Zeroizing::new(line);
        Self { name: root.to_string(), flags: READ_ONLY, sectors, target: b"verity", line }
    }
}

impl From<&Encrypted> for Table {
    fn from(volume: &Encrypted) -> Self {
        let Encrypted { disk, opened: Opened { offset, size, sector, tweak, key }, root } = volume;
        // With room from the start: a text that grows leaves its beginning elsewhere.
        let mut line = Zeroizing::new(String::with_capacity(512));
        line.push_str("aes-xts-plain64 ");
        line.push_str(key);
        line.push_str(&format!(" {tweak} {disk} {} 1 sector_size:{sector}", offset / SECTOR));
        Self { name: encrypted_name(root), flags: READ_ONLY, sectors: size / SECTOR, target: b"crypt", line }
    }
}

impl From<&Scratch<'_>> for Table {
    fn from(scratch: &Scratch<'_>) -> Self {
        let Scratch { disk, sectors, key } = scratch;
        let mut line = Zeroizing::new(String::with_capacity(512));
        line.push_str("aes-xts-plain64 ");
        line.push_str(key);
        // The host sees in any case which blocks are written; by discards it gets those back that are free.
        line.push_str(&format!(" 0 {disk} 0 2 allow_discards sector_size:{BLOCK}"));
        Self { name: "scratch".to_owned(), flags: 0, sectors: *sectors, target: b"crypt", line }
    }
}

/// What the mapping below a volume's image is called.
fn encrypted_name(root: &RootHash) -> String {
    format!("crypt-{root}")
}

/// Whether a mapping is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Now.
    Done,
    /// Once its last user has closed it.
    Deferred,
}

/// Minors, of which none comes again before all others had their turn. Whoever mounts a mapping looks its name up first and opens
/// the number that he found: were the number another mapping's by then, which the host decides by taking disks away and adding
/// others, he would mount that one. The host would have to add a million disks between the two.
#[derive(Debug)]
struct Minors(AtomicU32);

/// Of the scratch disk's mapping and the layers'.
static OURS: Minors = Minors(AtomicU32::new(0));

impl Minors {
    fn next(&self) -> u32 {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        FIRST_MINOR + number % (MINORS - FIRST_MINOR)
    }
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

    /// Makes the mapping of a layer, named by its root hash, and returns its numbers. A mapping whose table is refused is
    /// not left behind.
    ///
    /// # Errors
    ///
    /// The kernel's; `EBUSY` when the name is taken.
    pub fn verify(&self, layer: &Verified) -> io::Result<Device> {
        self.create(&layer.into())
    }

    /// Makes the mapping of an encrypted disk.
    ///
    /// # Errors
    ///
    /// The kernel's; `EBUSY` when the name is taken.
    pub fn decrypt(&self, volume: &Encrypted) -> io::Result<Device> {
        self.create(&volume.into())
    }

    /// Makes the mapping of the scratch disk.
    ///
    /// # Errors
    ///
    /// The kernel's; `EBUSY` when there is one.
    pub fn encrypt(&self, scratch: &Scratch<'_>) -> io::Result<Device> {
        self.create(&scratch.into())
    }

    fn create(&self, table: &Table) -> io::Result<Device> {
        let mut message = creation(table, OURS.next());
        device_mapper(&self.0, DmRequest::Create, &mut message)?;
        let device = device(&message);
        let loaded = device_mapper(&self.0, DmRequest::Load, &mut load(table))
            .and_then(|()| device_mapper(&self.0, DmRequest::Resume, &mut head(&table.name, 0)));
        if let Err(error) = loaded {
            let _ = self.take_down(&table.name);
            return Err(error);
        }
        Ok(device)
    }

    /// Takes a layer's mapping down, and the decrypting one below it where there is one: now, or when its last user has
    /// closed it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn remove(&self, root: &RootHash) -> io::Result<Removal> {
        let removal = self.take_down(&root.to_string());
        // Most layers have none. Its only user is the mapping above.
        let _ = self.take_down(&encrypted_name(root));
        removal
    }

    fn take_down(&self, name: &str) -> io::Result<Removal> {
        let mut message = head(name, DEFERRED_REMOVE);
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

/// The request that makes a mapping with this minor.
fn creation(table: &Table, minor: u32) -> Vec<u8> {
    let mut message = head(&table.name, table.flags | PERSISTENT_DEVICE);
    // With major 0 it is as the kernel reads it (`huge_decode_dev`), which takes its own major.
    put(&mut message, DEVICE, &libc::makedev(0, minor).to_ne_bytes());
    message
}

/// The request that gives a mapping its one target.
fn load(table: &Table) -> Zeroizing<Vec<u8>> {
    let length = (TARGET + table.line.len() + 1).next_multiple_of(8);
    let mut message = Zeroizing::new(Vec::with_capacity(DM_HEAD + length));
    message.extend(head(&table.name, table.flags | SECURE_DATA));
    put(&mut message, 20, &1u32.to_ne_bytes());
    let mut target = [0; TARGET];
    put(&mut target, 8, &table.sectors.to_ne_bytes());
    put(&mut target, 24, table.target);
    message.extend(target);
    message.extend(table.line.as_bytes());
    // At least one zero ends the line.
    message.resize(DM_HEAD + length, 0);
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
        assert_eq!(*Table::from(&layer()).line, line);
    }

    #[test]
    fn an_encrypted_disk_is_named_after_what_is_in_it() {
        let opened = Opened::parse(&format!("open 1048576 8192 4096 0 {}\n", "5a".repeat(64))).unwrap();
        let volume = Encrypted { disk: Device { major: 8, minor: 0 }, opened, root: layer().root };
        let table = Table::from(&volume);
        let line = format!("aes-xts-plain64 {} 0 8:0 2048 1 sector_size:4096", "5a".repeat(64));
        assert_eq!((&*table.line, table.sectors, table.target), (&line, 16, &b"crypt"[..]));
        assert_eq!(table.name, format!("crypt-{}", "ab".repeat(32)));
        assert!(!format!("{volume:?}").contains("5a5a"));
    }

    #[test]
    fn the_scratch_disk_can_be_written_and_gives_blocks_back() {
        let key = "5a".repeat(64);
        let table =
            Table::from(&Scratch { disk: Device { major: 254, minor: 32 }, sectors: 1 << 20, key: &key });
        let line = format!("aes-xts-plain64 {key} 0 254:32 0 2 allow_discards sector_size:4096");
        assert_eq!((&*table.line, table.sectors, table.target), (&line, 1 << 20, &b"crypt"[..]));
        assert_eq!(load(&table)[FLAGS..FLAGS + 4], [0, 0x80, 0, 0]);
    }

    #[test]
    fn messages_have_the_kernels_layout() {
        let message = load(&Table { name: "name".to_owned(), ..Table::from(&layer()) });
        assert_eq!(message.len() % 8, 0);
        assert_eq!(message[..12], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[16..24], [0x38, 1, 0, 0, 1, 0, 0, 0]);
        assert_eq!(message[FLAGS..FLAGS + 4], [1, 0x80, 0, 0]);
        assert_eq!(message[NAME..NAME + 5], *b"name\0");
        let target = &message[DM_HEAD..];
        assert_eq!(target[..8], [0; 8]);
        assert_eq!(target[8..16], 8000u64.to_ne_bytes());
        assert_eq!(target[24..31], *b"verity\0");
        let line = Table::from(&layer()).line;
        assert_eq!(target[40..40 + line.len()], *line.as_bytes());
        assert_eq!(message[message.len() - 1], 0);
    }

    #[test]
    fn a_mapping_is_asked_for_with_its_minor() {
        for (minor, bytes) in
            [(16, [16, 0, 0, 0]), (0x234, [0x34, 0, 0x20, 0]), (0xf_ffff, [0xff, 0, 0xf0, 0xff])]
        {
            let message = creation(&Table::from(&layer()), minor);
            assert_eq!(message[FLAGS..FLAGS + 4], [0b1001, 0, 0, 0]);
            assert_eq!(message[DEVICE..DEVICE + 8], [bytes, [0; 4]].concat());
            assert_eq!(device(&message), Device { major: 0, minor: minor.into() });
        }
        let scratch = Scratch { disk: Device { major: 254, minor: 32 }, sectors: 8, key: "" };
        assert_eq!(creation(&Table::from(&scratch), 16)[FLAGS], 0b1000);
    }

    #[test]
    fn no_minor_comes_again_before_all_others() {
        let minors = Minors(AtomicU32::new(MINORS - FIRST_MINOR - 1));
        assert_eq!([minors.next(), minors.next()], [MINORS - 1, FIRST_MINOR]);
        let (one, next) = (OURS.next(), OURS.next());
        assert!(FIRST_MINOR <= one && one < next);
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
