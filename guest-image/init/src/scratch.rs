//! The scratch disk: what the pod writes and memory should not hold, on a disk of the host that the host cannot read.
//!
//! Its key is made here and given to the kernel, and to nobody else; when the VM ends, so does the key. The file system is made
//! anew, so nothing that the host wrote to the disk before is ever taken for something. It is mounted where the agent keeps
//! all of its containers' own: their changes to their root file systems, and emptyDirs that are to be on a disk. What
//! the agent copies in stays in memory, and so does an image that it has pulled: nothing verifies that once it is unpacked, and
//! the disk hides what is on it without proving it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use shared_types::{BadScratchSize, ScratchSize};
use zeroize::Zeroizing;

use crate::dm::{DeviceMapper, Scratch};
use crate::private::{Device, Kind, Private};
use crate::sys;

/// Where the agent keeps what belongs to containers (kata-agent 4.1.0, `src/agent/src/rpc.rs`, `CONTAINER_BASE`).
const PLACE: &str = "run/kata-containers";
/// What stays in memory, below it: what is copied in, and images that the guest pulls (guest-components,
/// `image-rs/src/config.rs`, `DEFAULT_WORK_DIR`).
const IN_MEMORY: [&str; 2] = ["shared", "image"];
/// Of AES-256 in XTS, twice 32.
const KEY: usize = 64;
/// Blocks of the file system.
const BLOCK: u64 = 4096;
/// An empty file system of 4 MiB, as od prints it; `scratch/make-empty` makes it.
const EMPTY: &str = include_str!("scratch/empty.ext4.txt");
/// Neither tables of inodes nor anything else is written before it is needed, so that the host's file stays as small as what
/// is in it. The kernel would begin with the tables some seconds after a mount: so first late, then never.
const FIRST: &str = "discard,errors=remount-ro,init_itable=100000";
const THEN: &str = "discard,errors=remount-ro,noinit_itable";

/// A disk with the serial number of a scratch disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its numbers.
    pub device: Device,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
}

impl Disk {
    const fn bytes(self) -> u64 {
        self.sectors.saturating_mul(512)
    }
}

/// Why the pod does not get the scratch disk that it wants, or gets none.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// What the initdata declares is no size.
    #[error("coffer.toml in the initdata declares scratch_mib = {mib}")]
    Size {
        mib: u64,
        #[source]
        source: BadScratchSize,
    },
    /// One is declared, and none is there.
    #[error("coffer.toml in the initdata declares a scratch disk of {0}, and the VM has none")]
    Missing(ScratchSize),
    /// Another one is there.
    #[error(
        "coffer.toml in the initdata declares a scratch disk of {declared}, and the VM's has {found} bytes"
    )]
    Other { declared: ScratchSize, found: u64 },
    /// One is there that nobody declared.
    #[error("the VM has a scratch disk, and coffer.toml in the initdata declares none")]
    Undeclared,
    /// It is too small to hold anything, or no whole number of blocks.
    #[error("the scratch disk has {0} bytes, which is no size of one")]
    Unusable(u64),
    /// There is no key.
    #[error("cannot make a key for the scratch disk")]
    Key(#[source] io::Error),
    /// The kernel makes no encrypted disk of it.
    #[error("cannot encrypt the scratch disk")]
    Encrypt(#[source] io::Error),
    /// It cannot be written.
    #[error("cannot write a file system to the scratch disk")]
    Write(#[source] io::Error),
    /// It cannot be mounted.
    #[error("cannot mount the scratch disk on {}", place.display())]
    Mount {
        place: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file system stays small.
    #[error("cannot grow the scratch disk's file system to {blocks} blocks")]
    Grow {
        blocks: u64,
        #[source]
        source: io::Error,
    },
}

/// Which disk is used: the one that is declared, and no other. Where no document is, nobody declared anything, and a VM
/// without one is no confidential one: then the one that is there.
///
/// # Errors
/// [`ScratchError`], when what is there is not what is declared.
pub fn decide(found: Option<Disk>, declared: Option<u64>) -> Result<Option<Disk>, ScratchError> {
    if let Some(disk) = found.filter(|disk| disk.bytes() < length(EMPTY) || disk.bytes() % BLOCK != 0) {
        return Err(ScratchError::Unusable(disk.bytes()));
    }
    match (found, declared) {
        (found, None) => Ok(found),
        (None, Some(0)) => Ok(None),
        (Some(_), Some(0)) => Err(ScratchError::Undeclared),
        (found, Some(mib)) => {
            let declared = ScratchSize::from_mib(mib).map_err(|source| ScratchError::Size { mib, source })?;
            match found {
                None => Err(ScratchError::Missing(declared)),
                Some(disk) if disk.bytes() == declared.bytes() => Ok(Some(disk)),
                Some(disk) => Err(ScratchError::Other { declared, found: disk.bytes() }),
            }
        }
    }
}

/// Encrypts the disk, makes a file system on it, and mounts that below `root` for the agent.
///
/// # Errors
/// [`ScratchError`] for the step that failed.
pub fn prepare(private: &Private, root: &Path, disk: Disk) -> Result<(), ScratchError> {
    let mapping = {
        let key = key().map_err(ScratchError::Key)?;
        let mapper = DeviceMapper::open(private).map_err(ScratchError::Encrypt)?;
        let scratch = Scratch { disk: disk.device, sectors: disk.sectors, key: &key };
        mapper.encrypt(&scratch).map_err(ScratchError::Encrypt)?
    };
    let empty = image(EMPTY).ok_or_else(|| ScratchError::Write(io::ErrorKind::InvalidData.into()))?;
    let writer = private.open(Kind::Block, mapping, true).map_err(ScratchError::Write)?;
    writer.write_all_at(&empty, 0).and_then(|()| writer.sync_all()).map_err(ScratchError::Write)?;
    // The kernel mounts nothing that somebody else may write.
    drop(writer);

    let place = root.join(PLACE);
    let failed = |source| ScratchError::Mount { place: place.clone(), source };
    fs::create_dir_all(&place).map_err(failed)?;
    // It has no name but this one.
    let plain = private.open(Kind::Block, mapping, false).map_err(failed)?;
    let source = format!("/proc/self/fd/{}", plain.as_raw_fd());
    // Set-uid programs work in it, as in an emptyDir on a node.
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    let mount_it = |flags, options| mount(Some(source.as_str()), &place, Some("ext4"), flags, Some(options));
    mount_it(flags, FIRST).map_err(|errno| failed(errno.into()))?;
    let blocks = disk.bytes() / BLOCK;
    let directory = File::open(&place).map_err(failed)?;
    sys::grow_ext4(&directory, blocks).map_err(|source| ScratchError::Grow { blocks, source })?;
    mount_it(flags | MsFlags::MS_REMOUNT, THEN).map_err(|errno| failed(errno.into()))?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    for name in IN_MEMORY {
        let place = place.join(name);
        let mounted = fs::create_dir(&place)
            .and_then(|()| Ok(mount(Some("tmpfs"), &place, Some("tmpfs"), flags, Some("mode=755"))?));
        mounted.map_err(|source| ScratchError::Mount { place, source })?;
    }
    Ok(())
}

/// A new key in hexadecimal digits.
fn key() -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; KEY]);
    sys::random(&mut bytes[..])?;
    // With room from the start: a text that grows leaves its beginning elsewhere.
    let mut text = Zeroizing::new(String::with_capacity(2 * KEY));
    for byte in bytes.iter() {
        for half in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(half.into(), 16));
        }
    }
    Ok(text)
}

/// The bytes that od has printed: lines of an offset and bytes, `*` for lines like the one before, and the length.
fn image(text: &str) -> Option<Vec<u8>> {
    let mut image: Vec<u8> = Vec::new();
    let mut last: Vec<u8> = Vec::new();
    for line in text.lines().filter(|line| *line != "*") {
        let mut words = line.split(' ');
        let offset: usize = words.next()?.parse().ok()?;
        while image.len() < offset {
            // od says how often by the next offset.
            let like = if last.is_empty() { return None } else { &last };
            image.extend(like);
        }
        last = words
            .filter(|word| !word.is_empty())
            .map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect::<Option<_>>()?;
        if image.len() != offset {
            return None;
        }
        image.extend(&last);
    }
    Some(image)
}

/// How many bytes that are, by the last line.
fn length(text: &str) -> u64 {
    text.lines().last().and_then(|line| line.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use shared_types::one_line;

    use super::*;

    fn disk(bytes: u64) -> Disk {
        Disk { device: Device { major: 254, minor: 32 }, sectors: bytes / 512 }
    }

    #[test]
    fn the_disk_is_the_declared_one_or_the_boot_ends() {
        let whole = Some(disk(128 << 20));
        for (found, declared, expected) in [
            // Nobody declares anything.
            (None, None, Ok(false)),
            (whole, None, Ok(true)),
            // The document declares none.
            (None, Some(0), Ok(false)),
            (whole, Some(0), Err("the VM has a scratch disk, and coffer.toml in the initdata declares none")),
            // It declares one.
            (whole, Some(128), Ok(true)),
            (None, Some(128), Err("declares a scratch disk of 128 MiB, and the VM has none")),
            (whole, Some(129), Err("declares a scratch disk of 129 MiB, and the VM's has 134217728 bytes")),
            (whole, Some(127), Err("declares a scratch disk of 127 MiB, and the VM's has 134217728 bytes")),
            (whole, Some(1), Err("declares scratch_mib = 1: a scratch disk has 64Mi to 16Ti")),
            (whole, Some(u64::MAX), Err("declares scratch_mib = 18446744073709551615")),
            // No file system fits.
            (Some(disk(0)), None, Err("the scratch disk has 0 bytes")),
            (Some(disk((128 << 20) + 512)), None, Err("the scratch disk has 134218240 bytes")),
            (Some(disk(1 << 20)), Some(0), Err("the scratch disk has 1048576 bytes")),
        ] {
            let decided =
                decide(found, declared).map(|used| used.is_some()).map_err(|error| one_line(&error));
            match (decided, expected) {
                (Ok(used), Ok(expected)) => assert_eq!(used, expected, "{found:?} {declared:?}"),
                (Err(error), Err(words)) => assert!(error.contains(words), "{words:?} is not in {error:?}"),
                (decided, _) => panic!("{found:?} {declared:?}: {decided:?}"),
            }
        }
        assert!(matches!(
            decide(Some(Disk { sectors: u64::MAX, ..disk(0) }), None),
            Err(ScratchError::Unusable(_))
        ));
    }

    #[test]
    fn keys_are_new_each_time_and_whole() {
        let (one, two) = (key().unwrap(), key().unwrap());
        assert_ne!(one, two);
        assert!(
            [&one, &two].iter().all(|key| key.len() == 128 && key.bytes().all(|b| b.is_ascii_hexdigit()))
        );
        // Both halves of an XTS key must differ, or the kernel refuses it.
        assert_ne!(one[..64], one[64..]);
    }

    #[test]
    fn the_empty_file_system_is_ext4_with_checksums_and_without_a_journal() {
        let image = image(EMPTY).unwrap();
        assert_eq!((image.len() as u64, length(EMPTY)), (4 << 20, 4 << 20));
        let number = |at: usize| u32::from_le_bytes(image[1024 + at..1024 + at + 4].try_into().unwrap());
        // Linux, `fs/ext4/ext4.h`, `struct ext4_super_block`: blocks, block size 1024 << 2, magic.
        assert_eq!((number(4), number(24), number(56) & 0xffff), (1024, 2, 0xef53));
        let (compatible, incompatible, read_only) = (number(92), number(96), number(100));
        assert_eq!((compatible & 4, compatible & 16), (0, 0), "a journal or reserved descriptors");
        assert_eq!(incompatible & 0x90, 0x90, "meta_bg, 64bit");
        assert_eq!(read_only & 0x400, 0x400, "metadata_csum");
        // The first group's tables are all there.
        assert_eq!(image[4096 + 18] & 4, 4);
    }

    #[test]
    fn what_od_prints_is_read_back() {
        assert_eq!(image("0 01 02\n2 03 03\n*\n8 04 05\n10\n").unwrap(), [1, 2, 3, 3, 3, 3, 3, 3, 4, 5]);
        for bad in ["4 01\n", "x 01\n", "0 zz\n", "0 01 02 03\n2\n", "0 01 02\n*\n3\n"] {
            assert!(image(bad).is_none(), "{bad:?}");
        }
    }
}
