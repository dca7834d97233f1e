//! The table of kernel hashes that QEMU puts into the guest's memory (QEMU, `target/i386/sev.c`).

use super::PAGE;
use crate::{Cmdline, Guid, Sha256Digest};

const TABLE: Guid = Guid::new(0x9438_d606, 0x4f22, 0x4cc9, [0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21]);
const CMDLINE: Guid =
    Guid::new(0x97d0_2dd8, 0xbd20, 0x4c94, [0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a]);
const INITRD: Guid = Guid::new(0x44ba_f731, 0x3a2f, 0x4bd7, [0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d]);
const KERNEL: Guid = Guid::new(0x4de7_9437, 0xabd2, 0x427f, [0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b]);

/// GUID, length, SHA-256.
const ENTRY: u16 = 16 + 2 + 32;
/// GUID, length, three entries.
const LENGTH: u16 = 16 + 2 + 3 * ENTRY;

/// SHA-256 of what QEMU boots directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelHashes {
    /// Of the kernel's file.
    pub kernel: Sha256Digest,
    /// Of the initrd's file; of nothing when there is none.
    pub initrd: Sha256Digest,
    /// Of the command line with its trailing NUL.
    pub cmdline: Sha256Digest,
}

pub(super) fn of(kernel: &[u8], initrd: &[u8], cmdline: Cmdline<'_>) -> KernelHashes {
    KernelHashes {
        kernel: Sha256Digest::of(kernel),
        initrd: Sha256Digest::of(initrd),
        cmdline: Sha256Digest::of(&[cmdline.as_str().as_bytes(), &[0]].concat()),
    }
}

impl KernelHashes {
    /// The page with the table at `offset`, of which the firmware's metadata says that the table fits there.
    pub(super) fn page(&self, offset: usize) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        for (to, from) in page.iter_mut().skip(offset).zip(self.table()) {
            *to = from;
        }
        page
    }

    fn table(&self) -> Vec<u8> {
        let mut table = Vec::with_capacity(usize::from(LENGTH));
        table.extend(TABLE.as_bytes());
        table.extend(LENGTH.to_le_bytes());
        for (guid, hash) in [(CMDLINE, self.cmdline), (INITRD, self.initrd), (KERNEL, self.kernel)] {
            table.extend(guid.as_bytes());
            table.extend(ENTRY.to_le_bytes());
            table.extend(hash.as_bytes());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_its_length_and_order() {
        let hashes = of(b"kernel", b"", Cmdline::new("x").unwrap());
        let page = hashes.page(0xc00);
        assert!(page[..0xc00].iter().all(|b| *b == 0));
        let table = &page[0xc00..];
        assert_eq!(table[..16], *TABLE.as_bytes());
        assert_eq!(table[16..18], 168_u16.to_le_bytes());
        assert_eq!(table[18 + 18..18 + 50], *Sha256Digest::of(b"x\0").as_bytes());
        assert_eq!(table[68 + 18..68 + 50], *Sha256Digest::of(b"").as_bytes());
        assert_eq!(table[118 + 18..168], *Sha256Digest::of(b"kernel").as_bytes());
        assert!(table[168..].iter().all(|b| *b == 0));
    }
}
