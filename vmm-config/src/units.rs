//! Sizes, counts and names that both the configuration and the VM use, each with its range.

use std::fmt;

/// Bytes in one MiB, the unit of every memory size that people type.
const MIB: u64 = 1 << 20;

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemorySize(u64);

impl MemorySize {
    /// No memory at all.
    pub const ZERO: Self = Self(0);

    /// From bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// From MiB; a number too large for bytes becomes the largest size.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(MIB))
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In MiB, rounded up.
    pub const fn mib(self) -> u64 {
        self.0.div_ceil(MIB)
    }

    /// The sum, or the largest size where it does not fit.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Rounded up to a multiple of 2 MiB, the size of an x86 huge page.
    pub(crate) const fn to_huge_pages(self) -> Self {
        const PAGE: u64 = 2 * MIB;
        Self(self.0.div_ceil(PAGE).saturating_mul(PAGE))
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.mib())
    }
}

/// Memory of a VM: 128 MiB (below it the guest's kernel, agent and firmware do not fit) to 16 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmMemory(MemorySize);

impl VmMemory {
    /// The least a VM can have.
    pub const MIN: MemorySize = MemorySize::from_mib(128);
    /// The most a VM can have.
    pub const MAX: MemorySize = MemorySize::from_mib(16 << 20);
    /// What a pod without a memory limit gets: 2 GiB, which QEMU only takes as the guest touches it.
    pub const DEFAULT: Self = Self(MemorySize::from_mib(2048));

    /// Rounds up to whole huge pages and checks the range.
    ///
    /// # Errors
    /// [`OutOfRange`] with the limits.
    pub fn new(size: MemorySize) -> Result<Self, OutOfRange> {
        let rounded = size.to_huge_pages();
        if rounded < Self::MIN || rounded > Self::MAX {
            return Err(OutOfRange {
                given: size.mib(),
                min: Self::MIN.mib(),
                max: Self::MAX.mib(),
                unit: " MiB of memory",
            });
        }
        Ok(Self(rounded))
    }

    /// The size.
    pub const fn size(self) -> MemorySize {
        self.0
    }
}

impl fmt::Display for VmMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of virtual CPUs, 1 to 255: more needs 32-bit APIC ids and with them a virtual IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vcpus(u8);

impl Vcpus {
    /// One CPU.
    pub const ONE: Self = Self(1);

    /// Checks the range.
    ///
    /// # Errors
    /// [`OutOfRange`] with the limits.
    pub fn new(count: u64) -> Result<Self, OutOfRange> {
        match u8::try_from(count) {
            Ok(n) if n > 0 => Ok(Self(n)),
            _ => Err(OutOfRange { given: count, min: 1, max: u64::from(u8::MAX), unit: " vCPUs" }),
        }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Vcpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that is outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given}{unit} is outside {min}..={max}")]
pub struct OutOfRange {
    /// What was given.
    pub given: u64,
    /// Least allowed value.
    pub min: u64,
    /// Largest allowed value.
    pub max: u64,
    /// What is counted, as it reads behind the number.
    pub unit: &'static str,
}

/// Name of a VM: the sandbox id, as QEMU shows it in the process list.
///
/// Containerd's own rule for identifiers: 1 to 76 letters, digits and inner `.`, `_`, `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VmName(String);

impl VmName {
    const MAX_LEN: usize = 76;

    /// Checks the characters and the length.
    ///
    /// # Errors
    /// [`BadName`] if it is no identifier.
    pub fn new(name: &str) -> Result<Self, BadName> {
        let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        let good = bytes.len() <= Self::MAX_LEN
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().copied().all(inner);
        if good { Ok(Self(name.to_owned())) } else { Err(BadName(name.chars().take(100).collect())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name that is no containerd identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no sandbox id: use 1 to 76 letters, digits and inner '.', '_', '-'")]
pub struct BadName(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_rounds_up_to_huge_pages() {
        assert_eq!(VmMemory::new(MemorySize::from_bytes((129 << 20) + 1)).unwrap().size().mib(), 130);
        assert_eq!(VmMemory::new(VmMemory::MIN).unwrap().size(), VmMemory::MIN);
        assert_eq!(VmMemory::new(VmMemory::MAX).unwrap().size(), VmMemory::MAX);
    }

    #[test]
    fn memory_outside_the_range_names_the_limits() {
        let small = VmMemory::new(MemorySize::from_mib(64)).unwrap_err();
        assert_eq!(small.to_string(), "64 MiB of memory is outside 128..=16777216");
        assert!(VmMemory::new(MemorySize::from_bytes(u64::MAX)).is_err());
    }

    #[test]
    fn vcpus_are_1_to_255() {
        assert_eq!(Vcpus::new(255).unwrap().get(), 255);
        assert_eq!(Vcpus::new(0).unwrap_err().to_string(), "0 vCPUs is outside 1..=255");
        assert!(Vcpus::new(256).is_err());
        assert!(Vcpus::new(u64::MAX).is_err());
    }

    #[test]
    fn names_are_containerd_identifiers() {
        for good in ["a", "pod-1", "0f".repeat(32).as_str(), "a.b_c"] {
            assert_eq!(VmName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "a,b", "a b", "../x", "a\n", "a".repeat(77).as_str(), "é"] {
            assert!(VmName::new(bad).is_err(), "{bad:?}");
        }
    }
}
