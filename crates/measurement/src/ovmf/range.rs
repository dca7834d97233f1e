//! Ranges of the guest's memory in whole pages.

use std::fmt;

use super::PAGE;

/// Whole pages of guest physical memory; the end does not wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageRange {
    start: u64,
    size: u64,
}

impl PageRange {
    /// Highest end: 52 bits, the most that x86 addresses have.
    const LIMIT: u64 = 1 << 52;

    /// From address and size in bytes; `None` unless both are whole pages and the end is an address.
    pub fn new(start: u64, size: u64) -> Option<Self> {
        let whole = |value: u64| value.is_multiple_of(PAGE as u64);
        let end = start.checked_add(size)?;
        (whole(start) && whole(size) && end <= Self::LIMIT).then_some(Self { start, size })
    }

    /// Address of the first byte.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Address after the last byte.
    pub const fn end(&self) -> u64 {
        self.start + self.size
    }

    /// The pages' addresses.
    pub fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        (self.start..self.end()).step_by(PAGE)
    }

    /// Whether a byte belongs to both.
    pub(crate) const fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end() && self.size > 0 && other.size > 0
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.start, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, size: u64) -> PageRange {
        PageRange::new(start, size).unwrap()
    }

    #[test]
    fn only_whole_pages_within_52_bits() {
        for (start, size) in [(1, 0x1000), (0x1000, 1), (u64::MAX - 0xfff, 0x1000), (1 << 52, 0x1000)] {
            assert_eq!(PageRange::new(start, size), None, "{start:#x}+{size:#x}");
        }
        assert_eq!(range(0x2000, 0x2000).pages().collect::<Vec<_>>(), [0x2000, 0x3000]);
        assert_eq!(range(0x2000, 0).pages().count(), 0);
    }

    #[test]
    fn neighbours_and_empty_ranges_do_not_overlap() {
        let a = range(0x2000, 0x2000);
        assert!(!a.overlaps(&range(0x4000, 0x1000)) && !a.overlaps(&range(0x1000, 0x1000)));
        assert!(!a.overlaps(&range(0x3000, 0)) && !range(0x3000, 0).overlaps(&a));
        assert!(a.overlaps(&range(0x3000, 0x1000)) && a.overlaps(&range(0, 0x10000)) && a.overlaps(&a));
    }
}
