//! What can be wrong with a firmware image.

use std::fmt;

use super::{MAX_COVERED, MAX_FIRMWARE, MAX_SECTIONS, PAGE, PageRange};
use crate::Guid;

/// What is wrong with a firmware image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    /// Not a firmware's size.
    #[error(
        "the firmware has {0} bytes; it must be whole pages of {PAGE}, at least one and at most {MAX_FIRMWARE} bytes"
    )]
    Size(usize),
    /// The table would begin before the image.
    #[error("the table's footer says {length} bytes, and there are {room} before its end")]
    TableLength {
        /// What the footer says, in bytes.
        length: u16,
        /// What is there, in bytes.
        room: usize,
    },
    /// An entry does not fit into what is left of the table.
    #[error(
        "the table's entry that ends at offset {end:#x} says {length} bytes, and {room} are left of the table"
    )]
    EntryLength {
        /// Offset in the image after the entry.
        end: usize,
        /// What the entry says, in bytes.
        length: u16,
        /// What is left, in bytes.
        room: usize,
    },
    /// The table has bytes that are no entry.
    #[error("the table begins with {0} bytes that are no entry")]
    TableRest(usize),
    /// Two entries have the same GUID, and readers differ in which they take.
    #[error("the table has two entries {0}")]
    DuplicateEntry(Guid),
    /// An entry's data has another size than its kind has.
    #[error("the table's entry {guid} has {length} bytes of data, and must have {expected}")]
    EntrySize {
        /// The entry.
        guid: Guid,
        /// What it has, in bytes.
        length: usize,
        /// What it must have, in bytes.
        expected: usize,
    },
    /// A metadata list is wrong.
    #[error("{metadata} metadata: {problem}")]
    Metadata {
        /// Which list.
        metadata: Metadata,
        /// What is wrong with it.
        problem: MetadataProblem,
    },
}

/// One of the metadata lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// For SEV-SNP.
    Sev,
    /// For TDX.
    Tdvf,
}

impl fmt::Display for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sev => "SEV",
            Self::Tdvf => "TDVF",
        })
    }
}

/// What is wrong with a metadata list. Sections are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataProblem {
    /// The list, or a part of it, is not in the image.
    #[error("it is said to be {0:#x} bytes before the image's end, where it does not fit")]
    Place(u32),
    /// The list does not begin with its four letters.
    #[error("it does not begin with its signature")]
    Signature,
    /// A version other than 1.
    #[error("its version is {0}, and only 1 is known")]
    Version(u32),
    /// None, or absurdly many.
    #[error("it has {0} sections; there must be 1 to {MAX_SECTIONS}")]
    Count(u32),
    /// Its length is not that of its sections.
    #[error("it says {length} bytes, and its {count} sections take {expected}")]
    Length {
        /// What it says, in bytes.
        length: u32,
        /// Number of sections.
        count: u32,
        /// What they take with the header, in bytes.
        expected: usize,
    },
    /// A section's kind is not known.
    #[error("section {section} has type {kind:#x}, which is not known")]
    Kind {
        /// Which section.
        section: usize,
        /// Its type.
        kind: u32,
    },
    /// A section's memory is not whole pages, or leaves the address space.
    #[error("section {section} is at {start:#x}+{size:#x}; that is not whole pages of guest memory")]
    Pages {
        /// Which section.
        section: usize,
        /// Guest address.
        start: u64,
        /// Size in bytes.
        size: u64,
    },
    /// A section that must be one page is not.
    #[error("section {section} is at {range}, and must be exactly one page")]
    OnePage {
        /// Which section.
        section: usize,
        /// Where it is.
        range: PageRange,
    },
    /// Two sections want the same memory.
    #[error("sections {first} and {second} overlap")]
    Overlap {
        /// One of them.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A section wants the memory of the firmware itself.
    #[error("section {section} is at {range}, inside the firmware's own memory")]
    OverFirmware {
        /// Which section.
        section: usize,
        /// Where it is.
        range: PageRange,
    },
    /// A section that may be there once is there twice.
    #[error("sections {first} and {second} are of a kind that may be there once")]
    Twice {
        /// One of them.
        first: usize,
        /// The other.
        second: usize,
    },
    /// Absurdly much memory.
    #[error("its sections cover {0} bytes of memory, and may cover {MAX_COVERED}")]
    Covered(u64),
    /// The table of kernel hashes is outside its page.
    #[error("the kernel hash table is at {base:#x}+{size:#x}, outside its page at {page}")]
    HashTable {
        /// Guest address.
        base: u32,
        /// Size in bytes.
        size: u32,
        /// The page that the list names.
        page: PageRange,
    },
    /// A page for kernel hashes, and no place in it for them.
    #[error("there is a page for kernel hashes, but the firmware's table does not say where in it they go")]
    NoHashTable,
    /// A section's data is not in the image.
    #[error("section {section} takes its data from {offset:#x}+{size:#x}, which is not in the image")]
    Data {
        /// Which section.
        section: usize,
        /// Offset in the image.
        offset: u32,
        /// Size in bytes.
        size: u32,
    },
    /// A section has data and must not, or the other way round, or more than its memory.
    #[error(
        "section {section} has {data} bytes of data for {memory} bytes of memory, which its type cannot have"
    )]
    DataSize {
        /// Which section.
        section: usize,
        /// Size of the data in bytes.
        data: u32,
        /// Size of the memory in bytes.
        memory: u64,
    },
    /// A section's attributes are not known, or contradict each other or its data.
    #[error("section {section} has attributes {attributes:#x}, which its type cannot have")]
    Attributes {
        /// Which section.
        section: usize,
        /// Its attributes.
        attributes: u32,
    },
    /// No section is measured, so that the digest would say nothing about the firmware.
    #[error("no section of it is measured")]
    NothingMeasured,
}
