//! The Authenticode digest of a PE image, in the steps of edk2 (`OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c`).
//!
//! It covers the headers but for checksum and certificate table, the sections in file order, and what follows
//! them but for the certificates. Unlike signing tools, edk2 does not pad the file to 8 bytes.

use sha2::{Digest as _, Sha384};

use crate::Sha384Digest;
use crate::bytes::{array_at, range_at, u16_at, u32_at};

/// Offset in a DOS header of the PE header's offset.
const LFANEW: usize = 0x3c;
/// Signature and COFF header.
const COFF: usize = 4 + 20;
const SECTION: usize = 40;
const MACHINE_X86_64: u16 = 0x8664;
const MAGIC_PE32_PLUS: u16 = 0x20b;

// Offsets in the optional header of PE32+.
const SIZE_OF_HEADERS: usize = 60;
const CHECKSUM: usize = 64;
const DIRECTORY_COUNT: usize = 108;
const DIRECTORIES: usize = 112;

/// Index of the certificate table among the directories.
const CERTIFICATES: u32 = 4;

/// Why a file is no image that the firmware would start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    /// Something is missing.
    #[error("it is no PE image: {0} is not there; is this a bzImage with CONFIG_EFI_STUB?")]
    NoPe(&'static str),
    /// It is for other machines.
    #[error("it is a PE image for machine {machine:#x} with magic {magic:#x}, and not one for x86-64")]
    Machine {
        /// Machine of the COFF header.
        machine: u16,
        /// Magic of the optional header.
        magic: u16,
    },
    /// The headers' size is not between their end and the file's.
    #[error("its headers are said to have {0} bytes")]
    HeaderSize(u32),
    /// A section is not in the file, or in something else.
    #[error(
        "section {section} is said to be {offset:#x}+{size:#x} of the file, outside it or in another part"
    )]
    Section {
        /// Which section, counted from 0 in file order.
        section: usize,
        /// Offset in the file.
        offset: u32,
        /// Size in bytes.
        size: u32,
    },
    /// The certificates are larger than what follows the sections.
    #[error("its certificates are said to have {size} bytes, and {room} follow the sections")]
    Certificates {
        /// What the header says, in bytes.
        size: u32,
        /// What is there, in bytes.
        room: usize,
    },
}

/// The Authenticode digest of `image`.
pub(super) fn authenticode_sha384(image: &[u8]) -> Result<Sha384Digest, PeError> {
    let header = Header::parse(image)?;
    let mut hash = Sha384::new();
    hash.update(&image[..header.checksum]);
    match header.certificates {
        Some(Certificates { entry, .. }) => {
            hash.update(&image[header.checksum + 4..entry]);
            hash.update(&image[entry + 8..header.size]);
        }
        None => hash.update(&image[header.checksum + 4..header.size]),
    }

    // Sections neither overlap nor reach into the headers, so the sum stays within the file.
    let (mut hashed, mut end) = (header.size, header.size);
    for (section, &(offset, size)) in header.sections.iter().enumerate() {
        let start = usize::try_from(offset).ok().filter(|start| *start >= end);
        let data = start.and_then(|start| Some((start, range_at(image, offset, size)?)));
        let (start, data) = data.ok_or(PeError::Section { section, offset, size })?;
        hash.update(data);
        hashed += data.len();
        end = start + data.len();
    }

    // As edk2, from the sum of what was hashed on: where sections leave gaps, that is not the last one's end.
    let rest = &image[hashed..];
    let size = header.certificates.map_or(0, |c| c.size);
    let covered = usize::try_from(size).ok().and_then(|size| rest.len().checked_sub(size));
    hash.update(&rest[..covered.ok_or(PeError::Certificates { size, room: rest.len() })?]);
    Ok(Sha384Digest::finish(hash))
}

/// The certificate table's entry among the directories.
#[derive(Debug, Clone, Copy)]
struct Certificates {
    /// Offset of the entry, in the file.
    entry: usize,
    /// Size of the certificates in bytes.
    size: u32,
}

/// What the digest needs of the headers, with all offsets inside the image and in ascending order.
#[derive(Debug)]
struct Header {
    /// Size of all headers in bytes.
    size: usize,
    /// Offset of the checksum.
    checksum: usize,
    certificates: Option<Certificates>,
    /// Offset and size of each section with data, in file order.
    sections: Vec<(u32, u32)>,
}

impl Header {
    fn parse(image: &[u8]) -> Result<Self, PeError> {
        let missing = |what| move || PeError::NoPe(what);
        if !image.starts_with(b"MZ") {
            return Err(PeError::NoPe("the DOS header"));
        }
        let pe = u32_at(image, LFANEW).and_then(|at| usize::try_from(at).ok());
        let pe =
            pe.filter(|at| array_at(image, *at) == Some(*b"PE\0\0")).ok_or_else(missing("the PE header"))?;
        let coff = |offset| u16_at(image, pe + offset).ok_or_else(missing("the COFF header"));
        let (machine, count, optional_size) = (coff(4)?, usize::from(coff(6)?), usize::from(coff(20)?));

        let optional = pe + COFF;
        let field = |offset| u32_at(image, optional + offset).ok_or_else(missing("the optional header"));
        let magic = u16_at(image, optional).ok_or_else(missing("the optional header"))?;
        if machine != MACHINE_X86_64 || magic != MAGIC_PE32_PLUS {
            return Err(PeError::Machine { machine, magic });
        }
        let size = field(SIZE_OF_HEADERS)?;
        let certificates = if field(DIRECTORY_COUNT)? > CERTIFICATES {
            let entry = DIRECTORIES + 8 * CERTIFICATES as usize;
            Some(Certificates { entry: optional + entry, size: field(entry + 4)? })
        } else {
            None
        };

        let table = optional + optional_size;
        let table_end = table + count * SECTION;
        let needed = certificates.map_or(optional + DIRECTORIES, |c| c.entry + 8).max(table_end);
        let size = usize::try_from(size)
            .ok()
            .filter(|size| (needed..=image.len()).contains(size))
            .ok_or(PeError::HeaderSize(size))?;
        let raw = image[table..table_end].chunks_exact(SECTION);
        let mut sections: Vec<_> = raw
            .filter_map(|raw| Some((u32_at(raw, 20)?, u32_at(raw, 16)?)))
            .filter(|(_, size)| *size > 0)
            .collect();
        sections.sort_unstable();
        Ok(Self { size, checksum: optional + CHECKSUM, certificates, sections })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PE: usize = 0x80;
    const OPTIONAL: usize = PE + COFF;
    const HEADERS: usize = 0x200;

    /// A PE image of two sections, the second first in the table, some data after them, and certificates.
    fn image(after: usize, certificates: usize) -> Vec<u8> {
        let mut image: Vec<u8> = (0..0x800 + after + certificates).map(|i| i.to_le_bytes()[0]).collect();
        image[..HEADERS].fill(0);
        put(&mut image, 0, b"MZ");
        put(&mut image, LFANEW, &[0x80]);
        put(&mut image, PE, b"PE\0\0");
        put(&mut image, PE + 4, &MACHINE_X86_64.to_le_bytes());
        put(&mut image, PE + 6, &[3]);
        put(&mut image, PE + 20, &[160]);
        put(&mut image, OPTIONAL, &MAGIC_PE32_PLUS.to_le_bytes());
        put(&mut image, OPTIONAL + SIZE_OF_HEADERS, &[0, 2]);
        put(&mut image, OPTIONAL + CHECKSUM, b"SUM!");
        put(&mut image, OPTIONAL + DIRECTORY_COUNT, &[6]);
        let certificates = u32::try_from(certificates).unwrap().to_le_bytes();
        put(&mut image, OPTIONAL + DIRECTORIES + 36, &certificates);
        for (i, (offset, size)) in [(0x500_u32, 0x300_u32), (0x200, 0x300), (0, 0)].into_iter().enumerate() {
            let entry = OPTIONAL + 160 + i * SECTION;
            put(&mut image, entry + 16, &size.to_le_bytes());
            put(&mut image, entry + 20, &offset.to_le_bytes());
        }
        image
    }

    fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn everything_but_checksum_and_certificates_is_covered() {
        let (checksum, entry) = (OPTIONAL + CHECKSUM, OPTIONAL + DIRECTORIES + 32);
        for (after, certificates) in [(0, 0), (13, 0), (0, 24), (5, 24)] {
            let image = image(after, certificates);
            let covered = &image[..0x800 + after];
            let expected =
                [&covered[..checksum], &covered[checksum + 4..entry], &covered[entry + 8..]].concat();
            assert_eq!(authenticode_sha384(&image), Ok(Sha384Digest::of(&expected)));
        }
    }

    /// osslsigncode 2.9 (`extract-data -h sha384`) on both images, and dstack-mr of 2026-08-07 on the first. On the
    /// second, dstack-mr leaves out what follows the sections, which edk2 and osslsigncode do not.
    #[test]
    fn other_tools_agree() {
        for (after, expected) in [
            (
                0,
                "0e69ed27f633e27e67e120ff0b0d8c9f37e7b2ab37379c94eaa84019167d3e8125a5352f8df78d19d1f5be95b6e6c99a",
            ),
            (
                16,
                "661cbac46d66f374765f8b5797e7371bcc9eea646126a40e702f2ab51d0f8580c4d3d52c94d79012f725c6e8c387dd92",
            ),
        ] {
            assert_eq!(authenticode_sha384(&image(after, 0)).unwrap().to_string(), expected);
        }
        let rtmr1 = super::super::rtmr1(&image(0, 0)).unwrap().value();
        let expected = "df6abdd9c5df99558a15d8642436640f32718d3ced227ec140e1fb918137b5ab88a203292094462e7b844514d586e242";
        assert_eq!(rtmr1.to_string(), expected);
    }

    #[test]
    fn without_a_certificate_directory_its_place_is_covered() {
        let mut image = image(0, 0);
        put(&mut image, OPTIONAL + DIRECTORY_COUNT, &[4]);
        put(&mut image, OPTIONAL + DIRECTORIES + 32, b"anything");
        let checksum = OPTIONAL + CHECKSUM;
        let expected = [&image[..checksum], &image[checksum + 4..]].concat();
        assert_eq!(authenticode_sha384(&image), Ok(Sha384Digest::of(&expected)));
    }

    #[test]
    fn what_the_firmware_would_not_start() {
        let changed = |at, bytes: &[u8]| {
            let mut image = image(0, 16);
            put(&mut image, at, bytes);
            authenticode_sha384(&image).unwrap_err()
        };
        assert_eq!(changed(0, b"ZM"), PeError::NoPe("the DOS header"));
        assert_eq!(changed(LFANEW, &[0xff; 4]), PeError::NoPe("the PE header"));
        assert_eq!(changed(PE + 4, &[0x64, 0xaa]), PeError::Machine { machine: 0xaa64, magic: 0x20b });
        assert_eq!(changed(OPTIONAL, &[0x0b, 1]), PeError::Machine { machine: 0x8664, magic: 0x10b });
        assert_eq!(changed(OPTIONAL + SIZE_OF_HEADERS, &[0, 1]), PeError::HeaderSize(0x100));
        assert_eq!(changed(OPTIONAL + SIZE_OF_HEADERS, &[0, 0, 1]), PeError::HeaderSize(0x10000));
        assert_eq!(changed(PE + 6, &[0xff, 0xff]), PeError::HeaderSize(0x200));
        let section = |section, offset, size| PeError::Section { section, offset, size };
        let second = OPTIONAL + 160 + SECTION;
        assert_eq!(changed(second + 20, &[0, 1]), section(0, 0x100, 0x300));
        assert_eq!(changed(second + 20, &[0, 3]), section(1, 0x500, 0x300));
        assert_eq!(changed(second + 19, &[0xff]), section(0, 0x200, 0xff00_0300));
        let certificates = changed(OPTIONAL + DIRECTORIES + 36, &[17]);
        assert_eq!(certificates, PeError::Certificates { size: 17, room: 16 });
        assert_eq!(authenticode_sha384(b""), Err(PeError::NoPe("the DOS header")));
        assert_eq!(
            authenticode_sha384(&image(0, 0)[..OPTIONAL + 1]),
            Err(PeError::NoPe("the optional header"))
        );
    }

    proptest! {
        #[test]
        fn damaged_images_never_panic(
            damage in proptest::collection::vec((0_usize..HEADERS, any::<u8>()), 1..6),
            length in 0_usize..0x830,
        ) {
            let mut image = image(8, 16);
            for (at, byte) in damage {
                image[at] = byte;
            }
            let _ = authenticode_sha384(&image);
            image.truncate(length);
            let _ = authenticode_sha384(&image);
        }
    }
}
