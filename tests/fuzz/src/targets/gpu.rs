//! What a GPU's firmware answers, what sysfs says of it, and our own files about it.

use std::path::Path;
use std::{fs, io};

use gpu::PciAddress;
use gpu::chip::Family;
use gpu::fabric::{FOLDER, Fabric};
use gpu::fsp::{Fsp, Waited};
use gpu::knob::Knob;
use gpu::lock::{GpuLock, holder};
use gpu::quarantine::Quarantine;
use gpu::registers::{At, Registers, ResetKind, Word};
use gpu::sysfs::Sysfs;

use super::host::{file, runtime};

/// `0000:41:00.0`.
pub(super) fn address(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(address) = text.parse::<PciAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}

/// An annotation's CDI names.
pub(super) fn cdi_names(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for name in gpu_selection::cdi::names(text).into_iter().flatten() {
        assert_eq!(gpu_selection::cdi::names(&name.to_string()), Ok(vec![name]));
    }
}

/// What is said of an NVSwitch board: the list of partitions up to the first zero byte, the modules behind it.
pub(super) fn fabric(input: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let folder = dir.path().join(FOLDER);
    let (list, modules) = input.split_at(input.iter().position(|byte| *byte == 0).unwrap_or(input.len()));
    let _ = fs::create_dir(&folder);
    let _ = fs::write(folder.join("partitions.json"), list);
    let _ = fs::write(folder.join("modules"), modules.get(1..).unwrap_or_default());
    if let Ok(Some(fabric)) = Fabric::read(dir.path()) {
        let gpu = some_gpu();
        // A partition that is given has this GPU's module, and no other.
        if let Ok(Some(partition)) = fabric.partition(&[gpu]) {
            assert_eq!(
                partition.modules.iter().copied().collect::<Vec<_>>(),
                [fabric.module(gpu).unwrap_or(u32::MAX)]
            );
        }
    }
}

#[expect(clippy::expect_used, reason = "the text is an address")]
fn some_gpu() -> PciAddress {
    "0000:41:00.0".parse().expect("an address")
}

/// A GPU whose every answer is the next four bytes of the input; after its end nothing answers any more.
#[derive(Debug)]
struct Answers<'a>(&'a [u8]);

impl Registers for Answers<'_> {
    fn read32(&mut self, at: At) -> io::Result<Word> {
        assert!(at.offset().is_multiple_of(4), "{at}");
        let Some((word, rest)) = self.0.split_first_chunk() else { return Ok(Word::AllOnes) };
        self.0 = rest;
        Ok(Word::of(u32::from_le_bytes(*word)))
    }

    fn write32(&mut self, at: At, _: u32) -> io::Result<()> {
        assert!(at.offset().is_multiple_of(4), "{at}");
        Ok(())
    }

    fn reset(&mut self, _: ResetKind) -> io::Result<()> {
        Ok(())
    }
}

/// The firmware's replies over both transports.
pub(super) fn firmware_replies(input: &[u8]) {
    for family in [Family::Hopper, Family::Blackwell1] {
        runtime().block_on(async {
            let (mut answers, mut waited) = (Answers(input), Waited::default());
            let Ok(mut fsp) = Fsp::open(&mut answers, family, &mut waited).await else { return };
            let _ = fsp.read_knob(Knob::CCM).await;
            let _ = fsp.write_knob(Knob::CCM, 1).await;
        });
    }
}

/// A device's folder: the contents of its files, with a zero byte between two.
pub(super) fn sysfs(input: &[u8]) {
    const FILES: [&str; 7] =
        ["vendor", "class", "device", "subsystem_device", "resource", "numa_node", "reset_method"];
    let Ok(root) = tempfile::tempdir() else { return };
    let device = root.path().join("bus/pci/devices/0000:41:00.0");
    let contents = input.split(|byte| *byte == 0);
    let written = std::fs::create_dir_all(&device).and_then(|()| {
        FILES.iter().zip(contents).try_for_each(|(name, content)| std::fs::write(device.join(name), content))
    });
    if written.is_ok() {
        let found = Sysfs::new(root.path()).discover();
        for function in found.iter().flat_map(|found| &found.functions) {
            let _ = (function.reset_kind(), function.vfio_device_node(Path::new("/dev")));
            assert!(function.bars.len() <= 6, "{function:?}");
        }
    }
}

/// A record of quarantine: unreadable is not free.
pub(super) fn quarantine(input: &[u8]) {
    let (dir, path) = file(input);
    let gpu = some_gpu();
    if std::fs::rename(path, dir.path().join(format!("{gpu}.quarantine.json"))).is_ok() {
        assert!(!matches!(Quarantine::new(dir.path()).of(gpu), Ok(None)));
    }
}

/// The name in a lock that somebody has: short, whatever the file holds.
pub(super) fn lock(input: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let gpu = some_gpu();
    let Ok(_lock) = runtime().block_on(GpuLock::take(dir.path(), gpu, "sandbox")) else { return };
    let Ok(mut entries) = std::fs::read_dir(dir.path()) else { return };
    if let Some(Ok(entry)) = entries.next()
        && std::fs::write(entry.path(), input).is_ok()
        && let Ok(name) = holder(dir.path(), gpu)
    {
        let name = name.unwrap_or_else(|| panic!("GPU {gpu} is held, and said to be free"));
        assert!(name.len() <= 3 * 256, "{name:?}");
    }
}
