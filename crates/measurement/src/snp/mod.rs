//! The SEV-SNP launch digest of a guest started by QEMU and KVM.
//!
//! The digest is a chain over pages: the firmware, then what its SEV metadata lists, then the register state
//! (VMSA) of each vCPU. It covers neither memory size nor devices nor ACPI tables. Sources: AMD, "SEV Secure
//! Nested Paging Firmware ABI Specification" (56860), 8.17.2; QEMU, `target/i386/sev.c`.

mod cpu;
mod hashes;
pub mod id_block;
mod pages;
mod vmsa;

use std::fmt;
use std::str::FromStr;

pub use self::cpu::{CpuSignature, UnknownCpu};
pub use self::hashes::KernelHashes;
use self::pages::PageChain;
use crate::ovmf::{Firmware, FirmwareError, PAGE, PageRange, SevMetadata, SevSectionKind};
use crate::{Cmdline, Sha384Digest, digest};

digest::register! {
    /// The launch digest, `MEASUREMENT` of an attestation report.
    LaunchDigest
}

impl LaunchDigest {
    /// A digest from elsewhere, as the launch digest that it is said to be.
    pub const fn from_digest(digest: Sha384Digest) -> Self {
        Self(digest)
    }
}

/// Number of vCPUs, 1 to 4096, which is the most that QEMU's q35 machine takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuCount(u16);

/// A number of vCPUs that no guest can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a guest has 1 to {} vCPUs", VcpuCount::MAX)]
pub struct NoVcpuCount;

impl VcpuCount {
    /// The most.
    pub const MAX: u16 = 4096;

    /// Checks the range.
    ///
    /// # Errors
    /// [`NoVcpuCount`] outside it.
    pub const fn new(count: u16) -> Result<Self, NoVcpuCount> {
        match count {
            1..=Self::MAX => Ok(Self(count)),
            _ => Err(NoVcpuCount),
        }
    }
}

impl FromStr for VcpuCount {
    type Err = NoVcpuCount;

    fn from_str(text: &str) -> Result<Self, NoVcpuCount> {
        text.parse().map_err(|_| NoVcpuCount).and_then(Self::new)
    }
}

impl fmt::Display for VcpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `SEV_FEATURES` of the VMSA (AMD, "APM Volume 2" (24593), table B-4).
///
/// Which bits are set is the host kernel's and QEMU's choice. Linux since 6.11 sets bit 0 for an SNP guest and else what
/// QEMU asks for in KVM_SEV_INIT2 (`__sev_guest_init` of `arch/x86/kvm/svm/sev.c`). QEMU 11 asks for nothing more unless it
/// starts the guest from an IGVM file: its `sev-snp-guest` has neither `debug-swap` (0x20) nor `secure-tsc` (0x200). Kernels
/// with SNP patches from before 6.11 set 0x20 by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestFeatures(u64);

impl GuestFeatures {
    /// SNP and nothing else.
    pub const SNP: Self = Self(1);

    /// Checks that the features are an SNP guest's.
    ///
    /// # Errors
    /// [`NoSnpFeature`] without bit 0.
    pub const fn new(bits: u64) -> Result<Self, NoSnpFeature> {
        if bits & 1 == 1 { Ok(Self(bits)) } else { Err(NoSnpFeature) }
    }

    /// The field's value.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl Default for GuestFeatures {
    fn default() -> Self {
        Self::SNP
    }
}

/// Features without the one that makes a guest an SNP guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bit 0 of the guest features must be set: it makes the guest an SNP guest")]
pub struct NoSnpFeature;

/// What the launch digest depends on besides the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// Number of vCPUs that the guest starts with.
    pub vcpus: VcpuCount,
    /// Signature of the CPU model.
    pub cpu: CpuSignature,
    /// Features in the VMSA.
    pub features: GuestFeatures,
    /// Hashes of what QEMU was given with `-kernel`, if anything.
    pub kernel: Option<KernelHashes>,
}

/// Why there is no launch digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnpError {
    /// The firmware cannot be read.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// The firmware is not for SNP.
    #[error("the firmware has no SEV metadata; SNP needs a build for it, such as Debian's OVMF.amdsev.fd")]
    NotForSnp,
    /// There is a kernel, and the firmware has no place for its hash.
    #[error(
        "the firmware takes no kernel hashes, so the kernel would not be measured; use an AmdSev build of OVMF"
    )]
    NoKernelHashes,
    /// The firmware does not say where vCPUs start.
    #[error("the firmware's table has no reset block, so the start of further vCPUs is not known")]
    NoResetBlock,
}

/// The chain's value after the firmware and before anything else.
///
/// It is the expensive part and the same for every guest with that firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirmwareDigest(Sha384Digest);

impl FirmwareDigest {
    /// Measures the pages of `firmware`.
    pub fn of(firmware: &Firmware<'_>) -> Self {
        let mut chain = PageChain::default();
        chain.normal(firmware.base(), firmware.image());
        Self(chain.finish())
    }

    /// A value that was computed before.
    pub const fn from_digest(digest: Sha384Digest) -> Self {
        Self(digest)
    }

    /// The value.
    pub const fn digest(self) -> Sha384Digest {
        self.0
    }
}

/// The launch digest of `guest` with `firmware`.
///
/// # Errors
/// [`SnpError`] for a firmware that is malformed, not for SNP, or cannot measure the guest's kernel.
pub fn launch_digest(firmware: &Firmware<'_>, guest: &Guest) -> Result<LaunchDigest, SnpError> {
    let metadata = firmware.sev()?.ok_or(SnpError::NotForSnp)?;
    launch_digest_after(FirmwareDigest::of(firmware), &metadata, guest)
}

/// Like [`launch_digest`], from the firmware's digest and its metadata.
///
/// # Errors
/// As [`launch_digest`].
pub fn launch_digest_after(
    firmware: FirmwareDigest,
    metadata: &SevMetadata,
    guest: &Guest,
) -> Result<LaunchDigest, SnpError> {
    let reset_eip = metadata.reset_eip().ok_or(SnpError::NoResetBlock)?;
    let table = metadata.kernel_hashes();
    let hashes_page = match (guest.kernel, table) {
        (Some(hashes), Some(table)) => Some(hashes.page(table.offset)),
        (Some(_), None) => return Err(SnpError::NoKernelHashes),
        (None, _) => None,
    };

    let mut chain = PageChain::after(firmware.0);
    for section in metadata.sections() {
        let at = section.range.start();
        match (section.kind, &hashes_page) {
            (SevSectionKind::Secrets, _) => chain.secrets(at),
            (SevSectionKind::Cpuid, _) => chain.cpuid(at),
            (SevSectionKind::KernelHashes, Some(page)) => chain.normal(at, page),
            (SevSectionKind::KernelHashes, None)
            | (SevSectionKind::Memory | SevSectionKind::CallingArea, _) => {
                zeros(&mut chain, section.range);
            }
        }
    }
    chain.vmsa(&vmsa::page(vmsa::BOOT_EIP, guest.cpu, guest.features), 1);
    chain.vmsa(&vmsa::page(reset_eip, guest.cpu, guest.features), guest.vcpus.0 - 1);
    Ok(LaunchDigest(chain.finish()))
}

fn zeros(chain: &mut PageChain, range: PageRange) {
    range.pages().for_each(|at| chain.zero(at));
}

impl KernelHashes {
    /// Hashes what QEMU is given with `-kernel`, `-initrd` and `-append`.
    pub fn new(kernel: &[u8], initrd: Option<&[u8]>, cmdline: Cmdline<'_>) -> Self {
        hashes::of(kernel, initrd.unwrap_or_default(), cmdline)
    }
}
