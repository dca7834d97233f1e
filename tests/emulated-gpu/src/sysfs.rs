//! A GPU as the kernel shows it, for the files of a sysfs in a folder.

use std::path::Path;
use std::{fs, io};

use crate::{Faults, IdentityFault, Product};

/// Three 64-bit BARs, each followed by the line of its upper half.
const RESOURCE: &str = "\
0x00000000fd000000 0x00000000fdffffff 0x0000000000140204
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000002000000000 0x0000003fffffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000004000000000 0x0000004001ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
";

/// Writes the files of an H100 SXM5's function into its folder, which must exist.
///
/// # Errors
/// The file system's.
pub fn write_h100(folder: &Path) -> io::Result<()> {
    write(folder, Product::H100)
}

/// Writes the files of a GPU's function into its folder, which must exist; the BARs are an H100's.
///
/// # Errors
/// The file system's.
pub fn write(folder: &Path, product: Product) -> io::Result<()> {
    let device = format!("{:#06x}\n", product.device_id());
    for (name, text) in [
        ("vendor", "0x10de\n"),
        ("device", device.as_str()),
        ("class", "0x030200\n"),
        ("subsystem_device", "0x16c1\n"),
        ("resource", RESOURCE),
        ("numa_node", "-1\n"),
    ] {
        fs::write(folder.join(name), text)?;
    }
    show_faults(folder, &Faults::default())
}

/// Writes what the kernel reads from the device itself when somebody asks, which a file of a folder cannot: `config`, here
/// only the ids, an H100's. A device off its bus reads as all-ones there.
///
/// # Errors
/// The file system's.
pub fn show_faults(folder: &Path, faults: &Faults) -> io::Result<()> {
    let ids = match faults.identity {
        Some(IdentityFault::Gone) => [0xff; 4],
        _ => [0xde, 0x10, 0x30, 0x23],
    };
    fs::write(folder.join("config"), ids)
}
