//! Looks at a function in passing, whoever has it: nothing is reset, locked or written.
//!
//! The mode is for reports to an operator; what a pod's start depends on goes through [`crate::Gpu::verify`].

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::mode::{self, Active};
use crate::registers::{At, Registers, Resource0, Word};
use crate::sysfs::Function;
use crate::thread::off_thread;
use crate::{InvalidMode, Mode};

/// Bit "memory space enable" of the command register, PCI Express Base Specification 6.0, 7.5.1.1.3.
const MEMORY_ENABLED: u32 = 1 << 1;
/// The configuration word with the command register.
const COMMAND: At = At::Config(4);

/// Why the mode cannot be read in passing.
#[derive(Debug, thiserror::Error)]
pub enum Unseen {
    /// The chip is none that we know.
    #[error("its chip is not known")]
    UnknownChip,
    /// It sleeps, as idle functions do under vfio-pci.
    #[error("it sleeps (power/runtime_status is {0:?})")]
    Asleep(String),
    /// Its memory space is switched off.
    #[error("its memory space is switched off")]
    Disabled,
    /// A VM has it, or the kernel's lockdown bars the way.
    #[error("its registers cannot be opened: {0}")]
    Closed(#[from] io::Error),
    /// The register has no content.
    #[error("its mode register reads {0}")]
    Word(Word),
    /// The register's content is no mode.
    #[error(transparent)]
    Invalid(#[from] InvalidMode),
}

/// The mode that the function runs in.
///
/// # Errors
/// [`Unseen`].
pub fn mode(function: &Function) -> Result<Mode, Unseen> {
    let chip = function.chip.ok_or(Unseen::UnknownChip)?;
    // Absent where the kernel has no runtime power management; then nothing puts it to sleep.
    let status = std::fs::read_to_string(function.path.join("power/runtime_status")).unwrap_or_default();
    if !matches!(status.trim(), "" | "active" | "unsupported") {
        return Err(Unseen::Asleep(status.trim().to_owned()));
    }
    let mut registers = Resource0::open(&function.path)?;
    match registers.read32(COMMAND)? {
        Word::Data(word) if word & MEMORY_ENABLED != 0 => {}
        Word::Data(_) => return Err(Unseen::Disabled),
        word => return Err(Unseen::Word(word)),
    }
    let register = mode::register(chip.family()).ok_or(Unseen::UnknownChip)?;
    match registers.read32(register)? {
        Word::Data(word) => Ok(Active::decode(chip.family(), word)?.mode),
        word => Err(Unseen::Word(word)),
    }
}

/// Whether the function whose sysfs folder is `device` answers on its bus. The kernel reads its ids from the device itself for
/// that; one that is not there reads as all-ones, and one that was unplugged has no folder. Waits while the kernel resets it.
///
/// # Errors
/// The kernel refused, which says nothing of the device.
pub async fn answers(device: &Path) -> io::Result<bool> {
    let config = device.join("config");
    let read = move || {
        let mut ids = [0; 4];
        File::open(config)?.read_exact(&mut ids).map(|()| Word::of(u32::from_le_bytes(ids)))
    };
    match off_thread("gpu-look", read).await? {
        Ok(ids) => Ok(ids != Word::AllOnes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::{Chip, DeviceId};

    fn hopper(path: &Path) -> Function {
        let id = DeviceId(0x2330);
        Function {
            address: "0000:41:00.0".parse().unwrap(),
            path: path.to_owned(),
            kind: Kind::Gpu,
            id,
            chip: Chip::of(id),
            subsystem: 0,
            class: 0x03_0200,
            driver: None,
            group: None,
            vfio_device: None,
            bars: vec![],
            numa_node: None,
            reset_methods: vec![],
        }
    }

    fn device(command: u8, mode: u32) -> tempfile::TempDir {
        let device = tempfile::tempdir().unwrap();
        let mut config = [0; 256];
        config[4] = command;
        std::fs::write(device.path().join("config"), config).unwrap();
        let mut bar0 = vec![0; 0x12_0000];
        bar0[0x11_82cc..0x11_82d0].copy_from_slice(&mode.to_le_bytes());
        std::fs::write(device.path().join("resource0"), bar0).unwrap();
        device
    }

    #[test]
    fn the_mode_is_read_and_nothing_written() {
        let device = device(6, 1);
        let before = std::fs::read(device.path().join("resource0")).unwrap();
        assert_eq!(mode(&hopper(device.path())).unwrap(), Mode::On);
        assert_eq!(std::fs::read(device.path().join("resource0")).unwrap(), before);
    }

    #[test]
    fn what_does_not_answer_says_why() {
        let text = |device: &tempfile::TempDir| mode(&hopper(device.path())).unwrap_err().to_string();
        assert_eq!(text(&device(0, 1)), "its memory space is switched off");
        assert!(text(&device(6, 0xffff_ffff)).starts_with("its mode register reads "));
        assert!(text(&device(6, 2)).contains("devtools without confidential computing"));
        let sleeping = device(6, 1);
        std::fs::create_dir(sleeping.path().join("power")).unwrap();
        std::fs::write(sleeping.path().join("power/runtime_status"), "suspended\n").unwrap();
        assert_eq!(text(&sleeping), "it sleeps (power/runtime_status is \"suspended\")");
        let empty = tempfile::tempdir().unwrap();
        assert!(text(&empty).starts_with("its registers cannot be opened: No such file"));
    }

    #[tokio::test]
    async fn a_device_off_its_bus_or_unplugged_does_not_answer() {
        let device = device(6, 1);
        assert!(answers(device.path()).await.unwrap());
        std::fs::write(device.path().join("config"), [0xff; 64]).unwrap();
        assert!(!answers(device.path()).await.unwrap());
        assert!(!answers(&device.path().join("unplugged")).await.unwrap());
        std::fs::write(device.path().join("config"), "").unwrap();
        answers(device.path()).await.unwrap_err();
    }
}
