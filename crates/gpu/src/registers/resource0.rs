//! Registers over sysfs: `resource0` mapped, `config` read and written, `reset` written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use super::{At, Registers, ResetKind, Word};
use crate::sys::Mapping;

/// A function's files in sysfs.
#[derive(Debug)]
pub struct Resource0 {
    device: PathBuf,
    bar0: Mapping,
    config: File,
}

impl Resource0 {
    /// Opens the function whose sysfs folder is `device`.
    ///
    /// # Errors
    /// `EPERM` under Secure Boot's lockdown, `EINVAL` or `EAGAIN` while VFIO has the function open.
    pub fn open(device: &Path) -> io::Result<Self> {
        let sync = |name: &str| {
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_SYNC).open(device.join(name))
        };
        let bar0 = Mapping::of(&sync("resource0")?)?;
        Ok(Self { device: device.to_owned(), bar0, config: sync("config")? })
    }
}

impl Registers for Resource0 {
    fn read32(&mut self, at: At) -> io::Result<Word> {
        match at {
            At::Bar0(offset) => self.bar0.read32(offset).map(Word::of),
            At::Config(offset) => {
                let mut word = [0; 4];
                self.config.read_exact_at(&mut word, offset.into())?;
                Ok(Word::of(u32::from_le_bytes(word)))
            }
        }
    }

    fn write32(&mut self, at: At, value: u32) -> io::Result<()> {
        match at {
            At::Bar0(offset) => self.bar0.write32(offset, value),
            At::Config(offset) => self.config.write_all_at(&value.to_le_bytes(), offset.into()),
        }
    }

    /// A bus reset is asked for through `reset_method`, which is put back afterwards.
    fn reset(&mut self, kind: ResetKind) -> io::Result<()> {
        let reset = || std::fs::write(self.device.join("reset"), "1");
        match kind {
            ResetKind::Function => reset(),
            ResetKind::Bus => {
                let method = self.device.join("reset_method");
                let before = std::fs::read_to_string(&method)?;
                std::fs::write(&method, "bus")?;
                let done = reset();
                // Writing "default" would be enough on the kernel's side; an operator's choice is kept.
                let restored = std::fs::write(&method, before.trim());
                done.and(restored)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> tempfile::TempDir {
        let device = tempfile::tempdir().unwrap();
        let mut bar0 = vec![0; 4096];
        bar0[0..4].copy_from_slice(&0x1800_00a1_u32.to_le_bytes());
        bar0[8..12].fill(0xff);
        std::fs::write(device.path().join("resource0"), bar0).unwrap();
        std::fs::write(device.path().join("config"), [0x11; 256]).unwrap();
        device
    }

    #[test]
    fn words_are_little_endian_and_typed() {
        let device = device();
        let mut registers = Resource0::open(device.path()).unwrap();
        assert_eq!(registers.read32(At::Bar0(0)).unwrap(), Word::Data(0x1800_00a1));
        assert_eq!(registers.read32(At::Bar0(8)).unwrap(), Word::AllOnes);
        assert_eq!(registers.read32(At::Config(4)).unwrap(), Word::Data(0x1111_1111));
        registers.write32(At::Bar0(16), 0x0102_0304).unwrap();
        registers.write32(At::Config(4), 6).unwrap();
        drop(registers);
        let bar0 = std::fs::read(device.path().join("resource0")).unwrap();
        assert_eq!(bar0[16..20], [4, 3, 2, 1]);
        assert_eq!(std::fs::read(device.path().join("config")).unwrap()[4..8], [6, 0, 0, 0]);
    }

    #[test]
    fn offsets_outside_are_errors() {
        let device = device();
        let mut registers = Resource0::open(device.path()).unwrap();
        for at in [At::Bar0(4096), At::Bar0(4093), At::Bar0(2), At::Config(256)] {
            assert!(registers.read32(at).is_err(), "{at}");
        }
    }

    #[test]
    fn a_bus_reset_leaves_the_method_as_it_was() {
        let device = device();
        let file = |name: &str| device.path().join(name);
        std::fs::write(file("reset_method"), "flr bus\n").unwrap();
        Resource0::open(device.path()).unwrap().reset(ResetKind::Bus).unwrap();
        assert_eq!(std::fs::read_to_string(file("reset")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(file("reset_method")).unwrap(), "flr bus");
    }
}
