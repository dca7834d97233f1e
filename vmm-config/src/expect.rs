//! What the CPU's report about a VM will say, from the VM's description and the files that it names.
//!
//! `coffer measure --pod` and the shim both ask here, so they cannot disagree about a pod.

use measurement::ovmf::Firmware;
use measurement::snp::id_block::{IdBlockError, SignedIdBlock};
use measurement::snp::{
    Guest, GuestFeatures, KernelHashes, LaunchDigest, SnpError, VcpuCount, launch_digest,
};
use measurement::tdx::{
    FwCfgFiles, InitrdOption, Mrtd, PageOrder, PeError, Rtmr, Rtmr0Error, TdxError, mrtd, rtmr0, rtmr1, rtmr2,
};
use measurement::{Cmdline, CmdlineError};

use crate::qemu::ConfidentialGuest;
use crate::spec::VmSpec;

/// The measurements of a confidential VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// A TDX trust domain. RTMR0 is not among them: it covers the memory map and the ACPI tables ([`platform`]).
    Tdx {
        /// Firmware.
        mrtd: Mrtd,
        /// Kernel.
        rtmr1: Rtmr,
        /// Command line.
        rtmr2: Rtmr,
    },
    /// A SEV-SNP guest.
    Snp {
        /// Firmware, kernel, command line, vCPUs and CPU model.
        launch_digest: LaunchDigest,
    },
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum ExpectError {
    /// The firmware does not make a TDX measurement.
    #[error(transparent)]
    Tdx(#[from] TdxError),
    /// The firmware or the kernel does not make a SEV-SNP measurement.
    #[error(transparent)]
    Snp(#[from] SnpError),
    /// The kernel is none that the firmware would start.
    #[error("the kernel cannot be measured")]
    Kernel(#[from] PeError),
    /// The command line is none that every boot path passes on.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// No vCPU, or a CPU model without a known signature.
    #[error("the VM's CPUs cannot be measured")]
    Cpu,
}

/// The measurements of `spec` with these contents of its firmware and kernel; `None` for a plain VM.
///
/// # Errors
/// [`ExpectError`]: then the VM would not start either, or start unmeasured.
pub fn expectation(
    spec: &VmSpec,
    firmware: &[u8],
    kernel: &[u8],
) -> Result<Option<Expectation>, ExpectError> {
    let line = spec.kernel.cmdline.to_string();
    let cmdline = Cmdline::new(&line)?;
    let parse = || Firmware::parse(firmware);
    match &spec.confidential {
        None => Ok(None),
        Some(ConfidentialGuest::Tdx(_)) => Ok(Some(Expectation::Tdx {
            mrtd: mrtd(&parse().map_err(TdxError::from)?, PageOrder::SinglePass)?,
            rtmr1: rtmr1(kernel)?.value(),
            rtmr2: rtmr2(cmdline, None, InitrdOption::default()).value(),
        })),
        Some(ConfidentialGuest::Snp(guest)) => {
            let guest = Guest {
                vcpus: VcpuCount::new(spec.vcpus().get().into()).map_err(|_| ExpectError::Cpu)?,
                cpu: guest.cpu.signature().ok_or(ExpectError::Cpu)?,
                // Nothing on the command line asks for more, and QEMU 11 could not be asked (`GuestFeatures`).
                features: GuestFeatures::SNP,
                kernel: Some(KernelHashes::new(kernel, None, cmdline)),
            };
            let launch_digest = launch_digest(&parse().map_err(SnpError::from)?, &guest)?;
            Ok(Some(Expectation::Snp { launch_digest }))
        }
    }
}

/// RTMR0 of `spec`, a trust domain, with these contents of its firmware and of QEMU's ACPI files.
///
/// # Errors
/// [`Rtmr0Error`]: the firmware is of another kind, or the files are incomplete.
pub fn platform(spec: &VmSpec, firmware: &[u8], files: &FwCfgFiles) -> Result<Rtmr, Rtmr0Error> {
    Ok(rtmr0(&Firmware::parse(firmware)?, spec.memory().size().bytes(), files)?.value())
}

impl VmSpec {
    /// Gives a SEV-SNP guest its ID block, after checking the block and its signatures as the processor would.
    /// Other VMs have none and stay as they are.
    ///
    /// # Errors
    /// [`IdBlockError`]: wrong lengths, wrong signatures, another launch digest, another policy.
    pub fn with_id_block(
        mut self,
        block: &[u8],
        auth: &[u8],
        expected: LaunchDigest,
    ) -> Result<Self, IdBlockError> {
        if let Some(ConfidentialGuest::Snp(guest)) = &mut self.confidential {
            let signed = SignedIdBlock::verify(block, auth, expected)?;
            let (block, own) = (signed.block().policy.bits(), guest.policy.bits());
            if block != own {
                return Err(IdBlockError::OtherPolicy { block, guest: own });
            }
            guest.id_block = Some(signed);
        }
        Ok(self)
    }
}
