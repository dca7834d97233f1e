//! The ACPI tables as QEMU hands them to the firmware: files of fw_cfg, and the script that puts them together.
//!
//! Sources: QEMU, `hw/acpi/bios-linker-loader.c` (the script); edk2, `OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c`
//! (what is measured: the script, then each file at its allocation, before anything in it is changed).

use std::collections::BTreeMap;

use super::log::Event;
use super::rtmr0::Rtmr0Error;
use crate::bytes::u32_at;

/// Name of the script in fw_cfg.
pub const TABLE_LOADER: &str = "etc/table-loader";

/// Bytes of a command, and of a file's name in it.
const COMMAND: usize = 128;
const NAME: usize = 56;
/// The command that reads a file into memory.
const ALLOCATE: u32 = 1;

/// Files of fw_cfg by name, with the bytes that the firmware reads.
pub type FwCfgFiles = BTreeMap<String, Vec<u8>>;

/// The names of the files that the script reads, in its order.
///
/// # Errors
/// A script that is not whole commands, names no file, or names one with something else than a name.
pub fn acpi_files(script: &[u8]) -> Result<Vec<&str>, Rtmr0Error> {
    if !script.len().is_multiple_of(COMMAND) {
        return Err(Rtmr0Error::ScriptSize(script.len()));
    }
    let allocations = script
        .chunks_exact(COMMAND)
        .enumerate()
        .filter(|(_, command)| u32_at(command, 0) == Some(ALLOCATE))
        .map(|(index, command)| {
            let name = command[4..4 + NAME].split(|byte| *byte == 0).next().unwrap_or_default();
            let name = str::from_utf8(name).ok().filter(|name| (1..NAME).contains(&name.len()));
            name.ok_or(Rtmr0Error::ScriptName(index))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if allocations.is_empty() {
        return Err(Rtmr0Error::NoAllocation);
    }
    Ok(allocations)
}

/// The events of all files, the script first.
pub(super) fn events(files: &FwCfgFiles) -> Result<Vec<Event>, Rtmr0Error> {
    let content = |name: &str| files.get(name).ok_or_else(|| Rtmr0Error::NoFile(name.to_owned()));
    let script = content(TABLE_LOADER)?;
    let mut events = vec![Event::of("ACPI: etc/table-loader", script)];
    for name in acpi_files(script)? {
        let label = match name {
            "etc/acpi/rsdp" => "ACPI: etc/acpi/rsdp",
            "etc/acpi/tables" => "ACPI: etc/acpi/tables",
            _ => "ACPI: another file of the script",
        };
        events.push(Event::of(label, content(name)?));
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command(kind: u32, name: &[u8]) -> Vec<u8> {
        let mut command = kind.to_le_bytes().to_vec();
        command.extend(name);
        command.resize(COMMAND, 0);
        command
    }

    #[test]
    fn files_come_in_the_order_of_the_script() {
        let script =
            [command(1, b"etc/b"), command(2, b"etc/x"), command(1, b"etc/a"), command(9, b"")].concat();
        assert_eq!(acpi_files(&script).unwrap(), ["etc/b", "etc/a"]);
        let files = |script: &[u8], names: &[&str]| {
            let files = names.iter().map(|name| ((*name).to_owned(), name.as_bytes().to_vec()));
            files.chain([(TABLE_LOADER.to_owned(), script.to_vec())]).collect::<FwCfgFiles>()
        };
        let digests: Vec<_> =
            events(&files(&script, &["etc/a", "etc/b"])).unwrap().iter().map(|e| e.digest).collect();
        assert_eq!(digests, [&script[..], b"etc/b", b"etc/a"].map(crate::Sha384Digest::of));
        assert_eq!(events(&files(&script, &["etc/a"])), Err(Rtmr0Error::NoFile("etc/b".to_owned())));
        assert_eq!(events(&FwCfgFiles::new()), Err(Rtmr0Error::NoFile(TABLE_LOADER.to_owned())));
    }

    #[test]
    fn scripts_that_no_qemu_writes() {
        assert_eq!(acpi_files(&[0; 129]), Err(Rtmr0Error::ScriptSize(129)));
        assert_eq!(acpi_files(b""), Err(Rtmr0Error::NoAllocation));
        assert_eq!(acpi_files(&command(2, b"etc/x")), Err(Rtmr0Error::NoAllocation));
        for name in [&b""[..], &[b'x'; NAME], b"\xff"] {
            assert_eq!(acpi_files(&command(1, name)), Err(Rtmr0Error::ScriptName(0)));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_scripts_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = acpi_files(&bytes);
        }
    }
}
